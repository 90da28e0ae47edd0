"""Messages in the log, with what nobody may read there masked."""

from __future__ import annotations

import logging
import re
from textwrap import indent

from signaling.sip.transaction import Flow

_KEY = re.compile(rb"(inline:[ \t]*)[^|\s;]+", re.IGNORECASE)  # RFC 4568, section 9.1: a line may have several
_DIGEST = re.compile(rb'(\bresponse ?= ?"?)[0-9A-Fa-f]{32,64}')
"""Passwords can be guessed from it at leisure."""
_CONTROL = re.compile(r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def trace(logger: logging.Logger, direction: str, data: bytes, flow: Flow) -> None:
    """A message in the log, the keys in its SDP masked, and what was made with a password.

    What a peer says can neither look like a line of ours nor steer a terminal.
    """
    if logger.isEnabledFor(logging.DEBUG):
        text = _DIGEST.sub(rb"\1***", _KEY.sub(rb"\1***", data)).decode(errors="replace")
        text = indent(_CONTROL.sub("?", text), "  ")
        logger.debug("%s %s %s:%d\n%s", direction, flow.protocol, *flow.remote, text)
