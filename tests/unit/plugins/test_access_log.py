"""One log line for each exchange."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs
from typing_extensions import override

from plugins.access_log import AccessLog, AccessLogSettings, trace_id
from proxy.errors import ClientError, ProxyError, UpstreamTimeoutError
from proxy.http.message import Request, Response, make_headers
from proxy.logs import Logs, LogSettings
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import CacheReport, CacheResult, Exchange, Outcome
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from proxy.pipeline.replay import Journal
from proxy.pipeline.routes import Route
from proxy.policy.reasons import Reason
from proxy.server.heads import DirectCaller
from tests.support.clock import FakeClock
from tests.support.pipe import Pipe, open_pipe
from tests.support.plugin_harness import ChunkStream, PluginHarness, harness, request, response

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Rewrite(Plugin[PluginSettings]):
    """Sends another request on, and notes it."""

    name = "rewrite"
    settings_type = PluginSettings

    @override
    async def on_request(self, exchange: Exchange) -> None:
        exchange.request = request("POST", "/rewritten")
        exchange.notes["rewritten"] = True


def stands_alone(**changes: Any) -> AccessLog:
    services: Any = Services(FakeClock(), Any, Registry(), Any, Any)  # type: ignore[arg-type]  # none of them is used
    return AccessLog(AccessLogSettings(**changes), services)


@asynccontextmanager
async def bench(
    script: Callable[[Request], Response | ProxyError] = lambda _: response(200, b"hello"),
    *,
    behind: tuple[type[Plugin[Any]], ...] = (),
    **changes: Any,
) -> AsyncIterator[tuple[PluginHarness, list[Any]]]:
    """A pipeline with the access log leftmost, and the lines it writes."""

    def make(services: Services) -> list[Plugin[Any]]:
        log = AccessLog(AccessLogSettings(**changes), services, rng=random.Random(7))
        return [log, *(plugin(plugin.settings_type(), services) for plugin in behind)]

    with capture_logs() as lines:
        async with harness(make, script, routes=(Route("items", path="/items/{id}"),)) as driven:
            yield driven, lines


async def test_line_tells_of_request_response_and_time() -> None:
    def answer(_: Request) -> Response:
        driven.clock.advance(0.0255)
        return response(404, b"hello")

    async with bench(answer) as (driven, lines):
        await driven.get("/items/7?page=2", {"traceparent": TRACEPARENT})
        (line,) = lines
        assert line == {
            "event": "request",
            "log_level": "info",
            "request_id": "test",
            "trace_id": TRACE,
            "client": "192.0.2.1",
            "method": "GET",
            "host": "example.test",
            "target": "/items/7?page=2",
            "route": "items",
            "status": 404,
            "bytes": 5,
            "answered_by": "upstream",
            "cache": "none",
            "duration_ms": 25.5,
            "first_byte_ms": 0.0,
            "upstream_ms": 25.5,
        }


async def test_line_tells_what_the_cache_did() -> None:
    plugin = stands_alone()
    report = CacheReport(CacheResult.HIT, Reason.FRESH, tier="l1", collapsed=True)
    exchange = Exchange(request=request(), route=Route("r"), id="x", started=0.0, cache=report, answered_by="cache")
    with capture_logs() as lines:
        await plugin.start()
        plugin.on_complete(exchange, Outcome(status=200, bytes_sent=1, duration=0.001, first_byte=0.0005))
    (line,) = lines
    assert (line["cache"], line["cache_reason"], line["cache_tier"], line["collapsed"], line["answered_by"]) == (
        "hit", "fresh", "l1", True, "cache",
    )  # fmt: skip
    assert (line["duration_ms"], line["first_byte_ms"]) == (1.0, 0.5)
    assert "upstream_ms" not in line


async def test_line_tells_of_the_request_as_the_client_sent_it() -> None:
    async with bench(behind=(Rewrite,)) as (driven, lines):
        await driven.get("/items/7")
        (line,) = lines
        assert (line["method"], line["target"]) == ("GET", "/items/7")
        assert line["notes"] == {"rewritten": True}


async def test_error_is_named() -> None:
    async with bench(lambda _: UpstreamTimeoutError("the upstream took too long")) as (driven, lines):
        await driven.get("/")
        (line,) = lines
        assert (line["status"], line["error"], line["answered_by"]) == (504, "http_response_timeout", "error")
        assert line["error_detail"] == "the upstream took too long"


async def test_body_that_breaks_off_is_told() -> None:
    broken = ChunkStream([b"half"], error=UpstreamTimeoutError("stalled"))
    async with bench(lambda _: response(200, broken)) as (driven, lines):
        await driven.get("/")
        (line,) = lines
        assert (line["status"], line["aborted"], line["error_detail"]) == (200, True, "stalled")


async def test_client_that_left_before_the_response_is_told() -> None:
    plugin = stands_alone()
    with capture_logs() as lines:
        await plugin.start()
        plugin.on_complete(
            Exchange(request=request(), route=Route("r"), id="x", started=0.0),
            Outcome(status=499, bytes_sent=0, duration=0.5, aborted=True),
        )
    (line,) = lines
    assert (line["status"], line["aborted"], line["duration_ms"]) == (499, True, 500.0)
    assert "first_byte_ms" not in line
    assert "cache_reason" not in line


async def test_named_request_fields_are_logged() -> None:
    async with bench(request_headers=("User-Agent", "Referer")) as (driven, lines):
        await driven.get("/", {"user-agent": "curl/8", "Cookie": "secret"})
        assert lines[0]["request_headers"] == {"user-agent": "curl/8"}


async def test_share_of_the_exchanges_is_logged() -> None:
    async with bench(sample=0.25) as (driven, lines):
        for _ in range(1000):
            await driven.get("/")
        assert 190 < len(lines) < 310
        (plugin,) = driven.pipeline.plugins
        assert plugin.stats() == {"written": len(lines), "not_sampled": 1000 - len(lines)}


async def test_slow_and_failed_exchanges_are_logged_whatever_the_sample() -> None:
    def answer(asked: Request) -> Response | ProxyError:
        match asked.target:
            case "/slow":
                driven.clock.advance(1.0)
                return response(200)
            case "/failed":
                return response(500)
            case "/refused":
                return ClientError("bad")
            case "/error":
                return UpstreamTimeoutError("late")
            case "/broken":
                return response(200, ChunkStream([b"x"], error=UpstreamTimeoutError("late")))
            case _:
                driven.clock.advance(0.9)
                return response(404)

    async with bench(answer, sample=0) as (driven, lines):
        for target in ("/", "/refused", "/slow", "/failed", "/error", "/broken"):
            await driven.get(target)
        await driven.finish(*await driven.begin(request(target="/left")), abort=True)
        assert [line["target"] for line in lines] == ["/slow", "/failed", "/error", "/broken", "/left"]


@pytest.mark.parametrize(
    ("target", "logged"),
    [
        ("/a", "/a"),
        ("/a?", "/a?"),
        ("/a?page=1", "/a?page=1"),
        ("/a?token=abc", "/a?token=***"),
        ("/a?TOKEN=abc&page=1", "/a?TOKEN=***&page=1"),
        ("/a?page=1&token=a=b&x", "/a?page=1&token=***&x"),
        ("/a?%74oken=abc", "/a?%74oken=***"),
        ("/a?x=1;token=abc;y=2", "/a?x=1;token=***;y=2"),
        ("/a?token=1&token=2", "/a?token=***&token=***"),
        ("/a?token", "/a?token"),
        ("/a?token=", "/a?token=***"),
        ("/a?api+key=1", "/a?api+key=***"),
        ("/a?tokens=1", "/a?tokens=1"),
        ("/a?x=/b?token=1", "/a?x=/b?token=1"),
        ("/a?token=caf\udcc3", "/a?token=***"),
        ("*", "*"),
    ],
)
def test_secret_query_parameters_are_masked(target: str, logged: str) -> None:
    assert stands_alone(redact_query=("token", "API key")).redact(target) == logged


def test_nothing_is_masked_when_nothing_is_secret() -> None:
    assert stands_alone(redact_query=()).redact("/a?token=abc") == "/a?token=abc"


@given(st.lists(st.tuples(st.sampled_from(["a", "token", "Token", "%74oken"]), st.text("xyz=%+?/", max_size=6))))
@settings(deadline=None)
def test_no_value_of_a_secret_parameter_stays_and_all_else_does(pairs: list[tuple[str, str]]) -> None:
    target = "/p?" + "&".join(f"{name}={value}" for name, value in pairs)
    expected = "/p?" + "&".join(f"{name}={value if name == 'a' else '***'}" for name, value in pairs)
    assert stands_alone(redact_query=("token",)).redact(target) == expected


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (TRACEPARENT, TRACE),
        (f"  {TRACEPARENT} ", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"01-{TRACE}-00f067aa0ba902b7-01-what-comes-later", TRACE),
        (f"{TRACEPARENT}-extra", None),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE[:-1]}-00f067aa0ba902b7-01", None),
        ("", None),
        (None, None),
    ],
)
def test_trace_id_is_that_of_a_valid_traceparent(value: str | None, found: str | None) -> None:
    assert trace_id(make_headers([] if value is None else [("traceparent", value)])) == found


async def test_nothing_is_built_when_the_level_is_above() -> None:
    before = structlog.get_config()
    lines: list[Any] = []

    def keep(_: object, __: str, event: Any) -> str:
        lines.append(event)
        return ""

    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
    )
    try:
        plugin = stands_alone()
        await plugin.start()
    finally:
        structlog.configure(**before)
    plugin.on_complete(
        Exchange(request=request(), route=Route("r"), id="x", started=0.0),
        Outcome(status=200, bytes_sent=0, duration=0.0),
    )
    assert plugin.stats() == {"written": 0, "not_sampled": 0}
    assert lines == []


@pytest.mark.parametrize(
    "bad", [{"sample": 1.1}, {"sample": -0.1}, {"slow_seconds": 0}, {"request_headers": ["a b"]}, {"colour": True}]
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AccessLogSettings(**bad)


def test_replayed_answers_may_pass_by() -> None:
    assert AccessLog.replay is Replay.PURE


# Answers that are given again.

OUTCOME = Outcome(status=200, bytes_sent=5, duration=0.25, first_byte=0.125)


def caller(client: str = "192.0.2.1") -> DirectCaller:
    ids = count(1)
    return DirectCaller(client, lambda: f"id-{next(ids)}")


def head(*lines: str) -> bytes:
    return "\r\n".join(("GET /items/7 HTTP/1.1", "Host: example.test", *lines, "", "")).encode()


@dataclass
class ReplayBench:
    plugin: AccessLog
    clock: FakeClock
    pipe: Pipe

    def part(self, **fields: str) -> tuple[Journal[Any], object]:
        report = CacheReport(CacheResult.HIT, Reason.FRESH, tier="l1")
        asked = request("GET", "/items/7?token=a", headers=fields)
        exchange = Exchange(request=asked, route=Route("r"), id="x", started=0.0, cache=report, answered_by="cache")
        part = self.plugin.on_replay(exchange, OUTCOME)
        assert part is not None and part.journal is not None
        return part.journal

    def lines(self, count: int) -> list[bytes]:
        return self.pipe.read_until(lambda text: text.count(b"\n") >= count).splitlines()


@asynccontextmanager
async def replaying(log_format: Literal["json", "text"] = "json", **changes: Any) -> AsyncIterator[ReplayBench]:
    """An access log that has seen one exchange, and the pipe that it writes to."""
    clock = FakeClock()
    with open_pipe() as pipe:
        logs = Logs(LogSettings(format=log_format), clock.wall, pipe.write_fd)
        try:
            plugin = stands_alone(**changes)
            await plugin.start()
            yield ReplayBench(plugin, clock, pipe)
        finally:
            logs.close()


async def test_an_answer_given_again_is_logged_like_the_first_with_what_is_its_own() -> None:
    async with replaying() as bench:
        journal, subject = bench.part()
        others = [caller(), caller('2001:db8::1%"eth\udcc3')]
        for number, one in enumerate(others):
            journal.notes.append((subject, one, head(), 1_763_700_000.25 + number, 0.0014996))
        journal.notes.append((subject, others[0], head(f"traceparent: {TRACEPARENT}"), 1_763_700_001.5, 2.5))
        journal.notes.append((subject, others[0], head(), 1_763_700_001.500007, 0.0))
        journal.notes.append((subject, others[0], head(), 0.000123, 0.0))
        journal.settle()
        first, other, traced, last, set_back = bench.lines(5)
        assert first == (
            b'{"timestamp":"2025-11-21T04:40:00.250000Z","level":"info","logger":"access","event":"request",'
            b'"request_id":"id-1","client":"192.0.2.1","method":"GET","host":"example.test",'
            b'"target":"/items/7?token=***","route":"r","status":200,"bytes":5,"answered_by":"cache","cache":"hit",'
            b'"duration_ms":1.500,"first_byte_ms":1.500,"cache_reason":"fresh","cache_tier":"l1"}'
        )
        document = orjson.loads(other)
        assert document["client"] == '2001:db8::1%"eth\\udcc3'
        assert document["timestamp"] == "2025-11-21T04:40:01.250000Z"
        document = orjson.loads(traced)
        assert (document["request_id"], document["trace_id"], document["duration_ms"]) == ("id-2", TRACE, 2500.0)
        document = orjson.loads(last)
        assert (document["request_id"], document["timestamp"]) == ("id-3", "2025-11-21T04:40:01.500007Z")
        assert "trace_id" not in document and document["duration_ms"] == 0.0
        assert orjson.loads(set_back)["timestamp"] == "1970-01-01T00:00:00.000123Z"
        assert bench.plugin.stats() == {"written": 5, "not_sampled": 0}


async def test_the_trace_of_the_first_exchange_is_not_that_of_others() -> None:
    async with replaying() as bench:
        journal, subject = bench.part(traceparent=TRACEPARENT)
        for lines in ([], [f"traceparent: {TRACEPARENT.replace('4bf9', '5cf9')}"]):
            journal.notes.append((subject, caller(), head(*lines), 0.0, 0.001))
        journal.settle()
        assert [orjson.loads(line).get("trace_id") for line in bench.lines(2)] == [None, TRACE.replace("4bf9", "5cf9")]


async def test_of_answers_given_again_slow_ones_and_a_share_are_logged() -> None:
    async with replaying(sample=0.0, slow_seconds=0.5) as bench:
        journal, subject = bench.part()
        for duration in (0.49, 0.5, 0.001, 3.0):
            journal.notes.append((subject, caller(), head(), 0.0, duration))
        journal.settle()
        assert [orjson.loads(line)["duration_ms"] for line in bench.lines(2)] == [500.0, 3000.0]
        assert bench.plugin.stats() == {"written": 2, "not_sampled": 2}
        journal.notes.append((subject, caller(), head(), 0.0, 0.001))
        journal.settle()
        assert bench.plugin.stats() == {"written": 2, "not_sampled": 3}


async def test_answers_given_again_are_logged_before_an_exchange_that_came_later() -> None:
    async with replaying() as bench:
        journal, subject = bench.part()
        for _ in range(3):
            journal.notes.append((subject, caller(), head(), 0.0, 0.001))
        later = Exchange(request=request(), route=Route("r"), id="later", started=0.0)
        bench.plugin.on_complete(later, OUTCOME)
        lines = [orjson.loads(line) for line in bench.lines(4)]
        assert [line["request_id"] for line in lines] == ["id-1", "id-1", "id-1", "later"]
        assert {line["timestamp"] for line in lines[:3]} == {"1970-01-01T00:00:00.000000Z"}


@pytest.mark.parametrize(
    ("log_format", "changes"), [("text", {}), ("json", {"request_headers": ["User-Agent"]})], ids=["text", "fields"]
)
async def test_a_line_that_cannot_be_made_ready_is_written_all_the_same(
    log_format: Literal["json", "text"], changes: dict[str, Any]
) -> None:
    async with replaying(log_format, **changes) as bench:
        journal, subject = bench.part()
        sent = head("User-Agent: agent seven", f"traceparent: {TRACEPARENT}")
        journal.notes.append((subject, caller(), sent, 1_763_700_000.25, 0.0014996))
        journal.settle()
        (line,) = bench.lines(1)
        for told in (b"2025-11-21T04:40:00.25", b"id-1", b"192.0.2.1", b"1.5", TRACE.encode()):
            assert told in line
        assert (b"agent seven" in line) == (log_format == "json")
