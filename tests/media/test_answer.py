"""Legs: what all calls share, on the real loop."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from ipaddress import ip_network

import numpy as np
import pytest

from media.answer import Legs
from media.clock import Clock
from media.codec import PCMU
from media.leg import Leg, LegError
from media.sdp import parse
from tests.media.line import FORMAT, Phone, Timers, loudness, tone

PORTS = (28_000, 28_999)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_leg_echoes_in_real_time() -> None:
    phone = Phone()
    async with Legs(FORMAT, ports=PORTS) as legs:
        leg = legs.open_leg(phone.sdp(), "127.0.0.1")
        answer = await leg.answer(phone.sdp())
        assert PORTS[0] <= parse(answer).media[0].port <= PORTS[1]
        phone.read(answer)
        blocks = tone(PCMU)
        loud = 0
        async with asyncio.timeout(20):
            while loud < 10:
                exchange = await leg.exchange()
                leg.play(exchange.heard)
                loud += loudness(exchange.played) > 0.05
                for _ in range(4):
                    phone.say(next(blocks))
        packets = phone.packets(40)
        assert loudness(phone.hear(packets[-8:])) > 0.05
        await leg.close()
    phone.close()


@pytest.mark.parametrize(
    ("host", "advertised", "told"),
    [
        ("127.0.0.1", (), "127.0.0.1"),
        ("127.0.0.1", ("192.0.2.9",), "192.0.2.9"),
        ("127.0.0.1", ("2001:db8::9",), "127.0.0.1"),  # of the other IP version: no use to this far end
        ("127.0.0.1", ("2001:db8::9", "192.0.2.9"), "192.0.2.9"),
        ("::ffff:127.0.0.1", (), "127.0.0.1"),
        ("127.0.0.1", ("localhost",), "127.0.0.1"),
    ],
)
async def test_which_address_the_far_end_is_told(host: str, advertised: tuple[str, ...], told: str) -> None:
    async with Legs(FORMAT, ports=PORTS, advertised=advertised) as legs:
        phone = Phone()
        for description in (
            await legs.open_leg(phone.sdp(), host).answer(phone.sdp()),
            await legs.open_leg(None, host).offer(),
        ):
            assert parse(description).media[0].host == told
        phone.close()


async def test_behind_a_proxy_on_this_machine_the_media_decides_which_address() -> None:
    """Signalling comes over loopback, the audio does not: 127.0.0.1 would be of no use to the far end."""
    other = outer_address()
    async with Legs(FORMAT, ports=PORTS) as legs:
        offer = f"v=0\r\nc=IN IP4 {other}\r\nm=audio 4000 RTP/AVP 0\r\n"
        answer = await legs.open_leg(offer, "127.0.0.1").answer(offer)
        assert parse(answer).media[0].host == other


def outer_address() -> str:
    """An address of this machine other than loopback; where there is none, loopback's second one will do."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
    return address


async def test_an_advertised_name_that_is_none_is_an_error_at_once() -> None:
    with pytest.raises(LegError, match="'no such host' cannot be looked up"):
        async with Legs(FORMAT, ports=PORTS, advertised=("no such host",)):
            pass


async def test_a_leg_refuses_only_when_it_is_asked() -> None:
    async with Legs(FORMAT, ports=PORTS) as legs:
        offer = "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 9 RTP/SAVPQ 111\r\na=rtpmap:111 opus/48000/2\r\n"
        leg = legs.open_leg(offer, "127.0.0.1")
        with pytest.raises(LegError, match="RTP/SAVPQ'; this agent speaks RTP/AVP"):
            await leg.answer(offer)


async def test_the_policy_of_encryption_is_that_of_every_leg() -> None:
    phone = Phone()
    async with Legs(FORMAT, ports=PORTS, srtp="demand") as legs:
        with pytest.raises(LegError, match="RTP/AVP, without a=crypto; this agent demands encryption"):
            await legs.open_leg(phone.sdp(), "127.0.0.1").answer(phone.sdp())
    phone.close()


async def test_more_calls_than_ports() -> None:
    async with Legs(FORMAT, ports=(PORTS[0], PORTS[0] + 3)) as legs:
        phone = Phone()
        open_legs = [legs.open_leg(phone.sdp(), "127.0.0.1") for _ in range(3)]
        answers = [await leg.answer(phone.sdp()) for leg in open_legs[:2]]
        with pytest.raises(LegError, match="no UDP port pair of 28000-28003 is free: 2 are in calls"):
            await open_legs[2].answer(phone.sdp())
        await open_legs[0].close()
        again = await open_legs[2].answer(phone.sdp())
        assert parse(again).media[0].port == parse(answers[0]).media[0].port
        phone.close()


