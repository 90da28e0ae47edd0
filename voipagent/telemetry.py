"""What a Prometheus server reads of us: calls, frames, packets, trunks, and what was turned away.

Calls are told by their events, once each; what lives elsewhere (rows, trunks, what signaling counted) is read when we
are asked. Labels have few values: names of trunks from the settings, words of our own, and never a number or a name of
who calls, which would be one line more in a database for each of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as Rising
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import Field, SecretStr

from media.leg import LegStats
from signaling.call import CallEnded
from signaling.sip.counts import Counts
from signaling.sip.trunk import TrunkState
from voipagent.events import Answered, Began, Ended, Event, Measured, Refused, Stepped, Trimmed, Troubled
from voipagent.kinds import Bearer, Section

STEP_S = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.064, 0.08, 0.12, 0.16, 0.32, 1.0)
"""Bounds of what a step takes; a frame is 80 ms."""

CALL_S = (5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600)

MAX_REASONS = 48
"""Reasons that packets are dropped for, as labels; more would be "other"."""

PACKETS = ("received", "sent", "lost", "late", "recovered", "duplicate")
FRAMES = ("concealed", "skipped")
"""What of `LegStats` is told."""


class MetricsSettings(Section):
    """What whoever watches us may read at /metrics."""

    token: Bearer = Field(
        default=SecretStr(""), description="bearer token for reading /metrics; empty: this machine alone may, without"
    )


@dataclass
class _Running:
    """A call, between its first event and its last."""

    began: Began
    answered_at: float | None = None
    refused: str = ""
    stats: LegStats = field(default_factory=LegStats)


class Telemetry:
    """Takes the events of calls (it is an `Observer`), and says what it counted. `now` is the time, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._running: dict[str, _Running] = {}
        self._reasons: set[str] = set()
        self.registry = registry = CollectorRegistry(auto_describe=False)

        def rising(name: str, told: str, *labels: str) -> Rising:
            return Rising(f"voipagent_{name}", told, labels, registry=registry)

        self._calls = rising("calls", "Calls that are over.", "direction", "kind", "trunk", "outcome")
        self._steps = Histogram(
            "voipagent_step_seconds", "What the model took for a frame.", buckets=STEP_S, registry=registry
        )
        self._lasted = Histogram(
            "voipagent_call_seconds", "How long answered calls were.", ["direction"], buckets=CALL_S, registry=registry
        )
        self._late = rising("frames_late", "Frames whose reply took longer than a frame.")
        self._frames = rising("frames", "Frames of 80 ms with invented sound, or left out to catch up.", "what")
        self._packets = rising("rtp_packets", "Packets of audio.", "what")
        self._dropped = rising("rtp_dropped", "Packets that were of no use, and why.", "reason")
        self._troubles = rising("troubles", "Times a model was stuck and told anew who it is.", "trouble")
        self._trims = rising("trims", "Times a row was told anew what was said.", "outcome")
        registry.register(_Calls(self._active))

    def __call__(self, call_id: str, event: Event, /) -> None:
        """Take one event of one call."""
        if isinstance(event, Stepped):
            self._steps.observe(event.step_s)
            self._late.inc(event.late)
        elif isinstance(event, Began):
            self._running[call_id] = _Running(event)
        elif isinstance(event, Refused):
            self._refuse(call_id, event)
        elif isinstance(event, Troubled):
            self._troubles.labels(event.trouble).inc()
        elif isinstance(event, Trimmed):
            self._trims.labels("failed" if event.error else "done").inc()
        elif (call := self._running.get(call_id)) is not None:
            self._of_a_call(call_id, call, event)

    def _of_a_call(self, call_id: str, call: _Running, event: Event) -> None:
        if isinstance(event, Answered):
            call.answered_at = self._now()
        elif isinstance(event, Measured):
            self._measure(call.stats, event.stats)
            call.stats = event.stats
        elif isinstance(event, Ended):
            del self._running[call_id]
            self._end(call, event.ended)

    def _refuse(self, call_id: str, event: Refused) -> None:
        """Before there was a session for it, that is its end; after, its end is told."""
        if (call := self._running.get(call_id)) is not None:
            call.refused = event.why
        else:
            self._calls.labels("in", event.kind, event.trunk, event.why).inc()

    def _measure(self, before: LegStats, after: LegStats) -> None:
        """What the leg counted since the last time. A number that fell, as loss does for a late packet, is none."""
        for name in PACKETS:
            self._add(self._packets.labels(name), before, after, f"packets_{name}")
        for name in FRAMES:
            self._add(self._frames.labels(name), before, after, f"frames_{name}")
        more = Counter(after.dropped_by_reason)
        more.subtract(before.dropped_by_reason)
        for reason, count in more.items():
            self._dropped.labels(self._bounded(reason)).inc(max(0, count))

    def _add(self, counter: Rising, before: LegStats, after: LegStats, name: str) -> None:
        counter.inc(max(0, getattr(after, name) - getattr(before, name)))

    def _bounded(self, reason: str) -> str:
        if reason not in self._reasons and len(self._reasons) >= MAX_REASONS:
            return "other"
        self._reasons.add(reason)
        return reason

    def _end(self, call: _Running, ended: CallEnded) -> None:
        began = call.began
        self._calls.labels(began.direction, began.kind, began.trunk, _outcome(call, ended)).inc()
        if call.answered_at is not None:
            self._lasted.labels(began.direction).observe(self._now() - call.answered_at)

    def _active(self) -> Counter[tuple[str, str]]:
        """How many calls go on, by direction and kind."""
        return Counter((call.began.direction, call.began.kind) for call in self._running.values())

    def watch(
        self,
        rows: Callable[[], tuple[int, bool]],
        trunks: Callable[[], Sequence[tuple[TrunkState, int]]],
        counts: Callable[[], Counts],
    ) -> None:
        """Also tell of rows (those free, and whether calls are taken), of trunks, and of what signaling counted."""
        self.registry.register(_House(rows, trunks, counts))

    def exposition(self) -> bytes:
        """All of it, as text (Prometheus exposition format 0.0.4)."""
        return generate_latest(self.registry)


