"""Writes one party's side of offers and answers (RFC 3264). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from media.crypto import OFFERED, Crypto, Policy
from media.keying import PLAIN_PROFILES, SECURE_PROFILES
from media.negotiation import PREFERENCE
from media.sdp import STATIC, Description, Media
from media.stream import DEFAULT_PTIME_MS, EVENTS, Stream

OUR_EVENT_TYPE = 101


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
