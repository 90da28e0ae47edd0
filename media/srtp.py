"""Secure RTP (RFC 3711) by libsrtp: what leaves is protected, what comes is checked and made plain. Pure.

Keys are agreed elsewhere, as a `Crypto` for each direction. None of them: packets pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from pylibsrtp import Error, Policy, Session

from media.crypto import Crypto

OVERLAP_S = 32.0
"""For so long the key of before may still come in after a change: a lost answer is repeated for 64 times T1."""

TAIL_S = 0.5
"""For so long it may, once a packet came under the new one: what was overtaken on its way."""

_PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    "AEAD_AES_256_GCM": Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}


MOST_SOURCES = 64
"""More than a meeting has that is mixed for us."""


class SrtpError(Exception):
    """A packet that is not the far end's, or not for the first time. The message is a reason to count it under."""


def session(crypto: Crypto, ssrc_type: int) -> Session:
    """A cryptographic context for every source in one direction. It begins with a rollover counter of 0."""
    return Session(Policy(crypto.key, ssrc_type, srtp_profile=_PROFILES[crypto.suite]))


class Protector:
    """What we send. The same key goes on where it was: its packet indices must never come twice (section 9.1)."""

    def __init__(self) -> None:
        self.crypto: Crypto | None = None
        self.ready = True
        self._session: Session | None = None

    def wait(self) -> None:
        """A key is to come; nothing may leave until then."""
        self.crypto = self._session = None
        self.ready = False

    def adopt(self, crypto: Crypto | None) -> None:
        """Our attribute, as agreed now."""
        if not _same(crypto, self.crypto):
            self._session = session(crypto, Policy.SSRC_ANY_OUTBOUND) if crypto else None
        self.crypto, self.ready = crypto, True

    def rtp(self, data: bytes) -> bytes:
        """A packet as it is to leave."""
        return self._session.protect(data) if self._session else data

    def rtcp(self, data: bytes) -> bytes:
        """A report as it is to leave."""
        return self._session.protect_rtcp(data) if self._session else data


class Unprotector:
    """What the far end sends. After a change its key of before still counts for a while, so that nothing is lost.

    Of sources the MOST_SOURCES that were heard last are known: libsrtp forgets none by itself, and looks through all.
    """

    def __init__(self) -> None:
        self._crypto: Crypto | None = None
        self._session: Session | None = None
        self._sources: dict[int, None] = {}  # of the session, in the order in which they were heard
        self._before: Session | None = None
        self._until = 0.0  # the key of before counts
        self._waiting = False

    def wait(self, now: float) -> None:
        """A key is to come; nothing else is the far end's from now on, but what comes under the key of before."""
        self._before, self._until = self._session, now + OVERLAP_S
        self._crypto = self._session = None
        self._sources.clear()
        self._waiting = True

    def adopt(self, crypto: Crypto | None, now: float) -> None:
        """The far end's attribute, as agreed now. Only another key begins anew."""
        self._waiting = False
        if not _same(crypto, self._crypto):
            self._before, self._until = self._session, now + OVERLAP_S
            self._session = session(crypto, Policy.SSRC_ANY_INBOUND) if crypto else None
            self._sources.clear()
        self._crypto = crypto

    def rtp(self, data: bytes, now: float) -> bytes:
        """The packet within. Raises SrtpError."""
        return self._open(data, now, Session.unprotect, data[8:12])

    def rtcp(self, data: bytes, now: float) -> bytes:
        """The report within. Raises SrtpError."""
        return self._open(data, now, Session.unprotect_rtcp, data[4:8])

    def _open(self, data: bytes, now: float, unprotect: Callable[[Session, bytes], bytes], source: bytes) -> bytes:
        if now >= self._until:
            self._before = None
        if self._session is None:
            plain = self._open_before(data, unprotect)
            if self._waiting and not plain:
                raise SrtpError("SRTP before its key")
            return plain or data
        try:
            plain = unprotect(self._session, data)
        except (Error, ValueError) as error:  # ValueError: longer than any packet we take
            if plain := self._open_before(data, unprotect):
                return plain
            raise SrtpError(_reason(error)) from None
        self._until = min(self._until, now + TAIL_S)
        self._know(self._session, int.from_bytes(source, "big"))
        return plain

    def _know(self, session: Session, ssrc: int) -> None:
        self._sources.pop(ssrc, None)
        self._sources[ssrc] = None
        if len(self._sources) > MOST_SOURCES:
            oldest = next(iter(self._sources))
            del self._sources[oldest]
            session.remove_stream(oldest)

    def _open_before(self, data: bytes, unprotect: Callable[[Session, bytes], bytes]) -> bytes:
        """The packet within, if it came under the key of before; else nothing."""
        try:
            return unprotect(self._before, data) if self._before else b""
        except (Error, ValueError):
            return b""


def _same(one: Crypto | None, other: Crypto | None) -> bool:
    """Whether that is the same key for the same suite. The tag is only its name in one offer and answer."""
    return (one and (one.suite, one.key)) == (other and (other.suite, other.key))


def _reason(error: Exception) -> str:
    """As libsrtp words it: a replay is told before the authentication is even tried (section 3.3, steps 2 and 3)."""
    return "SRTP replayed" if str(error).startswith("replay check failed") else "SRTP not authentic"
