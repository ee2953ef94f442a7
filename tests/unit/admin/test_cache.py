"""Stats and purges."""

from typing import Any

import pytest

from proxy.admin.cache import Tally
from proxy.storage.invalidation_log import Appended, Purge, PurgeScope
from proxy.storage.memory_log import MemoryLog
from tests.support.admin import AdminBench, bench
from tests.support.records import entry, key

INVALIDATE = "/admin/cache/invalidate"


async def fill(admin: AdminBench, *names: str) -> None:
    for name in names:
        answered = await admin.driven.get(name)
        assert answered.status == 200


async def held(admin: AdminBench, *names: str) -> list[bool]:
    """Whether each is answered without asking the upstream."""
    found = []
    for name in names:
        before = len(admin.driven.upstream.requests)
        await admin.driven.get(name)
        found.append(len(admin.driven.upstream.requests) == before)
    return found


async def purge(admin: AdminBench, **order: Any) -> dict[str, Any]:
    answer = await admin.post(INVALIDATE, order)
    assert answer.status == 200, answer.raw
    document: dict[str, Any] = answer.document
    return document


@pytest.mark.parametrize(
    ("order", "scope", "value", "left"),
    [
        ({"key": "GET http://example.test/items/1"}, "key", "GET http://example.test/items/1", [False, True, True]),
        ({"url": "HTTP://EXAMPLE.test:80/items/1#part"}, "url", "http://example.test/items/1", [False, True, True]),
        ({"prefix": "http://Example.test/items/"}, "prefix", "http://example.test/items/", [False, False, True]),
        ({"tag": "greetings"}, "tag", "greetings", [False, False, False]),
        ({"all": True}, "all", "", [False, False, False]),
    ],
)
async def test_a_purge_drops_what_it_names_and_nothing_else(
    order: dict[str, Any], scope: str, value: str, left: list[bool]
) -> None:
    names = ("/items/1", "/items/2", "/other")
    async with bench() as admin:
        await fill(admin, *names)
        document = await purge(admin, **order)
        assert document == {
            "status": "shared",
            "purges": [
                {
                    "id": "1",
                    "scope": scope,
                    "value": value,
                    "soft": False,
                    "at": "2023-11-14T22:13:20Z",
                    "shared": True,
                    "dropped": left.count(False),
                    "softened": 0,
                }
            ],
        }
        assert await held(admin, *names) == left


async def test_a_soft_purge_leaves_what_it_names_to_be_revalidated() -> None:
    async with bench() as admin:
        await fill(admin, "/items/1")
        document = await purge(admin, all=True, soft=True)
        (done,) = document["purges"]
        assert (done["soft"], done["dropped"], done["softened"]) == (True, 0, 1)
        assert len(admin.target.store.l1) == 1
        assert await held(admin, "/items/1") == [False]


async def test_several_tags_are_one_record_each_and_named_twice_is_once() -> None:
    async with bench() as admin:
        for name, tags in (("/1", ("a",)), ("/2", ("a", "b")), ("/3", ("c",))):
            admin.target.store.put(key(name), entry(name, tags=tags))
        document = await purge(admin, tags=["a", "b", "a"])
        assert [(done["value"], done["dropped"]) for done in document["purges"]] == [("a", 2), ("b", 0)]
        assert len(admin.target.store.l1) == 1


async def test_dropped_counts_are_those_of_the_purge_alone() -> None:
    async with bench() as admin:
        await fill(admin, "/items/1", "/items/2")
        await admin.target.store.log.append(PurgeScope.URL, "http://example.test/items/1")
        assert (await purge(admin, all=True))["purges"][0]["dropped"] == 1
        assert (await purge(admin, all=True))["purges"][0]["dropped"] == 0


async def test_a_purge_that_the_shared_log_has_not_seen_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    append = MemoryLog.append

    async def cut_off(log: MemoryLog, scope: PurgeScope, value: str, *, soft: bool = False) -> Appended:
        appended = await append(log, scope, value, soft=soft)
        return Appended(appended.purge, shared=False)

    monkeypatch.setattr(MemoryLog, "append", cut_off)
    async with bench() as admin:
        document = await purge(admin, all=True)
        assert (document["status"], document["purges"][0]["shared"]) == ("pending", False)


