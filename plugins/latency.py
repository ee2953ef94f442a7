"""Latency: how long exchanges take, by route, by what the cache did, and by status class.

Stands leftmost, so that its figures are the client's. Route labels are the names of configured routes, never paths:
their number is bounded by the configuration.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from typing_extensions import override

from proxy.metrics.registry import Histogram, merged
from proxy.metrics.snapshot import Histograms
from proxy.pipeline.exchange import CacheResult, Exchange, Outcome, Stats
from proxy.pipeline.passage import PassagePart
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from proxy.pipeline.replay import ReplayPart

DURATION: Final = "sidecache_request_duration_seconds"
FIRST_BYTE: Final = "sidecache_first_byte_seconds"
UPSTREAM: Final = "sidecache_upstream_seconds"

_QUANTILES: Final[Mapping[str, float]] = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


class LatencySettings(PluginSettings):
    """Settings of `[plugins.latency]`: there are none but `enabled`."""


class LatencySeries:
    """The histograms of one route, cache outcome and status class. Hold it where the same labels come again."""

    __slots__ = ("duration", "first_byte")

    def __init__(self, duration: Histogram, first_byte: Histogram) -> None:
        self.duration = duration
        self.first_byte = first_byte

    def tally(self, durations: Sequence[float], bytes_sent: int) -> None:  # noqa: ARG002 — a `Tally`
        """Count exchanges whose first byte was their last, too, by their durations in seconds."""
        both = Histogram(self.duration.bounds)
        both.observe_all(durations)
        self.duration.add(both)
        self.first_byte.add(both)

    def observe(self, duration: float, first_byte: float | None) -> None:
        """Count one exchange; both in seconds."""
        self.duration.observe(duration)
        if first_byte is not None:
            self.first_byte.observe(first_byte)


class PassedSeries:
    """The histograms of exchanges that went past the pipeline, to the upstream and back."""

    __slots__ = ("_client", "_upstream")

    def __init__(self, client: LatencySeries, upstream: Histogram) -> None:
        self._client = client
        self._upstream = upstream

    def tally(self, durations: Sequence[float], bytes_sent: int) -> None:
        """Count exchanges by their durations in seconds, which are the upstream's."""
        self._client.tally(durations, bytes_sent)
        self._upstream.observe_all(durations)


class Latency(Plugin[LatencySettings]):
    """Counts each exchange when it is over."""

    name: ClassVar[str] = "latency"
    settings_type: ClassVar[type[PluginSettings]] = LatencySettings
    replay: ClassVar[Replay] = Replay.PURE

    def __init__(self, settings: LatencySettings, services: Services) -> None:
        super().__init__(settings, services)
        labels = ("route", "cache", "status")
        metrics = services.metrics
        self._durations = metrics.histogram(DURATION, "From the request's head to the response's last byte", labels)
        self._first_bytes = metrics.histogram(FIRST_BYTE, "From the request's head to the response's head", labels)
        self._upstreams = metrics.histogram(
            UPSTREAM, "From sending a request to the upstream to its response head", ("route",)
        )
        # Keyed by what an exchange has at hand, so that no label text is built for each.
        self._series: dict[tuple[str, str, int], LatencySeries] = {}
        self._upstream: dict[str, Histogram] = {}
        self._passed: dict[LatencySeries, PassedSeries] = {}

    def series(self, route: str, cache: CacheResult, status: int) -> LatencySeries:
        """Where exchanges of this route, cache outcome and status are counted."""
        key = (route, cache._value_, status // 100)  # `value` is a property written in Python: 0.3 µs
        series = self._series.get(key)
        if series is None:
            labels = (route, cache.value, f"{status // 100}xx")
            series = LatencySeries(self._durations.labels(*labels), self._first_bytes.labels(*labels))
            self._series[key] = series
        return series

    @override
    def on_complete(self, exchange: Exchange, outcome: Outcome) -> None:
        route = exchange.route.name
        self.series(route, exchange.cache.result, outcome.status).observe(outcome.duration, outcome.first_byte)
        if exchange.upstream_seconds is not None:
            self._of_upstream(route).observe(exchange.upstream_seconds)

    def _of_upstream(self, route: str) -> Histogram:
        upstream = self._upstream.get(route)
        if upstream is None:
            upstream = self._upstream[route] = self._upstreams.labels(route)
        return upstream

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart:
        return ReplayPart(tally=self.series(exchange.route.name, exchange.cache.result, outcome.status).tally)

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart:
        route = exchange.route.name
        series = self.series(route, exchange.cache.result, outcome.status)
        if exchange.upstream_seconds is None:
            return PassagePart(tally=series.tally, any_target=True)
        passed = self._passed.get(series)
        if passed is None:
            passed = self._passed[series] = PassedSeries(series, self._of_upstream(route))
        return PassagePart(tally=passed.tally, any_target=True)

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return frozenset()

    @override
    def stats(self) -> Stats:
        return _stats(self._series, self._upstream)

    @classmethod
    def stats_of(cls, histograms: Histograms) -> Stats:
        """See `proxy.pipeline.merging.stats_by_histograms`."""
        first_bytes = histograms.get(FIRST_BYTE, {})
        series = {
            (route, cache, int(status[0])): LatencySeries(
                duration, first_bytes.get((route, cache, status)) or Histogram(duration.bounds)
            )
            for (route, cache, status), duration in histograms.get(DURATION, {}).items()
        }
        return _stats(series, {route: one for (route,), one in histograms.get(UPSTREAM, {}).items()})


def _stats(
    all_series: Mapping[tuple[str, str, int], LatencySeries], upstream: Mapping[str, Histogram]
) -> dict[str, object]:
    outcomes: dict[str, dict[str, list[tuple[int, LatencySeries]]]] = {}
    for (route, cache, status_class), series in all_series.items():
        outcomes.setdefault(route, {}).setdefault(cache, []).append((status_class, series))
    return {
        "routes": {
            route: {cache: _summary(classes) for cache, classes in by_cache.items()}
            for route, by_cache in outcomes.items()
        },
        "upstream": {route: _quantiles(histogram) for route, histogram in upstream.items()},
    }


def _summary(classes: list[tuple[int, LatencySeries]]) -> dict[str, object]:
    return {
        **_quantiles(merged(series.duration for _, series in classes)),
        "first_byte": _quantiles(merged(series.first_byte for _, series in classes)),
        "status": {f"{status_class}xx": series.duration.count for status_class, series in sorted(classes)},
    }


def _quantiles(histogram: Histogram) -> dict[str, object]:
    summary: dict[str, object] = {"count": histogram.count}
    for name, share in _QUANTILES.items():
        summary[name] = round(histogram.quantile(share) * 1000, 3)
    return summary
