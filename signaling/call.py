"""The signaling pillar's nouns: a call that was offered to us or that we make, and what can be done with it.

Standard library only. Signaling carries session descriptions as text and never reads them. `SignalingError` is the root
of what signaling raises on purpose.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, TypeAlias


class SignalingError(Exception):
    """The call cannot be carried on as asked."""


class NotAllowed(SignalingError):
    """Our own policy is against a call of ours; `setting` is the path to the setting that says so ("*": any name)."""

    def __init__(self, why: str, setting: tuple[str, ...]) -> None:
        super().__init__(why)
        self.setting = setting


class Rejection(Enum):
    """Why a call is not taken: a reason, not a code. SIP says 486, 503, 404, 488; HTTP has its own."""

    BUSY = "busy"
    OVERLOADED = "overloaded"
    NOT_FOUND = "not found"
    NOT_ACCEPTABLE = "not acceptable"


class Outcome(Enum):
    """Why nobody took a call of ours."""

    BUSY = "busy"
    NO_ANSWER = "no answer"
    DECLINED = "declined"
    NOT_FOUND = "not found"
    FORBIDDEN = "forbidden"
    NOT_ACCEPTABLE = "not acceptable"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CallOffer:
    """Somebody wants to talk. All text in it comes from the peer: display it, never trust it.

    In a call that we make, `caller` is who we are there, and `source` where the call goes to.

    `wanted` is a persona that is asked for by name; `room` a room, and `pin` what opens it.

    `media` is the peer's session description, or None when we are to make the offer (RFC 3261, section 13.2.1).
    `source` is the address the request came from, as (host, port); `also` are other hosts that a call of ours may turn
    out to be with.
    """

    id: str
    kind: str
    caller: str
    callee: str
    source: tuple[str, int]
    media: str | None = field(default=None, repr=False)  # may have keys in it (RFC 4568)
    trunk: str = ""
    wanted: str = ""
    room: str = ""
    pin: str = field(default="", repr=False)
    also: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallEnded:
    """How a call ended: who ended it and why, in words a person understands.

    `by` is "caller" or "callee", as the far end is one or the other, "agent" or "network". `outcome` is there where a
    call of ours was never answered.
    """

    by: str
    reason: str
    outcome: Outcome | None = None


Renegotiate: TypeAlias = Callable[[str | None], Awaitable[str | Rejection]]
"""Called with the peer's new offer, or None when the peer asks for ours; answers with a description or a Rejection."""

Answered: TypeAlias = Callable[[str], Awaitable[None]]
"""Called with the peer's answer to an offer that we made."""


Referred: TypeAlias = Callable[[str], Awaitable[None]]
"""Called with whom the far end wants us to call in its place; done once somebody there is. Raises SignalingError."""


class Call(Protocol):
    """One call, from its offer to its end.

    No verb raises because the peer has gone meanwhile, but for those that ask something of it.
    """

    renegotiate: Renegotiate | None
    """Set by the session. Unset, raising, or slower than 5 s: the change is refused, the old session stands."""

    answered: Answered | None
    """Set by the session. Raising ends the call."""

    referred: Referred | None
    """Set by the session where it makes calls for others. Unset: the far end is refused."""

    @property
    def offer(self) -> CallOffer:
        """What was offered."""

    async def ring(self, early_media: str | None = None) -> None:
        """Tell the caller that we are about to answer."""

    async def accept(self, media: str) -> None:
        """Take the call; `media` is our answer, or our offer where the peer left it to us."""

    async def reject(self, rejection: Rejection) -> None:
        """Decline the call. Without effect once it is accepted or over."""

    async def propose(self, media: str) -> str:
        """Offer a change of the session, as for hold; gives the answer.

        Raises SignalingError where the far end refuses it: the old session stands.
        """

    async def transfer(self, target: str | Call) -> None:
        """Have the far end call `target`, or take over another call of ours; returns when it is there, and leaves us.

        Raises SignalingError where it refuses, or reaches nobody: the call goes on.
        """

    async def hang_up(self, reason: str = "") -> None:
        """End the call in whatever state it is. Idempotent; without effect once it is over."""

    def digits(self) -> AsyncIterator[str]:
        """Digits that came as signaling, not as media (SIP INFO)."""

    async def wait_ended(self) -> CallEnded:
        """Wait for the end. Safe to await many times."""


class OutgoingCall(Call, Protocol):
    """A call that we make. `ring`, `accept` and `reject` are the far end's to do, and have no effect.

    `answered` is called with each description that the far end sends for our offer: of early media, and at last of the
    answer itself, be it the same. Whatever keeps the call from being answered is its end.
    """

    async def invite(self, media: str | None) -> None:
        """Let it ring there; `media` is our offer, or None to ask for theirs, of which `renegotiate` is told."""

    async def wait_ringing(self) -> None:
        """Wait until it rings there, or is answered. It may never do so: see `wait_ended`."""

    async def wait_early(self) -> None:
        """Wait until it sends sound before it is answered, and `answered` has dealt with its description; or for ever.

        It is what a network says to its own: tones, and announcements of why a call cannot be put through.
        """

    async def wait_answered(self) -> None:
        """Wait until the far end takes it, and `answered` has dealt with its description."""


class CallSource(Protocol):
    """Where calls come from, for as long as it is entered."""

    available: Callable[[], bool]
    """Set by who takes the calls; while it says no, new ones and keep-alive probes are answered "unavailable"."""

    def calls(self) -> AsyncIterator[Call]:
        """Each call as it is offered."""


class Dialer(Protocol):
    """Makes calls."""

    async def dial(self, target: str, trunk: str = "") -> OutgoingCall:
        """Find the way to a number or address, which the far end does not notice; by that trunk, if one is named.

        Raises NotAllowed, or SignalingError where no way leads there.
        """
