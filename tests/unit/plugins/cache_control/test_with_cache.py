"""Rules right of the real cache: it obeys them, stores them, and a 304 does not undo them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from plugins.cache import Cache, CacheSettings
from plugins.cache_control import CacheControl
from plugins.cache_control.settings import CacheControlSettings
from proxy.http.message import Request, Response
from proxy.metrics.registry import Registry
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.plugin_harness import PluginHarness, harness, response

HOUR = "public, max-age=3600"


@asynccontextmanager
async def sidecar(rule: Mapping[str, Any], headers: Mapping[str, str]) -> AsyncIterator[PluginHarness]:
    """One rule between the cache and an origin that answers with `headers`, and a 304 without their Content-Type."""

    def origin(asked: Request) -> Response:
        if asked.headers.get("If-None-Match") == '"v1"':
            return response(304, b"", {**{k: v for k, v in headers.items() if k != "Content-Type"}, "ETag": '"v1"'})
        return response(200, b"picture", {**headers, "ETag": '"v1"'})

    clock, tasks, metrics = FakeClock(), Tasks(), Registry()
    log = MemoryLog(clock)
    store = TieredStore(MemoryStore(1 << 20, clock), None, log, clock, tasks, metrics)
    settings = CacheControlSettings.model_validate({"rules": [{"name": "rule", **rule}]})
    async with harness(
        lambda services: [Cache(CacheSettings(), services), CacheControl(settings, services)],
        origin,
        clock=clock,
        store=store,
        invalidations=log,
        metrics=metrics,
    ) as running:
        yield running
    await store.close()
    await tasks.close()


async def test_the_cache_obeys_what_a_rule_says() -> None:
    async with sidecar({"set": {"Cache-Control": HOUR}}, {"Cache-Control": "max-age=1"}) as h:
        await h.get()
        h.clock.advance(3000)
        got = await h.get()
        assert (got.exchange.cache.result.value, got.header("Cache-Control")) == ("hit", HOUR)


async def test_a_private_response_stays_out_of_the_cache() -> None:
    async with sidecar({"set": {"Cache-Control": HOUR}}, {"Cache-Control": "private"}) as h:
        await h.get()
        assert (await h.get()).exchange.cache.result.value == "miss"


@pytest.mark.parametrize("condition", [{}, {"content_types": ["image/*"]}])
async def test_a_validation_leaves_the_stored_response_as_the_rule_made_it(condition: dict[str, Any]) -> None:
    rule = {**condition, "set": {"Cache-Control": HOUR}, "add": {"Surrogate-Key": "all"}}
    said = {"Content-Type": "image/png", "Cache-Control": "max-age=1", "Surrogate-Key": "one"}
    async with sidecar(rule, said) as h:
        await h.get()
        h.clock.advance(4000)
        confirmed = await h.get()
        h.clock.advance(3000)
        hit = await h.get()
        assert len(h.upstream.requests) == 2
    assert [confirmed.exchange.cache.result.value, hit.exchange.cache.result.value] == ["revalidated", "hit"]
    for got in (confirmed, hit):
        assert got.header("Cache-Control") == HOUR
        assert got.header("Surrogate-Key") == "one all"
