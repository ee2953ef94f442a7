"""Storing: which responses are kept, and what of them (RFC 9111 §3)."""

import contextlib

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import CacheUnderTest
from tests.conformance.scripted_origin import Framing, http_date, reply

behaviour = behaviours_of(Group.STORING)
row = behaviour.row

FRESH = "Cache-Control: max-age=60"
OLD = f"Last-Modified: {http_date(-10 * 86_400)}"
CREDENTIALS = "Authorization: Basic eDp5"


@behaviour("RFC 9111 §3", "A response to GET with an explicit lifetime is stored and answers the next request")
async def test_a_response_with_a_lifetime_is_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    first = await page.ask()
    second = await page.ask()
    assert (first.came_from_store, second.came_from_store) == (False, True)
    assert first.body == second.body


@pytest.mark.parametrize(
    "lines",
    [
        row("RFC 9111 §5.2.2.5", "A response with no-store is not stored", ["Cache-Control: no-store, max-age=60"]),
        row("RFC 9111 §5.2.2.5", "no-store counts on a field line of its own", [FRESH, "Cache-Control: no-store"]),
        row("RFC 9111 §5.2", "no-store counts in any case", ["Cache-Control: max-age=60, No-STORE"]),
        row("RFC 9111 §5.2.2.5", "no-store counts beside public", ["Cache-Control: public, no-store, max-age=60"]),
        row(
            "RFC 9111 §5.2", "no-store with an argument forbids all the same", ["Cache-Control: no-store=x, max-age=60"]
        ),
        row("RFC 9111 §5.2.2.7", "A response with private is not stored", ["Cache-Control: private, max-age=60"]),
        row("RFC 9111 §5.2", "private counts in any case", ["Cache-Control: PRIVATE, max-age=60"]),
        row("RFC 9111 §5.2.2.7", "private counts beside s-maxage", ["Cache-Control: private, s-maxage=60"]),
        row("RFC 9111 §5.2.2.7", "private forbids heuristics too", ["Cache-Control: private", OLD]),
        row("RFC 9111 §4.1", "A response that varies on * is not stored", [FRESH, "Vary: *"]),
        row("RFC 9111 §3", "A response without a lifetime and without a date to guess by is not stored", ["X-A: b"]),
        row(
            "RFC 9111 §7.3",
            "A response that sets a cookie, and is not said to be for all, is not stored",
            [FRESH, "Set-Cookie: a=b"],
            optional=True,
        ),
    ],
)
async def test_a_response_that_must_not_be_is_not_stored(cache: CacheUnderTest, lines: list[str]) -> None:
    page = cache.resource(reply(*lines))
    await page.ask()
    assert not (await page.ask()).came_from_store


HEURISTIC = (200, 203, 204, 300, 301, 308, 404, 410)
EXPLICIT_ONLY = (
    201, 202, 205, 302, 303, 307, 400, 401, 403, 406, 408, 409, 411, 412, 413, 415, 417, 421, 422, 425, 426, 428, 429,
    431, 451, 500, 502, 503, 504, 505,
)  # fmt: skip


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9110 §15.1", f"A {status} response is stored by heuristics where it says no lifetime", status)
        for status in HEURISTIC
    ],
)
async def test_a_heuristically_cacheable_status_is_stored(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(OLD, status=status))
    await page.ask()
    assert (await page.ask()).came_from_store


@pytest.mark.parametrize(
    "status",
    [row("RFC 9110 §15.1", f"A {status} response is not stored by heuristics", status) for status in EXPLICIT_ONLY],
)
async def test_another_status_is_not_stored_by_heuristics(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(OLD, status=status))
    await page.ask()
    assert not (await page.ask()).came_from_store


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9111 §3", f"A {status} response is stored with an explicit lifetime", status)
        for status in (*HEURISTIC, 201, 202, 302, 303, 307, 400, 403, 405, 414, 451, 500, 501, 503)
    ],
)
async def test_a_final_status_is_stored_with_an_explicit_lifetime(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(FRESH, status=status))
    await page.ask()
    assert (await page.ask()).came_from_store


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        row("RFC 9111 §3", "A final status that nobody knows is stored with an explicit lifetime", [FRESH], True),
        row("RFC 9110 §15.1", "A final status that nobody knows is not stored by heuristics", [OLD], False),
        row(
            "RFC 9111 §5.2.2.3",
            "A final status that nobody knows is not stored with must-understand",
            ["Cache-Control: max-age=60, must-understand"],
            False,
        ),
    ],
)
async def test_a_status_that_nobody_knows(cache: CacheUnderTest, lines: list[str], kept: bool) -> None:
    page = cache.resource(reply(*lines, status=299))
    await page.ask()
    assert (await page.ask()).came_from_store == kept


