"""Messages that are nearly right, by chance and by seed: field by field, byte by byte, and grown to any length."""

from __future__ import annotations

import random

REPEATS = (0, 2, 3, 25, 130)
NUMBERS = "0 -0 -1 +1 00 1e3 0x10 255 256 65535 65536 2147483647 2147483648 4294967296 18446744073709551616".split()
PIECES = [
    *(
        b'"',
        b"'",
        b"<",
        b">",
        b"<>",
        b";",
        b",",
        b":",
        b"@",
        b"?",
        b"=",
        b"\\",
        b"/",
        b"%",
        b"%00",
        b"%0d%0a",
        b"*",
        b"~",
    ),
    *(b"\x00", b"\x1b[2J", b"\x7f", b"\x85", b"\xa0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"),
    *(text.encode() for text in ("\u0661", "\u2028", "\u202e", "\ufeff", "\U0001f4a9", "\xbd", "ß", "\u0130")),
    *(b"${jndi:x}", b"../../../etc/passwd", b"' or 1=1 --", b"{0}", b"$(reboot)"),
    *(b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b" ", b"\t", b"   "),
    *(b"sip:", b"sips:", b"tel:+1", b"SIP/2.0", b"SIP/3.0", b"z9hG4bK", b";tag=x", b";rport", b";lr", b";received=::"),
    *(b";branch=z9hG4bK", b";transport=tcp", b";maddr=224.0.0.1", b";expires=0", b";q=2", b"self", b"[::1]", b"[::"),
]
"""What parsers have stumbled over: delimiters, formats, other alphabets, what is no UTF-8, line ends, SIP's words."""

FIELDS = """Via From To Call-ID CSeq Contact Max-Forwards Content-Length Content-Type Content-Encoding Route
Record-Route Require Proxy-Require Supported Session-Expires Min-SE Authorization Proxy-Authorization Expires
Reason Timestamp Accept Allow RAck RSeq Replaces Refer-To Event v f t i m l k x s""".split()


def mutate(data: bytes, dice: random.Random) -> bytes:
    """One to four changes."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = dice.choice(CHANGES)(data, dice)
    return data


def _line(data: bytes, dice: random.Random) -> tuple[list[bytes], int]:
    lines = data.split(b"\r\n")
    return lines, dice.randrange(len(lines))


def _value(data: bytes, dice: random.Random) -> bytes:
    """Another value for a field: empty, a number, a piece, itself many times over."""
    lines, at = _line(data, dice)
    name, colon, value = lines[at].partition(b":")
    value = dice.choice(
        [
            b"",
            b" " + dice.choice(NUMBERS).encode(),
            b" " + dice.choice(PIECES),
            value * dice.choice(REPEATS),
            b",".join([value] * dice.choice(REPEATS)),
            value + dice.choice(PIECES) * dice.choice(REPEATS),
            value[: dice.randrange(len(value) + 1)],
            value.swapcase(),
        ]
    )
    lines[at] = name + colon + value
    return b"\r\n".join(lines)


def _number(data: bytes, dice: random.Random) -> bytes:
    """Another number where one stands."""
    lines, at = _line(data, dice)
    words = lines[at].split(b" ")
    numbers = [place for place, word in enumerate(words) if word.strip(b";").isdigit()]
    if numbers:
        words[dice.choice(numbers)] = dice.choice(NUMBERS).encode()
    lines[at] = b" ".join(words)
    return b"\r\n".join(lines)


def _lines(data: bytes, dice: random.Random) -> bytes:
    """A line is gone, doubled, moved, folded, or named otherwise; or there is one more."""
    lines, at = _line(data, dice)
    line, colon, value = lines[at].partition(b":")
    name = dice.choice(FIELDS).encode()
    return b"\r\n".join(
        dice.choice(
            [
                lines[:at] + lines[at + 1 :],
                lines[:at] + lines[at : at + 1] * dice.choice(REPEATS) + lines[at + 1 :],
                lines[at : at + 1] + lines[:at] + lines[at + 1 :],
                [*lines[:at], line + colon + value.replace(b" ", b"\r\n ", 3), *lines[at + 1 :]],
                [*lines[:at], name + colon + value, *lines[at + 1 :]],
                [*lines[:1], name + b": " + dice.choice(PIECES), *lines[1:]],
            ]
        )
    )


def _insert(data: bytes, dice: random.Random) -> bytes:
    """A piece somewhere, over what stands there or between."""
    at = dice.randrange(len(data) + 1)
    return data[:at] + dice.choice(PIECES) * dice.choice((1, 1, 1, 40)) + data[at + dice.randrange(12) :]


def _flip(data: bytes, dice: random.Random) -> bytes:
    """Some bytes are others."""
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 6)):
        if changed:
            changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _cut(data: bytes, dice: random.Random) -> bytes:
    """The end, the beginning, or something between is missing."""
    one, other = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    return dice.choice((data[:one], data[one:], data[:one] + data[other:], data[:other] + data[one:]))


CHANGES = (_value, _value, _value, _number, _lines, _lines, _insert, _flip, _cut)


def scramble(data: bytes, dice: random.Random) -> bytes:
    """The same for bytes without lines: flipped, cut, inserted into, of another length."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = dice.choice((_flip, _flip, _cut, _insert, _grow))(data, dice)
    return data


def _grow(data: bytes, dice: random.Random) -> bytes:
    at, size = dice.randrange(len(data) + 1), dice.choice((1, 4, 160, 1500))
    return data[:at] + dice.randbytes(size) + data[at:]


def stretch(data: bytes, size: int, dice: random.Random) -> bytes:
    """Something in it again and again, until it is of that size."""
    at = dice.randrange(len(data))
    unit = dice.choice(
        [dice.choice(PIECES), data[at : at + dice.randrange(1, 60)], dice.choice(PIECES) + data[at : at + 2]]
    )
    return (data[:at] + unit * (size // len(unit)))[: max(at, size - len(data) + at)] + data[at:]
