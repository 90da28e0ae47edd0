"""libre, the stack of today's baresip, in this process: a telephone that says and hears what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voipagent.lab.bursts import Burst, find, render


@dataclass(frozen=True)
class Phone:
    """How one is set up. `domain` is host and port of its registrar, where it stays registered if it has a password;
    `encryption` is its `mediaenc`, `codec` the only one that it speaks.
    """

    codec: str = "pcmu"
    transport: str = "udp"
    encryption: str = ""
    user: str = "libre"
    password: str = ""
    domain: str = "127.0.0.1"


@contextlib.asynccontextmanager
async def telephones(
    *phones: Phone, port: int = 0, config: Mapping[str, object] | None = None
) -> AsyncIterator[list[Any]]:
    """User agents of one libre, of which a process has no more. Its SIP is at `port`; `config` are lines of its own."""
    from baresip import Account, Config, Runtime, UserAgent

    runtime = Runtime()
    lines = {"sip_listen": f"127.0.0.1:{port}"} | dict(config or {})
    text = "".join(f"{name} {value}\n" for name, value in lines.items())
    many: dict[str, Any] = {"max_concurrent_calls": 8} if len(phones) > 1 else {}
    await runtime.start(Config(net_interface="127.0.0.1", native_log_level="error", extra_config_text=text, **many))
    try:
        made = []
        for phone in phones:
            more: dict[str, Any] = {"transport": phone.transport, "reg_interval": 60 if phone.password else 0}
            more["extra_params"] = (f"mediaenc={phone.encryption}",) * bool(phone.encryption)
            account = Account(phone.user, phone.domain, phone.password, audio_codecs=(phone.codec,), **more)
            made.append(await UserAgent.create(runtime, account))
            made[-1].dial = partial(_dial, runtime, made[-1].dial)
        yield made
    finally:
        await runtime.close()


async def _dial(runtime: Any, dial: Callable[..., Awaitable[Any]], target: str, **more: Any) -> Any:
    """A call to `target`. The library begins to listen to a call once `dial` returns, and would miss an answer that
    comes in the same pass of the loop: what is told meanwhile is told again.
    """
    told: list[Any] = []
    runtime.subscribe(told.append)
    try:
        line = await dial(target, **more)
    finally:
        runtime.unsubscribe(told.append)
    for event in told:
        line._on_stack_event(event)
    return line


@contextlib.asynccontextmanager
async def telephone(
    codec: str = "pcmu", transport: str = "udp", encryption: str = "", config: Mapping[str, object] | None = None
) -> AsyncIterator[Any]:
    """One user agent that is registered nowhere."""
    async with telephones(Phone(codec, transport, encryption), config=config) as (agent,):
        yield agent


@contextlib.asynccontextmanager
async def ringing(phone: Phone | None = None) -> AsyncIterator[tuple[str, asyncio.Queue[Any]]]:
    """One that is called: where, and its calls. With a password it is registered."""
    phone, port, calls = phone or Phone(), free_port(), asyncio.Queue[Any]()
    async with telephones(phone, port=port) as (agent,):
        agent.on_incoming(calls.put_nowait)
        if phone.password:
            await agent.register(timeout=10)
        yield f"sip:{phone.user}@127.0.0.1:{port}", calls
        if phone.password:
            await agent.unregister(timeout=10)


def free_port() -> int:
    """One that nobody has over TCP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def talk(line: Any, samples: NDArray[np.float32], rate: int, extra_s: float) -> NDArray[np.float32]:
    """Say `samples` in real time, and `extra_s` of silence; gives what was heard meanwhile."""
    from baresip import AudioNotActive, AudioRestarted

    packet, channels = rate // 50, 2 if rate == 48_000 else 1  # its Opus is stereo
    padded = np.concatenate([samples, np.zeros(round(extra_s * rate), np.float32)])
    pieces = np.split((padded * 32767).astype("<i2"), range(packet, len(padded), packet))
    heard, loop = [], asyncio.get_running_loop()
    began = loop.time()
    for number, piece in enumerate(pieces):
        await asyncio.sleep(began + number * 0.02 - loop.time())
        with contextlib.suppress(AudioNotActive, AudioRestarted):  # its re-INVITEs replace the streams
            line.audio.write(np.repeat(piece, channels).tobytes())
            heard.append(line.audio.read(1 << 16))
    said: NDArray[np.float32] = (np.frombuffer(b"".join(heard), "<i2") / 32768).astype(np.float32)
    return said[::channels]


async def hears_itself(line: Any, burst: Burst, rate: int) -> bool:
    """Say a burst until it comes back, a few times at most: a re-INVITE of libre's own may swallow one."""
    for _ in range(4):
        heard = await talk(line, render([replace(burst, start=0)], rate), rate, 0.5)
        if find(burst.noise, heard) is not None:
            return True
    return False
