"""Explain: what the operator is told of a request is what the request then does (`GET /admin/cache/explain`)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import reply
from tests.support.sidecar import eventually

behaviour = behaviours_of(Group.EXPLAIN)
row = behaviour.row

Prepare: TypeAlias = Callable[[CacheUnderTest], Awaitable[Resource]]

CLAUSE = "admin/cache/explain"
FRESH = "Cache-Control: max-age=60"
OLD = "Age: 100"
TAGGED = 'ETag: "1"'
SWR = "Cache-Control: max-age=60, stale-while-revalidate=600"


async def explain(page: Resource, *lines: str, method: str = "GET", query: str = "") -> dict[str, Any]:
    """The explanation of a request."""
    question = [("url", page.url + query), ("method", method), *(("header", line) for line in lines)]
    status, document = await page.cache.running.admin("GET", "/admin/cache/explain", params=question)
    assert status == 200, document
    assert isinstance(document, dict)
    return document


def stored(*lines: str, route: str = "", asked: Sequence[str] = (), status: int = 200, body: str = "body") -> Prepare:
    """Prepares a resource whose first answer, with `lines`, has been given."""

    async def prepare(cache: CacheUnderTest) -> Resource:
        page = cache.resource(reply(*lines, status=status, body=body), reply(FRESH, body="new"), route=route)
        await page.ask(*asked)
        return page

    return prepare


def cold(route: str = "") -> Prepare:
    """Prepares a resource that nobody has asked for."""

    async def prepare(cache: CacheUnderTest) -> Resource:
        return cache.resource(reply(FRESH), route=route)

    return prepare


def purged(*, soft: bool) -> Prepare:
    """Prepares a resource that was stored, and then purged."""

    async def prepare(cache: CacheUnderTest) -> Resource:
        page = await stored(FRESH, TAGGED)(cache)
        await page.purge(soft=soft)
        return page

    return prepare


def does(answer: Answer) -> str:
    """What a request did, in the words of an explanation's verdict."""
    if answer.status == 504:
        return "unsatisfiable"
    if answer.is_hit:
        return "hit" if int(answer.cache_status["ttl"]) >= 0 else "stale"
    fwd = answer.cache_status["fwd"]
    return {"stale": "revalidate", "request": "revalidate", "bypass": "bypass", "method": "bypass"}.get(fwd, "miss")


