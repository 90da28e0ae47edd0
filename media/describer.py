"""Writes one party's side of offers and answers (RFC 3264). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address

from media.codec import CODECS
from media.crypto import OFFERED, Crypto, Policy
from media.dtls import Identity
from media.icesdp import Local, refused_lines
from media.keying import DTLS_PROFILES, PLAIN_PROFILES, SECURE_PROFILES
from media.negotiation import Codecs
from media.sdp import Description, Media
from media.stream import DEFAULT_PTIME_MS, Stream

OUR_EVENT_TYPE = 101
FIRST: Mapping[Policy, str] = {
    "off": PLAIN_PROFILES[0],
    "accept": PLAIN_PROFILES[0],
    "demand": SECURE_PROFILES[0],
    "dtls": DTLS_PROFILES[0],
}
"""The profile of a session's first offer, by our policy."""

DYNAMIC = (*range(96, 128), *range(35, 64))
"""Payload types that a description gives their meaning, the latter if need be (RFC 3551, section 6; RFC 5761, 4)."""


class Describer:
    """Writes one party's descriptions: the same session id for life, a version that counts changes of the rest.

    A description that says what the last one said is the same text (RFC 3264, section 8), so a refresh of the
    session changes nothing on the other side. `crypto` is how we send as agreed; None is plain, or by DTLS, for which
    there is an `identity` from the first time on that it is needed.
    """

    def __init__(self, session_id: int, srtp: Policy = "off", codecs: Codecs = ()) -> None:
        self.crypto: Crypto | None = None
        self.identity: Identity | None = None
        self._codecs = codecs or CODECS
        self._session_id, self._srtp = session_id, srtp
        self._version = 0
        self._last: tuple[str, list[str]] | None = None
        self._shape: list[Media] = []  # the m= lines so far; their number never shrinks
        self._meanings: dict[int, str] = {}  # what the far end has given the payload types of the audio
        self._stream: Stream | None = None
        self._offered: list[Crypto] = []

    def answer(self, offer: Description, stream: Stream, host: str, port: int, ice: Local | None = None) -> str:
        """The answer: as many m= lines as offered, in order; those that we refuse have port 0 and their formats."""
        self.crypto = self._answered(stream)
        lines: list[str] = []
        for number, line in enumerate(offer.media):
            if number == stream.number:
                lines += _answer_lines(port, stream)
                lines += _crypto_lines([self.crypto] if self.crypto else [])
                if stream.dtls:
                    lines += self._dtls_lines(stream.dtls.setup)
                if stream.mux:
                    lines.append("a=rtcp-mux")
                if ice:
                    lines += ice.audio_lines(line.attribute("mid"), stream.sends)
            else:
                lines += [_refusal(line), *(refused_lines(line) if ice else [])]
        self._remember(offer, stream)
        return self._write(host, offer.times, [*(ice.session_lines(offer, stream.number) if ice else []), *lines])

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

    def offer(self, host: str, port: int, hold: bool = False, ice: Local | None = None) -> str:
        """Our offer: every codec we speak, best first, and digits. Refused streams of earlier stay refused.

        If we are to `hold`, we say that we listen to nothing (RFC 3264, section 8.4).

        Encrypted if that is demanded, with every suite, or if the stream is already, with the key that it has; by DTLS
        where our policy has it, or where ICE finds the way.
        """
        number = self._stream.number if self._stream else 0
        profile = self._stream.profile if self._stream else DTLS_PROFILES[1] if ice else FIRST[self._srtp]
        self._offered = [] if ice else self._offers()
        rtpmaps, fmtps = self._numbered()
        lines = [_refusal(other) for other in self._shape[:number]]
        lines += _audio_lines(profile, port, rtpmaps, fmtps, DEFAULT_PTIME_MS, "sendonly" if hold else "sendrecv")
        lines += _crypto_lines(self._offered)
        if profile in DTLS_PROFILES or (self._stream and self._stream.dtls):
            lines += self._dtls_lines("actpass")
        lines.append("a=rtcp-mux")
        if ice:
            mid = self._shape[number].attribute("mid") if self._shape else "0"
            lines = [*ice.session_lines(None, number), *lines, *ice.audio_lines(mid, True)]
        lines += [_refusal(other) for other in self._shape[number + 1 :]]
        return self._write(host, "0 0", lines)

    def _numbered(self) -> tuple[dict[int, str], dict[int, str]]:
        """Every codec of ours, and digits at each of their clocks: number -> rtpmap, and number -> parameters.

        A number keeps its meaning within a session, also of what was offered to us and not taken (RFC 3264, section
        8.3.2). What no number is left for is not offered.
        """
        stream, fixed = self._stream, {}
        if stream:
            fixed[stream.codec.rtpmap] = stream.payload_type
            if stream.event_type is not None:
                fixed[f"telephone-event/{stream.event_rate}"] = stream.event_type
        wanted = {codec.rtpmap: codec.payload_type for codec in self._codecs}
        rates = sorted({codec.clock_rate for codec in self._codecs})
        wanted |= {f"telephone-event/{rate}": OUR_EVENT_TYPE + place for place, rate in enumerate(rates)}
        numbers: dict[int, str] = {}
        for rtpmap, kind in wanted.items():
            known = [other for other, meaning in self._meanings.items() if meaning == rtpmap.upper()]
            taken = {*numbers, *(other for name, other in fixed.items() if name != rtpmap)}
            taken |= self._meanings.keys() - set(known)
            agreed = [fixed[rtpmap]] if rtpmap in fixed else []
            free = (other for other in (*agreed, *known, kind, *DYNAMIC) if other not in taken)
            if (number := next(free, None)) is not None:
                numbers[number] = rtpmap
        parameters = {codec.rtpmap: codec.fmtp for codec in self._codecs}
        return numbers, {kind: parameters.get(rtpmap, "") for kind, rtpmap in numbers.items()}

    def _dtls_lines(self, setup: str) -> list[str]:
        """Who we are, the same for the whole call, and who begins."""
        if self.identity is None:
            self.identity = Identity()
        return [f"a=setup:{setup}", f"a=fingerprint:{self.identity.fingerprint}"]

    def _offers(self) -> list[Crypto]:
        if self._stream and self._stream.dtls:
            return []
        if self.crypto:
            return [self.crypto]
        if self._srtp != "demand":
            return []
        return self._offered or [Crypto.generate(tag, suite) for tag, suite in enumerate(OFFERED, 1)]

    def accepted(self, answer: Description, stream: Stream) -> None:
        """Remember what became of our offer."""
        chosen = stream.crypto.tag if stream.crypto else None
        self.crypto = next((crypto for crypto in self._offered if crypto.tag == chosen), None)
        self._remember(answer, stream)

    def _remember(self, theirs: Description, stream: Stream) -> None:
        self._shape, self._stream = list(theirs.media), stream
        self._meanings |= self._shape[stream.number].codecs()

    def _write(self, host: str, times: str, lines: list[str]) -> str:
        if (host, lines) != self._last:
            self._version += 1
            self._last = (host, lines)
        address = f"IN IP{ip_address(host).version} {host}"
        origin = f"o=- {self._session_id} {self._version} {address}"
        return "\r\n".join(["v=0", origin, "s=-", f"c={address}", f"t={times}", *lines, ""])


