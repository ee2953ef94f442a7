"""Cache-Status: what the cache says it did, in every case what it did (RFC 9211)."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import Framing, Script, reply
from tests.support.sidecar import eventually

behaviour = behaviours_of(Group.CACHE_STATUS)
row = behaviour.row

FRESH = "Cache-Control: max-age=60"
STALE = (FRESH, "Age: 100", 'ETag: "1"')
CONFIRMED = reply(FRESH, 'ETag: "1"', status=304)
NO_STORE = reply("Cache-Control: no-store")


def says(answer: Answer, **expected: str | None) -> bool:
    """Whether Cache-Status has the parameters `expected` (None: not at all); `_` stands for `-` in names."""
    found = {name: answer.cache_status.get(name.replace("_", "-")) for name in expected}
    assert found == expected, answer.cache_status
    return True


async def warm(cache: CacheUnderTest, *scripts: Script, route: str = "") -> Resource:
    """A resource whose first answer has been given."""
    page = cache.resource(*scripts, route=route)
    await page.ask()
    return page


# hit


@behaviour("RFC 9211 §2.1", "An answer from the store says hit, and neither fwd nor what goes with it")
async def test_hit(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(FRESH))
    answer = await page.ask()
    assert answer.asked == 0
    assert says(answer, hit="", fwd=None, fwd_status=None, stored=None, collapsed=None, detail="fresh")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        row("RFC 9211 §2.1", "A 304 made of a stored response is a hit", 'If-None-Match: "1"', 304),
        row("RFC 9211 §2.1", "A 206 made of a stored response is a hit", "Range: bytes=0-0", 206),
        row("RFC 9211 §2.1", "A 416 made of a stored response is a hit", "Range: bytes=999-", 416),
    ],
)
async def test_hit_that_is_modified(cache: CacheUnderTest, line: str, status: int) -> None:
    page = await warm(cache, reply(FRESH, 'ETag: "1"'))
    answer = await page.ask(line)
    assert (answer.asked, answer.status) == (0, status)
    assert says(answer, hit="", fwd=None)


@behaviour("RFC 9211 §2.1", "HEAD that is answered from a stored GET is a hit")
async def test_head(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(FRESH))
    assert says(await page.ask(method="HEAD"), hit="", fwd=None)


@behaviour("RFC 9211 §2.1", "A stale answer given without asking is a hit with a negative ttl")
async def test_stale_hit(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply("Cache-Control: max-age=60, stale-while-revalidate=600", "Age: 100"))
    answer = await page.ask()
    assert says(answer, hit="", fwd=None, detail="stale-while-revalidate")
    assert -45 <= int(answer.cache_status["ttl"]) <= -40


# fwd


@behaviour("RFC 9211 §2.2", "fwd=uri-miss: nothing was stored for the URI")
async def test_uri_miss(cache: CacheUnderTest) -> None:
    answer = await cache.resource(reply(FRESH)).ask()
    assert says(answer, hit=None, fwd="uri-miss", fwd_status="200", stored="", detail="nothing-stored")


@behaviour("RFC 9211 §2.2", "fwd=vary-miss: none of the stored variants was selected")
async def test_vary_miss(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "Vary: X-Lang"))
    await page.ask("X-Lang: de")
    assert says(await page.ask("X-Lang: en"), hit=None, fwd="vary-miss", stored="")


@behaviour("RFC 9211 §2.2", "fwd=stale: what was selected was stale; fwd-status tells of the 304 that confirmed it")
async def test_stale(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(*STALE), CONFIRMED)
    answer = await page.ask()
    assert answer.status == 200
    assert says(answer, hit=None, fwd="stale", fwd_status="304")


@behaviour("RFC 9211 §2.2", "fwd=stale and fwd-status=200: what was selected was stale, and has been replaced")
async def test_replaced(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(*STALE), reply(FRESH))
    assert says(await page.ask(), hit=None, fwd="stale", fwd_status="200", stored="")


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        row("RFC 9211 §2.2", "fwd=request: a client's no-cache", "Cache-Control: no-cache", "request-no-cache"),
        row("RFC 9211 §2.2", "fwd=request: a client's Pragma", "Pragma: no-cache", "request-pragma"),
        row("RFC 9211 §2.2", "fwd=request: a client's max-age", "Cache-Control: max-age=10", "request-max-age"),
        row("RFC 9211 §2.2", "fwd=request: a client's min-fresh", "Cache-Control: min-fresh=50", "request-min-fresh"),
    ],
)
async def test_request(cache: CacheUnderTest, line: str, detail: str) -> None:
    page = await warm(cache, reply(FRESH, "Age: 20"), reply(FRESH))
    answer = await page.ask(line)
    assert answer.asked == 1
    assert says(answer, hit=None, fwd="request", fwd_status="200", detail=detail)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        row("RFC 9211 §2.2", "fwd=method: POST", "POST", b"a=1"),
        row("RFC 9211 §2.2", "fwd=method: DELETE", "DELETE", None),
        row("RFC 9211 §2.2", "fwd=method: OPTIONS", "OPTIONS", None),
    ],
)
async def test_method(cache: CacheUnderTest, method: str, body: bytes | None) -> None:
    page = await warm(cache, reply(FRESH))
    answer = await page.ask(method=method, body=body)
    assert says(answer, hit=None, fwd="method", fwd_status="200", stored=None, detail="method-not-cached")


@pytest.mark.parametrize(
    ("route", "lines", "body", "detail"),
    [
        row("RFC 9211 §2.2", "fwd=bypass: the route's cache is off", "bypass", [], None, "cache-off"),
        row("RFC 9211 §2.2", "fwd=bypass: a GET with a body", "", [], b"a=1", "request-body"),
        row("RFC 9211 §2.2", "fwd=bypass: an overridden method", "", ["X-HTTP-Method: PUT"], None, "request-field"),
    ],
)
async def test_bypass(cache: CacheUnderTest, route: str, lines: Sequence[str], body: bytes | None, detail: str) -> None:
    page = await warm(cache, reply(FRESH), route=route)
    answer = await page.ask(*lines, body=body)
    assert says(answer, hit=None, fwd="bypass", fwd_status="200", stored=None, detail=detail)


@behaviour("RFC 9211 §2.2", "fwd=partial: only a part is stored, and more was asked for")
async def test_partial(cache: CacheUnderTest) -> None:
    part = reply(FRESH, 'ETag: "1"', "Content-Range: bytes 0-2/9", status=206, body=b"012")
    page = cache.resource(part, reply(FRESH, 'ETag: "1"', body=b"012345678"))
    assert says(await page.ask("Range: bytes=0-2"), hit=None, fwd="uri-miss", fwd_status="206", stored="")
    assert says(await page.ask(), hit=None, fwd="partial", fwd_status="200", stored="")


@behaviour("RFC 9211 §2.2", "fwd=uri-miss: what was purged is not there any more")
async def test_purged(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(FRESH))
    await page.purge()
    assert says(await page.ask(), hit=None, fwd="uri-miss", stored="")


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9211 §2.3", f"fwd-status tells of the origin's {status}", status)
        for status in (203, 204, 301, 404, 410, 500, 503)
    ],
)
async def test_forwarded_status(cache: CacheUnderTest, status: int) -> None:
    answer = await cache.resource(reply("Cache-Control: no-store", status=status)).ask()
    assert says(answer, fwd="uri-miss", fwd_status=str(status), stored=None)


@behaviour("RFC 9211 §2.3", "A 304 made here of what the origin sent in full says fwd-status=200")
async def test_304_of_a_full_response(cache: CacheUnderTest) -> None:
    answer = await cache.resource(reply(FRESH, 'ETag: "1"')).ask('If-None-Match: "1"')
    assert answer.status == 304
    assert says(answer, hit=None, fwd="uri-miss", fwd_status="200", stored="")


@behaviour(
    "RFC 9211 §2.1", "A stale answer in place of an error that the origin sent is no hit: it says fwd and the error"
)
async def test_stale_if_error(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply("Cache-Control: max-age=60, stale-if-error=600", "Age: 100", body="old"))
    page.answers(reply(status=503))
    answer = await page.ask()
    assert (answer.asked, answer.body) == (1, b"old")
    assert says(answer, hit=None, fwd="stale", fwd_status="503", detail="stale-if-error")
    assert int(answer.cache_status["ttl"]) < 0


@behaviour("RFC 9211 §2.1", "A stale answer while the origin is left alone after an error is a hit: nobody was asked")
async def test_stale_while_failing(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply("Cache-Control: max-age=60, stale-if-error=600", "Age: 100"), route="patient")
    page.answers(reply(status=503))
    await page.ask()
    answer = await page.ask()
    assert answer.asked == 0
    assert says(answer, hit="", fwd=None, detail="stale-if-error")


@behaviour("RFC 9211 §2.2", "An origin that cannot be reached: fwd without fwd-status", optional=True)
async def test_unreachable(cache: CacheUnderTest) -> None:
    answer = await cache.resource(reply(framing=Framing.NOTHING)).ask()
    assert answer.status == 502
    assert says(answer, hit=None, fwd="uri-miss", fwd_status=None, detail="upstream-error")


@behaviour("RFC 9211 §2", "504 for only-if-cached says neither hit nor fwd, and why", optional=True)
async def test_only_if_cached(cache: CacheUnderTest) -> None:
    answer = await cache.resource(reply(FRESH)).ask("Cache-Control: only-if-cached")
    assert (answer.status, answer.asked) == (504, 0)
    assert says(answer, hit=None, fwd=None, detail="only-if-cached")


# ttl


@pytest.mark.parametrize(
    ("lines", "low", "high"),
    [
        row(
            "RFC 9211 §2.4", "ttl is what is left of the lifetime", ["Cache-Control: max-age=600", "Age: 100"], 490, 500
        ),
        row("RFC 9211 §2.4", "ttl is negative when stale", list(STALE), -50, -40),
        row(
            "RFC 9211 §2.4", "ttl counts s-maxage before max-age", ["Cache-Control: max-age=60, s-maxage=600"], 590, 600
        ),
    ],
)
async def test_ttl(cache: CacheUnderTest, lines: Sequence[str], low: int, high: int) -> None:
    page = await warm(cache, reply(*lines))
    answer = await page.ask("Cache-Control: max-stale=1000")
    assert answer.is_hit
    assert low <= int(answer.cache_status["ttl"]) <= high


@behaviour("RFC 9211 §2.4", "ttl tells of a lifetime that the route gives")
async def test_ttl_of_a_route(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(), route="ttl")
    assert 50 <= int((await page.ask()).cache_status["ttl"]) <= 60


@behaviour("RFC 9211 §2.4", "ttl and Age add up to the lifetime")
async def test_ttl_and_age(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply("Cache-Control: max-age=600", "Age: 100"))
    answer = await page.ask()
    assert 599 <= int(answer.cache_status["ttl"]) + answer.age <= 600


# stored, collapsed


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        row("RFC 9211 §2.5", "no-store: not stored, and the reason", NO_STORE, "no-store"),
        row("RFC 9211 §2.5", "private: not stored, and the reason", reply("Cache-Control: private"), "private"),
        row("RFC 9211 §2.5", "Vary: *: not stored, and the reason", reply(FRESH, "Vary: *"), "vary-star"),
        row("RFC 9211 §2.5", "A cookie: not stored, and the reason", reply(FRESH, "Set-Cookie: a=1"), "set-cookie"),
        row("RFC 9211 §2.5", "No freshness at all: not stored, and the reason", reply(), "no-freshness"),
        row(
            "RFC 9211 §2.5", "A status code that asks for more: not stored, and the reason",
            reply(status=403), "status-not-cacheable",
        ),
    ],
)  # fmt: skip
async def test_not_stored(cache: CacheUnderTest, script: Script, detail: str) -> None:
    page = cache.resource(script)
    assert says(await page.ask(), hit=None, fwd="uri-miss", stored=None, detail=detail)
    assert not (await page.ask()).is_hit


@behaviour("RFC 9211 §2.5", "stored is said of what is stored, and the next request shows it")
async def test_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    assert says(await page.ask(), stored="")
    assert (await page.ask()).came_from_store


@behaviour("RFC 9211 §2.6", "collapsed is said to all who shared another's request, and to them alone")
async def test_collapsed(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, until=gate))
    asking = [asyncio.ensure_future(page.ask()) for _ in range(10)]
    await eventually(lambda: len(page.seen) == 1)
    gate.set()
    answers = await asyncio.gather(*asking)
    forwarded = [answer for answer in answers if not answer.is_hit]
    assert [answer.asked for answer in answers].count(1) >= 1
    assert sum("collapsed" not in answer.cache_status for answer in forwarded) == 1
    assert all(says(answer, fwd="uri-miss", fwd_status="200", stored="") for answer in forwarded)


# key, detail, and the field itself


@behaviour("RFC 9211 §6", "The key is not told unless a route says so")
async def test_no_key(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(FRESH))
    assert says(await page.ask(), key=None)


@behaviour("RFC 9211 §2.7", "The key is told where a route says so: a string, the same for fills and hits")
async def test_key(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="show-key")
    expected = f'"GET {page.url}"'
    assert [(await page.ask()).cache_status["key"] for _ in range(2)] == [expected, expected]


@behaviour("RFC 9211 §2.7", "Quotes in the key are escaped: the field stays a structured one")
async def test_key_with_quotes(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="show-key")
    answer = await page.ask(query="?a=\\x")
    assert answer.status in {200, 400}
    if answer.status == 200:
        assert answer.cache_status["key"].endswith('?a=\\\\x"')


@behaviour("cache_status", "A route may have nothing said of the cache")
async def test_quiet(cache: CacheUnderTest) -> None:
    page = await warm(cache, reply(FRESH), route="quiet")
    answer = await page.ask()
    assert (answer.asked, answer.all("Cache-Status")) == (0, [])


@behaviour("RFC 9211 §2", "What caches nearer to the origin say stays, in its place before this one's")
async def test_other_caches(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "Cache-Status: Far; hit; ttl=30, Near; fwd=miss"))
    answers = [await page.ask() for _ in range(2)]
    for answer in answers:
        members = [member.strip() for line in answer.all("Cache-Status") for member in line.split(",")]
        assert members[:2] == ["Far; hit; ttl=30", "Near; fwd=miss"]
        assert [member.partition(";")[0] for member in members] == ["Far", "Near", "sidecache"]
    assert answers[1].is_hit


@behaviour("RFC 9211 §2", "What the server itself refuses has no Cache-Status: no cache had to do with it")
async def test_refused(cache: CacheUnderTest) -> None:
    answer = await cache.resource(reply(FRESH)).ask("Content-Length: x")
    assert (answer.status, answer.all("Cache-Status")) == (400, [])


PARAMETERS: Mapping[str, Sequence[str]] = {
    "hit": ["hit", "ttl", "detail"],
    "fwd": ["fwd", "fwd-status", "ttl", "stored", "detail"],
}


@behaviour("RFC 9211 §2", "All parameters are those that RFC 9211 defines")
async def test_parameters(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    cold, hit = await page.ask(), await page.ask()
    assert list(cold.cache_status) == PARAMETERS["fwd"]
    assert list(hit.cache_status) == PARAMETERS["hit"]
