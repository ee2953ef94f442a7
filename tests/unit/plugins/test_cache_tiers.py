"""The cache with a second tier that other sidecars write to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from plugins.cache import Cache, CacheSettings
from proxy.storage.base import CacheKey, Entry
from proxy.storage.tiered import TieredStore
from tests.support.clock import FakeClock
from tests.support.plugin_harness import PluginHarness, harness
from tests.support.stores import RedisServers, backends
from tests.unit.plugins.test_cache import Origin, result, settle
from tests.unit.storage.test_tiered import ScriptedTier

KEY = CacheKey("GET http://example.test/a")


class Shared:
    """A sidecar with an L2, and an origin whose responses are fresh for 60 s, and stale in use for 600 more."""

    def __init__(
        self, running: PluginHarness, l2: ScriptedTier, origin: Origin, clock: FakeClock, store: TieredStore
    ) -> None:
        self.running = running
        self.l2 = l2
        self.origin = origin
        self.clock = clock
        self.store = store

    def refresh_from_afar(self) -> None:
        """Have another sidecar put a fresh response into L2."""
        held, now = self.l2.held[KEY], self.clock.wall()
        assert isinstance(held, Entry)
        newer = replace(held.stored, request_time=now, response_time=now, fresh_until=now + 60)
        self.l2.held[KEY] = replace(held, stored=newer, body=b"from afar")


@asynccontextmanager
async def sharing(directory: Path, fields: dict[str, str]) -> AsyncIterator[Shared]:
    """`/a` is stored in both tiers, as an origin sent it with these `fields`; its 60 s of freshness are over."""
    clock, origin = FakeClock(), Origin(fields)
    async with backends(clock, RedisServers(), directory) as made:
        l2, log = ScriptedTier(made), await made.memory_log()
        store = await made.tiered(l2, log)
        async with harness(
            lambda services: [Cache(CacheSettings(), services)], origin, clock=clock, store=store, invalidations=log
        ) as running:
            await running.get("/a")
            await store.flush()
            clock.advance(61)
            yield Shared(running, l2, origin, clock, store)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Shared]:
    async with sharing(tmp_path, {"Cache-Control": "max-age=60, stale-while-revalidate=600", "ETag": '"1"'}) as one:
        yield one


@pytest.fixture
async def shared_for_errors(tmp_path: Path) -> AsyncIterator[Shared]:
    async with sharing(tmp_path, {"Cache-Control": "max-age=60, stale-if-error=600"}) as one:
        yield one


async def test_what_another_sidecar_refreshed_answers_instead_of_the_origin(shared_for_errors: Shared) -> None:
    shared_for_errors.refresh_from_afar()
    first, second = [await shared_for_errors.running.get("/a") for _ in range(2)]
    assert [(result(each), each.body) for each in (first, second)] == [("hit", b"from afar")] * 2
    assert (first.exchange.cache.tier, second.exchange.cache.tier) == ("l2", "l1")
    assert shared_for_errors.origin.asked == 1


async def test_a_refresh_in_the_background_finds_what_another_sidecar_refreshed(shared: Shared) -> None:
    shared.refresh_from_afar()
    stale = await shared.running.get("/a")
    await settle()
    after = await shared.running.get("/a")
    assert [(result(each), each.body) for each in (stale, after)] == [("stale", b"answer 1"), ("hit", b"from afar")]
    assert shared.origin.asked == 1


async def test_what_is_found_in_l2_is_no_validation_for_who_demands_one(shared: Shared) -> None:
    shared.refresh_from_afar()
    shared.l2.open.clear()
    await shared.running.get("/a")
    demanding = asyncio.ensure_future(shared.running.get("/a", {"Cache-Control": "no-cache"}))
    await settle()
    shared.l2.open.set()
    assert result(await demanding) == "revalidated"
    assert shared.origin.asked == 2


async def test_a_refresh_in_the_background_asks_the_origin_when_l2_has_nothing_newer(shared: Shared) -> None:
    assert result(await shared.running.get("/a")) == "stale"
    await settle()
    assert result(await shared.running.get("/a")) == "hit"
    assert shared.origin.asked == 2


async def test_a_crowd_on_a_stale_key_asks_l2_once_and_the_origin_once(shared: Shared) -> None:
    reads = shared.l2.reads
    shared.l2.open.clear()
    crowd = [asyncio.ensure_future(shared.running.get("/a", {"Cache-Control": "max-age=5"})) for _ in range(500)]
    await settle()
    crowd[0].cancel()
    await settle()
    shared.l2.open.set()
    answers = await asyncio.gather(*crowd[1:])
    assert {each.body for each in answers} == {b"answer 1"}
    assert {result(each) for each in answers} <= {"revalidated", "hit"}
    assert (shared.l2.reads - reads, shared.origin.asked) == (2, 2), "who asked first left: one asks anew for all"


async def test_l2_is_not_asked_while_a_key_is_remembered_for_which_it_had_nothing(shared: Shared) -> None:
    shared.origin.headers = {"Cache-Control": "no-store"}
    reads = shared.l2.reads
    for _ in range(3):
        assert result(await shared.running.get("/b")) == "miss"
    assert shared.l2.reads - reads == 1
    shared.refresh_from_afar()
    shared.l2.held[CacheKey("GET http://example.test/b")] = shared.l2.held[KEY]
    assert result(await shared.running.get("/b")) == "miss"
    shared.clock.advance(CacheSettings().uncacheable_seconds)
    assert result(await shared.running.get("/b")) == "hit", "another sidecar has stored it meanwhile"


async def test_what_l2_has_answers_in_place_of_an_error_though_the_key_is_uncacheable_by_now(
    shared_for_errors: Shared,
) -> None:
    get, origin = shared_for_errors.running.get, shared_for_errors.origin
    origin.headers = {"Cache-Control": "no-store"}
    await get("/a")
    shared_for_errors.store.l1.delete(KEY)
    origin.status = 503
    stale = await get("/a")
    assert (result(stale), stale.body) == ("stale", b"answer 1")
