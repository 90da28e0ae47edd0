"""Digits in INFO requests, as some phones send them: application/dtmf-relay and application/dtmf."""

from __future__ import annotations

from signaling.sip.message import Request

KINDS = ("application/dtmf-relay", "application/dtmf")

_KEYS = "0123456789*#ABCD"
_NUMBERED = {str(10 + at): key for at, key in enumerate("*#ABCD")}
"""An event may be named by its number (RFC 4733, table 3)."""


def digit(kind: str, body: bytes) -> str:
    """The key in an INFO of one of the KINDS, "" where there is none."""
    text = body.decode(errors="replace").strip().upper()
    if kind == "application/dtmf-relay":
        lines = (line.partition("=") for line in text.splitlines())
        text = next((value.strip() for name, _, value in lines if name.strip() == "SIGNAL"), "")
    text = _NUMBERED.get(text, text)
    return text if len(text) == 1 and text in _KEYS else ""


def read(request: Request) -> tuple[int, str, str]:
    """(code, phrase, key): how an INFO is answered, and the key in it, "" where there is none (RFC 6086, s. 4.2.2)."""
    if not request.body:
        return 200, "", ""
    if request.content_type not in KINDS:
        return 415, "", ""
    if key := digit(request.content_type, request.body):
        return 200, "", key
    return 400, "Bad Request (no digit)", ""
