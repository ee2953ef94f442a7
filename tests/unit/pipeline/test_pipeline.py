"""The order of hooks, what an answer skips, what an error passes."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest
from typing_extensions import override

from proxy.errors import ClientError, UpstreamError
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.plugin import Plugin, PluginSettings, Services
from proxy.pipeline.routes import Route
from tests.support.plugin_harness import ChunkStream, PluginHarness, Script, harness, request, response


class Settings(PluginSettings):
    """What a `Tracer` does."""

    label: str
    answers: bool = False
    fails: str = ""
    rescues: bool = False


class Tracer(Plugin[Settings]):
    """Writes down each of its hooks' calls."""

    name: ClassVar[str] = "tracer"
    settings_type = Settings

    def __init__(self, settings: Settings, services: Services, trace: list[str]) -> None:
        super().__init__(settings, services)
        self.trace = trace

    def _note(self, hook: str) -> None:
        self.trace.append(f"{self.settings.label} {hook}")
        if self.settings.fails == hook:
            raise ZeroDivisionError(hook)
        if self.settings.fails == f"upstream in {hook}":
            raise UpstreamError(hook)
        if self.settings.fails == f"client in {hook}":
            raise ClientError(hook)

    @override
    async def start(self) -> None:
        self._note("start")

    @override
    async def close(self) -> None:
        self._note("close")

    @override
    async def on_request(self, exchange: Exchange) -> Response | None:
        self._note("request")
        return response(200, self.settings.label.encode()) if self.settings.answers else None

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        self._note("response")
        return response

    @override
    async def on_error(self, exchange: Exchange, error: UpstreamError) -> Response | None:
        self._note("error")
        return response(200, b"rescued") if self.settings.rescues else None

    @override
    def on_complete(self, exchange: Exchange, outcome: Outcome) -> None:
        self._note("complete")


def upstream(request: Request) -> Response:
    return response(200, b"upstream")


def traced(
    trace: list[str], *specs: dict[str, Any], script: Script = upstream, routes: Sequence[Route] = ()
) -> AbstractAsyncContextManager[PluginHarness]:
    """A pipeline of tracers called a, b, c and so on."""
    settings = [Settings(label=label, **spec) for label, spec in zip("abcdef", specs, strict=False)]
    return harness(lambda services: [Tracer(each, services, trace) for each in settings], script, routes=routes)


async def run(*specs: dict[str, Any], script: Script = upstream) -> tuple[list[str], int, bytes]:
    """Trace, status and body of one GET."""
    trace: list[str] = []
    async with traced(trace, *specs, script=script) as pipeline:
        trace.clear()
        answered = await pipeline.get()
        return list(trace), answered.status, answered.body


async def test_requests_go_left_to_right_and_responses_back() -> None:
    trace, status, body = await run({}, {}, {})
    assert trace == [
        *("a request", "b request", "c request"),
        *("c response", "b response", "a response"),
        *("a complete", "b complete", "c complete"),
    ]
    assert (status, body) == (200, b"upstream")


async def test_an_answer_skips_what_is_right_of_it_and_its_own_on_response() -> None:
    trace, _, body = await run({}, {"answers": True}, {})
    assert trace == ["a request", "b request", "a response", "a complete", "b complete"]
    assert body == b"b"


async def test_an_upstream_error_passes_right_to_left_until_it_is_rescued() -> None:
    trace, status, body = await run({}, {"rescues": True}, {}, script=lambda _: UpstreamError("down"))
    assert trace == [
        *("a request", "b request", "c request", "c error", "b error", "a response"),
        *("a complete", "b complete", "c complete"),
    ]
    assert (status, body) == (200, b"rescued")


async def test_an_error_raised_in_a_request_hook_passes_only_those_left_of_it() -> None:
    trace, status, _ = await run({}, {"fails": "upstream in request"}, {})
    assert trace == ["a request", "b request", "a error", "a complete", "b complete"]
    assert status == 502


async def test_an_error_nobody_rescues_is_a_problem_document() -> None:
    trace: list[str] = []
    async with traced(trace, {}, script=lambda _: UpstreamError("the upstream is down")) as pipeline:
        answered = await pipeline.get()
        assert answered.status == 502
        assert answered.header("Content-Type") == "application/problem+json"
        assert b"the upstream is down" in answered.body
        assert answered.exchange.answered_by == "error"


async def test_a_client_error_is_not_offered_to_on_error() -> None:
    trace, status, _ = await run({}, {"fails": "client in request"})
    assert trace == ["a request", "b request", "a complete", "b complete"]
    assert status == 400


