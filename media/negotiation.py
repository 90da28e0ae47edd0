"""The offer/answer model (RFC 3264) for one audio stream over RTP. Pure.

    choose(offer, source, srtp) -> Stream          as the answerer: what we agree to
    confirm(offer, answer, source, srtp) -> Stream as the offerer: what the far end agreed to

The codec is the first of the offer that we speak: a list of formats is in the offerer's order of preference, and the
answerer is to use the most preferred (RFC 3264, section 6.1). Our own order shows when the offer is ours. The answer
names that one codec and telephone-event, so nothing else may arrive in the middle of a call.
"""

from __future__ import annotations

from media.crypto import Policy
from media.keying import PLAIN_PROFILES, SECURE_PROFILES, confirmed, encryption
from media.leg import LegError
from media.sdp import Description, Media, shown
from media.stream import Stream, codec_name, event_type, read_stream

PREFERENCE = ("G722/8000", "PCMU/8000", "PCMA/8000")
"""What we speak, best first, as their rtpmap says it."""


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
            allowed.append((number, line, encryption(line, srtp)))
        except LegError as error:
            faults.append(str(error))
    if not allowed:
        raise LegError("; ".join(dict.fromkeys(faults)))
    for number, line, crypto in allowed:
        types = [kind for kind, codec in line.codecs().items() if codec in PREFERENCE]
        if types:
            events = event_type(line)
            return read_stream(number, line, types[0], {types[0]}, events, {events}, source, crypto)
    names = ", ".join(_codec_names(line) for _, line, _ in allowed)
    ours = ", ".join(map(codec_name, PREFERENCE))
    raise LegError(f"no common codec: the offer has {names}; this agent speaks {ours}")


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
    crypto = confirmed(ours, line, srtp)
    offered = {codec: kind for kind, codec in ours.codecs().items() if codec in PREFERENCE}
    for kind, codec in line.codecs().items():
        if codec in offered:
            events = event_type(line)
            event_types = set() if events is None else {event_type(ours), events}
            return read_stream(number, line, kind, {kind, offered[codec]}, events, event_types, source, crypto)
    raise LegError(f"the answer has {_codec_names(line)}, our offer {_codec_names(ours)}")


def _codec_names(line: Media) -> str:
    types = {str(kind): codec for kind, codec in line.codecs().items()}
    return ", ".join(types.get(text, f"payload type {text[:8]}") for text in line.formats[:16])
