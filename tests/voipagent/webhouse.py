"""An agent on the echo engine that takes calls by HTTP, whole but for the settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from engine.echo import EchoEngine
from engine.slot import FRAME_SAMPLES, SAMPLE_RATE
from media.answer import Legs
from media.leg import AudioFormat
from signaling.front import FRAGMENT, SDP, Front
from signaling.problem import Access
from signaling.whip import WhipEndpoint
from tests.media.browser import Browser
from voipagent.agent import Agent
from voipagent.app import _leg_opener
from voipagent.calls import CallsSettings
from voipagent.persona import NamedPersona, Personas
from voipagent.recording import Recorder
from voipagent.web.api import create_api, serve_http
from voipagent.webrtc import WebLegs, unreadable

OPEN = Access(open=True)


@dataclass
class House:
    """The parts, running."""

    agent: Agent
    legs: Legs
    whip: WhipEndpoint
    engine: EchoEngine
    rows: int
    http: httpx2.AsyncClient

    async def call(self, browser: Browser, path: str = "/duplex") -> httpx2.Response:
        """POST its offer, and have it take the answer."""
        answer = await self.post(path, await browser.offer())
        if answer.status_code in (200, 201):
            await browser.take(answer.text)
        return answer

    async def post(self, path: str, offer: str, **headers: str) -> httpx2.Response:
        return await self.http.post(path, content=offer, headers={"Content-Type": SDP, **headers})

    async def patch(self, path: str, fragment: str, tag: str | None) -> httpx2.Response:
        match = {} if tag is None else {"If-Match": tag}
        return await self.http.patch(path, content=fragment, headers={"Content-Type": FRAGMENT, **match})

    async def empty(self) -> None:
        """Wait until no call is left, nor anything of one."""
        async with asyncio.timeout(5):
            while self.agent.sessions or self.legs._open or self.engine.free < self.rows:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def house(
    folder: Path, access: Access = OPEN, rows: int = 4, links: tuple[str, ...] = ()
) -> AsyncIterator[House]:
    """Entered, it answers."""
    api = create_api(lambda: True)
    personas = Personas(named={"zoe": NamedPersona(name="zoe")})
    with Recorder() as recorder:
        async with (
            EchoEngine(rows) as engine,
            Legs(AudioFormat(SAMPLE_RATE, FRAME_SAMPLES), ports=(26_000, 26_999)) as legs,
        ):
            whip = WhipEndpoint(Front(access, unreadable, lambda: links))
            whip.serve(api)
            web = WebLegs(legs.open_web_leg, whip.take_candidates, whip.whep.publish)
            agent = Agent(engine, _leg_opener(legs, [], web), personas, recorder, CallsSettings(dir=folder))
            running = asyncio.create_task(agent.run(whip))
            try:
                async with serve_http(api, "127.0.0.1", 0) as port:
                    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
                        yield House(agent, legs, whip, engine, rows, http)
            finally:
                running.cancel()
                await asyncio.wait([running])
