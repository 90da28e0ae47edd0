"""The longest call on a made-up clock."""

from __future__ import annotations

from voipagent.longest import GOODBYE_S, TAIL_S, Act, Longest

FRAME_S = 0.08


def acts(longest: Longest, until: float, *, said_at: float = 0.0, held: bool = False) -> list[tuple[float, Act]]:
    """What is to be done and when, in a call until then; the goodbye's text is over at `said_at`."""
    found, saying = [], False
    for frame in range(1, round(until / FRAME_S) + 1):
        now = frame * FRAME_S
        saying = saying and now < said_at
        if (act := longest.passed(now, saying=saying, held=held)) is not None:
            found.append((round(now, 2), act))
            saying = act is Act.SAY
            if act is Act.HANG_UP:
                break
    return found


def test_without_a_limit_nothing_is_done() -> None:
    assert acts(Longest(), 10_000) == []


def test_a_shorter_call_is_left_alone() -> None:
    assert acts(Longest(10, "Bye."), 9.9) == []


def test_goodbye_is_said_and_heard_before_the_hang_up() -> None:
    (said, first), (hung_up, last) = acts(Longest(10, "Bye."), 60, said_at=13)
    assert (said, first, last) == (10.0, Act.SAY, Act.HANG_UP)
    assert 13 + TAIL_S <= hung_up < 13 + TAIL_S + 2 * FRAME_S


def test_weights_that_never_get_it_said_are_not_waited_for() -> None:
    (_, _), (hung_up, last) = acts(Longest(10, "Bye."), 60, said_at=1000)
    assert last is Act.HANG_UP
    assert abs(hung_up - 10 - GOODBYE_S) < 0.2


def test_without_a_goodbye_it_just_ends() -> None:
    assert acts(Longest(10), 60) == [(10.0, Act.HANG_UP)]


def test_who_holds_would_not_hear_it() -> None:
    assert acts(Longest(10, "Bye."), 60, held=True) == [(10.0, Act.HANG_UP)]


def test_the_reason_says_how_long_it_was() -> None:
    assert Longest(90.0, "Bye.").reason == "the call lasted 90 s, which is the longest allowed"
