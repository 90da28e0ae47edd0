"""What asyncio's task groups leave to be done by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def to_the_end(work: Coroutine[None, None, None]) -> None:
    """Await `work` though we may be cancelled meanwhile, so that a record is closed whole; then be cancelled."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception in a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
