"""Two connections as one Leg: by one we speak, by the other we hear (as LiveKit has it, publisher and subscriber)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from media.hearing import HearingLeg
from media.leg import Digit, Exchange, LegError, LegStats, Pcm
from media.webrtc import WebRtcLeg


class PairLeg:
    """A Leg: we offer for `sending`, and answer for `hearing`, which may come later, or never in an empty room.

    The call's time is that of `sending`. Both are on one wheel, so that there is a frame of `hearing` for each of its
    frames, at most one frame later. What was heard before the call's time began is over: kept, it would make all that
    follows late.
    """

    def __init__(self, sending: WebRtcLeg, hearing: HearingLeg) -> None:
        self._sending, self._hearing = sending, hearing
        self._concealed = 0
        self._begun = False

    @property
    def held(self) -> bool:
        """Whether the far end holds."""
        return self._sending.held

    @property
    def ready(self) -> bool:
        """Whether what is played reaches the far end."""
        return self._sending.ready

    @property
    def stats(self) -> LegStats:
        """Of what is heard by the one, and sent by the other."""
        sent, heard = self._sending.stats, self._hearing.stats
        return replace(
            heard,
            codec=sent.codec,
            encryption=sent.encryption,
            remote=sent.remote,
            packets_sent=sent.packets_sent,
            samples_padded=sent.samples_padded,
            samples_cut=sent.samples_cut,
            samples_dropped=sent.samples_dropped,
            frames_concealed=self._concealed,
            frames_skipped=sent.frames_skipped,
            round_trip_s=sent.round_trip_s,
            far_packets_lost=sent.far_packets_lost,
            far_jitter_s=sent.far_jitter_s,
            reports_sent=sent.reports_sent + heard.reports_sent,
            reports_received=sent.reports_received + heard.reports_received,
        )

    async def offer(self, hold: bool | None = None) -> str:
        """What we speak; it is heard by the other. Raises LegError."""
        return await self._sending.offer(hold=True)

    async def accepted(self, answer: str) -> None:
        """Take the answer to it. Raises LegError."""
        await self._sending.accepted(answer)

    async def answer(self, offer: str) -> str:
        """Agree to hear what is offered, now or anew. Raises LegError."""
        answer = await self._hearing.answer(offer)
        self._hearing.begin()
        return answer

    async def exchange(self) -> Exchange:
        """The next frame's time: silence is heard while there is nothing else."""
        exchange = await self._sending.exchange()
        if not self._begun:
            self._begun = True
            self._hearing.skip_to_newest()
        heard = self._hearing.take()
        if heard is None:
            return exchange
        self._concealed += heard.concealed > 0
        return replace(exchange, heard=heard.heard, concealed=heard.concealed)

    def play(self, pcm: Pcm) -> None:
        """Queue audio to be sent."""
        self._sending.play(pcm)

    def digits(self) -> AsyncIterator[Digit]:
        """Digits of whoever presses some."""
        return self._hearing.digits()

    async def send_digits(self, digits: str) -> None:
        """Raises LegError: nobody in a conference has use for them."""
        raise LegError("a conference takes no digits")

    async def lost(self) -> str:
        """Wait until one of the two is lost for good; the reason."""
        waiting = [asyncio.create_task(leg.lost()) for leg in (self._sending, self._hearing)]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in waiting:
                task.cancel()

    async def close(self) -> None:
        """Leave by both. Idempotent."""
        await self._sending.close()
        await self._hearing.close()
