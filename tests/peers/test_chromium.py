"""Visitors talk to the agent through the page: Chromium, with a spoken file as its microphone."""

from __future__ import annotations

import asyncio
import base64
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import av
import numpy as np
import pytest

from engine.pocket.recipe.domain import load_domain
from engine.pocket.recipe.judges import sphinx
from media.leg import Pcm
from tests.peers.chromium import Page, chromium
from tests.peers.folders import read
from voipagent.lab.demo import read_sentence
from voipagent.lab.serving import ServingAgent, serving_agent
from voipagent.talk import read_frames

pytestmark = pytest.mark.peer("chromium")

GREETING = "Hello, this is the front desk. How can I help?"
ANSWER = "On Sundays and holidays we are closed."
RATE = 48_000

RECORD = """
  (() => {
    const recorder = new MediaRecorder(document.getElementById('ear').srcObject);
    window.parts = [];
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.start(500);
  })()
"""

RECORDED = """
  new Blob(parts).arrayBuffer().then((bytes) =>
    btoa(Array.from(new Uint8Array(bytes), (byte) => String.fromCharCode(byte)).join('')))
"""

CHOOSE = """
  (() => {
    const choice = document.getElementById('persona');
    choice.value = '%s';
    choice.dispatchEvent(new Event('change'));
  })()
"""

RELAYED = """
  const Connection = RTCPeerConnection;
  window.RTCPeerConnection = class extends Connection {
    constructor(settings) { super({ ...settings, iceTransportPolicy: 'relay' }); window.connection = this; }
  };
"""
"""For a browser that has no way but a relay."""

TALLEST = """
  (() => {
    const c = document.getElementById('%s-trace');
    const { data, width, height } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
    let most = 0;
    for (let x = 0; x < width; x += 1) {
      let tall = 0;
      for (let y = 0; y < height; y += 1) tall += data[4 * (y * width + x) + 3] > 128;
      most = Math.max(most, tall);
    }
    return most / height;
  })()
"""

FINAL = "[...document.querySelectorAll('#lines .%s:not(.growing) p')].map((line) => line.textContent).join('|')"


def question(folder: Path, before_s: float, after_s: float) -> Path:
    """A microphone that hears one question, and silence around it."""
    silence = [np.zeros(round(seconds * RATE), np.int16) for seconds in (before_s, after_s)]
    path = folder / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.concatenate([silence[0], read_sentence("sunday", RATE), silence[1]]).tobytes())
    return path


@asynccontextmanager
async def agent_of(folder: Path, **environ: str) -> AsyncIterator[ServingAgent]:
    values = {f"VOIPAGENT_{name}": value for name, value in environ.items()}
    async with serving_agent({"VOIPAGENT_CALLS__DIR": str(folder / "calls")} | values) as agent:
        try:
            yield agent
        finally:
            print(*agent.log, sep="\n")  # seen where a test fails


async def begin(page: Page) -> None:
    """Call by the keyboard: the first thing that can be reached is the button."""
    await page.until("document.title !== 'Talk to the agent'")
    await page.press("Tab")
    assert await page.run("document.activeElement.id") == "call"
    await page.press("Enter", "\r")
    await page.until("document.body.dataset.state === 'live'")


async def end(page: Page) -> None:
    await page.press("Enter", "\r")
    await page.until("document.body.dataset.state === 'idle'")
    assert (await page.text("#status")).startswith("The call lasted 0:")
    assert not await page.text("#fault")


async def heard(page: Page, folder: Path) -> Pcm:
    """What has come out of the page's loudspeaker since `RECORD`, at 24 kHz."""
    path = folder / "heard.webm"
    path.write_bytes(base64.b64decode(await page.run(RECORDED)))
    return np.concatenate(list(read_frames(path, 24_000, 1_920)))


