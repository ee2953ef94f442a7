"""A circuit: whether requests go to an upstream that has been failing.

Theory of operation. pybreaker keeps the state machine: the three states, failures in a row, successes while half-open,
and what follows from them. Its own guards are not used, for three reasons: they read the machine's clock, they hold a
thread's lock for as long as the guarded call runs, and they take a call that was abandoned for a success. So a call is
split in two. `admit` hands out a permit, or refuses; when an open circuit is tried again is decided there. The permit's
end is told to pybreaker as a call that is over at once (`succeed`, `fail`), or not at all (`abandon`). A permit belongs
to the state it was given in: what ends after the circuit has moved on says nothing about the state it is in now, and is
ignored.
"""

import contextlib
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final, NoReturn

from typing_extensions import override

from proxy.clock import Clock
from proxy.errors import CircuitOpenError
from proxy.metrics.window import RollingCounts
from proxy.upstream.breaker_library import pybreaker

_WINDOW_BUCKETS: Final = 10
_MAX_DOUBLINGS: Final = 32  # growth ** 32 is far beyond any limit on the time open, and far from a float's


class CircuitState(Enum):
    """The states, in pybreaker's words."""

    CLOSED = pybreaker.STATE_CLOSED
    HALF_OPEN = pybreaker.STATE_HALF_OPEN
    OPEN = pybreaker.STATE_OPEN


# Each call asks for them, and to look a member up in its class takes 0.2 µs.
_CLOSED: Final = CircuitState.CLOSED
_HALF_OPEN: Final = CircuitState.HALF_OPEN
_OPEN: Final = CircuitState.OPEN


@dataclass(frozen=True, slots=True)
class CircuitRules:
    """When a circuit opens and closes.

    Attributes:
        consecutive_failures: opens after so many failures in a row; 0: any number is borne.
        failure_ratio: opens when this share (0 to 1) of the calls in the window failed, seen when one fails.
        window_seconds: the span of the ratio.
        minimum_calls: calls in the window below which the ratio says nothing.
        open_seconds: how long it stays open the first time.
        open_growth: factor on that for each time it opens again without having closed.
        max_open_seconds: limit of that growth.
        jitter: up to this share is added at random, so that many sidecars do not probe at once.
        probes: calls let through at the same time while half-open. One that takes longer than `open_seconds` gives up
            its place, or a client that sends its request slowly could keep the circuit from closing.
        successes_to_close: successes while half-open that close it.
    """

    consecutive_failures: int = 10
    failure_ratio: float = 0.5
    window_seconds: float = 30.0
    minimum_calls: int = 20
    open_seconds: float = 10.0
    open_growth: float = 2.0
    max_open_seconds: float = 120.0
    jitter: float = 0.1
    probes: int = 1
    successes_to_close: int = 2


class Permit:
    """Leave for one call. Ends once: whatever is said of it later is ignored.

    Attributes:
        circuit: that gave it.
        started: monotonic seconds.
    """

    __slots__ = ("circuit", "generation", "settled", "started")

    def __init__(self, circuit: "Circuit", generation: int, started: float) -> None:
        self.circuit = circuit
        self.generation = generation
        self.started = started
        self.settled = False


class _Failed(Exception):  # noqa: N818 — no error of ours: the word in which pybreaker hears of a failure
    pass


def _fail() -> NoReturn:
    raise _Failed


def _succeed() -> None:
    pass


class _Listener(pybreaker.CircuitBreakerListener):
    """Passes transitions on."""

    def __init__(self, moved: Callable[[CircuitState], None]) -> None:
        self._moved = moved

    @override
    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._moved(CircuitState(new_state.name))


