"""Requests that go past the pipeline of a whole process: what operators see, signals, and several workers."""

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.passing import ByteOrigin, Call, Place, Script, always, byte_origin, fresh, ok
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import LANE_VARIABLE, SidecarProcess, eventually, sidecar, toml

ON: Mapping[str, str] = {LANE_VARIABLE: "16777216"}
ORDER = ["latency", "compression", "cache", "cache_control", "circuit_breaker"]
TABLES: Mapping[str, Any] = {"cache": {"l2": "none"}, "pipeline": {"order": ORDER}}
ANOTHER = ok(b"late", "X-Kind: another")


async def passed(running: SidecarProcess) -> int:
    status, document = await running.admin("GET", "/admin/pipeline/stats")
    assert status == 200
    found: int = document["fast_lane"]["passed"]
    return found


async def until_passing(running: SidecarProcess, client: RawClient) -> None:
    """Ask until requests go past the pipeline."""
    before = await passed(running)
    async with asyncio.timeout(10):
        while await passed(running) == before:
            assert (await client.ask(request("/a"))).body == b"ok"


class Waiting:
    """Answers when it is told to."""

    def __init__(self, answer: bytes) -> None:
        self.come = 0
        self.go = asyncio.Event()
        self._answer = answer

    async def __call__(self, call: Call) -> None:
        self.come += 1
        await self.go.wait()
        await call.send(self._answer)


async def test_they_are_counted_and_shown(tmp_path: Path) -> None:
    async with byte_origin(always(ok())) as app, sidecar(app.url, tmp_path, TABLES, environment=ON) as running:
        async with await RawClient.connect(running.address) as client:
            for number in range(12):
                assert (await client.ask(request("/a", f"X-Request-ID: {number}"))).body == b"ok"
        _, document = await running.admin("GET", "/admin/pipeline/stats")
        lane = document["fast_lane"]
        assert (lane["passages"], lane["passed"], lane["replies"], lane["hits"]) == (1, 10, 0, 0)
        _, metrics = await running.admin("GET", "/metrics")
        by_name = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        assert float(by_name["sidecache_fast_lane_passages"]) == 1
        assert float(by_name["sidecache_fast_lane_passed_total"]) == 10
        assert float(by_name['sidecache_cache_requests_total{result="miss",route="default"}']) == 12
        assert float(by_name["sidecache_upstream_requests_total"]) == 12
        assert float(by_name['sidecache_upstream_seconds_count{route="default"}']) == 12