def _answer_lines(port: int, stream: Stream) -> list[str]:
    """Our audio stream as agreed."""
    rtpmaps = {stream.payload_type: stream.codec.rtpmap}
    if stream.event_type is not None:
        rtpmaps[stream.event_type] = f"telephone-event/{stream.event_rate}"
    rtpmaps |= {kind: f"CN/{stream.codec.clock_rate}" for kind in sorted(stream.noise_types)}
    fmtps = {stream.payload_type: stream.codec.fmtp}
    return _audio_lines(stream.profile, port, rtpmaps, fmtps, stream.ptime_ms, stream.direction)


def _audio_lines(
    profile: str, port: int, rtpmaps: dict[int, str], fmtps: dict[int, str], ptime_ms: int, direction: str
) -> list[str]:
    """An m= line and what belongs to it; `rtpmaps` is in order of preference."""
    lines = [f"m=audio {port} {profile} {' '.join(map(str, rtpmaps))}"]
    for kind, rtpmap in rtpmaps.items():
        fmtp = "0-15" if rtpmap.startswith("telephone-event") else fmtps.get(kind)
        lines += [f"a=rtpmap:{kind} {rtpmap}", *([f"a=fmtp:{kind} {fmtp}"] if fmtp else [])]
    return [*lines, f"a=ptime:{ptime_ms}", f"a={direction}"]


def _crypto_lines(cryptos: list[Crypto]) -> Iterator[str]:
    return (f"a=crypto:{crypto.attribute()}" for crypto in cryptos)


def _refusal(line: Media) -> str:
    return f"m={line.kind} 0 {line.profile} {' '.join(line.formats)}"
