"""Who is admitted, by made-up times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.admission import LIMIT_S, Admission, Costs, chunk_size, row_counts


def measured(
    times: dict[int, float], rows: int = 64, chunk_s: float = 0.0, limit_s: float | None = LIMIT_S
) -> Admission:
    admission = Admission(rows, limit_s)
    for count, seconds in times.items():
        admission.ticks.measured(count, seconds)
    admission.chunks.measured(1, chunk_s)
    return admission


def test_between_what_was_seen_times_lie_on_a_line_and_never_fall() -> None:
    costs = Costs(64)
    assert costs.of(5) == 0
    costs.measured(4, 0.010)
    assert costs.of(1) == 0.010 and costs.of(8) == pytest.approx(0.020)
    costs.measured(8, 0.018)
    costs.measured(16, 0.012)  # odd, but it may have been measured so
    assert [costs.of(count) for count in (0, 4, 6, 8, 12, 16)] == pytest.approx([0, 0.010, 0.014, 0.018, 0.018, 0.018])
    assert costs.of(32) == pytest.approx(0.024)


def test_an_estimate_follows_what_it_sees_up_faster_than_down_and_not_below_what_was_measured() -> None:
    costs = Costs(4)
    costs.measured(2, 0.010)
    for _ in range(100):
        costs.saw(2, 0.002)
    assert costs.of(2) == 0.010
    for _ in range(60):
        costs.saw(2, 0.014)
    risen = costs.of(2)
    assert risen == pytest.approx(0.014, rel=0.01)
    costs.saw(2, 0.010)
    assert 0.0139 < costs.of(2) < risen
    costs = Costs(4)
    costs.saw(3, 0.030)
    assert costs.of(3) == 0.030  # nothing was ever measured: what was seen first


@pytest.mark.parametrize("rows", [1, 3, 5, 8])
def test_one_hiccup_is_not_what_a_tick_takes(rows: int) -> None:
    """Also of counts that are not measured: the line between others is their estimate."""
    costs = Costs(8)
    for count in (1, 2, 4, 8):
        costs.measured(count, 0.010 * count)
    costs.saw(rows, 3.0)
    assert costs.of(rows) == pytest.approx(0.011 * rows)
    for _ in range(1_000):
        costs.saw(rows, 0.001)
    assert costs.of(rows) == pytest.approx(0.010 * rows)


def test_a_slow_minute_does_not_shut_calls_out_for_good() -> None:
    """Who is refused because so many were slow is never seen; that fewer are quick again tells."""
    admission = measured({1: 0.004, 2: 0.006, 4: 0.010, 8: 0.018, 16: 0.030}, 16)
    for _ in range(100):
        admission.ticks.saw(16, 0.200)
        admission.ticks.saw(13, 0.200)
    assert not admission.admits(13)
    for _ in range(200):
        admission.ticks.saw(8, 0.018)
    assert not admission.admits(16)
    for _ in range(5_000):
        admission.ticks.saw(8, 0.018)
    assert admission.most() == 16


def test_while_fewer_are_as_slow_larger_counts_stay_shut_out() -> None:
    admission = measured({1: 0.004, 8: 0.018, 16: 0.030}, 16)
    for _ in range(100):
        admission.ticks.saw(16, 0.060)
    for _ in range(5_000):
        admission.ticks.saw(8, 0.036)
    assert admission.ticks.of(16) == pytest.approx(0.060, rel=0.01) and not admission.admits(16)


def test_most_of_what_is_seen_lies_below_the_estimate() -> None:
    costs = Costs(1)
    costs.measured(1, 0.001)
    times = [0.010 + 0.001 * (number * 7 % 10) for number in range(2_000)]  # 10 to 19 ms, evenly
    for seconds in times:
        costs.saw(1, seconds)
    assert 0.75 < sum(seconds <= costs.of(1) for seconds in times) / len(times) < 0.9


def test_a_frame_waits_for_a_tick_and_a_chunk_and_then_for_its_own_tick() -> None:
    """Of the ticks' two shares of the rows, the worst: here 10 ms each, and 1 ms a row."""
    admission = measured({1: 0.011, 64: 0.074}, chunk_s=0.008)
    assert admission.wait_s(10) == pytest.approx(0.020 + 0.010 + 0.008)
    assert [admission.admits(rows) for rows in (1, 36, 37)] == [True, True, False]


