"""Janus, with a room of AudioBridge in it, and one who takes part in it by a browser's ways."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from tests.media.browser import Browser

ROOM, LOCKED, PIN, ADMIN = 1234, 1235, "4711", "adm"

LIBRARIES = next(Path("/usr/lib").glob("*/janus"), Path("/usr/lib/janus"))

FILES = {
    "janus.jcfg": """
general: {{ configs_folder = "{folder}" plugins_folder = "{libraries}/plugins"
  transports_folder = "{libraries}/transports" events_folder = "{libraries}/events"
  loggers_folder = "{libraries}/loggers" interface = "{host}" session_timeout = 60 }}
certificates: {{ dtls_accept_selfsigned = true }}
media: {{ rtp_port_range = "20000-20499" }}
nat: {{ ice_enforce_list = "{host}" full_trickle = {trickle} }}
plugins: {{ disable = "libjanus_duktape.so,libjanus_lua.so,libjanus_sip.so,libjanus_nosip.so,libjanus_videoroom.so,\
libjanus_videocall.so,libjanus_streaming.so,libjanus_recordplay.so,libjanus_textroom.so,libjanus_voicemail.so,\
libjanus_echotest.so" }}
transports: {{ disable = "libjanus_rabbitmq.so,libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_pfunix.so,\
libjanus_websockets.so" }}
""",
    "janus.transport.http.jcfg": """
general: {{ json = "compact" base_path = "/janus" http = true port = {port} ip = "{host}" https = false }}
""",
    "janus.plugin.audiobridge.jcfg": """
general: {{ local_ip = "{host}" rtp_port_range = "21000-21499" }}
room-{room}: {{ description = "open" sampling_rate = 48000 secret = "{admin}" }}
room-{locked}: {{ description = "locked" sampling_rate = 48000 pin = "{pin}" }}
""",
}

START_S = 20.0


@dataclass
class Janus:
    """One that can be started, stopped and started anew, at an address of ours."""

    folder: Path
    host: str
    port: int = 8089
    trickle: bool = False
    process: asyncio.subprocess.Process | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "log"
        values = {"folder": self.folder, "libraries": LIBRARIES, "host": self.host, "port": self.port}
        values |= {"room": ROOM, "locked": LOCKED, "pin": PIN, "admin": ADMIN}
        for name, text in FILES.items():
            (self.folder / name).write_text(text.format(**values, trickle=str(self.trickle).lower()))

    @property
    def url(self) -> str:
        """Of its API."""
        return f"http://{self.host}:{self.port}/janus"

    def room(self, room: int = ROOM, options: str = "") -> str:
        """What we join."""
        return f"janus://{self.host}:{self.port}/{room}{options}"

    async def start(self) -> None:
        """Until it answers."""
        with open(self.log, "ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *("janus", "-F", self.folder), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )
        async with asyncio.timeout(START_S), httpx2.AsyncClient(trust_env=False) as http:
            while True:
                assert self.process.returncode is None, self.log.read_text()[-2000:]
                with contextlib.suppress(httpx2.HTTPError):
                    if (await http.get(f"{self.url}/info")).status_code == 200:
                        return
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """At once, as a machine that fails."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def janus(host: str, trickle: bool = False) -> AsyncIterator[Janus]:
    """Start it, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="janus") as name:
        server = Janus(Path(name), host, trickle=trickle)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


class Participant:
    """Another in a room: a browser that says a tone."""

    def __init__(self, server: Janus, hertz: float) -> None:
        self.browser = Browser(hertz)
        self.others: dict[str, Any] = {}
        self._server = server
        self._http = httpx2.AsyncClient(timeout=40, trust_env=False)
        self._path = ""

    async def __aenter__(self) -> Self:
        session = await self._post({"janus": "create"})
        self._path = f"/{session['data']['id']}"
        handle = await self._post({"janus": "attach", "plugin": "janus.plugin.audiobridge"})
        self._path += f"/{handle['data']['id']}"
        await self.ask({"request": "join", "room": ROOM, "display": "other"})
        offer = {"type": "offer", "sdp": await self.browser.offer()}
        told = await self._answer({"request": "configure", "muted": False}, offer)
        await self.browser.take(told["jsep"]["sdp"])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.browser.__aexit__(kind, error, trace)
        with contextlib.suppress(httpx2.HTTPError):
            await self.ask({"request": "leave"})
        await self._http.aclose()

    async def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """What AudioBridge says to that."""
        data: dict[str, Any] = (await self._answer(body))["plugindata"]["data"]
        return data

    async def participants(self) -> dict[str, int]:
        """Who is there, and their numbers."""
        told = await self.ask({"request": "listparticipants", "room": ROOM})
        return {each.get("display", ""): each["id"] for each in told["participants"]}

    async def _post(self, message: dict[str, Any]) -> dict[str, Any]:
        whole = {"transaction": secrets.token_hex(6), **message}
        told: dict[str, Any] = (await self._http.post(self._server.url + self._path, json=whole)).json()
        assert told["janus"] != "error", told
        return told

    async def _answer(self, body: dict[str, Any], jsep: dict[str, Any] | None = None) -> dict[str, Any]:
        transaction = secrets.token_hex(6)
        message = {"janus": "message", "transaction": transaction, "body": body, **({"jsep": jsep} if jsep else {})}
        told = await self._post(message)
        while told.get("janus") == "ack" or told.get("transaction") != transaction:
            told = (await self._http.get(self._server.url + self._path.rpartition("/")[0])).json()
        return told
