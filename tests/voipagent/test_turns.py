"""Turns by sound: calls are drawn as bars, a letter for 100 ms: A the agent, C the caller, B both, . nobody."""

from __future__ import annotations

import numpy as np
import pytest

from media.leg import Exchange
from voipagent.turns import Turns

RATE = 24_000
FRAME_S = 0.08


def sound(drawn: str, who: str, level: float = 0.2) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    bars = np.array([letter in (who, "B") for letter in drawn], np.float32)
    tone = np.sin(2 * np.pi * 300 * np.arange(len(drawn) * RATE // 10) / RATE)
    samples: np.ndarray[tuple[int], np.dtype[np.float32]] = (level * np.repeat(bars, RATE // 10) * tone).astype(
        np.float32
    )
    return samples


def told(drawn: str, echo: float = 0.0, noise: float = 0.0) -> Turns:
    """The turns of a call as drawn, frame by frame, and a second of silence."""
    drawn += "." * 10
    agent = sound(drawn, "A")
    random = np.random.default_rng(7)
    caller = sound(drawn, "C") + echo * np.roll(agent, RATE // 5) + noise * random.standard_normal(len(agent))
    turns, size = Turns(RATE), round(FRAME_S * RATE)
    for number in range(len(agent) // size):
        part = slice(number * size, (number + 1) * size)
        turns.hear(Exchange(caller[part].astype(np.float32), agent[part]), number * FRAME_S)
    return turns


def test_the_latency_is_from_the_callers_last_sound_to_the_agents_first() -> None:
    turns = told("CCCCCCCC.....AAAAAAAA..........CCCCCC..AAAAA")
    assert turns.latencies_s == [pytest.approx(0.5, abs=0.03), pytest.approx(0.2, abs=0.03)]
    assert (turns.interruptions, turns.backchannels) == ([], 0)


def test_its_quantiles_are_those_of_all_responses() -> None:
    waits = range(2, 12)
    turns = told("".join("CCCCCC" + "." * wait + "AAAAAA....." for wait in waits))
    expected = np.quantile([wait / 10 for wait in waits], [0.5, 0.9, 0.95])
    assert turns.latency()["count"] == 10
    got = [turns.latency()[name] for name in ("p50_s", "p90_s", "p95_s")]
    assert got == pytest.approx(expected, abs=0.04)


def test_without_a_response_there_is_no_latency() -> None:
    assert told("AAAAAA....CCCCC").latency() == {"count": 0, "p50_s": None, "p90_s": None, "p95_s": None}


def test_who_greets_has_answered_nobody() -> None:
    assert told("AAAAAAAA......CCCCCC....AAAA").latencies_s == [pytest.approx(0.4, abs=0.03)]


def test_a_pause_between_words_is_no_end_of_a_turn() -> None:
    assert told("CCCC..CCCC..CCCC....AAAAA").latencies_s == [pytest.approx(0.4, abs=0.03)]


def test_who_begins_before_the_caller_is_done_answers_nothing_yet() -> None:
    assert told("CCCC.BBBCCCC").latencies_s == []


def test_a_click_is_no_question() -> None:
    assert told("C..........AAAAAA").latencies_s == []


def test_an_interruption_is_the_agent_falling_silent_for_the_caller() -> None:
    turns = told("AAAAAAAAAABBBBCCCCCCCC....AAAAAA")
    assert turns.interruptions == [pytest.approx(1.4, abs=0.03)]
    assert turns.backchannels == 0
    assert turns.latencies_s == [pytest.approx(0.4, abs=0.03)]
    assert turns.interrupted(0.0, 1.2) and not turns.interrupted(2.6, 3.2)


def test_a_short_word_that_silences_the_agent_interrupts_it_too() -> None:
    turns = told("AAAAAAAAAABBBAA...........AAA")
    assert (len(turns.interruptions), turns.backchannels) == (1, 0)


def test_a_backchannel_is_short_and_the_agent_speaks_on() -> None:
    turns = told("AAAAAAAAAABBBAAAAAAAAAAAAABBBBAAAAAAAAAAAA.....")
    assert (turns.interruptions, turns.backchannels) == ([], 2)
    assert turns.latencies_s == []


def test_a_long_speech_over_the_agents_is_neither() -> None:
    turns = told("AAAAA" + "B" * 20 + "AAAAAAAAAAAA")
    assert (turns.interruptions, turns.backchannels) == ([], 0)


def test_taking_the_turn_a_little_early_interrupts_nobody() -> None:
    turns = told("AAAAAAAAAABCCCCCCCC...AAAA")
    assert turns.interruptions == []
    assert turns.latencies_s == [pytest.approx(0.3, abs=0.03)]


def test_an_echo_of_the_agent_is_not_the_caller() -> None:
    turns = told("AAAAAAAAAAAAAAAA......AAAAAAAAAAA", echo=0.3)
    assert (turns.interruptions, turns.backchannels, turns.latencies_s) == ([], 0, [])


def test_line_noise_is_not_speech() -> None:
    turns = told("CCCCCCCC.....AAAAAAAA......", noise=0.005)
    assert turns.latencies_s == [pytest.approx(0.5, abs=0.03)]
    assert turns.backchannels == 0


def test_what_is_cut_off_is_interrupted_before_that_is_heard() -> None:
    turns = Turns(RATE)
    turns.cut(2.0)
    assert turns.interrupted(1.0, 2.0) and not turns.interrupted(2.1, 3.0)
    assert turns.interruptions == []


def test_frames_that_were_skipped_are_time_all_the_same() -> None:
    turns, size = Turns(RATE), 1920
    loud, quiet = sound("C" * 10, "C")[:size], np.zeros(size, np.float32)
    for number in range(5):
        turns.hear(Exchange(loud, quiet), number * FRAME_S)
    for number in range(10):
        turns.hear(Exchange(quiet, loud), 2.4 + number * FRAME_S)
    assert turns.latencies_s == [pytest.approx(2.0, abs=0.03)]
