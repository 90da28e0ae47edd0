"""What crosses the loopback, read beside the programs that talk there: a witness that is neither of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

ETH_P_IP = 0x0800
UDP = 17


@dataclass(frozen=True)
class Datagram:
    """UDP over IPv4."""

    source_port: int
    target_port: int
    payload: bytes


def parse(frame: bytes) -> Datagram | None:
    """An Ethernet frame; None where there is no UDP over IPv4 in it."""
    packet = frame[14:]
    if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != UDP:
        return None
    header = packet[4 * (packet[0] & 0x0F) :]
    length = int.from_bytes(header[4:6], "big")
    return Datagram(int.from_bytes(header[:2], "big"), int.from_bytes(header[2:4], "big"), header[8:length])


@contextlib.asynccontextmanager
async def loopback() -> AsyncIterator[list[Datagram]]:
    """A list that fills with every datagram while entered. Needs CAP_NET_RAW; raises PermissionError without."""
    seen: list[Datagram] = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as tap:
        tap.bind(("lo", 0))
        tap.setblocking(False)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, address = tap.recvfrom(1 << 16)
                    datagram = parse(frame) if address[2] != socket.PACKET_OUTGOING else None  # each is seen twice
                    seen.extend([datagram] if datagram else [])

        loop.add_reader(tap, read)
        try:
            yield seen
        finally:
            loop.remove_reader(tap)