def test_what_a_lone_row_takes_is_one_tick() -> None:
    assert measured({1: 0.060}).wait_s(1) == pytest.approx(0.060)
    assert not measured({1: 0.070}).admits(1)


def test_slower_than_measured_admits_fewer_and_no_limit_admits_all() -> None:
    admission = measured({1: 0.010, 8: 0.020, 16: 0.030})
    assert admission.admits(16)
    for _ in range(100):
        admission.ticks.saw(8, 0.040)
    assert not admission.admits(16) and admission.admits(4)
    assert measured({1: 9.0}, limit_s=None).admits(64)


def test_ears_take_what_a_tick_takes_beyond_its_rows() -> None:
    admission = measured({1: 0.010, 4: 0.020})
    admission.saw(4, 4, 0.032)
    assert admission.ears.of(4) == pytest.approx(0.012) and admission.ticks.of(4) == pytest.approx(0.020)
    before = admission.ticks.of(2)
    admission.saw(2, 0, 0.030)  # without ears it is the rows'
    assert admission.ticks.of(2) == pytest.approx(1.1 * before) and admission.ears.of(4) == pytest.approx(0.012)
    admission.saw(4, 4, 0.0)
    assert 0 < admission.ears.of(4) < 0.012


def test_ears_give_way_before_a_call_does() -> None:
    """Of 8 rows two ticks take 41 ms in the worst case, and so many ears as long; four of them 21 ms, five 27."""
    admission = measured({1: 0.006, 4: 0.020, 8: 0.040})
    for count, seconds in ((1, 0.006), (4, 0.020), (8, 0.040)):
        admission.ears.measured(count, seconds)
    assert [admission.most_ears(rows) for rows in (1, 4, 6, 8)] == [1, 4, 6, 4]
    assert admission.admits(8, 4) and not admission.admits(8, 5)
    assert admission.wait_s(8, 4) == pytest.approx(0.006 + 0.035 + 0.006 + 0.0153, abs=0.0001)


@given(st.dictionaries(st.integers(1, 40), st.floats(1e-4, 0.1), max_size=8), st.integers(0, 45))
def test_what_a_count_takes_lies_between_its_neighbours_and_never_falls(seen: dict[int, float], most: int) -> None:
    costs = Costs(40)
    for count, seconds in seen.items():
        costs.measured(count, seconds)
    takes = costs.up_to(most)
    assert takes == sorted(takes) and takes[0] == 0 and len(takes) == most + 1
    for count in range(1, most + 1):
        less, more = [at for at in seen if at <= count], [at for at in seen if at >= count]
        least = max((seen[at] for at in less), default=0.0)
        if not seen or not less or count in seen:
            expected = least or (seen[min(more)] if more else 0.0)
        elif not more:
            expected = max(least, seen[max(less)] * count / max(less))
        else:
            (below, above) = max(less), min(more)
            share = (count - below) / (above - below)
            expected = max(least, seen[below] + share * (seen[above] - seen[below]))
        assert takes[count] == pytest.approx(expected)


def test_of_many_rows_as_many_have_an_ear_as_a_count_of_each_would_find() -> None:
    admission = measured({count: 0.0002 * count for count in range(1, 129)}, 128)
    for count in range(1, 129):
        admission.ears.saw(count, 0.0001 * count)
    for rows in (1, 60, 128):
        each = [ears for ears in range(rows + 1) if admission.admits(rows, ears)]
        assert admission.most_ears(rows) == max(each, default=0)


def test_without_a_limit_every_row_may_have_an_ear_and_where_none_fits_none_may() -> None:
    assert measured({1: 9.0}, limit_s=None).most_ears(7) == 7
    assert measured({1: 9.0}).most_ears(1) == 0


def test_a_prime_chunk_is_as_long_as_a_quarter_of_the_limit_allows() -> None:
    costs = {16: 0.004, 32: 0.007, 64: 0.015, 128: 0.031}
    assert chunk_size(costs, 0.064) == 64
    assert chunk_size(costs, 0.2) == 128
    assert chunk_size(costs, 0.001) == 16


@pytest.mark.parametrize(
    ("rows", "counts"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (20, [1, 2, 4, 8, 12, 16, 20]), (64, [1, 2, 4, 8, 12, 16, 24, 32, 48, 64])],
)
def test_counts_that_are_prepared_end_with_all_rows(rows: int, counts: list[int]) -> None:
    assert row_counts(rows) == counts
    assert row_counts(200)[-3:] == [160, 192, 200]
