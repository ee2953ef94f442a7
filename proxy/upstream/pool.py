"""The upstream's connections: kept alive, bounded, and never the cause of a client's error if that can be helped.

The keep-alive race. A server may close an idle connection at the very moment a request goes out on it. Connections are
given up before common servers close them (`keep_alive_seconds`), the most recently used one is taken first, and a
request whose reused connection closed before the first byte of a response is sent again on another, if that is safe:
its method is idempotent (RFC 9110 §9.2.2) and its body can be sent again. Other requests take only connections used a
moment ago (`fresh_for_unsafe_seconds`), or a new one.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from typing_extensions import override

from proxy.clock import Clock
from proxy.errors import OverloadedError, ProxyError, UpstreamConnectError, UpstreamError
from proxy.http.body import BodyStream, close_body
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response, from_wire, make_headers
from proxy.http.names import ANSWERED_BY_304
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import InformationalSender
from proxy.pipeline.passage import PATIENCE_SECONDS, Carrier, Tap, Transcript, ask_alike
from proxy.tasks import Tasks
from proxy.upstream.connection import ConnectionClosedError, ResponseHead, UpstreamChannel, UpstreamConnection
from proxy.upstream.dial import Dialler
from proxy.upstream.health import UpstreamHealth
from proxy.upstream.sending import WITH_HEAD_BYTES, Sender
from proxy.upstream.settings import UpstreamSettings

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY", "PROPFIND"})
BODILESS_STATUSES: Final = frozenset({204, 304})
_READING: Final = frozenset({"GET", "HEAD"})
FIRST_RETRY_SECONDS: Final = 0.25
LAST_RETRY_SECONDS: Final = 5.0


class _Body(BodyStream):
    """A response's body as it arrives. Closing it early closes its connection: the upstream need not go on."""

    __slots__ = ("_connection", "_release")

    def __init__(self, connection: UpstreamConnection, release: Callable[[UpstreamConnection], None]) -> None:
        self._connection = connection
        self._release: Callable[[UpstreamConnection], None] | None = release

    @override
    async def __anext__(self) -> bytes:
        if self._release is None:
            raise StopAsyncIteration
        try:
            data = await self._connection.chunk()
        except ProxyError:
            self._let_go()
            raise
        if not data:
            self._let_go()
            raise StopAsyncIteration
        return data

    @override
    async def aclose(self) -> None:
        if self._release is not None and not self._connection.complete:
            self._connection.abort()
        self._let_go()

    def _let_go(self) -> None:
        if self._release is not None:
            self._release(self._connection)
            self._release = None


