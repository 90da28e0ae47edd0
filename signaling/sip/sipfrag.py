"""A status line as a body (message/sipfrag, RFC 3420), which tells how far a transfer got."""

from __future__ import annotations

import re

from signaling.sip.grammar import clean
from signaling.sip.message import Request

SIPFRAG = "message/sipfrag;version=2.0"

_STATUS = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: ([^\r\n]*))?", re.IGNORECASE)


def status_of(request: Request) -> tuple[int, str] | None:
    """(code, phrase) of the status line in a body, fit to be shown; None where there is none."""
    if request.content_type != "message/sipfrag":
        return None
    match = _STATUS.match(request.body.decode(errors="replace").lstrip("\r\n"))
    return (int(match[1]), clean(match[2] or "", 100)) if match else None


def status_line(code: int, phrase: str) -> str:
    """A body that says so."""
    return f"SIP/2.0 {code} {phrase}\r\n"
