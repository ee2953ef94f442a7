"""The server over real sockets: requests in, responses out."""

import asyncio

import pytest

from proxy.errors import UpstreamIncompleteError
from proxy.http.message import Response, make_headers, to_wire
from tests.support.clock import FakeClock
from tests.support.raw_client import RawClient, request
from tests.support.scripted_application import ScriptedApplication, ScriptedStream, echo, serving, text


@pytest.fixture
def application() -> ScriptedApplication:
    return ScriptedApplication()


async def test_request_and_response_pass(application: ScriptedApplication) -> None:
    application.respond(text("hello", 201, content_type="text/plain", etag='"x"'))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request("/a?b=c", "X-Thing: 1"))
        assert (response.status, response.reason, response.body) == (201, "Created", b"hello")
        assert response.field("Content-Length") == "5"
        assert response.field("ETag") == '"x"'
        assert response.field("Via") == "1.1 sidecache"
        assert response.field("Server") is None
        assert response.field("Connection") is None
    seen = application.requests[0]
    assert (seen.method, seen.target, seen.scheme, seen.host) == ("GET", "/a?b=c", "http", "example.com")
    assert seen.headers["X-Thing"] == "1"
    assert seen.client == "127.0.0.1"
    assert seen.body == b""
    outcome = await application.outcome()
    assert (outcome.status, outcome.bytes_sent, outcome.aborted, outcome.error) == (201, 5, False, None)


@pytest.mark.parametrize(
    "target",
    ["/a%2Fb%2fc", "/a;x=1;y", "//x//y/", "/x?", "/x??a=?&&b", "/a/../b/./c", "/%zz%", "/a#b?c", "/!$&'()*+,;=:@-._~",
     '/a|b^c`d{e}f"g<h>i[j]k\\l', "/" + "a" * 8000],
)  # fmt: skip
async def test_target_is_passed_on_byte_for_byte(application: ScriptedApplication, target: str) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(request(target))
        assert response.status == 200
    assert application.requests[0].target == target


async def test_field_values_keep_their_bytes_both_ways(application: ScriptedApplication) -> None:
    value = b"caf\xe9 \xc3\xa9 \t ~\xff"
    application.respond(Response(200, make_headers([("X-Raw", value.decode("utf-8", "surrogateescape"))]), b""))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        response = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX-Raw: " + value + b"\r\n\r\n")
        assert to_wire(response.field("X-Raw") or "") == value
    assert to_wire(application.requests[0].headers["X-Raw"]) == value


async def test_stream_without_length_is_chunked_as_it_arrives(application: ScriptedApplication) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    stream = ScriptedStream(first, b"data: 1\n\n", second, b"data: 2\n\n")
    application.respond(Response(200, make_headers([("Content-Type", "text/event-stream")]), stream))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        head = await client.head()
        assert head.field("Transfer-Encoding") == "chunked"
        first.set()
        assert await client.chunk() == b"data: 1\n\n"
        second.set()
        assert await client.chunk() == b"data: 2\n\n"
        assert await client.chunk() == b""
        assert (await client.ask(request("/again"))).status == 200
    assert stream.closed >= 1


async def test_stream_that_fails_midway_is_no_clean_end(application: ScriptedApplication) -> None:
    stream = ScriptedStream(b"part", UpstreamIncompleteError("cut off"))
    application.respond(Response(200, make_headers(), stream))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request())
        await client.head()
        assert await client.chunk() == b"part"
        assert await client.closed()
    outcome = await application.outcome()
    assert outcome.aborted
    assert isinstance(outcome.error, UpstreamIncompleteError)
    assert outcome.bytes_sent == 4
    assert stream.closed == 1


async def test_body_is_streamed_to_the_application(application: ScriptedApplication) -> None:
    application.answer = echo
    body = bytes(range(256)) * 4000
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        await client.send(request("/", f"Content-Length: {len(body)}", method="POST"))
        await client.send(body)
        assert (await client.response()).body == body
        await client.send(request("/", "Transfer-Encoding: chunked", method="PUT"))
        await client.send(b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n", b"0\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.response()).body == b"abcde"


async def test_date_is_added_only_when_missing(application: ScriptedApplication) -> None:
    application.respond(text(), text(date="Thu, 01 Jan 1970 00:00:00 GMT"))
    clock = FakeClock(wall=784111777.9)
    async with serving(application, clock) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request())).field("Date") == "Sun, 06 Nov 1994 08:49:37 GMT"
        assert (await client.ask(request())).field("Date") == "Thu, 01 Jan 1970 00:00:00 GMT"
