"""The receiving half of a stream: what comes is checked, counted, and handed to playout and digits. Pure.

It also knows what only the far end's packets tell: where it really is, whether it is there at all, and so whether and
where we may send.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter

from aiortc.rtp import RtcpReceiverInfo, RtpPacket

from media.codec import PCMU, Codec
from media.dtmf import DigitReceiver
from media.latch import Address, Latch, Network
from media.leg import Digit
from media.playout import Heard, Playout
from media.rtcp import Reports
from media.secure import Security
from media.srtp import SrtpError
from media.stream import COMFORT_NOISE, Stream

logger = logging.getLogger(__name__)

WORRY_S = 5.0
"""Neither audio nor reports for so long: that is told of in the log, while it can still be looked into."""

FIRST_PACKET_S = 30.0
"""No packet for so long from the beginning: there is no way through."""

SILENT_S = 15.0
"""Neither audio nor reports for so long after there was audio: the far end has gone."""

FORGERIES = 50
"""Packets in a row that do not authenticate, a second's worth: a wrong key, which is to be told of once."""

MOST_CHANGES = 3
"""Times that audio may change its source in a second: each costs what a new stream does. Then what is heard stays."""

UNCONFIRMED_S = 10.0
"""Media goes to a described address for so long; then only once something came from there. Anybody could be named."""


