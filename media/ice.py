"""The way of a WebRTC leg: ICE (RFC 8445) by aioice, on a UDP port of ours for each version of IP.

Packets take no queue and no task: the loop hands them on as they come, and a tick reads what the loop has not read
yet, as on the ports of a plain leg. Only who has passed a check of ICE is listened to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, TypeAlias

from aioice import Candidate
from aioice.ice import CandidatePair, Connection, StunProtocol, relayed_candidate, server_reflexive_candidate
from aioice.stun import Message

from media.candidates import host_candidates, own_addresses, read_candidate
from media.icesdp import MAX_CANDIDATES, Remote
from media.iceservers import IceServer
from media.latch import Address
from media.leg import LegError
from media.ports import Pair, Ports
from media.transport import MAX_DATAGRAM, MAX_READS

logger = logging.getLogger(__name__)

GATHER_S = 0.7
"""STUN and TURN servers have so long to answer: the far end waits for our description, and they are mostly spare."""

CONNECT_S = 20.0
"""A way is found within so long, or there is none."""

CLOSE_S = 1.0
"""A relay has so long to let go of us. One that is dead would be asked for a minute, and the call's row with it."""

CREDENTIALS_S = 86_400
"""Made passwords are good for so long: a relay asks for them again throughout the call."""

Asked: TypeAlias = Coroutine[Any, Any, tuple[Candidate, StunProtocol | None]]


