"""Takes a failing second tier out of the path until a probe succeeds."""

from dataclasses import dataclass
from enum import Enum

import structlog

from proxy.clock import Clock

_log = structlog.get_logger("storage")


class TierState(Enum):
    """Whether a tier is in the path."""

    UP = "up"
    DOWN = "down"


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
    """Opens after some failures in a row, closes on a success. No request is risked to find out: the tier probes.

    Args:
        name: of what it guards, for the log.
        max_failures: so many in a row open it.

    Attributes:
        closed: calls may be made.
        opened: how often it opened.
    """

    __slots__ = (
        "_clock", "_failures", "_last_error", "_last_error_at", "_last_latency", "_max_failures", "_name", "_since",
        "closed", "opened",
    )  # fmt: skip

    def __init__(self, name: str, clock: Clock, *, max_failures: int) -> None:
        self._name = name
        self._clock = clock
        self._max_failures = max_failures
        self._failures = 0
        self._since = clock.wall()
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        self._last_latency: float | None = None
        self.closed = True
        self.opened = 0

    def succeeded(self, latency_seconds: float) -> None:
        """A call, or a probe, came back in time."""
        self._failures = 0
        self._last_latency = latency_seconds
        if not self.closed:
            self.closed = True
            self._since = self._clock.wall()
            _log.info("the second tier is back", tier=self._name)

    def failed(self, error: str, *, fatal: bool = False) -> None:
        """A call, or a probe, failed or took too long.

        Args:
            fatal: one such failure is enough.
        """
        self._failures += 1
        self.note(error)
        if self.closed and (fatal or self._failures >= self._max_failures):
            self.closed = False
            self.opened += 1
            self._since = self._clock.wall()
            _log.error("the second tier is left out until it works again", tier=self._name, error=error)

    def note(self, error: str) -> None:
        """Something went wrong that does not count against the tier."""
        self._last_error = error
        self._last_error_at = self._clock.wall()

    def health(self) -> TierHealth:
        """The state, and what led to it."""
        state = TierState.UP if self.closed else TierState.DOWN
        return TierHealth(state, self._since, self._last_error, self._last_error_at, self._last_latency)
