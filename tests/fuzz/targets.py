"""All that is fuzzed, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.fuzz.media import dtmf, media, sdp
from tests.fuzz.sip import digest, wire

TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "wire": wire,
    "sdp": sdp,
    "digest": digest,
    "dtmf": dtmf,
    "media": media,
}
