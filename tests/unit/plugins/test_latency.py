"""Latency histograms by route, cache outcome and status class."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from plugins.latency import Latency, LatencySettings
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import CacheReport, CacheResult, Exchange, Outcome
from proxy.pipeline.plugin import Replay
from proxy.pipeline.routes import Route
from tests.support.plugin_harness import PluginHarness, harness, request, response

ROUTES = (Route("items", path="/items/{id}"),)


@asynccontextmanager
async def bench() -> AsyncIterator[tuple[PluginHarness, Latency]]:
    """A pipeline of this plugin alone; `/slow/…` takes two seconds upstream, `/bad` is a 502."""

    def answer(asked: Request) -> Response:
        driven.clock.advance(2.0 if "slow" in asked.target else 0.002)
        return response(502 if asked.target == "/bad" else 200, b"x")

    async with harness(lambda services: [Latency(LatencySettings(), services)], answer, routes=ROUTES) as driven:
        (plugin,) = driven.pipeline.plugins
        assert isinstance(plugin, Latency)
        yield driven, plugin


def counts(driven: PluginHarness, name: str) -> dict[tuple[str, ...], int]:
    (family,) = [family for family in driven.services.metrics.histograms() if family.name == name]
    return {labels: histogram.count for labels, histogram in family.members.items()}


def finished(plugin: Latency, result: CacheResult, status: int = 200, **changes: Any) -> None:
    """Complete an exchange that the cache reported on."""
    exchange = Exchange(request=request(), route=ROUTES[0], id="x", started=0.0, cache=CacheReport(result))
    plugin.on_complete(exchange, Outcome(**{"status": status, "bytes_sent": 1, "duration": 0.01, **changes}))


async def test_exchanges_are_counted_by_route_and_never_by_path() -> None:
    async with bench() as (driven, _):
        for number in range(50):
            await driven.get(f"/items/{number}")
        await driven.get("/elsewhere/1")
        await driven.get("/bad")
        assert counts(driven, "sidecache_request_duration_seconds") == {
            ("items", "none", "2xx"): 50,
            ("default", "none", "2xx"): 1,
            ("default", "none", "5xx"): 1,
        }
        assert counts(driven, "sidecache_upstream_seconds") == {("items",): 50, ("default",): 2}


async def test_durations_and_upstream_times_are_measured() -> None:
    async with bench() as (driven, plugin):
        await driven.get("/slow")
        durations, _, upstream = driven.services.metrics.histograms()
        assert durations.labels("default", "none", "2xx").total == pytest.approx(2.0)
        assert upstream.labels("default").total == pytest.approx(2.0)
        stats: Any = plugin.stats()
        assert 1000 < stats["routes"]["default"]["none"]["p50_ms"] <= 2500


async def test_cache_outcomes_and_status_classes_are_kept_apart() -> None:
    async with bench() as (driven, plugin):
        for result in CacheResult:
            finished(plugin, result)
        finished(plugin, CacheResult.HIT, 304)
        finished(plugin, CacheResult.NONE, 101)
        finished(plugin, CacheResult.NONE, 499, aborted=True)
        assert counts(driven, "sidecache_request_duration_seconds") == {
            **{("items", result.value, "2xx"): 1 for result in CacheResult},
            ("items", "hit", "3xx"): 1,
            ("items", "none", "1xx"): 1,
            ("items", "none", "4xx"): 1,
        }


async def test_first_byte_is_counted_only_where_there_was_one() -> None:
    async with bench() as (driven, plugin):
        finished(plugin, CacheResult.HIT, first_byte=0.003)
        finished(plugin, CacheResult.HIT, first_byte=None)
        assert counts(driven, "sidecache_first_byte_seconds") == {("items", "hit", "2xx"): 1}
        assert counts(driven, "sidecache_request_duration_seconds") == {("items", "hit", "2xx"): 2}
        assert counts(driven, "sidecache_upstream_seconds") == {}


async def test_stats_sum_up_each_route_and_outcome() -> None:
    async with bench() as (_, plugin):
        assert plugin.stats() == {"routes": {}, "upstream": {}}
        for _ in range(99):
            finished(plugin, CacheResult.HIT, duration=0.0002, first_byte=0.0002)
        finished(plugin, CacheResult.HIT, 404, duration=4.0, first_byte=4.0)
        finished(plugin, CacheResult.MISS, duration=0.3)
        stats: Any = orjson.loads(orjson.dumps(plugin.stats()))
        hit = stats["routes"]["items"]["hit"]
        assert hit["count"] == 100
        assert hit["status"] == {"2xx": 99, "4xx": 1}
        assert 0.1 < hit["p50_ms"] < hit["p95_ms"] <= hit["p99_ms"] <= 0.25
        assert hit["first_byte"]["count"] == 100
        assert 250 < stats["routes"]["items"]["miss"]["p99_ms"] <= 500
        assert stats["routes"]["items"]["miss"]["first_byte"] == {"count": 0, "p50_ms": 0, "p95_ms": 0, "p99_ms": 0}


async def test_series_is_the_one_that_exchanges_are_counted_in() -> None:
    async with bench() as (driven, plugin):
        held = plugin.series("items", CacheResult.HIT, 200)
        assert plugin.series("items", CacheResult.HIT, 206) is held
        held.observe(0.0001, 0.0001)
        finished(plugin, CacheResult.HIT)
        assert counts(driven, "sidecache_request_duration_seconds") == {("items", "hit", "2xx"): 2}


async def test_instances_with_other_settings_count_into_the_same_metrics() -> None:
    async with bench() as (driven, plugin):
        other = Latency(LatencySettings(), driven.services)
        finished(plugin, CacheResult.HIT)
        finished(other, CacheResult.HIT)
        assert counts(driven, "sidecache_request_duration_seconds") == {("items", "hit", "2xx"): 2}


def test_replayed_answers_may_pass_by() -> None:
    assert Latency.replay is Replay.PURE