def _outcome(call: _Running, ended: CallEnded) -> str:
    """What became of a call, in a word or two: of ours and of theirs."""
    if call.answered_at is not None:
        return "answered"
    if ended.outcome is not None:
        return ended.outcome.value
    return call.refused or ("cancelled" if ended.by == "caller" else "failed")


class _Calls(Collector):
    """Calls that go on."""

    def __init__(self, active: Callable[[], Counter[tuple[str, str]]]) -> None:
        self._active = active

    def collect(self) -> Iterator[Metric]:
        yield _gauge(
            "calls_active",
            "Calls that go on, and those that ring.",
            ("direction", "kind"),
            [(key, count) for key, count in sorted(self._active().items())],
        )


class _House(Collector):
    """What is read where it lives."""

    def __init__(
        self,
        rows: Callable[[], tuple[int, bool]],
        trunks: Callable[[], Sequence[tuple[TrunkState, int]]],
        counts: Callable[[], Counts],
    ) -> None:
        self._rows, self._trunks, self._counts = rows, trunks, counts

    def collect(self) -> Iterator[Metric]:
        free, ready = self._rows()
        yield _gauge("rows_free", "Calls that the model could take now.", (), [((), free)])
        yield _gauge("ready", "Whether a new call would be taken.", (), [((), ready)])
        yield from self._of_trunks()
        yield from self._of_signaling(self._counts())

    def _of_trunks(self) -> Iterator[Metric]:
        """A trunk that does not register, or is not probed, has no such state."""
        states = self._trunks()
        registered = [((s.name,), s.registered) for s, _ in states if s.registered is not None]
        up = [((s.name,), s.up) for s, _ in states if s.up is not None]
        yield _gauge("trunk_registered", "Whether we are registered there.", ("trunk",), registered)
        yield _gauge("trunk_up", "Whether it answers OPTIONS.", ("trunk",), up)
        yield _gauge("trunk_calls", "Its calls, in and out.", ("trunk",), [((s.name,), calls) for s, calls in states])

    def _of_signaling(self, counts: Counts) -> Iterator[Metric]:
        failures, refusals = counts.trunk_failures.items(), counts.trunk_refusals.items()
        yield _counter(
            "trunk_failures", "Registrations and ways to it that came to nothing.", ("trunk", "reason"), failures
        )
        refused = [((trunk, str(code)), count) for (trunk, code), count in refusals]
        yield _counter("trunk_refused", "Calls of it that it may not make.", ("trunk", "code"), refused)
        dropped = [((reason,), count) for reason, count in counts.dropped.items()]
        yield _counter("sip_dropped", "Messages that were turned away or of no use.", ("reason",), dropped)
        yield _counter("sip_strangers", "Messages and connections from who may not call.", (), [((), counts.strangers)])
        yield _counter(
            "sip_connections_refused", "Connections that were one too many.", (), [((), counts.connections_refused)]
        )
        wrong, bans = counts.wrong_passwords, counts.bans
        yield _counter("sip_wrong_passwords", "Wrong answers to our challenges.", (), [((), wrong)])
        yield _counter("sip_bans", "Sources that were not heard any more for those.", (), [((), bans)])


def _gauge(name: str, told: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(f"voipagent_{name}", told, labels=labels)
    for key, value in samples:
        family.add_metric(key, value)
    return family


def _counter(name: str, told: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = CounterMetricFamily(f"voipagent_{name}", told, labels=labels)
    for key, value in samples:
        family.add_metric(key, value)
    return family
