"""Hits in the second tier that are answered past the pipeline are what the pipeline answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.server import recalls
from proxy.storage.invalidation_log import PurgeScope
from tests.support.clock import FakeClock
from tests.support.passing import Call, PassingSite, fresh, passing_site
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.redis_server import RedisServer
from tests.support.site import LANE_BYTES
from tests.support.stores import Backends

PAST = pytest.mark.parametrize("lane_bytes", [LANE_BYTES, 0], ids=["past", "through"])
KINDS = pytest.mark.parametrize("kind", ["lmdb", "redis", "redis-cluster"])
NO_L1 = 1  # byte: it keeps nothing


class Numbered:
    """An origin whose answers tell how often it was asked."""

    def __init__(self) -> None:
        self.lines: dict[str, tuple[str, ...]] = {}
        self.asked = 0

    async def __call__(self, call: Call) -> None:
        self.asked += 1
        lines = self.lines.get(call.target, ("Cache-Control: max-age=60",))
        body = f"{call.target} {call.number}".encode()
        await call.send(fresh(body, f'ETag: "{call.target}{call.number}"', "Cache-Tag: all", *lines))


@asynccontextmanager
async def two_tiers(
    made: Backends, clock: FakeClock, kind: str, lane_bytes: int, *, l1_bytes: int = NO_L1
) -> AsyncIterator[tuple[PassingSite, Numbered, RawClient]]:
    """A site with a second tier, and a client; what its first requests brought is stored there."""
    l2 = await made.second_tier(kind)
    origin = Numbered()
    async with (
        passing_site(origin, lane_bytes=lane_bytes, l2=l2, l1_bytes=l1_bytes, clock=clock) as site,
        await site.client() as client,
    ):
        for number in range(6):
            await client.ask(request(f"/{number}"))
        await site.services.store.flush()
        yield site, origin, client


def is_hit(answer: RawResponse) -> bool:
    return "hit" in (answer.field("Cache-Status") or "")


@PAST
@KINDS
async def test_hits_differ_in_nothing_but_what_is_their_own(
    made: Backends, clock: FakeClock, kind: str, lane_bytes: int
) -> None:
    async with two_tiers(made, clock, kind, lane_bytes) as (site, origin, client):
        clock.advance(7.0)
        for number in range(6):
            answer = await client.ask(request(f"/{number}"))
            assert answer.body == f"/{number} 1".encode()
            assert answer.field("ETag") == f'"/{number}1"'
            assert answer.field("Content-Length") == "4"
            assert answer.field("Age") == "7"
            assert answer.field("Cache-Status") == "sidecache;hit;ttl=53;detail=fresh"
        assert origin.asked == 6
        assert bool(site.recalled) == bool(lane_bytes)
        assert site.sample("sidecache_cache_requests_total", result="hit") == 6
        assert site.sample("sidecache_request_duration_seconds_count", cache="hit") == 6


@PAST
@KINDS
async def test_what_is_stale_or_gone_or_purged_is_not_recalled(
    made: Backends, clock: FakeClock, kind: str, lane_bytes: int
) -> None:
    async with two_tiers(made, clock, kind, lane_bytes) as (site, origin, client):
        for number in range(4):
            assert is_hit(await client.ask(request(f"/{number}")))
        await site.services.invalidations.append(PurgeScope.TAG, "all")
        answer = await client.ask(request("/0"))
        assert answer.body == b"/0 2"
        assert origin.asked == 7
        await site.services.store.flush()
        assert is_hit(await client.ask(request("/0")))
        clock.advance(60.0)
        assert (await client.ask(request("/0"))).body == b"/0 3"
        assert not is_hit(await client.ask(request("/never-seen")))


@PAST
async def test_a_request_that_heeds_more_gets_what_the_pipeline_gives(
    made: Backends, clock: FakeClock, lane_bytes: int
) -> None:
    async with two_tiers(made, clock, "lmdb", lane_bytes) as (site, origin, client):
        for number in range(4):
            assert is_hit(await client.ask(request(f"/{number}")))
        recalled = site.recalled
        assert (await client.ask(request("/0", 'If-None-Match: "/01"'))).status == 304
        assert (await client.ask(request("/0", "Range: bytes=0-0"))).status == 206
        assert (await client.ask(request("/0", "Cache-Control: no-cache"))).body == b"/0 2"
        clock.advance(2.0)
        assert (await client.ask(request("/1", "Cache-Control: max-age=1"))).body == b"/1 2"
        assert site.recalled == recalled
        assert origin.asked == 8


@PAST
async def test_what_varies_and_what_must_be_validated_is_for_the_pipeline(
    made: Backends, clock: FakeClock, lane_bytes: int
) -> None:
    async with two_tiers(made, clock, "lmdb", lane_bytes) as (site, origin, client):
        origin.lines = {
            "/varies": ("Cache-Control: max-age=60", "Vary: Accept-Language"),
            "/checked": ("Cache-Control: max-age=60, no-cache",),
        }
        for number in range(4):
            assert is_hit(await client.ask(request(f"/{number}")))
        for language in ("a", "b", "a"):
            await client.ask(request("/varies", f"Accept-Language: {language}"))
            await site.services.store.flush()
        assert origin.asked == 8
        for _ in range(3):
            assert not is_hit(await client.ask(request("/checked")))


async def test_a_redis_that_is_silent_holds_a_request_up_once(made: Backends, clock: FakeClock) -> None:
    with RedisServer() as server:
        l2 = await made.redis(server.url, timeout_seconds=1.5, max_failures=9)
        origin = Numbered()
        async with passing_site(origin, l2=l2, l1_bytes=NO_L1, clock=clock) as site, await site.client() as client:
            for _ in range(3):
                await client.ask(request("/a"))
                await site.services.store.flush()
            assert site.recalled == 1
            with server.frozen():
                answer = await client.ask(request("/a"))
                assert answer.body == b"/a 2"
                assert l2.counters.timeouts.value == 1
        await made.close()


async def test_what_is_asked_for_twice_moves_into_the_first_tier(made: Backends, clock: FakeClock) -> None:
    async with two_tiers(made, clock, "lmdb", LANE_BYTES, l1_bytes=1 << 20) as (site, origin, client):
        site.services.store.l1.clear()
        for number in range(6):
            assert is_hit(await client.ask(request(f"/{number}")))
        assert site.recalled >= 3
        before = len(site.services.store.l1)
        for number in range(6):
            assert is_hit(await client.ask(request(f"/{number}")))
        assert len(site.services.store.l1) > before
        assert origin.asked == 6


async def test_what_is_asked_for_again_when_l1_would_have_evicted_it_stays_in_the_second_tier(
    made: Backends, clock: FakeClock
) -> None:
    async with two_tiers(made, clock, "lmdb", LANE_BYTES, l1_bytes=20_000) as (site, origin, client):
        store = site.services.store
        for number in range(6, 100):
            await client.ask(request(f"/{number}"))
        await store.flush()
        assert 5 < len(store.l1) < 30
        for _ in range(3):
            for number in range(60):
                assert is_hit(await client.ask(request(f"/{number}")))
        assert site.recalled > 170
        recalled = site.recalled
        for number in range(60, 63):
            for _ in range(3):
                assert is_hit(await client.ask(request(f"/{number}")))
        assert site.recalled == recalled + 3
        assert origin.asked == 100


async def test_how_a_kind_of_response_is_sent_is_learnt_once(
    made: Backends, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[object] = []

    def counted(*given: Any) -> recalls.RecallKind | None:
        learnt.append(given)
        return learn_kind(*given)

    learn_kind = recalls.learn_kind
    monkeypatch.setattr(recalls, "learn_kind", counted)
    async with two_tiers(made, clock, "lmdb", LANE_BYTES, l1_bytes=1 << 20) as (site, _, client):
        for _ in range(4):
            site.services.store.l1.clear()
            for number in range(6):
                assert is_hit(await client.ask(request(f"/{number}")))
        assert len(learnt) == 1
        assert site.recalled >= 3
