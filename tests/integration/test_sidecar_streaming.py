"""Bodies and tunnels through the whole process: as they come, both ways, in little memory."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator

import aiohttp
import brotli
import pytest
import pytest_asyncio
from aiohttp import web
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.support.origin import Origin, origin
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import SidecarProcess, eventually, sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

MB = 1_000_000
LARGE_BYTES = 200 * MB
ALLOWED_GROWTH_BYTES = 40 * MB
BLOCK = bytes(range(256)) * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        one.text("/warm", b"x" * 5000, Cache_Control="no-store")
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(app: Origin, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SidecarProcess]:
    async with sidecar(app.url, tmp_path_factory.mktemp("streaming"), {"cache": {"l2": "none"}}) as one:
        async with aiohttp.ClientSession() as session, session.get(one.url + "/warm") as answer:
            await answer.read()
        yield one


class Download:
    """A large body; how much of it the origin got rid of."""

    def __init__(self, total: int, **fields: str) -> None:
        self.total = total
        self.sent = 0
        self._fields = {name.replace("_", "-"): value for name, value in fields.items()}

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=self._fields)
        await response.prepare(request)
        while self.sent < self.total:
            block = BLOCK[: self.total - self.sent]
            await response.write(block)
            self.sent += len(block)
        return response


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("cache_control", ["no-store", "max-age=60"])
async def test_a_large_download_takes_little_memory(
    running: SidecarProcess, app: Origin, framing: str, cache_control: str
) -> None:
    fields = {"Content_Length": str(LARGE_BYTES)} if framing == "length" else {}
    path = f"/large-{framing}-{cache_control}"
    app.on(path, Download(LARGE_BYTES, Cache_Control=cache_control, **fields))
    before = running.rss_bytes()
    running.forget_peak()
    received = 0
    async with aiohttp.ClientSession() as session, session.get(running.url + path) as answer:
        async for chunk in answer.content.iter_any():
            received += len(chunk)
    assert received == LARGE_BYTES
    assert running.peak_rss_bytes() - before < ALLOWED_GROWTH_BYTES


async def test_a_large_upload_takes_little_memory(running: SidecarProcess, app: Origin) -> None:
    async def count(request: web.BaseRequest) -> web.StreamResponse:
        received = 0
        async for chunk in request.content.iter_any():
            received += len(chunk)
        return web.Response(text=str(received))

    async def body() -> AsyncIterator[bytes]:
        for _ in range(LARGE_BYTES // len(BLOCK)):
            yield BLOCK

    app.on("/upload", count)
    before = running.rss_bytes()
    running.forget_peak()
    async with aiohttp.ClientSession() as session, session.post(running.url + "/upload", data=body()) as answer:
        assert int(await answer.text()) == LARGE_BYTES // len(BLOCK) * len(BLOCK)
    assert running.peak_rss_bytes() - before < ALLOWED_GROWTH_BYTES


@pytest.mark.parametrize("cache_control", ["no-store", "max-age=60"])
async def test_a_reader_that_stops_stops_the_origin_and_gets_all_in_the_end(
    running: SidecarProcess, app: Origin, cache_control: str
) -> None:
    total = 128 * MB  # kernels hold up to 36 MB by themselves on a connection that has seen large downloads
    download = Download(total, Cache_Control=cache_control, Content_Length=str(total))
    path = f"/slow-{cache_control}"
    app.on(path, download)
    before = running.rss_bytes()
    running.forget_peak()
    client = await RawClient.connect(running.address, receive_buffer_bytes=65_536)
    await client.send(request(path))
    await client.read_until(b"\r\n\r\n")
    seen, quiet = -1, 0
    async with asyncio.timeout(20):
        while quiet < 20:  # the origin has sent nothing in twenty looks
            quiet = quiet + 1 if download.sent == seen else 0
            seen = download.sent
            await asyncio.sleep(0.02)
    assert 0 < download.sent < total // 2
    received = 0
    while received < total:
        received += len(await client.reader.read(1 << 20))
    assert running.peak_rss_bytes() - before < ALLOWED_GROWTH_BYTES
    await client.close()


class Events:
    """An origin that sends the next event only when the client has seen the last."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        for number in range(10):
            await response.write(b"data: %d\n\n" % number)
            await self.seen.get()
        return response


@pytest.mark.parametrize("coding", ["identity", "gzip", "br"])
async def test_each_event_is_seen_before_the_origin_sends_the_next(
    running: SidecarProcess, app: Origin, coding: str
) -> None:
    events = Events()
    path = f"/events-{coding}"
    app.on(path, events)
    async with await RawClient.connect(running.address) as client:
        await client.send(request(path, f"Accept-Encoding: {coding}", "Accept: text/event-stream"))
        head = await client.head()
        assert head.field("Content-Encoding") == (None if coding == "identity" else coding)
        decode = {"gzip": zlib.decompressobj(31).decompress, "br": brotli.Decompressor().process}.get(coding, bytes)
        for number in range(10):
            text = b""
            while not text.endswith(b"\n\n"):
                data = await client.chunk()
                assert data, "the stream ended"
                text += decode(data)
            assert text == b"data: %d\n\n" % number
            events.seen.put_nowait(None)
        await client.chunks()


async def test_a_stream_is_compressed_as_it_comes(running: SidecarProcess, app: Origin) -> None:
    total = 5 * MB
    app.on("/text", Download(total, Content_Type="text/plain", Cache_Control="no-store"))
    async with await RawClient.connect(running.address) as client:
        response = await client.ask(request("/text", "Accept-Encoding: gzip"))
    assert response.field("Content-Encoding") == "gzip"
    assert len(gzip.decompress(response.body)) == total
    assert len(response.body) < total // 10


async def test_a_web_socket_passes_messages_both_ways_and_the_close(tmp_path_factory: pytest.TempPathFactory) -> None:
    closed: list[tuple[int | None, str]] = []

    async def talk(socket: ServerConnection) -> None:
        await socket.send("welcome")
        try:
            async for message in socket:
                await socket.send(message)
        finally:
            closed.append((socket.close_code, socket.close_reason or ""))

    async with serve(talk, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        tables = {"cache": {"l2": "none"}}
        async with sidecar(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("ws"), tables) as running:
            url = f"ws://127.0.0.1:{running.port}/chat"
            async with connect(url, max_size=None, compression=None) as client:
                assert await client.recv() == "welcome"
                big = BLOCK * 16
                for message in ("a", "ü" * 1000, b"\x00", big, big):
                    await client.send(message)
                    assert await client.recv() == message
                await (await client.ping())
                await client.close(4001, "enough")
            await eventually(lambda: closed == [(4001, "enough")])
            await eventually(lambda: len(running.events("request")) == 1)
            assert running.events("request")[0]["status"] == 101
            async with connect(url, compression=None) as client:
                assert await client.recv() == "welcome"
                server.close()
                with pytest.raises(ConnectionClosed) as ended:
                    await client.recv()
                assert ended.value.rcvd is not None
                assert ended.value.rcvd.code == 1001


async def test_a_web_socket_whose_client_vanishes_is_ended_at_the_origin(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    gone = asyncio.Event()

    async def talk(socket: ServerConnection) -> None:
        await socket.wait_closed()
        gone.set()

    async with serve(talk, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        tables = {"cache": {"l2": "none"}}
        async with (
            sidecar(f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("ws"), tables) as running,
            connect(f"ws://127.0.0.1:{running.port}/") as client,
        ):
            client.transport.abort()
            await asyncio.wait_for(gone.wait(), 10)
