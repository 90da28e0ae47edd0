"""What `recipe/rnc.py` undoes, done simply: codes of one length, and the runs and copies that one asks for."""

from __future__ import annotations

from collections.abc import Sequence

SIZE = 4
"""Bits of each code, so all 16 numbers of bits have one."""


class _Writer:
    """The order in which the other side takes words of bits and bytes."""

    def __init__(self) -> None:
        self.bits: list[int] = []
        self.laid: list[bytes | None] = [None]
        self.ahead = 16

    def put(self, value: int, count: int) -> None:
        self.bits += [value >> bit & 1 for bit in range(count)]
        self.ahead -= count
        if self.ahead < 16:
            self.laid.append(None)
            self.ahead += 16

    def put_number(self, number: int) -> None:
        length = number.bit_length()
        code = length if number >= 2 else number
        self.put(int(f"{code:0{SIZE}b}"[::-1], 2), SIZE)
        if number >= 2:
            self.put(number & ((1 << (length - 1)) - 1), length - 1)

    def put_literal(self, data: bytes) -> None:
        if data:
            self.laid.insert(len(self.laid) - 1, data)

    def done(self) -> bytes:
        words = [self.bits[at : at + 16] for at in range(0, len(self.bits), 16)]
        numbers = iter([sum(bit << place for place, bit in enumerate(word)) for word in words])
        return b"".join(next(numbers, 0).to_bytes(2, "little") if each is None else each for each in self.laid)


def pack(whole: bytes, blocks: Sequence[Sequence[tuple[bytes, tuple[int, int]]]]) -> bytes:
    """Of each block, bytes and then from how far back how many are copied, which the last of a block is not."""
    writer = _Writer()
    writer.put(0, 2)
    for block in blocks:
        for _ in range(3):
            writer.put(16, 5)
            for _ in range(16):
                writer.put(SIZE, 4)
        writer.put(len(block), 16)
        for place, (literal, (distance, length)) in enumerate(block):
            writer.put_number(len(literal))
            writer.put_literal(literal)
            if place < len(block) - 1:
                writer.put_number(distance - 1)
                writer.put_number(length - 2)
    data = writer.done()
    header = b"RNC\1" + len(whole).to_bytes(4, "big") + len(data).to_bytes(4, "big") + bytes(5) + bytes([len(blocks)])
    return header + data