@pytest.mark.parametrize(
    ("prepare", "lines", "method", "verdict", "reason"),
    [
        row(CLAUSE, "Nothing stored: a miss", cold(), [], "GET", "miss", "nothing-stored"),
        row(CLAUSE, "Stored and fresh: a hit", stored(FRESH), [], "GET", "hit", "fresh"),
        row(CLAUSE, "HEAD of what is stored: a hit", stored(FRESH), [], "HEAD", "hit", "fresh"),
        row(CLAUSE, "Stored and stale: asked again", stored(FRESH, OLD, TAGGED), [], "GET", "revalidate", "stale"),
        row(
            CLAUSE, "no-cache in the stored response: asked again",
            stored("Cache-Control: no-cache", TAGGED), [], "GET", "revalidate", "no-cache",
        ),
        row(
            CLAUSE, "must-revalidate in the stored response: asked again when stale",
            stored(f"{SWR}, must-revalidate", OLD, TAGGED), [], "GET", "revalidate", "must-revalidate",
        ),
        row(
            CLAUSE, "Stale within stale-while-revalidate: answered stale",
            stored(SWR, OLD), [], "GET", "stale", "stale-while-revalidate",
        ),
        row(
            CLAUSE, "Stale, and the client takes it: answered stale",
            stored(FRESH, OLD, TAGGED), ["Cache-Control: max-stale=1000"], "GET", "stale", "request-max-stale",
        ),
        row(
            CLAUSE, "A client's no-cache: asked again",
            stored(FRESH), ["Cache-Control: no-cache"], "GET", "revalidate", "request-no-cache",
        ),
        row(
            CLAUSE, "A client's no-cache on a route that ignores it: a hit",
            stored(FRESH, route="ignore-no-cache"), ["Cache-Control: no-cache"], "GET", "hit", "fresh",
        ),
        row(
            CLAUSE, "A client's max-age: asked again when older",
            stored(FRESH, "Age: 20"), ["Cache-Control: max-age=10"], "GET", "revalidate", "request-max-age",
        ),
        row(
            CLAUSE, "A client's min-fresh: asked again when not fresh for as long",
            stored(FRESH, "Age: 20"), ["Cache-Control: min-fresh=50"], "GET", "revalidate", "request-min-fresh",
        ),
        row(
            CLAUSE, "Pragma: asked again", stored(FRESH), ["Pragma: no-cache"], "GET", "revalidate", "request-pragma"
        ),
        row(
            CLAUSE, "only-if-cached with nothing stored: 504",
            cold(), ["Cache-Control: only-if-cached"], "GET", "unsatisfiable", "only-if-cached",
        ),
        row(
            CLAUSE, "only-if-cached with something stored: a hit",
            stored(FRESH), ["Cache-Control: only-if-cached"], "GET", "hit", "fresh",
        ),
        row(
            CLAUSE, "A stored variant: a hit",
            stored(FRESH, "Vary: X-Lang", asked=["X-Lang: de"]), ["X-Lang: de"], "GET", "hit", "fresh",
        ),
        row(
            CLAUSE, "A variant that is not stored: a miss",
            stored(FRESH, "Vary: X-Lang", asked=["X-Lang: de"]), ["X-Lang: en"], "GET", "miss", "vary-miss",
        ),
        row(CLAUSE, "Purged: a miss", purged(soft=False), [], "GET", "miss", "nothing-stored"),
        row(CLAUSE, "Purged softly: asked again", purged(soft=True), [], "GET", "revalidate", "soft-purged"),
        row(CLAUSE, "Another method: goes past the cache", stored(FRESH), [], "DELETE", "bypass", "method-not-cached"),
        row(CLAUSE, "A route whose cache is off: goes past it", cold("bypass"), [], "GET", "bypass", "cache-off"),
        row(
            CLAUSE, "An overridden method: goes past the cache",
            stored(FRESH), ["X-HTTP-Method-Override: PUT"], "GET", "bypass", "request-field",
        ),
        row(
            CLAUSE, "A field that is dropped makes no difference: a hit",
            stored(FRESH), ["X-Original-URL: /x"], "GET", "hit", "fresh",
        ),
        row(CLAUSE, "Stored by the route's lifetime: a hit", stored(route="ttl"), [], "GET", "hit", "fresh"),
        row(CLAUSE, "A stored 404: a hit", stored(FRESH, status=404), [], "GET", "hit", "fresh"),
        row(
            CLAUSE, "A part is stored, the whole asked for: a miss",
            stored(FRESH, TAGGED, "Content-Range: bytes 0-1/9", status=206, body="01", asked=["Range: bytes=0-1"]),
            [], "GET", "miss", "partial",
        ),
    ],
)  # fmt: skip
async def test_what_is_explained_is_what_happens(
    cache: CacheUnderTest, prepare: Prepare, lines: Sequence[str], method: str, verdict: str, reason: str
) -> None:
    page = await prepare(cache)
    asked = len(page.seen)
    told = await explain(page, *lines, method=method)
    assert (told["verdict"], told["reason"]) == (verdict, reason)
    assert len(page.seen) == asked, "the origin is left alone"
    answer = await page.ask(*lines, method=method)
    assert does(answer) == verdict
    assert answer.cache_status["detail"] in {step["reason"] for step in told["steps"]}


@behaviour(CLAUSE, "It changes nothing: neither what is stored, nor how often it was used, nor what is counted")
async def test_it_changes_nothing(cache: CacheUnderTest) -> None:
    page = await stored(FRESH, TAGGED, route="show-key")(cache)
    await page.ask()
    async with asyncio.timeout(10):
        while len((await explain(page))["stored"]) < 2:  # the second tier is written behind the answer
            await asyncio.sleep(0.005)
    _, before = await cache.running.admin("GET", "/admin/cache/stats")
    first, second = await explain(page), await explain(page)
    _, after = await cache.running.admin("GET", "/admin/cache/stats")
    for told in (first, second):
        for variant in told["stored"]:
            for moving in [name for name in variant if name.endswith("_seconds")]:
                variant.pop(moving)
    assert first == second
    assert [before["tiers"]["l1"][name] for name in ("hits", "misses")] == [
        after["tiers"]["l1"][name] for name in ("hits", "misses")
    ]
    assert before["routes"]["show-key"] == after["routes"]["show-key"]
    assert (await page.ask()).came_from_store


@behaviour(CLAUSE, "It starts no refresh of what is stale")
async def test_it_refreshes_nothing(cache: CacheUnderTest) -> None:
    page = await stored(SWR, OLD)(cache)
    for _ in range(3):
        assert (await explain(page))["verdict"] == "stale"
    assert len(page.seen) == 1
    assert (await page.ask()).is_hit
    await eventually(lambda: len(page.seen) == 2)


@behaviour(CLAUSE, "It tells of what is stored: status, age, freshness, validator, tags, size")
async def test_what_is_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(
        reply(
            "Cache-Control: max-age=600, stale-while-revalidate=30, stale-if-error=90",
            "Age: 100",
            TAGGED,
            "Cache-Tag: one, two",
            body="0123456789",
        )
    )
    await page.ask()
    found = next(one for one in (await explain(page))["stored"] if one["tier"] == "l1")
    assert (found["selected"], found["status"], found["etag"], found["body_bytes"]) == (True, 200, '"1"', 10)
    assert found["tags"] == ["one", "two"]
    assert 100 <= found["age_seconds"] < 110
    assert 490 < found["fresh_for_seconds"] <= 500
    assert 520 < found["usable_stale_for_seconds"] <= 530
    assert 580 < found["usable_on_error_for_seconds"] <= 590


