"""Sites before an origin that speaks bytes, over a real pool: what goes past the pipeline, and what does not."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plugins import REGISTRY
from proxy.address import Address
from proxy.clock import Clock
from proxy.metrics.exposition import expose
from proxy.metrics.registry import Registry
from proxy.pipeline.plugin import Plugin, Services
from proxy.pipeline.routes import Route
from proxy.server.listener import Listener
from proxy.server.settings import ServerSettings
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.second_tier import SecondTier
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.settings import UpstreamSettings
from tests.support.clock import FakeClock
from tests.support.raw_client import RawClient
from tests.support.sidecar import eventually
from tests.support.site import LANE_BYTES, Plugins, Replaceable, make_pipeline, sample
from tests.support.wire import DEADLINE_SECONDS, QUIET_ROUNDS, Wire

SEEING_ALL = frozenset({"access_log", "rate_limit"})
"""Plugins that must see each request: with them nothing goes past the pipeline."""

STUCK_NAPS = 50
"""A request that makes no progress while others have had so many turns waits for what does not come."""

DATE = b"Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n"


@dataclass
class Call:
    """One request that has reached the origin.

    Attributes:
        head: as it came.
        number: of those for its target, from 1.
    """

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int = 0

    @property
    def target(self) -> str:
        return self.head.split(b" ")[1].decode()

    def field(self, name: str) -> str | None:
        """The value of a field; None if there is none."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return None

    async def read_body(self) -> None:
        """Read past the request's body."""
        if self.field("Transfer-Encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                await self.reader.readexactly(size + 2)
            await self.reader.readuntil(b"\r\n")
        elif length := self.field("Content-Length"):
            await self.reader.readexactly(int(length))

    async def send(self, *pieces: bytes) -> None:
        """Write each piece so that it is read by itself."""
        for piece in pieces:
            if piece:
                self.writer.write(piece)
                for _ in range(3):  # over loopback it is there at once: the reader's turn is the next
                    await asyncio.sleep(0)

    async def gone(self) -> None:
        """Wait until the proxy closes the connection."""
        while await self.reader.read(65_536):
            pass


Script = Callable[[Call], Awaitable[object]]
"""Answers a call. `False`: the connection is closed then."""


@dataclass
class ByteOrigin:
    """An origin that runs a script for each request.

    Attributes:
        heads: of the requests, in order.
        busy: calls that are being answered.
        open: connections.
    """

    script: Script
    heads: list[bytes] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    open: int = 0
    busy: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.open += 1
        try:
            while True:
                call = Call(await reader.readuntil(b"\r\n\r\n"), reader, writer)
                await call.read_body()
                self.heads.append(call.head)
                self.count[call.target] += 1
                call.number = self.count[call.target]
                self.busy += 1
                try:
                    if await self.script(call) is False:
                        return
                finally:
                    self.busy -= 1
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            writer.close()


@dataclass(frozen=True)
class Place:
    """Where an origin listens: by default on a port of loopback.

    Attributes:
        path: of a Unix socket.
        tls, ca_file: its certificate is for `localhost`, and this file says whom to trust.
    """

    path: str = ""
    tls: ssl.SSLContext | None = None
    ca_file: Path | None = None


LOOPBACK = Place()


@asynccontextmanager
async def byte_origin(script: Script, place: Place = LOOPBACK) -> AsyncIterator[ByteOrigin]:
    """An origin at `place`; what still runs when it ends is cancelled."""
    one = ByteOrigin(script)
    failures: list[Exception] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await one.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 — raised below, where it can be seen
            failures.append(error)
        finally:
            running.discard(task)

    if place.path:
        server = await asyncio.start_unix_server(serve, place.path, backlog=2048)
        one.url = f"unix:{place.path}"
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048, ssl=place.tls)
        port = server.sockets[0].getsockname()[1]
        one.url = f"http://127.0.0.1:{port}" if place.tls is None else f"https://localhost:{port}"
    try:
        yield one
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running)
    if failures:
        raise failures[0]


def silent_plugins(services: Services, **settings: Mapping[str, Any]) -> list[Plugin[Any]]:
    """The built-in plugins but for those that must see each request."""
    return [
        plugin(plugin.settings_type.model_validate(settings.get(name, {})), services)
        for name, plugin in REGISTRY.items()
        if name not in SEEING_ALL
    ]


