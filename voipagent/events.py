"""What a session tells of its call while it runs, to whoever watches: the page of the caller, the metrics. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from media.leg import LegStats
from signaling.call import CallEnded
from voipagent.context import Line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Began:
    """A row is reserved and it is about to ring. `direction` is "in" or "out", `trunk` "" without one."""

    kind: str
    direction: str
    trunk: str
    persona: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The call was taken: both hear each other. `prime_s` is what telling the row who it is has taken, in seconds."""

    prime_s: float


@dataclass(frozen=True, slots=True)
class Spoke:
    """A line has grown, or is `final`; role and start tell which. The caller's are told though they may not be kept."""

    line: Line
    final: bool


@dataclass(frozen=True, slots=True)
class Stepped:
    """The model took a frame: how long that waited for its turn, and how long the step was, in seconds."""

    waited_s: float
    step_s: float
    late: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Once a second, and at the end: what the leg has counted so far. `at` is seconds from the answer."""

    at: float
    stats: LegStats


@dataclass(frozen=True, slots=True)
class Troubled:
    """The model was stuck; if rows are trimmed, it is told anew who it is. `at` is seconds from the answer."""

    at: float
    trouble: str


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The row was told anew what was said, for its window was nearly full. `at` is seconds from the answer."""

    at: float
    why: str
    error: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """Who is in a room, or who speaks there, is different, `at` seconds of its call.

    `people`: the names by the ids of their calls. `speaking` has names of theirs, and "" for the agent.
    """

    at: float
    people: Mapping[str, str]
    speaking: frozenset[str]


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that came is not taken, and why, as a `Rejection` has it. Where no row was reserved it is all there is."""

    kind: str
    trunk: str
    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last of a call's events."""

    ended: CallEnded


Event: TypeAlias = Began | Answered | Spoke | Stepped | Measured | Troubled | Trimmed | Gathered | Refused | Ended


class Observer(Protocol):
    """Called in the event loop between two frames: it must not wait, nor take long."""

    def __call__(self, call_id: str, event: Event, /) -> None:
        """Take one event of one call."""


@dataclass(frozen=True, slots=True)
class Telling:
    """Tells one call's events to all observers. One that fails is told of in the log, and harms nobody."""

    call_id: str
    observers: Sequence[Observer] = ()

    def __call__(self, event: Event) -> None:
        for observer in self.observers:
            try:
                observer(self.call_id, event)
            except Exception:  # a bug of those who watch is not to end a conversation
                logger.exception("x %s an observer failed", self.call_id)