@behaviour(CLAUSE, "It tells of all variants, and which one the request selects")
async def test_variants(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, "Vary: X-Lang", body=seen.field("X-Lang")))
    for language in ("de", "en", "nl-BE"):
        await page.ask(f"X-Lang: {language}")
    here = [one for one in (await explain(page, "X-Lang: nl-BE"))["stored"] if one["tier"] == "l1"]
    assert len(here) == 3
    assert [one["body_bytes"] for one in here if one["selected"]] == [5]
    assert all(one["vary"] == ["x-lang"] for one in here)


@behaviour(CLAUSE, "It tells of the key, the same that Cache-Status tells, and of the route")
async def test_key_and_route(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="show-key")
    told = await explain(page)
    assert told["route"] == "show-key"
    assert f'"{told["key"]}"' == (await page.ask()).cache_status["key"]


@behaviour(CLAUSE, "The key that it tells has been made by the route's rules")
async def test_key_by_the_routes_rules(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="ignore-query")
    told = await explain(page, query="?b=2&utm_source=x&a=1")
    assert told["key"] == f"GET {page.url}?a=1&b=2"


@pytest.mark.parametrize(
    ("lines", "reason", "word"),
    [
        row(CLAUSE, "It advises what no-store would need", ["Cache-Control: no-store"], "no-store", "no-store"),
        row(CLAUSE, "It advises what private would need", ["Cache-Control: private"], "private", "private"),
        row(CLAUSE, "It advises what Vary: * would need", [FRESH, "Vary: *"], "vary-star", "Vary"),
        row(CLAUSE, "It advises what a cookie would need", [FRESH, "Set-Cookie: a=1"], "set-cookie", "cookie"),
        row(CLAUSE, "It advises what a response without lifetime would need", [], "no-freshness", "max-age"),
    ],
)
async def test_advice(cache: CacheUnderTest, lines: Sequence[str], reason: str, word: str) -> None:
    page = await stored(*lines)(cache)
    told = await explain(page)
    assert reason in {step["reason"] for step in told["steps"]}
    assert any(word in advice for advice in told["advice"])


@behaviour(CLAUSE, "Each step that a rule of a specification decides names its clause")
async def test_clauses(cache: CacheUnderTest) -> None:
    page = await stored(FRESH, OLD, TAGGED)(cache)
    steps = (await explain(page, "Cache-Control: max-age=10"))["steps"]
    assert [step["step"] for step in steps[:2]] == ["route", "key"]
    assert all(step["clause"].startswith("RFC ") for step in steps if step["reason"] is not None)
    assert all(step["outcome"].endswith((".", ":")) for step in steps)


@behaviour(CLAUSE, "It tells of a fetch under way, for which the request would wait")
async def test_fetch_under_way(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, until=gate))
    asking = asyncio.ensure_future(page.ask())
    await eventually(lambda: len(page.seen) == 1)
    told = await explain(page)
    gate.set()
    await asking
    assert "flight" in {step["step"] for step in told["steps"]}
    assert "flight" not in {step["step"] for step in (await explain(page))["steps"]}


@behaviour(CLAUSE, "It tells why what came a moment ago was not stored, for which requests go side by side now")
async def test_not_storable_a_moment_ago(cache: CacheUnderTest) -> None:
    page = await stored("Cache-Control: no-store")(cache)
    told = await explain(page)
    assert (told["verdict"], told["reason"]) == ("miss", "nothing-stored")
    assert [step["reason"] for step in told["steps"] if step["step"] == "memory"] == ["no-store"]
    answer = await page.ask()
    assert (does(answer), answer.cache_status["detail"]) == ("miss", "recently-uncacheable")


@behaviour(CLAUSE, "It tells of an origin that failed a moment ago, and is not asked again yet")
async def test_failing_origin(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, OLD), reply(status=503), route="patient")
    await page.ask()
    await page.ask()
    told = await explain(page)
    assert any("failed a moment ago" in step["outcome"] for step in told["steps"] if step["step"] == "memory")
    assert (await page.ask()).asked == 0


@pytest.mark.parametrize(
    "question",
    [
        row(CLAUSE, "A question without URL is refused", []),
        row(CLAUSE, "A question with a relative URL is refused", [("url", "/x")]),
        row(CLAUSE, "A question with a malformed field is refused", [("url", "http://a.example/"), ("header", "x")]),
    ],
)
async def test_bad_question(cache: CacheUnderTest, question: Sequence[tuple[str, str]]) -> None:
    status, problem = await cache.running.admin("GET", "/admin/cache/explain", params=question)
    assert 400 <= status < 500
    assert "title" in problem
