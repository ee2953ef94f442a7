"""POST and QUERY: stored by the request's content where a route asks for it (RFC 9110 §9.3.3, the QUERY method)."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import http_date, reply
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import eventually

behaviour = behaviours_of(Group.BODY_METHODS)
row = behaviour.row

FRESH = "Cache-Control: max-age=60"
JSON = "Content-Type: application/json"
PAST = f"Last-Modified: {http_date(-864_000)}"
BOTH = ["QUERY", "POST"]


async def ask(page: Resource, body: bytes, *lines: str, method: str = "QUERY") -> Answer:
    return await page.ask(*(lines or (JSON,)), method=method, body=body)


@pytest.mark.parametrize(
    "method",
    [
        row("RFC 9110 §9.3.3", "POST goes past the cache unless a route lists it", "POST"),
        row("body_methods", "QUERY goes past the cache unless a route lists it", "QUERY"),
    ],
)
async def test_not_listed(cache: CacheUnderTest, method: str) -> None:
    page = cache.resource(reply(FRESH))
    await ask(page, b"{}", method=method)
    answer = await ask(page, b"{}", method=method)
    assert (answer.came_from_store, answer.cache_status["fwd"]) == (False, "method")


@pytest.mark.parametrize(
    "method",
    [
        row("RFC 9110 §9.3.3", "POST is stored on a route that lists it, with an explicit lifetime", "POST"),
        row("body_methods", "QUERY is stored on a route that lists it, with an explicit lifetime", "QUERY"),
    ],
)
async def test_listed(cache: CacheUnderTest, method: str) -> None:
    page = cache.resource(reply(FRESH), route="body")
    first = await ask(page, b'{"a":1}', method=method)
    second = await ask(page, b'{"a":1}', method=method)
    assert (first.came_from_store, second.came_from_store) == (False, True)
    assert first.body == second.body
    assert page.seen[0].body == b'{"a":1}', "the origin gets the content as it came"


@pytest.mark.parametrize(
    "lines",
    [
        row("RFC 9110 §9.3.3", "POST is not stored by a heuristic", [PAST, 'ETag: "1"']),
        row("RFC 9110 §9.3.3", "POST is not stored for its validator alone", ['ETag: "1"']),
        row("RFC 9111 §5.2.2.5", "POST with no-store is not stored", ["Cache-Control: no-store, max-age=60"]),
        row("RFC 9111 §5.2.2.7", "POST that is private is not stored", ["Cache-Control: private, max-age=60"]),
    ],
)
async def test_post_that_is_not_stored(cache: CacheUnderTest, lines: Sequence[str]) -> None:
    page = cache.resource(reply(*lines), route="body")
    await ask(page, b"{}", method="POST")
    assert not (await ask(page, b"{}", method="POST")).came_from_store


@pytest.mark.parametrize(
    "lines",
    [
        row("RFC 9111 §5.2.2.10", "POST with s-maxage is stored", ["Cache-Control: s-maxage=60"]),
        row("RFC 9111 §5.3", "POST with an Expires in the future is stored", [f"Expires: {http_date(3600)}"]),
    ],
)
async def test_post_with_another_lifetime(cache: CacheUnderTest, lines: Sequence[str]) -> None:
    page = cache.resource(reply(*lines), route="body")
    await ask(page, b"{}", method="POST")
    assert (await ask(page, b"{}", method="POST")).came_from_store


@pytest.mark.parametrize(
    ("first", "second"),
    [
        row("body_methods", "White space in JSON makes no difference", b'{"a": [1, 2]}', b'{ "a":[1,2] }\n'),
        row("body_methods", "The order of names in JSON makes no difference", b'{"a":1,"b":2}', b'{"b":2,"a":1}'),
        row("body_methods", "Escapes in JSON make no difference", '{"a":"ä"}'.encode(), b'{"a":"\\u00e4"}'),
    ],
)
async def test_json_that_means_the_same(cache: CacheUnderTest, first: bytes, second: bytes) -> None:
    page = cache.resource(reply(FRESH), route="body")
    await ask(page, first)
    assert (await ask(page, second)).came_from_store


@pytest.mark.parametrize(
    ("first", "second", "content_type"),
    [
        row("body_methods", "Another content is another key", b'{"a":1}', b'{"a":2}', JSON),
        row("body_methods", "The order of a JSON array matters", b"[1,2]", b"[2,1]", JSON),
        row("body_methods", "JSON numbers are compared as they are written", b"[1]", b"[1.0]", JSON),
        row("body_methods", "A JSON string is not the number it looks like", b'["1"]', b"[1]", JSON),
        row("body_methods", "JSON true is not 1", b"[true]", b"[1]", JSON),
        row("body_methods", "JSON with a name twice counts byte for byte", b'{"a":1,"a":2}', b'{"a":2}', JSON),
        row("body_methods", "What is no JSON counts byte for byte", b"a=1&b=2", b"b=2&a=1", "Content-Type: text/plain"),
        row("body_methods", "Malformed JSON counts byte for byte", b'{"a":', b'{"a": ', JSON),
    ],
)
async def test_content_that_differs(cache: CacheUnderTest, first: bytes, second: bytes, content_type: str) -> None:
    page = cache.resource(lambda seen: reply(FRESH, body=b"of " + seen.body), route="body")
    for _ in range(2):
        for content in (first, second):
            assert (await ask(page, content, content_type)).body == b"of " + content
    assert len(page.seen) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        row(
            "RFC 9110 §6.4", "The same bytes of another Content-Type are another key", JSON, "Content-Type: text/plain"
        ),
        row(
            "RFC 9110 §6.4",
            "The same bytes in another Content-Encoding are another key",
            "Content-Encoding: gzip",
            "Content-Encoding: br",
        ),
        row(
            "RFC 9110 §6.4",
            "The same bytes in another Content-Language are another key",
            "Content-Language: de",
            "Content-Language: en",
        ),
    ],
)
async def test_description_of_the_content(cache: CacheUnderTest, first: str, second: str) -> None:
    page = cache.resource(reply(FRESH), route="body")
    await ask(page, b"1", first)
    assert not (await ask(page, b"1", second)).came_from_store
    assert (await ask(page, b"1", first)).came_from_store


@behaviour("RFC 9111 §2", "The method is part of the key: GET, POST and QUERY never answer each other")
async def test_methods_do_not_mix(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, body=seen.method), route="body")
    for _ in range(2):
        for method in BOTH:
            assert (await ask(page, b"", method=method)).body == method.encode()
        assert (await page.ask()).body == b"GET"
    assert len(page.seen) == 3


@behaviour("RFC 9111 §2", "The same content sent to another URI is another key")
async def test_another_uri(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="body")
    await page.ask(JSON, method="QUERY", body=b"{}", query="?a=1")
    assert not (await page.ask(JSON, method="QUERY", body=b"{}", query="?a=2")).came_from_store


@behaviour("max_request_body_bytes", "A content beyond the cap goes past the cache, to the origin in full")
async def test_content_beyond_the_cap(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="body")
    content = b"x" * 1001
    for _ in range(2):
        answer = await ask(page, content, "Content-Type: text/plain")
        assert (answer.came_from_store, answer.cache_status["fwd"]) == (False, "bypass")
        assert page.seen[-1].body == content


@behaviour("max_request_body_bytes", "A content as long as the cap is stored by")
async def test_content_as_long_as_the_cap(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="body")
    await ask(page, b"x" * 1000, "Content-Type: text/plain")
    assert (await ask(page, b"x" * 1000, "Content-Type: text/plain")).came_from_store


@pytest.mark.parametrize(
    ("size", "stored"),
    [
        row("RFC 9112 §7.1", "A content in chunks is the same as one with a length", 900, True),
        row("max_request_body_bytes", "A content in chunks beyond the cap reaches the origin in full", 1500, False),
    ],
)
async def test_content_in_chunks(cache: CacheUnderTest, size: int, *, stored: bool) -> None:
    page = cache.resource(reply(FRESH), route="body")
    half = b"x" * (size // 2)
    head = request(
        page.path,
        "Content-Type: text/plain",
        "Transfer-Encoding: chunked",
        method="QUERY",
        host=str(cache.running.address),
    )
    chunk = f"{len(half):x}\r\n".encode() + half + b"\r\n"
    async with await RawClient.connect(cache.running.address) as client:
        assert (await client.ask(head, chunk, chunk, b"0\r\n\r\n")).status == 200
    assert page.seen[-1].body == half * 2
    assert (await ask(page, half * 2, "Content-Type: text/plain")).came_from_store is stored


@pytest.mark.parametrize(
    ("method", "lines", "void"),
    [
        row("body_methods", "A POST whose response is stored makes nothing void", "POST", [FRESH], False),
        row("RFC 9111 §4.4", "A POST whose response is not stored invalidates, on such a route too", "POST", [], True),
        row("RFC 9110 §9.2.1", "A QUERY invalidates nothing, stored or not", "QUERY", [], False),
    ],
)
async def test_invalidation(cache: CacheUnderTest, method: str, lines: Sequence[str], *, void: bool) -> None:
    page = cache.resource(reply(FRESH), route="body")
    await page.ask()
    page.answers(reply(*lines))
    await ask(page, b"{}", method=method)
    page.answers(reply(FRESH))
    assert (await page.ask()).came_from_store is not void


@behaviour("RFC 9111 §4.4", "An unsafe method makes stored answers to QUERY void, whatever their content")
async def test_stored_queries_are_made_void(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="body")
    for content in (b"[1]", b"[2]"):
        await ask(page, content)
        assert (await ask(page, content)).came_from_store
    page.answers(reply())
    await page.ask(method="PUT", body=b"new")
    page.answers(reply(FRESH))
    assert [(await ask(page, content)).came_from_store for content in (b"[1]", b"[2]")] == [False, False]


@pytest.mark.parametrize(
    "line",
    [
        row("RFC 9110 §13.1.1", "A POST with If-Match goes to the origin: it is to judge it", 'If-Match: "1"'),
        row("RFC 9110 §13.1.2", "A POST with If-None-Match goes to the origin: it is to judge it", "If-None-Match: *"),
    ],
)
async def test_conditional_post(cache: CacheUnderTest, line: str) -> None:
    page = cache.resource(reply(FRESH, 'ETag: "1"'), route="body")
    await ask(page, b"{}", method="POST")
    answer = await ask(page, b"{}", JSON, line, method="POST")
    assert not answer.came_from_store
    assert page.seen[-1].field(line.partition(":")[0]) == line.partition(": ")[2]


@behaviour("RFC 9110 §13.1.2", "A stale answer to POST is asked for anew, without conditions")
async def test_stale_post(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "Age: 100", 'ETag: "1"'), reply(FRESH, body="new"), route="body")
    await ask(page, b"{}", method="POST")
    answer = await ask(page, b"{}", method="POST")
    assert (answer.asked, answer.body) == (1, b"new")
    assert page.seen[-1].field("If-None-Match") is None
    assert page.seen[-1].body == b"{}"


@behaviour("RFC 9111 §4.1", "Answers to QUERY vary on what their Vary names")
async def test_vary(cache: CacheUnderTest) -> None:
    page = cache.resource(lambda seen: reply(FRESH, "Vary: X-Lang", body=seen.field("X-Lang")), route="body")
    for _ in range(2):
        for language in ("de", "en"):
            assert (await ask(page, b"{}", JSON, f"X-Lang: {language}")).body == language.encode()
    assert len(page.seen) == 2


@behaviour("RFC 9111 §4", "Of many QUERY requests with one content one goes to the origin")
async def test_collapsing(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body="body", until=gate), route="body")
    asking = [asyncio.ensure_future(ask(page, b"{}")) for _ in range(20)]
    await eventually(lambda: len(page.seen) == 1)
    gate.set()
    assert {answer.body for answer in await asyncio.gather(*asking)} == {b"body"}
    assert len(page.seen) == 1


@behaviour("RFC 9111 §4", "Other methods with a content are never answered from the store, on such a route either")
async def test_other_methods(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="body")
    for _ in range(2):
        assert not (await page.ask(method="PUT", body=b"{}")).came_from_store


@behaviour("RFC 9111 §5.2.1.7", "only-if-cached counts for QUERY as for GET")
async def test_only_if_cached(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="body")
    missing = await ask(page, b"{}", JSON, "Cache-Control: only-if-cached")
    await ask(page, b"{}")
    found = await ask(page, b"{}", JSON, "Cache-Control: only-if-cached")
    assert (missing.status, found.status, len(page.seen)) == (504, 200, 1)
