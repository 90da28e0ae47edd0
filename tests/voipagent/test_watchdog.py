"""A model that is stuck is noticed by its words alone, and one that is not is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle, islice

import pytest

from voipagent.watchdog import AGAIN_S, FRAME_S, PIECE_FRAMES, Trouble, Watchdog, WatchdogSettings

Frames = Iterable[tuple[str, bool]]


def found(frames: Frames, settings: WatchdogSettings | None = None) -> list[tuple[float, Trouble]]:
    """What is found, and after how many seconds. A frame is the agent's piece, and whether the caller spoke."""
    dog = Watchdog(settings or WatchdogSettings())
    troubles = [dog.stepped(text, spoke=spoke) for text, spoke in frames]
    return [(round(number * FRAME_S, 2), trouble) for number, trouble in enumerate(troubles, 1) if trouble]


def silence(seconds: float) -> Iterator[tuple[str, bool]]:
    return islice(cycle([("", False)]), round(seconds / FRAME_S))


def caller(seconds: float) -> Iterator[tuple[str, bool]]:
    return islice(cycle([("", True)]), round(seconds / FRAME_S))


def agent(pieces: Iterable[str], every: int = 3) -> Iterator[tuple[str, bool]]:
    for piece in pieces:
        yield piece, False
        yield from islice(cycle([("", False)]), every - 1)


def counted(count: int) -> list[str]:
    return [f" {number}" for number in range(count)]


def test_a_caller_who_asked_and_hears_nothing_is_not_left_alone() -> None:
    assert found([*caller(2), *silence(20)]) == [(14.0, Trouble.DEAD_AIR)]


@pytest.mark.parametrize(("pieces", "is_turn"), [(1, False), (2, True), (5, True)])
def test_of_what_an_ear_writes_two_pieces_are_a_turn(pieces: int, is_turn: bool) -> None:
    dog = Watchdog(WatchdogSettings())
    written = [PIECE_FRAMES, 0, 0] * pieces + [0] * 200
    assert any(dog.stepped("", spoke=spoke) is Trouble.DEAD_AIR for spoke in written) == is_turn


@pytest.mark.parametrize(
    "frames",
    [
        [*silence(600)],
        [*caller(0.3), *silence(600)],
        [*caller(0.3), *silence(4)] * 100,
        [*caller(60)],
        [*caller(2), *agent(["We are closed."]), *silence(600)],
        [*caller(2), *silence(11), *caller(1), *silence(11), *agent(["Hello?"]), *silence(60)],
    ],
    ids=["nobody speaks", "mm-hm", "clicks", "the caller talks on", "answered", "asked again"],
)
def test_a_silence_that_nobody_waits_in_is_none(frames: Frames) -> None:
    assert found(frames) == []


@pytest.mark.parametrize("every", [1, 3])
def test_a_loop_of_six_pieces_is_found_after_its_third_time(every: int) -> None:
    ((seconds, trouble),) = found(agent(islice(cycle(counted(6)), 20), every))
    assert trouble is Trouble.LOOP
    assert seconds <= 18 * every * FRAME_S


def test_one_word_again_and_again_is_a_loop_of_one() -> None:
    assert found(agent([" the"] * 20, 1)) == [(1.2, Trouble.LOOP)]


@pytest.mark.parametrize(
    "frames",
    [
        agent(counted(200)),
        agent([" three"] * 9),
        [*agent(counted(8)), *silence(1.5)] * 10,
        [*agent([*counted(6), *counted(6)]), *silence(2)] * 5,
    ],
    ids=["a list", "three three three", "the same answer to the same question", "said twice"],
)
def test_what_is_said_again_with_reason_is_no_loop(frames: Frames) -> None:
    assert found(frames) == []


def test_speech_without_a_pause_is_found_after_a_minute() -> None:
    assert found(agent(counted(400))) == [(60.0, Trouble.RUNAWAY)]
    assert found(agent(counted(100), 11)) == [(60.0, Trouble.RUNAWAY)]
    assert found([*agent(counted(200)), *silence(1), *agent(counted(200))]) == []


def test_a_given_text_is_never_a_trouble() -> None:
    dog = Watchdog(WatchdogSettings())
    assert not any(dog.stepped(" the", spoke=False, saying=True) for _ in range(2_000))


def test_once_found_it_is_left_alone_for_a_while_and_found_again() -> None:
    first, second = found(agent([" the"] * round((AGAIN_S + 5) / FRAME_S), 1))
    assert second[0] - first[0] == pytest.approx(AGAIN_S, abs=2 * FRAME_S)


def test_each_can_be_turned_off() -> None:
    off = WatchdogSettings(dead_air=0, runaway=0, loops=False)
    assert found([*agent([" the"] * 1000, 1), *caller(3), *silence(600)], off) == []
