"""A time by which something is due."""

import asyncio
from collections.abc import Callable
from math import inf


class Deadline:
    """Calls when its time has come. To put it off costs next to nothing: the event loop's timer is left running, and
    sets itself anew when it is early.

    Args:
        due: called at `at`, and not again before `set`.

    Attributes:
        at: by the event loop's time; it may be moved to later, and is infinite when nothing is due.
    """

    __slots__ = ("_due", "_loop", "_timer", "_timer_at", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        self._loop = loop
        self._due: Callable[[], None] | None = due
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self.at = inf

    def set(self, seconds: float) -> None:
        """Be due in `seconds`."""
        self.at = self._loop.time() + seconds
        if self._timer_at > self.at:
            if self._timer is not None:
                self._timer.cancel()
            self._start()

    def end(self) -> None:
        """Never be due again."""
        self.at = inf
        self._due = None  # it most likely refers to who has this object
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf

    def _start(self) -> None:
        self._timer_at = self.at
        self._timer = self._loop.call_at(self.at, self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, inf
        if self.at == inf or self._due is None:
            return
        if self._loop.time() < self.at:
            self._start()
        else:
            self._due()
