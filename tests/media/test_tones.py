"""Keys as tones: which, how loud, and that pieces of a press fit together."""

from __future__ import annotations

import numpy as np
import pytest

from media.dtmf import KEYS
from media.tones import HIGH, LOW, PAD, tone


def test_every_key_has_its_two_tones() -> None:
    """ITU-T Q.23: 1 is 697 and 1209 Hz, D is 941 and 1633 Hz."""
    assert sorted(PAD) == sorted(KEYS)
    found = {}
    for key in PAD:
        spectrum = np.abs(np.fft.rfft(tone(key, 0.0, 1.0, 1.0, 8_000)))
        strongest = np.argsort(spectrum)[-2:]
        found[key] = (int(min(strongest)), int(max(strongest)))
    assert found == {key: (LOW[place // 4], HIGH[place % 4]) for place, key in enumerate(PAD)}
    assert (found["1"], found["D"]) == ((697, 1209), (941, 1633))


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_pieces_make_a_whole_without_a_click_and_end(rate: int) -> None:
    pieces = [tone("5", 0.02 * tick, 0.02, 0.1, rate) for tick in range(8)]
    assert {len(piece) for piece in pieces} == {rate // 50}
    whole = np.concatenate(pieces)
    assert np.allclose(whole, tone("5", 0.0, 0.16, 0.1, rate), atol=1e-6)
    assert np.abs(whole[: rate // 10]).max() == pytest.approx(0.45, abs=0.05)
    assert abs(whole[0]) < 0.01 and not whole[rate // 10 :].any()
