"""Several workers on one port: serving, draining, replacing."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.origin import Origin, origin
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.sidecar import SidecarProcess, sidecar

TABLES: dict[str, Any] = {"workers": 2}


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        one.text("/", "ok", Cache_Control="max-age=60")
        yield one


async def ask(running: SidecarProcess, target: str = "/") -> RawResponse:
    async with await RawClient.connect(running.address) as client:
        return await client.ask(request(target))


def served_by(running: SidecarProcess) -> set[str]:
    """The workers that have logged a request."""
    return {line["worker"] for line in running.events("request")}


async def test_both_workers_serve_and_sigterm_drains_both(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, TABLES) as running:
        async with asyncio.timeout(20):
            while len(served_by(running)) < 2:
                assert (await ask(running)).status == 200
        running.signal(signal.SIGTERM)
        assert await running.wait() == 0
        stopped = {line["worker"] for line in running.events("stopped")}
        assert stopped == {"1", "2", "supervisor"}
        assert all("worker" in line for line in running.log_lines)
        assert not running.stderr