class Receiver:
    """`host` is where the far end's signalling comes from; `networks` are trusted with its media besides.

    `codec` is that of what is heard.

    `packets` and `dropped` count what came in; what the playout does not play is counted there.
    """

    def __init__(
        self,
        host: str,
        reports: Reports,
        security: Security | None = None,
        networks: tuple[Network, ...] = (),
    ) -> None:
        self.codec: Codec = PCMU
        self.playout = Playout(PCMU)
        self.packets = 0
        self.dropped: Counter[str] = Counter()
        self._host, self._reports = host, reports
        self._stream: Stream | None = None
        self._types: frozenset[int] = frozenset()  # payload types of `codec`
        self._playing = False
        self._latch = Latch(networks)
        self._security = security or Security()
        self._forged = 0  # packets in a row
        self._rtcp_source: Address | None = None
        self._keys = DigitReceiver()
        self._event_timestamp: int | None = None
        self._confirmed = False  # something came from where we send
        self._described_at = self._silent_since = 0.0
        self._worried = False  # and said so
        self._changes, self._changes_since = 0, 0.0

    # What was agreed

    def adopt(self, stream: Stream, now: float) -> None:
        """From now on this is agreed. What comes in the codec of before is heard until the first in the new one."""
        before, self._stream = self._stream, stream
        self._forged = 0
        if before is None or stream.held:
            self._switch(stream.codec, stream.payload_types)
        if not stream.is_hole:  # old-style hold says nothing about where the far end is
            target = self._latch.target
            self._latch.arm(stream.remote, {self._host}, now)
            self._confirmed = self._confirmed and target == self._latch.target
        if before is not None and (before.held, before.receives) != (stream.held, stream.receives):
            self.playout.change(self.codec)
        if before is not None and before.remote_rtcp != stream.remote_rtcp:
            self._rtcp_source = None
        self._silent_since = self._described_at = now

    def begin(self, now: float) -> None:
        """The call's time begins; nothing was kept until now."""
        self._playing = True
        self._silent_since = self._described_at = now
        self.playout.reset()

    def _switch(self, codec: Codec, types: frozenset[int]) -> None:
        self._types = types
        if self.codec is not codec:
            self.codec = codec
            self.playout.change(codec)

    # What comes

    def tick(self, now: float) -> Heard:
        """The next 20 ms of sound."""
        return self.playout.tick(now)

    def poll(self, now: float) -> list[Digit]:
        """The digit whose packets have stopped coming."""
        return self._keys.poll(now)

    def receive_rtp(self, data: bytes, source: Address, now: float) -> list[Digit]:
        """Take a datagram; the digits that it ends."""
        packet = self._opened(data, source, now)
        return [] if packet is None else self._receive(packet, source, now)

    def _opened(self, data: bytes, source: Address, now: float) -> RtpPacket | None:
        """The packet in it, if it is the far end's."""
        if self._stream is None:
            self.dropped["before the answer"] += 1
            return None
        try:
            packet = RtpPacket.parse(self._security.open_rtp(data, now))
        except SrtpError as error:
            self._drop_forged(str(error), source)
            return None
        except (ValueError, struct.error):
            self.dropped["not RTP"] += 1
            return None
        if self._forged < FORGERIES:  # once told of, it is not again until something else is agreed
            self._forged = 0
        return packet

    def _receive(self, packet: RtpPacket, source: Address, now: float) -> list[Digit]:
        stream, kind = self._stream, packet.payload_type
        assert stream is not None
        if not (stream.heard_as(kind) or kind in self._types or kind in stream.event_types):
            if kind != COMFORT_NOISE and kind not in stream.noise_types:
                self.dropped["unknown payload type"] += 1
                if self._latch.holds(source):  # it may be kept alive by just that (RFC 6263, section 4.6)
                    self._silent_since = now
                return []
        if not self._latch.admit(source, packet.ssrc, packet.sequence_number, now):
            self.dropped["foreign source"] += 1
            return []
        self._silent_since, self._confirmed = now, True
        if kind in stream.event_types:
            self.packets += 1
            return self._take_event(stream, packet, now)
        if not self._may_be_heard(packet.ssrc, now):
            self.dropped["too many sources"] += 1
            return []
        self.packets += 1
        self._count(packet, packet.timestamp, now)
        self._take_audio(stream, packet, now)
        return []

    def _may_be_heard(self, ssrc: int, now: float) -> bool:
        if self._reports.source in (None, ssrc):
            return True
        if now - self._changes_since >= 1.0:
            self._changes, self._changes_since = 0, now
        self._changes += 1
        return self._changes <= MOST_CHANGES

    def _drop_forged(self, reason: str, source: Address) -> None:
        """Before the latch: who has not the key has no say in where the far end is."""
        self.dropped[reason] += 1
        self._forged += 1
        if self._forged == FORGERIES:
            logger.warning("x RTP from %s: %d packets in a row, the last: %s", _shown(source), FORGERIES, reason)

    def _take_audio(self, stream: Stream, packet: RtpPacket, now: float) -> None:
        if stream.held or not stream.receives or not self._playing:
            return
        if packet.payload_type not in self._types and (heard := stream.heard_as(packet.payload_type)):
            self._switch(*heard)
        silent = packet.payload_type == COMFORT_NOISE or packet.payload_type in stream.noise_types
        self.playout.receive(packet.timestamp, None if silent else packet.payload, now)

    def _take_event(self, stream: Stream, packet: RtpPacket, now: float) -> list[Digit]:
        """A key. In the audio's own stream it also says that no audio is to come; some have a source for it alone."""
        if self._reports.source in (None, packet.ssrc):
            self._count(packet, None, now)  # its timestamp does not tell when it was sent
            if packet.timestamp != self._event_timestamp and self._playing:
                self.playout.receive(packet.timestamp, None, now)
            self._event_timestamp = packet.timestamp
        try:
            return self._keys.receive(packet.payload, packet.timestamp, packet.ssrc, now, stream.event_rate)
        except ValueError:
            self.dropped["torn telephone-event"] += 1
            return []

    def _count(self, packet: RtpPacket, timestamp: int | None, now: float) -> None:
        """For the reports. Another source ends everything about the old one: a transfer, or music on hold."""
        if self._reports.heard(packet.ssrc, packet.sequence_number, timestamp, now, self.codec.clock_rate):
            logger.info("- RTP from %s has a new source", self.remote)
            self.playout.reset()
            self._event_timestamp = None

    def receive_rtcp(self, data: bytes, source: Address, now: float) -> None:
        """Take a report."""
        stream = self._stream
        if stream is None or not (source[0] == stream.remote_rtcp[0] or self._latch.trusts(source[0])):
            self.dropped["foreign RTCP"] += 1
            return
        try:
            self._read_report(self._security.open_rtcp(data, now), now)
        except SrtpError as error:
            self.dropped[str(error)] += 1
            return
        except ValueError:
            self.dropped["not RTCP"] += 1
            return
        self._rtcp_source = source
        self._confirmed = self._confirmed or source[0] == self._latch.target[0]
        if self._reports.source is not None:
            self._silent_since = now  # a far end that sends no silence is there all the same

    def _read_report(self, report: bytes, now: float) -> None:
        """Raises ValueError."""
        self._reports.read(report, now)

    def blocks(self, now: float) -> list[RtcpReceiverInfo]:
        """What a report is to say of other sources than that of the leg's own `Reports`."""
        return []

    # What it tells

    @property
    def target(self) -> Address:
        """Where audio is to go."""
        return self._latch.target

    @property
    def rtcp_target(self) -> Address:
        """Where reports came from; else, behind address translation, the described port where the audio comes from."""
        assert self._stream is not None
        if self._stream.mux:
            return self._latch.target
        if self._rtcp_source is not None:
            return self._rtcp_source
        host, port = self._stream.remote_rtcp
        return (self._latch.target[0] if host == self._stream.remote[0] else host), port

    @property
    def remote(self) -> str:
        """Where the far end is; "" while nobody said."""
        return _shown(self._latch.target) if self._latch.target[0] else ""

    def may_come_from(self, source: Address) -> bool:
        """Whether the far end could be there, before anything proves it."""
        return self._latch.trusts(source[0])

    def may_send(self, now: float) -> bool:
        """Whether there is reason to believe that the far end wants what we send."""
        return self._confirmed or now - self._described_at < UNCONFIRMED_S

    def why_lost(self, now: float) -> str | None:
        """Why the far end can no longer be heard; None while it can, or while nothing is expected from it."""
        stream = self._stream
        if stream is None or stream.held or not stream.receives:
            self._silent_since = now
            return None
        silent_s, limit = now - self._silent_since, FIRST_PACKET_S if self._reports.source is None else SILENT_S
        if silent_s >= WORRY_S and not self._worried:
            logger.warning("x %s", self._diagnosis(stream, WORRY_S))
        self._worried = silent_s >= WORRY_S
        return self._diagnosis(stream, limit) if silent_s >= limit else None

    def _diagnosis(self, stream: Stream, limit: float) -> str:
        """What is wrong, for who has to find out where."""
        foreign, forged = self.dropped["foreign source"], self.dropped["SRTP not authentic"]
        return (
            f"signalling is fine, but no RTP came from {self.remote} in {limit:g} s; "
            f"the far end's SDP said {_shown(stream.remote)}, its signalling comes from {self._host}"
            + (f"; {foreign} packets from other addresses were dropped" if foreign else "")
            + (f"; {forged} packets did not fit the key of its SDP" if forged else "")
        )


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
