"""Ending a background task for certain."""

import asyncio
from typing import Any, Final

AGAIN_SECONDS: Final = 0.1


async def stop(task: asyncio.Task[Any] | None) -> None:
    """Cancel `task` and wait until it has ended; nothing happens without one.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, which redis-py uses, loses a cancellation that comes at
    the moment when what it waits for is done.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_SECONDS)
