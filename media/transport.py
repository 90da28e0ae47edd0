"""The sockets of a leg: a pair of ports for as long as it lives, and which of our addresses the far end is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from media.latch import Address
from media.ports import Pair, Ports, local_address
from media.stream import is_loopback

MAX_DATAGRAM = 4096
MAX_READS = 64
"""Datagrams read in one go: a second's worth. A flood waits, and is dropped by the kernel; the others' tick comes."""


class Transport:
    """`host` is where signalling comes from; `advertised` replaces our own address, by the version of IP.

    The loop calls `readable` when something came; then, and before a tick, `read` hands datagrams to `receive` as
    (data, source, whether it came in by the RTCP port).
    """

    def __init__(
        self,
        ports: Ports,
        host: str,
        advertised: Mapping[int, str],
        readable: Callable[[bool], None],
        receive: Callable[[bytes, Address, bool, float], None],
    ) -> None:
        self.local = ""  # our address, as the far end is told
        self._ports, self._host, self._advertised = ports, host, advertised
        self._readable, self._receive = readable, receive
        self._loop = asyncio.get_running_loop()
        self._pair: Pair | None = None

    @property
    def is_open(self) -> bool:
        """Whether there are sockets."""
        return self._pair is not None

    @property
    def port(self) -> int:
        """The RTP port."""
        assert self._pair is not None
        return self._pair.port

    def settle(self, media: str | None) -> None:
        """Have sockets, and know which of our addresses to name. Raises LegError, and then nothing has changed.

        The route to the signalling decides: the media's address may be a private one behind address translation.
        Where signalling comes through a proxy on this very machine, or over the other IP version, the media decides.
        """
        towards = self._host
        if media is not None:
            if is_loopback(towards) or ip_address(media).version != ip_address(towards).version:
                towards = media
        elif self._pair is not None:
            return
        version = ip_address(towards).version
        local = self._advertised.get(version) or local_address(towards)
        if self._pair is None or self._pair.version != version:
            self._replace(self._ports.open(version))
        self.local = local

    def _replace(self, pair: Pair) -> None:
        self.close()
        self._pair = pair
        self._loop.add_reader(pair.rtp, self._readable, False)
        self._loop.add_reader(pair.rtcp, self._readable, True)

    def close(self) -> None:
        """Give the ports back. Idempotent."""
        if self._pair is not None:
            self._loop.remove_reader(self._pair.rtp)
            self._loop.remove_reader(self._pair.rtcp)
            self._ports.close(self._pair)
            self._pair = None

    def read(self, rtcp: bool, now: float) -> bool:
        """Take one datagram, if there is one."""
        assert self._pair is not None
        try:
            data, source = self._socket(rtcp).recvfrom(MAX_DATAGRAM)
        except OSError:
            return False
        self._receive(data, source[:2], rtcp, now)
        return True

    def read_all(self, now: float) -> None:
        """Take what the loop has not read yet: it is not late for that."""
        for rtcp in (False, True):
            for _ in range(MAX_READS):
                if not self.read(rtcp, now):
                    break

    def send(self, data: bytes, target: Address, rtcp: bool = False) -> bool:
        """Whether it left. If not, the network is full or there is no way; the next one tries again."""
        if self._pair is None:
            return False
        try:
            self._socket(rtcp).sendto(data, target)
        except OSError:
            return False
        return True

    def _socket(self, rtcp: bool) -> socket.socket:
        assert self._pair is not None
        return self._pair.rtcp if rtcp else self._pair.rtp
