"""A registrar for phones of our own (RFC 3261, section 10.3): where each user is reached, kept in memory.

Pure: a REGISTER and a time in, the answer out. Who registers has shown who they are by digest, and only for their own
number: the user part of To is their user name. A request changes everything that it asks for, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from signaling.sip.grammar import parse_address, parse_uri, split, split_address
from signaling.sip.guard import Guard
from signaling.sip.message import Request
from signaling.sip.transaction import Flow

MIN_EXPIRES, MAX_EXPIRES, DEFAULT_EXPIRES = 60, 3600, 3600
"""Seconds that a registration lasts: shorter is refused (423), longer cut, unsaid the default."""

MAX_CONTACTS = 5
"""Contacts for each user. Of more, the one goes that was refreshed longest ago: phones come back with new ports."""

_Q = re.compile(r"[01](\.[0-9]{1,3})?")

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Binding:
    """Where a user is reached: by the `flow` that the REGISTER came by, never by what `uri` says; it is only echoed.

    `q` is how much that phone is preferred, as it was written; `cseq` orders what one phone (`call_id`) says.
    """

    uri: str
    flow: Flow
    call_id: str
    cseq: int
    expires_at: float
    q: str = ""


@dataclass(frozen=True)
class Answer:
    """What a REGISTER is answered."""

    code: int
    fields: Fields = ()
    phrase: str = ""
    failed: bool = False
    """Whether the digest was wrong."""


class _Refused(Exception):
    """Unwinds to where the answer is given."""

    def __init__(self, code: int, why: str, *fields: tuple[str, str]) -> None:
        super().__init__(why)
        self.answer = Answer(code, fields, why)


class Registrar:
    """All bindings of all users that `guard` knows: at most MAX_CONTACTS each, so their number is bounded."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self._bindings: dict[str, dict[str, Binding]] = {}

    def __len__(self) -> int:
        """How many bindings are kept, those among them that are over."""
        return sum(map(len, self._bindings.values()))

    def bindings(self, user: str, now: float) -> tuple[Binding, ...]:
        """Where a user is reached, the place that was refreshed last first."""
        return tuple(reversed(self._current(user, now).values()))

    def uses(self, flow: Flow, now: float) -> bool:
        """Whether somebody is reached by that flow."""
        bindings = (binding for kept in self._bindings.values() for binding in kept.values())
        return any(binding.flow == flow and binding.expires_at > now for binding in bindings)

    def register(self, request: Request, flow: Flow, now: float) -> Answer:
        """A REGISTER that came by `flow`. Never raises for what a phone says."""
        outcome = self.guard.check(request, flow.remote[0], now)
        if not outcome.user:
            challenge = self.guard.challenge(flow.remote[0], now, outcome.stale)
            return Answer(401, challenge, failed=outcome.failed)
        if request.to.uri.user != outcome.user:
            return Answer(403, phrase="Forbidden (not your own number)")
        try:
            kept = self._changed(outcome.user, request, flow, now)
        except _Refused as refused:
            return refused.answer
        self._bindings[outcome.user] = kept
        return Answer(200, tuple(("Contact", _said(binding, now)) for binding in reversed(kept.values())))

    def forget(self, now: float) -> None:
        """Drop what is over; the rest of the registrar does so by itself for each user that it is asked about."""
        for user in list(self._bindings):
            self._bindings[user] = self._current(user, now)
            if not self._bindings[user]:
                del self._bindings[user]

    def _current(self, user: str, now: float) -> dict[str, Binding]:
        bindings = self._bindings.get(user, {})
        return {place: binding for place, binding in bindings.items() if binding.expires_at > now}

    def _changed(self, user: str, request: Request, flow: Flow, now: float) -> dict[str, Binding]:
        """The user's bindings, oldest first, as they are after this request. Raises _Refused."""
        kept = self._current(user, now)
        contacts = request.headers.values("Contact")
        if "*" in contacts:
            if len(contacts) > 1 or request.headers.get("Expires") != "0":
                raise _Refused(400, "Bad Request (Contact: * is for Expires: 0 alone)")
            contacts = tuple(f"<{binding.uri}>;expires=0" for binding in kept.values())
        if len(contacts) > MAX_CONTACTS:
            raise _Refused(403, f"Forbidden (more than {MAX_CONTACTS} contacts)")
        for value in contacts:
            self._change(kept, value, request, flow, now)
        for place in list(kept)[:-MAX_CONTACTS]:
            del kept[place]
        return kept

    def _change(self, kept: dict[str, Binding], value: str, request: Request, flow: Flow, now: float) -> None:
        """Section 10.3, item 7, for one Contact."""
        place, uri, parameters = _contact(value)
        expires = _expires(parameters.get("expires") or request.headers.get("Expires"))
        if 0 < expires < MIN_EXPIRES:
            raise _Refused(423, "Interval Too Brief", ("Min-Expires", str(MIN_EXPIRES)))
        known = kept.pop(place, None)
        cseq = request.cseq[0]
        if known is not None and known.call_id == request.call_id and cseq <= known.cseq:
            raise _Refused(500, "Server Internal Error (an older CSeq)")
        if expires:
            q = parameters.get("q") or ""
            q = q if _Q.fullmatch(q) else ""
            kept[place] = Binding(uri, flow, request.call_id, cseq, now + min(expires, MAX_EXPIRES), q)


def _contact(value: str) -> tuple[str, str, Mapping[str, str | None]]:
    """(what two spellings of a URI share, the URI as it was written, its parameters by name). Raises _Refused."""
    try:
        address, uri = parse_address(value), split_address(value)[1]
    except ValueError:
        raise _Refused(400, "Bad Request (Contact cannot be read)") from None
    if "?" in uri and "<" not in value:  # section 20: nobody could tell whose headers these are
        raise _Refused(400, "Bad Request (Contact with ? outside of <>)")
    if address.uri.scheme not in ("sip", "sips"):
        raise _Refused(400, "Bad Request (Contact is no SIP URI)")
    parsed = parse_uri(uri)
    port = parsed.port or (5061 if parsed.scheme == "sips" else 5060)
    transport = "".join(part.lower() for part in split(uri, ";")[1:] if part.lower().startswith("transport="))
    return f"{parsed.scheme}:{parsed.user}@{parsed.host.lower()}:{port};{transport}", uri, address.parameters


def _expires(text: str) -> int:
    """A number of seconds; what is none counts as unsaid (section 20.10), and a huge one is cut anyway."""
    if not (text.isascii() and text.isdecimal()):
        return DEFAULT_EXPIRES
    digits = text.lstrip("0") or "0"
    return int(digits) if len(digits) < 10 else MAX_EXPIRES


def _said(binding: Binding, now: float) -> str:
    """A Contact of the answer; at least a second is left, or it would not be there."""
    q = f";q={binding.q}" if binding.q else ""
    return f"<{binding.uri}>{q};expires={max(1, int(binding.expires_at - now))}"
