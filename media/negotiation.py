"""The offer/answer model (RFC 3264) for one audio stream over RTP, plain or encrypted (RFC 4568). Pure.

    choose(offer, source, srtp) -> Stream          as the answerer: what we agree to
    confirm(offer, answer, source, srtp) -> Stream as the offerer: what the far end agreed to
    Describer                                      writes our side; its o= line rises only when something else changed

The codec is the first of the offer that we speak: a list of formats is in the offerer's order of preference, and the
answerer is to use the most preferred (RFC 3264, section 6.1). Our own order shows when the offer is ours. The answer
names that one codec and telephone-event, so nothing else may arrive in the middle of a call.

RTP/SAVP is answered as that, with the first a=crypto that we speak. RTP/AVP with a=crypto asks for encryption where
both sides know it (RFC 8643): it stays RTP/AVP, and is encrypted unless our policy is against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address

from media.crypto import OFFERED, Crypto, Policy
from media.leg import LegError
from media.sdp import STATIC, Description, Media, shown

PLAIN_PROFILES = ("RTP/AVP", "RTP/AVPF")
SECURE_PROFILES = ("RTP/SAVP", "RTP/SAVPF")
"""Profiles we speak (RFC 3551, 4585, 3711, 5124). Encrypted with keys by DTLS, they begin with UDP/TLS."""

PREFERENCE = ("G722/8000", "PCMU/8000", "PCMA/8000")
"""What we speak, best first, as their rtpmap says it."""

COMFORT_NOISE = 13
EVENTS = "telephone-event/8000"
"""Digits; their clock must be the audio codec's (RFC 4733, section 2.1), which is 8000 for all that we speak."""

OUR_EVENT_TYPE = 101
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


def choose(offer: Description, source: str, srtp: Policy = "off") -> Stream:
    """What we agree to: the first audio stream, and its first codec, that we speak. Raises LegError.

    `source` is the address the signalling came from; it bounds where media may be sent.
    """
    audio = [(number, line) for number, line in enumerate(offer.media) if line.kind == "audio" and line.port]
    if not audio:
        raise LegError("the offer has no audio stream with a port other than 0")
    allowed, faults = [], []
    for number, line in audio:
        try:
            allowed.append((number, line, _encryption(line, srtp)))
        except LegError as error:
            faults.append(str(error))
    if not allowed:
        raise LegError("; ".join(dict.fromkeys(faults)))
    for number, line, crypto in allowed:
        types = [kind for kind, codec in line.codecs().items() if codec in PREFERENCE]
        if types:
            events = _event_type(line)
            return _stream(number, line, types[0], {types[0]}, events, {events}, source, crypto)
    names = ", ".join(_codec_names(line) for _, line, _ in allowed)
    raise LegError(f"no common codec: the offer has {names}; this agent speaks {', '.join(map(_name, PREFERENCE))}")


def _encryption(line: Media, srtp: Policy) -> Crypto | None:
    """How an offered stream is to be encrypted; None is plain. Raises LegError for what our policy does not take."""
    secure = line.profile in SECURE_PROFILES
    if line.profile not in PLAIN_PROFILES and (srtp == "off" or not secure):
        profiles = {"off": PLAIN_PROFILES, "accept": PLAIN_PROFILES + SECURE_PROFILES, "demand": SECURE_PROFILES}[srtp]
        raise LegError(f"the offer's audio is {line.profile}; this agent speaks {' and '.join(profiles)}")
    if srtp == "off":
        return None
    cryptos, faults = _cryptos(line)
    if cryptos:
        return cryptos[0]
    if srtp == "accept" and not secure:
        return None
    why = f"none of its a=crypto will do: {'; '.join(faults)}" if faults else "without a=crypto"
    demand = "demands encryption" if srtp == "demand" else "encrypts"
    raise LegError(
        f"the offer's audio is {line.profile}, {why}; this agent {demand} by a=crypto of {', '.join(OFFERED)}"
    )


def _cryptos(line: Media) -> tuple[list[Crypto], list[str]]:
    """The stream's a=crypto lines in order of preference, and what is wrong with those that we cannot read."""
    cryptos, faults = [], []
    for name, value in line.attributes:
        if name == "crypto":
            try:
                cryptos.append(Crypto.parse(value))
            except LegError as error:
                faults.append(str(error))
    return cryptos, faults[:4]