@behaviour(
    "RFC 9111 §5.2.2.3", "With must-understand a no-store beside it does not count where the status is understood"
)
async def test_must_understand_goes_before_no_store(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60, must-understand, no-store"))
    await page.ask()
    assert (await page.ask()).came_from_store


@pytest.mark.parametrize(
    ("control", "kept"),
    [
        row(
            "RFC 9111 §3.5", "A response to a request with Authorization is not stored for others", "max-age=60", False
        ),
        row("RFC 9111 §3.5", "It is with public", "public, max-age=60", True),
        row("RFC 9111 §3.5", "It is with s-maxage", "s-maxage=60", True),
        row("RFC 9111 §3.5", "It is with must-revalidate", "must-revalidate, max-age=60", True),
        row("RFC 9111 §3.5", "proxy-revalidate is not enough", "proxy-revalidate, max-age=60", False),
        row("RFC 9111 §3.5", "no-cache is not enough", "no-cache, max-age=60", False),
    ],
)
async def test_a_response_to_a_request_with_credentials(cache: CacheUnderTest, control: str, kept: bool) -> None:
    page = cache.resource(reply(f"Cache-Control: {control}", 'ETag: "1"'))
    await page.ask(CREDENTIALS)
    assert (await page.ask()).came_from_store == kept


@behaviour("RFC 9111 §3.5", "A stored response answers a request with Authorization, too, as far as it is for all")
async def test_a_stored_response_answers_a_request_with_credentials(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    await page.ask()
    assert (await page.ask(CREDENTIALS)).came_from_store


@behaviour("RFC 9111 §5.2.1.5", "The response to a request with no-store is not stored")
async def test_a_request_can_forbid_storing(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    await page.ask("Cache-Control: no-store")
    assert not (await page.ask()).came_from_store


@pytest.mark.parametrize(
    "method",
    [
        row("RFC 9111 §3", f"A response to {method} is not stored", method)
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")
    ],
)
async def test_a_response_to_another_method_is_not_stored(cache: CacheUnderTest, method: str) -> None:
    page = cache.resource(reply(FRESH))
    body = None if method in {"DELETE", "OPTIONS"} else b"x"
    await page.ask(method=method, body=body)
    assert not (await page.ask(method=method, body=body)).came_from_store
    assert not (await page.ask()).came_from_store


@behaviour("RFC 9110 §9.3.2", "A stored response to GET answers HEAD, without its content")
async def test_a_stored_response_answers_head(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, body="whole"))
    await page.ask()
    head = await page.ask(method="HEAD")
    assert head.came_from_store
    assert (head.field("Content-Length"), head.body) == ("5", b"")


@behaviour("RFC 9111 §3", "A response to HEAD answers no GET")
async def test_a_response_to_head_answers_no_get(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, body="whole"))
    await page.ask(method="HEAD")
    got = await page.ask()
    assert not got.came_from_store
    assert got.body == b"whole"


@behaviour("RFC 9111 §7.3", "Set-Cookie is not replayed where the response is said to be for all")
async def test_a_cookie_reaches_one_client_alone(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: public, max-age=60", "Set-Cookie: a=b"))
    first = await page.ask()
    second = await page.ask()
    assert (first.field("Set-Cookie"), second.field("Set-Cookie")) == ("a=b", None)
    assert second.came_from_store


@behaviour("RFC 9111 §7.3", "Set-Cookie is replayed where the route says so", optional=True)
async def test_a_route_may_replay_cookies(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "Set-Cookie: a=b"), route="cookies")
    await page.ask()
    second = await page.ask()
    assert second.came_from_store
    assert second.field("Set-Cookie") == "a=b"


@pytest.mark.parametrize(
    "framing",
    [
        row("RFC 9111 §3.3", "A response that is shorter than its Content-Length is not stored", Framing.SHORT),
        row("RFC 9111 §3.3", "A chunked response without its last chunk is not stored", Framing.CUT),
    ],
)
async def test_an_incomplete_response_is_not_stored(cache: CacheUnderTest, framing: Framing) -> None:
    page = cache.resource(reply(FRESH, body="0123456789" * 20, framing=framing), reply(FRESH, body="whole"))
    with contextlib.suppress(ConnectionError, EOFError, AssertionError):
        await page.ask()  # the client is told that it has not got all, in whichever way it notices
    second = await page.ask()
    assert not second.came_from_store
    assert second.body == b"whole"


@pytest.mark.parametrize(
    "framing",
    [
        row("RFC 9112 §7.1", "A chunked response is stored when it is complete", Framing.CHUNKED),
        row("RFC 9112 §6.3", "A response that ends with its connection is stored", Framing.CLOSE, optional=True),
    ],
)
async def test_a_complete_response_is_stored_however_it_is_framed(cache: CacheUnderTest, framing: Framing) -> None:
    page = cache.resource(reply(FRESH, body="whole", framing=framing))
    first = await page.ask()
    second = await page.ask()
    assert second.came_from_store
    assert first.body == second.body == b"whole"


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        row(
            "RFC 9111 §3.1",
            "A field named in Connection is neither passed on nor stored",
            ["Connection: X-Hop", "X-Hop: 1"],
            "X-Hop",
        ),
        row("RFC 9111 §3.1", "Keep-Alive is neither passed on nor stored", ["Keep-Alive: timeout=5"], "Keep-Alive"),
        row("RFC 9111 §3.1", "Proxy-Authenticate is not stored", ["Proxy-Authenticate: Basic"], "Proxy-Authenticate"),
        row(
            "RFC 9111 §3.1",
            "Proxy-Authentication-Info is not stored",
            ["Proxy-Authentication-Info: a=b"],
            "Proxy-Authentication-Info",
        ),
        row(
            "RFC 9111 §3.1",
            "Proxy-Connection is neither passed on nor stored",
            ["Proxy-Connection: keep-alive"],
            "Proxy-Connection",
        ),
        row(
            "RFC 9111 §5.2.2.7",
            "A field named in private is not stored, the rest of the response is",
            ['Cache-Control: max-age=60, private="X-Mine"', "X-Mine: 1"],
            "X-Mine",
        ),
        row(
            "RFC 9111 §5.2.2.4",
            "A field named in no-cache is not reused without validation",
            ['Cache-Control: max-age=60, no-cache="X-Mine"', "X-Mine: 1"],
            "X-Mine",
        ),
    ],
)
async def test_a_field_that_is_not_stored(cache: CacheUnderTest, lines: list[str], name: str) -> None:
    control = [] if any("Cache-Control" in line for line in lines) else [FRESH]
    page = cache.resource(reply(*control, *lines))
    first = await page.ask()
    second = await page.ask()
    if any("no-cache" in line for line in lines) and not second.came_from_store:
        return  # asking again is as good as leaving the field out
    assert second.came_from_store
    assert second.field(name) is None
    if name in {"X-Hop", "Keep-Alive", "Proxy-Connection"}:
        assert first.field(name) is None


