"""A plugin, or several, in a real pipeline before a scripted upstream function, under a clock moved by hand."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from typing_extensions import override

from proxy.errors import ProxyError
from proxy.http.body import BodyStream, close_body
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response, make_headers
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, InformationalSender, Outcome
from proxy.pipeline.passage import Transcript
from proxy.pipeline.pipeline import Pipeline, RoutePlan
from proxy.pipeline.plugin import Plugin, Services
from proxy.pipeline.routes import Route
from proxy.tasks import Tasks
from tests.support.clock import FakeClock

Answer: TypeAlias = Response | ProxyError
Script: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]


class ChunkStream(BodyStream):
    """A stream of given chunks that remembers whether it was closed, and may break at its end."""

    def __init__(self, chunks: Iterable[bytes], *, error: ProxyError | None = None) -> None:
        self._chunks = iter(chunks)
        self._error = error
        self.closed = False
        self.delivered = 0

    @override
    async def __anext__(self) -> bytes:
        if self.closed:
            raise StopAsyncIteration
        for chunk in self._chunks:
            self.delivered += 1
            return chunk
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        self.closed = True


def request(method: str = "GET", target: str = "/", headers: Mapping[str, str] | None = None, **more: Any) -> Request:
    """A request to `http://example.test`."""
    return Request(
        method=method,
        target=target,
        host=more.pop("host", "example.test"),
        headers=make_headers((headers or {}).items()),
        client=more.pop("client", "192.0.2.1"),
        **more,
    )


def response(
    status: int = 200, body: bytes | BodyStream = b"", headers: Mapping[str, str] | None = None, reason: str = ""
) -> Response:
    """A response; `Content-Length` is set for a `bytes` body unless given."""
    pairs = list((headers or {}).items())
    if isinstance(body, bytes) and not any(name.lower() == "content-length" for name, _ in pairs):
        pairs.append(("Content-Length", str(len(body))))
    return Response(status=status, headers=make_headers(pairs), body=body, reason=reason)


class ScriptedFunction:
    """An upstream that answers from a function, without a socket, and keeps what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []

    async def open_tunnel(self, request: Request, *, protocol: str) -> Response | Tunnel:
        """Answer `request`; a script that returns a response refuses the switch."""
        return await self.send(request)

    async def send(
        self,
        request: Request,
        *,
        informational: InformationalSender | None = None,
        transcript: Transcript | None = None,
    ) -> Response:
        """Answer `request` by the script."""
        self.requests.append(request)
        answer = self.script(request)
        if isinstance(answer, Awaitable):
            answer = await answer
        if isinstance(answer, ProxyError):
            raise answer
        return answer


@dataclass
class Answered:
    """What a client got, body read to its end."""

    exchange: Exchange
    response: Response
    body: bytes
    error: ProxyError | None = None

    @property
    def status(self) -> int:
        return self.response.status

    def header(self, name: str) -> str | None:
        """All lines of field `name`, joined; None without one."""
        lines = self.response.headers.getall(name, [])
        return ", ".join(lines) if lines else None


@dataclass
class PluginHarness:
    """Drives a pipeline as the server does, completing each exchange."""

    pipeline: Pipeline
    upstream: ScriptedFunction
    clock: FakeClock
    services: Services
    outcomes: list[Outcome] = field(default_factory=list)

    async def begin(self, request: Request) -> tuple[Exchange, Response]:
        """Send `request` and stop at the response head; `finish` is owed."""
        return await self.pipeline.handle(request, request_id="test")

    async def finish(self, exchange: Exchange, response: Response, *, abort: bool = False) -> Answered:
        """Read the body (or, with `abort`, leave it as a client that goes away) and complete the exchange."""
        chunks: list[bytes] = []
        error: ProxyError | None = None
        try:
            if abort:
                pass
            elif isinstance(response.body, bytes):
                chunks.append(response.body)
            else:
                chunks.extend([chunk async for chunk in response.body])
        except ProxyError as raised:
            error = raised
        finally:
            await close_body(response.body)
        body = b"".join(chunks)
        outcome = Outcome(
            status=response.status,
            bytes_sent=len(body),
            duration=self.clock.monotonic() - exchange.started,
            first_byte=0.0,
            error=error,
            aborted=abort or error is not None,
        )
        self.outcomes.append(outcome)
        self.pipeline.complete(exchange, outcome)
        return Answered(exchange, response, body, error)

    async def send(self, request: Request) -> Answered:
        """Send `request` and read the whole answer."""
        return await self.finish(*await self.begin(request))

    async def get(self, target: str = "/", headers: Mapping[str, str] | None = None, **more: Any) -> Answered:
        """GET `target`."""
        return await self.send(request("GET", target, headers, **more))


@asynccontextmanager
async def harness(
    make: Callable[[Services], Sequence[Plugin[Any]]],
    script: Script,
    *,
    clock: FakeClock | None = None,
    routes: Sequence[Route] = (),
    store: Any = None,
    invalidations: Any = None,
    metrics: Registry | None = None,
) -> AsyncIterator[PluginHarness]:
    """A started pipeline of the plugins that `make` builds from the services, on every route."""
    clock = clock or FakeClock()
    tasks = Tasks()
    services = Services(
        clock=clock,
        tasks=tasks,
        metrics=metrics or Registry(),
        store=store,
        invalidations=invalidations,
    )
    plugins = tuple(make(services))
    upstream = ScriptedFunction(script)
    pipeline = Pipeline([RoutePlan(route, plugins) for route in routes], plugins, upstream, clock, services.metrics)
    await pipeline.start()
    try:
        yield PluginHarness(pipeline, upstream, clock, services)
    finally:
        await tasks.close()
        await pipeline.close()