class UpstreamPool:
    """Sends requests to one upstream. An `Upstream` of the pipeline.

    Attributes:
        health: what the requests tell about the upstream.
        patience_seconds: see `Line`.
    """

    def __init__(self, settings: UpstreamSettings, clock: Clock, metrics: Registry, tasks: Tasks) -> None:
        self._settings = settings
        self._monotonic = clock.monotonic
        self._tasks = tasks
        self._metrics = metrics
        self._dialler = Dialler(settings, clock)
        self._sender = Sender(settings)
        # Read for each request; an attribute of a pydantic model takes its time.
        self._first_byte_timeout = settings.first_byte_timeout_seconds
        self.patience_seconds = min(PATIENCE_SECONDS, settings.first_byte_timeout_seconds)
        self._idle_seconds = settings.keep_alive_seconds
        self._idle_seconds_if_unsafe = min(settings.keep_alive_seconds, settings.fresh_for_unsafe_seconds)
        self._max_age_seconds = settings.max_connection_age_seconds
        self.health = UpstreamHealth(clock, settings.url)
        self._idle: list[UpstreamConnection] = []  # the most recently used last
        self._open: set[UpstreamConnection] = set()
        self._dialling = 0
        self._waiting: deque[asyncio.Future[UpstreamConnection | None]] = deque()
        self._closed = False
        self._emptied: asyncio.Event | None = None  # once it retires
        self._background: list[asyncio.Task[None]] = []
        self._connects = metrics.histogram("sidecache_upstream_connect_seconds", "Time to open a connection").labels()
        self._requests = metrics.counter("sidecache_upstream_requests", "Requests sent to the upstream").labels()
        self._retries = metrics.counter(
            "sidecache_upstream_retries", "Requests sent again because a reused connection had closed"
        ).labels()
        self._failures = metrics.counter("sidecache_upstream_failures", "Requests without a response", ("error",))

    # Life.

    async def start(self) -> None:
        """See whether the upstream is there; if it is not, say so once and go on looking. Drop idle connections."""
        # Not before: a pool that a refused reload made must not be the one whose connections are shown.
        gauge = self._metrics.gauge
        gauge("sidecache_upstream_open_connections", "Connections to the upstream", lambda: len(self._open))
        gauge("sidecache_upstream_idle_connections", "Those of them not in use", lambda: len(self._idle))
        gauge("sidecache_upstream_waiting", "Requests that wait for a connection", lambda: len(self._waiting))
        self._background = [
            self._tasks.start("upstream watch", self._watch()),
            self._tasks.start("upstream idle", self._drop_idle()),
        ]

    async def retire(self) -> None:
        """Another pool takes its place: close what nobody uses, and what is in use when that is over. Returns when all
        are closed.
        """
        self._stop_looking()
        emptied = self._emptied = asyncio.Event()
        idle, self._idle = self._idle, []
        for connection in idle:
            self._drop(connection)
        if self._open:
            await emptied.wait()

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""
        self._closed = True
        self._stop_looking()
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(_shutting_down())
        self._waiting.clear()
        for connection in list(self._open):
            connection.abort()
        self._open.clear()
        self._idle.clear()

    def _stop_looking(self) -> None:
        for task in self._background:
            task.cancel()

    def stats(self) -> dict[str, object]:
        """What the admin port shows."""
        return {"open": len(self._open), "idle": len(self._idle), "waiting": len(self._waiting)}

    async def _watch(self) -> None:
        """Ask until there is an answer; with a `health_path`, for ever."""
        path = self._settings.health_path
        pause = FIRST_RETRY_SECONDS
        while True:
            if not await self._look(path):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_RETRY_SECONDS)
                continue
            if path is None:
                return
            pause = FIRST_RETRY_SECONDS
            await asyncio.sleep(self._settings.health_interval_seconds)

    async def _look(self, path: str | None) -> bool:
        """Whether the upstream is there: takes a connection, or gives no error on its health path."""
        began = self._monotonic()
        try:
            if path is None:
                self._dialling += 1
                self._park(await self._connect())
            else:
                request = Request("GET", path, host=self._settings.address.authority, headers=make_headers())
                connection, head = await self._ask(request, None, "")
                await close_body(self._response(connection, head, without_body=False).body)
                if head.status >= 500:
                    self.health.failed(f"the health path answers {head.status}")
                    return False
        except OverloadedError:
            return True  # busy is not down
        except UpstreamError as error:
            self.health.failed(error.detail, reached=not isinstance(error, UpstreamConnectError))
            return False
        self.health.succeeded(self._monotonic() - began)
        return True

    async def _drop_idle(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = self._monotonic()
            for connection in [one for one in self._idle if not self._is_fit(one, now, safe=True)]:
                self._idle.remove(connection)
                self._drop(connection)

    # Sending.

    async def send(
        self,
        request: Request,
        *,
        informational: InformationalSender | None = None,
        transcript: Transcript | None = None,
    ) -> Response:
        """See `pipeline.Upstream.send`.

        Raises:
            UpstreamError: there is no response.
            ClientError: the client's body could not be read to its end.
        """
        began = self._monotonic()
        if transcript is not None and transcript.begun is not None:
            began = transcript.began
        else:
            self._requests.value += 1
        try:
            connection, head = await self._ask(request, informational, "", transcript)
        except UpstreamError as error:
            self._note_failure(error)
            raise
        self.health.succeeded(self._monotonic() - began)
        if head.status == 101:
            self._drop(connection)
            raise UpstreamError("the upstream switched protocols without being asked")
        response = self._response(connection, head, without_body=request.method == "HEAD")
        if transcript is not None:
            transcript.reusable = not connection.busy
        if (
            head.status == 304
            and request.method in _READING
            and not any(map(request.headers.__contains__, ANSWERED_BY_304))
        ):
            # RFC 9110 §15.4.5: whoever sent no conditions may have nothing that it would confirm.
            raise UpstreamError("the upstream answered 304 to a request without conditions")
        return response

    async def open_tunnel(self, request: Request, *, protocol: str) -> Response | Tunnel:
        """See `pipeline.Upstream.open_tunnel`.

        Raises:
            UpstreamError: there is no response.
        """
        self._requests.value += 1
        began = self._monotonic()
        try:
            connection, head = await self._ask(request, None, protocol)
        except UpstreamError as error:
            self._note_failure(error)
            raise
        self.health.succeeded(self._monotonic() - began)
        if head.status != 101:
            return self._response(connection, head, without_body=False)
        switched = next(map(from_wire, head.lines(b"upgrade")), protocol)
        return Tunnel(
            Response(101, head.headers, b"", from_wire(head.reason)),
            switched,
            UpstreamChannel(connection, lambda: self._forget(connection)),
        )

    def _note_failure(self, error: UpstreamError) -> None:
        self._failures.labels(error.error_type).value += 1
        if not isinstance(error, OverloadedError):
            # Whoever got no connection at all was told so by the dialler.
            self.health.failed(error.detail, reached=not isinstance(error, UpstreamConnectError))

    async def _ask(
        self,
        request: Request,
        informational: InformationalSender | None,
        protocol: str,
        transcript: Transcript | None = None,
    ) -> tuple[UpstreamConnection, ResponseHead]:
        """Send `request`, on another connection if a reused one turns out to be closed and that is safe."""
        body, bodiless = request.body, request.method == "HEAD"
        sender = self._sender
        head = sender.head(request, protocol)
        safe, wire = False, None
        if isinstance(body, bytes):
            safe = request.method in IDEMPOTENT and not protocol
            if len(body) <= WITH_HEAD_BYTES:
                wire = head + body if body else head
        while True:
            begun = self._take_over(transcript, wire) if transcript is not None and transcript.begun else None
            if begun is None:
                connection = self._take_idle(safe=safe) or await self._acquire(safe=safe)
                reused = connection.requests > 0
                connection.begin(without_body=bodiless)
            else:
                connection, reused = begun, True
            try:
                if wire is None:
                    return connection, await sender.converse(connection, request, head, informational, self._tasks)
                waited = 0.0
                if begun is None:
                    if transcript is not None:
                        self._write_down(transcript, connection, wire)
                    connection.send(wire)
                    if connection.writing_paused:
                        await connection.drain()
                elif transcript is not None:
                    waited = self._monotonic() - transcript.began
                answer = await connection.head(self._first_byte_timeout, waited_seconds=waited)
                if answer.status >= 200 or answer.status == 101:
                    return connection, answer
                return connection, await sender.final_head(connection, informational, None, answer)
            except ConnectionClosedError:
                self._drop(connection)
                if not reused or (connection.wrote and not safe):
                    raise
                self._retries.value += 1
            except BaseException:
                self._drop(connection)
                raise

    # Requests that are bytes already: a `Line`.

    def begin(self, request: bytes, tap: Tap) -> Carrier | None:
        """See `Line.begin`."""
        connection = self._take_idle(safe=True)
        if connection is None:
            return None
        if connection.writing_paused:
            self._park(connection)
            return None
        connection.begin(without_body=False)
        connection.tap = tap
        self._requests.value += 1
        connection.wrote = True
        connection.transport.write(request)
        return connection

    def finish(self, carrier: Carrier, seconds: float) -> None:
        """See `Line.finish`."""
        assert isinstance(carrier, UpstreamConnection)
        carrier.tap = None
        self.health.succeeded(seconds)
        if carrier.alive and not self._closed:
            self._park(carrier)
        else:
            self._drop(carrier)

    def drop(self, carrier: Carrier) -> None:
        """See `Line.drop`."""
        assert isinstance(carrier, UpstreamConnection)
        carrier.tap = None
        self._drop(carrier)

    def _write_down(self, transcript: Transcript, connection: UpstreamConnection, wire: bytes) -> None:
        transcript.line = self
        transcript.sent = wire
        transcript.received = b""
        connection.tap = transcript

    def _take_over(self, transcript: Transcript, wire: bytes | None) -> UpstreamConnection | None:
        """The connection on which this very request is under way; None: it is not, and has to be sent."""
        connection, transcript.begun = transcript.begun, None
        assert isinstance(connection, UpstreamConnection)
        if connection not in self._open:  # it is another pool's, from before a reload, and too late
            connection.abort()
            return None
        if wire is None or not ask_alike(transcript.sent, wire):
            self._drop(connection)
            return None
        return connection

    def _response(self, connection: UpstreamConnection, head: ResponseHead, *, without_body: bool) -> Response:
        status, reason = head.status, head.reason
        shown = "OK" if reason == b"OK" else from_wire(reason)
        if connection.complete or without_body or status in BODILESS_STATUSES:
            body = connection.arrived()
            self._release(connection)
            return Response(status, head.headers, body, shown)
        return Response(status, head.headers, _Body(connection, self._release), shown)

    # Connections.

    async def _acquire(self, *, safe: bool) -> UpstreamConnection:
        """A connection for one request.

        Args:
            safe: the request can be sent again.

        Raises:
            UpstreamError: there is none to be had.
        """
        while True:
            if self._closed:
                raise _shutting_down()
            connection = self._take_idle(safe=safe)
            if connection is not None:
                return connection
            if len(self._open) + self._dialling < self._settings.max_connections:
                self._dialling += 1
                return await self._connect()
            if self._idle:
                # Idle for too long for this request, and nobody is going to release one: the oldest makes room.
                self._drop(self._idle.pop(0))
                continue
            given = await self._wait_in_line()
            if given is not None:
                if self._is_fit(given, self._monotonic(), safe=safe):
                    return given
                # It closed in the meantime, or is too old. Who has waited does not wait again: a new one in its place.
                given.abort()
                self._open.discard(given)
                self._dialling += 1
            return await self._connect()

    def _take_idle(self, *, safe: bool) -> UpstreamConnection | None:
        """The most recently used idle connection, if it is good for such a request."""
        idle = self._idle
        if not idle:
            return None
        now = self._monotonic()
        while idle:
            connection = idle.pop()
            if self._is_fit(connection, now, safe=safe):
                return connection
            if connection.alive and not safe:
                idle.append(connection)  # too long idle for this request, as are those below; good for others
                return None
            self._drop(connection)
        return None

    async def _wait_in_line(self) -> UpstreamConnection | None:
        """A connection that another request is done with, or None: room for a new one, which is reserved."""
        if len(self._waiting) >= self._settings.max_waiting:
            raise OverloadedError("too many requests wait for the upstream", retry_after=1)
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[UpstreamConnection | None] = loop.create_future()
        self._waiting.append(waiter)
        timer = loop.call_later(self._settings.pool_wait_seconds, self._give_up, waiter)
        try:
            return await waiter
        except BaseException:
            self._leave_queue(waiter)
            raise
        finally:
            timer.cancel()

    @staticmethod
    def _give_up(waiter: asyncio.Future[UpstreamConnection | None]) -> None:
        if not waiter.done():
            waiter.set_exception(OverloadedError("every connection to the upstream is busy", retry_after=1))

    def _leave_queue(self, waiter: asyncio.Future[UpstreamConnection | None]) -> None:
        """Whoever gives up waiting passes on what it may have been given in the same moment."""
        if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            return
        given = waiter.result()
        if given is None:
            self._dialling -= 1
            self._pass_on_room()
        else:
            self._park(given)

    def _is_fit(self, connection: UpstreamConnection, now: float, *, safe: bool) -> bool:
        idle_seconds = self._idle_seconds if safe or not connection.requests else self._idle_seconds_if_unsafe
        return (
            now - connection.idle_since <= idle_seconds
            and now - connection.born <= self._max_age_seconds
            and connection.alive
        )

    async def _connect(self) -> UpstreamConnection:
        """A new connection; its place has been counted in `_dialling`."""
        began = self._monotonic()
        try:
            connection = await self._dialler.dial()
        except BaseException:
            self._dialling -= 1
            self._pass_on_room()
            raise
        self._dialling -= 1
        if self._closed:
            connection.abort()
            raise _shutting_down()
        self._open.add(connection)
        self._connects.observe(self._monotonic() - began)
        return connection

    def _release(self, connection: UpstreamConnection) -> None:
        """A response is over."""
        sent = connection.sending is None or self._sender.is_sent(connection)
        if sent and connection.busy and connection.reusable and not self._closed:
            self._park(connection)
        else:
            self._drop(connection)

    def _park(self, connection: UpstreamConnection) -> None:
        """Keep `connection` for whoever comes next, or waits."""
        connection.busy = False
        connection.tap = None  # it may hold a response
        connection.idle_since = self._monotonic()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if self._emptied is None:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: UpstreamConnection) -> None:
        connection.abort()
        self._forget(connection)

    def _forget(self, connection: UpstreamConnection) -> None:
        """It is closed, or closing: its place is free."""
        if connection in self._open:
            self._open.discard(connection)
            self._pass_on_room()
            if self._emptied is not None and not self._open:
                self._emptied.set()

    def _pass_on_room(self) -> None:
        """Let one who waits open a connection, as long as there is room."""
        while self._waiting and len(self._open) + self._dialling < self._settings.max_connections:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._dialling += 1
                waiter.set_result(None)
                return


def _shutting_down() -> UpstreamError:
    return UpstreamError("the proxy is shutting down", error_type="proxy_internal_error")
