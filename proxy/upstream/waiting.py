"""Waiting on a connection, with a time-out that costs next to nothing when it does not run out.

Theory of operation. A wait is one future. Its time-out is a number that the wait sets; the event loop's timer is left
running from one wait to the next, and looks at that number only when it goes off: early, it sets itself anew. Setting
and cancelling a timer for each wait took 4 µs of a request's 100.
"""

import asyncio


class Signal:
    """Wakes the one coroutine that waits for a change. Not for several at a time."""

    __slots__ = ("_at_seconds", "_deadline_seconds", "_timer", "_waiter")

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._deadline_seconds = 0.0  # of the newest wait, by the event loop's time
        self._timer: asyncio.TimerHandle | None = None
        self._at_seconds = 0.0  # when the timer goes off

    def wait(self, timeout_seconds: float | None) -> asyncio.Future[None]:
        """What to await until the next `give`.

        Args:
            timeout_seconds: then the future ends with `TimeoutError`; None: it waits for ever.
        """
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        if timeout_seconds is not None:
            deadline = self._deadline_seconds = loop.time() + timeout_seconds
            if self._timer is None or self._at_seconds > deadline:
                self._arm(loop)
        else:
            self._deadline_seconds = float("inf")
        return waiter

    def give(self) -> None:
        """Something changed."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def end(self) -> None:
        """Something changed, for the last time: the timer is let go."""
        self.give()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at_seconds = self._deadline_seconds
        self._timer = loop.call_at(self._at_seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done() or self._deadline_seconds == float("inf"):
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._deadline_seconds:
            self._arm(loop)
        else:
            waiter.set_exception(TimeoutError())
