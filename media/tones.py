"""Keys as tones within the audio (ITU-T Q.23), for a far end that takes no telephone-event. Pure."""

from __future__ import annotations

import numpy as np

from media.leg import Pcm
from media.pcm import FADE_S

LOW = (697, 770, 852, 941)
HIGH = (1209, 1336, 1477, 1633)
PAD = "123A456B789C*0#D"
"""Row by row; each row has a low tone, each column a high one, in hertz."""

LOW_PEAK, HIGH_PEAK = 0.2, 0.25
"""About -11 and -9 dBm0, as phones send them: lines lose more of the high one."""


def tone(key: str, start_s: float, seconds: float, of_s: float, sample_rate: int) -> Pcm:
    """A piece of a press that lasts `of_s` in all, from `start_s` on; silence after its end. Raises ValueError."""
    place = PAD.index(key)
    at = start_s + np.arange(round(seconds * sample_rate)) / sample_rate
    both = LOW_PEAK * np.sin(2 * np.pi * LOW[place // 4] * at) + HIGH_PEAK * np.sin(2 * np.pi * HIGH[place % 4] * at)
    envelope = np.clip(np.minimum(at, of_s - at) / FADE_S, 0.0, 1.0)
    return (both * envelope).astype(np.float32)
