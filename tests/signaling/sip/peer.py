"""A peer on a raw socket: it says exactly what a test tells it to, and hides nothing of what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

from signaling.sip.message import Request, Response
from signaling.sip.wire import Framer, WireError, parse

PATIENCE_S = 5.0
"""How long a peer waits for what should come."""

SILENCE_S = 0.2
"""How long it listens for what should not come."""

OFFER = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
)

_numbers = itertools.count(1)


class Peer(asyncio.DatagramProtocol):
    """One phone with one call; each of its fields may be changed before a request is made."""

    def __init__(self, port: int, protocol: str = "UDP") -> None:
        self.agent = ("127.0.0.1", port)
        self.protocol = protocol
        self.local: tuple[str, int] = ("127.0.0.1", 0)
        self.heard: asyncio.Queue[Request | Response] = asyncio.Queue()
        self.torn: asyncio.Queue[bytes] = asyncio.Queue()
        """What is no message: a pong, or an answer that must repeat what was wrong."""
        self.closed = asyncio.Event()
        self.call_id = f"call-{next(_numbers)}@peer"
        self.from_tag, self.to_tag = f"f{next(_numbers)}", ""
        self.cseq = 0
        self.target = f"sip:agent@127.0.0.1:{port}"
        self.invite = b""
        self._datagrams: asyncio.DatagramTransport | None = None
        self._writer: asyncio.StreamWriter | None = None

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.take(data)

    def take(self, data: bytes) -> None:
        """Something came in."""
        try:
            self.heard.put_nowait(parse(data))
        except WireError:
            self.torn.put_nowait(data)

    def send(self, data: bytes) -> None:
        """Say exactly this."""
        if self._writer is not None:
            self._writer.write(data)
        elif self._datagrams is not None:
            self._datagrams.sendto(data, self.agent)

    # --- requests ---

    def build(self, method: str, *extra: str, body: str = "", cseq: int = 0, **changed: str) -> bytes:
        """A request of this call: fields may be changed, and left out with "-"."""
        host, port = self.local
        to_tag = f";tag={self.to_tag}" if self.to_tag else ""
        fields = {
            "Via": f"SIP/2.0/{self.protocol} {host}:{port};rport;branch=z9hG4bK{next(_numbers)}",
            "Max-Forwards": "70",
            "From": f'"Peer" <sip:peer@{host}:{port}>;tag={self.from_tag}',
            "To": f"<sip:agent@127.0.0.1>{to_tag}",
            "Call-ID": self.call_id,
            "CSeq": f"{cseq or self.cseq} {method}",
            "Contact": f"<sip:peer@{host}:{port}>",
            "Content-Type": "application/sdp" if body else "-",
            "Content-Length": str(len(body.encode())),
        }
        fields |= {name.replace("_", "-"): value for name, value in changed.items() if name != "uri"}
        uri = changed.get("uri", self.target)
        lines = [f"{method} {uri} SIP/2.0", *(f"{name}: {value}" for name, value in fields.items() if value != "-")]
        return "\r\n".join([*lines, *extra, "", body]).encode()

    def ask(self, method: str, *extra: str, body: str = "", **changed: str) -> bytes:
        """Build the next request and send it."""
        self.cseq += 1
        data = self.build(method, *extra, body=body, cseq=self.cseq, **changed)
        if method == "INVITE":
            self.invite = data
        self.send(data)
        return data

    def ack(self, response: Response, *extra: str, body: str = "") -> None:
        """Acknowledge a final response: in the transaction, or, after a 2xx, with a branch of its own."""
        via = {} if response.code < 300 else {"Via": parse(self.invite).headers.get("Via")}
        if response.code >= 300:
            via["To"] = response.headers.get("To")
        self.send(self.build("ACK", *extra, body=body, cseq=response.cseq[0], **via))

    def cancel(self) -> None:
        """Cancel the INVITE that was sent last."""
        invite = parse(self.invite)
        same = {"Via": invite.headers.get("Via"), "To": invite.headers.get("To")}
        self.send(self.build("CANCEL", cseq=invite.cseq[0], **same))

    def answer(self, request: Request, code: int = 200, *extra: str, body: str = "") -> None:
        """Answer a request of the agent's."""
        copied = [f"{n}: {v}" for n, v in request.headers.fields if n in ("Via", "From", "To", "Call-ID", "CSeq")]
        described = ["Content-Type: application/sdp"] if body else []
        length = f"Content-Length: {len(body.encode())}"
        self.send("\r\n".join([f"SIP/2.0 {code} Fine", *copied, *extra, *described, length, "", body]).encode())

    # --- what it hears ---

    async def hear(self) -> Request | Response:
        """The next message."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.heard.get()

    async def response(self, *codes: int, skip: tuple[int, ...] = (100,)) -> Response:
        """The next response but those to skip; it must have one of the codes."""
        while True:
            message = await self.hear()
            assert isinstance(message, Response), message
            if message.code in codes:
                if message.code < 300 and message.cseq[1] == "INVITE":
                    self.to_tag = message.to_tag or self.to_tag
                return message
            assert message.code in skip, f"{message.code} {message.phrase}"

    async def request(self, method: str) -> Request:
        """The next request, of that method."""
        message = await self.hear()
        assert isinstance(message, Request), message
        assert message.method == method
        return message

    async def silence(self) -> None:
        """Nothing comes for a while."""
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await self.heard.get()
        except TimeoutError:
            return
        raise AssertionError(f"not silent: {message!r}")

    # --- whole calls ---

    async def call(self, *extra: str, body: str = OFFER, **changed: str) -> Response:
        """INVITE, 200, ACK."""
        self.ask("INVITE", *extra, body=body, **changed)
        answer = await self.response(200, skip=(100, 180, 183))
        self.ack(answer)
        return answer

    async def hang_up(self) -> None:
        """BYE, 200."""
        self.ask("BYE")
        await self.response(200)


@contextlib.asynccontextmanager
async def udp_peer(port: int, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    """A peer that calls the agent at `port` from a UDP socket of its own."""
    peer = Peer(port)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: peer, local_addr=(host, 0))
    peer._datagrams, peer.local = transport, transport.get_extra_info("sockname")
    try:
        yield peer
    finally:
        transport.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def tcp_peer(port: int) -> AsyncIterator[Peer]:
    """A peer that calls the agent at `port` by a connection."""
    peer = Peer(port, "TCP")
    reader, peer._writer = await asyncio.open_connection(*peer.agent)
    peer.local = peer._writer.get_extra_info("sockname")

    async def read() -> None:
        framer = Framer()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                if data == b"\r\n":
                    peer.take(data)
                else:
                    for message in framer.feed(data):
                        peer.take(message)
        peer.closed.set()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        try:
            yield peer
        finally:
            reading.cancel()
            peer._writer.close()
            with contextlib.suppress(ConnectionError):
                await peer._writer.wait_closed()
