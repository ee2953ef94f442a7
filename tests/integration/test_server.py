"""The server over real sockets: requests in, responses out."""

import asyncio

import pytest
from typing_extensions import override

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


@pytest.mark.parametrize(
    ("method", "sent", "target", "host"),
    [
        ("GET", "http://Other.example:80/p%2Fq?x", "/p%2Fq?x", "other.example"),
        ("GET", "HTTPS://other.example:8443/p", "/p", "other.example:8443"),
        ("GET", "http://other.example", "/", "other.example"),
        ("GET", "http://other.example?x=1", "/?x=1", "other.example"),
        ("OPTIONS", "http://other.example", "*", "other.example"),
        ("OPTIONS", "*", "*", "example.com"),
        ("OPTIONS", "/", "/", "example.com"),
    ],
)
async def test_absolute_form_names_the_host(
    application: ScriptedApplication, method: str, sent: str, target: str, host: str
) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request(sent, method=method))).status == 200
    seen = application.requests[0]
    assert (seen.target, seen.host, seen.headers["Host"]) == (target, host, host)


async def test_http_1_0_without_host_is_for_the_address_it_came_to(application: ScriptedApplication) -> None:
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request(host=None, version="1.0"))).status == 200
        assert application.requests[0].host == str(listener.addresses[0])
        assert application.requests[0].version == (1, 0)


async def test_fields_that_end_here_do_not_go_on_and_those_of_this_hop_do(application: ScriptedApplication) -> None:
    async with (
        serving(application, name="edge") as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        await client.ask(
            request(
                "/",
                "Connection: keep-alive, X-Private",
                "X-Private: 1",
                "Keep-Alive: 5",
                "TE: trailers",
                "Proxy-Authorization: Basic x",
                "Via: 1.0 before",
                "X-Request-ID: chosen-by-client",
                "X-Forwarded-For: 6.6.6.6",
                "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
        )
        await client.ask(request())
    first, second = application.requests
    assert dict(first.headers) == {
        "Host": "example.com",
        "Via": "1.0 before, 1.1 edge",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Request-ID": application.ids[0],
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "example.com",
        "Forwarded": 'for=127.0.0.1;host="example.com";proto=http',
    }
    assert application.ids[0] != "chosen-by-client"
    assert second.headers["Via"] == "1.1 edge"
    assert len(set(application.ids)) == 2


async def test_trusted_peer_may_name_client_host_scheme_and_request(application: ScriptedApplication) -> None:
    async with (
        serving(application, trusted_proxies=["127.0.0.0/8"]) as listener,
        await RawClient.connect(listener.addresses[0]) as client,
    ):
        forwarded = [
            "X-Forwarded-For: 192.0.2.1",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: WWW.example.com:443",
        ]
        await client.ask(request("/", *forwarded, "X-Request-ID: abc-123"))
        await client.ask(request("/", "X-Forwarded-Host: a b", "X-Request-ID: not sane"))
    first, second = application.requests
    assert (first.client, first.scheme, first.host) == ("192.0.2.1", "https", "www.example.com")
    assert application.ids[0] == first.headers["X-Request-ID"] == "abc-123"
    assert (second.client, second.scheme, second.host) == ("127.0.0.1", "http", "example.com")
    assert application.ids[1] != "not sane"


async def test_body_that_does_not_close_in_order_is_logged_and_the_exchange_completed(
    application: ScriptedApplication,
) -> None:
    class Stubborn(ScriptedStream):
        @override
        async def aclose(self) -> None:
            raise OSError("cannot close")

    application.respond(Response(200, make_headers(), Stubborn(b"abc")))
    async with serving(application) as listener, await RawClient.connect(listener.addresses[0]) as client:
        assert (await client.ask(request())).body == b"abc"
        assert not (await application.outcome()).aborted
