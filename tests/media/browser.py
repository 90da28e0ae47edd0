"""A browser, as far as WebRTC goes: aiortc's peer connection, which says a tone and keeps what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
from types import TracebackType
from typing import Self

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from media.leg import Pcm

RATE = 48_000
BLOCK = 960


class Tone(MediaStreamTrack):
    """An even tone at -12 dBFS, 20 ms at a time."""

    kind = "audio"

    def __init__(self, hertz: float) -> None:
        super().__init__()
        self.hertz = hertz
        self._sent = 0
        self._began = 0.0

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self._began = self._began or loop.time()
        await asyncio.sleep(self._began + self._sent / RATE - loop.time())
        at = (self._sent + np.arange(BLOCK)) / RATE
        block = (0.25 * 32_767 * np.sin(2 * np.pi * self.hertz * at)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._sent, fractions.Fraction(1, RATE)
        self._sent += BLOCK
        return frame


class Browser:
    """One peer connection. `direction` is that of its audio; it says a tone of `hertz` if it sends."""

    def __init__(self, hertz: float = 440.0, direction: str = "sendrecv") -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.heard: list[Pcm] = []
        self.more = asyncio.Event()
        self._pulls: list[asyncio.Task[None]] = []
        self.peer.on("track", self._listen)
        if "send" in direction:
            self.peer.addTransceiver(Tone(hertz), direction)
        else:
            self.peer.addTransceiver("audio", direction)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.peer.close()
        for pull in self._pulls:
            pull.cancel()
        if self._pulls:
            await asyncio.wait(self._pulls)

    async def offer(self) -> str:
        """Its description, candidates and all."""
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return self.peer.localDescription.sdp

    async def take(self, answer: str) -> None:
        """The answer to it."""
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def answer(self, offer: str) -> str:
        """What it says to an offer."""
        await self.peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self.peer.setLocalDescription(await self.peer.createAnswer())
        return self.peer.localDescription.sdp

    def _listen(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._pulls.append(asyncio.create_task(self._pull(track)))

    async def _pull(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                samples = frame.to_ndarray().reshape(-1, 2)[:, 0]
                self.heard.append(samples.astype(np.float32) / np.float32(32_768))
                self.more.set()

    async def hears(self, hertz: float, blocks: int = 10, within_s: float = 10.0) -> None:
        """Wait until that tone is what it hears, for so many 20 ms."""
        async with asyncio.timeout(within_s):
            while pitch(np.concatenate(self.heard[-blocks:])) != hertz if len(self.heard) >= blocks else True:
                self.more.clear()
                await self.more.wait()

    async def is_over(self, within_s: float = 5.0) -> None:
        """Wait until it has been told so: by DTLS, for nobody signals here."""
        async with asyncio.timeout(within_s):
            await asyncio.wait(self._pulls)


def pitch(pcm: Pcm, rate: int = RATE) -> float:
    """The strongest frequency, to the nearest 20 Hz; 0 in silence."""
    if float(np.sqrt(np.mean(np.square(pcm)))) < 0.02:
        return 0.0
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    return round(float(np.argmax(spectrum)) * rate / len(pcm) / 20) * 20.0
