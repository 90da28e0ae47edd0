"""Why a call ended, in a header field (RFC 3326)."""

from __future__ import annotations

from signaling.sip.grammar import clean, split
from signaling.sip.message import Message


def reason_of(message: Message) -> str:
    """What a message says, fit to be shown; "" where it says nothing."""
    for value in message.headers.values("Reason"):
        for part in split(value, ";"):
            name, _, text = part.partition("=")
            if name.strip(" ").lower() == "text":
                return clean(text.strip(" ").strip('"'))
    return ""


def reason_field(text: str) -> tuple[str, str]:
    """The field that says it."""
    quotable = clean(text, 100).replace("\\", "").replace('"', "'")
    return "Reason", f'SIP;text="{quotable}"'