def confirm(offer: Description, answer: Description, source: str, srtp: Policy = "off") -> Stream:
    """What the far end made of our offer. Raises LegError."""
    number = next(number for number, line in enumerate(offer.media) if line.kind == "audio" and line.port)
    if len(answer.media) != len(offer.media):
        raise LegError(f"the answer has {len(answer.media)} m= lines, our offer has {len(offer.media)}")
    ours, line = offer.media[number], answer.media[number]
    if line.kind != "audio" or not line.port:
        raise LegError("the answer refuses our audio stream")
    if line.profile not in (SECURE_PROFILES if ours.profile in SECURE_PROFILES else PLAIN_PROFILES):
        raise LegError(f"the answer's audio is {shown(line.profile)}, our offer's {ours.profile}")
    crypto = _confirmed(ours, line, srtp)
    offered = {codec: kind for kind, codec in ours.codecs().items() if codec in PREFERENCE}
    for kind, codec in line.codecs().items():
        if codec in offered:
            events = _event_type(line)
            event_types = set() if events is None else {_event_type(ours), events}
            return _stream(number, line, kind, {kind, offered[codec]}, events, event_types, source, crypto)
    raise LegError(f"the answer has {_codec_names(line)}, our offer {_codec_names(ours)}")


def _confirmed(ours: Media, line: Media, srtp: Policy) -> Crypto | None:
    """The a=crypto that the far end chose of ours, by its number (RFC 4568, section 5.1.3). Raises LegError."""
    offered = {crypto.tag: crypto.suite for crypto in _cryptos(ours)[0]}
    cryptos, faults = _cryptos(line) if offered else ([], [])
    chosen = next((crypto for crypto in cryptos if offered.get(crypto.tag) == crypto.suite), None)
    if chosen is None and (srtp == "demand" or ours.profile in SECURE_PROFILES):
        why = "the answer's a=crypto is none of our offer's" if cryptos else "the answer has no a=crypto"
        raise LegError(f"{'; '.join(faults) or why}; our offer has {', '.join(offered.values())}")
    return chosen


def _event_type(line: Media) -> int | None:
    return next((kind for kind, codec in line.codecs().items() if codec == EVENTS.upper()), None)


def _name(codec: str) -> str:
    return codec.partition("/")[0]


def _codec_names(line: Media) -> str:
    types = {str(kind): codec for kind, codec in line.codecs().items()}
    return ", ".join(types.get(text, f"payload type {text[:8]}") for text in line.formats[:16])


