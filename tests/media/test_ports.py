"""Port pairs: even and odd, rested, and never somebody else's."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from media.leg import LegError
from media.ports import REST_S, Pair, Ports, local_address


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def base() -> int:
    """An even port with seven free ones after it."""
    for port in range(29_000, 32_000, 8):
        try:
            for offset in range(8):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(("0.0.0.0", port + offset))
        except OSError:
            continue
        return port
    raise AssertionError("no eight ports in a row are free")


@pytest.fixture
def time() -> Time:
    return Time()


class Remembering(Ports):
    """Closes what a test leaves open."""

    def __init__(self, first: int, last: int, time: Time) -> None:
        super().__init__(first, last, time)
        self.opened: list[Pair] = []

    def open(self, version: int) -> Pair:
        self.opened.append(super().open(version))
        return self.opened[-1]


@pytest.fixture
def ports(base: int, time: Time) -> Iterator[Ports]:
    """Four pairs."""
    pool = Remembering(base, base + 7, time)
    yield pool
    for pair in pool.opened:
        pair.close()


def test_a_pair_is_even_and_odd_and_bound(ports: Ports, base: int) -> None:
    pair = ports.open(4)
    assert base <= pair.port <= base + 6 and pair.port % 2 == 0
    assert pair.rtp.getsockname() == ("0.0.0.0", pair.port)
    assert pair.rtcp.getsockname() == ("0.0.0.0", pair.port + 1)
    assert pair.rtp.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 46 << 2
    assert ports.open(6).rtp.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 46 << 2


@pytest.mark.parametrize("first", [1, 2])
def test_an_odd_first_and_an_even_last_port_belong_to_no_pair(base: int, time: Time, first: int) -> None:
    pool = Ports(base + first, base + 4, time)
    pair = pool.open(4)
    assert pair.port == base + 2
    with pytest.raises(LegError, match="no UDP port pair"):
        pool.open(4)
    pool.close(pair)


def test_all_pairs_are_given_out_once_and_then_there_is_an_error(ports: Ports, base: int) -> None:
    pairs = [ports.open(4) for _ in range(4)]
    assert sorted(pair.port for pair in pairs) == [base, base + 2, base + 4, base + 6]
    with pytest.raises(LegError, match=f"no UDP port pair of {base}-{base + 7} is free: 4 are in calls"):
        ports.open(4)


def test_a_closed_pair_rests(ports: Ports, time: Time) -> None:
    first = ports.open(4)
    ports.close(first)
    time.now = REST_S - 1
    others = [ports.open(4) for _ in range(3)]
    assert first.port not in {pair.port for pair in others}
    time.now = REST_S
    assert ports.open(4).port == first.port


def test_resting_pairs_are_given_out_early_only_if_nothing_else_is_left_the_longest_rested_first(
    ports: Ports, time: Time
) -> None:
    pairs = [ports.open(4) for _ in range(4)]
    for pair in (pairs[2], pairs[0]):
        time.now += 1
        ports.close(pair)
    assert [ports.open(4).port, ports.open(4).port] == [pairs[2].port, pairs[0].port]


@pytest.mark.parametrize("offset", [0, 1])
def test_a_port_that_another_program_has_is_passed_over(ports: Ports, base: int, offset: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", base + 2 + offset))
        assert {ports.open(4).port for _ in range(3)} == {base, base + 4, base + 6}
        with pytest.raises(LegError, match="3 are in calls, other programs have the rest"):
            ports.open(4)
    assert ports.open(4).port == base + 2


def test_the_order_begins_anywhere(base: int, time: Time) -> None:
    first = set()
    for _ in range(60):
        pool = Ports(base, base + 7, time)
        pair = pool.open(4)
        pool.close(pair)
        first.add(pair.port)
    assert len(first) == 4


def test_our_address_is_the_one_on_the_route() -> None:
    assert local_address("127.0.0.1") == "127.0.0.1"
    with pytest.raises(LegError, match=r"no route to 255\.255\.255\.255"):
        local_address("255.255.255.255")
