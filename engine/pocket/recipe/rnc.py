"""Rob Northen compression, method 1, undone: how an archive of 1994 keeps its sound.

A block is a run of literal bytes, then a copy of what was written before, and so on. How many bytes, from where and how
many are in a stream of bits, least significant first, in words of 16; literal bytes stand in between, from where the
last word of bits was taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAGIC = b"RNC\1"

HEADER = 18
"""Bytes: magic, lengths unpacked and packed (32 bits, most significant first), two checksums, leeway, blocks."""


def unpack(packed: bytes) -> bytes:
    """Raises ValueError where it is no such thing, or broken."""
    if packed[:4] != MAGIC or len(packed) < HEADER:
        raise ValueError(f"not compressed by RNC's method 1: it begins with {packed[:4]!r}, not {MAGIC!r}")
    length, packed_length, blocks = int.from_bytes(packed[4:8], "big"), int.from_bytes(packed[8:12], "big"), packed[17]
    if len(packed) < HEADER + packed_length:
        raise ValueError(f"RNC data end after {len(packed) - HEADER} of {packed_length} bytes")
    bits, out = _Bits(packed + bytes(4), HEADER), bytearray()
    try:
        bits.take(2)  # whether it is locked, and by a key: of no use here
        for _ in range(blocks):
            _unpack_block(bits, out)
    except IndexError:
        raise ValueError(f"RNC data end after {len(out)} of {length} unpacked bytes") from None
    if len(out) != length:
        raise ValueError(f"RNC data hold {len(out)} bytes, and say {length}")
    return bytes(out)


def _unpack_block(bits: _Bits, out: bytearray) -> None:
    literals, distances, lengths = _codes(bits), _codes(bits), _codes(bits)
    for left in range(bits.take(16), 0, -1):
        out += bits.literal(_number(bits, literals))
        if left > 1:
            distance, length = _number(bits, distances) + 1, _number(bits, lengths) + 2
            if distance > len(out):
                raise ValueError(f"RNC data copy from {distance} bytes back, of {len(out)}")
            start = len(out) - distance
            for place in range(start, start + length):  # what is copied may be what this copy writes
                out.append(out[place])


@dataclass(slots=True)
class _Bits:
    """16 bits or more are always at hand; `place` is the last word's that was taken."""

    data: bytes
    place: int
    held: int = field(init=False)
    count: int = 16

    def __post_init__(self) -> None:
        self.held = self._word()

    def _word(self) -> int:
        return self.data[self.place] | self.data[self.place + 1] << 8

    def take(self, count: int) -> int:
        taken = self.held & ((1 << count) - 1)
        self.held >>= count
        self.count -= count
        if self.count < 16:
            self.place += 2
            self.held |= self._word() << self.count
            self.count += 16
        return taken

    def literal(self, count: int) -> bytes:
        """Bytes that are no bits: they begin where the last word was taken, which comes after them instead."""
        if not count:
            return b""
        taken = self.data[self.place : self.place + count]
        self.place += count
        self.count -= 16
        self.held = self.held & ((1 << self.count) - 1) | self._word() << self.count
        self.count += 16
        return taken


def _codes(bits: _Bits) -> dict[tuple[int, int], int]:
    """A canonical Huffman code, by length and by its bits in the order of the stream."""
    sizes = [bits.take(4) for _ in range(bits.take(5))]
    if len(sizes) > 16:
        raise ValueError(f"RNC data have a table of {len(sizes)} numbers of bits; there are 16")
    codes: dict[tuple[int, int], int] = {}
    code = 0
    for size in range(1, 16):
        for value, its_size in enumerate(sizes):
            if its_size == size:
                codes[size, int(f"{code:0{size}b}"[::-1], 2)] = value
                code += 1
        code <<= 1
    return codes


def _number(bits: _Bits, codes: dict[tuple[int, int], int]) -> int:
    """A code tells how many bits a number has; all but its first follow."""
    for size in range(1, 16):
        value = codes.get((size, bits.held & ((1 << size) - 1)))
        if value is not None:
            bits.take(size)
            return value if value < 2 else bits.take(value - 1) | 1 << (value - 1)
    raise ValueError("RNC data hold a code that is not in their table")