@pytest.mark.parametrize(
    ("order", "path", "words"),
    [
        ({}, "", "none of them"),
        ({"soft": True}, "", "none of them"),
        ({"tag": "a", "all": True}, "", "not tag, all"),
        ({"key": "k", "url": "http://a/"}, "", "not key, url"),
        ({"url": "/items"}, "url", "absolute URL"),
        ({"url": "http://"}, "url", "no host"),
        ({"url": "http://a:99999/"}, "url", "no host"),
        ({"url": "http://a/b c"}, "url", "percent-encoded"),
        ({"prefix": "http://exam"}, "prefix", "no prefix"),
        ({"prefix": "/items"}, "prefix", "no prefix"),
        ({"tags": []}, "tags", "at least one item"),
        ({"tags": ["a", ""]}, "tags[1]", "at least 1"),
        ({"tags": ["a", 7]}, "tags[1]", "valid string"),
        ({"all": False}, "all", "only true"),
        ({"all": 1}, "all", "boolean"),
        ({"all": True, "soft": "yes"}, "soft", "boolean"),
        ({"all": True, "hard": True}, "hard", "unknown"),
        ([], "", "object"),
    ],
)
async def test_a_wrong_order_is_refused_with_its_mistake_and_purges_nothing(order: Any, path: str, words: str) -> None:
    async with bench() as admin:
        await fill(admin, "/items/1")
        answer = await admin.post(INVALIDATE, order)
        assert answer.status == 422 and answer.is_problem
        (mistake,) = answer.document["errors"]
        assert mistake["path"] == path
        assert words in mistake["message"]
        assert await held(admin, "/items/1") == [True]


async def test_every_mistake_is_told_at_once() -> None:
    async with bench() as admin:
        answer = await admin.post(INVALIDATE, {"url": "x", "prefix": "y", "purge": 1})
        assert {mistake["path"] for mistake in answer.document["errors"]} == {"url", "prefix", "purge"}


async def test_stats_count_per_route_and_tier_over_time() -> None:
    async with bench() as admin:
        await admin.driven.get("/items/1")
        admin.driven.clock.advance(120)
        await admin.driven.get("/items/2")
        await admin.driven.get("/items/2")
        await admin.driven.get("/items/2")
        document = (await admin.get("/admin/cache/stats")).document
        (name, route), *others = document["routes"].items()
        assert (name, others) == ("items", [])
        assert (route["hits"], route["misses"], route["stale"], route["bypass"]) == (2, 2, 0, 0)
        assert route["bytes"] == 10
        assert route["hit_ratio"] == {"1m": pytest.approx(2 / 3), "5m": 0.5, "15m": 0.5}
        assert sum(route["reasons"].values()) == 2
        tier = document["tiers"]["l1"]
        assert (tier["records"], tier["hits"], tier["evictions"]) == (len(admin.target.store.l1), 2, 0)
        assert 0 < tier["hit_ratio"] < 1
        assert document["tiers"]["l2"] is None


async def test_stats_before_any_request_have_no_ratio() -> None:
    async with bench() as admin:
        document = (await admin.get("/admin/cache/stats")).document
        assert document["routes"] == {}
        assert document["tiers"]["l1"]["hit_ratio"] is None


async def test_what_a_purge_dropped_before_it_is_adopted_is_remembered_for_the_last_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def known_already(_: MemoryLog, appended: Appended) -> Purge:
        return appended.purge  # as a shared log whose follower was quicker

    monkeypatch.setattr(MemoryLog, "adopt", known_already)
    async with bench() as admin:
        store = admin.target.store
        tally = Tally(store, remembered=2)
        appended = []
        for name in ("/a", "/b", "/c"):
            await fill(admin, name)
            url = f"http://example.test{name}"
            appended.append(await store.log.append(PurgeScope.URL, url))
        assert [await tally.adopt(one) for one in appended] == [(0, 0), (1, 0), (1, 0)]
