"""What asyncio's task groups leave to be done by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[None, None, None]) -> None:
    """Await `work` though we may be cancelled meanwhile, so that a record is closed whole; then be cancelled."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def first_of(*awaited: Awaitable[T]) -> T:
    """What the first to be done gives or raises; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception in a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
