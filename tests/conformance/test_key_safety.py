"""Key safety: no request gets, or brings about, an answer that is not its own (RFC 9111 §2, §7)."""

from collections.abc import Sequence

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import http_date, reply
from tests.support.raw_client import RawClient, request

behaviour = behaviours_of(Group.KEY_SAFETY)
row = behaviour.row

FRESH = "Cache-Control: max-age=60"
PAST = f"Last-Modified: {http_date(-864_000)}"
EVIL = "evil.example"


async def share(page: Resource, first: str, second: str) -> bool:
    """Whether requests with these queries get one stored response."""
    await page.ask(query=first)
    return (await page.ask(query=second)).came_from_store


# What is in the key.


@behaviour("RFC 9111 §2", "The host is part of the key")
async def test_host(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, body=seen.field("Host")))
    hosts = ["a.example", "b.example", "a.example:8080"]
    for _ in range(2):
        assert [(await page.ask(host=host)).body.decode() for host in hosts] == hosts
    assert len(page.seen) == len(hosts)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        row("RFC 9110 §4.2.3", "A host is the same in any case", "a.example", "A.EXAMPLE"),
        row("RFC 9110 §4.2.3", "A host is the same with the scheme's default port", "a.example", "a.example:80"),
    ],
)
async def test_same_host(cache: CacheUnderTest, first: str, second: str) -> None:
    page = cache.resource(reply(FRESH))
    await page.ask(host=first)
    assert (await page.ask(host=second)).came_from_store


@behaviour("RFC 9112 §3.2.2", "The host of an absolute target counts, not the Host field beside it")
async def test_absolute_target(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, body=seen.field("Host")))
    async with await RawClient.connect(cache.running.address) as client:
        absolute = await client.ask(request(f"http://a.example{page.path}", host=EVIL))
    assert absolute.body == b"a.example"
    assert (await page.ask(host="a.example")).came_from_store
    assert not (await page.ask(host=EVIL)).came_from_store


@behaviour("RFC 9112 §3.2", "A request with two Host lines is refused, and leaves nothing behind")
async def test_two_hosts(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    async with await RawClient.connect(cache.running.address) as client:
        refused = await client.ask(request(page.path, f"Host: {EVIL}", host="a.example"))
    assert (refused.status, page.seen) == (400, [])
    assert [(await page.ask(host=host)).is_hit for host in ("a.example", EVIL)] == [False, False]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        row("RFC 9111 §2", "The query is part of the key", "?a=1", "?a=2"),
        row("RFC 9111 §2", "An empty query is not the same as none", "", "?", optional=True),
        row("RFC 9111 §2", "The query is compared in the case it has", "?a=x", "?a=X"),
        row("RFC 9111 §2", "The order of query parameters matters unless a route says not", "?a=1&b=2", "?b=2&a=1"),
        row("RFC 3986 §6.2.2", "Escapes are compared as they are written", "?a=~", "?a=%7E", optional=True),
    ],
)
async def test_queries_that_differ(cache: CacheUnderTest, first: str, second: str) -> None:
    assert not await share(cache.resource(reply(FRESH)), first, second)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        row("ignore_query", "A route may leave query parameters out of the key", "?a=1&utm_source=x", "?a=1", True),
        row("ignore_query", "All other parameters stay in the key", "?a=1&utm_source=x", "?a=2&utm_source=x", False),
        row("sort_query", "A route may have the order of query parameters not matter", "?a=1&b=2", "?b=2&a=1", True),
        row("sort_query", "The order of one parameter's values always matters", "?a=1&a=2", "?a=2&a=1", False),
    ],
)
async def test_queries_by_route(cache: CacheUnderTest, first: str, second: str, *, shared: bool) -> None:
    assert await share(cache.resource(reply(FRESH), route="ignore-query"), first, second) is shared


@behaviour("RFC 9110 §4.2.3", "The path is compared in the case it has")
async def test_paths_case(cache: CacheUnderTest) -> None:
    upper, lower = cache.resource(reply(FRESH), suffix="X"), cache.resource(reply(FRESH))
    lower.cache.origin.answers(upper.path.lower(), reply(FRESH))
    await upper.ask()
    assert not (await Resource(cache, upper.path.lower()).ask()).is_hit


