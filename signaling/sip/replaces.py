"""Which dialog a new call takes the place of (Replaces, RFC 3891)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from signaling.sip.dialog import Dialog, State
from signaling.sip.grammar import TOKEN, split
from signaling.sip.message import Request


@dataclass(frozen=True)
class Replaces:
    """A dialog as whoever is to give it up sees it: `to_tag` is its own tag there."""

    call_id: str
    to_tag: str
    from_tag: str
    early_only: bool = False

    @classmethod
    def of(cls, dialog: Dialog) -> Replaces:
        """Names a dialog of ours to its peer."""
        call_id, ours, theirs = dialog.id
        return cls(call_id, to_tag=theirs, from_tag=ours)

    @classmethod
    def parse(cls, value: str) -> Replaces:
        """Raises ValueError."""
        call_id, *parameters = split(value, ";") or [""]
        named = {name.strip(" ").lower(): text.strip(" ") for name, _, text in (p.partition("=") for p in parameters)}
        tags = named.get("to-tag", ""), named.get("from-tag", "")
        if not call_id or len(named) != len(parameters) or not all(map(TOKEN.fullmatch, tags)):
            raise ValueError("Replaces must name a Call-ID, one to-tag and one from-tag")
        return cls(call_id, *tags, early_only="early-only" in named)

    @property
    def id(self) -> tuple[str, str, str]:
        """The dialog's, for whoever is to give it up."""
        return self.call_id, self.to_tag, self.from_tag

    def __str__(self) -> str:
        early = ";early-only" if self.early_only else ""
        return f"{self.call_id};to-tag={self.to_tag};from-tag={self.from_tag}{early}"


def escaped(replaces: Replaces) -> str:
    """As it stands among the header fields of a URI (RFC 3261, section 19.1.2)."""
    return quote(str(replaces), safe="")


def replaces_of(request: Request) -> Replaces | None:
    """What an INVITE takes the place of; None for nothing. Raises ValueError."""
    values = request.headers.getlist("Replaces")
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("more than one Replaces")
    return Replaces.parse(values[0])


def refusal(named: Replaces, old: Dialog | None, host: str, trusted: Callable[[str], bool]) -> int:
    """How an INVITE from `host` that would take the place of `old` is refused (section 3); 0 where it may have it.

    Who knows a call by its tags may be anybody that heard them: it must come from the same host, or one we trust.
    """
    if old is None or old.state in (State.EARLY, State.PLACED):
        return 481
    if old.over or not (host == old.flow.remote[0] or trusted(host)):
        return 603
    return 486 if named.early_only else 0
