"""bridge.py: two fake legs, then two real ones with a phone at either end, under a made-up clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import numpy as np
import pytest

from media.bridge import Bridge, Side
from media.codec import G722, PCMU, Codec
from media.leg import AudioFormat, Digit, Exchange, LegError, Pcm
from media.rtp import RtpLeg
from tests.fakes import FakeLeg
from tests.media.line import FORMAT, Line, loudness, tone
from tests.media.waiting import until

WIDE = AudioFormat(48_000, 3_840)


class Fakes:
    """Two fake legs, bridged."""

    def __init__(self, second_format: AudioFormat = FORMAT) -> None:
        self.first, self.second = FakeLeg(), FakeLeg()
        self.heard: list[Exchange] = []
        self.bridge = Bridge(Side(self.first, FORMAT), Side(self.second, second_format), self.heard.append)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[str]]:
        task = asyncio.create_task(self.bridge.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


def frame(level: float, samples: int = FORMAT.frame_samples) -> Pcm:
    return np.full(samples, level, np.float32)


async def test_each_hears_the_other_and_not_itself() -> None:
    fakes = Fakes()
    async with fakes.running():
        fakes.first.hear(frame(0.1), frame(0.2))
        fakes.second.hear(frame(-0.3))
        await until(lambda: len(fakes.second.played) == 2 and len(fakes.first.played) == 1)
    assert [float(pcm[0]) for pcm in fakes.second.played] == pytest.approx([0.1, 0.2])
    assert [float(pcm[0]) for pcm in fakes.first.played] == pytest.approx([-0.3])


async def test_the_recording_hears_the_first_legs_exchanges() -> None:
    """What it heard, and what it was played: both sides of the conversation."""
    fakes = Fakes()
    async with fakes.running():
        exchange = Exchange(frame(0.1), frame(0.5))
        fakes.first.line.put_nowait(exchange)
        fakes.second.hear(frame(0.9))
        await until(lambda: len(fakes.heard) == 1 and len(fakes.first.played) == 1)
    assert fakes.heard == [exchange]


async def test_each_has_its_own_rate() -> None:
    fakes = Fakes(WIDE)
    async with fakes.running():
        for _ in range(4):
            fakes.first.hear(frame(0.1))
            fakes.second.hear(frame(0.2, WIDE.frame_samples))
        await until(lambda: len(fakes.second.played) == 4 and len(fakes.first.played) == 4)
    assert {len(pcm) for pcm in fakes.second.played} == {WIDE.frame_samples}
    assert {len(pcm) for pcm in fakes.first.played} == {FORMAT.frame_samples}
    assert fakes.second.played[-1] == pytest.approx(0.1, abs=0.01)
    assert fakes.first.played[-1] == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("side", ["first", "second"])
async def test_a_lost_leg_ends_it(side: str) -> None:
    fakes = Fakes()
    async with fakes.running() as running, asyncio.timeout(5):
        getattr(fakes, side).broken.set_result(f"nothing came for the {side}")
        assert await running == f"nothing came for the {side}"
    assert not fakes.first.closed and not fakes.second.closed  # whose they are closes them


async def test_a_closed_leg_ends_it() -> None:
    class Closed(FakeLeg):
        async def exchange(self) -> Exchange:
            raise LegError("the leg is closed")

    bridge = Bridge(Side(FakeLeg(), FORMAT), Side(Closed(), FORMAT))
    async with asyncio.timeout(5):
        assert await bridge.run() == "the leg is closed"


async def test_digits_go_over_where_they_are_taken() -> None:
    class Keypad(FakeLeg):
        def __init__(self) -> None:
            super().__init__()
            self.sent: list[str] = []

        async def send_digits(self, digits: str) -> None:
            self.sent.append(digits)

    first, second = FakeLeg(), Keypad()  # the first takes none
    bridge = Bridge(Side(first, FORMAT), Side(second, FORMAT))
    task = asyncio.create_task(bridge.run())
    for key in "12#":
        first.keys.put_nowait(Digit(key))
    second.keys.put_nowait(Digit("5"))
    await until(lambda: second.sent == ["1", "2", "#"] and bridge.deaf == 1)
    task.cancel()
    await asyncio.wait([task])


async def test_cancelled_it_leaves_the_legs_open() -> None:
    fakes = Fakes()
    async with fakes.running():
        await asyncio.sleep(0)
    assert not fakes.first.closed and not fakes.second.closed
    assert not fakes.first.broken.cancelled()


# --- two real legs -------------------------------------------------------------------------------------------------


class Two:
    """Two legs on one wheel, each with a phone that says a tone of its own, and bridged."""

    def __init__(self, first: Codec, second: Codec) -> None:
        self.first, self.second = Line(first), Line(second)
        ports = self.second.ports
        self.second.leg = RtpLeg(FORMAT, self.first.clock, ports, "127.0.0.1")  # on the same wheel
        self.heard: list[Exchange] = []
        sides = Side(self.first.leg, FORMAT), Side(self.second.leg, FORMAT)
        self.bridge = Bridge(*sides, self.heard.append)

    async def talk(self, ticks: int) -> None:
        """Both phones talk for so long; the bridge has the loop after each tick."""
        said = tone(self.first.phone.codec, 440.0), tone(self.second.phone.codec, 1000.0)
        for _ in range(ticks):
            self.first.phone.say(next(said[0]))
            self.second.phone.say(next(said[1]))
            self.first.timers.run(0.02)
            for _ in range(6):
                await asyncio.sleep(0)


def strength(pcm: Pcm, hertz: float, rate: int) -> float:
    """How loud a tone of that pitch is in it, as its amplitude."""
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(pcm)) / rate)
    return float(2 * abs(np.mean(pcm * turns)))


@pytest.mark.parametrize(("first", "second"), [(PCMU, PCMU), (PCMU, G722)], ids=["same codec", "two codecs"])
async def test_two_phones_talk(first: Codec, second: Codec) -> None:
    two = Two(first, second)
    async with two.first, two.second:
        await two.first.connect()
        await two.second.connect()
        running = asyncio.create_task(two.bridge.run())
        await two.talk(100)
        for line, theirs, own in ((two.first, 1000.0, 440.0), (two.second, 440.0, 1000.0)):
            codec = line.phone.codec
            heard = line.phone.hear(line.phone.packets(90))[-codec.sample_rate :]
            assert strength(heard, theirs, codec.sample_rate) == pytest.approx(0.25, rel=0.15)
            assert strength(heard, own, codec.sample_rate) < 0.01
        last = np.concatenate([exchange.heard for exchange in two.heard[-10:]])
        played = np.concatenate([exchange.played for exchange in two.heard[-10:]])
        assert strength(last, 440.0, 24_000) == pytest.approx(0.25, rel=0.15)
        assert strength(played, 1000.0, 24_000) == pytest.approx(0.25, rel=0.15)
        for leg in (two.first.leg, two.second.leg):
            assert leg.stats.samples_dropped == 0
        running.cancel()
        await asyncio.wait([running])


async def test_a_phone_on_hold_is_silent_for_the_other() -> None:
    two = Two(PCMU, PCMU)
    async with two.first, two.second:
        await two.first.connect()
        await two.second.connect()
        running = asyncio.create_task(two.bridge.run())
        await two.talk(50)
        await two.first.leg.answer(two.first.phone.sdp("a=sendonly"))
        two.second.phone.packets()
        await two.talk(50)
        quiet = two.second.phone.hear(two.second.phone.packets(40))[-4_000:]
        assert loudness(quiet) < 0.001
        running.cancel()
        await asyncio.wait([running])


async def test_the_second_phone_vanishes() -> None:
    two = Two(PCMU, PCMU)
    async with two.first, two.second:
        await two.first.connect()
        await two.second.connect()
        running = asyncio.create_task(two.bridge.run())
        await two.talk(10)
        await two.second.leg.close()
        async with asyncio.timeout(5):
            assert await running == "the leg is closed"
