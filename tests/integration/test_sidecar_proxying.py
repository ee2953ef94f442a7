"""What the whole process makes of requests and responses on their way: everything a proxy must not change, and must."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.origin import Origin, origin, raw_origin
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import SidecarProcess, eventually, sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(app: Origin, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SidecarProcess]:
    async with sidecar(app.url, tmp_path_factory.mktemp("proxying"), {"cache": {"l2": "none"}}) as one:
        yield one


async def ask(running: SidecarProcess, *parts: bytes, method: str = "GET") -> "tuple[int, bytes]":
    async with await RawClient.connect(running.address) as client:
        response = await client.ask(*parts, method=method)
        return response.status, response.body


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=await request.read(), headers={"X-Method": request.method, "Cache-Control": "no-store"})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"])
async def test_every_method_reaches_the_origin_with_its_body(running: SidecarProcess, app: Origin, method: str) -> None:
    app.on("/echo", echo)
    async with await RawClient.connect(running.address) as client:
        response = await client.ask(request("/echo", "Content-Length: 5", method=method) + b"hello")
    assert (response.status, response.body, response.field("X-Method")) == (200, b"hello", method)


@pytest.mark.parametrize(
    "target",
    ["/a%2Fb;x?", "//x", "/x?", "/%zz", "/a/../b/./c", "/q?a=%26&b=+&&", "/%E4%bd%a0", "/;;,@:!$'()*+", "/x??"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_target_is_passed_on_byte_for_byte(
    running: SidecarProcess, app: Origin, target: str, method: str
) -> None:
    fields = ["Content-Length: 0"] if method == "POST" else []
    status, _ = await ask(running, request(target, *fields, method=method))
    assert status == 404
    assert (app.seen[-1].method, app.seen[-1].target) == (method, target)


async def test_a_chunked_request_body_arrives_whole(running: SidecarProcess, app: Origin) -> None:
    app.on("/chunked", echo)
    head = request("/chunked", "Transfer-Encoding: chunked", method="POST")
    assert await ask(running, head, b"5\r\nhello\r\n", b"6;ext=1\r\n world\r\n", b"0\r\n\r\n") == (200, b"hello world")


async def test_a_chunked_response_is_streamed_as_it_comes(running: SidecarProcess, app: Origin) -> None:
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(b"first")
        await gate.wait()
        await response.write(b"second")
        return response

    app.on("/stream", answer)
    async with await RawClient.connect(running.address) as client:
        await client.send(request("/stream"))
        assert (await client.head()).field("Transfer-Encoding") == "chunked"
        assert await client.chunk() == b"first"
        gate.set()
        assert await client.chunks() == [b"second"]


async def test_an_http_1_0_client_gets_a_body_that_ends_with_the_connection(
    running: SidecarProcess, app: Origin
) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(b"one ")
        await response.write(b"two")
        return response

    app.on("/old", answer)
    async with await RawClient.connect(running.address) as client:
        response = await client.ask(request("/old", version="1.0", host=None))
        assert (response.field("Transfer-Encoding"), response.body) == (None, b"one two")
    assert app.last("/old").version == (1, 1)


async def test_a_head_request_is_answered_with_the_length_and_no_body(running: SidecarProcess, app: Origin) -> None:
    app.text("/head", b"x" * 1234, Cache_Control="max-age=60")
    async with await RawClient.connect(running.address) as client:
        cold = await client.ask(request("/head", method="HEAD"), method="HEAD")
        got = await client.ask(request("/head"))
        warm = await client.ask(request("/head", method="HEAD"), method="HEAD")
    assert len(got.body) == 1234
    assert (cold.field("Content-Length"), warm.field("Content-Length")) == ("1234", "1234")
    assert "hit" in (warm.field("Cache-Status") or "")
    assert app.count["/head"] == 2


async def test_an_expected_100_comes_from_the_origin_before_the_body_is_sent(
    running: SidecarProcess, app: Origin
) -> None:
    app.on("/expect", echo)
    async with await RawClient.connect(running.address) as client:
        await client.send(request("/expect", "Content-Length: 4", "Expect: 100-continue", method="POST"))
        assert (await client.head()).status == 100
        response = await client.ask(b"data")
    assert (response.status, response.body) == (200, b"data")


async def test_a_refusal_reaches_a_client_that_waits_for_100_before_its_body(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The origin answers from the head alone: the body is never asked for, and never sent."""
    got = bytearray()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await writer.drain()
        got.extend(await reader.read())

    async with (
        raw_origin(script) as url,
        sidecar(url, tmp_path_factory.mktemp("expect"), {"cache": {"l2": "none"}}) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(request("/", "Content-Length: 4", "Expect: 100-continue", method="POST"))
        response = await client.head()
        assert response.status == 403
    assert not got


async def test_fields_of_one_hop_stop_here_in_both_directions(running: SidecarProcess, app: Origin) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        fields = {"Connection": "X-Private, keep-alive", "X-Private": "1", "Keep-Alive": "timeout=5", "X-Public": "1"}
        return web.Response(text="ok", headers={**fields, "Proxy-Authenticate": "Basic", "Cache-Control": "no-store"})

    app.on("/hop", answer)
    async with await RawClient.connect(running.address) as client:
        response = await client.ask(
            request(
                "/hop", "Connection: X-Mine, close", "X-Mine: 1", "X-Kept: 1", "TE: trailers", "Keep-Alive: timeout=1",
                "Proxy-Authorization: Basic eA==", "Proxy-Connection: keep-alive",
            )
        )  # fmt: skip
    seen = app.last("/hop").headers
    for name in ("X-Mine", "Keep-Alive", "Proxy-Connection", "Upgrade"):
        assert name not in seen
    assert seen["X-Kept"] == "1"
    for name in ("X-Private", "Keep-Alive"):
        assert response.field(name) is None
    assert response.field("X-Public") == "1"
    assert response.field("Connection") == "close"


async def test_via_is_added_in_both_directions(running: SidecarProcess, app: Origin) -> None:
    app.text("/via", "ok", Via="1.0 inner", Cache_Control="no-store")
    async with await RawClient.connect(running.address) as client:
        response = await client.ask(request("/via", "Via: 1.1 outer"))
    assert ", ".join(response.all("Via")) == "1.0 inner, 1.1 sidecache"
    assert ", ".join(app.last("/via").headers.getall("Via")) == "1.1 outer, 1.1 sidecache"


async def test_forwarding_fields_of_a_client_that_is_not_trusted_are_replaced(
    running: SidecarProcess, app: Origin
) -> None:
    fields = ("X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6", "X-Real-IP: 7.7.7.7")
    await ask(running, request("/forwarded", *fields, host="api.example"))
    seen = app.last("/forwarded").headers
    assert seen.getall("X-Forwarded-For") == ["127.0.0.1"]
    assert seen.getall("X-Forwarded-Proto") == ["http"]
    assert seen.getall("X-Forwarded-Host") == ["api.example"]
    assert seen.getall("Forwarded") == ['for=127.0.0.1;host="api.example";proto=http']
    assert "X-Real-IP" not in seen


async def test_forwarding_fields_of_a_trusted_proxy_are_added_to(
    app: Origin, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tables = {"server": {"trusted_proxies": ["127.0.0.0/8"]}, "cache": {"l2": "none"}}
    async with sidecar(app.url, tmp_path_factory.mktemp("trusted"), tables) as trusting:
        fields = ("X-Forwarded-For: 6.6.6.6, 1.2.3.4", "X-Forwarded-Proto: https", "X-Request-ID: abc-1")
        await ask(trusting, request("/trusted", *fields, "Forwarded: for=9.9.9.9"))
        await eventually(lambda: bool(trusting.events("request")))
    seen = app.last("/trusted").headers
    assert seen.getall("X-Forwarded-For") == ["6.6.6.6, 1.2.3.4, 127.0.0.1"]
    assert seen.getall("X-Forwarded-Proto") == ["https"]
    assert "9.9.9.9" not in str(seen)
    (line,) = trusting.events("request")
    assert (line["request_id"], line["client"]) == ("abc-1", "1.2.3.4")


async def test_traceparent_is_passed_on(running: SidecarProcess, app: Origin) -> None:
    value = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await ask(running, request("/trace", f"traceparent: {value}"))
    assert app.last("/trace").headers["traceparent"] == value


async def test_an_http_1_0_origin_and_its_early_hints_are_understood(tmp_path_factory: pytest.TempPathFactory) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /hints"):
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
            await writer.drain()
            await hinted.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: no-store\r\n\r\ndone")
        else:
            writer.write(b"HTTP/1.0 200 OK\r\nCache-Control: max-age=60\r\n\r\nto the end")
        await writer.drain()

    hinted = asyncio.Event()
    async with (
        raw_origin(script) as url,
        sidecar(url, tmp_path_factory.mktemp("old"), {"cache": {"l2": "none"}}) as running,
    ):
        assert await ask(running, request("/old")) == (200, b"to the end")
        async with await RawClient.connect(running.address) as client:
            await client.send(request("/hints"))
            hint = await client.head()
            assert (hint.status, hint.field("Link")) == (103, "</a.css>; rel=preload")
            hinted.set()
            assert (await client.response()).body == b"done"


class Waiting:
    """An origin's resource that tells when it is asked for and when its request is cancelled."""

    def __init__(self, cache_control: str) -> None:
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._cache_control = cache_control

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": self._cache_control})
        try:
            await response.prepare(request)
            await response.write(b"first")
            self.reached.set()
            await self.gate.wait()
            await response.write(b"second")
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled.set()
            raise
        return response


@pytest.mark.parametrize("before_head", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_leaves_cancels_its_upstream_request(
    running: SidecarProcess, app: Origin, method: str, before_head: bool
) -> None:
    waiting = Waiting("no-store")
    gate = asyncio.Event()

    async def mute(request: web.BaseRequest) -> web.StreamResponse:
        waiting.reached.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            waiting.cancelled.set()
            raise
        return web.Response()

    path = f"/left-{method}-{before_head}"
    app.on(path, mute if before_head else waiting)
    if method == "GET":  # known to be uncacheable: a fetch of unknown outcome might fill the cache
        app.text(path, "once", Cache_Control="no-store")
        await ask(running, request(path))
        app.on(path, mute if before_head else waiting)
    async with await RawClient.connect(running.address) as client:
        await client.send(request(path, *(["Content-Length: 0"] if method == "POST" else []), method=method))
        await asyncio.wait_for(waiting.reached.wait(), 10)
        if not before_head:
            await client.read_until(b"first")
        client.reset()
        await asyncio.wait_for(waiting.cancelled.wait(), 10)
    await eventually(lambda: any(line["target"] == path and line["status"] for line in running.events("request")))


async def test_a_client_that_leaves_does_not_cancel_a_cache_fill(running: SidecarProcess, app: Origin) -> None:
    waiting = Waiting("max-age=60")
    app.on("/fill", waiting)
    async with await RawClient.connect(running.address) as client:
        await client.send(request("/fill"))
        await asyncio.wait_for(waiting.reached.wait(), 10)
        await client.read_until(b"first")
        client.reset()
    await eventually(lambda: any(line["target"] == "/fill" for line in running.events("request")))
    waiting.gate.set()
    assert await ask(running, request("/fill")) == (200, b"firstsecond")
    assert app.count["/fill"] == 1
    assert not waiting.cancelled.is_set()


async def test_requests_on_one_connection_are_answered_in_order(running: SidecarProcess, app: Origin) -> None:
    for number in range(5):
        app.text(f"/order{number}", str(number), Cache_Control="max-age=60" if number % 2 else "no-store")
    async with await RawClient.connect(running.address) as client:
        for _ in range(3):
            await client.send(b"".join(request(f"/order{number}") for number in range(5)))
            assert [(await client.response()).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_post_is_not_the_victim_of_a_stale_connection(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The origin closes every kept connection at the moment the next request is sent on it."""
    posts = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal posts
        head = await reader.readuntil(b"\r\n\r\n")
        posts += head.startswith(b"POST")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: no-store\r\n\r\nok")
        await writer.drain()  # and closes, having promised to stay

    async with (
        raw_origin(script) as url,
        sidecar(url, tmp_path_factory.mktemp("race"), {"cache": {"l2": "none"}}) as running,
        await RawClient.connect(running.address) as client,
    ):
        for _ in range(20):
            assert (await client.ask(request("/"))).status == 200
            assert (await client.ask(request("/", "Content-Length: 0", method="POST"))).status == 200
    assert posts == 20
