"""baresip, the program: a telephone that talks from a file, records what it hears, and is told what to do over TCP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 48_000
"""Of the file that it talks from. It refuses any other, and then never answers."""

MODULES = ("g711", "g722", "opus", "aufile", "sndfile", "srtp", "dtls_srtp", "account", "menu", "ctrl_tcp")

CONFIG = """
poll_method epoll
sip_listen 127.0.0.1:{sip_port}
audio_player aufile,{folder}/unused.wav
audio_source aufile,{folder}/said.wav
audio_alert aufile,/dev/null
ausrc_srate {rate}
ausrc_channels 1
auplay_srate {rate}
auplay_channels 1
net_interface 127.0.0.1
module_path /usr/lib/baresip/modules
snd_path {folder}
ctrl_tcp_listen 127.0.0.1:{control_port}
statmode_default off
"""


@dataclass
class Baresip:
    """One that runs. `log` is what it printed once it has ended."""

    folder: Path
    sip_port: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def tell(self, command: str, parameter: str = "") -> None:
        """A command, such as dial or hangup."""
        text = json.dumps({"command": command, "params": parameter, "token": command}).encode()
        self.writer.write(b"%d:%s," % (len(text), text))
        await self.writer.drain()

    async def event(self, *kinds: str) -> dict[str, Any]:
        """The next event of one of these types; all before it are passed over."""
        while True:
            length = int((await self.reader.readuntil(b":"))[:-1])
            message = json.loads((await self.reader.readexactly(length + 1))[:-1])
            if message.get("type") in kinds:
                found: dict[str, Any] = message
                return found

    def heard(self) -> NDArray[np.float32]:
        """What it decoded in its one call, at 8 kHz; whole once it has ended."""
        (path,) = self.folder.glob("dump-*-dec.wav")
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
            step = file.getframerate() * file.getnchannels() // 8_000
        return (samples[::step] / 32768).astype(np.float32)


@asynccontextmanager
async def baresip(
    folder: Path,
    said: NDArray[np.float32],
    encryption: str = "",
    transport: str = "udp",
    codec: str = "pcmu",
    registrar: tuple[int, str, str] | None = None,
) -> AsyncIterator[Baresip]:
    """Start it with something to say, 48 kHz mono, in the `codec` that it offers.

    `encryption` is its `mediaenc`, `transport` how its SIP goes. It is `phone`, or a user that keeps
    registered at a `registrar` (port, user, password), and takes each call.
    """
    sip_port, control_port = _free_ports()
    _write(folder / "said.wav", said)
    config = CONFIG.format(folder=folder, rate=RATE, sip_port=sip_port, control_port=control_port)
    modules = "".join(f"module {name}.so\n" for name in MODULES)
    (folder / "config").write_text(config + modules)
    enc = f";mediaenc={encryption}" if encryption else ""
    at, user, password = registrar or (sip_port, "phone", "")
    account = f"<sip:{user}@127.0.0.1:{at};transport={transport}>;ptime=20;audio_codecs={codec}{enc}"
    account += f";answermode=auto;auth_pass={password};regint={60 if registrar else 0}"
    (folder / "accounts").write_text(f"{account}\n")
    (folder / "contacts").write_text("")
    with open(folder / "log", "wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("baresip", "-f", str(folder)), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            reader, writer = await _connect(control_port, process)
            yield Baresip(folder, sip_port, reader, writer)
            writer.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


def _write(path: Path, samples: NDArray[np.float32]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def _free_ports() -> tuple[int, int]:
    """For SIP, with the next one free for its TLS, and for control."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(int(listener.getsockname()[1]))
    return ports[0], ports[1]


async def _connect(port: int, process: asyncio.subprocess.Process) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(10):
        while process.returncode is None:
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
    raise AssertionError("baresip ended before it listened; its log says why")
