"""How the upstream is, as seen from here."""

from enum import Enum
from typing import Final

import structlog

from proxy.clock import Clock

FAILURES_IN_A_ROW: Final = 3
"""So many requests that got a connection and no response mean that the upstream is down."""

_log = structlog.get_logger("upstream")


class UpstreamState(Enum):
    """Whether requests get an answer."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class UpstreamHealth:
    """Learns from every request; changes of state are logged once.

    Attributes:
        state, since: since that wall time.
        last_error, last_error_at: the last failure, over or not.
        last_latency_seconds: of the last response's head.
    """

    __slots__ = ("_clock", "_failures", "_url", "last_error", "last_error_at", "last_latency_seconds", "since", "state")

    def __init__(self, clock: Clock, url: str) -> None:
        self._clock = clock
        self._url = url
        self._failures = 0
        self.state = UpstreamState.UNKNOWN
        self.since = clock.wall()
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        self.last_latency_seconds: float | None = None

    def succeeded(self, latency_seconds: float) -> None:
        """A response's head arrived."""
        self.last_latency_seconds = latency_seconds
        self._failures = 0
        if self.state is not UpstreamState.UP:
            if self.state is UpstreamState.DOWN:
                _log.info("upstream is back", url=self._url, seconds=round(self._clock.wall() - self.since, 1))
            self._turn(UpstreamState.UP)

    def failed(self, detail: str, *, reached: bool = False) -> None:
        """There was no response.

        Args:
            reached: there was a connection. One slow or broken answer is not the upstream's end; several in a row are.
        """
        self.last_error = detail
        self.last_error_at = self._clock.wall()
        self._failures += 1
        if reached and self._failures < FAILURES_IN_A_ROW:
            return
        if self.state is not UpstreamState.DOWN:
            _log.warning("upstream is down", url=self._url, error=detail)
            self._turn(UpstreamState.DOWN)

    def _turn(self, state: UpstreamState) -> None:
        self.state = state
        self.since = self._clock.wall()