async def hears_itself(page: Page, folder: Path) -> None:
    """What is said again and again comes back, if not the first time, where the machine is busy, then the next."""
    for seconds in (13, 25, 37):
        await page.until(f"parts.length >= {2 * seconds}")
        alike = likeness(await heard(page, folder), spoken())
        if alike > 0.8:
            return
    raise AssertionError(f"what is heard is like what was said by {alike:.2f}")


async def ask_and_hear(page: Page, folder: Path) -> str:
    """Talk until the question is answered; gives which answer was heard, of all there are."""
    await page.until(f"{FINAL % 'agent'} === {GREETING!r}", 30)
    await page.run(RECORD)
    await page.until(f"{FINAL % 'agent'} === {f'{GREETING}|{ANSWER}'!r}", 45)
    assert "on sunday" in str(await page.run(FINAL % "caller")).lower()
    domain = load_domain()
    pick = sphinx([domain.clip_text(answer) for answer in domain.answers()])
    return pick(await heard(page, folder))


async def check_looks(page: Page, folder: Path) -> None:
    """What can be said of how it looks: it fits, both voices are drawn, and all can be read."""
    for width, height in ((1280, 800), (390, 844), (360, 740)):
        await page.resize(width, height)
        await page.until(f"innerWidth === {width}")
        assert await page.run("document.documentElement.scrollWidth") <= width
        await page.picture(folder / f"live-{width}.png")
        with av.open(str(folder / f"live-{width}.png")) as picture:
            assert (picture.streams.video[0].width, picture.streams.video[0].height) == (width, height)
    await page.resize(1280, 800)


def spoken() -> Pcm:
    """The question, at 24 kHz."""
    return np.asarray(read_sentence("sunday", 24_000) / 32_768, np.float32)


