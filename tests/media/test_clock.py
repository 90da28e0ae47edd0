"""The wheel, under a made-up clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from media.clock import CATCH_UP_TICKS, TICK_S, Clock
from tests.media.line import Timers


class Wheel:
    """A member that notes its ticks."""

    def __init__(self, fail_at: int = -1, then: Callable[[], None] = lambda: None, fail_twice: bool = False) -> None:
        self._fail_twice = fail_twice
        self.ticks: list[tuple[int, float]] = []
        self.error: Exception | None = None
        self._fail_at, self._then = fail_at, then

    def tick(self, number: int, now: float) -> None:
        self.ticks.append((number, now))
        self._then()
        if len(self.ticks) == self._fail_at:
            raise ZeroDivisionError("on purpose")

    def failed(self, error: Exception) -> None:
        self.error = error
        if self._fail_twice:
            raise KeyError("and once more")

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.ticks]


def test_ticks_lie_on_an_absolute_schedule() -> None:
    timers = Timers()
    clock, wheel = Clock(timers), Wheel()
    clock.add(wheel)
    began = timers.now
    for late in (0.0, 0.007, 0.001, 0.013, 0.0) * 20:  # each wake-up is late in its own way
        (when, _) = next(iter(timers.due.values()))
        timers.jump(when - timers.now + late)
    assert wheel.numbers == list(range(1, 101))
    assert all(-1e-9 <= now - began - number * TICK_S < 0.0131 for number, now in wheel.ticks)
    assert clock.worst_late_s == pytest.approx(0.013)
    assert clock.skipped_ticks == 0


def test_all_members_turn_on_one_timer() -> None:
    timers = Timers()
    clock, wheels = Clock(timers), [Wheel() for _ in range(50)]
    for wheel in wheels:
        clock.add(wheel)
    assert len(timers.due) == 1
    timers.run(0.2)
    assert len(timers.due) == 1
    assert {tuple(wheel.numbers) for wheel in wheels} == {tuple(range(1, 11))}


@pytest.mark.parametrize(("ticks_late", "run"), [(1, 2), (2, 3), (3, 3), (50, 3)])
def test_a_late_wake_up_catches_up_a_little_and_skips_the_rest(ticks_late: int, run: int) -> None:
    timers = Timers()
    clock, wheel = Clock(timers), Wheel()
    clock.add(wheel)
    timers.run(0.1)
    timers.jump(TICK_S * (ticks_late + 1))
    last = 5 + ticks_late + 1
    assert wheel.numbers[5:] == list(range(last - run + 1, last + 1))
    assert run <= CATCH_UP_TICKS + 1
    assert clock.skipped_ticks == ticks_late + 1 - run
    timers.run(TICK_S)
    assert wheel.numbers[-1] == last + 1  # the schedule did not move


def test_it_stands_still_without_members_and_goes_on_counting_with_the_next() -> None:
    timers = Timers()
    clock, first, second = Clock(timers), Wheel(), Wheel()
    clock.add(first)
    timers.run(0.1)
    clock.remove(first)
    clock.remove(first)
    assert not timers.due
    timers.run(1000.0)
    clock.add(second)
    timers.run(0.06)
    assert first.numbers == [1, 2, 3, 4, 5]
    assert second.numbers == [6, 7, 8]
    assert clock.skipped_ticks == 0


def test_a_failing_member_is_taken_off_and_the_others_turn_on(caplog: pytest.LogCaptureFixture) -> None:
    timers = Timers()
    clock, before, broken, after = Clock(timers), Wheel(), Wheel(fail_at=3), Wheel()
    for wheel in (before, broken, after):
        clock.add(wheel)
    with caplog.at_level(logging.ERROR):
        timers.run(0.2)
    assert len(before.ticks) == len(after.ticks) == 10
    assert len(broken.ticks) == 3
    assert isinstance(broken.error, ZeroDivisionError)
    assert clock.failures == 1
    assert "a leg failed and is lost" in caplog.text


def test_even_a_member_that_fails_while_it_is_told_so_does_not_stop_the_wheel() -> None:
    timers = Timers()
    clock, other = Clock(timers), Wheel()
    clock.add(Wheel(fail_at=1, fail_twice=True))
    clock.add(other)
    with pytest.raises(KeyError):  # which the loop reports
        timers.run(TICK_S)
    timers.run(0.2)
    assert other.numbers == list(range(2, 12))


def test_a_tick_may_take_members_off_and_put_others_on() -> None:
    timers = Timers()
    clock, late = Clock(timers), Wheel()
    victim = Wheel()

    def swap() -> None:
        clock.remove(victim)
        clock.remove(killer)
        clock.add(late)

    killer = Wheel(then=swap)
    clock.add(killer)
    clock.add(victim)
    timers.run(0.1)
    assert (len(killer.ticks), len(victim.ticks)) == (1, 0)
    assert len(timers.due) == 1
    assert len(late.ticks) == 4


def test_taking_off_the_last_in_its_own_tick_stops_the_wheel() -> None:
    timers = Timers()
    clock = Clock(timers)
    wheel = Wheel(then=lambda: clock.remove(wheel))
    clock.add(wheel)
    timers.run(0.1)
    assert len(wheel.ticks) == 1
    assert not timers.due


async def test_on_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    clock, done = Clock(loop), asyncio.Event()
    wheel = Wheel(then=lambda: done.set() if len(wheel.ticks) >= 5 else None)
    began = loop.time()
    clock.add(wheel)
    async with asyncio.timeout(5):
        await done.wait()
    clock.remove(wheel)
    assert all(now >= began + number * TICK_S - 0.001 for number, now in wheel.ticks)