@pytest.mark.parametrize("kind", ["tls", "unix"])
async def test_they_reach_an_origin_by_tls_and_by_a_unix_socket(tmp_path: Path, kind: str) -> None:
    authority, place = trustme.CA(), Place(path=str(tmp_path / "origin.sock"))
    tables = {**TABLES}
    if kind == "tls":
        place = Place(tls=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        assert place.tls is not None
        authority.issue_cert("localhost").configure_cert(place.tls)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        tables["upstream"] = {"ca_file": str(tmp_path / "ca.pem")}

    async def script(call: Call) -> None:
        kept = fresh(b"new", "Cache-Control: max-age=1000000000")  # its Date is of long ago
        await call.send(kept if "/new" in call.target else ok())

    async with byte_origin(script, place) as app, sidecar(app.url, tmp_path, tables, environment=ON) as running:
        async with await RawClient.connect(running.address) as client:
            for number in range(12):
                assert (await client.ask(request("/a"))).body == b"ok"
                assert (await client.ask(request(f"/new/{number}"))).body == b"new"
        assert len(app.heads) == 24
        assert app.connections <= 2  # the last is the one that looked whether anybody was there
        assert await passed(running) > 16


@pytest.mark.parametrize("lane_bytes", ["16777216", "0"], ids=["past", "through"])
async def test_whom_a_proxy_names_by_forwarded_is_the_client(tmp_path: Path, lane_bytes: str) -> None:
    tables = {
        **TABLES,
        "server": {"trusted_proxies": ["127.0.0.0/8"], "trusted_fields": "forwarded"},
        "pipeline": {"order": ["latency", "access_log", *ORDER[1:]]},
    }
    environment = {LANE_VARIABLE: lane_bytes}
    async with byte_origin(always(ok())) as app, sidecar(app.url, tmp_path, tables, environment=environment) as running:
        async with await RawClient.connect(running.address) as client:
            for number in range(6):
                for name in ("192.0.2.1", "192.0.2.2"):
                    lines = (f"Forwarded: for={name};proto=https", f"X-Forwarded-For: 198.51.100.{number}")
                    assert (await client.ask(request("/a", *lines))).body == b"ok"
        if lane_bytes != "0":
            assert await passed(running) > 4
        await eventually(lambda: len(running.events("request")) == 12)
    assert [line["client"] for line in running.events("request")] == ["192.0.2.1", "192.0.2.2"] * 6
    for head, name in zip(app.heads, ["192.0.2.1", "192.0.2.2"] * 6, strict=True):
        assert f"\r\nX-Forwarded-For: {name}, 127.0.0.1\r\n".encode() in head
        assert b"\r\nX-Forwarded-Proto: https\r\n" in head
        assert head.lower().count(b"forwarded: ") == 1


RULES = [{"name": "all", "rate": 1000, "period_seconds": 1}]


@pytest.mark.parametrize("rules", [[], RULES], ids=["without rules", "with rules"])
async def test_a_limiter_with_rules_sees_each_request(tmp_path: Path, rules: list[dict[str, Any]]) -> None:
    order = {"order": ["latency", "rate_limit", *ORDER[1:]]}
    tables = {**TABLES, "pipeline": order, "plugins": {"rate_limit": {"rules": rules}}}
    async with byte_origin(always(ok())) as app, sidecar(app.url, tmp_path, tables, environment=ON) as running:
        async with await RawClient.connect(running.address) as client:
            for _ in range(6):
                assert (await client.ask(request("/a"))).body == b"ok"
        assert await passed(running) == (0 if rules else 4)


OWN = {"timestamp", "request_id", "duration_ms", "first_byte_ms", "upstream_ms", "level", "logger"}


async def logged(tmp_path: Path, environment: Mapping[str, str]) -> tuple[list[dict[str, Any]], int, list[str]]:
    """What the access log says of some requests, how many of them went past the pipeline, and the ids at the origin."""

    async def script(call: Call) -> None:
        await call.send(fresh(b"new", "Cache-Control: max-age=60") if "/new" in call.target else ok(b"x" * call.number))

    tables = {
        "cache": {"l2": "none"},
        "pipeline": {"order": ["latency", "access_log", *ORDER[1:]]},
        "plugins": {"access_log": {"request_headers": ["User-Agent"]}},
    }
    trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with byte_origin(script) as app, sidecar(app.url, tmp_path, tables, environment=environment) as running:
        async with await RawClient.connect(running.address) as client:
            for number in range(12):
                await client.ask(request(f"/a?token=secret&n={number % 2}", f"User-Agent: agent {number}"))
                await client.ask(request(f"/new/{number}", trace))
        count = await passed(running) if environment is ON else 0
        await eventually(lambda: len(running.events("request")) == 24)
        seen = [Call(head, None, None).field("X-Request-ID") or "" for head in app.heads]  # type: ignore[arg-type]  # only its head is read
        return running.events("request"), count, seen


async def test_the_access_log_says_the_same_of_them(tmp_path: Path) -> None:
    (tmp_path / "past").mkdir()
    (tmp_path / "through").mkdir()
    past, count, seen = await logged(tmp_path / "past", ON)
    through, none, _ = await logged(tmp_path / "through", {LANE_VARIABLE: "0"})
    assert count > 5 and none == 0
    assert [line["request_id"] for line in past] == seen
    assert all(line["duration_ms"] >= line["upstream_ms"] > 0 for line in past)

    def told(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in line.items() if name not in OWN and name != "host"} for line in lines]

    assert told(past) == told(through)
    assert [line.keys() for line in past] == [line.keys() for line in through]


