"""Cancelled or not, what was begun is brought to its end."""

from __future__ import annotations

import asyncio

import pytest

from voipagent.tasks import first_error, first_of, to_the_end


async def test_work_is_done_though_we_are_cancelled_meanwhile() -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        done.set()

    task = asyncio.create_task(to_the_end(work()))
    async with asyncio.timeout(5):
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert done.is_set()


async def test_what_fails_in_it_is_raised() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await to_the_end(work())


async def test_the_others_have_left_when_the_first_is_done() -> None:
    left = asyncio.Event()

    async def first() -> str:
        return "first"

    async def other() -> str:
        try:
            return await asyncio.Future[str]()
        finally:
            left.set()

    assert await first_of(other(), first()) == "first"
    assert left.is_set()


def test_the_first_error_in_groups_of_groups() -> None:
    first, other = ValueError("a"), KeyError("b")
    assert first_error(BaseExceptionGroup("", [ExceptionGroup("", [first]), other])) is first
