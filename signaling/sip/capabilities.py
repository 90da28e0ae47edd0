"""What we can do, as requests and responses tell it (RFC 3261, sections 11 and 20.5; option tags, section 19.2)."""

from __future__ import annotations

ALLOW = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, REFER, NOTIFY"
SUPPORTED = "timer, 100rel, replaces"
UNDERSTOOD = frozenset(SUPPORTED.split(", "))
"""What a peer may require of us."""
