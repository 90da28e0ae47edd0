"""A room by the page: two browsers, a telephone and the agent, who hear each other, and nobody himself."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from engine.echo import EchoEngine, EchoSlot
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE, Frame, Reply, Sampling, Tokens
from media.codec import PCMU
from media.leg import Pcm
from media.pcm import Resampler
from tests.peers.chromium import Page, chromium
from tests.peers.folders import read
from tests.peers.roomsound import LOUD, RATE, Beeper, Sound, Way, stereo, way
from tests.peers.test_chromium import agent_of, fault
from voipagent import app
from voipagent.lab.phone import Codec, Phone, Target, Timed, call
from voipagent.settings import Settings

pytestmark = pytest.mark.peer("chromium")

ADA, BOB, PHONE = Beeper("ada", 520.0, 2.3), Beeper("bob", 830.0, 2.9), Beeper("bench", 1330.0, 3.7)
AGENT = Beeper("agent", 1810.0, 3.2)
PACKET = 160

DRIFT_S = 0.15
"""What a delay may differ at the end from the beginning, less what the browsers say they held. We hold some 100 ms more
or less, too, for what we take for jitter; clocks that are 0.03 % apart would make more of ten minutes."""

MICROPHONE = """
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async ({ audio }) => {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    return window.microphone = await ask({ audio: { ...audio, ...plain } });
  };
  const Connection = RTCPeerConnection;
  window.RTCPeerConnection = class extends Connection {
    constructor(settings) { super(settings); window.connection = this; }
  };
"""
"""It is not to take beeps for noise. And we want to ask the browser what it does."""

BUFFERED = """
  connection.getStats().then((all) => {
    const told = [...all.values()].find((each) => each.type === 'inbound-rtp');
    const [delay, count] = window.before ?? [0, 0];
    window.before = [told.jitterBufferDelay, told.jitterBufferEmittedCount];
    return (told.jitterBufferDelay - delay) / (told.jitterBufferEmittedCount - count);
  })
"""
"""Seconds for which its jitter buffer held what came since it was asked last."""

RECORD = """
  (() => {
    if (!window.both) {
      const context = new AudioContext({ sampleRate: 8000 });
      const merger = context.createChannelMerger(2);
      context.createMediaStreamSource(microphone).connect(merger, 0, 0);
      context.createMediaStreamSource(document.getElementById('ear').srcObject).connect(merger, 0, 1);
      window.both = context.createMediaStreamDestination();
      merger.connect(both);
    }
    const parts = [];
    const recorder = window.recorder = new MediaRecorder(both.stream, { mimeType: 'audio/webm;codecs=pcm' });
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.done = new Promise((resolve) => {
      recorder.onstop = () => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result.split(',')[1]);
        reader.readAsDataURL(new Blob(parts));
      };
    });
    return new Promise((resolve) => {
      recorder.onstart = () => resolve((performance.timeOrigin + performance.now()) / 1000);
      recorder.start();
    });
  })()
"""
"""What is said and what is heard, as two channels of one recording; gives when it began."""

RECORDED = "(recorder.stop(), recorder.done)"


@dataclass
class Telephone:
    """The third: beeps until cancelled, and remembers when each packet left."""

    phone: Phone
    packets: list[Timed] = field(default_factory=list)

    def payloads(self) -> Iterator[bytes]:
        encode, period = PCMU.make_encoder(), PHONE.period(RATE)
        for number in itertools.count():
            at = number * PACKET % len(period)
            payload = encode(period[at : at + PACKET])
            self.packets.append(Timed(time.perf_counter(), number * PACKET, payload))
            yield payload

    def sounds(self, since: float, until: float) -> tuple[Sound, Sound]:
        """What it said and heard between two times of `time.perf_counter`."""
        said, heard = ([p for p in each if since <= p.at < until] for each in (self.packets, self.phone.received))
        return _joined(said), _joined(heard)


def _joined(packets: list[Timed]) -> Sound:
    """By timestamps, whose clock begins so that most packets are on time: those of a busy machine come in bursts."""
    decode, first = PCMU.make_decoder(), packets[0].timestamp
    places = [(each.timestamp - first) & 0xFFFFFFFF for each in packets]
    pcm = np.zeros(max(places) + PACKET, np.float32)
    for place, each in zip(places, packets, strict=True):
        pcm[place : place + PACKET] = decode(each.payload)
    began = np.median([each.at - place / RATE for place, each in zip(places, packets, strict=True)])
    return Sound.steady(pcm, float(began) + time.time() - time.perf_counter())


@dataclass
class Meeting:
    """Everybody."""

    ada: Page
    bob: Page
    telephone: Telephone

    async def listen(self, seconds: float) -> Listened:
        """Record for so long; gives what came of each one's beeps to each, by the names of both."""
        pages, since = {"ada": self.ada, "bob": self.bob}, time.perf_counter()
        for page in pages.values():
            await page.run(BUFFERED)
        began = dict(zip(pages, await asyncio.gather(*(page.run(RECORD) for page in pages.values())), strict=True))
        await asyncio.sleep(seconds)
        held = {name: float(await page.run(BUFFERED)) for name, page in pages.items()}
        webm = await asyncio.gather(*(page.run(RECORDED) for page in pages.values()))
        said, heard = {}, {}
        for name, data in zip(pages, webm, strict=True):
            both = stereo(base64.b64decode(data))
            said[name], heard[name] = (Sound.steady(pcm, began[name]) for pcm in both)
        said["bench"], heard["bench"] = self.telephone.sounds(since, time.perf_counter())
        for name, sound in heard.items():
            assert len(sound.onsets(AGENT.hertz)) >= 2, f"{name} does not hear the agent"
        ways = {
            (one.name, other.name): way(said[one.name], heard[other.name], one.hertz)
            for one in (ADA, BOB, PHONE)
            for other in (ADA, BOB, PHONE)
        }
        return Listened(ways, held)