@pytest.mark.parametrize("answer", [ok(b"late"), ANOTHER], ids=["known", "unknown"])
async def test_a_sidecar_that_is_told_to_end_answers_what_is_under_way(tmp_path: Path, answer: bytes) -> None:
    async with (
        byte_origin(always(ok())) as app,
        sidecar(app.url, tmp_path, TABLES, environment=ON) as running,
        await RawClient.connect(running.address) as client,
    ):
        await until_passing(running, client)
        script = app.script = Waiting(answer)
        asked = len(app.heads)
        await client.send(request("/a"))
        await eventually(lambda: script.come == 1)
        running.signal(signal.SIGTERM)
        await eventually(lambda: bool(running.events("draining")))
        assert running.events("draining")[0]["requests"] == 1
        script.go.set()
        response = await client.response()
        assert (response.body, response.field("Connection")) == (b"late", "close")
        assert await running.wait() == 0
        assert len(app.heads) == asked + 1


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"upstream": {"max_connections": 17}},
        {"plugins": {"compression": {"min_bytes": 1}}},
        {"plugins": {"cache": {"uncacheable_seconds": 7.0}}},
        {"pipeline": {"order": ["latency", "access_log", *ORDER[1:]]}, "plugins": {"access_log": {"sample": 0.5}}},
    ],
    ids=["nothing", "pool", "plugin", "cache", "order"],
)
async def test_a_reload_leaves_what_is_under_way_be(tmp_path: Path, change: Mapping[str, Any]) -> None:
    async with (
        byte_origin(always(ok())) as app,
        sidecar(app.url, tmp_path, TABLES, environment=ON) as running,
        await RawClient.connect(running.address) as client,
    ):
        await until_passing(running, client)
        script = app.script = Waiting(ANOTHER)
        await client.send(request("/a"))
        await eventually(lambda: script.come == 1)
        running.config.write_text(toml({**TABLES, **change}, app.url, running.port, running.admin_port, tmp_path))
        running.signal(signal.SIGHUP)
        await eventually(lambda: bool(running.events("configuration reloaded")))
        script.go.set()
        assert (await client.response()).body == b"late"
        app.script = always(ok())
        before = await passed(running)
        for _ in range(6):
            assert (await client.ask(request("/a"))).body == b"ok"
        assert await passed(running) > before


@asynccontextmanager
async def reloaded(
    tmp_path: Path, script: Script, target: str, answer: bytes, **server: object
) -> AsyncIterator[tuple[ByteOrigin, SidecarProcess, RawClient, Waiting]]:
    """A request for `target` goes past the pipeline when a reload puts another pool into use; the origin waits."""
    tables = {**TABLES, "server": server}
    async with (
        byte_origin(script) as app,
        sidecar(app.url, tmp_path, tables, environment=ON) as running,
        await RawClient.connect(running.address) as client,
    ):
        await until_passing(running, client)
        for number in range(4):
            await client.ask(request(f"/new/{number}"))
        before = await passed(running)
        waiting = app.script = Waiting(answer)
        app.heads.clear()
        await client.send(request(target))
        await eventually(lambda: waiting.come == 1)
        assert await passed(running) == before
        changed = {**tables, "upstream": {"max_connections": 17}}
        running.config.write_text(toml(changed, app.url, running.port, running.admin_port, tmp_path))
        running.signal(signal.SIGHUP)
        await eventually(lambda: bool(running.events("configuration reloaded")))
        yield app, running, client, waiting


KEPT = fresh(b"kept", "Cache-Control: max-age=1000000000")


async def either(call: Call) -> None:
    await call.send(KEPT if "/new" in call.target else ok())


