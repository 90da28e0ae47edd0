"""A network namespace with one wire to us: another machine, as far as addresses go. Takes root and `ip`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

NOBODY = "02:00:00:00:00:01"


@dataclass(frozen=True)
class Namespace:
    """`here` is our address on the wire, `there` its own; `wire` is our end of it."""

    name: str
    wire: str
    here: str
    there: str

    async def cut(self) -> None:
        """Packets vanish from now on, in both directions: each side sends them to an address that no card has."""
        await _ip("ip", "neigh", "replace", self.there, "lladdr", NOBODY, "nud", "permanent", "dev", self.wire)
        await self._inside("ip", "neigh", "replace", self.here, "lladdr", NOBODY, "nud", "permanent", "dev", "wire")

    async def mend(self) -> None:
        """They arrive again."""
        await _ip("ip", "neigh", "delete", self.there, "dev", self.wire)
        await self._inside("ip", "neigh", "delete", self.here, "dev", "wire")

    async def _inside(self, *command: str) -> None:
        await _ip("ip", "netns", "exec", self.name, *command)


@asynccontextmanager
async def namespace() -> AsyncIterator[Namespace]:
    """Make one, and take it away afterwards."""
    net = f"10.{77 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
    mark = secrets.token_hex(3)
    made = Namespace(f"voip-{mark}", f"voip-{mark}", f"{net}.1", f"{net}.2")
    await _ip("ip", "netns", "add", made.name)
    try:
        await _ip("ip", "link", "add", made.wire, "type", "veth", "peer", "name", "wire", "netns", made.name)
        await _ip("ip", "address", "add", f"{made.here}/24", "dev", made.wire)
        await _ip("ip", "link", "set", made.wire, "up")
        for command in (
            ("ip", "address", "add", f"{made.there}/24", "dev", "wire"),
            ("ip", "link", "set", "wire", "up"),
            ("ip", "link", "set", "lo", "up"),
        ):
            await made._inside(*command)
        yield made
    finally:
        await _ip("ip", "netns", "delete", made.name)
        await _ip("ip", "link", "delete", made.wire, fails=True)


async def _ip(*command: str, fails: bool = False) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode and not fails:
        raise OSError(f"{' '.join(command)}: {said.decode().strip()}")
