"""Digits in RTP: telephone-event payloads (RFC 4733) <-> keys. Pure; their clock is the codec's, mostly 8 kHz.

A payload is event (8 bits), end flag, reserved, volume (6 bits), duration (16 bits, in the RTP clock). All packets of
one press carry the timestamp at which it began.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from struct import Struct

from media.leg import Digit, LegError

KEYS = "0123456789*#ABCD"
"""By event code, section 3.2."""

CLOCK_RATE = 8000
SILENT_S = 0.2
"""Without a packet for this long, the key is taken as released: its end packets were lost."""

TONE_MS = 100
GAP_MS = 60
"""Between two presses; at least 40 is needed to tell them apart."""

PAUSES_MS = {",": 2000, "W": 500}
"""As telephones and dial strings have them."""

TICK_MS = 20
VOLUME_DBM0 = 10
"""Of the tone, below 0 dBm0: -10 is what phones send."""

_PAYLOAD = Struct("!BBH")
_LONGEST = 0xFFFF
_END = 0x80


@dataclass(frozen=True, slots=True)
class Event:
    """What a payload says. `duration` is in ticks of the RTP clock."""

    code: int
    end: bool
    duration: int
    volume_dbm0: int = VOLUME_DBM0

    @classmethod
    def parse(cls, payload: bytes) -> Event:
        """Read the first event of a payload. Raises ValueError if it is too short."""
        if len(payload) < _PAYLOAD.size:
            raise ValueError(f"a telephone-event of {len(payload)} bytes; it has at least {_PAYLOAD.size}")
        code, flags, duration = _PAYLOAD.unpack_from(payload)
        return cls(code, bool(flags & _END), duration, flags & 0x3F)

    def __bytes__(self) -> bytes:
        return _PAYLOAD.pack(self.code, self.end * _END | self.volume_dbm0, self.duration)


# --- receiving -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Press:
    """A key that is held down."""

    key: tuple[int, int, int]  # SSRC, timestamp, event
    first: int  # timestamp of the first segment
    duration: int
    heard: float


class DigitReceiver:
    """Turns packets into digits: one for each (SSRC, timestamp, event), reported once, when the key is released.

    Any packet of a press is enough to hear it. It ends with the end flag, with the next press, or after SILENT_S.
    """

    def __init__(self) -> None:
        self._press: _Press | None = None
        self._rate = CLOCK_RATE
        self._done: deque[tuple[int, int, int]] = deque(maxlen=16)  # repeated and overtaken packets are known by these

    def receive(self, payload: bytes, timestamp: int, ssrc: int, now: float, rate: int = CLOCK_RATE) -> list[Digit]:
        """Take a packet; give the digits that it ends. Raises ValueError if it is too short."""
        event = Event.parse(payload)
        self._rate = rate
        key = (ssrc, timestamp, event.code)
        if event.code >= len(KEYS) or key in self._done:
            return []  # flash-hook and tones are no keys
        ended = [] if self._belongs(key, event) else self._end()
        if self._press is None:
            self._press = _Press(key, timestamp, 0, now)
        self._press.heard = now
        offset = (timestamp - self._press.first) & 0xFFFFFFFF
        self._press.duration = max(self._press.duration, offset + event.duration)
        return [*ended, *self._end()] if event.end else ended

    def poll(self, now: float) -> list[Digit]:
        """The digit whose packets have stopped coming."""
        if self._press is None or now - self._press.heard < SILENT_S:
            return []
        return self._end()

    def _belongs(self, key: tuple[int, int, int], event: Event) -> bool:
        """Whether this is the press at hand, or its next segment: the duration field holds 8 s (section 2.5.1.3)."""
        if self._press is None or key == self._press.key:
            return self._press is not None
        ssrc, timestamp, code = self._press.key
        if key != (ssrc, (timestamp + _LONGEST) & 0xFFFFFFFF, code):
            return False
        self._done.append(self._press.key)
        self._press.key = key
        return True

    def _end(self) -> list[Digit]:
        press, self._press = self._press, None
        if press is None:
            return []
        self._done.append(press.key)
        return [Digit(KEYS[press.key[2]], press.duration / self._rate)]


# --- sending -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventPacket:
    """One packet of a press: its frozen timestamp, and the marker on the first."""

    payload: bytes
    timestamp: int
    marker: bool


def check_digits(digits: str) -> str:
    """The keys in capitals. Raises LegError for what is neither a key nor a pause."""
    for key in digits:
        if key.upper() not in (*KEYS, *PAUSES_MS):
            raise LegError(f"{key!r} is no key; there are 0-9 * # A-D, and for pauses `,` (2 s) and w (half a second)")
    return digits.upper()


class DigitSender:
    """Presses keys, one tick of 20 ms at a time. `step` is called at every tick while `busy`.

    A press: a packet each tick with rising duration, the last of them with the end flag and twice more, then the rest
    of the gap. Audio is suppressed until then. A pause suppresses nothing.
    """

    def __init__(self) -> None:
        self._keys: deque[str] = deque()
        self._tick = 0  # within the key at hand
        self._timestamp = 0

    @property
    def busy(self) -> bool:
        """Whether anything is left to press."""
        return bool(self._keys)

    @property
    def suppresses_audio(self) -> bool:
        """Whether this tick belongs to a press."""
        return self.busy and self._keys[0] not in PAUSES_MS

    @property
    def pressed(self) -> tuple[str, float] | None:
        """The key of this tick, and how many seconds it has been down; it is for TONE_MS. None in a pause."""
        return (self._keys[0], self._tick * TICK_MS / 1000) if self.suppresses_audio else None

    def press(self, digits: str) -> None:
        """Queue keys. Raises LegError."""
        self._keys.extend(check_digits(digits))

    def stop(self) -> None:
        """Forget what is left."""
        self._keys.clear()
        self._tick = 0

    def step(self, timestamp: int, rate: int = CLOCK_RATE) -> EventPacket | None:
        """What to send at this tick, whose audio would have had `timestamp`; `rate` is the clock of durations."""
        key, tick = self._keys[0], self._tick
        if tick == 0:
            self._timestamp = timestamp
        self._tick += 1
        if self._tick * TICK_MS >= PAUSES_MS.get(key, TONE_MS + GAP_MS):
            self._keys.popleft()
            self._tick = 0
        return None if key in PAUSES_MS else self._packet(key, tick + 1, rate)

    def _packet(self, key: str, tick: int, rate: int) -> EventPacket | None:
        """The packet at the end of the press's tick-th 20 ms; none in the gap."""
        last = TONE_MS // TICK_MS
        if tick > last + 2:
            return None
        duration = min(tick, last) * TICK_MS * rate // 1000
        return EventPacket(bytes(Event(KEYS.index(key), tick >= last, duration)), self._timestamp, tick == 1)
