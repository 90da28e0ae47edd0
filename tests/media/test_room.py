"""room.py: fake legs that deliver as a test has it, then real ones with a phone at each, under a made-up clock."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator

import numpy as np
import pytest

from media.bridge import Side
from media.codec import G722, PCMU, Codec
from media.leg import AudioFormat, Digit, Exchange, LegError, Pcm
from media.mixer import PIECES_A_BLOCK
from media.room import AGENT, Room
from media.rtp import RtpLeg
from tests.fakes import FakeLeg
from tests.media.line import FORMAT, Line, tone
from tests.media.waiting import until

SHORT = AudioFormat(24_000, 480)
DELAY = 480 // PIECES_A_BLOCK


def block(level: float, samples: int = 480) -> Pcm:
    return np.full(samples, level, np.float32)


def last(leg: FakeLeg) -> float:
    """What it was played last."""
    return float(leg.played[-1][-1])


class Fakes:
    """A room and fake legs in it, by name."""

    def __init__(self) -> None:
        self.room = Room(FORMAT)
        self.legs: dict[str, FakeLeg] = {}
        self.tasks: dict[str, asyncio.Task[str]] = {}

    async def join(self, *names: str, leg: FakeLeg | None = None, audio_format: AudioFormat = SHORT) -> None:
        for name in names:
            self.legs[name] = leg or FakeLeg()
            self.tasks[name] = asyncio.create_task(self.room.join(name, Side(self.legs[name], audio_format)))
        await until(lambda: set(names) <= set(self.room.names))

    async def say(self, **levels: float) -> None:
        """A tick: so loud is who has 20 ms now; until they are dealt with."""
        for name, level in levels.items():
            self.legs[name].hear(block(level))
        await self.settle()

    async def settle(self) -> None:
        for _ in range(4 * len(self.legs) + 8):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def fakes(*names: str) -> AsyncIterator[Fakes]:
    room = Fakes()
    await room.join(*names)
    try:
        yield room
    finally:
        for task in room.tasks.values():
            task.cancel()
        await asyncio.wait(room.tasks.values())


async def test_each_hears_the_others_and_not_himself() -> None:
    async with fakes("ada", "bob", "cid") as on:
        for _ in range(3):
            await on.say(ada=0.1, bob=0.02, cid=0.003)
        assert [last(on.legs[name]) for name in ("ada", "bob", "cid")] == pytest.approx([0.023, 0.103, 0.12])
        assert on.room.rounds == 3
        assert all(len(leg.played) == 3 for leg in on.legs.values())


async def test_the_agent_hears_all_and_all_hear_it() -> None:
    async with fakes("ada", "bob") as on:
        exchange = asyncio.create_task(on.room.leg.exchange())
        await asyncio.sleep(0)
        await on.say(ada=0.1, bob=0.02)
        on.room.leg.play(block(0.5, 1_920))
        for _ in range(3):
            await on.say(ada=0.1, bob=0.02)
        heard = await asyncio.wait_for(exchange, 5)
        assert heard.heard[DELAY:] == pytest.approx(0.12)
        assert heard.played[960:] == pytest.approx(0.5) and not heard.played[:960].any()
        assert [last(on.legs[name]) for name in ("ada", "bob")] == pytest.approx([0.52, 0.6])


async def test_who_is_late_is_silent_once_and_his_voice_comes_no_later_for_good() -> None:
    async with fakes("ada", "bob") as on:
        await on.say(ada=0.1, bob=0.2)
        for _ in range(2):
            await on.say(ada=0.1)
        assert on.room.rounds == 1  # he is waited for
        await on.say(ada=0.1)
        assert on.room.rounds == 4  # no longer
        await on.say(ada=0.1)
        assert on.room.rounds == 5
        for late in (0.21, 0.22, 0.23, 0.24):
            await on.say(bob=late)  # of rounds that are over
        assert on.room.rounds == 5
        await on.say(bob=0.3, ada=0.1)
        assert on.room.rounds == 6 and last(on.legs["ada"]) == pytest.approx(0.3)


async def test_a_leg_that_stands_still_for_long_is_there_again_at_once() -> None:
    async with fakes("ada", "bob") as on:
        await on.say(ada=0.1, bob=0.2)
        for _ in range(100):
            await on.say(ada=0.1)
        assert on.room.rounds == 101 and last(on.legs["ada"]) == 0.0
        await on.say(bob=0.3, ada=0.1)
        assert on.room.rounds == 102 and last(on.legs["ada"]) == pytest.approx(0.3)


async def test_after_a_stall_of_all_every_round_has_everybody() -> None:
    """Each has ten waiting. They are of the same time, and are mixed with each other."""
    async with fakes("ada", "bob", "cid") as on:
        await on.say(ada=0.1, bob=0.2, cid=0.3)
        for leg, level in zip(on.legs.values(), (0.1, 0.2, 0.3), strict=True):
            leg.hear(*[block(level)] * 10)
        await until(lambda: on.room.rounds == 11)
        assert [pcm[-1] for pcm in on.legs["ada"].played] == pytest.approx([0.5] * 11)


async def test_who_never_sends_delays_the_others_once() -> None:
    async with fakes("ada", "bob") as on:
        for number in range(1, 5):
            await on.say(ada=0.1)
            assert on.room.rounds == (0, 0, 3, 4)[number - 1]
        assert last(on.legs["bob"]) == pytest.approx(0.1)


async def test_what_lies_ready_all_the_time_is_cut() -> None:
    """He brings one block too many: that is 20 ms of delay, for a second."""
    async with fakes("ada", "bob") as on:
        on.legs["bob"].hear(block(0.2))
        for _ in range(60):
            await on.say(ada=0.1, bob=0.2)
        assert on.room.rounds == 60
        on.legs["bob"].hear(block(0.4))
        await on.say(ada=0.1)
        assert last(on.legs["ada"]) == pytest.approx(0.4)


async def test_each_has_its_own_rate_and_length() -> None:
    async with fakes("ada") as on:
        await on.join("bob", audio_format=AudioFormat(48_000, 3_840))
        await on.join("cid", audio_format=AudioFormat(8_000, 160))
        for _ in range(5):
            on.legs["bob"].hear(block(0.2, 3_840))
            on.legs["ada"].hear(*[block(0.1)] * 4)
            on.legs["cid"].hear(*[block(0.05, 160)] * 4)
            await on.settle()
            await on.settle()
        assert on.room.rounds == 20
        assert {len(pcm) for pcm in on.legs["bob"].played} == {960}
        assert {len(pcm) for pcm in on.legs["cid"].played} == {160}
        assert last(on.legs["ada"]) == pytest.approx(0.25, abs=0.01)
        assert last(on.legs["bob"]) == pytest.approx(0.15, abs=0.01)
        assert last(on.legs["cid"]) == pytest.approx(0.3, abs=0.01)


async def test_who_speaks_is_told_to_the_agent() -> None:
    async with fakes("ada", "bob") as on:
        exchange = asyncio.create_task(on.room.leg.exchange())
        await asyncio.sleep(0)
        for _ in range(4):
            await on.say(ada=0.1, bob=0.2)
        assert (await asyncio.wait_for(exchange, 5)).speakers == ("bob", "ada")


async def test_it_is_held_when_all_hold_and_not_when_one_does() -> None:
    async with fakes("ada", "bob") as on:
        asyncio.create_task(on.room.leg.exchange()).cancel()
        on.legs["ada"].hear(block(0.0), held=True)
        await on.say(bob=0.1)
        assert not on.room.leg.held
        on.legs["ada"].hear(block(0.0), held=True)
        on.legs["bob"].hear(block(0.0), held=True)
        await on.settle()
        assert on.room.leg.held


async def test_digits_of_everybody_reach_the_agent() -> None:
    async with fakes("ada", "bob") as on:
        digits = on.room.leg.digits()
        for name, key in (("ada", "1"), ("bob", "2")):
            on.legs[name].keys.put_nowait(Digit(key))
            assert (await asyncio.wait_for(anext(digits), 5)).key == key


async def test_what_all_lost_because_we_were_late_the_agent_is_told() -> None:
    async with fakes("ada", "bob") as on:
        exchange = asyncio.create_task(on.room.leg.exchange())
        await asyncio.sleep(0)
        for leg in on.legs.values():
            leg.line.put_nowait(Exchange(block(0.1), block(0.0), skipped=960))
        await on.settle()
        for _ in range(3):
            await on.say(ada=0.1, bob=0.1)
        assert (await asyncio.wait_for(exchange, 5)).skipped == 960


# --- coming and going ----------------------------------------------------------------------------------------------


async def test_a_lost_leg_leaves_and_an_empty_room_stands_still() -> None:
    async with fakes("ada", "bob") as on:
        on.legs["ada"].broken.set_result("no media for 30 s")
        assert await asyncio.wait_for(on.tasks["ada"], 5) == "no media for 30 s"
        assert on.room.names == ("bob",)
        await on.say(bob=0.1)
        rounds = on.room.rounds
        on.tasks["bob"].cancel()
        await on.settle()
        assert not on.room.names and on.room.rounds == rounds
        assert not any(leg.closed for leg in on.legs.values())  # whose they are closes them


async def test_who_leaves_is_not_waited_for() -> None:
    async with fakes("ada", "bob") as on:
        await on.say(ada=0.1, bob=0.2)
        on.legs["ada"].hear(block(0.1))
        await on.settle()
        assert on.room.rounds == 1
        on.tasks["bob"].cancel()
        await on.settle()
        assert on.room.rounds == 2


async def test_a_closed_leg_leaves() -> None:
    class Closed(FakeLeg):
        async def exchange(self) -> Exchange:
            raise LegError("the leg is closed")

    assert await asyncio.wait_for(Room(FORMAT).join("ada", Side(Closed(), SHORT)), 5) == "the leg is closed"


async def test_a_leg_that_fails_takes_nobody_along(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(FakeLeg):
        def play(self, pcm: Pcm) -> None:
            raise ZeroDivisionError("a bug")

    async with fakes("ada", "bob") as on:
        await on.join("eve", leg=Buggy())
        with caplog.at_level(logging.ERROR):
            await on.say(ada=0.1, bob=0.2, eve=0.3)
            assert await asyncio.wait_for(on.tasks["eve"], 5) == "the media path failed: ZeroDivisionError: a bug"
        assert on.room.names == ("ada", "bob")
        await on.say(ada=0.1, bob=0.2)
        assert last(on.legs["ada"]) == pytest.approx(0.2)
        assert caplog.text.count("a leg in a room failed") == 1


@pytest.mark.parametrize("name", ["ada", AGENT])
async def test_a_name_is_taken_once(name: str) -> None:
    async with fakes("ada") as on:
        with pytest.raises(ValueError, match="already"):
            await on.room.join(name, Side(FakeLeg(), SHORT))
        assert on.room.names == ("ada",)


# --- real legs -----------------------------------------------------------------------------------------------------


class Phones:
    """A room of real legs on one wheel, each with a phone that says a tone of its own."""

    def __init__(self, codecs: tuple[Codec, ...], pitches: tuple[float, ...]) -> None:
        self.lines = [Line(codec) for codec in codecs]
        self.pitches = pitches
        self.wheel = self.lines[0]
        for line in self.lines:
            line.leg = RtpLeg(SHORT, self.wheel.clock, line.ports, "127.0.0.1")
        self.room = Room(FORMAT)

    async def tick(self) -> None:
        """20 ms of the wheel, and the loop for those who wait for it."""
        self.wheel.timers.run(0.02)
        for _ in range(3 * len(self.lines) + 6):
            await asyncio.sleep(0)

    async def talk(self, ticks: int) -> None:
        said = [tone(line.phone.codec, pitch) for line, pitch in zip(self.lines, self.pitches, strict=True)]
        for _ in range(ticks):
            for line, blocks in zip(self.lines, said, strict=True):
                line.phone.say(next(blocks))
            await self.tick()


@contextlib.asynccontextmanager
async def phones(*codecs: Codec, pitches: tuple[float, ...]) -> AsyncIterator[Phones]:
    on = Phones(codecs, pitches)
    async with contextlib.AsyncExitStack() as stack:
        for line in on.lines:
            await stack.enter_async_context(line)
            await line.connect()
        joined = [
            asyncio.create_task(on.room.join(f"phone {number}", Side(line.leg, SHORT)))
            for number, line in enumerate(on.lines)
        ]
        yield on
        for task in joined:
            task.cancel()
        await asyncio.wait(joined)


def strength(pcm: Pcm, hertz: float, rate: int) -> float:
    """How loud a tone of that pitch is in it, as its amplitude."""
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(pcm)) / rate)
    return float(2 * abs(np.mean(pcm * turns)))


async def agent_echoes(room: Room) -> None:
    """Says what it hears, as the echo engine does."""
    while True:
        room.leg.play((await room.leg.exchange()).heard)


async def test_three_phones_hear_each_other_and_not_themselves() -> None:
    pitches = (400.0, 1000.0, 1600.0)
    async with phones(PCMU, G722, PCMU, pitches=pitches) as on:
        await on.talk(100)
        for line, own in zip(on.lines, pitches, strict=True):
            rate = line.phone.codec.sample_rate
            heard = line.phone.hear(line.phone.packets(90))[-rate:]
            for pitch in pitches:
                expected = 0.0 if pitch == own else 0.25
                assert strength(heard, pitch, rate) == pytest.approx(expected, abs=0.04), (own, pitch)
        assert all(line.leg.stats.samples_dropped == 0 for line in on.lines)
        assert on.room.rounds in (99, 100, 101)


async def test_a_word_takes_no_longer_than_three_ticks_through_the_room() -> None:
    """From a packet's tick in to a packet out: its 20 ms, the lead of 20 ms, and a limiter's 5."""
    async with phones(PCMU, PCMU, pitches=(400.0, 400.0)) as on:
        await on.talk(0)
        blocks = tone(PCMU, 1000.0)
        for number in range(60):
            on.lines[0].phone.say(next(blocks) if number >= 30 else block(0.0, 160))
            on.lines[1].phone.say(block(0.0, 160))
            if number == 30:
                on.lines[1].phone.packets()
            await on.tick()
        heard = [on.lines[1].phone.hear([packet]) for packet in on.lines[1].phone.packets(25)]
        first = next(number for number, pcm in enumerate(heard) if np.abs(pcm).max() > 0.1)
        playout = on.lines[0].leg.stats.playout_delay_s
        assert first * 0.02 - playout <= 0.06, (first, playout)


async def test_the_agent_takes_part() -> None:
    """It echoes into the room: each then hears himself, but from it, and 100 ms and more later."""
    async with phones(PCMU, PCMU, pitches=(400.0, 1000.0)) as on:
        echo = asyncio.create_task(agent_echoes(on.room))
        await on.talk(100)
        echo.cancel()
        await asyncio.wait([echo])
        heard = on.lines[0].phone.hear(on.lines[0].phone.packets(90))[-8_000:]
        assert strength(heard, 400.0, 8_000) == pytest.approx(0.25, abs=0.04)
        assert on.room.leg.stats.samples_padded == 0


async def drifting(ticks: int, ppm: tuple[float, ...]) -> tuple[Phones, list[int]]:
    """Phones whose clocks are off by so much, for so long; how much waited in each seat, at most, in the second half.

    Without the loop's debugging, which takes ten times as long as all the rest.
    """
    asyncio.get_running_loop().set_debug(False)
    async with phones(*[PCMU] * len(ppm), pitches=(400.0,) * len(ppm)) as on:
        owed = [0.0] * len(ppm)
        said = [tone(line.phone.codec, 400.0) for line in on.lines]
        waited = [0] * len(ppm)
        for number in range(ticks):
            for at, line in enumerate(on.lines):
                owed[at] += 1 + ppm[at] / 1e6
                while owed[at] >= 1:
                    owed[at] -= 1
                    line.phone.say(next(said[at]))
                line.phone.packets()
            await on.tick()
            if number > ticks // 2:
                queues = [len(seat.queue) for seat in on.room._seats.values()]
                waited = [max(pair) for pair in zip(waited, queues, strict=True)]
        return on, waited


async def check_drift(ticks: int, ppm: tuple[float, ...]) -> None:
    on, waited = await drifting(ticks, ppm)
    assert abs(on.room.rounds - ticks) <= 2
    assert max(waited) <= 480, waited  # nothing heaps up in the room
    for line in on.lines:
        stats = line.leg.stats
        assert stats.playout_delay_s < 0.08
        assert stats.samples_dropped == 0 and stats.frames_skipped == 0
        assert stats.frames_concealed <= ticks // 100


async def test_clocks_that_drift_are_taken_up_by_the_legs() -> None:
    await check_drift(750, (5_000.0, -5_000.0, 0.0))  # far beyond what a bad crystal does, for a quarter of a minute


@pytest.mark.acceptance
async def test_ten_minutes_without_drift() -> None:
    await check_drift(30_000, (200.0, -200.0, 0.0))


def test_names_and_pitches_are_told_apart_by_the_tests_own_measure() -> None:
    at = np.arange(8_000) / 8_000
    for one, other in itertools.permutations((400.0, 1000.0, 1600.0), 2):
        assert strength(np.sin(2 * np.pi * one * at).astype(np.float32), other, 8_000) < 1e-3
