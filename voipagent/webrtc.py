"""Browsers and other WebRTC clients: settings of who may call, and how their media gets through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from pydantic import Field, SecretStr, model_validator

from media.iceservers import IceServer
from media.leg import Leg, LegError, NoPort
from media.published import PublishedLeg
from media.sdp import parse
from media.webrtc import OtherIce, Ways, WebRtcLeg
from signaling.call import CallOffer
from signaling.front import Candidates
from signaling.problem import RETRY_S, Access, Problem, is_loopback
from signaling.whep import Listener
from voipagent.http import HttpSettings
from voipagent.kinds import Bearer, Section

LINK_S = 3600
"""Seconds for which a far end is given a relay's password, where that is made for it."""


class WebRtcSettings(Section):
    """Who may call from a browser, and how."""

    token: Bearer = Field(
        default=SecretStr(""),
        description="bearer token for calls from browsers and WHIP clients; that of HTTP works too, but can do more",
    )
    open: bool = Field(
        default=False,
        description="true: no token is asked for, wherever HTTP listens; on loopback, by no proxy, none is anyway",
    )
    origins: tuple[str, ...] = Field(
        default=(), description="web sites whose pages may call, such as https://www.example.com; * is any; empty: ours"
    )
    personas: tuple[str, ...] = Field(
        default=(), description="personas that a caller may ask for by name; * is any; empty: the default one answers"
    )
    ice_servers: tuple[str, ...] = Field(
        default=(),
        description="STUN and TURN servers, such as stun:192.0.2.7:3478, turn:turn.example.com?transport=udp; "
        "browsers are told of them",
    )
    turn_username: str = Field(default="", description="user for TURN")
    turn_password: SecretStr = Field(default=SecretStr(""), description="password for TURN")
    turn_secret: SecretStr = Field(
        default=SecretStr(""),
        description="instead: the secret shared with TURN (coturn's static-auth-secret), from which passwords are made",
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        _ = self.servers
        if wrong := [origin for origin in self.origins if origin != "*" and "://" not in origin]:
            raise ValueError(f"{wrong[0]!r} is no origin, such as https://www.example.com")
        return self

    @property
    def servers(self) -> tuple[IceServer, ...]:
        """Those that there are. Raises ValueError."""
        password, secret = self.turn_password.get_secret_value(), self.turn_secret.get_secret_value()
        return tuple(IceServer.parse(uri, self.turn_username, password, secret) for uri in self.ice_servers)

    def links(self) -> list[str]:
        """What a far end is told of them."""
        until = int(time.time()) + LINK_S
        return [server.link(until) for server in self.servers]

    def access(self, http: HttpSettings) -> Access:
        """Who may call. Where we listen on loopback it is who is on this machine."""
        tokens = [secret.get_secret_value() for secret in (self.token, http.token)]
        own = self.token.get_secret_value() != ""
        return Access(
            tuple(filter(None, tokens)),
            self.open,
            not own and is_loopback(http.host),
            self.origins,
            self.personas,
            "calls from browsers are for whoever has the token, and there is none; VOIPAGENT_WEBRTC__TOKEN sets it, "
            "VOIPAGENT_WEBRTC__OPEN=true lets anybody call",
        )


def unreadable(sdp: str) -> str:
    """What is wrong with a text that is no session description; "" for nothing."""
    try:
        parse(sdp)
    except LegError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class WebLegs:
    """Opens the legs of calls by HTTP, and sees to it that what comes for them by HTTP gets there."""

    open_leg: Callable[[str, Ways], WebRtcLeg]
    take_candidates: Callable[[str, Candidates], None]
    publish: Callable[[str, Callable[[str], Listener]], Callable[[], None]]

    def __call__(self, offer: CallOffer) -> Leg:
        """The leg of a call."""
        if offer.callee != "whip":
            leg = self.open_leg(offer.source[0], "both")
            self.take_candidates(offer.id, _candidates_of(leg))
            return leg
        published = PublishedLeg(self.open_leg(offer.source[0], "in"))
        self.take_candidates(offer.id, _candidates_of(published))
        published.when_closed = self.publish(offer.id, lambda host: _Audience(published, self.open_leg(host, "out")))
        return published


class _Audience:
    """One who listens."""

    def __init__(self, published: PublishedLeg, leg: WebRtcLeg) -> None:
        self._published, self._leg = published, leg

    @property
    def is_over(self) -> bool:
        """Whether it is closed, or lost."""
        return self._leg not in self._published.listeners

    async def answer(self, offer: str) -> str:
        """Have it listen. Raises Problem."""
        try:
            return await self._published.listen(self._leg, offer)
        except NoPort as error:
            raise Problem(503, str(error), {"Retry-After": str(RETRY_S)}) from None
        except LegError as error:
            raise Problem(406, str(error)) from None

    async def add_candidates(self, fragment: str) -> None:
        """More candidates. Raises Problem."""
        await _candidates_of(self._leg)(fragment)

    async def close(self) -> None:
        """Listen no longer. Idempotent."""
        await self._published.leave(self._leg)


def _candidates_of(leg: WebRtcLeg | PublishedLeg) -> Candidates:
    """Takes candidates for a leg, and says what is wrong with them as HTTP does."""

    async def take(fragment: str) -> None:
        try:
            await leg.add_candidates(fragment)
        except OtherIce as error:
            raise Problem(422, f"{error}: POST it") from None
        except LegError as error:
            raise Problem(400, str(error)) from None

    return take
