"""Rows, waiting frames, and what the device does next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler import CATCH_UP_FRAMES, STEPPABLE, TABLE, Chunk, Event, RowState, Scheduler, Tick


def scheduler(rows: int = 4, live: int = 0, shadows: int = 2) -> Scheduler[str, str]:
    """With rows 0 to `live` - 1 LIVE."""
    made: Scheduler[str, str] = Scheduler(rows, shadows)
    for row in range(live):
        for event in (Event.PRIME, Event.PRIMED, Event.STEP):
            drive(row, made, event)
    return made


def drive(row: int, scheduler: Scheduler[str, str], event: Event) -> None:
    """Bring `event` about."""
    match event:
        case Event.PRIME:
            scheduler.prime(row, "columns")
        case Event.PRIMED:
            scheduler.primed(row)
        case Event.STEP:
            scheduler.step(row, "frame")
            while not isinstance(scheduler.next(), Tick):
                pass
        case Event.FREE:
            scheduler.free(row)
        case Event.FAIL:
            scheduler.fail(row)


def chunks(scheduler: Scheduler[str, str], most: int, before: Sequence[str] = ()) -> list[str]:
    """What ran `before`, and next while nobody speaks; of a prime as many chunks as the number at its end says."""
    ran = list(before)
    while len(ran) < len(before) + most and (work := scheduler.next()) is not None:
        assert isinstance(work, Chunk)
        ran.append(work.prime)
        if ran.count(work.prime) == int(work.prime[-1]):
            scheduler.primed(work.row)
    return ran


WAYS: dict[RowState, list[Event]] = {
    RowState.FREE: [],
    RowState.PRIMING: [Event.PRIME],
    RowState.READY: [Event.PRIME, Event.PRIMED],
    RowState.LIVE: [Event.PRIME, Event.PRIMED, Event.STEP],
    RowState.RENEWING: [Event.PRIME, Event.PRIMED, Event.STEP, Event.PRIME],
    RowState.FAILED: [Event.FAIL],
}


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(RowState, [event for event in Event if event is not Event.STEP]))
)
def test_every_cell_of_the_table(state: RowState, event: Event) -> None:
    made = scheduler(rows=1)
    for step in WAYS[state]:
        drive(0, made, step)
    assert made.state(0) is state
    if (state, event) in TABLE:
        drive(0, made, event)
        assert made.state(0) is TABLE[state, event]
    else:
        with pytest.raises(ValueError, match=f"row 0 is {state.value}: {event.value} is refused"):
            drive(0, made, event)
        assert made.state(0) is state


@pytest.mark.parametrize("state", STEPPABLE)
def test_a_step_moves_a_row_on(state: RowState) -> None:
    made = scheduler(rows=1)
    for event in (*WAYS[state], Event.STEP):
        drive(0, made, event)
    assert made.state(0) is TABLE[state, Event.STEP]


def test_what_is_not_primed_is_not_stepped() -> None:
    assert {state for state, event in TABLE if event is Event.STEP} == set(STEPPABLE)


def test_a_row_that_fails_gives_back_what_waited_and_runs_no_more() -> None:
    made = scheduler(rows=3, live=2)
    made.step(0, "a frame")
    made.prime(1, "more")
    made.step(1, "another")
    assert made.fail(1) == ("another", "more")
    assert made.next() == Tick(("a frame",))
    assert made.fail(0) == (None, None)
    assert made.fail(2) == (None, None)
    assert made.next() is None
    for row in range(3):
        with pytest.raises(ValueError, match=f"row {row} is failed: nobody steps it"):
            made.step(row, "a frame")
    made.free(1)
    made.prime(1, "new")
    assert made.next() == Chunk(1, "new")


def test_nothing_waits_at_first() -> None:
    assert scheduler().next() is None
    assert scheduler(live=2).next() is None


def test_a_tick_holds_every_row_that_has_a_frame_in_row_order() -> None:
    made = scheduler(live=4)
    for row in (3, 0, 2):
        made.step(row, f"frame {row}")
    assert made.next() == Tick(("frame 0", "frame 2", "frame 3"))
    assert made.next() is None


def test_a_frame_waits_until_its_row_is_primed() -> None:
    made = scheduler(live=1)
    made.prime(1, "prompt")
    made.step(1, "frame")
    assert [made.next(), made.next()] == [Chunk(1, "prompt")] * 2
    assert made.state(1) is RowState.PRIMING
    made.primed(1)
    assert made.state(1) is RowState.READY
    assert made.next() == Tick(("frame",))
    assert made.state(1) is RowState.LIVE


def test_a_frame_does_not_wait_until_its_row_is_renewed() -> None:
    made = scheduler(live=2)
    made.prime(1, "prompt")
    for frame in ("one", "two"):
        made.step(1, frame)
        assert [made.next(), made.next()] == [Chunk(1, "prompt"), Tick((frame,))]
        assert made.state(1) is RowState.RENEWING
    made.primed(1)
    assert made.state(1) is RowState.LIVE
    assert made.next() is None


def test_at_most_one_chunk_runs_between_two_ticks() -> None:
    made = scheduler(live=1)
    made.prime(1, "a 3")
    made.prime(2, "b 1")
    order: list[str] = []
    for frame in range(6):
        made.step(0, f"frame {frame}")
        if frame < 4:
            order = chunks(made, 1, order)
        assert made.next() == Tick((f"frame {frame}",))
    assert order == ["a 3", "a 3", "a 3", "b 1"]


def test_chunks_run_back_to_back_while_nobody_speaks() -> None:
    made = scheduler(live=1)
    made.prime(1, "a 3")
    assert chunks(made, 10) == ["a 3"] * 3
    assert made.next() is None


def test_who_came_first_is_primed_first() -> None:
    made = scheduler()
    made.prime(2, "a 2")
    made.prime(0, "c 1")
    assert chunks(made, 10) == ["a 2", "a 2", "c 1"]


def test_two_rows_are_renewed_at_once_and_a_third_waits_for_one_of_them() -> None:
    made = scheduler(live=4)
    for row, prime in enumerate(["a 3", "b 2", "c 2", "d 1"]):
        made.prime(row, prime)
    assert chunks(made, 20) == ["a 3", "b 2", "a 3", "b 2", "a 3", "c 2", "d 1", "c 2"]


def ticks(scheduler: Scheduler[str, str], row: int, count: int) -> None:
    """So many steps of `row`, and no more chunks than there are."""
    for _ in range(count):
        scheduler.step(row, "frame")
        while not isinstance(scheduler.next(), Tick):
            pass


def test_of_those_who_wait_for_a_shadow_who_must_be_done_the_soonest_is_the_next() -> None:
    made = scheduler(live=4, shadows=1)
    for row, (prime, left) in enumerate([("a 1", 9), ("b 1", 8), ("c 1", 3), ("d 1", 5)]):
        made.prime(row, prime, left)
    assert chunks(made, 20) == ["a 1", "c 1", "d 1", "b 1"]


def test_of_a_renewal_that_is_held_nothing_runs_until_it_is_resumed_and_then_it_is_the_next() -> None:
    made = scheduler(rows=8, live=2)
    made.prime(0, "held", 100)
    assert made.next() == Chunk(0, "held")
    made.hold(0)
    assert (made.next(), made.held) == (None, [0])
    ticks(made, 0, 3)
    assert made.next() is None
    made.prime(1, "b 9")
    made.prime(2, "new 9")
    assert sorted(chunks(made, 2)) == ["b 9", "new 9"]
    made.resume(0)
    assert (made.next(), made.held) == (Chunk(0, "held"), [])
    made.primed(0)
    assert made.state(0) is RowState.LIVE
    assert sorted(chunks(made, 2)) == ["b 9", "new 9"]


def test_a_renewal_that_is_held_catches_up_now_and_then() -> None:
    made = scheduler(live=1)
    made.prime(0, "held", 100)
    made.next()
    made.hold(0)
    ticks(made, 0, CATCH_UP_FRAMES - 1)
    assert made.next() is None
    ticks(made, 0, 1)
    assert made.next() == Chunk(0, "held")
    made.hold(0)
    assert made.next() is None


def test_a_row_whose_time_is_up_waits_for_no_pause_of_those_who_have_the_shadows() -> None:
    """Three rows: two have shadows, and wait for pauses that do not come; the third must be done before them."""
    made = scheduler(live=3)
    for row, left in enumerate([20, 9, 5]):
        made.prime(row, f"{row}", left)
    for _ in range(2):
        work = made.next()
        assert isinstance(work, Chunk)
        made.hold(work.row)
    assert made.held == [1, 0]  # who must be done the soonest is the first
    ticks(made, 2, 4)
    assert not made.must_end(0) and not made.must_end(1)
    ticks(made, 2, 1)
    assert made.must_end(1) and not made.must_end(0)
    made.resume(1)
    assert made.next() == Chunk(1, "1")
    made.primed(1)
    assert made.next() == Chunk(2, "2")
    assert made.must_end(2) and not made.must_end(0)
    ticks(made, 0, 20)
    assert made.must_end(0)


@pytest.mark.parametrize("event", [Event.FREE, Event.FAIL])
def test_a_row_that_ends_gives_its_shadow_to_who_waits(event: Event) -> None:
    made = scheduler(live=3)
    for row, prime in enumerate(["a 9", "b 9", "c 1"]):
        made.prime(row, prime)
    assert chunks(made, 2) == ["a 9", "b 9"]
    drive(0, made, event)
    assert sorted(chunks(made, 2)) == ["b 9", "c 1"]


def test_who_is_put_through_waits_for_no_renewal_and_a_renewal_for_every_other_once() -> None:
    made = scheduler(rows=8, live=2)
    made.prime(0, "a 3")
    made.prime(1, "b 3")
    for row in range(2, 8):
        made.prime(row, f"new {row} 1")
    ran = chunks(made, 20)
    for renewed in ("a 3", "b 3"):
        places = [place for place, prime in enumerate(ran) if prime == renewed]
        assert max(late - early for early, late in itertools.pairwise([-1, *places])) <= 3
    assert all(ran.index(f"new {2 + place} 1") <= 3 * place + 2 for place in range(6))


@pytest.mark.parametrize("live", [0, 1])
def test_a_new_prompt_replaces_what_is_left_of_the_last(live: int) -> None:
    made = scheduler(live=live)
    assert made.prime(0, "old 2") is None
    made.next()
    assert made.prime(0, "new 1") == "old 2"
    assert chunks(made, 10) == ["new 1"]


def test_a_step_that_was_given_up_is_replaced_and_returned() -> None:
    made = scheduler(live=1)
    assert made.step(0, "given up") is None
    assert made.step(0, "next") == "given up"
    assert made.next() == Tick(("next",))


def test_what_waits_for_a_freed_row_is_dropped() -> None:
    made = scheduler(live=2)
    made.step(0, "frame")
    assert made.free(0) is None
    made.prime(1, "columns")
    assert made.free(1) == "columns"
    assert made.next() is None
    made.prime(0, "columns")
    made.next()
    made.primed(0)
    assert made.next() is None  # the next conversation does not get the last one's frame


def test_a_free_row_is_not_stepped() -> None:
    with pytest.raises(ValueError, match="row 1 is free"):
        scheduler(live=1).step(1, "frame")


EVENTS = st.lists(
    st.tuples(st.sampled_from(["prime", "step", "step", "free", "next", "next", "primed"]), st.integers(0, 4)),
    max_size=80,
)


@given(EVENTS)
def test_no_frame_is_lost_nor_run_twice_nor_kept_waiting_by_more_than_a_chunk(events: list[tuple[str, int]]) -> None:
    made: Scheduler[int, str] = Scheduler(5, 2)
    waiting: dict[int, int] = {}
    begun: set[int] = set()  # rows that a shadow is taken for
    chunks = 0  # since the last tick, while a frame waited for a row that is primed
    for number, (event, row) in enumerate(events):
        free = made.state(row) is RowState.FREE
        if event == "prime":
            made.prime(row, "a prompt")
        elif event == "step" and not free:
            assert made.step(row, number) == waiting.get(row)
            waiting[row] = number
        elif event == "free" and not free:
            made.free(row)
            waiting.pop(row, None)
        elif event == "primed" and (row in begun or made.state(row) is RowState.PRIMING):
            made.primed(row)
        elif event == "next":
            ready = {row: step for row, step in waiting.items() if made.state(row) in STEPPABLE}
            work = made.next()
            if isinstance(work, Tick):
                assert set(work.steps) == set(ready.values())
                for done in ready:
                    del waiting[done]
                chunks = 0
            elif ready:
                chunks += 1
                assert isinstance(work, Chunk)
                assert chunks == 1
            if isinstance(work, Chunk) and made.state(work.row) is RowState.RENEWING:
                begun.add(work.row)
        begun = {row for row in begun if made.state(row) is RowState.RENEWING}
        assert len(begun) <= 2
    assert (made.next() is None) == all(
        made.state(row) in (RowState.FREE, RowState.READY, RowState.LIVE)
        and not (made.state(row) in STEPPABLE and row in waiting)
        for row in range(5)
    )