class IceWay:
    """One connection, from its candidates to its end. It is a `Way`; `close` ends what it has begun.

    `receive` gets (data, now) of each datagram of the far end's that is not ICE's own. `advertised` are addresses that
    replace our own in host candidates, by the version of IP. `spoilt` counts what strangers and broken peers sent.
    """

    def __init__(
        self,
        ports: Ports,
        host: str,
        advertised: Mapping[int, str],
        servers: Sequence[IceServer],
        receive: Callable[[bytes, float], None],
        clock: Callable[[], float],
        controlling: bool = False,
    ) -> None:
        self.heard_at = clock()
        self.spoilt = 0
        self.failure = ""
        self._ports, self._host, self._advertised = ports, host, advertised
        self._receive, self._time = receive, clock
        self._reading_at: float | None = None
        self._pairs: list[Pair] = []
        self._protocols: list[tuple[Pair, _Protocol]] = []
        self._candidates: list[str] = []
        self._named: set[str] = set()  # candidates of the far end's
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._connection = _Connection(self, controlling, *_usable(servers))

    # --- what a description says

    @property
    def ufrag(self) -> str:
        """Ours."""
        return self._connection.local_username

    @property
    def password(self) -> str:
        """Ours."""
        return self._connection.local_password

    @property
    def candidates(self) -> tuple[str, ...]:
        """Ours, as a=candidate has them, once they are gathered."""
        return tuple(self._candidates)

    @property
    def default(self) -> Address:
        """The address and port for the c= and m= lines."""
        words = self._candidates[0].split()
        return words[4], int(words[5])

    async def gather(self) -> None:
        """Open ports, and find out what they are reached by. Raises LegError; `NoPort` when none is free."""
        try:
            await self._connection.gather_candidates()
        except BaseException:
            await self.close()
            raise
        if not self._candidates:
            await self.close()
            raise LegError("this machine has no address at which the far end could reach it")

    # --- the way

    def connect(self, remote: Remote) -> None:
        """Find the far end, meanwhile and from now on."""
        self._connection.remote_username, self._connection.remote_password = remote.ufrag, remote.password
        self._connection.remote_is_lite = remote.lite
        if remote.lite:
            self._connection.ice_controlling = True
        self._connecting = asyncio.create_task(self._connect(remote.candidates), name="ICE")

    async def _connect(self, candidates: Sequence[str]) -> None:
        """Ends with a way, or with `failure`. The end of candidates is never told: nobody waits for it but us."""
        try:
            await self.add(candidates)
            async with asyncio.timeout(CONNECT_S):
                await self._connection.connect()
        except (ConnectionError, TimeoutError) as error:
            logger.info("x ICE: %s", error)
            self.failure = f"ICE found no way to the far end in {CONNECT_S:g} s"

    async def add(self, candidates: Sequence[str]) -> None:
        """More of the far end's candidates; those that we cannot use are left out."""
        for text in candidates:
            candidate = read_candidate(text, self._host)
            if candidate is None or text in self._named or len(self._named) >= MAX_CANDIDATES:
                continue
            self._named.add(text)
            if not self._closed:
                await self._connection.add_remote_candidate(candidate)

    @property
    def is_open(self) -> bool:
        """Until it is closed: time passes on a leg whose way is yet to be found, too."""
        return not self._closed

    @property
    def connected(self) -> bool:
        """Whether there is a way."""
        return self._connection.way is not None

    @property
    def remote(self) -> str:
        """Where the far end is; "" while nobody knows."""
        way = self._connection.way
        if way is None:
            return ""
        host, port = way.remote_addr
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def send(self, data: bytes, target: Address, rtcp: bool = False) -> bool:
        """Whether it left. `target` says nothing here."""
        way = self._connection.way
        if way is None or self._closed or _is_shut(way.protocol.transport):
            return False
        way.protocol.transport.sendto(data, way.remote_addr)
        return True

    def read(self, rtcp: bool, now: float) -> bool:
        """Take one datagram, if there is one."""
        if rtcp:
            return False
        for pair, protocol in self._protocols:
            try:
                data, source = pair.rtp.recvfrom(MAX_DATAGRAM)
            except OSError:
                continue
            self._reading_at = now
            try:
                protocol.datagram_received(data, source)
            finally:
                self._reading_at = None
            return True
        return False

    def read_all(self, now: float) -> None:
        """Take what the loop has not read yet: it is not late for that."""
        for _ in range(MAX_READS):
            if not self.read(False, now):
                break

    async def close(self) -> None:
        """Give the ports back. Idempotent."""
        self._closed = True
        protocols = [protocol for _, protocol in self._protocols]
        self._protocols.clear()
        try:
            if self._connecting is not None:
                self._connecting.cancel()
                await asyncio.wait([self._connecting])
                self._connecting = None
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close()
        except TimeoutError:
            logger.info("x ICE: a relay does not answer; it will forget us by itself")
        finally:
            for protocol in protocols:
                protocol.transport.close()
            while self._pairs:
                self._ports.close(self._pairs.pop())

    # --- for the connection

    def heard(self) -> float:
        """The far end is there; the time."""
        self.heard_at = self._time() if self._reading_at is None else self._reading_at
        return self.heard_at

    def take(self, data: bytes) -> None:
        """A packet of the far end's."""
        self._receive(data, self.heard())

    async def open_ports(self, connection: _Connection) -> list[_Protocol]:
        """One for each version of IP, and what they are reached by."""
        loop, protocols = asyncio.get_running_loop(), []
        for version, hosts in own_addresses(self._host, self._advertised).items():
            pair = self._ports.open(version)
            self._pairs.append(pair)
            candidates = host_candidates(hosts, pair.port)
            _, protocol = await loop.create_datagram_endpoint(lambda: _Protocol(connection), sock=pair.rtp)
            protocol.local_candidate = candidates[0]
            self._protocols.append((pair, protocol))
            self._candidates += [candidate.to_sdp() for candidate in candidates]
            protocols.append(protocol)
        return protocols

    def found(self, candidate: Candidate) -> None:
        """Another address of ours, by a server."""
        self._candidates.append(candidate.to_sdp())


class _Protocol(StunProtocol):
    """A port: checks of ICE are aioice's to deal with, the rest is ours."""

    receiver: _Connection

    def datagram_received(self, data: bytes | str, addr: tuple[str | int, ...]) -> None:
        assert isinstance(data, bytes)
        source = str(addr[0]), int(addr[1])
        if data and data[0] > 3:  # RFC 7983, section 7
            self.receiver.media_received(data, source)
            return
        try:
            super().datagram_received(data, addr)
        except Exception as error:  # what a library makes of a stranger's datagram is nobody else's affair
            logger.debug("x a check of ICE from %s: %s: %s", source[0], type(error).__name__, error)
            self.receiver.house.spoilt += 1
            return
        self.receiver.checked(source)


