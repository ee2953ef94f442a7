"""What one request to the upstream costs: microseconds of processor time in `UpstreamPool.send` and the body's reading.

The origin is another process that answers with bytes made beforehand, so that nothing of it counts. Every figure is
the process's own user and system time over the number of requests. The *floor* is the same bytes written and read by
a bare protocol on the same event loop: the two system calls, the loop, and a coroutine that is woken. What is above it
is the pool's.
"""

import argparse
import asyncio
import contextlib
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

import uvloop
from typing_extensions import override

from proxy.clock import SystemClock
from proxy.http.body import close_body
from proxy.http.message import Request, make_headers
from proxy.metrics.registry import Registry
from proxy.tasks import Tasks
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.settings import UpstreamSettings

HOST: Final = "127.0.0.1"
DEADLINE_SECONDS: Final = 120.0

Work: TypeAlias = Callable[[int], Awaitable[None]]
"""What one of the workers does: so many exchanges, one after the other."""

_EMPTY_LINE: Final = b"\r\n\r\n"
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: bench\r\n"
    b"Date: Sat, 21 Nov 2026 08:49:37 GMT\r\n"
    b"Content-Type: application/json\r\n"
    b"Cache-Control: no-store\r\n"
    b"Vary: Accept-Encoding\r\n"
    b'ETag: "0123456789abcdef"\r\n'
    b"Connection: keep-alive\r\n"
)
# What a load balancer's request looks like by the time the pool sees it.
_REQUEST_FIELDS: Final = (
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36"),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("X-Request-ID", "0af7651916cd43dd8448eb211c80319c"),
    ("X-Forwarded-For", "192.0.2.17"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "api.example"),
    ("Forwarded", 'for=192.0.2.17;host="api.example";proto=http'),
    ("Via", "1.1 sidecache"),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of exchange.

    Attributes:
        name: also the target's path.
        answer: what the origin sends, byte for byte.
        body: what comes of it.
        fields: of the request, beside those that all have.
    """

    name: str
    answer: bytes
    body: bytes
    method: str = "GET"
    sent: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()

    def request(self) -> Request:
        """What is sent."""
        fields = (*_REQUEST_FIELDS, *self.fields)
        return Request(self.method, f"/{self.name}", host="api.example", headers=make_headers(fields), body=self.sent)


def _known(body: bytes) -> bytes:
    return _HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


_KILOBYTE: Final = b"x" * 1024
SCENARIOS: Final = (
    Scenario("1k", _known(_KILOBYTE), _KILOBYTE),
    Scenario(
        "1k-chunked",
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + _KILOBYTE + b"\r\n0\r\n\r\n",
        _KILOBYTE,
    ),
    Scenario("16k", _known(_KILOBYTE * 16), _KILOBYTE * 16),
    Scenario("post-1k", _known(_KILOBYTE), _KILOBYTE, "POST", _KILOBYTE, (("Content-Type", "application/json"),)),
    Scenario("304", b"HTTP/1.1 304 Not Modified" + _HEAD[15:] + b"\r\n", b"", fields=(("If-None-Match", '"1"'),)),
)
_ANSWERS: Final = {f"/{scenario.name}".encode(): scenario for scenario in SCENARIOS}


class _Origin(asyncio.Protocol):
    """Answers a request that came in one piece, which those here do."""

    def __init__(self) -> None:
        self._transport = cast("asyncio.Transport", None)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        scenario = _ANSWERS[data[data.index(b" ") + 1 : data.index(b" HTTP/1.1\r\n")]]
        assert data.endswith(_EMPTY_LINE + scenario.sent)
        self._transport.write(scenario.answer)


async def _serve(listening: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(_Origin, sock=listening)
    async with server:
        await asyncio.wait({asyncio.ensure_future(server.serve_forever())}, timeout=600)


@contextlib.contextmanager
def running_origin() -> Iterator[int]:
    """The port of an origin in a process of its own."""
    with socket.create_server((HOST, 0), backlog=1024) as listening:
        port: int = listening.getsockname()[1]
        command = [sys.executable, "-m", "loadtests.bench_upstream", "--serve", str(listening.fileno())]
        root = Path(__file__).resolve().parent.parent
        process = subprocess.Popen(command, pass_fds=[listening.fileno()], cwd=root)
        try:
            yield port
        finally:
            process.kill()
            process.wait()


class _Bare(asyncio.Protocol):
    """Writes a request, and wakes whoever waits once all of the answer is here."""

    def __init__(self) -> None:
        self._transport = cast("asyncio.Transport", None)
        self._missing = 0
        self._wake: asyncio.Future[None] | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing <= 0 and self._wake is not None:
            self._wake.set_result(None)

    async def ask(self, wire: bytes, answer_bytes: int) -> None:
        """Write, and wait for so many bytes."""
        self._missing = answer_bytes
        self._wake = asyncio.get_running_loop().create_future()
        self._transport.write(wire)
        await self._wake

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


@contextlib.asynccontextmanager
async def bare(port: int, scenario: Scenario, concurrency: int) -> AsyncIterator[Work]:
    """A floor's worker: makes so many exchanges on connection after connection, as many as there are workers."""
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(_Bare, HOST, port))[1] for _ in range(concurrency)]
    request = scenario.request()
    lines = [f"{request.method} {request.target} HTTP/1.1", "Host: api.example"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    wire = "\r\n".join(lines).encode() + _EMPTY_LINE + scenario.sent
    free = list(connections)

    async def work(exchanges: int) -> None:
        connection = free.pop()
        for _ in range(exchanges):
            await connection.ask(wire, len(scenario.answer))
        free.append(connection)

    yield work
    for connection in connections:
        connection.close()


@contextlib.asynccontextmanager
async def pooled(port: int, scenario: Scenario, concurrency: int) -> AsyncIterator[Work]:
    """The same by an `UpstreamPool`."""
    tasks = Tasks()
    settings = UpstreamSettings(url=f"http://{HOST}:{port}", max_connections=concurrency)
    pool = UpstreamPool(settings, SystemClock(), Registry(), tasks)
    request = scenario.request()

    async def work(exchanges: int) -> None:
        for _ in range(exchanges):
            response = await pool.send(request)
            body = response.body
            if not isinstance(body, bytes):
                try:
                    body = b"".join([chunk async for chunk in body])
                finally:
                    await close_body(response.body)
            assert body == scenario.body

    yield work
    await pool.close()
    await tasks.close()


async def compare(port: int, scenario: Scenario, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Processor time in µs for each request, one figure a round: by the pool, and by the bare protocol.

    Rounds alternate: on a shared machine a microsecond of one minute is not that of the next.
    """
    workers: int = options.concurrency
    each: int = options.requests // workers

    async def once(work: Work, exchanges: int) -> float:
        began = time.process_time()
        await asyncio.gather(*(work(exchanges) for _ in range(workers)))
        return (time.process_time() - began) * 1e6 / (exchanges * workers)

    ours: list[float] = []
    floor: list[float] = []
    async with (
        pooled(port, scenario, workers) as asked,
        bare(port, scenario, workers) as written,
        asyncio.timeout(DEADLINE_SECONDS),
    ):
        for work in (asked, written):
            await once(work, each // 10 + 1)  # connections, caches
        for _ in range(options.rounds):
            ours.append(await once(asked, each))
            floor.append(await once(written, each))
    return ours, floor


def main() -> int:
    parser = argparse.ArgumentParser(description="Processor time of one request to the upstream.")
    parser.add_argument("--requests", type=int, default=2_000, help="a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--only", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--serve", type=int, metavar="FD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        uvloop.run(_serve(socket.socket(fileno=options.serve)))
        return 0
    print(f"{'scenario':<12}{'µs':>8}{'least':>8}{'floor':>8}{'least':>8}{'the pool':>10}")
    with running_origin() as port:
        for scenario in SCENARIOS:
            if options.only in (None, scenario.name):
                ours, floor = uvloop.run(compare(port, scenario, options))
                median, at_least = statistics.median(ours), statistics.median(floor)
                print(
                    f"{scenario.name:<12}{median:>8.1f}{min(ours):>8.1f}{at_least:>8.1f}{min(floor):>8.1f}"
                    f"{median - at_least:>10.1f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
