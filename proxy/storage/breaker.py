"""Takes a failing second tier out of the path, and tries it again from time to time."""

import math
from dataclasses import dataclass
from enum import Enum

from proxy.clock import Clock


class TierState(Enum):
    """Whether a tier is in the path."""

    UP = "up"
    DOWN = "down"
    PROBING = "probing"  # one call is let through to see


@dataclass(frozen=True, slots=True)
class TierHealth:
    """What the admin port shows of a tier.

    Attributes:
        since: wall seconds when the state began.
        last_error: the text of the last failure, whether or not the tier is up again; None: there was none.
        last_error_at: wall seconds.
        last_latency_seconds: of the last call that succeeded.
    """

    state: TierState
    since: float
    last_error: str | None = None
    last_error_at: float | None = None
    last_latency_seconds: float | None = None


class Breaker:
    """Opens after some consecutive failures; after a pause lets one probe through; closes on the first success.

    Args:
        max_failures: consecutive ones that open it.
        retry_seconds: pause before a probe. A failed probe begins the pause again.

    Attributes:
        opened: how often it opened.
    """

    __slots__ = (
        "_clock", "_failures", "_last_error", "_last_error_at", "_last_latency", "_max_failures", "_retry_at",
        "_retry_seconds", "_since", "_state", "opened",
    )  # fmt: skip

    def __init__(self, clock: Clock, *, max_failures: int, retry_seconds: float) -> None:
        self._clock = clock
        self._max_failures = max_failures
        self._retry_seconds = retry_seconds
        self._failures = 0
        self._state = TierState.UP
        self._since = clock.wall()
        self._retry_at = 0.0
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        self._last_latency: float | None = None
        self.opened = 0

    @property
    def state(self) -> TierState:
        """The state as of the last call."""
        return self._state

    @property
    def closed(self) -> bool:
        """Calls go through, and none of them is a mere probe."""
        return self._state is TierState.UP

    def allows(self) -> bool:
        """Whether a call may be made. True while the breaker is open means: as its probe; the outcome must be told."""
        if self._state is TierState.UP:
            return True
        now = self._clock.monotonic()
        if now < self._retry_at:
            return False
        # The pause begins again with the probe itself, so that a probe whose outcome is never told blocks nothing.
        self._retry_at = now + self._retry_seconds
        self._move(TierState.PROBING)
        return True

    def succeeded(self, latency_seconds: float) -> None:
        """A call came back in time."""
        self._failures = 0
        self._last_latency = latency_seconds
        if self._state is not TierState.UP:
            self._move(TierState.UP)

    def failed(self, error: str) -> None:
        """A call failed or took too long."""
        self._failures += 1
        self._last_error = error
        self._last_error_at = self._clock.wall()
        if self._state is TierState.UP and self._failures < self._max_failures:
            return
        self._retry_at = self._clock.monotonic() + self._retry_seconds
        if self._state is TierState.UP:
            self.opened += 1
        if self._state is not TierState.DOWN:
            self._move(TierState.DOWN)

    def shut(self, error: str) -> None:
        """Let nothing through ever again: what the breaker guards cannot work before a restart."""
        self.failed(error)
        self._move(TierState.DOWN)
        self._retry_at = math.inf

    def health(self) -> TierHealth:
        """The state, and what led to it."""
        return TierHealth(self._state, self._since, self._last_error, self._last_error_at, self._last_latency)

    def _move(self, state: TierState) -> None:
        # Down and probing are one outage to whoever reads `since`.
        if TierState.UP in {state, self._state}:
            self._since = self._clock.wall()
        self._state = state
