"""Pieces of text become lines."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from voipagent.context import PATIENCE_S, PAUSE_S, Line, Transcript
from voipagent.words import Word

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


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0.30, ["costs a", "There is"]),
        (0.32, ["costs a", "There is"]),  # what began in that moment was begun since
        (0.05, ["costs", "a There is"]),  # a word is not torn apart
        (0.00, ["costs a There is"]),
        (9.00, ["costs a There is"]),
    ],
)
def test_what_is_said_since_the_agent_fell_silent_is_another_line(at: float, expected: list[str]) -> None:
    written: list[Line] = []
    transcript = Transcript(written.append)
    for number, text in enumerate([" co", "sts", " a", "", " There", " is"]):
        transcript.hear(text, number * FRAME_S, (number + 1) * FRAME_S)
    transcript.break_line(at)
    transcript.close()
    assert [line.text for line in written] == expected


def test_silence_writes_nothing() -> None:
    assert lines(*[""] * 100) == []


def test_a_line_of_blanks_writes_nothing() -> None:
    assert lines(" ", " ") == []


def test_a_line_round_trips() -> None:
    line = Line("caller", 'He said "é"\n', 1.25, 2.5)
    for each in (line, replace(line, words=(Word("He", 1.25, 1.5), Word('"é"', 1.6, 2.5)))):
        assert Line.parse(str(each)) == each
        assert "\n" not in str(each)


# --- both sides ----------------------------------------------------------------------------------------------------

DELAY = 3


class Talk:
    """Steps of a call: what the agent says at a frame, and what the caller does, which is known DELAY frames later."""

    def __init__(
        self,
        said: dict[int, str],
        heard: dict[int, str],
        delay: int = DELAY,
        due: Collection[int] = (),
        over: Collection[int] = (),
    ) -> None:
        self.lines: list[Line] = []
        self.transcript = Transcript(self.lines.append, delay)
        self._said, self._heard, self._delay, self._frame = said, heard, delay, 0
        self._due, self._over = due, over

    def until(self, frame: int) -> list[Line]:
        """What is written before `frame`."""
        for number in range(self._frame, frame):
            heard = self._heard.get(number - self._delay, "")
            start, end = number * FRAME_S, (number + 1) * FRAME_S
            due = number - self._delay in self._due
            quiet = (0.9, 0.9, 0.8 if number in self._over else 0.2, 0.1)
            self.transcript.hear(self._said.get(number, ""), start, end, heard=heard, word_due=due, quiet=quiet)
        self._frame = frame
        return self.lines

    def close(self) -> list[tuple[str, str]]:
        self.transcript.close()
        return [(line.role, line.text) for line in self.lines]


def test_the_callers_words_have_the_times_of_when_they_were_said() -> None:
    talk = Talk({}, {10: " good", 12: " day"})
    words = Word("good", 0.8, 0.96), Word("day", 0.96, 1.52)  # nothing tells where it ended, but it was over by then
    assert talk.until(12 + DELAY + 14) == [Line("caller", "good day", 0.8, 1.52, words=words)]


def test_a_line_ends_where_the_ear_says_that_the_turn_is_over() -> None:
    """Half a second before a pause would end it; the heads tell of the sound, whose words come DELAY later."""
    talk = Talk({}, {10: " good", 11: " day", 18: " hello"}, over={16})
    assert talk.until(16 + DELAY) == []
    assert [line.text for line in talk.until(17 + DELAY)] == ["good day"]
    talk.until(30)
    assert talk.close()[1:] == [("caller", "hello")]


def test_no_line_ends_within_a_word() -> None:
    assert Talk({}, {10: " go", 12: "od"}, over={11}).until(40)[0].text == "good"
    assert Talk({}, {10: " good", 17: " day"}, over={15}, due={15}).until(40)[0].text == "good day"


def test_a_word_begins_where_it_is_due() -> None:
    """The mark came in frame 9, the word's text in 11; and no line has begun before its first word's text."""
    talk = Talk({}, {11: " good", 20: " day"}, due={9, 17})
    talk.until(40)
    assert talk.close() == [("caller", "good day")]
    assert talk.lines[0].words == (Word("good", 0.88, 1.44), Word("day", 1.44, 2.16))
    assert (talk.lines[0].start, talk.lines[0].end) == (0.88, 2.16)


def told_by(*steps: tuple[str, tuple[str, ...]], delay_frames: int = 0) -> list[Line]:
    """The lines of steps of what was heard, and who spoke in the frame."""
    lines: list[Line] = []
    transcript = Transcript(lines.append, delay_frames)
    for number, (heard, speakers) in enumerate(steps):
        transcript.hear("", number * 0.08, (number + 1) * 0.08, heard=heard, speakers=speakers)
    transcript.close()
    return lines


def test_where_several_are_the_caller_each_line_is_of_one() -> None:
    lines = told_by(
        *((" good", ("ada",)), (" morning", ("ada", "bob")), (" and", ("bob", "ada")), (" to you", ("bob",))),
        *((" thanks", ()), (" all", ("ada",))),
    )
    assert [(line.speaker, line.text) for line in lines] == [
        ("ada", "good morning"),
        ("bob", "and to you thanks"),
        ("ada", "all"),
    ]
    assert lines[1].start == 0.16 and Line.parse(str(lines[1])) == lines[1]


def test_a_word_is_of_the_one_who_began_it() -> None:
    lines = told_by((" mor", ("ada",)), ("ning", ("bob",)), (" bob", ("bob",)))
    assert [(line.speaker, line.text) for line in lines] == [("ada", "morning"), ("bob", "bob")]


def test_who_spoke_is_known_of_when_it_was_said() -> None:
    """Four frames ago, and two more until it was clear who began."""
    speakers = ["", "ada", "ada", "bob", "bob", "bob", "cid", "cid"]
    texts = ["", "", "", "", "", " hello", " there", " bob"]
    steps = [(text, (who,) if who else ()) for text, who in zip(texts, speakers, strict=True)]
    lines = told_by(*steps, delay_frames=4)
    assert [(line.speaker, line.text) for line in lines] == [("bob", "hello there bob")]
    assert told_by(*steps, ("", ("cid",)), (" yes", ("cid",)), delay_frames=4)[1].speaker == "cid"


def test_who_it_is_may_turn_out_within_the_line() -> None:
    lines = told_by((" hel", ()), ("lo", ("ada",)), (" bob", ("ada",)))
    assert [(line.speaker, line.text) for line in lines] == [("ada", "hello bob")]


def test_a_lone_caller_has_no_name() -> None:
    (line,) = told_by((" hello", ()))
    assert line.speaker == "" and "speaker" not in str(line)


def test_the_agents_words_are_not_timed() -> None:
    talk = Talk({3: " Good day."}, {})
    talk.until(10)
    talk.close()
    assert talk.lines[0].words == () and "words" not in str(talk.lines[0])


def test_no_word_was_said_before_the_call() -> None:
    """Nor could it be, unless the ear makes something up."""
    talk = Talk({}, {-2: " psst", 0: " hello"})
    talk.until(5)
    assert talk.close() == [("caller", "psst hello")]
    assert (talk.lines[0].start, talk.lines[0].end) == (0.0, 0.08)


def test_a_question_comes_before_its_answer_though_it_is_known_later() -> None:
    talk = Talk({20: " Yes."}, {10: " really", 18: " really"}, delay=30)
    assert talk.until(48) == []
    assert [line.text for line in talk.until(80)] == ["really really", "Yes."]


def test_lines_of_both_are_in_the_order_in_which_they_began() -> None:
    """The caller talks on over the agent's short word; the next to begin is the agent."""
    heard = {number: " on" for number in range(2, 40, 5)}
    talk = Talk({20: " Mm-hm.", 45: " I see.", 80: " Well,"}, {**heard, 70: " so"})
    talk.until(100)
    assert talk.close() == [
        ("caller", "on on on on on on on on"),
        *(("agent", "Mm-hm."), ("agent", "I see."), ("caller", "so"), ("agent", "Well,")),
    ]
    starts = [line.start for line in talk.lines]
    assert starts == sorted(starts)


def test_a_pause_of_one_side_does_not_end_the_others_line() -> None:
    talk = Talk({number: " la" for number in range(0, 60, 5)}, {5: " stop", 50: " it"})
    talk.until(60)
    assert talk.close() == [("agent", " ".join(["la"] * 12)), ("caller", "stop"), ("caller", "it")]


def test_a_line_does_not_wait_for_ever_for_the_other_sides() -> None:
    """An ear that music keeps busy must not keep the agent's words from the disk."""
    talk = Talk({20: " Hello?"}, {number: " la" for number in range(1000)})
    patient = 20 + round(PATIENCE_S / FRAME_S)
    assert talk.until(patient - 1) == []
    assert [line.text for line in talk.until(patient + 2)] == ["Hello?"]


def test_without_an_ear_a_line_is_written_once_it_is_over() -> None:
    talk = Talk({2: " Hello."}, {}, delay=0)
    talk.until(4)
    talk.transcript.end_line()
    assert [line.text for line in talk.lines] == ["Hello."]


def test_the_last_words_that_are_known_are_written_at_the_end() -> None:
    talk = Talk({4: " Bye."}, {5: " good", 9: " bye"})
    talk.until(10)
    assert talk.close() == [("agent", "Bye."), ("caller", "good")]
