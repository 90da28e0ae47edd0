"""What is written down of a call: of the caller, only where that may be kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.leg import Exchange, LegStats
from signaling.call import CallEnded, Outcome
from voipagent.context import Line
from voipagent.minutes import Minutes
from voipagent.record import CallFolder, CallRecord, utc_now
from voipagent.recording import Channels, Recorder
from voipagent.story import Story
from voipagent.summary import Extractive, SummaryError
from voipagent.trim import Trim

QUIET = np.zeros(1920, np.float32)
LOUD = (0.3 * np.sin(np.arange(1920) / 10)).astype(np.float32)
SAID = [Line("agent", "Good day.", 0.0, 0.8), Line("caller", "My name is Wilhelmina.", 1.0, 2.0)]
TRIM = Trim(3.0, "pause", 0.25, 100, 40, "The caller's name is Wilhelmina.")
ENDED = CallEnded("caller", "hung up")


def minutes(recorder: Recorder, root: Path, channels: Channels = "both") -> Minutes:
    folder = CallFolder(recorder, root, utc_now(), "x")
    record = CallRecord("x", "sip", "alice", "agent", "192.0.2.7:5060", utc_now().isoformat())
    return Minutes(record, folder, recorder.record(folder.path / "recording.wav", 24_000, channels))


def left(on: Minutes) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((on.folder.path / "call.json").read_text())
    return record


async def test_the_record_tells_of_turns_network_trims_and_files(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    for heard, played in [(LOUD, QUIET)] * 6 + [(QUIET, QUIET)] * 5 + [(QUIET, LOUD)] * 10:
        on.hear(Exchange(heard, played))
    for line in SAID:
        on.keep(line)
    stats = LegStats(codec="opus", packets_lost=3)
    await on.close(stats, SAID, [TRIM], CallEnded("network", "486 Busy Here", Outcome.BUSY))
    record = left(on)
    assert record["duration_s"] == pytest.approx(21 * 0.08)
    assert record["response_latency"]["count"] == 1
    assert record["response_latency"]["p95_s"] == pytest.approx(0.4, abs=0.03)
    assert (record["interruptions"], record["backchannels"]) == (0, 0)
    assert (record["media"]["codec"], record["media"]["packets_lost"]) == ("opus", 3)
    assert (record["trims"][0]["took_s"], record["trims"][0]["kept_frames"]) == (0.25, 100)
    assert "Wilhelmina" in record["summary"]
    assert (record["ended_by"], record["reason"], record["outcome"]) == ("network", "486 Busy Here", "busy")
    assert {path.name for path in on.folder.path.iterdir()} == {"call.json", *record["artefacts"]}
    assert record["recording"] == "recording.wav" in record["artefacts"]


async def test_steps_are_counted_with_their_mean_and_longest(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    for step_s in (0.01, 0.03, 0.09, 0.03):
        on.step(step_s, step_s > 0.08)
    await on.close(LegStats(), [], [], ENDED)
    record = left(on)
    assert (record["frames_stepped"], record["frames_late"], record["step_s_max"]) == (4, 1, 0.09)
    assert record["step_s_mean"] == pytest.approx(0.04)


@pytest.mark.parametrize("channels", ["agent", "none"])
async def test_where_the_caller_is_not_kept_no_file_has_a_word_of_theirs(
    recorder: Recorder, tmp_path: Path, channels: Channels
) -> None:
    """Neither at the end nor while the call lasts."""
    on = minutes(recorder, tmp_path, channels)
    for line in SAID:
        on.keep(line)
    on.note(LegStats(), [Line("caller", "It is Wilhelmina who", 3.0, 4.0), Line("agent", "I see", 4.0, 5.0)], [TRIM])
    recorder.do(lambda: None).result(5)
    assert "I see" in (on.folder.path / "begun.json").read_text()
    while_it_lasts = [path.read_bytes() for path in on.folder.path.iterdir()]
    await on.close(LegStats(), SAID, [TRIM], ENDED)
    at_its_end = [path.read_bytes() for path in on.folder.path.iterdir()]
    assert not any(b"Wilhelmina" in text for text in while_it_lasts + at_its_end)
    assert len(at_its_end) >= 5  # the agent's words are
    assert left(on)["trims"][0]["took_s"] == 0.25


async def test_a_line_that_the_caller_cut_off_says_so(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    silent: list[float] = []
    for heard, played in [(QUIET, LOUD)] * 10 + [(LOUD, LOUD)] * 5 + [(LOUD, QUIET)] * 10:
        silent += on.hear(Exchange(heard, played))
    assert silent == [pytest.approx(1.2, abs=0.02)]
    for line in [Line("agent", "We are open from", 0.0, 1.1), Line("caller", "stop stop", 0.8, 2.0)]:
        on.keep(line)
    await on.close(LegStats(), [], [], ENDED)
    told = json.loads((on.folder.path / "transcript.json").read_text())["lines"]
    assert [(line["role"], line["interrupted"]) for line in told] == [("agent", True), ("caller", False)]
    assert left(on)["interruptions"] == 1


async def test_how_far_it_has_come_is_noted_with_what_is_counted_elsewhere(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    for _ in range(10):
        on.hear(Exchange(LOUD, QUIET))
    on.note(LegStats(packets_received=40), [SAID[1]], [TRIM])
    recorder.do(lambda: None).result(5)
    begun = json.loads((on.folder.path / "begun.json").read_text())
    assert begun["record"]["duration_s"] == pytest.approx(0.8)
    assert begun["record"]["media"]["packets_received"] == 40
    assert begun["record"]["recording"] == "recording.wav"
    assert begun["record"]["reason"] == "" == begun["record"]["ended_by"]
    assert [line["text"] for line in begun["lines"]] == ["My name is Wilhelmina."]
    await on.close(LegStats(), [], [], ENDED)


async def test_the_note_of_a_long_call_does_not_grow_with_it(recorder: Recorder, tmp_path: Path) -> None:
    on, trims = minutes(recorder, tmp_path), [replace(TRIM, at=float(at)) for at in range(500)]
    on.note(LegStats(), [], trims)
    recorder.do(lambda: None).result(5)
    noted = json.loads((on.folder.path / "begun.json").read_text())["record"]["trims"]
    assert [trim["at"] for trim in noted] == list(range(450, 500))
    await on.close(LegStats(), [], trims, ENDED)
    assert len(left(on)["trims"]) == 500


class Summed:
    """Sums up, or fails to."""

    def __init__(self, text: str = "", error: str = "") -> None:
        self.text, self.error, self.asked = text, error, 0

    async def summarize(self, last: Story, lines: Sequence[Line]) -> Story:
        self.asked += 1
        if self.error:
            raise SummaryError(self.error)
        return Story({}, f"{last.text} {self.text} {len(lines)}")


async def test_who_sums_up_calls_sums_up_the_record_too(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    for line in SAID:
        on.keep(line)
    await on.close(LegStats(), SAID, [], ENDED)
    found = left(on)["summary"]
    assert "My name is Wilhelmina." in found
    await on.sum_up(Summed(error="the summariser is gone"), Story(), SAID)
    await on.sum_up(Extractive(), Story(), SAID)
    assert left(on)["summary"] == found
    await on.sum_up(Summed("Then a bike."), Story({}, "She rang."), SAID)
    assert left(on)["summary"] == "She rang. Then a bike. 2"
    assert on.folder.error == "" and left(on)["reason"] == "hung up"


async def test_nobody_is_asked_to_sum_up_what_may_not_be_kept(recorder: Recorder, tmp_path: Path) -> None:
    on, asked = minutes(recorder, tmp_path, "agent"), Summed("She rang.")
    await on.close(LegStats(), SAID, [], ENDED)
    await on.sum_up(asked, Story(), SAID)
    assert left(on)["summary"] == "" and asked.asked == 0


async def test_the_shortest_call_has_its_recording_in_the_record(recorder: Recorder, tmp_path: Path) -> None:
    """It is written, and made, only at the end."""
    on = minutes(recorder, tmp_path)
    on.hear(Exchange(LOUD, QUIET))
    await on.close(LegStats(), [], [], ENDED)
    assert left(on)["recording"] == "recording.wav" in left(on)["artefacts"]


async def test_what_the_transcript_lacks_is_said(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    recorder.do(lambda: (on.folder.path / "transcript.jsonl").mkdir()).result(5)
    on.keep(SAID[0])
    await on.close(LegStats(), SAID, [], ENDED)
    assert left(on)["transcript_error"].startswith("transcript.jsonl: ")


async def test_what_was_heard_before_the_answer_is_one_of_the_files(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    on.record.early = "early.wav"
    await on.close(LegStats(), [], [], ENDED)
    assert left(on)["artefacts"] == ["early.wav"]


async def test_who_talks_past_the_agent_is_not_judged(recorder: Recorder, tmp_path: Path) -> None:
    on = minutes(recorder, tmp_path)
    for heard, played in [(LOUD, QUIET)] * 6 + [(QUIET, QUIET)] * 5 + [(QUIET, LOUD)] * 10:
        on.hear(Exchange(heard, played), judged=False)
    await on.close(LegStats(), [], [], ENDED)
    assert (left(on)["response_latency"]["count"], left(on)["duration_s"]) == (0, pytest.approx(21 * 0.08))


async def test_times_count_what_was_skipped(recorder: Recorder, tmp_path: Path) -> None:
    """A second of the call is lost before the agent's first word: the caller waited for it all the same."""
    on = minutes(recorder, tmp_path)
    for heard, played, skipped in (
        [(LOUD, QUIET, 0)] * 6 + [(QUIET, QUIET, 0), (QUIET, LOUD, 24_000)] + [(QUIET, LOUD, 0)] * 9
    ):
        on.hear(Exchange(heard, played, skipped=skipped))
    await on.close(LegStats(), [], [], ENDED)
    assert left(on)["response_latency"]["p50_s"] == pytest.approx(1.08, abs=0.03)


async def test_nobody_is_asked_to_sum_up_silence(recorder: Recorder, tmp_path: Path) -> None:
    on, asked = minutes(recorder, tmp_path), Summed("She rang.")
    await on.close(LegStats(), [], [], ENDED)
    await on.sum_up(asked, Story(), [])
    assert asked.asked == 0
