"""What the tests of offers and answers share."""

from __future__ import annotations

from media.describer import Describer
from media.negotiation import choose
from media.sdp import parse
from media.stream import Stream
from tests.media.line import THERE

HERE = "192.0.2.1"


def agree(text: str, source: str = THERE) -> Stream:
    return choose(parse(text), source)


def answer(text: str, source: str = THERE, describer: Describer | None = None) -> list[str]:
    """The lines of our answer."""
    offer = parse(text)
    return (describer or Describer(7)).answer(offer, choose(offer, source), HERE, 16_384).split("\r\n")