class Circuit:
    """One circuit. All methods are synchronous and run on the event loop's thread.

    Args:
        name: for whoever hears of its transitions.
        rules: when it opens and closes.
        clock: its monotonic time drives everything; wall time is only shown.
        rng: source of the jitter.
        on_transition: called after each change with the circuit and the state it was in before.

    Attributes:
        state: where it stands.
        since: wall seconds when it came to stand there.
        retry_at: monotonic seconds until which an open circuit stays open.
        openings: times it opened since it was last closed.
        refused: calls it did not let through.
    """

    def __init__(
        self,
        name: str,
        rules: CircuitRules,
        clock: Clock,
        rng: random.Random,
        on_transition: "Callable[[Circuit, CircuitState], None]",
    ) -> None:
        self.name = name
        self.rules = rules
        self.state = _CLOSED
        self.since = clock.wall()
        self.retry_at = 0.0
        self.openings = 0
        self.refused = 0
        self._clock = clock
        self._monotonic = clock.monotonic
        self._rng = rng
        self._on_transition = on_transition
        self._generation = 0
        self._probes: list[Permit] = []  # under way, of this generation
        self._window = RollingCounts(
            clock, window_seconds=rules.window_seconds, bucket_seconds=rules.window_seconds / _WINDOW_BUCKETS
        )
        self._storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=rules.consecutive_failures or sys.maxsize,
            success_threshold=rules.successes_to_close,
            state_storage=self._storage,
            listeners=[_Listener(self._moved)],
            throw_new_error_on_trip=False,
        )

    def admit(self) -> Permit:
        """Leave for one call that begins now.

        Raises:
            CircuitOpenError: the circuit is open, or half-open with all its probes under way.
        """
        now = self._monotonic()
        if self.state is _OPEN:
            if now < self.retry_at:
                raise self._refusal(self.retry_at - now)
            self._breaker.half_open()
        permit = Permit(self, self._generation, now)
        if self.state is _HALF_OPEN:
            if len(self._probes) >= self.rules.probes:
                self._probes = [probe for probe in self._probes if now - probe.started < self.rules.open_seconds]
            if len(self._probes) >= self.rules.probes:
                raise self._refusal(1.0)
            self._probes.append(permit)
        return permit

    def succeed(self, permit: Permit) -> None:
        """The call went well."""
        if not self._settle(permit):
            return
        if self.state is _CLOSED:
            self._window.record(False)
            if not self._storage.counter:
                return  # nothing to reset: the common case, without pybreaker's lock and listeners
        self._breaker.call(_succeed)

    def is_untroubled(self) -> bool:
        """Whether it is closed, and the last call went well: calls then need no permit, if somebody tallies them."""
        return self.state is _CLOSED and not self._storage.counter

    def tally(self, durations: Sequence[float], _bytes_sent: int) -> None:
        """So many calls went well that had no permit."""
        if self.state is _CLOSED:
            self._window.record(False, len(durations))

    def fail(self, permit: Permit) -> None:
        """The call failed."""
        if not self._settle(permit):
            return
        self._window.record(True)
        with contextlib.suppress(_Failed):
            self._breaker.call(_fail)
        if self.state is _CLOSED and self._ratio_reached():
            self._breaker.open()

    def abandon(self, permit: Permit) -> None:
        """The call ended without telling anything of the upstream."""
        self._settle(permit)

    def retry_after(self) -> int:
        """Whole seconds until an open circuit lets a call through, rounded up; 0 when it is not open."""
        if self.state is not _OPEN:
            return 0
        return max(0, math.ceil(self.retry_at - self._monotonic()))

    def snapshot(self) -> dict[str, object]:
        """Where it stands, in values that JSON can hold."""
        window = self._window.over()
        return {
            "state": self.state.value,
            "since": datetime.fromtimestamp(self.since, UTC).isoformat(),
            "retry_after_seconds": self.retry_after(),
            "openings": self.openings,
            "refused": self.refused,
            "consecutive_failures": self._storage.counter,
            "probes_under_way": len(self._probes),
            "probe_successes": self._storage.success_counter,
            "window": {"calls": window.total, "failures": window.hits, "failure_ratio": window.share},
        }

    def _settle(self, permit: Permit) -> bool:
        """End `permit`; whether its result counts."""
        if permit.settled:
            return False
        permit.settled = True
        if permit.generation != self._generation:
            return False
        if permit in self._probes:
            self._probes.remove(permit)
        return True

    def _ratio_reached(self) -> bool:
        window = self._window.over()
        return window.total >= self.rules.minimum_calls and window.hits >= self.rules.failure_ratio * window.total

    def _refusal(self, seconds: float) -> CircuitOpenError:
        self.refused += 1
        return CircuitOpenError(
            "the upstream has been failing and is not asked", retry_after=max(1, math.ceil(seconds))
        )

    def _moved(self, state: CircuitState) -> None:
        # pybreaker calls this before its storage holds the new state: everything here goes by the argument.
        before, self.state = self.state, state
        self.since = self._clock.wall()
        self._generation += 1
        self._probes.clear()
        if state is _OPEN:
            self.retry_at = self._monotonic() + self._open_seconds()
            self.openings += 1
        elif state is _CLOSED:
            self.openings = 0
            self._window.clear()
        self._on_transition(self, before)

    def _open_seconds(self) -> float:
        growth = self.rules.open_growth ** min(self.openings, _MAX_DOUBLINGS)
        seconds = min(self.rules.open_seconds * growth, max(self.rules.open_seconds, self.rules.max_open_seconds))
        return seconds * (1 + self.rules.jitter * self._rng.random())
