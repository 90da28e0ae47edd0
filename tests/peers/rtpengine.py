"""rtpengine in user space: it stands between the media of two sides, and speaks to each as that side wants to be."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

PORTS = (28_000, 28_999)
"""Of its audio; where we and our telephones have none."""

ROUTE = """
loadmodule "rtpengine.so"
modparam("rtpengine", "rtpengine_sock", "udp:127.0.0.1:{port}")
route[MEDIA] {{
  t_on_reply("MEDIA");
  if ($fU == "{user}") rtpengine_manage("{others}"); else rtpengine_manage("{own}");
}}
onreply_route[MEDIA] {{
  if ($fU == "{user}") rtpengine_manage("{own}"); else rtpengine_manage("{others}");
}}
"""
"""A reply goes to whom the request came from."""

ALWAYS = "replace-origin replace-session-connection ICE=remove"
PLAIN = f"{ALWAYS} RTP/AVP DTLS=off SDES-off rtcp-mux-demux"
SDES = f"{ALWAYS} RTP/SAVP DTLS=off"
DTLS = f"{ALWAYS} UDP/TLS/RTP/SAVPF SDES-off"
"""How it speaks to a side."""


@dataclass(frozen=True)
class Rtpengine:
    """One that runs, told what to do at a port of loopback."""

    port: int
    log: Path

    def route(self, user: str, own: str, others: str) -> str:
        """For Kamailio: it speaks to that user in one way, and to everybody else in the other."""
        return ROUTE.format(port=self.port, user=user, own=own, others=others)

    def relays(self, remote: str) -> bool:
        """Whether audio to `remote`, as a record has it, goes to a port of its."""
        return PORTS[0] <= int(remote.rpartition(":")[2]) <= PORTS[1]


@asynccontextmanager
async def rtpengine() -> AsyncIterator[Rtpengine]:
    """Start it without its kernel module, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="rtpengine") as name:
        log, port = Path(name, "log"), _free_port()
        with open(log, "wb") as output:
            process = await asyncio.create_subprocess_exec(
                *("rtpengine", "--config-file=none", "--foreground", "--log-stderr", "--log-level=6", "--table=-1"),
                # two threads on busy cores overtake each other, and a key whose end comes too early is two keys
                *("--interface=127.0.0.1", f"--listen-ng=127.0.0.1:{port}", "--num-threads=1"),
                *(f"--port-min={PORTS[0]}", f"--port-max={PORTS[1]}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            await _answers(port, process, log)
            yield Rtpengine(port, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


def _free_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def _answers(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until it answers a ping in its own words: a cookie, and a bencoded dictionary."""
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect(("127.0.0.1", port))
        async with asyncio.timeout(20):
            while process.returncode is None:
                with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                    await loop.sock_sendall(asking, b"1 d7:command4:pinge")
                    answer = await asyncio.wait_for(loop.sock_recv(asking, 1000), 0.5)
                    assert answer == b"1 d6:result4:ponge", answer
                    return
                await asyncio.sleep(0.05)
    raise AssertionError(f"rtpengine ended before it answered:\n{log.read_text(errors='replace')[-2000:]}")
