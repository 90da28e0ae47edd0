from __future__ import annotations

import numpy as np
import pytest

from engine.pocket.recipe.rnc import HEADER, unpack
from tests.engine.pocket.rnc import pack

WHOLE = b"abracadabra, abracadabra!" + b"a" * 40


def packed() -> bytes:
    first = [(b"abracad", (7, 4)), (b", ", (13, 11)), (b"!", (1, 2))]
    second = [(b"a", (1, 39)), (b"", (1, 2))]
    return pack(WHOLE, [[*first[:2], (b"!", (0, 0))], [second[0], (b"", (0, 0))]])


def test_runs_and_copies_give_the_whole_back() -> None:
    assert unpack(packed()) == WHOLE


@pytest.mark.parametrize("seed", range(5))
def test_whatever_lengths_follow_each_other(seed: int) -> None:
    random = np.random.default_rng(seed)
    whole, blocks = bytearray(), []
    for _ in range(3):
        block = []
        for place in range(count := int(random.integers(1, 40))):
            literal = random.bytes(int(random.choice([0, 1, 2, 3, 17, 300]))) if whole else b"xyz"
            whole += literal
            distance, length = int(random.integers(1, len(whole) + 1)), int(random.integers(2, 70))
            block.append((literal, (distance, length)))
            if place < count - 1:
                for _ in range(length):
                    whole.append(whole[-distance])
        blocks.append(block)
    assert unpack(pack(bytes(whole), blocks)) == whole


def test_what_is_packed_otherwise_is_refused() -> None:
    with pytest.raises(ValueError, match="RNC's method 1: it begins with b'RNC"):
        unpack(b"RNC\2" + bytes(20))
    with pytest.raises(ValueError, match="method 1"):
        unpack(b"RNC\1")


def test_data_that_end_too_soon_are_refused() -> None:
    whole = packed()
    for length in (HEADER, HEADER + 40, len(whole) - 1):
        with pytest.raises(ValueError, match=f"end after {length - HEADER} of {len(whole) - HEADER} bytes"):
            unpack(whole[:length])
    claims_less = whole[:8] + (40).to_bytes(4, "big") + whole[12 : HEADER + 40]
    with pytest.raises(ValueError, match="end after [0-9]+ of 65 unpacked bytes|not in their table"):
        unpack(claims_less)


@pytest.mark.parametrize("seed", range(40))
def test_broken_data_are_refused_or_of_their_length(seed: int) -> None:
    random = np.random.default_rng(seed)
    broken = bytearray(packed())
    for place in random.integers(HEADER, len(broken), 3):
        broken[place] ^= int(random.integers(1, 256))
    try:
        assert len(unpack(bytes(broken))) == len(WHOLE)
    except ValueError as error:
        assert "RNC" in str(error)


def test_a_table_of_more_numbers_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="a table of 31 numbers of bits; there are 16"):
        unpack(b"RNC\1" + bytes(13) + b"\1" + b"\xff" * 40)


def test_a_length_that_is_not_theirs_is_refused() -> None:
    wrong = packed()
    with pytest.raises(ValueError, match=f"hold {len(WHOLE)} bytes, and say {len(WHOLE) + 1}"):
        unpack(wrong[:4] + (len(WHOLE) + 1).to_bytes(4, "big") + wrong[8:])


def test_a_copy_of_what_was_not_yet_written_is_refused() -> None:
    with pytest.raises(ValueError, match="9 bytes back, of 3"):
        unpack(pack(b"abcabc", [[(b"abc", (9, 3)), (b"", (0, 0))]]))


def test_a_code_that_no_table_has_is_refused() -> None:
    nothing = b"RNC\1" + bytes(13) + b"\1" + bytes([0, 0, 8, 0, 0, 0])
    with pytest.raises(ValueError, match="not in their table"):
        unpack(nothing)