def likeness(one: Pcm, other: Pcm) -> float:
    """How alike two sounds are in how their loudness moves, wherever in `one` the shorter `other` may begin."""
    loud = [np.sqrt(np.mean(np.square(each[: len(each) // 480 * 480].reshape(-1, 480)), 1)) for each in (one, other)]
    windows = np.lib.stride_tricks.sliding_window_view(loud[0], len(loud[1]))
    away = windows - windows.mean(1, keepdims=True)
    wanted = loud[1] - loud[1].mean()
    alike = away @ wanted / (np.linalg.norm(away, axis=1) * np.linalg.norm(wanted) + 1e-9)
    return float(alike.max())


async def test_a_visitor_talks_and_hears_itself(tmp_path: Path) -> None:
    """The engine that echoes: who was chosen greets, what is said comes back, and the page shows all there is."""
    sales = {"WEBRTC__PERSONAS": "sales", "PERSONAS__SALES__GREETING": "Good day."}
    async with asyncio.timeout(90), agent_of(tmp_path, ENGINE__MODEL="echo", **sales) as agent:
        async with chromium(question(tmp_path, 4.0, 0.0), again=True) as browser:
            page = await browser.open(f"http://127.0.0.1:{agent.http_port}/")
            await page.until("!document.getElementById('persona-choice').hidden")
            await page.run(CHOOSE % "sales")
            assert await page.text("#agent") == "Sales"
            await begin(page)
            await page.run(RECORD)
            await page.until(f"{FINAL % 'agent'} === 'Good day.'")
            await page.until(f"{TALLEST % 'you'} > 0.3 && {TALLEST % 'agent'} > 0.3")
            await check_looks(page, tmp_path)
            await page.until("document.getElementById('latency').textContent.endsWith(' ms')")
            await hears_itself(page, tmp_path)
            await page.press("m")
            assert await page.run("document.getElementById('mute').getAttribute('aria-pressed')") == "true"
            await end(page)
            assert page.faults == []
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert left.record["persona"] == "sales"
    assert (left.record["kind"], left.record["ended_by"], left.record["reason"]) == ("webrtc", "caller", "hung up")
    assert left.record["media"]["codec"] == "opus" and "none" not in left.record["media"]["encryption"]
    assert likeness(left.caller, spoken()) > 0.8


@pytest.mark.acceptance
async def test_who_finds_no_way_for_the_sound_is_told_so(tmp_path: Path) -> None:
    """A browser that may use a relay only, where there is none."""
    async with asyncio.timeout(60), agent_of(tmp_path, ENGINE__MODEL="echo") as agent:
        async with chromium() as browser:
            page = await browser.open(f"http://127.0.0.1:{agent.http_port}/", first=RELAYED)
            await page.click("#call")
            told = await fault(page)
            assert "No way for the sound was found" in told and "VOIPAGENT_WEBRTC__ICE_SERVERS" in told
        assert await agent.stop() == 0
    assert [folder.name for folder in (tmp_path / "calls").iterdir() if folder.is_dir()] != []


@pytest.mark.acceptance
async def test_who_does_not_allow_the_microphone_is_told_how_to(tmp_path: Path) -> None:
    async with agent_of(tmp_path, ENGINE__MODEL="echo") as agent, chromium(allowed=False) as browser:
        page = await browser.open(f"http://127.0.0.1:{agent.http_port}/")
        await page.click("#call")
        assert "The microphone was not allowed" in await fault(page)


@pytest.mark.acceptance
async def test_a_visitor_asks_and_is_answered(tmp_path: Path) -> None:
    """The embedded model: its words are read and heard. Needs a machine that is not busy with something else."""
    async with asyncio.timeout(150), agent_of(tmp_path) as agent:
        async with chromium(question(tmp_path, 8.0, 40.0)) as browser:
            page = await browser.open(f"http://127.0.0.1:{agent.http_port}/")
            await begin(page)
            assert await ask_and_hear(page, tmp_path) == ANSWER
            await check_looks(page, tmp_path)
            await end(page)
        assert await agent.stop() == 0
    (left,) = read(tmp_path / "calls")
    assert [line.text for line in left.lines if line.role == "agent"] == [GREETING, ANSWER]


REFUSALS = {
    "NotAllowedError": "The microphone was not allowed",
    "NotFoundError": "No microphone was found",
    "NotReadableError": "The microphone cannot be used",
}
"""What a browser has against it, and what the page makes of that."""


async def fault(page: Page) -> str:
    """What the page says went wrong."""
    await page.until("!document.getElementById('fault').hidden")
    assert await page.run("document.getElementById('fault').getAttribute('role')") == "alert"
    assert await page.run("document.body.dataset.state") == "idle"
    return await page.text("#fault")


async def test_what_goes_wrong_is_told_with_what_to_do(tmp_path: Path) -> None:
    """A token that is missing, wrong and right; all lines busy; no microphone; the agent goes; it is gone."""
    async with (
        asyncio.timeout(90),
        agent_of(tmp_path, ENGINE__MODEL="echo", ENGINE__ROWS="1", WEBRTC__TOKEN="sesame") as agent,
        chromium() as browser,
    ):
        url = f"http://127.0.0.1:{agent.http_port}/"
        first = await browser.open(url)
        await first.until("!document.getElementById('token-choice').hidden")
        await first.click("#call")
        assert "An access token is wanted" in await fault(first)
        assert await first.run("document.activeElement.id") == "token"
        await first.ask("Input.insertText", text="wrong")
        await first.press("Enter", "\r")
        await first.until("document.getElementById('fault-title').textContent.includes('not right')")
        second = await browser.open(f"{url}#token=sesame")
        assert await second.run("location.hash") == "", "the token does not stay in the address"
        await second.click("#call")
        await second.until("document.body.dataset.state === 'live'")
        third = await browser.open(f"{url}#token=sesame")
        await third.click("#call")
        assert "All lines are busy" in (told := await fault(third)) and "Call again in 10 seconds" in told
        for name, said in REFUSALS.items():
            await third.run(
                f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{name}') }}"
            )
            await third.click("#call")
            await third.until(f"document.getElementById('fault-title').textContent === {said!r}")
        await agent.stop()
        assert "The agent hung up: the agent is shutting down." in await fault(second)
        await second.click("#call")
        await second.until("document.getElementById('fault-title').textContent.includes('cannot be reached')")