async def test_leaving_closes_what_is_open() -> None:
    before = open_files()
    phone = Phone()
    async with Legs(FORMAT, ports=PORTS) as legs:
        for _ in range(3):
            leg = legs.open_leg(phone.sdp(), "127.0.0.1")
            await leg.answer(phone.sdp())
            await asyncio.wait_for(leg.exchange(), 5)
    phone.close()
    assert open_files() == before


async def test_200_calls_leave_nothing_behind() -> None:
    gc.collect()
    loop = asyncio.get_running_loop()
    phone = Phone()
    timers = Timers()
    clock = Clock(timers)
    files, tasks = open_files(), len(asyncio.all_tasks())
    async with Legs(FORMAT, ports=PORTS, clock=clock) as legs:
        for wave in range(10):
            current: list[Leg] = []
            for number in range(20):
                leg = legs.open_leg(phone.sdp(), "127.0.0.1")
                if number % 2:
                    phone.read(await leg.answer(phone.sdp()))
                else:
                    phone.read(await leg.offer())
                    await leg.accepted(phone.sdp())
                current.append(leg)
            waiting = [asyncio.ensure_future(leg.exchange()) for leg in current]
            await asyncio.sleep(0)
            assert len(timers.due) == 1 and len(clock) == 20
            assert len(asyncio.all_tasks()) == tasks + 20  # our own readers, no task of a leg
            timers.run(0.1)
            for exchange in waiting:
                current[0].play((await asyncio.wait_for(exchange, 5)).heard)
            for leg in current:
                await leg.close()
            assert not timers.due and len(clock) == 0, wave
            assert open_files() == files
        assert not legs._open
    gc.collect()
    assert len(asyncio.all_tasks()) == tasks
    assert not [handle for handle in getattr(loop, "_scheduled", ()) if not handle.cancelled()]
    assert clock.failures == 0
    phone.close()


async def test_ten_calls_at_once_each_hear_their_own() -> None:
    timers = Timers()
    async with Legs(FORMAT, ports=PORTS, clock=Clock(timers)) as legs:
        phones = [Phone() for _ in range(10)]
        pairs = [(legs.open_leg(phone.sdp(), "127.0.0.1"), phone) for phone in phones]
        for leg, phone in pairs:
            phone.read(await leg.answer(phone.sdp()))
        blocks = [tone(PCMU, 300.0 + 100 * number) for number in range(10)]
        for _ in range(8):
            waiting = [asyncio.ensure_future(leg.exchange()) for leg, _ in pairs]
            await asyncio.sleep(0)
            for _ in range(4):
                for phone, block in zip(phones, blocks, strict=True):
                    phone.say(next(block))
                timers.run(0.02)
            for (leg, _), exchange in zip(pairs, waiting, strict=True):
                leg.play((await asyncio.wait_for(exchange, 5)).heard)
        for number, phone in enumerate(phones):
            sound = phone.hear(phone.packets(32)[-8:])
            spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
            loudest = float(np.argmax(spectrum)) * 8000 / len(sound)
            assert loudest == pytest.approx(300 + 100 * number, abs=10)
            phone.close()


async def test_codecs_encryption_and_networks_of_one_call() -> None:
    """What a trunk says of its calls goes before what is set for all."""
    phone, far = Phone(), Phone(host="127.0.0.3")
    offer = phone.sdp(formats="0 8 101")
    async with Legs(FORMAT, ports=PORTS, codecs=("pcma", "pcmu")) as legs:
        assert "RTP/AVP 8 101" in await legs.open_leg(offer, "127.0.0.1").answer(offer)
        leg = legs.open_leg(offer, "127.0.0.1", codecs=("PCMU",), networks=(ip_network("127.0.0.2/31"),))
        answer = await leg.answer(offer)
        assert "RTP/AVP 0 101" in answer
        pending = asyncio.ensure_future(leg.exchange())
        await asyncio.sleep(0)
        far.read(answer)
        far.send(bytes(160))
        async with asyncio.timeout(5):
            await pending
        assert leg.stats.packets_received == 1
        with pytest.raises(LegError, match="demands encryption"):
            await legs.open_leg(offer, "127.0.0.1", srtp="demand").answer(offer)
    with pytest.raises(ValueError, match="'g729' is no codec that this agent speaks"):
        Legs(FORMAT, ports=PORTS, codecs=("g729",))
    phone.close()
    far.close()