@behaviour("RFC 9111 §3.1", "All other fields are stored, unknown ones and repeated lines among them, in their order")
async def test_all_other_fields_are_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "X-New: 1", "Link: <a>", "X-Between: 2", "Link: <b>"))
    first = await page.ask()
    second = await page.ask()
    assert second.came_from_store
    for answer in (first, second):
        assert answer.all("Link") == ["<a>", "<b>"]
        assert (answer.field("X-New"), answer.field("X-Between")) == ("1", "2")


@behaviour("RFC 9110 §15.2", "An interim response is passed on, and neither stored nor taken for the final one")
async def test_an_interim_response_is_not_stored(cache: CacheUnderTest) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nCache-Control: max-age=60\r\n\r\n"
    page = cache.resource(reply(FRESH, body="final", before=hints))
    await page.ask()
    second = await page.ask()
    assert second.came_from_store
    assert (second.status, second.body, second.field("Link")) == (200, b"final", None)


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        row("RFC 9111 §3", "A response up to the route's limit of size is stored", 100, True, optional=True),
        row(
            "RFC 9111 §3",
            "A response beyond the route's limit of size is passed on whole, and not stored",
            101,
            False,
            optional=True,
        ),
    ],
)
async def test_there_is_a_limit_of_size(cache: CacheUnderTest, size: int, kept: bool) -> None:
    page = cache.resource(reply(FRESH, body=b"x" * size), route="small")
    first = await page.ask()
    second = await page.ask()
    assert second.came_from_store == kept
    assert first.body == second.body == b"x" * size


@behaviour("RFC 9110 §15.3.7", "A partial response to a request for the whole is never stored as the whole")
async def test_a_part_is_not_stored_as_the_whole(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "Content-Range: bytes 0-1/10", status=206, body="01"))
    await page.ask()
    assert not (await page.ask()).came_from_store


@behaviour("RFC 9111 §3", "A route can be told to store nothing", optional=True)
async def test_a_route_can_be_told_to_store_nothing(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="bypass")
    await page.ask()
    assert not (await page.ask()).came_from_store