@behaviour("key_headers", "A route may make request fields part of the key, absent ones as well")
async def test_key_headers(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, body=seen.field("X-Tenant") or "none"), route="key-headers")
    requests = {"none": [], "one": ["X-Tenant: one"], "two": ["X-Tenant: two"]}
    for _ in range(2):
        for name, lines in requests.items():
            assert (await page.ask(*lines)).body == name.encode()
    assert len(page.seen) == len(requests)


# Fields by which an origin may choose its answer, and which are not in the key.


async def poisoned(page: Resource, line: str) -> Answer:
    """The answer to a request with `line`, of which the origin makes its answer."""
    name = line.partition(":")[0]
    page.answers(lambda seen: reply(FRESH, body=", ".join(seen.all(name)) or "clean"))
    return await page.ask(line)


@pytest.mark.parametrize(
    "name",
    [
        row("unkeyed_fields", f"A client's {name} does not reach the origin", name)
        for name in (
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-Original-URI",
            "X-Forwarded-Path",
            "X-Forwarded-Prefix",
            "X-Forwarded-Uri",
            "X-Forwarded-Scheme",
            "X-Forwarded-Server",
            "X-Forwarded-SSL",
            "X-Host",
            "X-Original-Host",
            "X-HTTP-Host-Override",
            "X-URL-Scheme",
            "Front-End-Https",
        )
    ],
)
async def test_dropped_field(cache: CacheUnderTest, name: str) -> None:
    page = cache.resource()
    answer = await poisoned(page, f"{name}: {EVIL}")
    assert answer.body == b"clean"
    later = await page.ask()
    assert (later.came_from_store, later.body) == (True, b"clean")


@pytest.mark.parametrize(
    "line",
    [
        row("RFC 7239 §4", "A client's Forwarded is replaced by this server's own", f"Forwarded: host={EVIL}"),
        row("RFC 7239 §8.1", "A client's X-Forwarded-Host is replaced by the key's host", f"X-Forwarded-Host: {EVIL}"),
        row("RFC 7239 §8.1", "A client's X-Forwarded-Proto is replaced by the key's scheme", "X-Forwarded-Proto: evil"),
        row("RFC 7239 §8.1", "A client's X-Forwarded-For is replaced by its address", "X-Forwarded-For: evil"),
        row("RFC 7239 §8.1", "A client's X-Forwarded-Port does not reach the origin", "X-Forwarded-Port: evil"),
    ],
)
async def test_replaced_field(cache: CacheUnderTest, line: str) -> None:
    page = cache.resource()
    answer = await poisoned(page, line)
    assert b"evil" not in answer.body
    assert (await page.ask()).body == answer.body


@pytest.mark.parametrize(
    "name",
    [
        row("unkeyed_fields", f"{name} has a request neither stored nor answered from the store", name)
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    ],
)
async def test_bypassing_field(cache: CacheUnderTest, name: str) -> None:
    page = cache.resource()
    assert (await poisoned(page, f"{name}: DELETE")).body == b"DELETE"
    clean = await page.ask()
    assert (clean.came_from_store, clean.body) == (False, b"clean")
    again = await page.ask(f"{name}: DELETE")
    assert (again.came_from_store, again.body, again.cache_status["fwd"]) == (False, b"DELETE", "bypass")


@pytest.mark.parametrize(
    ("line", "reaches", "stored"),
    [
        row("unkeyed_fields", "A route may have a field dropped", "X-Feature: evil", False, True),
        row("unkeyed_fields", "A route may have a field bypass the cache", "X-Preview: evil", True, False),
        row("unkeyed_fields", "A route may have a field passed that is dropped elsewhere", "X-Host: evil", True, True),
    ],
)
async def test_rule_of_a_route(cache: CacheUnderTest, line: str, *, reaches: bool, stored: bool) -> None:
    page = cache.resource(route="unkeyed")
    answer = await poisoned(page, line)
    assert answer.body == (b"evil" if reaches else b"clean")
    assert (await page.ask()).came_from_store is stored


@behaviour("RFC 9111 §4.1", "A field that passes and is named in Vary makes a variant, not everybody's answer")
async def test_field_in_vary(cache: CacheUnderTest) -> None:
    page = cache.resource(
        lambda seen: reply(FRESH, "Vary: X-Host", body=seen.field("X-Host") or "clean"), route="unkeyed"
    )
    assert (await page.ask("X-Host: evil")).body == b"evil"
    assert (await page.ask()).body == b"clean"