class _Connection(Connection):
    """aioice's, on our ports, with servers that may be dead, and packets that wait in no queue."""

    def __init__(self, house: IceWay, controlling: bool, stun: IceServer | None, turn: IceServer | None) -> None:
        user, password = turn.credentials(int(time.time()) + CREDENTIALS_S) if turn else (None, None)
        super().__init__(
            controlling,
            stun_server=(stun.host, stun.port) if stun else None,
            turn_server=(turn.host, turn.port) if turn else None,
            turn_username=user,
            turn_password=password,
            turn_ssl=bool(turn and turn.scheme == "turns"),
            turn_transport=turn.transport if turn else "udp",
        )
        self.house = house
        self._known: set[Address] = set()

    @property
    def way(self) -> CandidatePair | None:
        """What was nominated; else, what has passed a check already (RFC 8445, section 12.1.1)."""
        succeeded = (pair for pair in self._check_list if pair.state is CandidatePair.State.SUCCEEDED)
        return self._nominated.get(1) or next(succeeded, None)

    def media_received(self, data: bytes, source: Address) -> None:
        """A packet: from who has passed a check, or from nobody."""
        if self._is_far(source):
            self.house.take(data)
        else:
            self.house.spoilt += 1

    def data_received(self, data: bytes, component: int) -> None:
        """What began like a check of ICE, and is none: aioice would keep it for `recv`, whoever sent it."""
        self.house.spoilt += 1

    def checked(self, source: Address) -> None:
        """Something of ICE came from there."""
        if self._is_far(source):
            self.house.heard()

    def _is_far(self, source: Address) -> bool:
        """Whether the far end is there: it has sent a check, or answered ours."""
        return source in self._known or any(source == pair.remote_addr for pair in self._nominated.values())

    def check_incoming(self, message: Message, addr: Address, protocol: StunProtocol) -> None:
        """Called for checks that have proved who they are from."""
        if "PRIORITY" not in message.attributes or (addr not in self._known and len(self._known) >= MAX_CANDIDATES):
            self.house.spoilt += 1
            return
        self._known.add(addr)
        super().check_incoming(message, addr, protocol)

    async def get_component_candidates(
        self,
        component: int,
        addresses: list[str],
        timeout: int = 5,  # noqa: ASYNC109 - aioice's own
    ) -> list[Candidate]:
        """Ours, for aioice's own: those of our ports, and what servers tell in time."""
        protocols = await self.house.open_ports(self)
        self._protocols += protocols
        if asked := [asyncio.create_task(work) for work in self._ask(protocols)]:
            try:
                await asyncio.wait(asked, timeout=GATHER_S)
            finally:  # also if nobody waits for them any more: what a relay has given is given back by `close`
                late = [task for task in asked if not task.done()]
                for task in late:
                    task.cancel()
                for task in asked:
                    if task not in late:
                        self._take_candidate(task)
            if late:
                logger.warning("x ICE: %d of %d STUN and TURN servers did not answer", len(late), len(asked))
                await asyncio.wait(late, timeout=GATHER_S)
        return [protocol.local_candidate for protocol in protocols]

    def _ask(self, protocols: Sequence[_Protocol]) -> Iterator[Asked]:
        """What servers are to be asked for."""
        if self.stun_server:
            for protocol in protocols:
                if ip_address(protocol.local_candidate.host).version == 4:
                    yield server_reflexive_candidate(protocol, self.stun_server)
        if self.turn_server:
            yield relayed_candidate(
                component=1,
                hide_related_address=False,
                protocol_factory=lambda: _Protocol(self),
                turn_server=self.turn_server,
                turn_username=self.turn_username,
                turn_password=self.turn_password,
                turn_ssl=self.turn_ssl,
                turn_transport=self.turn_transport,
            )

    def _take_candidate(self, task: asyncio.Task[tuple[Candidate, StunProtocol | None]]) -> None:
        if error := task.exception():
            logger.warning("x ICE: a server gives no address: %s: %s", type(error).__name__, error)
            return
        candidate, relay = task.result()
        self.house.found(candidate)
        if relay is not None:
            self._protocols.append(relay)


def _usable(servers: Sequence[IceServer]) -> tuple[IceServer | None, IceServer | None]:
    """The first of each kind: one address by STUN is as good as several."""
    stun = next((server for server in servers if not server.is_turn), None)
    return stun, next((server for server in servers if server.is_turn), None)


def _is_shut(transport: Any) -> bool:
    """Whether aioice has closed it, as it does once the far end consents no more; a relay's does not tell."""
    return bool(getattr(transport, "is_closing", bool)())
