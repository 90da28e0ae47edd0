"""The offer/answer model (RFC 3264) for one audio stream over RTP. Pure.

    choose(offer, source, codecs) -> Stream          as the answerer: what we agree to
    confirm(offer, answer, source, codecs) -> Stream as the offerer: what the far end agreed to

The codec is the first of the offer that we speak: a list of formats is in the offerer's order of preference, and the
answerer is to use the most preferred (RFC 3264, section 6.1). Where an order of ours was asked for, that decides
instead; it is the order of our offers too. The answer names that one codec, telephone-event and comfort noise, so no
other codec may arrive in the middle of a call.
"""

from __future__ import annotations

from typing import TypeAlias

from media.codec import CODECS, Codec
from media.crypto import Policy
from media.keying import FAMILIES, confirmed, encryption
from media.leg import LegError
from media.sdp import Description, Media, shown
from media.stream import Stream, read_stream

Codecs: TypeAlias = tuple[Codec, ...]
"""Those that we speak in a call, best first. Empty: all that there are, and an offer's order decides."""


def choose(
    offer: Description,
    source: str,
    srtp: Policy = "off",
    codecs: Codecs = (),
    hold: bool = False,
    client: bool = True,
) -> Stream:
    """What we agree to: the first audio stream of which we speak a codec. Raises LegError.

    `source` is the address the signalling came from; it bounds where media may be sent. `hold` says that we hold;
    `client` is our part in DTLS, where the offer leaves it to us.
    """
    audio = [(number, line) for number, line in enumerate(offer.media) if line.kind == "audio" and line.port]
    if not audio:
        raise LegError("the offer has no audio stream with a port other than 0")
    allowed, faults = [], []
    for number, line in audio:
        try:
            allowed.append((number, line, encryption(line, srtp, client)))
        except LegError as error:
            faults.append(str(error))
    if not allowed:
        raise LegError("; ".join(dict.fromkeys(faults)))
    for number, line, keys in allowed:
        if found := _best(line, codecs):
            return read_stream(number, line, *found, source, keys=keys, hold=hold)
    names = ", ".join(_codec_names(line) for _, line, _ in allowed)
    ours = ", ".join(codec.name for codec in codecs or CODECS)
    raise LegError(f"no common codec: the offer has {names}; this agent speaks {ours}")


def _best(line: Media, codecs: Codecs) -> tuple[int, Codec] | None:
    """Payload type and codec, by our order if there is one, else by the line's."""
    common = [(kind, codec) for kind, name in line.codecs().items() if (codec := _spoken(name, codecs))]
    if codecs:
        common.sort(key=lambda pair: codecs.index(pair[1]))
    return common[0] if common else None


def _spoken(rtpmap: str, codecs: Codecs) -> Codec | None:
    return next((codec for codec in codecs or CODECS if codec.rtpmap.upper() == rtpmap), None)


def confirm(
    offer: Description,
    answer: Description,
    source: str,
    srtp: Policy = "off",
    codecs: Codecs = (),
    hold: bool = False,
) -> Stream:
    """What the far end made of our offer. Raises LegError."""
    number = next(number for number, line in enumerate(offer.media) if line.kind == "audio" and line.port)
    if len(answer.media) != len(offer.media):
        raise LegError(f"the answer has {len(answer.media)} m= lines, our offer has {len(offer.media)}")
    ours, line = offer.media[number], answer.media[number]
    if line.kind != "audio" or not line.port:
        raise LegError("the answer refuses our audio stream")
    if not any(line.profile in family and ours.profile in family for family in FAMILIES):
        raise LegError(f"the answer's audio is {shown(line.profile)}, our offer's {ours.profile}")
    keys = confirmed(ours, line, srtp)
    offered = set(ours.codecs().values())
    kept = [
        (kind, codec) for kind, name in line.codecs().items() if name in offered and (codec := _spoken(name, codecs))
    ]
    if kept:
        kind, codec = kept[0]
        others = dict.fromkeys(other for _, other in kept if other is not codec)
        return read_stream(number, line, kind, codec, source, keys=keys, ours=ours, hold=hold, others=others)
    raise LegError(f"the answer has {_codec_names(line)}, our offer {_codec_names(ours)}")


def _codec_names(line: Media) -> str:
    types = {str(kind): codec for kind, codec in line.codecs().items()}
    return ", ".join(types.get(text, f"payload type {text[:8]}") for text in line.formats[:16])
