"""WebRTC legs on a bad network: what is lost, how late it is, and that a call outlives an outage."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from media.clock import TICK_S
from media.leg import Pcm
from media.pcm import silence
from tests.media.line import FRAME_S, loudness
from tests.media.path import voice
from tests.media.webline import WebLine, heard

RATE = 24_000
STEP_S = 0.005
SETTLED_S = 6.0
"""The other side's reports have told the sender by then how much is lost, so that it sends for two."""


def seconds(pcm: Pcm, start: float, end: float) -> Pcm:
    return pcm[round(start * RATE) : round(end * RATE)]


def delay_s(said: Pcm, got: Pcm, at_s: float, length_s: float = 1.0, longest_s: float = 0.3) -> float:
    """How much later that is heard than it was said, `at_s` after the beginning of both, by how loud it is."""
    part = envelope(seconds(got, at_s, at_s + length_s))
    best, late = 0.0, 0.0
    for step in range(round(longest_s / STEP_S)):
        there = envelope(seconds(said, at_s - step * STEP_S, at_s - step * STEP_S + length_s))
        likeness = float(np.corrcoef(part, there)[0, 1])
        best, late = max((best, late), (likeness, step * STEP_S))
    assert best > 0.8, f"at {at_s} s it is like nothing that was said ({best:.2f})"
    return late


def envelope(pcm: Pcm) -> Pcm:
    size = round(STEP_S * RATE)
    squares: Pcm = np.square(pcm[: len(pcm) // size * size].reshape(-1, size)).mean(axis=1)
    return np.sqrt(squares)


async def impaired(
    patch: pytest.MonkeyPatch, loss: float, jitter_s: float, length_s: float
) -> tuple[float, float, float]:
    """The share of blocks that was invented, the delay of playout, and how late the voice was at the end."""
    async with WebLine(patch) as line:
        await line.connect()
        network = line.impair(line.agent)
        network.loss, network.jitter_s = loss, jitter_s
        said = voice(length_s, RATE)
        got = heard(await line.talk(seconds(said, 0, SETTLED_S)))
        playout = line.agent._receiver.playout
        before, lost = playout.concealed, network.lost
        got = np.concatenate([got, heard(await line.talk(seconds(said, SETTLED_S, length_s)))])
        lost, invented = network.lost - lost, playout.concealed - before
        assert len(got) >= (length_s - 2 * FRAME_S) * RATE and loudness(got) > 0.5 * loudness(said)
        assert (lost == 0) == (loss == 0) and line.agent.stats.packets_lost >= lost
        return (
            invented * TICK_S / (length_s - SETTLED_S),
            line.agent.stats.playout_delay_s,
            delay_s(said, got, length_s - 1.5),
        )


async def test_most_of_what_is_lost_is_told_by_the_next_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    invented, playout_s, _ = await impaired(monkeypatch, 0.05, 0.0, 12.0)
    assert invented <= 0.03 and playout_s <= 0.08


@pytest.mark.acceptance
@pytest.mark.parametrize("loss, most", [(0.0, 0.0), (0.01, 0.006), (0.03, 0.018), (0.1, 0.06)])
@pytest.mark.parametrize("jitter_s, playout, voice_s", [(0.0, 0.08, 0.2), (0.05, 0.2, 0.35)])
async def test_loss_and_jitter_cost_no_more_than_on_a_telephone(
    loss: float, most: float, jitter_s: float, playout: float, voice_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The playout's ceiling is 200 ms; jitter of that size has blocks that come after it."""
    invented, playout_s, late_s = await impaired(monkeypatch, loss, jitter_s, 30.0)
    print(f"{loss:.0%}, {jitter_s:g} s: {invented:.2%} invented, playout {playout_s:.3f} s, {late_s:.3f} s late")
    assert invented <= most + (0.03 if jitter_s else 0.0)
    assert playout_s <= playout and late_s <= voice_s


async def test_a_call_outlives_five_seconds_of_nothing_and_is_no_later_after(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebLine(monkeypatch) as line:
        await line.connect()
        networks = line.impair(line.agent), line.impair(line.caller, 2)
        said = voice(14.0, RATE)
        got = [await line.talk(seconds(said, 0, 4))]
        for network in networks:
            network.down = True
        got.append(await line.talk(seconds(said, 4, 9)))
        for network in networks:
            network.down = False
        got.append(await line.talk(seconds(said, 9, 14)))
        assert not line.agent.is_lost and not line.caller.is_lost
        assert [len(each) * FRAME_S for each in got] == pytest.approx([4, 5, 5], abs=0.2)
        whole = np.concatenate([heard(each) for each in got])
        assert loudness(seconds(whole, 4.5, 9)) < 0.01 and loudness(seconds(whole, 9.4, 10)) > 0.03
        assert abs(delay_s(said, whole, 3.0) - delay_s(said, whole, 12.5)) < 0.041


async def test_who_is_away_is_waited_for_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "media.webrtc")
    async with WebLine(monkeypatch, grace_s=20.0) as line:
        await line.connect()
        network = line.impair(line.agent)
        line.tick(50)
        network.down = True
        line.tick(round(9.0 / TICK_S))
        assert "nothing came for 8 s" in caplog.text and not line.agent.is_lost
        network.down = False
        line.tick(10)
        assert "the far end is back" in caplog.text
        network.down = True
        line.tick(round(19.0 / TICK_S))
        assert not line.agent.is_lost
        line.tick(round(1.5 / TICK_S))
        assert "nothing came from the far end for 20 s" in await line.agent.lost()


async def test_time_goes_on_while_there_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of silence each 80 ms, so that the model's time never stops."""
    async with WebLine(monkeypatch) as line:
        await line.connect()
        line.impair(line.agent).down = True
        exchanges = await line.talk(silence(4 * RATE))
        assert len(exchanges) == pytest.approx(50, abs=1)
        assert not heard(exchanges).any()
