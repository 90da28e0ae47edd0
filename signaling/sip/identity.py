"""What an INVITE says of who calls, and how the call came here: text of the peer's, proved by nobody.

Diversion (RFC 5806), History-Info (RFC 7044), P-Asserted-Identity (RFC 3325), Remote-Party-ID (a draft that lives on)
and Identity (RFC 8224), which is kept as it came and not checked.
"""

from __future__ import annotations

from signaling.sip.grammar import clean
from signaling.sip.message import Request

SHOWN = {
    **dict.fromkeys(("Call-ID", "Subject", "User-Agent"), 200),
    **dict.fromkeys(("P-Asserted-Identity", "P-Preferred-Identity", "Remote-Party-ID", "Privacy"), 400),
    **dict.fromkeys(("Diversion", "History-Info"), 1000),
    "Identity": 2000,
}
"""The header fields that are kept, and how many characters of each. Where one comes several times, all in order."""


def claims(request: Request) -> dict[str, str]:
    """Those that are there: printable, in one line, and not longer than SHOWN says."""
    found = {name: clean(", ".join(request.headers.getlist(name)), limit) for name, limit in SHOWN.items()}
    return {name: text for name, text in found.items() if text}
