"""Plugins that fail: each failure is counted, and told of by the plugin's name.

What a plugin gave to be called past the pipeline (`ReplayPart`, `PassagePart`) is called by the server in the middle of
a client's answer, or of everybody's accounts. It is made safe here, when it is collected: a check that raises is a no,
and the pipeline decides; an account that raises has been given, and the others are given theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Final, TypeAlias

import structlog

from proxy.clock import Clock
from proxy.errors import PluginError
from proxy.metrics.registry import Registry
from proxy.pipeline.passage import PassagePart, Passed
from proxy.pipeline.replay import Arrival, Check, ReplayPart, Tally

TELL_SECONDS: Final = 10.0
"""How often a part that goes on failing is told of: it may be called for each of 60,000 requests a second."""

_log = structlog.get_logger("pipeline")

Failed: TypeAlias = Callable[[Exception], None]


class Failures:
    """Those of one pipeline's plugins."""

    __slots__ = ("_counter", "_monotonic", "_told", "_untold")

    def __init__(self, clock: Clock, metrics: Registry) -> None:
        self._monotonic = clock.monotonic
        self._counter = metrics.counter("sidecache_plugin_failures", "Hooks that raised", ("plugin", "hook"))
        self._told: dict[tuple[str, str, str], float] = {}
        self._untold: dict[tuple[str, str, str], int] = {}

    def of_hook(self, plugin: str, hook: str, error: Exception) -> PluginError:
        """Take note of a hook that raised; what the client may be told of it."""
        self._counter.labels(plugin, hook).value += 1
        _log.error("plugin failed", plugin=plugin, hook=hook, exc_info=error)
        return PluginError(plugin, hook)

    def of_part(self, plugin: str, hook: str, part: str, error: Exception) -> None:
        """Take note of a part, given by `hook`, that raised."""
        self._counter.labels(plugin, hook).value += 1
        place = plugin, hook, part
        failures = self._untold.get(place, 0) + 1
        now = self._monotonic()
        if now < self._told.get(place, -inf) + TELL_SECONDS:
            self._untold[place] = failures
        else:
            self._told[place] = now
            self._untold[place] = 0
            _log.error("plugin failed", plugin=plugin, hook=hook, part=part, failures=failures, exc_info=error)

    def guard_replay(self, plugin: str, part: ReplayPart) -> ReplayPart:
        """`part`, safe to be called.

        Raises:
            Exception: it is no part.
        """
        failed = partial(self.of_part, plugin, "on_replay")
        if part.journal is not None:
            part.journal[0].on_failure = partial(failed, "journal")
        return replace(
            part,
            check=None if part.check is None else _asking(part.check, partial(failed, "check")),
            tally=None if part.tally is None else _Tally(part.tally, partial(failed, "tally")),
        )

    def guard_passage(self, plugin: str, part: PassagePart) -> PassagePart:
        """See `guard_replay`."""
        failed = partial(self.of_part, plugin, "on_passage")
        return replace(
            part,
            check=None if part.check is None else _agreeing(part.check, partial(failed, "check")),
            tally=None if part.tally is None else _Tally(part.tally, partial(failed, "tally")),
            note=None if part.note is None else _noting(part.note, partial(failed, "note")),
        )


# Called for each request, so closures: they cost it 0.05 µs.


def _asking(check: Check, failed: Failed) -> Check:
    def ask(arrival: Arrival) -> str | None:
        try:
            return check(arrival)
        except Exception as error:  # noqa: BLE001 — a plugin's mistake is not the client's
            failed(error)
            return None

    return ask


def _agreeing(check: Callable[[], bool], failed: Failed) -> Callable[[], bool]:
    def agrees() -> bool:
        try:
            return check()
        except Exception as error:  # noqa: BLE001 — as above
            failed(error)
            return False

    return agrees


def _noting(note: Callable[[Passed], None], failed: Failed) -> Callable[[Passed], None]:
    def take(passed: Passed) -> None:
        try:
            note(passed)
        except Exception as error:  # noqa: BLE001 — as above
            failed(error)

    return take


@dataclass(frozen=True, slots=True)
class _Tally:
    """Equal to another if what it calls is: answers with equal tallies are told of together."""

    tally: Tally
    failed: Failed = field(compare=False)

    def __post_init__(self) -> None:
        hash(self.tally)  # raises here, where the plugin is known, and not where it is looked up

    def __call__(self, durations: Sequence[float], bytes_sent: int) -> None:
        try:
            self.tally(durations, bytes_sent)
        except Exception as error:  # noqa: BLE001 — as above
            self.failed(error)
