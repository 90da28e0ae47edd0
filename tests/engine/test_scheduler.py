"""Rows, waiting frames, and what the device does next."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler import TABLE, Chunk, Event, RowState, Scheduler, Tick


def scheduler(rows: int = 4, live: int = 0) -> Scheduler[str, str]:
    """With rows 0 to `live` - 1 LIVE."""
    made: Scheduler[str, str] = Scheduler(rows)
    for row in range(live):
        made.prime(row, ["columns"])
        made.next()
    return made


def drive(row: int, scheduler: Scheduler[str, str], event: Event) -> None:
    """Bring `event` about."""
    if event is Event.PRIME:
        scheduler.prime(row, ["columns"])
    elif event is Event.FREE:
        scheduler.free(row)
    elif event is Event.FAIL:
        scheduler.fail(row)
    else:
        assert isinstance(scheduler.next(), Chunk)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(RowState, [Event.PRIME, Event.FAIL, Event.FREE])))
def test_every_cell_of_the_table(state: RowState, event: Event) -> None:
    made = scheduler(rows=1)
    ways: dict[RowState, list[Event]] = {
        RowState.FREE: [],
        RowState.PRIMING: [Event.PRIME],
        RowState.LIVE: [Event.PRIME, Event.PRIMED],
        RowState.FAILED: [Event.FAIL],
    }
    for step in ways[state]:
        drive(0, made, step)
    assert made.state(0) is state
    if (state, event) in TABLE:
        drive(0, made, event)
        assert made.state(0) is TABLE[state, event]
    else:
        with pytest.raises(ValueError, match=f"row 0 is {state.value}: {event.value} is refused"):
            drive(0, made, event)
        assert made.state(0) is state


def test_only_a_priming_row_is_ever_primed() -> None:
    assert [cell for cell in TABLE if cell[1] is Event.PRIMED] == [(RowState.PRIMING, Event.PRIMED)]


def test_a_row_that_fails_gives_back_what_waited_and_runs_no_more() -> None:
    made = scheduler(rows=3, live=2)
    made.step(0, "a frame")
    made.prime(1, ["more", "columns"])
    made.step(1, "another")
    assert made.fail(1) == ("another", ("more", "columns"))
    assert made.next() == Tick(("a frame",))
    assert made.fail(0) == (None, ())
    assert made.fail(2) == (None, ())
    assert made.next() is None
    for row in range(3):
        with pytest.raises(ValueError, match=f"row {row} is failed: nobody steps it"):
            made.step(row, "a frame")
    made.free(1)
    made.prime(1, ["new"])
    assert made.next() == Chunk(1, "new", last=True)


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
    made.prime(1, ["first", "second"])
    made.step(1, "frame")
    assert made.next() == Chunk(1, "first", last=False)
    assert made.state(1) is RowState.PRIMING
    assert made.next() == Chunk(1, "second", last=True)
    assert made.state(1) is RowState.LIVE
    assert made.next() == Tick(("frame",))


def test_at_most_one_chunk_runs_between_two_ticks() -> None:
    made = scheduler(live=1)
    made.prime(1, ["1", "2", "3"])
    made.prime(2, ["4"])
    order = []
    for frame in range(6):
        made.step(0, f"frame {frame}")
        while (work := made.next()) is not None and not isinstance(work, Tick):
            order.append(work.columns)
            assert len(order) <= frame + 1
        assert work == Tick((f"frame {frame}",))
    assert order == ["1", "2", "3", "4"]


def test_chunks_run_back_to_back_while_nobody_speaks() -> None:
    made = scheduler(live=1)
    made.prime(1, ["1", "2", "3"])
    assert [made.next() for _ in range(4)] == [Chunk(1, "1", False), Chunk(1, "2", False), Chunk(1, "3", True), None]


def test_who_came_first_is_primed_first() -> None:
    made = scheduler()
    made.prime(2, ["a", "b"])
    made.prime(0, ["c"])
    works = [made.next() for _ in range(3)]
    assert [(work.row, work.columns) for work in works if isinstance(work, Chunk)] == [(2, "a"), (2, "b"), (0, "c")]


def test_a_new_prompt_replaces_what_is_left_of_the_last() -> None:
    made = scheduler()
    made.prime(0, ["old 1", "old 2"])
    made.next()
    made.prime(0, ["new"])
    assert made.next() == Chunk(0, "new", last=True)
    assert made.next() is None


def test_a_step_that_was_given_up_is_replaced_and_returned() -> None:
    made = scheduler(live=1)
    assert made.step(0, "given up") is None
    assert made.step(0, "next") == "given up"
    assert made.next() == Tick(("next",))


def test_what_waits_for_a_freed_row_is_dropped() -> None:
    made = scheduler(live=2)
    made.step(0, "frame")
    made.free(0)
    made.prime(1, ["columns"])
    made.free(1)
    assert made.next() is None
    made.prime(0, ["columns"])
    made.next()
    assert made.next() is None  # the next conversation does not get the last one's frame


def test_a_free_row_is_not_stepped() -> None:
    with pytest.raises(ValueError, match="row 1 is free"):
        scheduler(live=1).step(1, "frame")


def test_a_prime_without_chunks_is_refused() -> None:
    made = scheduler()
    with pytest.raises(ValueError, match="at least one chunk"):
        made.prime(0, [])
    assert made.state(0) is RowState.FREE


@given(st.lists(st.tuples(st.sampled_from(["prime", "step", "free", "next"]), st.integers(0, 2)), max_size=60))
def test_no_frame_is_lost_nor_run_twice_nor_kept_waiting_by_more_than_a_chunk(events: list[tuple[str, int]]) -> None:
    made: Scheduler[int, str] = Scheduler(3)
    waiting: dict[int, int] = {}
    chunks = 0  # since the last tick, while a frame waited for a LIVE row
    for number, (event, row) in enumerate(events):
        free = made.state(row) is RowState.FREE
        if event == "prime":
            made.prime(row, ["a", "b"])
        elif event == "step" and not free:
            assert made.step(row, number) == waiting.get(row)
            waiting[row] = number
        elif event == "free" and not free:
            made.free(row)
            waiting.pop(row, None)
        elif event == "next":
            ready = {row: step for row, step in waiting.items() if made.state(row) is RowState.LIVE}
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
