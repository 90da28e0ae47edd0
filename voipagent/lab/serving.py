"""An agent in a process of its own, for as long as somebody needs one to call."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

START_S = 120.0
"""Loading a model on a slow disk takes its time."""

STOP_S = 10.0

DEFAULTS = {"VOIPAGENT_SIP__HOST": "127.0.0.1", "VOIPAGENT_SIP__PORT": "0", "VOIPAGENT_HTTP__PORT": "0"}

_LEVEL = "VOIPAGENT_LOG__LEVEL"
_ANSWERING = re.compile(r"answering at sip:\S*?:(\d+), HTTP on port (\d+)")


class ServingError(Exception):
    """The agent did not start or did not end as it should; has its last words."""


@dataclass
class ServingAgent:
    """A process that answers. `returncode` is set once it has ended."""

    process: asyncio.subprocess.Process
    sip_port: int = 0
    http_port: int = 0
    log: deque[str] = field(default_factory=lambda: deque(maxlen=400))

    @property
    def target(self) -> str:
        """What to dial."""
        return f"sip:agent@127.0.0.1:{self.sip_port}"

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and wait; gives its exit code. Raises ServingError when it does not."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            return await asyncio.wait_for(self.process.wait(), STOP_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise ServingError(f"the agent did not end within {STOP_S:g} s of {number.name}") from None


@asynccontextmanager
async def serving_agent(environ: Mapping[str, str]) -> AsyncIterator[ServingAgent]:
    """`voipagent serve` on free loopback ports, with `environ` over our own environment. Raises ServingError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voipagent", "serve"),
        env=_told({**os.environ, **DEFAULTS, **environ}),
        stderr=asyncio.subprocess.PIPE,
    )
    agent = ServingAgent(process)
    answering = asyncio.Event()
    listening = asyncio.create_task(_listen(agent, answering))  # no group: the user's errors are to stay bare
    try:
        await _wait_ready(agent, answering)
        yield agent
    finally:
        if process.returncode is None:
            await agent.stop()
        await listening


def _told(environ: dict[str, str]) -> dict[str, str]:
    """The same, with a log that tells where it answers, however quiet the user's is."""
    return environ | ({_LEVEL: "info"} if environ.get(_LEVEL, "").lower() in ("warning", "error") else {})


async def _listen(agent: ServingAgent, answering: asyncio.Event) -> None:
    """Keep what it tells, and note where it answers, until it ends."""
    assert agent.process.stderr is not None
    async for line in agent.process.stderr:
        text = line.decode(errors="replace").rstrip()
        agent.log.append(text)
        if match := _ANSWERING.search(text):
            agent.sip_port, agent.http_port = int(match[1]), int(match[2])
            answering.set()
    answering.set()  # its end is news too


async def _wait_ready(agent: ServingAgent, answering: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(answering.wait(), START_S)
    except TimeoutError:
        raise ServingError(f"the agent did not start within {START_S:g} s") from None
    if not agent.sip_port:
        await agent.process.wait()
        raise ServingError("the agent did not start:\n" + "\n".join(list(agent.log)[-20:]))
