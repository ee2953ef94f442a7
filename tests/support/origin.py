"""Real origins for a sidecar to stand before: one that answers as told, one that speaks bytes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from aiohttp import web
from multidict import CIMultiDictProxy

Answer: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
RawScript: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Seen:
    """A request as the origin got it."""

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    version: tuple[int, int]


@dataclass
class Origin:
    """An origin: what was registered for a path answers; other paths are 404.

    Attributes:
        seen: all requests, in order.
        count: of requests by target.
    """

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    _answers: dict[str, Answer] = field(default_factory=dict)

    def on(self, path: str, answer: Answer) -> None:
        """Have `answer` answer requests whose target's path is `path`, byte for byte."""
        self._answers[path] = answer

    def text(self, path: str, body: str | bytes, status: int = 200, /, **fields: str) -> None:
        """Answer `path` with a body and fields; `_` in their names stands for `-`."""
        headers = {"Content-Type": "text/plain", **{name.replace("_", "-"): value for name, value in fields.items()}}
        data = body.encode() if isinstance(body, str) else body

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=data, status=status, headers=headers)

        self.on(path, answer)

    def last(self, path: str) -> Seen:
        """The last request for `path`."""
        return next(seen for seen in reversed(self.seen) if seen.target.partition("?")[0] == path)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        self.seen.append(Seen(request.method, target, request.headers, (request.version.major, request.version.minor)))
        self.count[target] += 1
        answer = self._answers.get(target.partition("?")[0])
        if answer is None:
            return web.Response(status=404, headers={"Cache-Control": "no-store"})
        return await answer(request)


@asynccontextmanager
async def origin(port: int = 0) -> AsyncIterator[Origin]:
    """An origin that listens on loopback. What still waits when it ends is cancelled."""
    one = Origin()
    server = web.Server(one._handle, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_origin(script: RawScript) -> AsyncIterator[str]:
    """An origin that runs `script` on each connection; its URL. A script's own failure fails the test."""
    failures: list[Exception] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the peer left: what that means is for the test to say
        except Exception as error:  # noqa: BLE001 # raised below, where it can be seen
            failures.append(error)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if failures:
        raise failures[0]
