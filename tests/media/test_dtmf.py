"""Digits: any packet of a press is enough, none of them counts twice, and what we press can be heard."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.dtmf import KEYS, DigitReceiver, DigitSender, Event, EventPacket
from media.leg import Digit, LegError

SSRC = 0x1234


def press(key: str, timestamp: int = 1000) -> list[EventPacket]:
    """The packets of one press, as we send them."""
    sender = DigitSender()
    sender.press(key)
    packets = []
    while sender.busy:
        packets.append(sender.step(timestamp))
    return [packet for packet in packets if packet]


def hear(packets: list[EventPacket], receiver: DigitReceiver | None = None, then: float = 60.0) -> list[Digit]:
    """What a receiver makes of packets that come each 20 ms, and of the silence afterwards."""
    receiver = receiver or DigitReceiver()
    digits: list[Digit] = []
    for number, packet in enumerate(packets):
        digits += receiver.receive(packet.payload, packet.timestamp, SSRC, number * 0.02)
        digits += receiver.poll(number * 0.02)
    return digits + receiver.poll(then)


def test_a_payload_round_trips() -> None:
    assert bytes(Event(11, True, 800, 10)) == b"\x0b\x8a\x03\x20"
    assert Event.parse(b"\x0b\x8a\x03\x20") == Event(11, True, 800, 10)
    assert Event.parse(b"\x0b\x8a\x03\x20and more") == Event(11, True, 800, 10)
    with pytest.raises(ValueError, match="3 bytes"):
        Event.parse(b"\x0b\x8a\x03")


# --- sending -------------------------------------------------------------------------------------------------------


def test_a_press_rises_ends_three_times_and_keeps_its_timestamp() -> None:
    packets = press("5", timestamp=4711)
    assert [Event.parse(packet.payload).duration for packet in packets] == [160, 320, 480, 640, 800, 800, 800]
    assert [Event.parse(packet.payload).end for packet in packets] == [False] * 4 + [True] * 3
    assert {packet.timestamp for packet in packets} == {4711}
    assert [packet.marker for packet in packets] == [True] + [False] * 6


def test_audio_is_suppressed_for_the_press_and_its_gap() -> None:
    sender = DigitSender()
    sender.press("12")
    starts = []
    for tick in range(100):
        if not sender.busy:
            break
        assert sender.suppresses_audio
        packet = sender.step(tick * 160)
        if packet and packet.marker:
            starts.append(tick)
    assert tick == 16
    assert starts == [0, 8]  # 100 ms of tone, then 60 ms of nothing


@pytest.mark.parametrize(("pause", "ticks"), [(",", 100), ("w", 25), ("W", 25)])
def test_a_pause_lasts_two_seconds_or_half_a_second_and_lets_audio_through(pause: str, ticks: int) -> None:
    sender = DigitSender()
    sender.press(pause)
    for tick in range(ticks):
        assert sender.pressed is None
        assert sender.busy and not sender.suppresses_audio
        assert sender.step(tick * 160) is None
    assert not sender.busy


def test_keys_may_be_small_letters_and_nothing_else_is_a_key() -> None:
    assert [digit.key for digit in hear(press("a"))] == ["A"]
    sender = DigitSender()
    for wrong in ("5x", "1 2", "\u0661", "+1"):
        with pytest.raises(LegError, match="is no key"):
            sender.press(wrong)
    assert not sender.busy  # a wrong string presses nothing at all


def test_stopped_it_forgets() -> None:
    sender = DigitSender()
    sender.press("12")
    sender.step(0)
    sender.stop()
    assert not sender.busy
    sender.press("3")
    packet = sender.step(160)
    assert packet is not None and packet.marker


# --- receiving -----------------------------------------------------------------------------------------------------


@given(st.text(KEYS, min_size=1, max_size=12))
def test_what_is_pressed_is_heard(keys: str) -> None:
    packets = [packet for number, key in enumerate(keys) for packet in press(key, number * 1280)]
    assert hear(packets) == [Digit(key, 0.1) for key in keys]


@given(st.sets(st.integers(0, 6), max_size=6), st.integers(0, 2**32 - 1))
def test_any_one_packet_is_enough(lost: set[int], timestamp: int) -> None:
    packets = [packet for number, packet in enumerate(press("7", timestamp)) if number not in lost]
    digits = hear(packets)
    assert [digit.key for digit in digits] == ["7"]
    assert 0.02 <= digits[0].duration_s <= 0.1


@given(st.permutations(range(7)), st.integers(1, 3))
def test_order_and_repeats_do_not_matter(order: list[int], times: int) -> None:
    packets = press("#")
    assert [digit.key for digit in hear([packets[number] for number in order] * times)] == ["#"]


def test_a_press_without_end_packets_ends_200_ms_after_the_last() -> None:
    receiver = DigitReceiver()
    for number, packet in enumerate(press("3")[:4]):
        assert receiver.receive(packet.payload, packet.timestamp, SSRC, number * 0.02) == []
    assert receiver.poll(0.06 + 0.19) == []
    assert receiver.poll(0.06 + 0.21) == [Digit("3", 0.08)]
    assert receiver.poll(9.9) == []


def test_a_press_that_never_ended_is_ended_by_the_next() -> None:
    packets = press("1", 1000)[:3] + press("2", 2000)
    assert [digit.key for digit in hear(packets)] == ["1", "2"]


def test_the_same_key_twice_is_two_digits() -> None:
    assert [digit.key for digit in hear(press("1", 1000) + press("1", 2280))] == ["1", "1"]


def test_another_source_with_the_same_timestamp_is_another_digit() -> None:
    receiver = DigitReceiver()
    last = press("1")[-1]
    assert len(receiver.receive(last.payload, 5, 1, 0.0)) == 1
    assert len(receiver.receive(last.payload, 5, 2, 0.02)) == 1


def test_a_press_of_more_than_8_s_comes_in_segments_and_is_one_digit() -> None:
    first, second = 2**32 - 100, (2**32 - 100 + 0xFFFF) % 2**32
    receiver = DigitReceiver()
    packets = [(first, Event(9, False, duration)) for duration in (160, 0x8000, 0xFFFF)]
    packets += [(second, Event(9, False, 160)), (first, Event(9, False, 0xFFFF)), (second, Event(9, True, 14_465))]
    digits = [
        digit
        for number, (timestamp, event) in enumerate(packets)
        for digit in receiver.receive(bytes(event), timestamp, SSRC, number * 0.02)
    ]
    assert digits == [Digit("9", (0xFFFF + 14_465) / 8000)]


def test_flash_and_tones_are_no_keys() -> None:
    receiver = DigitReceiver()
    assert receiver.receive(bytes(Event(16, True, 800)), 0, SSRC, 0.0) == []
    assert receiver.poll(9.9) == []


@given(st.lists(st.tuples(st.binary(max_size=8), st.integers(0, 2**32 - 1), st.integers(0, 3)), max_size=40))
def test_any_bytes_give_keys_or_a_value_error(packets: list[tuple[bytes, int, int]]) -> None:
    receiver = DigitReceiver()
    digits: list[Digit] = []
    for step, (payload, timestamp, ssrc) in zip(itertools.count(), packets, strict=False):
        try:
            digits += receiver.receive(payload, timestamp, ssrc, step * 0.02)
        except ValueError:
            assert len(payload) < 4
    digits += receiver.poll(1e6)
    assert len(digits) <= len(packets)
    assert all(digit.key in KEYS and digit.duration_s >= 0 for digit in digits)
