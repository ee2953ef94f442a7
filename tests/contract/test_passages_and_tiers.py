"""Requests that go past the pipeline, where a second tier is shared with other sidecars."""

from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.support.clock import FakeClock
from tests.support.passing import PassingSite, always, ok, passing_site, silent_plugins
from tests.support.raw_client import request
from tests.support.stores import Backends

PLUGINS = partial(silent_plugins, cache={"uncacheable_seconds": 30.0})
CACHEABLE = ok(b"kept").replace(b"no-store", b"max-age=600")


@pytest.fixture
async def sites(made: Backends, clock: FakeClock) -> AsyncIterator[tuple[PassingSite, PassingSite]]:
    """Two sites over one second tier, each before an origin of its own."""
    async with (
        passing_site(always(ok()), plugins=PLUGINS, clock=clock, l2=await made.second_tier("redis")) as one,
        passing_site(always(CACHEABLE), plugins=PLUGINS, clock=clock, l2=await made.second_tier("redis")) as other,
    ):
        yield one, other


async def test_what_another_stores_is_seen_when_the_time_is_up(sites: tuple[PassingSite, PassingSite]) -> None:
    one, other = sites
    async with await one.client() as client, await other.client() as elsewhere:
        for _ in range(5):
            assert (await client.ask(request("/a"))).body == b"ok"
        assert one.crossed == 3, "that the second tier has nothing is remembered, too"
        assert (await elsewhere.ask(request("/a"))).body == b"kept"
        await other.services.store.flush()
        assert (await client.ask(request("/a"))).body == b"ok"
        assert one.crossed == 4
        one.clock.advance(31.0)
        answer = await client.ask(request("/a"))
        assert answer.body == b"kept"
        assert "hit" in (answer.field("Cache-Status") or "")
        assert one.crossed == 4


async def test_nothing_goes_past_what_was_stored_before(sites: tuple[PassingSite, PassingSite]) -> None:
    one, other = sites
    async with await one.client() as client, await other.client() as elsewhere:
        assert (await elsewhere.ask(request("/a"))).body == b"kept"
        await other.services.store.flush()
        for _ in range(5):
            assert (await client.ask(request("/a"))).body == b"kept"
        assert one.crossed == 0
        assert not one.origin.heads


async def test_a_tier_that_is_lost_keeps_nothing_from_passing(sites: tuple[PassingSite, PassingSite]) -> None:
    one, _ = sites
    async with await one.client() as client:
        for _ in range(3):
            await client.ask(request("/a"))
        assert one.services.store.l2 is not None
        await one.services.store.l2.close()
        before = one.crossed
        for _ in range(3):
            assert (await client.ask(request("/a"))).body == b"ok"
        assert one.crossed == before + 3
