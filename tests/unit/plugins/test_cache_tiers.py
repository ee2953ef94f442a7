"""The cache with a second tier that other sidecars write to."""

from dataclasses import replace
from pathlib import Path

from plugins.cache import Cache, CacheSettings
from proxy.storage.base import CacheKey, Entry
from tests.support.clock import FakeClock
from tests.support.plugin_harness import harness
from tests.support.stores import RedisServers, backends
from tests.unit.plugins.test_cache import Origin, result
from tests.unit.storage.test_tiered import ScriptedTier


async def test_what_another_sidecar_refreshed_answers_instead_of_the_origin(tmp_path: Path) -> None:
    clock, origin = FakeClock(), Origin({"Cache-Control": "max-age=60, stale-if-error=600"})
    async with backends(clock, RedisServers(), tmp_path) as made:
        l2, log = ScriptedTier(made), await made.memory_log()
        store = await made.tiered(l2, log)
        async with harness(
            lambda services: [Cache(CacheSettings(), services)], origin, clock=clock, store=store, invalidations=log
        ) as h:
            await h.get("/a")
            await store.flush()
            key = CacheKey("GET http://example.test/a")
            held = l2.held[key]
            assert isinstance(held, Entry)
            clock.advance(61)
            now = clock.wall()
            newer = replace(held.stored, request_time=now, response_time=now, fresh_until=now + 60)
            l2.held[key] = replace(held, stored=newer, body=b"from afar")
            first, second = await h.get("/a"), await h.get("/a")
        assert [(result(each), each.body) for each in (first, second)] == [("hit", b"from afar")] * 2
        assert (first.exchange.cache.tier, second.exchange.cache.tier) == ("l2", "l1")
        assert origin.asked == 1
