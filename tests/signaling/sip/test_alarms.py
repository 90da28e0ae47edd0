"""alarms.py: who is woken when, and what it costs to put it off."""

from __future__ import annotations

import random

from signaling.sip.alarms import SLACK, Alarms


def woken(alarms: Alarms[str], now: float) -> list[str]:
    things = []
    while (thing := alarms.take(now)) is not None:
        things.append(thing)
    return things


def test_in_order_once_and_not_early() -> None:
    alarms: Alarms[str] = Alarms()
    assert (alarms.next_at, alarms.take(9.0)) == (None, None)
    for thing, at in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        alarms.set(thing, at)
    assert alarms.next_at == 1.0
    assert woken(alarms, 0.9) == []
    assert woken(alarms, 2.0) == ["a", "b"]
    assert woken(alarms, 2.0) == []
    assert alarms.next_at == 3.0


def test_put_off_put_forward_and_switched_off() -> None:
    alarms: Alarms[str] = Alarms()
    for at in (5.0, 7.0, 5.0, 6.0):
        alarms.set("a", at)
    alarms.set("b", 1.0)
    alarms.set("b", None)
    alarms.set("b", None)
    assert alarms.next_at == 6.0
    assert woken(alarms, 10.0) == ["a"]
    alarms.set("a", 6.0)
    assert woken(alarms, 10.0) == ["a"]
    assert alarms.next_at is None
    assert len(alarms) == 0


def test_alarms_that_are_off_are_not_kept_for_long() -> None:
    """A session timer runs for half an hour, and is put off at each refresh or switched off with the call."""
    alarms: Alarms[str] = Alarms()
    alarms.set("soon", 1.0)
    for number in range(10_000):
        alarms.set("refreshed", 1800.0 + number)
        alarms.set(f"call {number}", 1800.0)
        alarms.set(f"call {number}", None)
        assert len(alarms) <= 2 * 2 + SLACK + 1
    assert woken(alarms, 1e9) == ["soon", "refreshed"]


def test_like_a_list_that_is_searched() -> None:
    alarms: Alarms[str] = Alarms()
    model: dict[str, float] = {}
    chance = random.Random(1)
    for now in range(2000):
        thing, at = chance.choice("abcdef"), chance.choice([None, now + 1.0, now + 5.0, now + 50.0])
        alarms.set(thing, at)
        model.pop(thing, None)
        if at is not None:
            model[thing] = at
        due = {thing for thing, at in model.items() if at <= now}
        assert set(woken(alarms, now)) == due
        model = {thing: at for thing, at in model.items() if thing not in due}
        assert alarms.next_at == min(model.values(), default=None)
