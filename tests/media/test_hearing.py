"""The hearing half: which lines of an offer are agreed to, and how. What is heard by it is in test_tracks.

It is called by aiortc in tests/signaling/meetings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from media.answer import Legs
from media.clock import TICK_S, Clock
from media.hearing import HearingLeg
from media.leg import LegError
from media.pair import PairLeg
from media.playout import Heard
from media.sdp import parse
from tests.media.line import FORMAT, Timers

FINGERPRINT = ":".join(["AB"] * 32)
HEAD = ("v=0", "o=- 7 1 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0 1 2 3")
DATA = ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", "a=mid:0")


def track(
    mid: int, direction: str = "sendonly", codec: str = "opus/48000/2", port: int = 9, more: str = ""
) -> list[str]:
    return [
        *(f"m=audio {port} UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", f"a=mid:{mid}", f"a={direction}"),
        *(f"a=rtpmap:111 {codec}", "a=rtcp-mux", "a=ice-ufrag:abcd", f"a=ice-pwd:{'x' * 22}", "a=setup:actpass"),
        *(f"a=fingerprint:sha-256 {FINGERPRINT}", *([more] if more else [])),
    ]


def offer(*tracks: list[str]) -> str:
    return "\r\n".join([*HEAD, *DATA, *(line for lines in tracks for line in lines), ""])


def telling(timers: Timers) -> Callable[[float], Heard]:
    """Sound that tells when it was heard, in seconds since now."""
    began = timers.now
    return lambda now: Heard(np.full(960, now - began, np.float32))


@pytest.mark.parametrize("early_s", [0.0, 0.1, 0.5, 1.5])
async def test_what_was_heard_before_the_call_began_does_not_make_the_rest_late(
    early_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server offers what is to be heard as soon as we are in the room, and the model takes its time to begin."""
    timers = Timers()
    async with Legs(FORMAT, ports=(26_000, 26_999), clock=Clock(timers)) as legs:
        pair, far = legs.open_pair_leg("127.0.0.1"), legs.open_web_leg("127.0.0.1", "in")
        mine = await pair.offer()
        await pair.answer(offer(track(1)))
        began = timers.now
        monkeypatch.setattr(pair._hearing._receiver, "tick", telling(timers))
        timers.run(early_s)
        await pair.accepted(await far.answer(mine))
        for _ in range(8):
            exchanging = asyncio.ensure_future(pair.exchange())
            await asyncio.sleep(0)
            async with asyncio.timeout(5):
                while not exchanging.done():
                    timers.run(TICK_S)
                    await asyncio.sleep(0)
            exchange = exchanging.result()
        assert 0 <= timers.now - began - exchange.heard[-1] < FORMAT.frame_s + TICK_S
        await pair.close()
        await far.close()


@pytest.fixture
async def pair() -> AsyncIterator[PairLeg]:
    async with Legs(FORMAT, ports=(26_000, 26_999)) as legs:
        yield legs.open_pair_leg("127.0.0.1")


def told(answer: str) -> list[tuple[str, bool, str, str | None]]:
    """Of each line: kind, whether it is accepted, direction, name."""
    lines = parse(answer).media
    return [(line.kind, line.port > 0, line.direction, line.attribute("mid")) for line in lines]


async def test_all_tracks_are_agreed_to_and_nothing_else(pair: PairLeg) -> None:
    answer = await pair.answer(offer(track(1), track(2, "inactive"), track(3, port=0, more="a=bundle-only")))
    assert told(answer) == [
        ("application", False, "inactive", "0"),
        ("audio", True, "recvonly", "1"),
        ("audio", True, "inactive", "2"),
        ("audio", True, "recvonly", "3"),
    ]
    assert "a=group:BUNDLE 1 2 3" in answer.splitlines()
    (ufrag,) = {line.attribute("ice-ufrag") for line in parse(answer).media[1:]}
    assert ufrag and answer.count(f"a=ice-ufrag:{ufrag}") == 3


async def test_the_same_offer_has_the_same_answer_and_more_tracks_another(pair: PairLeg) -> None:
    first = await pair.answer(offer(track(1)))
    assert await pair.answer(offer(track(1))) == first
    assert [mid for *_, mid in told(await pair.answer(offer(track(1, "inactive"), track(2))))] == ["0", "1", "2"]
    assert not pair.held


async def test_a_track_by_another_codec_or_way_is_refused(pair: PairLeg) -> None:
    other = [line.replace("ice-ufrag:abcd", "ice-ufrag:efgh") for line in track(3)]
    answer = await pair.answer(offer(track(1), track(2, codec="G722/8000"), other))
    assert [accepted for _, accepted, *_ in told(answer)] == [False, True, False, False]


async def test_an_offer_without_audio_is_refused(pair: PairLeg) -> None:
    with pytest.raises(LegError, match="no audio stream"):
        await pair.answer(offer())


async def test_we_offer_to_send_and_no_more(pair: PairLeg) -> None:
    (line,) = parse(await pair.offer()).media
    assert (line.kind, line.direction) == ("audio", "sendonly")
    with pytest.raises(LegError, match="takes no digits"):
        await pair.send_digits("1")


async def test_the_first_of_the_two_that_is_lost_is_the_end(pair: PairLeg) -> None:
    lost = asyncio.create_task(pair.lost())
    await asyncio.sleep(0)
    hearing = pair._hearing
    assert isinstance(hearing, HearingLeg)
    hearing._lose("the network is down")
    assert await asyncio.wait_for(lost, 5) == "the network is down"
    pair.play(np.zeros(FORMAT.frame_samples, np.float32))
    await pair.close()
    await pair.close()
    with pytest.raises(LegError):
        await pair.exchange()


async def test_an_empty_room_is_no_reason_to_go(pair: PairLeg) -> None:
    await pair.answer(offer(track(1)))
    hearing = pair._hearing
    hearing._ever = True
    now = hearing._clock.time()
    hearing._way.heard_at = now + 100
    assert hearing._why_lost(now + 100) is None
    hearing._way.heard_at = now
    assert "nothing came from the far end" in (hearing._why_lost(now + 100) or "")
