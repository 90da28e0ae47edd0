"""Keys for SRTP in the session description: the a=crypto attribute of SDES (RFC 4568, RFC 7714, section 14). Pure.

A key is in no repr and in no message of an error. Only `attribute` tells it, to the far end.
"""

from __future__ import annotations

import base64
import re
import secrets
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from media.leg import LegError

Policy: TypeAlias = Literal["off", "accept", "demand", "dtls"]
"""Which calls are taken: plain ones alone, both as they are offered, encrypted ones alone."""

SUITES = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_256_GCM": 44,
}
"""What we speak, and the bytes of its master key and salt, which are one value here (RFC 4568, section 6.1)."""

OFFERED = ("AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32")
"""The same, best first."""

PARAMETERS = ("KDR", "UNENCRYPTED_SRTP", "UNENCRYPTED_SRTCP", "UNAUTHENTICATED_SRTP", "FEC_ORDER", "FEC_KEY")
"""Session parameters that change what a packet is (RFC 4568, section 6.3); we do none of them."""

_SUITE = re.compile(r"(?=.{3,40}\Z)[A-Z0-9]+(?:_[A-Z0-9]+)+", re.ASCII)
_LIFETIME = re.compile(r"2\^\d{1,2}|\d{1,15}", re.ASCII)
_TAG = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Crypto:
    """One party's attribute: how, and under which key, it sends. The answer repeats the `tag` of what it chose."""

    tag: int
    suite: str
    key: bytes = field(repr=False)  # master key, then master salt

    @classmethod
    def generate(cls, tag: int, suite: str) -> Crypto:
        """A new key of ours."""
        return cls(tag, suite, secrets.token_bytes(SUITES[suite]))

    @classmethod
    def parse(cls, value: str) -> Crypto:
        """Read what follows `a=crypto:`. Raises LegError for what is wrong, and for what asks for more than we do."""
        words = value.split()
        if len(words) < 3 or not _TAG.fullmatch(words[0]):
            raise LegError("a=crypto is not a number, a suite and inline:KEY")
        tag, suite, key, *parameters = words
        # what is neither a suite nor a parameter may be a key in the wrong place: it is not said again
        name = f"a=crypto:{tag} {suite if _SUITE.fullmatch(suite) else '(no name of a suite)'}"
        if suite not in SUITES:
            raise LegError(f"{name} is not a suite that this agent speaks: {', '.join(OFFERED)}")
        for parameter in parameters:
            # WSH is a hint for the replay window, a dash marks what may be ignored (RFC 4568, sections 6.3.7, 6.3.8).
            if not parameter.startswith(("WSH=", "-")):
                asked = parameter.partition("=")[0]
                asked = asked if asked in PARAMETERS else "something of no name"
                raise LegError(f"{name} asks for {asked}, which this agent does not do")
        return cls(int(tag), suite, _key(key, SUITES[suite], name))

    def attribute(self) -> str:
        """What follows `a=crypto:`, the key in clear."""
        return f"{self.tag} {self.suite} inline:{base64.b64encode(self.key).decode()}"


def _key(text: str, size: int, name: str) -> bytes:
    """`inline:KEY`, with a lifetime or without: no call is long enough for one to end (RFC 4568, section 6.1)."""
    method, _, rest = text.partition(":")
    if method.lower() != "inline":
        raise LegError(f"{name} has its key not inline")
    encoded, *extras = rest.split("|")
    if ";" in rest or len(extras) > 1 or (extras and not _LIFETIME.fullmatch(extras[0])):
        raise LegError(f"{name} has a master key identifier or several keys, which this agent does not speak")
    padding = "=" * (-len(encoded) % 4)  # which rtpengine leaves out: section 6.1 can be read like that
    try:
        key = base64.b64decode(encoded + padding, validate=True)
    except ValueError:
        raise LegError(f"{name} has a key that is not base64") from None
    if len(key) != size:
        raise LegError(f"{name} has a key and salt of {len(key)} bytes, not {size}")
    return key