def _stream(
    number: int,
    line: Media,
    kind: int,
    kinds: set[int],
    event_type: int | None,
    event_types: set[int | None],
    source: str,
    crypto: Crypto | None,
) -> Stream:
    hole = _check_address(line.host, source)
    far = line.direction
    mux = line.attribute("rtcp-mux") is not None
    return Stream(
        number=number,
        profile=line.profile,
        codec=_name(line.codecs()[kind]),
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


# --- writing -------------------------------------------------------------------------------------------------------


class Describer:
    """Writes one party's descriptions: the same session id for life, a version that counts changes of the rest.

    A description that says what the last one said is the same text (RFC 3264, section 8), so a refresh of the
    session changes nothing on the other side. `crypto` is how we send as agreed; None is plain.
    """

    def __init__(self, session_id: int, srtp: Policy = "off") -> None:
        self.crypto: Crypto | None = None
        self._session_id, self._srtp = session_id, srtp
        self._version = 0
        self._last: tuple[str, list[str]] | None = None
        self._shape: list[Media] = []  # the m= lines so far; their number never shrinks
        self._stream: Stream | None = None
        self._offered: list[Crypto] = []

    def answer(self, offer: Description, stream: Stream, host: str, port: int) -> str:
        """The answer: as many m= lines as offered, in order; those that we refuse have port 0 and their formats."""
        self.crypto = self._answered(stream)
        lines: list[str] = []
        for number, line in enumerate(offer.media):
            if number == stream.number:
                lines += _audio_lines(line.profile, port, {stream.payload_type: f"{stream.codec}/8000"}, stream)
                lines += _crypto_lines([self.crypto] if self.crypto else [])
                if stream.mux:
                    lines.append("a=rtcp-mux")
            else:
                lines.append(_refusal(line))
        self._shape, self._stream = list(offer.media), stream
        return self._write(host, offer.times, lines)

    def _answered(self, stream: Stream) -> Crypto | None:
        """Our key, which goes on for as long as the suite does: a hold or another key of theirs does not change it.

        Another key from another place is another party, as after a transfer: it cannot know how often our packet
        numbers have wrapped, which is a part of decryption, so that it needs a key whose count begins.
        """
        theirs, before = stream.crypto, self._stream
        if theirs is None:
            return None
        if self.crypto is None or before is None or before.crypto is None or self.crypto.suite != theirs.suite:
            return Crypto.generate(theirs.tag, theirs.suite)
        if before.crypto.key != theirs.key and before.remote != stream.remote:
            return Crypto.generate(theirs.tag, theirs.suite)
        return replace(self.crypto, tag=theirs.tag)

    def offer(self, host: str, port: int) -> str:
        """Our offer: every codec we speak, best first, and digits. Refused streams of earlier stay refused.

        Encrypted if that is demanded, with every suite, or if the stream is already, with the key that it has.
        """
        number = self._stream.number if self._stream else 0
        types = {codec: kind for kind, codec in STATIC.items()}
        if self._stream:  # a payload type keeps its meaning within a session (RFC 3264, section 8.3.2)
            types[f"{self._stream.codec}/8000"] = self._stream.payload_type
        codecs = {types[codec]: codec for codec in PREFERENCE}
        first = SECURE_PROFILES if self._srtp == "demand" else PLAIN_PROFILES
        profile = self._stream.profile if self._stream else first[0]
        self._offered = self._offers()
        lines = [_refusal(other) for other in self._shape[:number]]
        lines += _audio_lines(profile, port, codecs, None, self._stream.event_type if self._stream else None)
        lines += _crypto_lines(self._offered)
        lines += [_refusal(other) for other in self._shape[number + 1 :]]
        return self._write(host, "0 0", lines)

    def _offers(self) -> list[Crypto]:
        if self.crypto:
            return [self.crypto]
        if self._srtp != "demand":
            return []
        return self._offered or [Crypto.generate(tag, suite) for tag, suite in enumerate(OFFERED, 1)]

    def accepted(self, answer: Description, stream: Stream) -> None:
        """Remember what became of our offer."""
        chosen = stream.crypto.tag if stream.crypto else None
        self.crypto = next((crypto for crypto in self._offered if crypto.tag == chosen), None)
        self._shape, self._stream = list(answer.media), stream

    def _write(self, host: str, times: str, lines: list[str]) -> str:
        if (host, lines) != self._last:
            self._version += 1
            self._last = (host, lines)
        address = f"IN IP{ip_address(host).version} {host}"
        origin = f"o=- {self._session_id} {self._version} {address}"
        return "\r\n".join(["v=0", origin, "s=-", f"c={address}", f"t={times}", *lines, ""])


def _audio_lines(
    profile: str,
    port: int,
    codecs: dict[int, str],
    stream: Stream | None,
    event_type: int | None = None,
) -> list[str]:
    """Our audio stream: `stream` as agreed, or all of `codecs` as an offer."""
    events = stream.event_type if stream else event_type or OUR_EVENT_TYPE
    formats = [*codecs, *([events] if events is not None else [])]
    lines = [f"m=audio {port} {profile} {' '.join(map(str, formats))}"]
    lines += [f"a=rtpmap:{kind} {codec}" for kind, codec in codecs.items()]
    if events is not None:
        lines += [f"a=rtpmap:{events} {EVENTS}", f"a=fmtp:{events} 0-15"]
    ptime_ms, direction = (stream.ptime_ms, stream.direction) if stream else (DEFAULT_PTIME_MS, "sendrecv")
    return [*lines, f"a=ptime:{ptime_ms}", f"a={direction}"]


def _crypto_lines(cryptos: list[Crypto]) -> Iterator[str]:
    return (f"a=crypto:{crypto.attribute()}" for crypto in cryptos)


def _refusal(line: Media) -> str:
    return f"m={line.kind} 0 {line.profile} {' '.join(line.formats)}"
