"""A caller with a stop-watch at its socket: one SIP call over UDP whose every RTP packet is timed.

For measuring only. It offers one codec, retransmits nothing but its INVITE, and drops packets on purpose where it is
told to; whoever wants a telephone takes a real one.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from signaling.call import SignalingError
from signaling.sip.message import Response, respond
from signaling.sip.wire import WireError, parse

RING_S = 10.0
"""Seconds until a call that nobody answers is given up."""

END_S = 2.0
"""Seconds in which the far end may say that it has understood that the call is over."""

RESEND_S = 0.5
PACKET_S = 0.02

_TARGET = re.compile(r"sip:(?:(?P<user>[^@\s<>]+)@)?(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+)(?::(?P<port>\d+))?")


class PhoneError(SignalingError):
    """The call cannot be made; the message says where it failed."""


@dataclass(frozen=True)
class Target:
    """Whom to call: `sip:user@host:port`."""

    user: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises PhoneError where it is no SIP URI."""
        match = _TARGET.fullmatch(text.strip())
        if match is None or not 0 < int(match["port"] or 5060) < 65536:
            raise PhoneError(f"{text!r} is not a target such as sip:agent@127.0.0.1:5060")
        return cls(match["user"] or "agent", match["host"].strip("[]"), int(match["port"] or 5060))

    def __str__(self) -> str:
        return f"sip:{self.user}@{_bracket(self.host)}:{self.port}"


@dataclass(frozen=True)
class Codec:
    """What the phone offers: payload type, name, and timestamp units in 20 ms."""

    payload_type: int
    name: str
    step: int = 160


@dataclass(frozen=True)
class Timed:
    """A packet and when it passed our socket, in seconds of `time.perf_counter`."""

    at: float
    timestamp: int
    payload: bytes


class Phone:
    """An established call. `received` fills while it lasts; `ended` is set when the agent hangs up, with a `reason`."""

    def __init__(self, codec: Codec, loss: float, seed: int) -> None:
        self.received: list[Timed] = []
        self.dropped = 0
        self.ended = asyncio.Event()
        self.reason = ""
        self._codec, self._loss = codec, loss
        self._luck_out, self._luck_in = random.Random(f"out {seed}"), random.Random(f"in {seed}")
        self._remote: tuple[str, int] | None = None
        self._transport: asyncio.DatagramTransport | None = None

    async def send(self, payloads: Iterable[bytes]) -> list[float]:
        """One payload each 20 ms, asked for when it is due.

        Returns the times at which each left, or would have left had it not been dropped.
        """
        loop, times = asyncio.get_running_loop(), []
        ssrc, sequence, timestamp = secrets.randbits(32), secrets.randbits(16), secrets.randbits(32)
        began = loop.time()
        for number, payload in enumerate(payloads):
            await asyncio.sleep(began + number * PACKET_S - loop.time())
            first_bytes = 0x80, self._codec.payload_type | (0x80 if number == 0 else 0)
            header = struct.pack("!BBHII", *first_bytes, (sequence + number) & 0xFFFF, timestamp, ssrc)
            times.append(time.perf_counter())
            if self._luck_out.random() >= self._loss:
                assert self._transport is not None and self._remote is not None
                self._transport.sendto(header + payload, self._remote)
            timestamp = (timestamp + self._codec.step) & 0xFFFFFFFF
        return times

    def hear(self, data: bytes) -> None:
        """A datagram came in."""
        at = time.perf_counter()
        if len(data) < 12 or data[0] >> 6 != 2 or data[1] & 0x7F != self._codec.payload_type:
            return
        if self._luck_in.random() < self._loss:
            self.dropped += 1
            return
        start = 12 + 4 * (data[0] & 0x0F)
        self.received.append(Timed(at, int.from_bytes(data[4:8], "big"), data[start:]))

    def connect(self, transport: asyncio.DatagramTransport, remote: tuple[str, int]) -> None:
        """Where to send."""
        self._transport, self._remote = transport, remote


@asynccontextmanager
async def call(target: Target, codec: Codec, loss: float = 0.0, seed: int = 0) -> AsyncIterator[Phone]:
    """Call `target` and hold the call while entered. Raises PhoneError."""
    loop, phone = asyncio.get_running_loop(), Phone(codec, loss, seed)
    host = _local_address(target)
    rtp, _ = await loop.create_datagram_endpoint(lambda: _Ear(phone), local_addr=(host, 0))
    sip, dialog = await loop.create_datagram_endpoint(lambda: _Dialog(target, host, phone), local_addr=(host, 0))
    try:
        answer = await dialog.invite(_offer(host, rtp.get_extra_info("sockname")[1], codec))
        try:
            phone.connect(rtp, _media_address(answer))
            yield phone
        finally:
            if not phone.ended.is_set():
                await dialog.bye()
    finally:
        rtp.close()
        sip.close()


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._phone.hear(data)


