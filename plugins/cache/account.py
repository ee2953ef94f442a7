"""What the cache counts: results and reasons per route, and hit ratios over the last minutes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from proxy.clock import Clock
from proxy.metrics.registry import Counter, Registry
from proxy.metrics.window import RollingCounts
from proxy.pipeline.exchange import CacheReport, CacheResult
from proxy.policy.reasons import Reason

SPANS: Final = {"1m": 60.0, "5m": 300.0, "15m": 900.0}
COUNTED: Final = tuple(result for result in CacheResult if result is not CacheResult.NONE)


@dataclass(frozen=True, slots=True)
class _Series:
    """What counts exchanges of one route, result and reason. `served` is there if they are answered from the cache."""

    counters: tuple[Counter, ...]
    served: Counter | None
    ratio: RollingCounts


class Asides:
    """Reports of requests that the cache has nothing to do with. They differ in their reason and in what the origin
    answered alone, so that each is made once: a fiftieth of the time that such a request takes here.

    Args:
        write: the value of Cache-Status for a report; None: it is not sent.

    Attributes:
        asked: the report before there is an answer.
        answered: the report of an answer with this status, and the value of its Cache-Status; empty: it is not sent.
    """

    __slots__ = ("answered", "asked")

    def __init__(self, write: Callable[[CacheReport], str] | None) -> None:
        def answered(reason: Reason, status: int) -> tuple[CacheReport, str]:
            report = self.asked(reason).with_status(status)
            return report, write(report) if write is not None else ""

        self.asked: Callable[[Reason], CacheReport] = lru_cache(maxsize=None)(_asked)
        self.answered: Callable[[Reason, int], tuple[CacheReport, str]] = lru_cache(maxsize=1024)(answered)


def _asked(reason: Reason) -> CacheReport:
    return CacheReport(CacheResult.BYPASS, reason, reason.fwd)


class Account:
    """The books of one cache plugin's routes."""

    __slots__ = ("_clock", "_metrics_bytes", "_metrics_reasons", "_metrics_results", "_ratios", "_routes", "_series")

    def __init__(self, clock: Clock, metrics: Registry) -> None:
        self._clock = clock
        self._metrics_results = metrics.counter(
            "sidecache_cache_requests", "Requests by what became of them at the cache", ("route", "result")
        )
        self._metrics_reasons = metrics.counter(
            "sidecache_cache_reasons", "Requests by why the cache did what it did", ("route", "result", "reason")
        )
        self._metrics_bytes = metrics.counter(
            "sidecache_cache_served_bytes", "Body bytes sent to clients from the cache", ("route",)
        )
        self._series: dict[tuple[str, CacheResult, Reason | None], _Series] = {}
        self._routes: dict[str, None] = {}
        self._ratios: dict[str, RollingCounts] = {}

    def _make_series(self, route: str, result: CacheResult, reason: Reason | None) -> _Series:
        if route not in self._routes:
            self._routes[route] = None
            self._ratios[route] = RollingCounts(self._clock, window_seconds=SPANS["15m"])
        counters = [self._metrics_results.labels(route, result.value)]
        if reason is not None:
            counters.append(self._metrics_reasons.labels(route, result.value, reason.token))
        served = self._metrics_bytes.labels(route) if result.from_cache else None
        return _Series(tuple(counters), served, self._ratios[route])

    def record(self, route: str, report: CacheReport, bytes_sent: int, exchanges: int = 1) -> None:
        """Count exchanges that are alike.

        Args:
            bytes_sent: to clients, in all of them.
        """
        if report.result is CacheResult.NONE:
            return
        key = route, report.result, report.reason
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._make_series(*key)
        for counter in series.counters:
            counter.value += exchanges
        if series.served is not None:
            series.served.value += bytes_sent
        series.ratio.record(series.served is not None, exchanges)

    def stats(self) -> dict[str, object]:
        """Per route: counts, served bytes, hit ratios (null where nothing was asked), reasons by frequency."""
        routes: dict[str, object] = {}
        for route in self._routes:
            reasons = {
                f"{result}: {reason}": int(counter.value)
                for (name, result, reason), counter in self._metrics_reasons.members.items()
                if name == route and not CacheResult(result).from_cache
            }
            ratios = self._ratios[route]
            recent = {name: ratios.over(seconds) for name, seconds in SPANS.items()}
            routes[route] = {
                **{result.value: int(self._metrics_results.labels(route, result.value).value) for result in COUNTED},
                "bytes": int(self._metrics_bytes.labels(route).value),
                "hit_ratio": {name: counts.share for name, counts in recent.items()},
                "recent": {name: {"hits": counts.hits, "requests": counts.total} for name, counts in recent.items()},
                "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])),
            }
        return {"routes": routes}
