"""Counts over the last so many seconds, in constant memory."""

import math
from dataclasses import dataclass

from proxy.clock import Clock


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many of `total` events were hits: what counts as a hit is the caller's word."""

    hits: int
    total: int

    @property
    def share(self) -> float | None:
        """Hits per event, 0 to 1; None when there were no events."""
        return self.hits / self.total if self.total else None


class RollingCounts:
    """Events and hits among them over a sliding window.

    A ring of buckets, each stamped with the period it counts: recording touches one bucket and never sweeps, however
    long nothing was recorded. The current, unfinished bucket counts as a whole one, so what is summed reaches back
    between `seconds - bucket_seconds` and `seconds`.

    Args:
        clock: its monotonic time is read at each call.
        window_seconds: the longest span that can be asked for; a multiple of `bucket_seconds`.
        bucket_seconds: the resolution.
    """

    __slots__ = (
        "_bucket_seconds", "_ends", "_hits", "_monotonic", "_periods", "_size", "_slot", "_totals", "window_seconds",
    )  # fmt: skip

    def __init__(self, clock: Clock, *, window_seconds: float = 900.0, bucket_seconds: float = 5.0) -> None:
        if not 0 < bucket_seconds <= window_seconds:
            raise ValueError(f"a window of {window_seconds} s cannot have buckets of {bucket_seconds} s")
        self._monotonic = clock.monotonic
        self._bucket_seconds = bucket_seconds
        self._size = round(window_seconds / bucket_seconds)
        self.window_seconds = window_seconds
        self._hits = [0] * self._size
        self._totals = [0] * self._size
        self.clear()

    def record(self, hit: bool, count: int = 1) -> None:
        """Count `count` events that happened now. Constant time."""
        now = self._monotonic()
        if now >= self._ends:
            self._turn(now)
        slot = self._slot
        self._totals[slot] += count
        if hit:
            self._hits[slot] += count

    def _turn(self, now: float) -> None:
        """Make the bucket ready that counts the period around `now`."""
        period = int(now / self._bucket_seconds)
        slot = self._slot = period % self._size
        self._ends = (period + 1) * self._bucket_seconds
        if self._periods[slot] != period:
            self._periods[slot] = period
            self._hits[slot] = self._totals[slot] = 0

    def over(self, seconds: float | None = None) -> Ratio:
        """The counts of the last `seconds`, by default of the whole window, rounded up to whole buckets.

        Raises:
            ValueError: the span is longer than the window.
        """
        span = self.window_seconds if seconds is None else seconds
        if not 0 < span <= self.window_seconds:
            raise ValueError(f"a window of {self.window_seconds} s knows nothing of the last {span} s")
        newest = int(self._monotonic() / self._bucket_seconds)
        oldest = newest - min(self._size, -int(-span // self._bucket_seconds)) + 1
        hits = total = 0
        for slot, period in enumerate(self._periods):
            if oldest <= period <= newest:
                hits += self._hits[slot]
                total += self._totals[slot]
        return Ratio(hits, total)

    def clear(self) -> None:
        """Forget everything."""
        self._periods = [-1] * self._size
        self._slot = 0
        self._ends = -math.inf  # of the current bucket's period, in monotonic seconds
