"""pin.py: a caller who presses keys, and a clock of ticks."""

from __future__ import annotations

import numpy as np
import pytest

from media.leg import Pcm
from voipagent.pin import (
    FIRST_TICKS,
    MAX_WRONG,
    MOST_TICKS,
    NEXT_TICKS,
    PAUSE_TICKS,
    WRONG_S,
    Guesses,
    PinDialog,
    Prompts,
)
from voipagent.pin import shipped_prompts as shipped

RATE = 8_000
BLOCK = RATE // 50


def prompt(level: float, blocks: int) -> Pcm:
    return np.full(blocks * BLOCK, level, np.float32)


PROMPTS = Prompts(ask=prompt(0.1, 20), wrong=prompt(0.2, 5), bye=prompt(0.3, 5), sample_rate=RATE)
ROOMS = {"1234": "standup", "5678": "sales"}


def dialog(longest: int = 6) -> PinDialog:
    return PinDialog(PROMPTS, lambda pin: ROOMS.get(pin, ""), longest)


def press(to: PinDialog, keys: str) -> None:
    for key in keys:
        to.press(key)


def said(to: PinDialog, ticks: int) -> list[float]:
    """The levels of what is played, one after the other, silence left out."""
    blocks = [to.tick() for _ in range(ticks)]
    assert all(block.shape == (BLOCK,) for block in blocks)
    levels = [round(float(level), 3) for level in np.concatenate(blocks)[::BLOCK] if level]
    return [level for at, level in enumerate(levels) if at == 0 or levels[at - 1] != level]


def test_it_asks_and_the_right_pin_opens_its_room() -> None:
    caller = dialog()
    assert said(caller, 60) == [0.1]
    press(caller, "5678#")
    assert caller.over and caller.room == "sales"


def test_who_presses_a_key_is_spoken_to_no_longer() -> None:
    caller = dialog()
    assert said(caller, PAUSE_TICKS + 3) == [0.1]
    press(caller, "1")
    assert said(caller, 10) == []
    press(caller, "234#")
    assert caller.room == "standup"


def test_the_last_digit_needs_no_hash_key() -> None:
    caller = dialog(longest=4)
    press(caller, "123")
    assert not caller.over
    press(caller, "4")
    assert caller.room == "standup"


def test_a_pause_is_as_good_as_the_hash_key() -> None:
    caller = dialog()
    press(caller, "1234")
    said(caller, NEXT_TICKS - 1)
    assert not caller.over
    caller.tick()
    assert caller.room == "standup"


def test_a_star_begins_anew_and_other_keys_are_none() -> None:
    caller = dialog()
    press(caller, "99A*12B34#")
    assert caller.room == "standup"


def test_three_wrong_ones_are_the_end_which_is_said() -> None:
    caller = dialog()
    said(caller, 60)
    for _ in range(2):
        press(caller, "0000#")
        assert said(caller, 100) == [0.2, 0.1]
    press(caller, "0000#")
    assert not caller.over
    press(caller, "1234#")  # too late
    assert said(caller, 100) == [0.2, 0.3]
    assert caller.over and not caller.room


def test_who_presses_nothing_is_asked_three_times() -> None:
    caller = dialog()
    assert said(caller, 60) == [0.1]
    assert said(caller, FIRST_TICKS + 60) == [0.1]
    assert said(caller, FIRST_TICKS + 60) == [0.1]
    assert said(caller, FIRST_TICKS + 60) == [0.3]
    assert caller.over and not caller.room


def test_the_hash_key_alone_is_a_try_and_no_guess() -> None:
    guessed: list[str] = []

    def opens(pin: str) -> str:
        guessed.append(pin)
        return ""

    caller = PinDialog(PROMPTS, opens, 6)
    press(caller, "#")
    assert said(caller, 60) == [0.1] and guessed == []


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
def test_the_shipped_prompts_are_speech_of_a_useful_level(rate: int) -> None:
    prompts = shipped(rate)
    for pcm, seconds in ((prompts.ask, 2.9), (prompts.wrong, 0.9), (prompts.bye, 0.6)):
        assert len(pcm) / rate == pytest.approx(seconds, abs=0.1)
        assert 0.3 < np.abs(pcm).max() <= 0.6 and np.isfinite(pcm).all()
    assert shipped(rate) is prompts


def test_too_many_wrong_ones_are_the_end_of_asking_for_a_while() -> None:
    guesses = Guesses()
    for number in range(MAX_WRONG):
        assert not guesses.too_many(100.0 + number)
        guesses.add(100.0 + number)
    assert guesses.too_many(100.0 + MAX_WRONG)
    assert guesses.too_many(100.0 + WRONG_S - 1)
    assert not guesses.too_many(100.0 + WRONG_S)


def test_who_never_comes_to_an_end_is_asked_no_longer() -> None:
    """To begin anew is no try, but others wait for the place."""
    caller = dialog()
    for tick in range(MOST_TICKS - 1):
        if tick % 200 == 0:
            press(caller, "12*")
        caller.tick()
    assert not caller.over
    assert said(caller, PAUSE_TICKS + 10) == [0.3]
    assert caller.over and not caller.room
    press(caller, "1234#")
    assert not caller.room
