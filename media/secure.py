"""What makes a leg's packets safe, and plain again: SRTP, with keys from the description or from a handshake by DTLS.

A key by SDES is for both ports. By DTLS each port has its own, so reports that do not share the audio's port have a
handshake of theirs (RFC 5764, section 3).
"""

from __future__ import annotations

from media.crypto import Crypto
from media.dtls import DtlsError, Handshake, Identity
from media.latch import Address
from media.srtp import Protector, Unprotector
from media.stream import Stream

AGAIN_S = 0.1
"""The first flight is repeated so often until something comes back: it is often there before our answer, by which the
far end begins to listen, and OpenSSL would wait for a second."""

MAX_FAILURES = 5
"""Handshakes that may fail before the leg is given up: anybody can write a datagram that ends one."""


class Security:
    """Of one leg. `failure` says why no key will ever come; "" while one may. `failed` counts handshakes."""

    def __init__(self) -> None:
        self.failure = ""
        self.failed = 0
        self._protectors = (Protector(), Protector())  # by whether it is RTCP's own port
        self._unprotectors = (Unprotector(), Unprotector())
        self._handshakes: dict[bool, Handshake] = {}
        self._sources: dict[bool, Address] = {}
        self._hellos: dict[bool, tuple[list[bytes], float]] = {}  # with the time of the next
        self._identity: Identity | None = None
        self._own_port = False  # reports have one, and a key of their own

    def adopt(self, stream: Stream, ours: Crypto | None, identity: Identity | None, now: float) -> None:
        """As agreed now: `ours` is our key by SDES, `identity` who we are by DTLS. An agreement of before goes on."""
        if stream.dtls is None or identity is None:
            self._handshakes.clear()
            self._own_port = False
            self._protectors[0].adopt(ours)
            self._unprotectors[0].adopt(stream.crypto, now)
            return
        self._identity, self._own_port = identity, not stream.mux
        for rtcp in (False, True)[: 1 + self._own_port]:
            before = self._handshakes.get(rtcp)
            if before is None or before.dtls != stream.dtls:
                self._handshakes[rtcp] = Handshake(identity, stream.dtls)
                self._protectors[rtcp].wait()
                self._unprotectors[rtcp].wait(now)
                self._sources.pop(rtcp, None)
                self._hellos.pop(rtcp, None)

    def renew(self) -> None:
        """Another party is to shake hands, or the same from another place: nothing of before is of use to it."""
        self._handshakes.clear()
        self.failure, self.failed = "", 0

    @property
    def suite(self) -> str:
        """What is in use now, for the record: "none" for plain, "" while a handshake goes on."""
        crypto = self._protectors[0].crypto
        if not self._handshakes:
            return crypto.suite if crypto else "none"
        return f"DTLS {crypto.suite}" if crypto else ""

    @property
    def ready(self) -> bool:
        """Whether audio can be sent."""
        return self._protectors[0].ready

    # --- packets

    def rtp(self, data: bytes) -> bytes | None:
        """A packet as it is to leave; None while there is no key for it."""
        return self._protectors[0].rtp(data) if self.ready else None

    def rtcp(self, data: bytes) -> bytes | None:
        """A report as it is to leave; None while there is no key for it."""
        protector = self._protectors[self._own_port]
        return protector.rtcp(data) if protector.ready else None

    def open_rtp(self, data: bytes, now: float) -> bytes:
        """The packet within. Raises SrtpError."""
        return self._unprotectors[0].rtp(data, now)

    def open_rtcp(self, data: bytes, now: float) -> bytes:
        """The report within. Raises SrtpError."""
        return self._unprotectors[self._own_port].rtcp(data, now)

    # --- handshakes

    def expects(self, rtcp: bool) -> bool:
        """Whether DTLS belongs on that port."""
        return rtcp in self._handshakes

    def poll(self, now: float) -> list[tuple[bytes, bool, Address | None]]:
        """What is due: a datagram, whether it leaves by RTCP's port, and where the far end was last heard from."""
        due = []
        for rtcp, handshake in list(self._handshakes.items()):
            if not handshake.done:
                flight = self._step(rtcp, None, now) or self._again(rtcp, now)
                if flight and handshake.dtls.client and rtcp not in self._sources:
                    self._hellos[rtcp] = flight, now + AGAIN_S
                due += [(data, rtcp, self._sources.get(rtcp)) for data in flight]
        return due

    def close(self) -> list[tuple[bytes, bool, Address]]:
        """What tells the far end that it is over, as `poll` gives it: a browser's session ends by it at once."""
        over = []
        for rtcp, handshake in self._handshakes.items():
            if (source := self._sources.get(rtcp)) is not None:
                over += [(data, rtcp, source) for data in handshake.close()]
        return over

    def _again(self, rtcp: bool, now: float) -> list[bytes]:
        """The same datagrams once more: who has read them already knows them by their numbers."""
        hello, due = self._hellos.get(rtcp, ([], now))
        return hello if rtcp not in self._sources and now >= due else []

    def receive(self, data: bytes, source: Address, rtcp: bool, now: float) -> list[bytes]:
        """Take a datagram of the far end's; what it asks for."""
        self._sources[rtcp] = source
        return self._step(rtcp, data, now)

    def _step(self, rtcp: bool, data: bytes | None, now: float) -> list[bytes]:
        handshake = self._handshakes[rtcp]
        was_done = handshake.done
        try:
            answers = handshake.poll() if data is None else handshake.receive(data)
        except DtlsError as error:
            self._fail(rtcp, error)
            return []
        if handshake.done and not was_done:
            self._protectors[rtcp].adopt(handshake.ours)
            self._unprotectors[rtcp].adopt(handshake.theirs, now)
        return answers

    def _fail(self, rtcp: bool, error: DtlsError) -> None:
        """Begin again, a few times. A handshake that is done is not undone by whatever comes after it."""
        self.failed += 1
        handshake = self._handshakes[rtcp]
        if handshake.done:
            return
        if self.failed >= MAX_FAILURES:
            self.failure = str(error)
        assert self._identity is not None
        self._handshakes[rtcp] = Handshake(self._identity, handshake.dtls)
