"""Pieces of text become lines."""

from __future__ import annotations

from voipagent.context import PAUSE_S, Line, Transcript

FRAME_S = 0.08


def lines(*texts: str, end: bool = True) -> list[Line]:
    written: list[Line] = []
    transcript = Transcript(written.append)
    for number, text in enumerate(texts):
        transcript.hear(text, number * FRAME_S, (number + 1) * FRAME_S)
    if end:
        transcript.end_line()
    return written


def test_pieces_join_to_a_line_with_the_times_of_its_first_and_last() -> None:
    assert lines("", " Hel", "lo", "", " there.") == [Line("agent", "Hello there.", 0.08, 0.4)]


def test_a_pause_ends_the_line() -> None:
    quiet = [""] * (int(PAUSE_S / FRAME_S) + 1)
    assert [line.text for line in lines(" one", *quiet, " two")] == ["one", "two"]


def test_a_pause_ends_the_line_while_it_lasts() -> None:
    assert [line.text for line in lines(" one", *[""] * 14, end=False)] == ["one"]


def test_no_pause_ends_a_text_that_is_being_said() -> None:
    written: list[Line] = []
    transcript = Transcript(written.append)
    for number, text in enumerate(["one", *[""] * 30, " two", *[""] * 30]):
        transcript.hear(text, number * FRAME_S, (number + 1) * FRAME_S, saying=number < 31)
    assert [line.text for line in written] == ["one two"]


def test_silence_writes_nothing() -> None:
    assert lines(*[""] * 100) == []


def test_a_line_of_blanks_writes_nothing() -> None:
    assert lines(" ", " ") == []


def test_a_line_round_trips() -> None:
    line = Line("agent", 'He said "é"\n', 1.25, 2.5)
    assert Line.parse(str(line)) == line
    assert "\n" not in str(line)
