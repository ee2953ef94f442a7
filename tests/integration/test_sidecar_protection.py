"""What a whole sidecar spares its origin, and what it tells clients meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.origin import Origin, origin
from tests.support.ports import free_port
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.sidecar import SidecarProcess, eventually, sidecar

BREAKER: dict[str, Any] = {
    "cache": {"l2": "none"},
    "plugins": {
        "cache": {"stale_if_error_seconds": 600, "retry_seconds": 0},
        "circuit_breaker": {"consecutive_failures": 3, "open_seconds": 0.5, "successes_to_close": 1, "jitter": 0},
    },
}


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        yield one


async def ask(running: SidecarProcess, target: str, *fields: str) -> RawResponse:
    async with await RawClient.connect(running.address) as client:
        return await client.ask(request(target, *fields))


def assert_problem(response: RawResponse, status: int) -> None:
    assert response.status == status
    assert response.field("Content-Type") == "application/problem+json"
    assert f'"status":{status}'.encode() in response.body.replace(b" ", b"")
    assert b"Traceback" not in response.body


async def test_an_open_circuit_serves_stale_or_503_and_closes_when_the_origin_is_back(
    app: Origin, tmp_path: Path
) -> None:
    async with sidecar(app.url, tmp_path, BREAKER) as running:
        app.text("/stale", "good", Cache_Control="max-age=0")
        assert (await ask(running, "/stale")).status == 200
        app.text("/fails", "bad", 500, Cache_Control="no-store")
        for _ in range(3):
            assert (await ask(running, "/fails")).status == 500
        asked = len(app.seen)
        refused = await ask(running, "/fails")
        assert_problem(refused, 503)
        assert int(refused.field("Retry-After") or "") >= 1
        assert refused.field("Proxy-Status") is not None
        stale = await ask(running, "/stale")
        assert (stale.status, stale.body) == (200, b"good")
        assert len(app.seen) == asked, "an open circuit lets nothing through"
        app.text("/fails", "good again", Cache_Control="no-store")
        async with asyncio.timeout(10):
            while (back := await ask(running, "/fails")).status != 200:
                await asyncio.sleep(0.02)
        assert back.body == b"good again"
        assert len(app.seen) == asked + 1


async def test_an_origin_that_hangs_is_a_504_and_opens_the_circuit(app: Origin, tmp_path: Path) -> None:
    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    app.on("/hangs", hang)
    tables = {**BREAKER, "upstream": {"first_byte_timeout_seconds": 0.2}}
    async with sidecar(app.url, tmp_path, tables) as running:
        for _ in range(3):
            assert_problem(await ask(running, "/hangs"), 504)
        assert_problem(await ask(running, "/hangs"), 503)


async def test_requests_over_the_limit_are_429_and_are_told_when_to_come_back(app: Origin, tmp_path: Path) -> None:
    app.text("/", "ok", Cache_Control="max-age=60")
    rules = [{"name": "per-address", "rate": 5, "period_seconds": 600}]
    tables = {"cache": {"l2": "none"}, "plugins": {"rate_limit": {"rules": rules}}}
    async with sidecar(app.url, tmp_path, tables) as running:
        answers = [await ask(running, "/") for _ in range(7)]
        assert [one.status for one in answers] == [200] * 5 + [429] * 2
        assert_problem(answers[-1], 429)
        assert 1 <= int(answers[-1].field("Retry-After") or "") <= 120
        assert all("per-address" in (one.field("RateLimit") or "") for one in answers)
        assert "per-address" in (answers[0].field("RateLimit-Policy") or "")
        assert app.count["/"] == 1
        assert (await running.admin("GET", "/health"))[0] == 200
        spoofed = await ask(running, "/", "X-Forwarded-For: 9.9.9.9")
        assert spoofed.status == 429, "who is not trusted cannot say who it is"


async def test_an_origin_that_is_down_at_the_start_is_told_and_waited_for(tmp_path: Path) -> None:
    port = free_port()
    tables: dict[str, Any] = {
        "cache": {"l2": "none"},
        "plugins": {"circuit_breaker": {"consecutive_failures": 0, "minimum_calls": 1000}},
    }
    async with sidecar(f"http://127.0.0.1:{port}", tmp_path, tables) as running:
        await eventually(lambda: bool(running.events("upstream is down")))
        assert (await running.admin("GET", "/ready"))[0] == 200
        for _ in range(2):
            refused = await ask(running, "/")
            assert_problem(refused, 502)
            assert "detail=upstream-error" in (refused.field("Cache-Status") or "")
        async with origin(port) as app:
            app.text("/", "here", Cache_Control="no-store")
            assert (await ask(running, "/")).body == b"here"
            await eventually(lambda: bool(running.events("upstream is back")))
        assert len(running.events("upstream is down")) == 1
