"""Transcripts as files; the WebVTT is read by FFmpeg, which did not come from us."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voipagent.context import Line
from voipagent.transcript import as_json, as_text, as_webvtt, parse_lines

SAID = [
    Line("agent", "Good day, you said <b>three</b> & more --> is that right?", 0.08, 2.4, interrupted=True),
    Line("caller", "  no\n\nnot at all ", 2.0, 3.999),
    Line("agent", "Ünï\u2028😀", 3599.9996, 3599.9996),
]


def cues(vtt: str, folder: Path) -> list[tuple[int, int, str, str]]:
    """What FFmpeg reads of it: start and end in milliseconds, the cue's markup, the text that it shows."""
    path = folder / "t.vtt"
    path.write_text(vtt, encoding="utf-8")
    found = []
    with av.open(str(path), format="webvtt") as file:
        assert [stream.type for stream in file.streams] == ["subtitle"]
        for packet in file.demux(subtitles=0):
            if packet.pts is None or packet.duration is None or packet.size == 0:
                continue
            assert packet.time_base == Fraction(1, 1000)
            shown = "".join(part.dialogue.decode() for part in packet.decode())  # type: ignore[union-attr]  # all are ASS
            found.append((packet.pts, packet.pts + packet.duration, bytes(packet).decode(), shown))
    return found


def test_webvtt_opens_and_says_the_same(tmp_path: Path) -> None:
    read = cues(as_webvtt(SAID), tmp_path)
    assert [(start, end) for start, end, _, _ in read] == [(80, 2400), (2000, 3999), (3_600_000, 3_600_001)]
    assert [shown for *_, shown in read] == [
        "Good day, you said <b>three</b> & more --> is that right?",
        "no not at all",
        "Ünï 😀",
    ]
    assert [markup.partition(">")[0] for _, _, markup, _ in read] == ["<v Agent", "<v Caller", "<v Agent"]


def test_of_several_callers_each_has_a_name(tmp_path: Path) -> None:
    said = [Line("caller", "hello", 1.0, 2.0, speaker="Ada <L>"), Line("agent", "hello Ada", 2.0, 3.0)]
    assert as_text(said) == "[00:00:01] Ada <L>: hello\n[00:00:02] Agent: hello Ada\n"
    assert [markup.partition(">")[0] for _, _, markup, _ in cues(as_webvtt(said), tmp_path)] == [
        "<v Ada &lt;L&gt;",
        "<v Agent",
    ]
    told = json.loads(as_json(said))["lines"]
    assert told[0]["speaker"] == "Ada <L>" and "speaker" not in told[1]


def test_an_empty_call_is_a_valid_file(tmp_path: Path) -> None:
    assert as_webvtt([]) == "WEBVTT\n"
    assert cues(as_webvtt([]), tmp_path) == []


def test_cues_begin_in_order_whenever_they_were_written(tmp_path: Path) -> None:
    """W3C WebVTT, section 4.1: a cue begins no earlier than the one before it."""
    late = [Line("agent", "later", 5.0, 6.0), Line("caller", "sooner", 1.0, 9.0)]
    assert [start for start, *_ in cues(as_webvtt(late), tmp_path)] == [1000, 5000]


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(lambda t: t.split())


@given(st.lists(st.tuples(TEXTS, st.floats(0, 400_000), st.floats(0, 60)), max_size=8))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_nothing_that_is_said_breaks_the_file(said: list[tuple[str, float, float]]) -> None:
    """A strict reading by hand: blank-line separated blocks, one arrow each, no bare markup in the text."""
    lines = [Line("caller", text, start, start + length) for text, start, length in said]
    head, *blocks = as_webvtt(lines).removesuffix("\n").split("\n\n")
    assert head == "WEBVTT"
    assert len(blocks) == len(lines)
    for block in blocks:
        times, shown = block.split("\n")
        start, end = times.split(" --> ")
        assert start < end or len(start) < len(end)
        inner = shown.removeprefix("<v Caller>").removesuffix("</v>")
        assert not {"<", ">"} & set(inner)


def test_json_has_every_field_and_a_version() -> None:
    told = json.loads(as_json(SAID))
    assert told["version"] == 1
    assert [Line(**line) for line in told["lines"]] == SAID


def test_text_is_for_people() -> None:
    assert as_text(SAID).splitlines()[:2] == [
        "[00:00:00] Agent: Good day, you said <b>three</b> & more --> is that right? (interrupted)",
        "[00:00:02] Caller: no not at all",
    ]
    assert as_text([]) == ""


@pytest.mark.parametrize(
    "torn",
    [
        '{"role": "agent", "te',
        "{}",
        "[]",
        "7",
        "",
        '{"role": "agent", "text": 5, "start": 0, "end": 1}',
        "\0\0\0",
        "null",
    ],
)
def test_a_torn_line_costs_only_itself(torn: str) -> None:
    assert parse_lines("\n".join([*map(str, SAID), torn])) == SAID


def test_a_line_from_before_there_were_interruptions_is_read() -> None:
    old = '{"role": "agent", "text": "Hello.", "start": 0.08, "end": 0.8}'
    assert parse_lines(old) == [Line("agent", "Hello.", 0.08, 0.8)]