@dataclass
class PassingSite:
    """A running one."""

    clock: FakeClock
    services: Services
    origin: ByteOrigin
    pool: UpstreamPool
    application: Replaceable
    listener: Listener

    @property
    def address(self) -> Address:
        return self.listener.addresses[0]

    @property
    def crossed(self) -> int:
        """Requests that went past the pipeline to the upstream and back."""
        return int(self.sample("sidecache_fast_lane_passed_total"))

    @property
    def recalled(self) -> int:
        """Requests that were answered from the second tier past the pipeline."""
        return int(self.sample("sidecache_fast_lane_recalled_total"))

    @property
    def under_way(self) -> int:
        """Requests that are being answered."""
        return int(self.sample("sidecache_server_requests_in_flight"))

    def sample(self, name: str, **labels: str) -> float:
        """The sum of the series of `name` with these labels, as they are scraped."""
        self.listener.settle()
        return sample(self.services.metrics, name, **labels)

    def samples(self, names: Iterable[str]) -> dict[str, float]:
        """The sums of all series of these names, as they are scraped."""
        self.listener.settle()
        totals = dict.fromkeys(names, 0.0)
        for line in expose(self.services.metrics)[0].decode().splitlines():
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            if name in totals:
                totals[name] += float(value)
        return totals

    async def client(self) -> RawClient:
        """A connection over a socket."""
        return await RawClient.connect(self.address)

    def wire(self, peer: str = "192.0.2.1") -> Wire:
        """A connection by hand."""
        return Wire(self.listener.connection(), peer)

    async def settle(self, wire: Wire) -> None:
        """Wait until nothing more comes of what `wire` was given. The origin may not wait for anything."""
        quiet, naps = 0, 0
        before = self._progress(wire)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while quiet < QUIET_ROUNDS or (self._awaits_something and naps < STUCK_NAPS):
                rests = quiet >= QUIET_ROUNDS
                await asyncio.sleep(0.001 if rests else 0)
                now = self._progress(wire)
                changed = now != before or self.origin.busy or self.pool._dialling
                quiet, naps = (0, 0) if changed else (quiet + 1, naps + rests)
                before = now

    @property
    def _awaits_something(self) -> bool:
        """Whether a request is being answered: it may wait for the origin, or for the rest of itself."""
        handler = self.listener._handler
        return bool(handler._counters.in_flight or (handler.ways is not None and len(handler.ways)))

    def _progress(self, wire: Wire) -> tuple[object, ...]:
        return len(wire.sent), wire.over, len(self.origin.heads), self.origin.open, self.pool.stats()

    async def replace_plugins(self, plugins: Plugins, routes: Sequence[Route] = ()) -> None:
        """Put another pipeline into use, as a reload does."""
        self.application.pipeline = await make_pipeline(self.services, plugins, self.pool, routes)
        self.listener.application_changed()


@asynccontextmanager
async def passing_site(
    script: Script,
    *,
    place: Place = LOOPBACK,
    plugins: Plugins = silent_plugins,
    routes: Sequence[Route] = (),
    lane_bytes: int = LANE_BYTES,
    l2: SecondTier | None = None,
    l1_bytes: int = 1 << 24,
    clock: FakeClock | None = None,
    upstream: Mapping[str, Any] | None = None,
    pool_clock: Clock | None = None,
    **settings: object,
) -> AsyncIterator[PassingSite]:
    """A site on a port of its own before an origin of its own, ended in any case.

    Args:
        place: of the origin.
        lane_bytes: 0: everything goes through the pipeline.
        upstream: settings of the pool.
        pool_clock: None: the site's.
        settings: of the server.
    """
    clock = clock or FakeClock()
    metrics = Registry()
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(byte_origin(script, place))
        tasks = Tasks()
        stack.push_async_callback(tasks.close)
        log = MemoryLog(clock)
        store = TieredStore(MemoryStore(l1_bytes, clock), l2, log, clock, tasks, metrics)
        stack.push_async_callback(store.close)
        await store.start()
        services = Services(clock=clock, tasks=tasks, metrics=metrics, store=store, invalidations=log)
        reached = UpstreamSettings.model_validate({"url": origin.url, "ca_file": place.ca_file, **(upstream or {})})
        pool = UpstreamPool(reached, pool_clock or clock, metrics, tasks)
        stack.push_async_callback(pool.close)
        await pool.start()
        application = Replaceable(await make_pipeline(services, plugins, pool, routes))
        values = {
            "listen": "127.0.0.1:0",
            "drain_timeout_seconds": 1.0,
            "fast_lane_max_bytes": lane_bytes,
            **settings,
        }
        listener = Listener(application, ServerSettings.model_validate(values), clock, metrics)
        await listener.start()
        await eventually(lambda: origin.open == 1)
        stack.push_async_callback(listener.drain, 0.0)
        yield PassingSite(clock, services, origin, pool, application, listener)
        await application.pipeline.close()


def ok(body: bytes = b"ok", *fields: str, status: str = "200 OK") -> bytes:
    """A response that nobody stores, whole."""
    lines = "".join(f"{line}\r\n" for line in ("Cache-Control: no-store", *fields)).encode("latin-1")
    return b"HTTP/1.1 %b\r\n%b%bContent-Length: %d\r\n\r\n%b" % (status.encode(), DATE, lines, len(body), body)


def fresh(body: bytes, *lines: str) -> bytes:
    """A whole response with these fields, its date, and its length."""
    head = ["HTTP/1.1 200 OK", DATE.decode().strip(), *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def always(*pieces: bytes) -> Script:
    """Answers each call so."""

    async def script(call: Call) -> None:
        await call.send(*pieces)

    return script
