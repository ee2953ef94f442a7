"""An application that does as the test says, and keeps account of what it was asked and told."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from typing_extensions import override

from proxy.clock import Clock, SystemClock
from proxy.http.body import BodyStream, read_body
from proxy.http.channel import Channel, Tunnel
from proxy.http.message import Request, Response, make_headers
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, InformationalSender, Outcome
from proxy.pipeline.passage import PassagePart, Transcript
from proxy.pipeline.replay import ReplayPart
from proxy.pipeline.routes import Route
from proxy.server.listener import Listener
from proxy.server.settings import ServerSettings
from tests.support.sidecar import LANE_VARIABLE

DEADLINE_SECONDS = 10.0
ROUTE = Route("test")


def text(body: str | bytes = "hello", status: int = 200, **fields: str) -> Response:
    """A response; `content_type="x"` is the field `Content-Type: x`."""
    raw = body.encode() if isinstance(body, str) else body
    return Response(status, make_headers((name.replace("_", "-"), value) for name, value in fields.items()), raw)


class ScriptedStream(BodyStream):
    """Bytes, exceptions and events to wait for, in the given order."""

    def __init__(self, *steps: bytes | Exception | asyncio.Event) -> None:
        self._steps = list(steps)
        self.closed = 0
        self.read = 0

    @override
    async def __anext__(self) -> bytes:
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, bytes):
                self.read += 1
                return step
            if isinstance(step, Exception):
                raise step
            await step.wait()
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        self.closed += 1


Answer = Callable[[Request, InformationalSender | None], Awaitable[Response]]
Opener = Callable[[Request, str], Awaitable[Response | Tunnel]]


async def say_hello(request: Request, informational: InformationalSender | None) -> Response:
    return text()


async def refuse_to_switch(request: Request, protocol: str) -> Response | Tunnel:
    return text("no upgrade", 426)


async def echo(request: Request, informational: InformationalSender | None) -> Response:
    """The request's body, whole."""
    body = await read_body(request.body, 100_000_000)
    assert body is not None
    return text(body)


class ScriptedApplication:
    """Answers each request by calling `answer`, each upgrade by calling `opener`."""

    def __init__(self, answer: Answer = say_hello, opener: Opener = refuse_to_switch) -> None:
        self.answer = answer
        self.opener = opener
        self.requests: list[Request] = []
        self.ids: list[str] = []
        self.handled = 0
        self.cancelled = 0
        self.exchanges: list[Exchange] = []  # kept, so that no two have the same id()
        self.outcomes: list[Outcome] = []
        self.completed: dict[int, int] = {}
        self._changed = asyncio.Condition()
        self._notify: set[asyncio.Task[None]] = set()

    def respond(self, *responses: Response) -> None:
        """Answer with these, one after the other, then with the last one."""
        left = list(responses)

        async def answer(request: Request, informational: InformationalSender | None) -> Response:
            return left.pop(0) if len(left) > 1 else left[0]

        self.answer = answer

    async def handle(
        self,
        request: Request,
        *,
        request_id: str,
        informational: InformationalSender | None = None,
        wants_replay: bool = False,
        transcript: Transcript | None = None,
    ) -> tuple[Exchange, Response]:
        exchange = self._begin(request, request_id)
        try:
            return exchange, await self.answer(request, informational)
        except asyncio.CancelledError:
            self.cancelled += 1
            self.complete(exchange, Outcome(499, 0, 0.0, aborted=True))
            raise

    async def open_tunnel(
        self, request: Request, *, protocol: str, request_id: str
    ) -> tuple[Exchange, Response | Tunnel]:
        exchange = self._begin(request, request_id)
        return exchange, await self.opener(request, protocol)

    def replay_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[ReplayPart] | None:
        return None

    def passage_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[PassagePart] | None:
        return None

    def leads_alike(self, alike: Exchange, target: str) -> bool:
        return False

    def abandon(self, alike: Exchange, request_id: str, started: float) -> None:
        raise AssertionError("nothing goes by a known way here")

    @property
    def heeded_fields(self) -> frozenset[str] | None:
        return None

    def _begin(self, request: Request, request_id: str) -> Exchange:
        self.requests.append(request)
        self.ids.append(request_id)
        self.handled += 1
        self._announce()
        exchange = Exchange(request=request, route=ROUTE, id=request_id, started=0.0)
        self.exchanges.append(exchange)
        return exchange

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.completed[id(exchange)] = self.completed.get(id(exchange), 0) + 1
        self._announce()

    def _announce(self) -> None:
        task = asyncio.get_running_loop().create_task(self._wake_who_waits())
        self._notify.add(task)
        task.add_done_callback(self._notify.discard)

    async def _wake_who_waits(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def asked(self, count: int = 1) -> Request:
        """The `count`th request, as soon as it is there."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def outcome(self, count: int = 1) -> Outcome:
        """The outcome of the `count`th exchange to end."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.outcomes) >= count)
        return self.outcomes[count - 1]


class MemoryChannel(Channel):
    """A channel that a test reads and writes by hand."""

    def __init__(self) -> None:
        self.to_read: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self.written: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = asyncio.Event()

    @override
    async def read(self) -> bytes:
        data = await self.to_read.get()
        if isinstance(data, OSError):
            raise data
        return data

    @override
    async def write(self, data: bytes) -> None:
        await self.written.put(data)

    @override
    async def write_eof(self) -> None:
        await self.written.put(b"")

    @override
    async def aclose(self) -> None:
        self.closed.set()

    async def received(self, count: int) -> bytes:
        """The next `count` bytes that were written."""
        data = b""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(data) < count:
                data += await self.written.get()
        return data

    async def ended(self) -> bool:
        """Whether the next thing written is the end."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.written.get() == b""


@asynccontextmanager
async def serving(
    application: ScriptedApplication, clock: Clock | None = None, metrics: Registry | None = None, **settings: object
) -> AsyncIterator[Listener]:
    """A listener on a port of its own."""
    values = {"listen": "127.0.0.1:0", "drain_timeout_seconds": 1.0, **settings}
    if LANE_VARIABLE in os.environ:
        values.setdefault("fast_lane_max_bytes", os.environ[LANE_VARIABLE])
    listener = Listener(
        application, ServerSettings.model_validate(values), clock or SystemClock(), metrics or Registry()
    )
    await listener.start()
    try:
        yield listener
    finally:
        await listener.drain(0.0)
