"""The audio stream that two sides agreed on, as far as one of its m= lines tells it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from media.crypto import Crypto
from media.leg import LegError
from media.sdp import Media

COMFORT_NOISE = 13
EVENTS = "telephone-event/8000"
"""Digits; their clock must be the audio codec's (RFC 4733, section 2.1), which is 8000 for all that we speak."""

DEFAULT_PTIME_MS = 20
MAX_PTIME_MS = 60


@dataclass(frozen=True, slots=True)
class Stream:
    """The audio stream that both sides agreed on. Directions are ours; `number` is its place among the m= lines.

    `crypto` is how the far end sends, None for a plain stream.

    `payload_type` and `event_type` are what we send; what may arrive is in `payload_types` and `event_types`, which
    hold more only if an answerer used other numbers than our offer.
    """

    number: int
    profile: str
    codec: str
    payload_type: int
    payload_types: frozenset[int]
    event_type: int | None
    event_types: frozenset[int]
    remote: tuple[str, int]
    remote_rtcp: tuple[str, int]
    mux: bool
    ptime_ms: int
    sends: bool
    receives: bool
    crypto: Crypto | None = None

    @property
    def held(self) -> bool:
        """Whether the far end holds: it wants nothing from us, and what it sends is no speech (RFC 3264, s. 8.4)."""
        return not self.sends

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


def event_type(line: Media) -> int | None:
    """The number of its digits, if it has any that we speak."""
    return next((kind for kind, codec in line.codecs().items() if codec == EVENTS.upper()), None)


def codec_name(codec: str) -> str:
    """Of what an rtpmap says, the name alone."""
    return codec.partition("/")[0]


def read_stream(
    number: int,
    line: Media,
    kind: int,
    kinds: set[int],
    event_type: int | None,
    event_types: set[int | None],
    source: str,
    crypto: Crypto | None,
) -> Stream:
    """What that line of the far end's agrees to. Raises LegError for an address that must not be sent to."""
    hole = _check_address(line.host, source)
    far = line.direction
    mux = line.attribute("rtcp-mux") is not None
    return Stream(
        number=number,
        profile=line.profile,
        codec=codec_name(line.codecs()[kind]),
        payload_type=kind,
        payload_types=frozenset(kinds),
        event_type=event_type,
        event_types=frozenset(kind for kind in event_types if kind is not None),
        remote=(line.host, line.port),
        remote_rtcp=(line.host, line.port) if mux else _rtcp_address(line, source),
        mux=mux,
        ptime_ms=_ptime_ms(line),
        sends=far in ("sendrecv", "recvonly") and not hole,
        receives=far in ("sendrecv", "sendonly"),
        crypto=crypto,
    )


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
