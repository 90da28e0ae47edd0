"""telemetry.py: events in, numbers out. What is read is parsed by the library that Prometheus ships for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from media.leg import LegStats
from signaling.call import CallEnded, Outcome
from signaling.sip.counts import Counts
from signaling.sip.trunk import TrunkState
from voipagent.events import Answered, Began, Ended, Event, Measured, Refused, Stepped, Trimmed, Troubled
from voipagent.telemetry import MAX_REASONS, Telemetry

IN = Began("sip", "in", "carrier", "ada")
OUT = Began("sip", "out", "carrier", "ada")
GONE = Ended(CallEnded("caller", "hung up"))


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def numbers(telemetry: Telemetry) -> Mapping[str, float]:
    """Each sample by name and labels, as they stand in the text, but for those of bounds and of beginnings."""
    text = telemetry.exposition().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        sample.name.removeprefix("voipagent_")
        + "".join(f" {key}={value}" for key, value in sample.labels.items()): sample.value
        for sample in samples
        if not sample.name.endswith("_created") and "le" not in sample.labels
    }


def told(*events: Event, clock: Clock | None = None) -> Mapping[str, float]:
    """What is counted after these events of one call."""
    telemetry = Telemetry(clock or Clock())
    for event in events:
        telemetry("call-1", event)
    return numbers(telemetry)


def test_a_call_that_goes_on_and_is_over() -> None:
    clock = Clock()
    telemetry = Telemetry(clock)
    telemetry("one", IN)
    telemetry("two", OUT)
    telemetry("one", Answered(0.1))
    assert numbers(telemetry)["calls_active direction=in kind=sip"] == 1
    clock.now += 42
    telemetry("one", GONE)
    after = numbers(telemetry)
    assert "calls_active direction=in kind=sip" not in after
    assert after["calls_active direction=out kind=sip"] == 1
    assert after["calls_total direction=in kind=sip outcome=answered trunk=carrier"] == 1
    assert after["call_seconds_sum direction=in"] == 42


@pytest.mark.parametrize(
    ("events", "direction", "outcome"),
    [
        ((IN, Ended(CallEnded("caller", "cancelled"))), "in", "cancelled"),
        ((IN, Refused("sip", "carrier", "not acceptable"), Ended(CallEnded("agent", "x"))), "in", "not acceptable"),
        ((Refused("sip", "carrier", "busy"),), "in", "busy"),
        ((IN, Ended(CallEnded("network", "lost"))), "in", "failed"),
        ((OUT, Ended(CallEnded("callee", "is busy", Outcome.BUSY))), "out", "busy"),
        ((OUT, Ended(CallEnded("network", "488", Outcome.NOT_ACCEPTABLE))), "out", "not acceptable"),
        ((OUT, Ended(CallEnded("network", "x", Outcome.UNREACHABLE))), "out", "unreachable"),
    ],
)
def test_what_became_of_a_call(events: tuple[Event, ...], direction: str, outcome: str) -> None:
    calls = {name: value for name, value in told(*events).items() if name.startswith("calls_total")}
    assert calls == {f"calls_total direction={direction} kind=sip outcome={outcome} trunk=carrier": 1}


def test_a_refusal_after_the_answer_is_none() -> None:
    assert told(IN, Answered(0.1), Refused("sip", "carrier", "overloaded"), GONE)[
        "calls_total direction=in kind=sip outcome=answered trunk=carrier"
    ]


def test_steps_and_what_a_model_does() -> None:
    after = told(
        *(Stepped(0.0, 0.030, False), Stepped(0.06, 0.030, True)),
        *(Troubled(3.0, "loop"), Trimmed(9.0, "due", ""), Trimmed(10.0, "due", "no room")),
    )
    assert after["step_seconds_count"] == 2
    assert after["step_seconds_sum"] == pytest.approx(0.06)
    assert after["frames_late_total"] == 1
    assert after["troubles_total trouble=loop"] == 1
    assert (after["trims_total outcome=done"], after["trims_total outcome=failed"]) == (1, 1)


def test_a_leg_counts_up_and_so_do_we() -> None:
    first = LegStats(packets_received=100, packets_lost=3, frames_concealed=2, dropped_by_reason={"stray": 1})
    second = replace(first, packets_received=150, packets_lost=2, dropped_by_reason={"stray": 1, "empty": 4})
    after = told(IN, Measured(1.0, first), Measured(2.0, second), Measured(2.0, second))
    assert after["rtp_packets_total what=received"] == 150
    assert after["rtp_packets_total what=lost"] == 3, "a late packet was counted as lost: what was told stays"
    assert after["frames_total what=concealed"] == 2
    assert (after["rtp_dropped_total reason=stray"], after["rtp_dropped_total reason=empty"]) == (1, 4)


def test_two_calls_are_added() -> None:
    telemetry = Telemetry(Clock())
    for name in ("one", "two"):
        telemetry(name, IN)
        telemetry(name, Measured(1.0, LegStats(packets_sent=50)))
        telemetry(name, GONE)
    assert numbers(telemetry)["rtp_packets_total what=sent"] == 100


def test_reasons_are_bounded() -> None:
    many = {f"reason {number}": 1 for number in range(MAX_REASONS + 10)}
    dropped = [name for name in told(IN, Measured(1.0, LegStats(dropped_by_reason=many))) if "rtp_dropped" in name]
    assert len(dropped) == MAX_REASONS + 1
    assert "rtp_dropped_total reason=other" in dropped


def test_an_event_of_no_call_is_nothing() -> None:
    assert not [name for name in told(Answered(0.1), Measured(1.0, LegStats(packets_sent=9)), GONE) if " " in name]


def test_rows_trunks_and_what_signaling_counted() -> None:
    telemetry = Telemetry(Clock())
    trunks = [
        (TrunkState("carrier", "192.0.2.1", registered=False, why="cannot register"), 2),
        (TrunkState("pbx", "192.0.2.2", registered=True, up=True), 0),
        (TrunkState("proxy", "192.0.2.3"), 1),
    ]
    counts = Counts({"unreadable": 7}, 3, 12, 1, {("carrier", "login"): 5}, {("pbx", 404): 2}, 4)
    telemetry.watch(lambda: (3, True), lambda: trunks, lambda: counts)
    assert (
        numbers(telemetry).items()
        >= {
            "rows_free": 3,
            "ready": 1,
            "trunk_registered trunk=carrier": 0,
            "trunk_registered trunk=pbx": 1,
            "trunk_up trunk=pbx": 1,
            "trunk_calls trunk=carrier": 2,
            "trunk_calls trunk=proxy": 1,
            "trunk_failures_total reason=login trunk=carrier": 5,
            "trunk_refused_total code=404 trunk=pbx": 2,
            "sip_dropped_total reason=unreadable": 7,
            "sip_strangers_total": 3,
            "sip_wrong_passwords_total": 12,
            "sip_bans_total": 1,
            "sip_connections_refused_total": 4,
        }.items()
    )
    assert not [name for name in numbers(telemetry) if name.startswith("trunk_registered") and "proxy" in name]