@pytest.mark.parametrize("patient", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize(
    ("target", "answer"), [("/a", ok()), ("/a", ANOTHER), ("/new/9", KEPT)], ids=["known", "unknown", "stored"]
)
async def test_another_pool_does_not_ask_again_for_what_is_under_way(
    tmp_path: Path, target: str, answer: bytes, patient: bool
) -> None:
    async with reloaded(tmp_path, either, target, answer) as (app, running, client, script):
        if patient:
            await asyncio.sleep(1.2)  # by then the pipeline has it
        script.go.set()
        assert (await client.response()).body == answer.partition(b"\r\n\r\n")[2]
        assert [head.split(b" ")[1] for head in app.heads] == [target.encode()]
        app.script = either
        before = await passed(running)
        for _ in range(6):
            assert (await client.ask(request("/a"))).body == b"ok"
        assert await passed(running) > before
        await eventually(lambda: app.open <= 2)  # the old pool's connections are closed
        assert not running.events("task failed")


async def test_a_client_that_leaves_after_a_reload_ends_what_is_under_way(tmp_path: Path) -> None:
    async with reloaded(tmp_path, either, "/a", ok()) as (app, running, client, _):
        await client.close()
        await eventually(lambda: app.busy == 0 or app.open == 1)
        async with await RawClient.connect(running.address) as other:
            app.script = either
            assert (await other.ask(request("/a"))).body == b"ok"
        assert len(app.heads) == 2


async def test_a_sidecar_that_is_told_to_end_after_a_reload_answers_what_is_under_way(tmp_path: Path) -> None:
    async with reloaded(tmp_path, either, "/a", ANOTHER) as (app, running, client, script):
        running.signal(signal.SIGTERM)
        await eventually(lambda: bool(running.events("draining")))
        assert running.events("draining")[0]["requests"] == 1
        script.go.set()
        response = await client.response()
        assert (response.body, response.field("Connection")) == (b"late", "close")
        assert await running.wait() == 0
        assert len(app.heads) == 1


async def test_what_takes_longer_than_a_drain_may_is_asked_for_anew(tmp_path: Path) -> None:
    async with reloaded(tmp_path, either, "/a", ok(b"late"), drain_timeout_seconds=0.1) as (app, _, client, script):
        await eventually(lambda: script.come == 2)
        script.go.set()
        assert (await client.response()).body == b"late"
        assert len(app.heads) == 2


async def test_connections_of_another_pool_are_closed_where_nobody_uses_them(tmp_path: Path) -> None:
    async with (
        byte_origin(either) as app,
        sidecar(app.url, tmp_path, TABLES) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.ask(request("/a"))
        before = app.connections
        changed = {**TABLES, "upstream": {"keep_alive_seconds": 300}}
        running.config.write_text(toml(changed, app.url, running.port, running.admin_port, tmp_path))
        running.signal(signal.SIGHUP)
        await eventually(lambda: app.connections == before + 1 and app.open == 1)
        assert (await client.ask(request("/a"))).body == b"ok"
        assert app.connections == before + 1


async def test_workers_each_let_requests_pass(tmp_path: Path) -> None:
    tables = {**TABLES, "workers": 2}
    async with byte_origin(always(ok())) as app, sidecar(app.url, tmp_path, tables, environment=ON) as running:
        clients = [await RawClient.connect(running.address) for _ in range(8)]
        try:
            for _ in range(8):
                for client in clients:
                    assert (await client.ask(request("/a"))).body == b"ok"
        finally:
            await asyncio.gather(*(client.close() for client in clients))
        _, metrics = await running.admin("GET", "/metrics")
        lines = [line for line in metrics.splitlines() if line.startswith("sidecache_fast_lane_passed_total")]
        assert sum(float(line.rpartition(" ")[2]) for line in lines) >= 64 - 2 * 2 - 2
        lines = [line for line in metrics.splitlines() if line.startswith("sidecache_upstream_requests_total")]
        assert sum(float(line.rpartition(" ")[2]) for line in lines) == 64