@behaviour("RFC 9110 §9.3.1", "A GET with a body goes past the cache: it neither gets nor brings a stored response")
async def test_get_with_a_body(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, body=seen.body or b"clean"))
    fat = await page.ask(body=b"evil")
    assert (fat.body, fat.cache_status["fwd"]) == (b"evil", "bypass")
    assert (await page.ask()).body == b"clean"
    assert (await page.ask(body=b"evil")).body == b"evil"


@behaviour("RFC 9112 §6.3", "A GET with an empty body is like any other")
async def test_get_with_an_empty_body(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    await page.ask(body=b"")
    assert (await page.ask()).came_from_store


@behaviour("RFC 9110 §7.6.1", "Fields that Connection names do not reach the origin")
async def test_fields_named_by_connection(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, body=seen.field("X-Odd") or "clean"))
    assert (await page.ask("X-Odd: evil", "Connection: X-Odd")).body == b"clean"


# Errors that an odd request brings about.


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9110 §15.1", f"{status} is not stored unless the origin says so explicitly", status)
        for status in (400, 403, 406, 413, 415, 417, 421, 426, 429, 431, 500, 503)
    ],
)
async def test_error_is_not_stored(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(PAST, 'ETag: "1"', status=status), reply(FRESH, body="good"))
    await page.ask()
    assert (await page.ask()).body == b"good"


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9110 §15.1", f"{status} is not stored for its code alone", status, optional=True)
        for status in (405, 414, 501)
    ],
)
async def test_provoked_error_is_not_stored(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply('ETag: "1"', status=status), reply(FRESH, body="good"), route="ttl")
    await page.ask()
    assert (await page.ask()).body == b"good"


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9111 §3", f"{status} with an explicit lifetime is stored", status)
        for status in (400, 405, 413, 414, 431, 501)
    ],
)
async def test_error_with_a_lifetime(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(FRESH, status=status))
    await page.ask()
    answer = await page.ask()
    assert (answer.came_from_store, answer.status) == (True, status)


@pytest.mark.parametrize(
    "status",
    [
        row("ttl_seconds", f"A lifetime that a route gives is not for {status}", status)
        for status in (400, 401, 403, 429, 500, 503)
    ],
)
async def test_route_lifetime_is_not_for_errors(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(status=status), reply(body="good"), route="ttl")
    await page.ask()
    assert (await page.ask()).body == b"good"


# Web cache deception.


@pytest.mark.parametrize(
    ("suffix", "lines", "stored"),
    [
        row(
            "ttl_seconds",
            "A route's lifetime is not for HTML under a style sheet's name",
            "/x.css",
            ["Content-Type: text/html"],
            False,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is not for JSON under a picture's name",
            "/x.png",
            ["Content-Type: application/json"],
            False,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is not for what says no Content-Type under a script's name",
            "/x.js",
            [],
            False,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is not for HTML under a style sheet's name behind an escaped slash",
            "/a%2Fx.css",
            ["Content-Type: text/html"],
            False,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is not for HTML under a style sheet's name behind a semicolon",
            ";x.css",
            ["Content-Type: text/html"],
            False,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is not for HTML under a style sheet's name with an escaped dot",
            "/x%2Ecss",
            ["Content-Type: text/html"],
            False,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is for a style sheet under its name",
            "/x.css",
            ["Content-Type: text/css; charset=utf-8"],
            True,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is for any picture under a picture's name",
            "/x.png",
            ["Content-Type: image/webp"],
            True,
        ),
        row(
            "ttl_seconds",
            "A route's lifetime is for anything under a path without extension",
            "/x",
            ["Content-Type: text/html"],
            True,
        ),
        row(
            "ttl_seconds",
            "A lifetime that the origin gives is believed, whatever the name",
            "/x.css",
            ["Content-Type: text/html", FRESH],
            True,
        ),
    ],
)
async def test_deception(cache: CacheUnderTest, suffix: str, lines: Sequence[str], *, stored: bool) -> None:
    page = cache.resource(reply(*lines), route="ttl", suffix=suffix)
    await page.ask()
    assert (await page.ask()).came_from_store is stored
