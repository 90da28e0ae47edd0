"""A caller's turns, on the time of what it hears."""

from __future__ import annotations

import numpy as np

from voipagent.lab.caller import LONGEST_S, PATIENCE_S, Caller, Pcm16, Turn

RATE, PIECE = 8_000, 160
LOUD: Pcm16 = np.full(PIECE, 5_000, np.int16)
QUIET: Pcm16 = np.zeros(PIECE, np.int16)
WORD: Pcm16 = np.full(400, 900, np.int16)


def run(caller: Caller, heard: Pcm16, seconds: float) -> list[float]:
    """Hear the same for so long; the times at which it said anything."""
    said = []
    for number in range(round(seconds * 50)):
        caller.hear(heard)
        if caller.say(PIECE).any():
            said.append(number / 50)
    return said


def test_a_sentence_waits_until_the_agent_has_spoken_and_been_quiet() -> None:
    caller = Caller([Turn(WORD, "quiet", 1.0)], RATE)
    assert run(caller, QUIET, 2) == []
    assert run(caller, LOUD, 2) == []
    said = run(caller, QUIET, 2)
    assert said == [0.98, 1.0, 1.02]  # three pieces, the last one not full


def test_a_pause_between_words_is_not_the_end_of_a_turn() -> None:
    caller = Caller([Turn(WORD, "quiet", 0.8)], RATE)
    for _ in range(4):
        assert run(caller, LOUD, 0.3) == []
        assert run(caller, QUIET, 0.5) == []


def test_who_interrupts_begins_while_the_agent_talks() -> None:
    caller = Caller([Turn(WORD, "talking", 1.0)], RATE)
    assert run(caller, QUIET, 1) == []
    assert run(caller, LOUD, 0.5) == []
    assert run(caller, QUIET, 0.2) == []  # between two words: its time counts
    assert run(caller, LOUD, 1.0)[0] == 0.28
    assert not caller.over


def test_what_was_said_is_the_sentence_and_nothing_else() -> None:
    caller = Caller([Turn(WORD, "quiet", 0.2)], RATE)
    run(caller, LOUD, 0.1)
    pieces = []
    for _ in range(50):
        caller.hear(QUIET)
        pieces.append(caller.say(PIECE))
    said = np.concatenate(pieces)
    assert np.array_equal(said[said != 0], WORD)


def test_what_the_agent_says_into_a_sentence_is_no_answer_to_it() -> None:
    caller = Caller([Turn(WORD, "quiet", 0.5), Turn(WORD, "quiet", 0.5)], RATE)
    run(caller, LOUD, 0.5)
    assert len(run(caller, QUIET, 0.5)) == 1  # its first piece
    assert len(run(caller, LOUD, 0.04)) == 2  # the agent is heard meanwhile
    assert run(caller, QUIET, 3) == []
    run(caller, LOUD, 0.5)
    assert run(caller, QUIET, 1)


def test_a_deaf_agent_is_asked_all_the_same_and_left_in_the_end() -> None:
    caller = Caller([Turn(WORD), Turn(WORD, "talking")], RATE)
    first = run(caller, QUIET, PATIENCE_S + 0.5)
    assert first and first[0] >= PATIENCE_S - 0.1
    assert run(caller, QUIET, PATIENCE_S + 0.5)
    assert not caller.over
    assert run(caller, QUIET, PATIENCE_S + 0.5) == []
    assert caller.over and caller.first_sound_s is None


def test_a_long_answer_is_heard_out() -> None:
    caller = Caller([Turn(WORD, "quiet", 0.5), Turn(WORD, "quiet", 0.5)], RATE)
    run(caller, LOUD, 0.5)
    assert run(caller, QUIET, 1.0)
    assert run(caller, LOUD, 3 * PATIENCE_S) == []
    assert run(caller, QUIET, 1.0)
    assert run(caller, LOUD, 3 * PATIENCE_S) == [] and not caller.over
    run(caller, QUIET, 2.0)
    assert caller.over


def test_who_never_stops_is_interrupted_and_left() -> None:
    caller = Caller([Turn(WORD, "quiet", 0.5)], RATE)
    assert run(caller, LOUD, LONGEST_S - 1) == []
    assert run(caller, LOUD, 2)
    run(caller, LOUD, LONGEST_S + 1)
    assert caller.over


def test_it_is_over_when_the_last_answer_was_heard_out() -> None:
    caller = Caller([Turn(WORD, "quiet", 0.5)], RATE)
    run(caller, LOUD, 0.5)
    assert run(caller, QUIET, 1.0)
    assert not caller.over
    run(caller, LOUD, 1.0)
    assert not caller.over
    run(caller, QUIET, 2.0)
    assert caller.over and caller.first_sound_s == 0.02
