"""Origins that break HTTP, hang, or vanish, against the pool over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from typing_extensions import override

from proxy.clock import SystemClock
from proxy.errors import (
    ClientError,
    OverloadedError,
    ProxyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamIncompleteError,
    UpstreamTimeoutError,
)
from proxy.http.body import BodyStream, close_body
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response, make_headers
from proxy.metrics.registry import Registry
from proxy.tasks import Tasks
from proxy.upstream.health import FAILURES_IN_A_ROW, UpstreamState
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.settings import UpstreamSettings
from tests.support.sidecar import eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Dialogue = Callable[["Origin", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Origin:
    """A server that speaks each connection's bytes as a test says."""

    dialogue: Dialogue
    port: int = 0
    connections: int = 0
    open: int = 0
    peak: int = 0
    heads: list[bytes] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            await self.dialogue(self, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        """The next request's head."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        return head


def always(answer: bytes, *, close: bool = False) -> Dialogue:
    """Answers each request with these bytes."""

    async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await origin.head(reader)
            writer.write(answer)
            await writer.drain()
            if close:
                return

    return dialogue


@dataclass
class Bench:
    """A pool before an origin."""

    pool: UpstreamPool
    origin: Origin

    async def get(self, target: str = "/", method: str = "GET", **more: Any) -> tuple[Response, bytes]:
        """Send, and read to the end."""
        headers = make_headers(more.pop("headers", {}).items())
        response = await self.pool.send(Request(method, target, host="a.test", headers=headers, **more))
        try:
            if isinstance(response.body, bytes):
                return response, response.body
            return response, b"".join([chunk async for chunk in response.body])
        finally:
            await close_body(response.body)


@asynccontextmanager
async def bench(dialogue: Dialogue, **settings: Any) -> AsyncIterator[Bench]:
    """A pool before an origin that speaks `dialogue`."""
    origin, tasks = Origin(dialogue), Tasks()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    origin.port = server.sockets[0].getsockname()[1]
    settings.setdefault("url", f"http://127.0.0.1:{origin.port}")
    pool = UpstreamPool(UpstreamSettings(**settings), SystemClock(), Registry(), tasks)
    try:
        yield Bench(pool, origin)
    finally:
        await pool.close()
        await tasks.close()
        server.close()
        await eventually(lambda: origin.open == 0)


class Chunks(BodyStream):
    """A request's body."""

    def __init__(self, chunks: Iterable[bytes], *, error: ProxyError | None = None) -> None:
        self._chunks = list(chunks)
        self._error = error

    @override
    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if self._chunks:
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        self._chunks.clear()


class TestWhatIsNotAskedFor:
    async def test_a_second_response_behind_the_first_takes_nobodys_place(self) -> None:
        evil = b"HTTP/1.1 500 Evil\r\nContent-Length: 4\r\nX-Evil: 1\r\n\r\nevil"
        async with bench(always(OK + evil)) as b:
            for _ in range(3):
                response, body = await b.get()
                assert (response.status, body, "X-Evil" in response.headers) == (200, b"ok", False)
            assert b.origin.connections == 3, "such a connection is not used again"

    async def test_a_body_behind_the_response_to_head_ends_the_connection(self) -> None:
        async with bench(always(OK)) as b:
            for _ in range(2):
                response, body = await b.get(method="HEAD")
                assert (response.status, body) == (200, b"")
            assert b.origin.connections == 2

    async def test_bytes_on_an_idle_connection_end_it(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            writer.write(OK)
            await writer.drain()
            if origin.connections > 1:
                return
            await eventually(lambda: bool(b.pool.stats()["idle"]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
            await reader.read()

        async with bench(dialogue) as b:
            await b.get()
            await eventually(lambda: b.origin.open == 0)
            assert (await b.get())[1] == b"ok"
            assert b.origin.connections == 2


@pytest.mark.parametrize(
    ("answer", "error_type"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "http_protocol_error"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", "http_response_header_section_size"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "http_protocol_error"),
        (b"", "connection_terminated"),
        (b"HTTP/1.1 200", "http_response_incomplete"),
    ],
    ids=["no http", "TE and CL", "two CL", "huge head", "101 unasked", "nothing", "half a head"],
)
async def test_what_is_no_response_is_an_error_that_says_so(answer: bytes, error_type: str) -> None:
    async with bench(always(answer, close=True)) as b:
        with pytest.raises(UpstreamError) as caught:
            await b.get()
        assert caught.value.error_type == error_type
        await eventually(lambda: b.pool.stats() == {"open": 0, "idle": 0, "waiting": 0})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_confirmation_that_nobody_asked_for_is_an_error_and_the_connection_goes_on(method: str) -> None:
    async with bench(always(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')) as b:
        with pytest.raises(UpstreamError, match="304") as caught:
            await b.pool.send(Request(method, "/", host="o"))
        assert caught.value.error_type == "http_protocol_error"
        for name in ("If-None-Match", "If-Modified-Since"):
            asked = Request(method, "/", host="o", headers=make_headers([(name, "x")]))
            assert (await b.pool.send(asked)).status == 304
        posted = await b.pool.send(Request("POST", "/", host="o"))
        assert posted.status == 304, "what it means there is between the client and the origin"
        assert b.origin.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
    ],
    ids=["short of its length", "no last chunk", "half a chunk"],
)
async def test_a_body_that_is_cut_off_never_ends_cleanly(answer: bytes) -> None:
    async with bench(always(answer, close=True)) as b:
        with pytest.raises(UpstreamIncompleteError):
            await b.get()
        assert b.pool.stats()["open"] == 0


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3;x=y\r\ntwo\r\n0\r\nT: 1\r\n\r\n",
            b"onetwo",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
    ],
    ids=["HTTP/1.0", "until close", "chunked with extension and trailer", "204", "304"],
)
async def test_every_framing_is_understood(answer: bytes, body: bytes) -> None:
    async with bench(always(answer, close=True)) as b:
        assert (await b.get(headers={"If-None-Match": "x"}))[1] == body


async def test_trailers_without_end_are_cut_off() -> None:
    async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await origin.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: ")
        for _ in range(64):
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with bench(dialogue) as b:
        with pytest.raises(UpstreamError, match="trailer"):
            await b.get()


class TestRequests:
    @pytest.mark.parametrize(("chunks", "word"), [([b"abc", b"GET /smuggled"], "longer"), ([b"ab"], "shorter")])
    async def test_a_body_that_is_not_as_long_as_it_says_becomes_no_second_request(
        self, chunks: list[bytes], word: str
    ) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            while data := await reader.read(1000):
                origin.received += data

        async with bench(dialogue) as b:
            with pytest.raises(ClientError, match=word):
                await b.get(method="POST", headers={"Content-Length": "3"}, body=Chunks(chunks))
            await eventually(lambda: b.origin.open == 0)
            assert b"smuggled" not in b.origin.received
            assert b.pool.health.state is not UpstreamState.DOWN

    async def test_an_empty_chunk_does_not_end_a_chunked_body(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            origin.received += await reader.readuntil(b"0\r\n\r\n")
            writer.write(OK)

        async with bench(dialogue) as b:
            await b.get(method="POST", body=Chunks([b"one", b"", b"two"]))
            assert bytes(b.origin.received) == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"

    @pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/\0", ""])
    async def test_a_target_that_would_be_two_requests_is_refused(self, target: str) -> None:
        async with bench(always(OK)) as b:
            with pytest.raises(ClientError):
                await b.get(target)
            assert b.origin.connections == 0

    @pytest.mark.parametrize("target", ["/a%2Fb;x?", "//x", "/x?", "/%zz", "/ä", "/a#b", "*"])
    async def test_a_target_goes_out_byte_for_byte(self, target: str) -> None:
        async with bench(always(OK)) as b:
            await b.get(target)
            assert b.origin.heads[0].startswith(b"GET " + target.encode() + b" HTTP/1.1\r\nHost: a.test\r\n")

    async def test_a_clients_body_that_breaks_off_is_not_the_upstreams_fault(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            await reader.read()

        async with bench(dialogue) as b:
            with pytest.raises(ClientError, match="gone"):
                await b.get(method="POST", body=Chunks([b"half"], error=ClientError("gone")))
            assert b.pool.health.last_error is None

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_an_answer_before_the_body_is_out_counts(self, streamed: bool) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
            await writer.drain()
            await asyncio.sleep(0)
            await done.wait()

        done = asyncio.Event()
        body = Chunks([b"x" * 65_536] * 400) if streamed else b"x" * 20_000_000
        async with bench(dialogue, idle_timeout_seconds=30) as b:
            response, text = await asyncio.wait_for(b.get(method="POST", body=body), 10)
            done.set()
            assert (response.status, text) == (413, b"big")
            assert b.pool.stats()["open"] == 0, "half a request is on that connection"

    @pytest.mark.parametrize("says", ["100", "417", "nothing"])
    async def test_expect_100_continue(self, says: str) -> None:
        asked: list[int] = []

        async def informational(status: int, _: Any) -> None:
            asked.append(status)

        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            if says == "417":
                writer.write(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                origin.received += await reader.read()
                return
            if says == "100":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            origin.received += await reader.readexactly(4)
            writer.write(OK)

        headers = {"Expect": "100-continue", "Content-Length": "4"}
        async with bench(dialogue, expect_timeout_seconds=0.05 if says == "nothing" else 30) as b:
            request = Request("POST", "/", headers=make_headers(headers.items()), body=Chunks([b"body"]))
            response = await b.pool.send(request, informational=informational)
            assert response.status == (417 if says == "417" else 200)
            await close_body(response.body)
        assert bytes(b.origin.received) == (b"" if says == "417" else b"body")
        assert asked == ([100] if says == "100" else [])


class TestKeepAlive:
    @staticmethod
    def closing_once() -> Dialogue:
        """The first connection closes when its second request comes."""

        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            first = origin.connections == 1
            await origin.head(reader)
            writer.write(OK)
            await writer.drain()
            await origin.head(reader)
            if not first:
                writer.write(OK)

        return dialogue

    async def test_a_get_that_lost_the_race_is_sent_again(self) -> None:
        async with bench(self.closing_once()) as b:
            assert (await b.get(headers={"If-None-Match": "x"}))[1] == b"ok"
            assert (await b.get("/second"))[1] == b"ok"
            assert b.origin.connections == 2

    async def test_a_post_whose_bytes_went_out_is_not(self) -> None:
        async with bench(self.closing_once()) as b:
            await b.get()
            with pytest.raises(UpstreamError):
                await b.get(method="POST", body=b"x")
            assert sum(head.startswith(b"POST") for head in b.origin.heads) == 1

    async def test_a_post_takes_no_connection_that_was_idle_for_long_and_leaves_it_to_others(self) -> None:
        async with bench(always(OK), fresh_for_unsafe_seconds=0) as b:
            await b.get()
            await b.get(method="POST", body=b"x")
            assert b.origin.connections == 2
            assert b.pool.stats()["open"] == 2
            await b.get()
            assert b.origin.connections == 2

    async def test_a_request_on_a_new_connection_that_closes_is_not_repeated(self) -> None:
        async with bench(always(b"", close=True)) as b:
            with pytest.raises(UpstreamError):
                await b.get()
            assert b.origin.connections == 1


class TestLimits:
    async def test_there_are_never_more_connections_than_allowed(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await origin.head(reader)
                close = len(origin.heads) % 3 == 0
                writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if close else OK)
                await writer.drain()
                if close:
                    return

        async with bench(dialogue, max_connections=4) as b:
            await asyncio.gather(*(b.get() for _ in range(100)))
            assert b.origin.peak <= 4 + 1  # a closing one may still be seen open by the origin
            assert b.pool.stats()["waiting"] == 0

    async def test_a_queue_that_is_full_refuses_at_once(self) -> None:
        gate = asyncio.Event()

        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            await gate.wait()
            writer.write(OK)

        async with bench(dialogue, max_connections=1, max_waiting=1) as b:
            first, second = asyncio.ensure_future(b.get()), asyncio.ensure_future(b.get())
            await eventually(lambda: b.pool.stats()["waiting"] == 1)
            with pytest.raises(OverloadedError):
                await b.get()
            gate.set()
            assert [(await each)[1] for each in (first, second)] == [b"ok", b"ok"]

    async def test_waiting_has_an_end(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with bench(dialogue, max_connections=1, pool_wait_seconds=0.05) as b:
            first = asyncio.ensure_future(b.get())
            await eventually(lambda: b.pool.stats()["open"] == 1)
            with pytest.raises(OverloadedError):
                await b.get()
            first.cancel()
            await asyncio.wait({first})

    async def test_who_is_handed_a_connection_that_is_no_good_keeps_its_place(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await origin.head(reader)
                await gate.wait()
                writer.write(OK)
                await writer.drain()

        gate = asyncio.Event()
        async with bench(dialogue, max_connections=1, max_connection_age_seconds=0.01) as b:
            requests = [asyncio.ensure_future(b.get("/0"))]
            await eventually(lambda: len(b.origin.heads) == 1)
            opened = asyncio.get_running_loop().time()
            for number in range(1, 6):
                requests.append(asyncio.ensure_future(b.get(f"/{number}")))
                await eventually(lambda number=number: b.pool.stats()["waiting"] == number)  # type: ignore[misc]  # bound here
            await eventually(lambda: asyncio.get_running_loop().time() > opened + 0.02)
            gate.set()
            assert [(await each)[1] for each in requests] == [b"ok"] * 6
            assert [head.split()[1] for head in b.origin.heads] == [b"/%d" % number for number in range(6)]
            assert b.origin.connections > 1

    async def test_those_who_wait_when_the_pool_closes_open_nothing(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with bench(dialogue, max_connections=1) as b:
            requests = [asyncio.ensure_future(b.get()) for _ in range(5)]
            await eventually(lambda: b.pool.stats()["waiting"] == 4)
            await b.pool.close()
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert all(isinstance(result, UpstreamError) for result in results)
            assert b.origin.connections == 1

    async def test_requests_that_are_cancelled_anywhere_leave_nothing_behind(self) -> None:
        async with bench(always(OK), max_connections=3) as b:
            for turns in range(30):
                requests = [asyncio.ensure_future(b.get()) for _ in range(8)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for each in requests[::2]:
                    each.cancel()
                await asyncio.gather(*requests, return_exceptions=True)
            stats = b.pool.stats()
            assert stats["open"] == stats["idle"]
            assert stats["waiting"] == 0
            assert (await b.get(headers={"If-None-Match": "x"}))[1] == b"ok"

    async def test_a_post_does_not_wait_for_idle_connections_that_it_may_not_take(self) -> None:
        async with bench(always(OK), max_connections=1, fresh_for_unsafe_seconds=0, pool_wait_seconds=30) as b:
            await b.get()
            assert (await asyncio.wait_for(b.get(method="POST", body=b"x"), 5))[1] == b"ok"
            assert b.origin.connections == 2


class TestFields:
    async def test_repeated_lines_go_both_ways_and_what_connection_names_goes_neither(self) -> None:
        answer = (
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nSet-Cookie: a\r\nX-Hop: 1\r\nX-Empty:\r\n"
            b"Keep-Alive: timeout=5\r\nset-cookie: b\r\nContent-Length: 2\r\n\r\nok"
        )
        async with bench(always(answer)) as b:
            for _ in range(2):
                headers = make_headers([("Cookie", "a"), ("X", ""), ("Cookie", "b")])
                response = await b.pool.send(Request("GET", "/", host="a.test", headers=headers))
                assert response.body == b"ok"
                assert b.origin.heads[-1] == b"GET / HTTP/1.1\r\nHost: a.test\r\nCookie: a\r\nX: \r\nCookie: b\r\n\r\n"
                assert list(response.headers.items()) == [
                    ("Set-Cookie", "a"), ("X-Empty", ""), ("set-cookie", "b"), ("Content-Length", "2"),
                ]  # fmt: skip
            assert b.origin.connections == 1

    async def test_interim_responses_come_before_the_final_one_without_what_ends_here(self) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: keep-alive\r\nLink: </b>\r\n\r\n"
        told: list[tuple[int, list[tuple[str, str]]]] = []

        async def informational(status: int, headers: Any) -> None:
            told.append((status, list(headers.items())))

        async with bench(always(hints + hints + OK)) as b:
            for _ in range(2):
                response = await b.pool.send(Request("GET", "/"), informational=informational)
                assert (response.body, "Link" in response.headers) == (b"ok", False)
            assert told == [(103, [("Link", "</a>"), ("Link", "</b>")])] * 4
            assert b.origin.connections == 1

    @pytest.mark.parametrize(
        ("fields", "version", "kept"),
        [
            (b"", b"1.1", True),
            (b"Content-Length: 5\r\n", b"1.1", True),
            (b"Transfer-Encoding: chunked\r\n", b"1.1", True),
            (b"Connection: close\r\n", b"1.1", False),
            (b"Connection: x, Close\r\nContent-Length: 5\r\n", b"1.1", False),
            (b"Content-Length: 5\r\n", b"1.0", False),
            (b"Connection: keep-alive\r\nContent-Length: 5\r\n", b"1.0", True),
        ],
    )
    async def test_a_connection_outlives_the_response_to_head_unless_it_says_otherwise(
        self, fields: bytes, version: bytes, kept: bool
    ) -> None:
        async with bench(always(b"HTTP/%b 200 OK\r\n%b\r\n" % (version, fields))) as b:
            for _ in range(2):
                assert (await b.get(method="HEAD"))[1] == b""
            assert b.origin.connections == (1 if kept else 2)

    @pytest.mark.parametrize(
        ("fields", "version", "kept"),
        [
            (b"", b"1.1", True),
            (b"Connection: x, Close\r\n", b"1.1", False),
            (b"Connection: x\r\nConnection: close\r\n", b"1.1", False),
            (b"", b"1.0", False),
            (b"Connection: Keep-Alive\r\n", b"1.0", True),
        ],
    )
    async def test_a_connection_outlives_a_response_unless_it_says_otherwise(
        self, fields: bytes, version: bytes, kept: bool
    ) -> None:
        async with bench(always(b"HTTP/%b 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % (version, fields))) as b:
            for _ in range(2):
                assert (await b.get(headers={"If-None-Match": "x"}))[1] == b"ok"
            assert b.origin.connections == (1 if kept else 2)


class TestTimeouts:
    async def test_a_time_out_holds_for_every_request_on_a_connection_that_is_used_again(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await origin.head(reader)
                if b"/slow" in head:
                    await reader.read()
                    return
                writer.write(OK)
                await writer.drain()

        async with bench(dialogue, first_byte_timeout_seconds=0.1) as b:
            loop = asyncio.get_running_loop()
            until = loop.time() + 0.25
            while loop.time() < until:  # the timer of the first of them goes off in the midst of the others
                assert (await b.get(headers={"If-None-Match": "x"}))[1] == b"ok"
            began = loop.time()
            with pytest.raises(UpstreamTimeoutError):
                await b.get("/slow")
            assert loop.time() >= began + 0.09
            assert b.origin.connections == 1

    async def test_a_head_that_does_not_come(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with bench(dialogue, first_byte_timeout_seconds=0.05) as b:
            for _ in range(FAILURES_IN_A_ROW):
                assert b.pool.health.state is not UpstreamState.DOWN
                with pytest.raises(UpstreamTimeoutError) as caught:
                    await b.get()
                assert caught.value.error_type == "http_response_timeout"
            assert b.pool.health.state is UpstreamState.DOWN

    async def test_a_body_that_stops(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            await reader.read()

        async with bench(dialogue, idle_timeout_seconds=0.05) as b:
            with pytest.raises(UpstreamTimeoutError):
                await b.get()

    async def test_an_upstream_that_takes_nothing(self) -> None:
        gate = asyncio.Event()

        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gate.wait()

        async with bench(dialogue, idle_timeout_seconds=0.1) as b:
            try:
                with pytest.raises(UpstreamTimeoutError) as caught:
                    await b.get(method="POST", body=Chunks([b"x" * 65_536] * 1000))
            finally:
                gate.set()
            assert caught.value.error_type == "connection_write_timeout"

    async def test_a_port_that_refuses(self) -> None:
        async with bench(always(OK), url="http://127.0.0.1:1") as b:
            with pytest.raises(UpstreamConnectError) as caught:
                await b.get()
            assert caught.value.error_type == "connection_refused"
            assert b.pool.health.state is UpstreamState.DOWN

    @pytest.mark.parametrize(
        ("url", "error_type"),
        [
            ("http://does-not-exist.invalid", "dns_error"),
            (f"http://{'a' * 64}.test", "dns_error"),
            ("unix:/nonexistent.sock", "destination_not_found"),
        ],
    )
    async def test_places_that_are_not_there(self, url: str, error_type: str) -> None:
        async with bench(always(OK), url=url) as b:
            with pytest.raises(UpstreamConnectError) as caught:
                await b.get()
            assert caught.value.error_type == error_type


class TestHealth:
    async def test_a_health_path_that_fails_is_down_and_stays_so(self) -> None:
        answers = iter([b"503 No", b"503 No", b"200 OK", b"200 OK", b"200 OK"])

        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await origin.head(reader)
                writer.write(b"HTTP/1.1 " + next(answers, b"200 OK") + b"\r\nContent-Length: 0\r\n\r\n")

        async with bench(dialogue, health_path="/healthz", health_interval_seconds=0.05) as b:
            await b.pool.start()
            await eventually(lambda: b.pool.health.last_error is not None)
            await eventually(lambda: b.pool.health.state is UpstreamState.UP)
            assert b.origin.heads[0].startswith(b"GET /healthz ")

    async def test_a_busy_pool_does_not_make_its_upstream_look_down(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            await gate.wait()
            writer.write(OK)

        gate = asyncio.Event()
        async with bench(dialogue, health_path="/healthz", max_connections=1, max_waiting=0) as b:
            busy = asyncio.ensure_future(b.get())
            await eventually(lambda: bool(b.origin.heads))
            assert await b.pool._look("/healthz")
            assert b.pool.health.last_error is None
            gate.set()
            await busy

    async def test_a_tunnel_is_a_sign_of_life(self) -> None:
        async with bench(always(b"HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno")) as b:
            await b.pool.open_tunnel(Request("GET", "/"), protocol="chat")
            assert b.pool.health.state is UpstreamState.UP

    async def test_an_upstream_that_is_down_at_start_is_waited_for(self) -> None:
        async with bench(always(OK), url="http://127.0.0.1:1") as b:
            await b.pool.start()
            await eventually(lambda: b.pool.health.state is UpstreamState.DOWN)


class TestTunnels:
    async def test_bytes_go_both_ways_and_the_tail_is_not_lost(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nearly")
            while data := await reader.read(65_536):
                origin.received += data

        async with bench(dialogue) as b:
            tunnel = await b.pool.open_tunnel(Request("GET", "/"), protocol="chat")
            assert isinstance(tunnel, Tunnel)
            assert b"Connection: Upgrade\r\nUpgrade: chat\r\n" in b.origin.heads[0]
            assert (tunnel.protocol, await tunnel.channel.read()) == ("chat", b"early")
            for _ in range(60):
                await tunnel.channel.write(b"x" * 65_536)
            await tunnel.channel.aclose()
            await eventually(lambda: b.origin.open == 0)
            assert len(b.origin.received) == 60 * 65_536
            assert b.pool.stats()["open"] == 0

    async def test_a_refusal_is_a_response(self) -> None:
        async with bench(always(b"HTTP/1.1 426 No\r\nContent-Length: 2\r\n\r\nno")) as b:
            answer = await b.pool.open_tunnel(Request("GET", "/"), protocol="chat")
            assert isinstance(answer, Response)
            assert (answer.status, answer.body) == (426, b"no")

    async def test_the_ends_of_the_two_directions_are_apart(self) -> None:
        async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await origin.head(reader)
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
            origin.received += await reader.read()
            writer.write(b"late")

        async with bench(dialogue) as b:
            tunnel = await b.pool.open_tunnel(Request("GET", "/"), protocol="chat")
            assert isinstance(tunnel, Tunnel)
            await tunnel.channel.write(b"all")
            await tunnel.channel.write_eof()
            assert await tunnel.channel.read() == b"late"
            assert await tunnel.channel.read() == b""
            await tunnel.channel.aclose()
            assert bytes(b.origin.received) == b"all"


async def test_a_slow_reader_holds_the_upstream_back() -> None:
    sent = 0

    async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await origin.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (200 << 20))
        for _ in range(200):
            writer.write(b"x" * (1 << 20))
            await writer.drain()
            sent += 1

    async with bench(dialogue) as b:
        response = await b.pool.send(Request("GET", "/"))
        assert isinstance(response.body, BodyStream)
        first = await response.body.__anext__()
        for _ in range(200):
            await asyncio.sleep(0)
        assert sent < 50, "the sockets' buffers and ours take so much, and no more"
        total = len(first)
        async for chunk in response.body:
            total += len(chunk)
        assert total == 200 << 20
        await response.body.aclose()


async def test_closing_a_body_early_closes_its_connection() -> None:
    async def dialogue(origin: Origin, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await origin.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await reader.read()

    async with bench(dialogue) as b:
        response = await b.pool.send(Request("GET", "/"))
        await close_body(response.body)
        await eventually(lambda: b.origin.open == 0)
        assert b.pool.stats()["open"] == 0