@pytest.mark.parametrize("hook", ["request", "response", "error"])
async def test_a_failing_hook_is_a_500_that_names_the_plugin_and_is_counted(hook: str) -> None:
    trace: list[str] = []
    script: Script = (lambda _: UpstreamError("down")) if hook == "error" else upstream
    async with traced(trace, {}, {"fails": hook}, script=script) as pipeline:
        answered = await pipeline.get()
        assert answered.status == 500
        assert b"tracer" in answered.body
        assert b"ZeroDivision" not in answered.body
        family = pipeline.services.metrics.counter("sidecache_plugin_failures", "", ("plugin", "hook"))
        assert family.labels("tracer", f"on_{hook}").value == 1


async def test_a_failing_on_complete_does_not_keep_others_from_theirs() -> None:
    trace, status, _ = await run({"fails": "complete"}, {})
    assert trace[-2:] == ["a complete", "b complete"]
    assert status == 200


async def test_a_stream_is_closed_when_a_response_hook_fails() -> None:
    stream = ChunkStream([b"x"])
    await run({"fails": "response"}, script=lambda _: response(200, stream))
    assert stream.closed


async def test_a_client_that_leaves_completes_the_exchange_once() -> None:
    trace: list[str] = []
    reached = asyncio.Event()

    async def hang(_: Request) -> Response:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with traced(trace, {}, script=hang) as pipeline:
        waiting = asyncio.ensure_future(pipeline.get())
        await asyncio.wait_for(reached.wait(), 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert trace.count("a complete") == 1


async def test_response_fields_are_added_to_an_errors_response_too() -> None:
    class Marker(Plugin[PluginSettings]):
        name: ClassVar[str] = "marker"
        settings_type = PluginSettings

        @override
        async def on_request(self, exchange: Exchange) -> Response | None:
            exchange.response_fields.append(("X-Mark", "1"))
            return None

    async with harness(lambda s: [Marker(PluginSettings(), s)], lambda _: UpstreamError("down")) as pipeline:
        assert (await pipeline.get()).header("X-Mark") == "1"


async def test_a_tail_runs_what_is_right_of_the_plugin_alone() -> None:
    trace: list[str] = []

    class Asker(Tracer):
        @override
        async def on_request(self, exchange: Exchange) -> Response | None:
            assert exchange.tail is not None
            detached = exchange.detach(exchange.request)
            answer = await exchange.tail.run(detached)
            exchange.tail.complete(detached, Outcome(200, 0, 0.0))
            return answer

    def make(services: Services) -> list[Plugin[Any]]:
        return [
            Tracer(Settings(label="a"), services, trace),
            Asker(Settings(label="b"), services, trace),
            Tracer(Settings(label="c"), services, trace),
        ]

    async with harness(make, upstream) as pipeline:
        trace.clear()
        answered = await pipeline.get()
        assert answered.body == b"upstream"
        assert trace == ["a request", "c request", "c response", "c complete", "a response", "a complete", "b complete"]


async def test_a_misspelt_hook_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="on_requst is no hook"):
        type("Bad", (Plugin,), {"on_requst": lambda self: None})


async def test_plugins_that_started_are_closed_when_a_later_one_does_not_start() -> None:
    trace: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async with traced(trace, {}, {"fails": "start"}):
            raise AssertionError("unreachable")
    assert trace == ["a start", "b start", "b close", "a close"]


async def test_one_that_does_not_close_does_not_keep_others_from_it() -> None:
    trace: list[str] = []
    async with traced(trace, {}, {"fails": "close"}):
        trace.clear()
    assert trace == ["b close", "a close"]


async def test_each_route_has_its_own_plugins() -> None:
    trace: list[str] = []
    async with traced(trace, {}, routes=[Route("api", "/api/*")]) as pipeline:
        assert (await pipeline.get("/api/x")).exchange.route.name == "api"
        assert (await pipeline.get("/other")).exchange.route.name == "default"


async def test_retiring_waits_for_exchanges_under_way() -> None:
    trace: list[str] = []
    async with traced(trace, {}) as pipeline:
        begun = await pipeline.begin(request())
        retiring = asyncio.ensure_future(pipeline.pipeline.retire(60))
        await asyncio.sleep(0)
        assert "a close" not in trace
        await pipeline.finish(*begun)
        await retiring
        assert "a close" in trace


async def test_retiring_does_not_wait_for_ever() -> None:
    trace: list[str] = []
    async with traced(trace, {}) as pipeline:
        begun = await pipeline.begin(request())
        await pipeline.pipeline.retire(0.01)
        assert "a close" in trace
        await pipeline.finish(*begun)


async def test_a_plugin_without_hooks_is_part_of_no_call() -> None:
    class Silent(Plugin[PluginSettings]):
        name: ClassVar[str] = "silent"
        settings_type = PluginSettings

    async with harness(lambda s: [Silent(PluginSettings(), s)], upstream) as pipeline:
        (step,) = pipeline.pipeline.chains["default"].steps
        assert (step.on_request, step.on_response, step.on_error, step.on_complete) == (None,) * 4
        assert (await pipeline.get()).status == 200
