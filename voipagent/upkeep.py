"""One conversation's row: told who it is while the call rings, and anew when it is about to forget, or stuck."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.slot import EngineError, Reply, Slot
from media.leg import Exchange
from voipagent.bargein import Level
from voipagent.context import Line
from voipagent.events import Trimmed, Troubled
from voipagent.persona import Persona
from voipagent.record import CallRecord, noted
from voipagent.story import Story
from voipagent.trim import Memory, Trim, Trimmer
from voipagent.watchdog import PIECE_FRAMES, Trouble, Watchdog, WatchdogSettings

logger = logging.getLogger(__name__)

PRIME_S = 8.0
"""Seconds a row may be primed while it rings; longer is OVERLOADED: a trunk gives up on a call that only rings."""


class Upkeep:
    """Runs beside a conversation, which tells it of each step. Without `memory` a row that forgets is left to itself.

    `lines` gives what has been said so far, `seconds` the time of the call. `tell` hears of each trim and trouble.
    """

    def __init__(
        self,
        slot: Slot,
        persona: Persona,
        record: CallRecord,
        memory: Memory | None,
        watchdog: WatchdogSettings,
        lines: Callable[[], Sequence[Line]],
        seconds: Callable[[], float],
        tell: Callable[[Trimmed | Troubled], None],
    ) -> None:
        self._slot, self._prompt, self._record = slot, persona.engine_prompt(), record
        self._memory, self._watchdog = memory, Watchdog(watchdog)
        self._lines, self._seconds, self._tell = lines, seconds, tell
        self._trimmer: Trimmer | None = None
        self._level = Level()

    @property
    def trims(self) -> Sequence[Trim]:
        """What was done, for the record."""
        return self._trimmer.trims if self._trimmer is not None else ()

    @property
    def story(self) -> Story:
        """What the row was told last of the call."""
        return self._trimmer.story if self._trimmer is not None else Story()

    async def prime(self) -> None:
        """Tell the row who it is, while it rings. Raises EngineError."""
        started, pinned = time.monotonic(), self._memory is not None and self._memory.pinned
        try:
            async with asyncio.timeout(PRIME_S):
                await self._slot.prime(replace(self._prompt, pinned=pinned))
        except TimeoutError:
            raise EngineError(f"priming took longer than {PRIME_S:g} s") from None
        self._record.prime_s = round(time.monotonic() - started, 4)
        if self._memory is not None and not pinned:
            self._trimmer = Trimmer(self._slot, self._memory, self._prompt, self._lines, self._seconds, self._tell)

    async def run(self) -> None:
        """Trim until cancelled, or not at all. Raises EngineError if the engine died."""
        if self._trimmer is not None:
            await self._trimmer.run()

    def stepped(self, exchange: Exchange, reply: Reply) -> None:
        """The row took a frame: have it primed anew when its window is nearly full, or the model is stuck."""
        saying = self._slot.saying
        loud = self._level.hear(exchange.heard, exchange.played)
        spoke = loud if self._slot.deaf else PIECE_FRAMES * bool(reply.heard)
        trouble = self._watchdog.stepped(reply.text, spoke=spoke, saying=saying)
        if trouble is not None:
            self._found(trouble)
        if self._trimmer is not None:
            self._trimmer.stepped(reply, saying=saying)
            if trouble is not None:
                self._trimmer.renew(trouble.value, keep=trouble is Trouble.DEAD_AIR)

    def _found(self, trouble: Trouble) -> None:
        cure = "the row is primed anew" if self._trimmer else "it is noted only, for this policy primes no row anew"
        logger.warning("x %s %s: %s", self._record.id, trouble.value, cure)
        at = round(self._seconds(), 3)
        noted(self._record.troubles, {"at": at, "trouble": trouble.value})
        self._tell(Troubled(at, trouble.value))