class Beeping(EchoSlot):
    """A model that beeps, whatever it hears, and takes each beep for a word."""

    deaf = ""

    def __init__(self) -> None:
        super().__init__(0, None)
        period = AGENT.period(SAMPLE_RATE)
        self._frames = itertools.cycle(
            period[: len(period) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        )
        self._loud = False

    async def step(self, frame: Frame) -> Reply:
        before, self._loud = self._loud, bool(np.abs(frame).max() > LOUD / 2)
        return replace(await super().step(next(self._frames)), heard=" beep" if self._loud and not before else "")


class BeepingEngine(EchoEngine):
    @asynccontextmanager
    async def open(self, sampling: Sampling, replay: Tokens | None = None) -> AsyncIterator[Beeping]:
        async with super().open(sampling, replay):
            yield Beeping()


@asynccontextmanager
async def opened(*_: object) -> AsyncIterator[BeepingEngine]:
    async with BeepingEngine(2) as engine:
        yield engine


@asynccontextmanager
async def whole_agent(folder: Path, patch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> AsyncIterator[Ports]:
    """All of the agent but its model, in this process."""
    patch.setattr(app, "open_engine", opened)
    environ = {"SIP__HOST": "127.0.0.1", "SIP__PORT": "0", "HTTP__PORT": "0", "CALLS__DIR": str(folder / "calls")}
    environ |= {"PERSONA__GREETING": "Hello.", "ROOMS__OPEN__MAX": "3"}
    settings = Settings.load({f"VOIPAGENT_{name}": value for name, value in environ.items()})
    with log.at_level("INFO", "voipagent.app"):
        serving = asyncio.create_task(app.serve(settings))
        try:
            async with asyncio.timeout(20):
                while not (found := re.search(r"answering at sip:\S*?:(\d+), HTTP on port (\d+)", log.text)):
                    assert not serving.done(), log.text
                    await asyncio.sleep(0.05)
            yield Ports(int(found[1]), int(found[2]))
        finally:
            serving.cancel()
            await asyncio.wait([serving])


@dataclass(frozen=True)
class Ports:
    """Where it answers."""

    sip: int
    http: int


@asynccontextmanager
async def meeting(folder: Path, ports: Ports) -> AsyncIterator[Meeting]:
    """Two who come by the page, and one who calls."""
    async with (
        chromium(ADA.write(folder), again=True) as first,
        chromium(BOB.write(folder), again=True) as second,
    ):
        url = f"http://127.0.0.1:{ports.http}/?room=open"
        ada, bob = [await browser.open(url, first=MICROPHONE) for browser in (first, second)]
        await join(ada, "ada")
        await join(bob, "bob")
        async with call(Target.parse(f"sip:open@127.0.0.1:{ports.sip}"), Codec(0, "PCMU")) as phone:
            telephone = Telephone(phone)
            beeping = asyncio.create_task(phone.send(telephone.payloads()))
            try:
                yield Meeting(ada, bob, telephone)
            finally:
                assert not beeping.done(), await beeping
                beeping.cancel()
        for page in (ada, bob):
            await page.click("#call")
            await page.until("document.body.dataset.state === 'idle'")
            assert page.faults == []


async def join(page: Page, name: str) -> None:
    await page.until("document.title.startsWith('Room ')")
    await page.run(f"document.getElementById('name').value = {name!r}")
    await page.click("#call")
    await page.until("document.body.dataset.state === 'live'")


@dataclass(frozen=True)
class Listened:
    """What came of each one's beeps to each, by the names of both; and how long browsers held what came, in seconds."""

    ways: dict[tuple[str, str], Way]
    held: dict[str, float]

    def check(self) -> None:
        """Each hears the others, and nobody himself. A busy machine tears some beeps."""
        for (one, other), found in self.ways.items():
            assert found.said >= 2, (one, other, self)
            if one == other:
                assert found.gain < 0.03, (one, self)
            else:
                assert found.heard >= 2 and found.gain > 0.3, (one, other, self)

    @property
    def delays(self) -> dict[str, float]:
        """The mean of both delays of each pair, less what browsers held, in seconds."""
        return {
            f"{one}-{other}": (
                self.ways[one, other].delay_s
                + self.ways[other, one].delay_s
                - self.held.get(one, 0.0)
                - self.held.get(other, 0.0)
            )
            / 2
            for one, other in itertools.combinations(("ada", "bob", "bench"), 2)
        }

    def __str__(self) -> str:
        delays = ", ".join(f"{pair} {1000 * delay:.0f} ms" for pair, delay in self.delays.items())
        held = ", ".join(f"{name} {1000 * delay:.0f} ms" for name, delay in self.held.items())
        ways = ", ".join(f"{one}>{other} {each.heard}/{each.said}" for (one, other), each in self.ways.items())
        loud = [each.gain for (one, other), each in self.ways.items() if one != other]
        own = [each.gain for (one, other), each in self.ways.items() if one == other]
        return f"{delays}; held by {held}; {ways}; loud x{min(loud):.2f} to x{max(loud):.2f}, own x{max(own):.4f}"


PEOPLE = "[...document.querySelectorAll('#people li')].map((li) => li.firstChild.textContent).join()"
SPEAKS = "[...document.querySelectorAll('#people .speaks')].some((li) => li.textContent.startsWith(%r))"
SAID_BY = "[...document.querySelectorAll('#lines b')].some((who) => who.textContent === %r)"


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(60, id="a minute"),
        pytest.param(600, id="ten minutes"),
    ],
)
async def test_each_hears_the_others_and_nobody_himself(
    tmp_path: Path, seconds: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And at the end nobody is heard later than at the beginning. Needs a machine that is not too busy."""
    asyncio.get_running_loop().set_debug(False)
    window = min(30.0, seconds / 3)
    async with (
        asyncio.timeout(seconds + 150),
        whole_agent(tmp_path, monkeypatch, caplog) as ports,
        meeting(tmp_path, ports) as there,
    ):
        await looks_right(there)
        began = time.perf_counter()
        first = await there.listen(window)
        print(f"at the beginning: {first}")
        first.check()
        await asyncio.sleep(seconds - window - (time.perf_counter() - began))
        last = await there.listen(window)
        print(f"at the end: {last}")
        last.check()
        assert last.delays == pytest.approx(first.delays, abs=DRIFT_S)
        await there.ada.picture(tmp_path / "room.png")
    (left,) = read(tmp_path / "calls")
    assert [each["name"] for each in left.record["participants"]] == ["ada", "bob", "bench"]
    assert {each["kind"] for each in left.record["participants"]} == {"sip", "webrtc"}
    for beeper in (ADA, BOB, PHONE):
        assert len(recorded(left.caller).onsets(beeper.hertz)) > seconds / beeper.period_s / 2, beeper


async def looks_right(there: Meeting) -> None:
    """Who is there, who speaks, and who said what."""
    await there.ada.until(f"{PEOPLE} === 'Agent,ada (you),bob,bench'")
    await there.bob.until(f"{PEOPLE} === 'Agent,ada,bob (you),bench'")
    for name in ("Agent", "ada", "bob", "bench"):
        await there.bob.until(SPEAKS % name)
    for name in ("Agent", "You", "bob", "bench"):
        await there.ada.until(SAID_BY % name)


def recorded(pcm: Pcm) -> Sound:
    return Sound.steady(Resampler(SAMPLE_RATE, RATE)(pcm), 0.0)


async def test_what_goes_wrong_on_the_way_into_a_room_is_told_with_what_to_do(tmp_path: Path) -> None:
    """No name, no such room, a wrong PIN and the right one in the link, a full room, one that is closed."""
    asyncio.get_running_loop().set_debug(False)
    async with asyncio.timeout(120), agent_of(tmp_path, **CLOSED) as agent, chromium() as browser:
        url = f"http://127.0.0.1:{agent.http_port}/"
        page = await browser.open(f"{url}?room=nowhere")
        await page.until("document.title === 'Room nowhere'")
        await page.click("#call")
        assert await page.run("document.activeElement.id") == "name", "who comes is to say so"
        await join_refused(page, "There is no such room, or its PIN is another")
        page = await browser.open(f"{url}?room=standup")
        await page.run("document.getElementById('pin').value = '0000'")
        await join_refused(page, "enter it below")
        assert await page.run("document.activeElement.id") == "pin"
        page = await browser.open(f"{url}?room=standup#pin=4711")
        assert await page.run("location.hash") == "", "the PIN does not stay in the address"
        await join(page, "ada")
        other = await browser.open(f"{url}?room=standup#pin=4711")
        await join_refused(other, "The room is full")
        await page.click("#call")
        await page.until("document.body.dataset.state === 'idle'")
        await other.click("#call")
        await other.until(f"{PEOPLE} === 'Agent,eve (you)'")  # by then it is told what becomes of the room
        await agent.stop()
        assert "You are no longer in the room." in await fault(other)


CLOSED = {"ENGINE__MODEL": "echo", "ROOMS__STANDUP__PIN": "4711", "ROOMS__STANDUP__MAX": "1"}


async def join_refused(page: Page, why: str) -> None:
    await page.run("document.getElementById('name').value = 'eve'")
    await page.click("#call")
    assert why in await fault(page)
