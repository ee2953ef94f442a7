"""What the cache counts: results and reasons per route, and hit ratios over the last minutes."""

from collections.abc import Callable
from typing import Final

from proxy.clock import Clock
from proxy.metrics.registry import Registry
from proxy.metrics.window import RollingCounts
from proxy.pipeline.exchange import CacheReport, CacheResult

SPANS: Final = {"1m": 60.0, "5m": 300.0, "15m": 900.0}
COUNTED: Final = tuple(result for result in CacheResult if result is not CacheResult.NONE)


class Account:
    """The books of one cache plugin's routes."""

    __slots__ = ("_clock", "_metrics_bytes", "_metrics_reasons", "_metrics_results", "_ratios", "_routes")

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
        self._routes: dict[str, None] = {}
        self._ratios: dict[str, RollingCounts] = {}

    def recorder(self, route: str, report: CacheReport, bytes_sent: int) -> Callable[[int], None]:
        """What `record` does, for a number of exchanges at once that are all alike."""
        self._know(route)
        counters = [self._metrics_results.labels(route, report.result.value)]
        if report.reason is not None:
            counters.append(self._metrics_reasons.labels(route, report.result.value, report.reason.token))
        served = self._metrics_bytes.labels(route)
        from_cache = report.result.from_cache
        count_ratio = self._ratios[route].record

        def record(exchanges: int) -> None:
            for counter in counters:
                counter.value += exchanges
            if from_cache:
                served.value += bytes_sent * exchanges
            count_ratio(from_cache, exchanges)

        return record

    def _know(self, route: str) -> None:
        if route not in self._routes:
            self._routes[route] = None
            self._ratios[route] = RollingCounts(self._clock, window_seconds=SPANS["15m"])

    def record(self, route: str, report: CacheReport, bytes_sent: int) -> None:
        """Count one exchange."""
        result = report.result
        if result is CacheResult.NONE:
            return
        self._know(route)
        self._metrics_results.labels(route, result.value).value += 1
        if report.reason is not None:
            self._metrics_reasons.labels(route, result.value, report.reason.token).value += 1
        if result.from_cache:
            self._metrics_bytes.labels(route).value += bytes_sent
        self._ratios[route].record(result.from_cache)

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
