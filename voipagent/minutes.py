"""What is written down of one call: what is heard, said and counted while it lasts, and its record at the end.

Where the caller's voice is not to be kept, nothing that the caller said is: no words, no summary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace

from media.leg import Exchange, LegStats
from signaling.call import CallEnded
from voipagent.context import Line
from voipagent.record import CallFolder, CallRecord
from voipagent.recording import Recording
from voipagent.story import Story, extract
from voipagent.summary import Extractive, Summarizer, SummaryError
from voipagent.trim import Trim
from voipagent.turns import Turns

logger = logging.getLogger(__name__)

NOTED_TRIMS = 50
"""While a call lasts its note, written anew each second, has the last of them only; the record has all."""


class Minutes:
    """One call's. `record` is open to whoever has something to note in it."""

    def __init__(self, record: CallRecord, folder: CallFolder, recording: Recording) -> None:
        self.record, self.folder, self.recording = record, folder, recording
        self.turns = Turns(recording.sample_rate)

    def hear(self, exchange: Exchange, *, judged: bool = True) -> Sequence[float]:
        """Take what was exchanged in a frame's time; `judged`: by caller and agent, who talk to each other.

        Gives the times, seconds of the call, at which the agent fell silent for the caller and that are known now.
        """
        known = len(self.turns.interruptions)
        if judged:
            self.turns.hear(exchange, self.recording.seconds + exchange.skipped / self.recording.sample_rate)
        self.recording.write(exchange)
        return self.turns.interruptions[known:]

    def step(self, step_s: float, late: bool) -> None:
        """Take how long the model was at a frame."""
        record = self.record
        record.frames_stepped += 1
        record.frames_late += late
        record.step_s_mean += (step_s - record.step_s_mean) / record.frames_stepped
        record.step_s_max = max(record.step_s_max, step_s)

    def keep(self, line: Line) -> None:
        """Write a finished line down, if its words may be kept."""
        if self._may_keep(line):
            cut = line.role == "agent" and self.turns.interrupted(line.start, line.end)
            self.folder.write_line(replace(line, interrupted=cut))

    def note(self, stats: LegStats, begun: Sequence[Line], trims: Sequence[Trim]) -> None:
        """Once a second: how far the call has come, with the lines that are not over yet."""
        self._fill(stats, trims[-NOTED_TRIMS:])
        self.folder.note(self.record, [line for line in begun if self._may_keep(line)])

    async def close(self, stats: LegStats, lines: Sequence[Line], trims: Sequence[Trim], ended: CallEnded) -> None:
        """Finish the recording, and write the record; `lines` are all that were said."""
        await self.recording.close()
        self._fill(stats, trims)
        record = self.record
        record.summary = str(extract(lines)) if self.recording.of_caller else ""
        record.recording_error, record.transcript_error = self.recording.error, self.folder.error
        record.ended_by, record.reason = ended.by, ended.reason
        record.outcome = ended.outcome.value if ended.outcome else ""
        await self.folder.write_record(record)

    async def sum_up(self, summarizer: Summarizer, last: Story, lines: Sequence[Line]) -> None:
        """Have somebody else sum up the call, once it is over; what was found here stays where that fails."""
        if isinstance(summarizer, Extractive) or not lines or not self.recording.of_caller:
            return
        try:
            self.record.summary = str(await summarizer.summarize(last, lines))
        except SummaryError as error:
            logger.warning("x %s %s; its record has the summary that was found here", self.record.id, error)
        else:
            await self.folder.write_record(self.record)

    def _fill(self, stats: LegStats, trims: Sequence[Trim]) -> None:
        """What is counted elsewhere, as it is now."""
        record = self.record
        record.media = asdict(stats)
        record.trims = [asdict(trim if self.recording.of_caller else replace(trim, summary="")) for trim in trims]
        record.duration_s = round(self.recording.seconds, 3)
        record.recording = self.recording.name
        record.artefacts = [*filter(None, [record.recording, record.early]), *self.folder.transcripts]
        record.response_latency = self.turns.latency()
        record.interruptions, record.backchannels = len(self.turns.interruptions), self.turns.backchannels

    def _may_keep(self, line: Line) -> bool:
        return line.role == "agent" or self.recording.of_caller