class _Dialog(asyncio.DatagramProtocol):
    """INVITE, ACK, BYE and CANCEL of one call."""

    def __init__(self, target: Target, host: str, phone: Phone) -> None:
        self._target, self._host, self._phone = target, _bracket(host), phone
        self._call_id, self._tag = secrets.token_hex(12), secrets.token_hex(6)
        self._transport: asyncio.DatagramTransport
        self._to = f"<{target}>"
        self._remote_target = str(target)
        self._responses: asyncio.Queue[Response] = asyncio.Queue()
        self._rings = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # in Python 3.11 it is one, but not by its class

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            message = parse(data)
        except WireError:
            return
        if message.call_id != self._call_id:
            return
        if isinstance(message, Response):
            self._responses.put_nowait(message)
        elif message.method == "BYE":
            self._transport.sendto(bytes(respond(message, 200)), addr)
            self._phone.reason = message.headers.get("Reason")
            self._phone.ended.set()

    async def invite(self, offer: str) -> str:
        """The answer's SDP. Raises PhoneError; nothing rings any more then."""
        branch = self._branch()
        try:
            response = await self._final(self._request("INVITE", 1, branch, offer), "INVITE", RING_S)
        except BaseException:
            if self._rings:
                await self._cancel(branch)
            raise
        if not self._acknowledged(response, branch):
            raise PhoneError(f"{self._target} answered {response.code} {response.phrase}")
        return response.body.decode(errors="replace")

    async def bye(self) -> None:
        """Hang up. A peer that says nothing to that is let go."""
        try:
            await self._final(self._request("BYE", 2, self._branch()), "BYE", END_S)
        except PhoneError:
            return

    async def _cancel(self, branch: str) -> None:
        """Have it ring no more (RFC 3261, section 9.1); who answers meanwhile is hung up on."""
        self._send(self._request("CANCEL", 1, branch))
        try:
            response = await self._final(b"", "INVITE", END_S)
        except PhoneError:
            return
        if self._acknowledged(response, branch):
            await self.bye()

    def _acknowledged(self, response: Response, branch: str) -> bool:
        """Acknowledge the final response to the INVITE; whether there is a call now."""
        self._to = response.headers.get("To")
        if response.code >= 300:
            self._send(self._request("ACK", 1, branch))
            return False
        self._remote_target = response.contact or self._remote_target
        self._send(self._request("ACK", 1, self._branch()))
        return True

    async def _final(self, request: bytes, method: str, seconds: float) -> Response:
        """The final response; the request, if it is given, is repeated until there is any."""
        try:
            async with asyncio.timeout(seconds):
                heard = not request
                while True:
                    if not heard:
                        self._send(request)
                    try:
                        response = await asyncio.wait_for(self._responses.get(), None if heard else RESEND_S)
                    except TimeoutError:
                        continue
                    heard = heard or response.cseq[1] == method
                    self._rings = self._rings or response.code < 200
                    if response.cseq[1] == method and response.code >= 200:
                        return response
        except TimeoutError:
            raise PhoneError(
                f"nobody answers at {self._target}; is the agent running, and does its VOIPAGENT_SIP__ALLOW admit us?"
            ) from None

    def _request(self, method: str, number: int, branch: str, body: str = "") -> bytes:
        port = self._transport.get_extra_info("sockname")[1]
        lines = [
            f"{method} {self._remote_target} SIP/2.0",
            f"Via: SIP/2.0/UDP {self._host}:{port};branch={branch};rport",
            "Max-Forwards: 70",
            f"From: <sip:bench@{self._host}:{port}>;tag={self._tag}",
            f"To: {self._to}",
            f"Call-ID: {self._call_id}",
            f"CSeq: {number} {method}",
            f"Contact: <sip:bench@{self._host}:{port}>",
            *(["Content-Type: application/sdp"] if body else []),
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", body]).encode()

    def _send(self, data: bytes) -> None:
        self._transport.sendto(data, (self._target.host, self._target.port))

    def _branch(self) -> str:
        return f"z9hG4bK{secrets.token_hex(8)}"


def _offer(host: str, port: int, codec: Codec) -> str:
    family = "IP6" if ":" in host else "IP4"
    lines = ["v=0", f"o=- 1 1 IN {family} {host}", "s=-", f"c=IN {family} {host}", "t=0 0"]
    lines += [f"m=audio {port} RTP/AVP {codec.payload_type}", f"a=rtpmap:{codec.payload_type} {codec.name}/8000"]
    return "\r\n".join([*lines, "a=ptime:20", "a=sendrecv", ""])


def _media_address(answer: str) -> tuple[str, int]:
    address = re.search(r"^c=IN IP[46] (\S+)", answer, re.MULTILINE)
    port = re.search(r"^m=audio (\d+) ", answer, re.MULTILINE)
    if address is None or port is None or port[1] == "0":
        raise PhoneError(f"the answer has no audio in it: {answer!r}")
    return address[1], int(port[1])


def _local_address(target: Target) -> str:
    """Our address on the way to the target."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise PhoneError(f"no way to {target.host}: {error.strerror}") from None


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
