"""The audio stream that two sides agreed on, as far as one of its m= lines tells it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from media.codec import Codec
from media.crypto import Crypto
from media.dtls import Dtls
from media.leg import LegError
from media.sdp import Media

COMFORT_NOISE = 13
"""Silence that its sender made on purpose (RFC 3389), at 8 kHz; some send it unasked."""

DEFAULT_PTIME_MS = 20
MAX_PTIME_MS = 60


@dataclass(frozen=True, slots=True)
class Stream:
    """The audio stream that both sides agreed on. Directions are ours; `number` is its place among the m= lines.

    `one_way`: what we say is fetched elsewhere, so that it is no hold where nothing is wanted from us here.

    `fmtp` is what the far end says of the codec, for what we send. `event_rate` is the clock of digits: the codec's,
    or 8000 beside Opus from those who know no other. `crypto` is how the far end sends, `dtls` how the
    keys for that are made; a plain stream has neither.

    `payload_type` and `event_type` are what we send; what may arrive is in `payload_types` and `event_types`, which
    hold more only if an answerer used other numbers than our offer, and in `noise_types`: comfort noise. An answerer
    that keeps several of our codecs may send in any of them, at any time: those besides `codec` are `others`.
    """

    number: int
    profile: str
    codec: Codec
    payload_type: int
    payload_types: frozenset[int]
    event_type: int | None
    event_types: frozenset[int]
    event_rate: int
    noise_types: frozenset[int]
    remote: tuple[str, int]
    remote_rtcp: tuple[str, int]
    mux: bool
    ptime_ms: int
    sends: bool
    receives: bool
    fmtp: str = ""
    crypto: Crypto | None = None
    dtls: Dtls | None = None
    one_way: bool = False
    others: tuple[tuple[int, Codec], ...] = ()

    def heard_as(self, kind: int) -> tuple[Codec, frozenset[int]] | None:
        """The codec of a payload type that may arrive, and all types that it may arrive under; None: it is no audio."""
        if kind in self.payload_types:
            return self.codec, self.payload_types
        codec = dict(self.others).get(kind)
        return (codec, frozenset(number for number, other in self.others if other is codec)) if codec else None

    @property
    def held(self) -> bool:
        """Whether the far end holds: it wants nothing from us, and what it sends is no speech (RFC 3264, s. 8.4)."""
        return not self.sends and not self.one_way

    @property
    def is_fetched(self) -> bool:
        """Whether what we say leaves by other legs than this one."""
        return self.one_way and not self.sends

    @property
    def is_hole(self) -> bool:
        """Whether the far end is nowhere: its address is 0.0.0.0, which must not be sent to."""
        return ip_address(self.remote[0]).is_unspecified

    @property
    def direction(self) -> str:
        """As our description says it."""
        return {
            (True, True): "sendrecv",
            (True, False): "sendonly",
            (False, True): "recvonly",
            (False, False): "inactive",
        }[self.sends, self.receives]


def read_stream(
    number: int,
    line: Media,
    kind: int,
    codec: Codec,
    source: str,
    *,
    keys: Crypto | Dtls | None = None,
    ours: Media | None = None,
    hold: bool = False,
    others: Iterable[Codec] = (),
) -> Stream:
    """What that line of the far end's agrees to. Raises LegError for an address that must not be sent to.

    `ours` is the line that it answers, if we offered; it kept `others` of ours as well. `hold` says that we hold, and
    listen to nothing.
    """
    hole = _check_address(line.host, source)
    far = line.direction
    mux = line.attribute("rtcp-mux") is not None
    event_type, event_rate = events(line, codec)
    lines = [line] if ours is None else [line, ours]
    return Stream(
        number=number,
        profile=line.profile,
        codec=codec,
        payload_type=kind,
        payload_types=_types(lines, codec.rtpmap) | {kind} if ours else frozenset({kind}),
        event_type=event_type,
        event_types=frozenset() if event_type is None else _types(lines, f"telephone-event/{event_rate}"),
        event_rate=event_rate,
        noise_types=_types(lines, f"CN/{codec.clock_rate}"),
        remote=(line.host, line.port),
        remote_rtcp=(line.host, line.port) if mux else _rtcp_address(line, source),
        mux=mux,
        ptime_ms=codec.packet_ms(_ptime_ms(line)),
        sends=far in ("sendrecv", "recvonly") and not hole,
        receives=far in ("sendrecv", "sendonly") and not hold,
        fmtp=line.fmtp(kind),
        crypto=keys if isinstance(keys, Crypto) else None,
        dtls=keys if isinstance(keys, Dtls) else None,
        others=tuple((number, other) for other in others for number in sorted(_types(lines, other.rtpmap))),
    )


def events(line: Media, codec: Codec) -> tuple[int | None, int]:
    """The payload type of its digits and their clock: the codec's (RFC 4733, section 2.1), at worst 8000."""
    for rate in (codec.clock_rate, 8_000):
        wanted = f"TELEPHONE-EVENT/{rate}"
        if kind := next((kind for kind, name in line.codecs().items() if name == wanted), None):
            return kind, rate
    return None, codec.clock_rate


def _types(lines: list[Media], rtpmap: str) -> frozenset[int]:
    """All numbers that these lines have for it."""
    return frozenset(kind for line in lines for kind, name in line.codecs().items() if name == rtpmap.upper())


def _check_address(host: str, source: str) -> bool:
    """Whether that is old-style hold (RFC 3264, section 8.4). Raises LegError for what media must not be sent to."""
    if not host:
        raise LegError("the audio stream has no c= line")
    address = ip_address(host)
    if address.is_unspecified:
        return True
    if address.is_multicast or (isinstance(address, IPv4Address) and address.packed[0] >= 240):
        raise LegError(f"media would go to {host}; it must be one host's address, not multicast or broadcast")
    if address.is_loopback and not is_loopback(source):
        raise LegError(f"media would go to {host}, which is this machine, not {source}; the c= line must be reachable")
    return False


def is_loopback(host: str) -> bool:
    """Whether that is an address of this machine to itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _rtcp_address(line: Media, source: str) -> tuple[str, int]:
    """Where reports go: the next port, or what a=rtcp says (RFC 3605)."""
    match = re.fullmatch(r"(\d{1,5})(?: IN IP[46] (\S+))?", line.attribute("rtcp") or "", re.ASCII)
    port = int(match[1]) if match else 0
    host = line.host
    if match and match[2]:
        try:
            host = str(ip_address(match[2]))
            _check_address(host, source)
        except (ValueError, LegError):
            host = line.host
    return host, port if 0 < port <= 65_535 else min(line.port + 1, 65_535)


def _ptime_ms(line: Media) -> int:
    """Milliseconds a packet as its writer wants them: multiples of 10, within what we can do and its maxptime."""
    wanted = _number(line.attribute("ptime")) or DEFAULT_PTIME_MS
    ceiling = _number(line.attribute("maxptime")) or MAX_PTIME_MS
    return max(10, min(wanted, ceiling, MAX_PTIME_MS) // 10 * 10)


def _number(text: str | None) -> int:
    """A small whole number, or 0 where there is none."""
    match = re.match(r"\d{1,4}", text or "", re.ASCII)
    return int(match[0]) if match else 0
