"""What a reload keeps, what it replaces, and what it says, in a whole process."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.origin import Origin, origin
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.sidecar import SidecarProcess, eventually, sidecar, toml

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        one.text("/", "ok", Cache_Control="max-age=60")
        yield one


async def reload(
    running: SidecarProcess, tmp_path: Path, tables: dict[str, Any], url: str, **more: Any
) -> tuple[int, Any]:
    running.config.write_text(toml(tables, url, running.port, running.admin_port, tmp_path))
    return await running.admin("POST", "/admin/config/reload", **more)


async def ask(running: SidecarProcess, target: str = "/") -> RawResponse:
    async with await RawClient.connect(running.address) as client:
        return await client.ask(request(target))


def limited(rate: int, **more: Any) -> dict[str, Any]:
    rules = [{"name": "r", "rate": rate, "period_seconds": 600}]
    return {"cache": {"l2": "none"}, "plugins": {"rate_limit": {"rules": rules}}, **more}


async def test_a_plugin_whose_settings_stay_remembers_what_it_knew(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, limited(2)) as running:
        assert [(await ask(running)).status for _ in range(3)] == [200, 200, 429]
        status, report = await reload(running, tmp_path, limited(2, log={"level": "debug"}), app.url)
        assert (status, report["changed"]) == (200, ["log"])
        assert (await ask(running)).status == 429, "a reload gives nobody a fresh allowance"
        status, _ = await reload(running, tmp_path, limited(3), app.url)
        assert status == 200
        assert [(await ask(running)).status for _ in range(4)] == [200, 200, 200, 429]


async def test_an_open_circuit_stays_open_and_a_new_upstream_has_a_closed_one(app: Origin, tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "cache": {"l2": "none"},
        "plugins": {"circuit_breaker": {"consecutive_failures": 2, "open_seconds": 60}},
    }
    app.text("/fails", "no", 500, Cache_Control="no-store")
    async with sidecar(app.url, tmp_path, tables) as running, origin() as other:
        other.text("/fails", "works", Cache_Control="no-store")
        assert [(await ask(running, "/fails")).status for _ in range(3)] == [500, 500, 503]
        await reload(running, tmp_path, {**tables, "log": {"level": "debug"}}, app.url)
        assert (await ask(running, "/fails")).status == 503
        status, report = await reload(running, tmp_path, tables, other.url)
        assert (status, report["changed"]) == (200, ["log", "upstream"])
        assert (await ask(running, "/fails")).body == b"works"


async def test_a_changed_secret_is_a_change_and_what_needs_a_restart_goes_on_needing_it(
    app: Origin, tmp_path: Path
) -> None:
    tables = {"cache": {"l2": "none"}, "admin": {"token": TOKEN}}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with sidecar(app.url, tmp_path, tables) as running:
        changed = {**tables, "admin": {"token": TOKEN[::-1]}, "server": {"max_fields": 64}}
        status, report = await reload(running, tmp_path, changed, app.url, headers=headers)
        assert (status, report) == (
            200,
            {"changed": ["admin", "server"], "restart_needed": ["admin", "server"]},
        )
        status, report = await reload(running, tmp_path, changed, app.url, headers=headers)
        assert (status, report) == (200, {"changed": [], "restart_needed": ["admin", "server"]})
        _, view = await running.admin("GET", "/admin/config", headers=headers)
        assert "64" not in str(view).partition("max_fields")[2][:8], "what is shown is what is in effect"


async def test_an_upstream_that_cannot_be_put_into_use_is_refused_and_the_old_one_stays(
    app: Origin, tmp_path: Path
) -> None:
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("no certificate")
    tables = {"cache": {"l2": "none"}}
    async with sidecar(app.url, tmp_path, tables) as running:
        wrong = {**tables, "upstream": {"url": "https://127.0.0.1:1", "ca_file": str(nonsense)}}
        status, document = await reload(running, tmp_path, wrong, app.url)
        assert 400 <= status < 500, document
        assert "ca_file" in str(document) or "certificate" in str(document).lower()
        assert (await ask(running, "/new")).status == 404
        assert app.count["/new"] == 1


async def test_reloads_in_a_row_leave_nothing_behind(app: Origin, tmp_path: Path) -> None:
    tables: dict[str, Any] = {"cache": {"l2": "none"}}
    async with sidecar(app.url, tmp_path, tables) as running, aiohttp.ClientSession() as session:
        for number in range(20):
            upstream = {"connect_timeout_seconds": 5 + number}
            status, _ = await reload(running, tmp_path, {**tables, "upstream": upstream}, app.url)
            assert status == 200
            async with session.get(f"{running.url}/{number}") as answer:
                assert answer.status == 404
        open_files = running.open_files()
        for number in range(20, 40):
            upstream = {"connect_timeout_seconds": 5 + number}
            await reload(running, tmp_path, {**tables, "upstream": upstream}, app.url)
            async with session.get(f"{running.url}/{number}") as answer:
                assert answer.status == 404
        assert running.open_files() <= open_files + 4
        assert not running.events("task failed")


async def test_a_refused_reload_leaves_the_metrics_of_the_pool_that_works(app: Origin, tmp_path: Path) -> None:
    (tmp_path / "sidecar_reload_plugin.py").write_text(
        "import os\n"
        "from proxy.pipeline.plugin import Plugin, PluginSettings\n"
        "class Refusing(Plugin[PluginSettings]):\n"
        "    name = 'refusing'\n"
        "    settings_type = PluginSettings\n"
        "    async def start(self):\n"
        "        raise RuntimeError('not today')\n"
    )
    tables: dict[str, Any] = {"cache": {"l2": "none"}}
    async with sidecar(app.url, tmp_path, tables, environment={"PYTHONPATH": str(tmp_path)}) as running:
        await ask(running, "/first")
        wrong = {
            **tables,
            "upstream": {"connect_timeout_seconds": 1},
            "pipeline": {"order": ["cache", "sidecar_reload_plugin:Refusing"]},
        }
        status, document = await reload(running, tmp_path, wrong, app.url)
        assert 400 <= status < 500
        assert "not today" in str(document)
        await ask(running, "/second")
        _, metrics = await running.admin("GET", "/metrics")
        (line,) = [line for line in metrics.splitlines() if line.startswith("sidecache_upstream_open_connections")]
        assert float(line.rpartition(" ")[2]) == 1


@pytest.mark.parametrize("number", ["SIGHUP", "SIGTERM"])
async def test_a_signal_that_comes_during_the_start_is_obeyed_after_it(
    app: Origin, tmp_path: Path, number: str
) -> None:
    (tmp_path / "sidecar_signal_plugin.py").write_text(
        "import os, signal\n"
        "from proxy.pipeline.plugin import Plugin, PluginSettings\n"
        "class Signalling(Plugin[PluginSettings]):\n"
        "    name = 'signalling'\n"
        "    settings_type = PluginSettings\n"
        "    async def start(self):\n"
        f"        os.kill(os.getpid(), signal.{number})\n"
    )
    tables: dict[str, Any] = {
        "cache": {"l2": "none"},
        "pipeline": {"order": ["cache", "sidecar_signal_plugin:Signalling"]},
    }
    async with sidecar(app.url, tmp_path, tables, environment={"PYTHONPATH": str(tmp_path)}) as running:
        if number == "SIGTERM":
            assert await running.wait() == 0
            return
        await eventually(lambda: bool(running.events("configuration reloaded")))
        assert (await ask(running)).status == 200
