"""Background work. The only caller of `create_task`, but for each client's connection, which aiohttp ends: a task has a
name, is held, is logged, and ends at shutdown.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
_log = structlog.get_logger("tasks")


class Tasks:
    """The running tasks of one part of the program, awaited together when it closes."""

    __slots__ = ("_closed", "_running")

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own. An exception that nobody awaits is logged, never lost.

        Raises:
            RuntimeError: after `close`.
        """
        if self._closed:
            work.close()
            raise RuntimeError(f"task {name!r} was started after shutdown")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """`start`, for work that nobody waits for."""
        task = self.start(name, work)
        del task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task failed", task=task.get_name(), exc_info=error)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Wait up to `grace_seconds` for what runs, then cancel the rest and wait until it has ended."""
        self._closed = True
        pending = set(self._running)
        if pending and grace_seconds > 0:
            _, pending = await asyncio.wait(pending, timeout=grace_seconds)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
