"""The time. The only file that reads it; everything else is handed a `Clock` or a number."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: wall time for HTTP dates and what other machines read, monotonic for time-outs and ages in memory."""

    def wall(self) -> float:
        """Seconds since the Unix epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
