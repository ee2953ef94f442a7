"""GET /admin/cache/explain over a real admin port."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import pytest

from plugins.cache import Cache, CacheSettings
from plugins.latency import Latency, LatencySettings
from proxy.http.message import Request, Response
from proxy.pipeline.plugin import Plugin, Services
from proxy.storage.invalidation_log import PurgeScope
from tests.support.admin import bench
from tests.support.plugin_harness import response


def plugins(services: Services) -> Sequence[Plugin[Any]]:
    """Latency and the cache with a rule for queries."""
    settings = CacheSettings(ignore_query=("utm_*",), sort_query=True)
    return [Latency(LatencySettings(), services), Cache(settings, services)]


def origin(request: Request) -> Response:
    """Something of each kind."""
    fields: Mapping[str, Mapping[str, str]] = {
        "/fresh": {"Cache-Control": "max-age=60, stale-while-revalidate=30", "ETag": '"v1"', "Cache-Tag": "a b"},
        "/private": {"Cache-Control": "private"},
        "/vary": {"Cache-Control": "max-age=60", "Vary": "Accept-Language"},
    }
    return response(200, b"body", fields.get(request.path, {}))


def question(path: str, *headers: str, method: str = "GET") -> str:
    """The path and query of a question."""
    query = [("url", f"http://example.test{path}"), ("method", method), *(("header", header) for header in headers)]
    return f"/admin/cache/explain?{urlencode(query)}"


async def ask(port: Any, path: str, *headers: str, method: str = "GET") -> Any:
    """The explanation."""
    answered = await port.get(question(path, *headers, method=method))
    assert answered.status == 200, answered.document
    return answered.document


async def test_nothing_stored() -> None:
    async with bench(plugins=plugins, script=origin) as port:
        told = await ask(port, "/fresh?utm_source=x&b=1&a=2")
    assert (told["verdict"], told["reason"]) == ("miss", "nothing-stored")
    assert told["key"] == "GET http://example.test/fresh?a=2&b=1"
    assert "utm_*" in told["steps"][1]["outcome"]
    assert told["stored"] == []
    assert told["advice"]


async def test_a_stored_response_is_shown_whole_and_nothing_changes() -> None:
    async with bench(plugins=plugins, script=origin) as port:
        await port.driven.get("/fresh")
        port.driven.clock.advance(10)
        before = port.driven.services.store.stats()
        told = await ask(port, "/fresh")
        assert port.driven.services.store.stats() == before
    assert told["verdict"] == "hit"
    (stored,) = told["stored"]
    assert (stored["age_seconds"], stored["fresh_for_seconds"], stored["usable_stale_for_seconds"]) == (10, 50, 80)
    assert (stored["etag"], stored["tags"], stored["body_bytes"], stored["tier"]) == ('"v1"', ["a", "b"], 4, "l1")
    assert told["advice"] == []


@pytest.mark.parametrize(
    ("seconds", "headers", "verdict", "reason"),
    [
        (70, (), "stale", "stale-while-revalidate"),
        (100, (), "revalidate", "stale"),
        (0, ("Cache-Control: no-cache",), "revalidate", "request-no-cache"),
        (0, ("Cache-Control: max-age=60",), "hit", "fresh"),
        (100, ("Cache-Control: only-if-cached",), "unsatisfiable", "only-if-cached"),
    ],
)
async def test_what_a_request_now_would_do(seconds: float, headers: tuple[str, ...], verdict: str, reason: str) -> None:
    async with bench(plugins=plugins, script=origin) as port:
        await port.driven.get("/fresh")
        port.driven.clock.advance(seconds)
        told = await ask(port, "/fresh", *headers)
        real = await port.driven.get("/fresh", dict(header.split(": ") for header in headers))
    assert (told["verdict"], told["reason"]) == (verdict, reason)
    if verdict in ("hit", "stale"):
        assert real.exchange.cache.reason is not None
        assert real.exchange.cache.reason.token == reason


async def test_why_it_was_not_stored_is_remembered_for_a_while() -> None:
    async with bench(plugins=plugins, script=origin) as port:
        await port.driven.get("/private")
        told = await ask(port, "/private")
        assert told["verdict"] == "miss"
        assert any(step["reason"] == "private" for step in told["steps"])
        assert any("`private`" in advice for advice in told["advice"])
        port.driven.clock.advance(11)
        later = await ask(port, "/private")
        assert not any(step["reason"] == "private" for step in later["steps"])


async def test_variants_are_listed_and_the_selected_one_marked() -> None:
    async with bench(plugins=plugins, script=origin) as port:
        await port.driven.get("/vary", {"Accept-Language": "de"})
        await port.driven.get("/vary", {"Accept-Language": "en"})
        told = await ask(port, "/vary", "Accept-Language: en")
        other = await ask(port, "/vary", "Accept-Language: fr")
    assert [variant["selected"] for variant in told["stored"]].count(True) == 1
    assert (told["verdict"], other["verdict"], other["reason"]) == ("hit", "miss", "vary-miss")
    assert any("accept-language" in step["outcome"] for step in told["steps"])


async def test_that_a_fresh_response_may_be_refreshed_early_is_told() -> None:
    def eager(services: Services) -> Sequence[Plugin[Any]]:
        return [Cache(CacheSettings(early_refresh_beta=1.0), services)]

    for made, said in ((plugins, False), (eager, True)):
        async with bench(plugins=made, script=origin) as port:
            await port.driven.get("/fresh")
            told = await ask(port, "/fresh")
        assert told["verdict"] == "hit"
        assert any(step["step"] == "early refresh" for step in told["steps"]) is said


async def test_how_often_it_was_used_is_told_and_a_question_is_no_use() -> None:
    async with bench(plugins=plugins, script=origin) as port:
        await port.driven.get("/fresh")
        told = [await ask(port, "/fresh") for _ in range(2)]
        for _ in range(3):
            await port.driven.get("/fresh")
        told.append(await ask(port, "/fresh"))
    assert [answer["stored"][0]["hits"] for answer in told] == [0, 0, 3]


async def test_a_purge_is_told() -> None:
    async with bench(plugins=plugins, script=origin) as port:
        await port.driven.get("/fresh")
        await port.driven.services.invalidations.append(PurgeScope.TAG, "a", soft=True)
        told = await ask(port, "/fresh")
    assert told["verdict"] == "stale"


async def test_what_the_cache_stands_aside_for() -> None:
    async with bench(plugins=plugins, script=origin) as port:
        told = await ask(port, "/fresh", method="POST")
    assert (told["verdict"], told["reason"]) == ("bypass", "method-not-cached")


@pytest.mark.parametrize("query", ["", "?url=nowhere", "?url=http://a/&header=x", "?url=http://a/&colour=red"])
async def test_a_question_that_is_none_is_refused_with_what_was_expected(query: str) -> None:
    async with bench(plugins=plugins, script=origin) as port:
        answered = await port.get(f"/admin/cache/explain{query}")
    assert answered.status == 422
    assert answered.document["errors"]


async def test_a_route_without_a_cache_has_nothing_to_explain() -> None:
    async with bench(plugins=lambda services: [Latency(LatencySettings(), services)], script=origin) as port:
        answered = await port.get(question("/fresh"))
    assert answered.status == 404
