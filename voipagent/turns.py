"""Who spoke when in a call, by sound alone: how soon the agent answered, who was interrupted, who said "mm-hm". No I/O.

It is fed with what was exchanged, so it measures at our end of the line: what the caller waited, less the way there and
back. The words are not looked at. Definitions in the manner of Full-Duplex-Bench (arXiv 2503.04721):

- a response: the agent begins after the caller has spoken for SPOKEN_S and fallen silent; its latency lies between
- an interruption: the caller begins while the agent speaks, OVERLAP_S before it falls silent at the least, and it does
  so while the caller is still speaking, or within YIELD_S of it
- a backchannel: the caller begins while the agent speaks, is done within BACKCHANNEL_S, and the agent speaks on
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from media.leg import Exchange
from voipagent.bargein import ECHO_SHARE, SPEECH_LEVEL

BLOCK_S = 0.02

ECHO_BLOCKS = 24
"""How long an echo of the agent may be on its way, 480 ms: as in `bargein`."""

BEGUN_BLOCKS = 3
"""So many loud blocks in a row begin a stretch of speech: a click is none."""

JOIN_S = 0.3
"""A shorter silence is within a stretch: between words, not between turns."""

SPOKEN_S = 0.2
"""A stretch that is shorter wants no answer."""

OVERLAP_S = 0.2
"""A shorter one is how people take turns."""

YIELD_S = 0.5
BACKCHANNEL_S = 1.0

QUANTILES = {"p50_s": 0.5, "p90_s": 0.9, "p95_s": 0.95}


class Turns:
    """One call's. `latencies_s`, `interruptions` (when the agent fell silent, seconds) and `backchannels` fill."""

    def __init__(self, sample_rate: int) -> None:
        self._block = round(BLOCK_S * sample_rate)
        self._caller, self._agent = _Voice(), _Voice()
        self._played = deque([0.0], maxlen=ECHO_BLOCKS)
        self._over: float | None = None  # since when the caller speaks into the agent's turn
        self._asked = False  # the caller waits for an answer
        self._cuts: list[float] = []
        self.latencies_s: list[float] = []
        self.interruptions: list[float] = []
        self.backchannels = 0

    def hear(self, exchange: Exchange, at: float) -> None:
        """Take a frame's time that began at `at`, in seconds of the call."""
        heard, played = _levels(exchange.heard, self._block), _levels(exchange.played, self._block)
        for number, (caller, agent) in enumerate(zip(heard, played, strict=True)):
            self._played.append(agent)
            loud = caller > max(SPEECH_LEVEL, ECHO_SHARE * max(self._played))
            self._step(loud, agent > SPEECH_LEVEL, at + number * BLOCK_S)

    def latency(self) -> Mapping[str, float | int | None]:
        """`count`, and the quantiles of the responses' latencies in seconds; None where there was no response."""
        told = np.quantile(self.latencies_s, list(QUANTILES.values())) if self.latencies_s else [None] * len(QUANTILES)
        quantiles = zip(QUANTILES, told, strict=True)
        return {"count": len(self.latencies_s)} | {
            name: None if value is None else round(float(value), 3) for name, value in quantiles
        }

    def interrupted(self, start: float, end: float) -> bool:
        """Whether the agent was interrupted in what it said then. A word's sound may end after its text."""
        return any(start <= at <= end + 2 * YIELD_S for at in (*self.interruptions, *self._cuts))

    def cut(self, at: float) -> None:
        """What the agent says is being cut off for the caller: known before it is heard, and counted once it is."""
        self._cuts.append(at)

    def _step(self, caller: bool, agent: bool, at: float) -> None:
        began, ended = self._caller.step(caller, at)
        _, ends = self._agent.step(agent, at)
        if began and self._agent.speaks and self._agent.begin < self._caller.begin:
            self._over = self._caller.begin
        if self._over is not None:
            self._judge(ends)
        elif ended and self._caller.last - self._caller.begin >= SPOKEN_S:
            self._asked = True
        self._answer()

    def _judge(self, agent_ends: bool) -> None:
        """What the caller's words into the agent's turn were, once that can be told."""
        assert self._over is not None
        caller, agent = self._caller, self._agent
        if agent_ends:
            if agent.last - self._over >= OVERLAP_S:
                self.interruptions.append(round(agent.last, 3))
            self._asked = True
            self._over = None
        elif not caller.speaks and agent.last - caller.last >= YIELD_S:
            self.backchannels += caller.last - self._over <= BACKCHANNEL_S
            self._over = None

    def _answer(self) -> None:
        """A response's latency is known once the caller has been silent for JOIN_S: else both spoke at once."""
        caller, agent = self._caller, self._agent
        if not self._asked or caller.speaks or agent.begin <= caller.begin:
            return
        self._asked = False
        if agent.begin >= caller.last:
            self.latencies_s.append(round(agent.begin - caller.last, 3))


class _Voice:
    """One side's stretches of speech. `last` is the end of its last loud block."""

    def __init__(self) -> None:
        self.speaks = False
        self.begin = self.last = 0.0
        self._loud = 0

    def step(self, loud: bool, at: float) -> tuple[bool, bool]:
        """Take a block that began at `at`; whether a stretch began, and whether one ended, which is known later."""
        self._loud = self._loud + 1 if loud else 0
        begins = not self.speaks and self._loud == BEGUN_BLOCKS
        if begins:
            self.speaks, self.begin = True, at - (BEGUN_BLOCKS - 1) * BLOCK_S
        ends = self.speaks and not loud and at + BLOCK_S - self.last >= JOIN_S
        if self.speaks and loud:
            self.last = at + BLOCK_S
        if ends:
            self.speaks = False
        return begins, ends


def _levels(samples: NDArray[np.float32], block: int) -> list[float]:
    """RMS of each block; a rest that is shorter than one is left out."""
    whole = samples[: len(samples) - len(samples) % block].reshape(-1, block)
    powers = np.einsum("ij,ij->i", whole, whole) / block  # a third of the time that square and mean take
    return [math.sqrt(power) for power in powers.tolist()]
