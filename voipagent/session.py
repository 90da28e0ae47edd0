"""One conversation, start to end: a call, a leg and a slot.

There is no state machine here; there is one coroutine. Whatever happens in it comes down to the end of the call, and
the end of the call ends it: every failure below hangs up, and `Call.wait_ended` is the only way out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, EngineError, EngineFull, Reply, Slot
from media.leg import AudioFormat, Exchange, Leg, LegError, NoPort
from signaling.call import Call, CallEnded, CallOffer, Rejection, SignalingError
from voipagent.bargein import BargeIn
from voipagent.consent import Announcement, announce, wait_ready
from voipagent.context import Line as Said
from voipagent.context import Transcript
from voipagent.events import Answered, Began, Ended, Measured, Observer, Refused, Spoke, Stepped, Telling
from voipagent.longest import Act, Longest
from voipagent.minutes import Minutes
from voipagent.persona import Persona
from voipagent.putthrough import PutThrough
from voipagent.record import CallFolder, CallRecord, noted, utc_now
from voipagent.recording import Recording
from voipagent.renegotiation import renegotiate
from voipagent.tasks import first_error, first_of, to_the_end
from voipagent.transfer import Line, Switchboard
from voipagent.trim import Memory
from voipagent.upkeep import Upkeep
from voipagent.watchdog import WatchdogSettings

logger = logging.getLogger(__name__)

FORMAT = AudioFormat(SAMPLE_RATE, FRAME_SAMPLES)
FRAME_S = FORMAT.frame_s

MEASURED_FRAMES = 12
"""Between two times that observers are told what the leg has counted: about a second."""


class Session:
    """Holds one call, one leg and one slot together. `run` returns when the call is over and its record is closed."""

    def __init__(
        self,
        call: Call,
        open_leg: Callable[[CallOffer], Leg],
        slot: Slot,
        persona: Persona,
        record: CallRecord,
        folder: CallFolder,
        recording: Recording,
        max_hold_s: float,
        memory: Memory | None = None,
        watchdog: WatchdogSettings | None = None,
        observers: Sequence[Observer] = (),
        announcement: Announcement | None = None,
        longest: Longest | None = None,
    ) -> None:
        self.call, self.slot, self.persona = call, slot, persona
        self.record, self.recording = record, recording
        record.ear, record.deaf = slot.ear, slot.deaf
        self._minutes = Minutes(record, folder, recording)
        self._open_leg = open_leg
        self._offered = time.monotonic()
        self._tell = Telling(record.id, observers)
        self._max_hold_s, self._memory = max_hold_s, memory
        self._held_s = 0.0
        self._exchanges = 0
        self._transcript = Transcript(self._keep, slot.hearing_delay_frames)
        self._barge_in: BargeIn | None = None
        self._upkeep = Upkeep(
            slot,
            persona,
            record,
            memory,
            watchdog or WatchdogSettings(),
            lambda: self._transcript.so_far,
            lambda: recording.seconds,
            self._tell,
        )
        self._announcement, self._longest = announcement, longest or Longest()
        self._leg: Leg | None = None
        self._put_through = PutThrough(call, record, recording)
        self.give_back: Callable[[], Awaitable[None]] | None = None
        """Gives the row back before the session is over: whoever was put through talks to no model any more."""

    async def run(self) -> CallEnded:
        """The whole conversation. Peer, disk and engine may fail: the call ends with a reason, its record closed."""
        record, leg = self.record, self._open_leg(self.call.offer)
        self._leg = leg
        self._tell(Began(record.kind, record.direction, record.trunk, record.persona))
        self._minutes.note(leg.stats, (), ())
        try:
            await self._live(leg)
        except asyncio.CancelledError:
            await self.call.hang_up("the agent is shutting down")
            raise
        finally:
            await to_the_end(self._end(leg))
        return await self.call.wait_ended()

    async def sum_up(self) -> None:
        """Have the call summed up for its record, after `run`: that may take long, and no row waits for it."""
        if self._memory is not None and self.record.answered:
            await self._minutes.sum_up(self._memory.summarizer, self._upkeep.story, self._transcript.lines)

    async def _live(self, leg: Leg) -> None:
        """Until the call is over; what media or engine refuse ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                talk = group.create_task(self._talk(leg), name="talk")
                await self.call.wait_ended()
                talk.cancel()
        except* LegError as errors:
            fault = first_error(errors)
            logger.warning("x %s no media: %s", self.record.id, fault)
            await self._refuse(Rejection.BUSY if isinstance(fault, NoPort) else Rejection.NOT_ACCEPTABLE)
            await self.call.hang_up(str(fault))
        except* EngineError as errors:
            error = first_error(errors)
            logger.error("x %s engine: %s", self.record.id, error)
            await self._refuse(Rejection.BUSY if isinstance(error, EngineFull) else Rejection.OVERLOADED)
            await self.call.hang_up("the engine failed")

    async def _refuse(self, rejection: Rejection) -> None:
        """Not to be taken; without effect once it is."""
        self._tell(Refused(self.record.kind, self.record.trunk, rejection.value))
        await self.call.reject(rejection)

    async def _talk(self, leg: Leg) -> None:
        """From ringing to the last frame."""
        await self._answer(leg)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(leg), name="watch")
            group.create_task(self._call_digits(), name="call digits")
            line = await first_of(self._conversation(leg), self._put_through.line())
            if line is not None:
                if self.give_back is not None:
                    await self.give_back()
                await self.call.hang_up(await self._bridge(leg, line))

    async def _conversation(self, leg: Leg) -> None:
        """Caller and model, until one is gone or the caller is put through."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._converse(leg), name="converse")
            group.create_task(self._leg_digits(leg), name="leg digits")
            group.create_task(self._upkeep.run(), name="upkeep")

    async def _bridge(self, leg: Leg, line: Line) -> str:
        """Caller and somebody else, until one is gone, or for as long as a call and a hold may be; why it ended."""
        over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def hear(exchange: Exchange) -> None:
            started = self.recording.seconds
            self._hear(leg, exchange if self.recording.of_caller else _unheard(exchange), judged=False)
            reason = self._hold(started, exchange.held)
            if not reason and self._longest.passed(self.recording.seconds, saying=False, held=True):
                reason = self._longest.reason  # without a goodbye: the agent is not in it any more
            if reason and not over.done():
                over.set_result(reason)

        return await first_of(line.talk(leg, hear), over)

    # --- what others may have the session do -----------------------------------------------------------------------

    async def hold(self, held: bool) -> None:
        """Put the far end on hold, or take it off again. Raises SignalingError where it will not, or is gone."""
        if self._leg is None or not self.record.answered:
            raise SignalingError("the call is not answered yet")
        try:
            await self._leg.accepted(await self.call.propose(await self._leg.offer(hold=held)))
        except LegError as error:
            raise SignalingError(f"the far end's answer cannot be used: {error}") from error

    async def transfer(self, board: Switchboard, target: str, trunk: str = "") -> str:
        """Put the caller through: "transferred", the far end did it and leaves; "bridged", we stay in the middle.

        Meanwhile the conversation goes on. Raises SignalingError where nobody is reached: it goes on then, too.
        """
        return await self._put_through.to(board, target, trunk)

    # --- the parts -------------------------------------------------------------------------------------------------

    async def _answer(self, leg: Leg) -> None:
        """Ring, open the media, prime the row, and accept."""
        call = self.call
        call.renegotiate = lambda offer: renegotiate(leg, offer, self.record.id)
        call.answered = leg.accepted
        await call.ring()
        offer = call.offer.media
        description = await leg.offer() if offer is None else await leg.answer(offer)
        await self._upkeep.prime()
        self._greet()
        await call.accept(description)
        self._note_answered()

    def _note_answered(self) -> None:
        self.record.answered = utc_now().isoformat()
        self.record.setup_s = round(time.monotonic() - self._offered, 3)
        self._tell(Answered(self.record.prime_s or 0.0))

    def _greet(self) -> None:
        if self.persona.greeting:
            self.slot.say(self.persona.greeting)
            self._barge_in = BargeIn()

    async def _converse(self, leg: Leg) -> None:
        """The two of them talk: a frame's time in, a frame back, until cancelled."""
        await self._begin(leg)
        while True:
            started = self.recording.seconds
            exchange = await self._exchange(leg)
            if exchange.held:
                continue
            self._yield_to(exchange)
            forced = self.slot.saying
            reply = await self.slot.step(exchange.heard)
            leg.play(reply.frame)
            self._count(reply)
            self._transcript.hear(
                reply.text,
                started,
                self.recording.seconds,
                heard=reply.heard,
                word_due=reply.word_due,
                saying=self.slot.saying,
                speakers=exchange.speakers,
                quiet=reply.quiet,
            )
            if reply.text or reply.heard:
                for line in self._transcript.growing:
                    self._tell(Spoke(line, final=False))
            if forced and not self.slot.saying:
                self._transcript.end_line()
            self._upkeep.stepped(exchange, reply)
            await self._limit()

    async def _begin(self, leg: Leg) -> None:
        """Wait until the caller can hear us, and play what is to be heard before anybody listens. The row is not
        stepped meanwhile, and nobody interrupts."""

        async def exchange() -> Exchange:
            return await self._exchange(leg, judged=False)

        await wait_ready(leg, exchange, FORMAT.frame_s)
        if self._announcement is not None:
            note = self.record.consent = dict[str, Any]()
            await announce(self._announcement, leg, exchange, note, FORMAT)

    async def _exchange(self, leg: Leg, *, judged: bool = True) -> Exchange:
        """The next frame's time, written down; `held`: there is nothing to be heard or said in it."""
        exchange = await leg.exchange()
        started = self.recording.seconds
        self._hear(leg, exchange, judged=judged)
        if reason := self._hold(started, exchange.held):
            await self.call.hang_up(reason)
        if exchange.held:
            await self._limit(held=True)
        return exchange

    async def _limit(self, *, held: bool = False) -> None:
        """Say goodbye to who has talked for long enough, then hang up."""
        act = self._longest.passed(self.recording.seconds, saying=self.slot.saying, held=held)
        if act is Act.SAY:
            logger.info("- %s says goodbye: %s", self.record.id, self._longest.reason)
            self._transcript.end_line()
            self._barge_in = None
            self.slot.say(self._longest.goodbye)
        elif act is Act.HANG_UP:
            await self.call.hang_up(self._longest.reason)

    def _keep(self, line: Said) -> None:
        """A line is finished."""
        self._tell(Spoke(line, final=True))
        self._minutes.keep(line)

    def _hear(self, leg: Leg, exchange: Exchange, *, judged: bool) -> None:
        """Write down what was exchanged; about once a second tell and note how far it has come.

        `judged`: caller and agent talk, so that it can be told who answers and who interrupts whom.
        """
        for silent_at in self._minutes.hear(exchange, judged=judged):
            self._transcript.break_line(silent_at)
        self._exchanges += 1
        if self._exchanges % MEASURED_FRAMES == 0:
            self._tell(Measured(round(self.recording.seconds, 3), replace(leg.stats)))
            begun = self._transcript.so_far[len(self._transcript.lines) :]
            self._minutes.note(leg.stats, begun, self._upkeep.trims)

    def _hold(self, started: float, held: bool) -> str:
        """While the far end holds, nothing is heard, no context is spent, and there is a limit: why it is over, or "".

        The record has the time.
        """
        if not held:
            self._held_s = 0.0
            return ""
        if self._held_s == 0.0:
            noted(self.record.holds, {"at": round(started, 3), "duration_s": 0.0})
        self._held_s += FRAME_S
        self.record.holds[-1]["duration_s"] = round(self._held_s, 3)
        self.record.frames_held += 1
        return f"on hold for more than {self._max_hold_s:g} s" if self._held_s >= self._max_hold_s else ""

    def _yield_to(self, exchange: Exchange) -> None:
        """Stop the greeting if the caller speaks over it."""
        if self._barge_in is None:
            return
        if self._barge_in.hear(exchange.heard, exchange.played):
            self.slot.say("")
            self._minutes.turns.cut(self.recording.seconds)
            self._transcript.end_line()
            self.record.barged_in = True
        if not self.slot.saying:
            self._barge_in = None

    def _count(self, reply: Reply) -> None:
        if self.record.deaf != self.slot.deaf:
            self.record.deaf, self.record.deaf_at = self.slot.deaf, round(self.recording.seconds, 3)
        late = reply.waited_s + reply.step_s > FRAME_S
        self._tell(Stepped(reply.waited_s, reply.step_s, late))
        self._minutes.step(reply.step_s, late)

    async def _watch(self, leg: Leg) -> None:
        await self.call.hang_up(await leg.lost())

    async def _leg_digits(self, leg: Leg) -> None:
        async for digit in leg.digits():
            self._digit(digit.key, digit.duration_s)

    async def _call_digits(self) -> None:
        async for key in self.call.digits():
            self._digit(key, 0.0)
            await self._put_through.press(key)

    def _digit(self, key: str, duration_s: float) -> None:
        at = round(self.recording.seconds, 3)
        noted(self.record.digits, {"key": key, "at": at, "duration_s": round(duration_s, 3)})
        logger.debug("< %s digit", self.record.id)

    async def _end(self, leg: Leg) -> None:
        """Leave call and leg, and close the record."""
        await self.call.hang_up("the session failed")  # without effect once it is over; else a bug, on its way up
        try:
            await self._put_through.close()
            await leg.close()
        finally:
            await self._close(leg, await self.call.wait_ended())

    async def _close(self, leg: Leg, ended: CallEnded) -> None:
        """Finish transcript and recording, and write the record."""
        record = self.record
        self._transcript.close()
        self._tell(Measured(round(self.recording.seconds, 3), replace(leg.stats)))
        self._tell(Ended(ended))
        await self._minutes.close(leg.stats, self._transcript.lines, self._upkeep.trims, ended)
        logger.info("- %s over after %.1f s: %s: %s", record.id, record.duration_s, ended.by, ended.reason)


def _unheard(exchange: Exchange) -> Exchange:
    """Without what the caller was played: while bridged that is somebody else's voice."""
    return replace(exchange, played=np.zeros_like(exchange.played))
