"""The fast lane of a whole process: what operators see of it, and what a reload does to it."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.address import Address
from tests.support.memory_files import memory_files
from tests.support.origin import Origin, origin
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import LANE_VARIABLE, SidecarProcess, eventually, sidecar, toml

ON: Mapping[str, str] = {LANE_VARIABLE: "16777216"}
OFF: Mapping[str, str] = {LANE_VARIABLE: "0"}
TABLES: Mapping[str, Any] = {"cache": {"l2": "none"}}


async def hits(running: SidecarProcess) -> int:
    status, document = await running.admin("GET", "/admin/pipeline/stats")
    assert status == 200
    found: int = document["fast_lane"]["hits"]
    return found


def answer(app: Origin, path: str, body: str) -> None:
    app.text(path, body, Cache_Control="max-age=600")


@pytest.mark.parametrize("environment", [ON, OFF])
async def test_it_is_counted_and_can_be_turned_off(tmp_path: Path, environment: Mapping[str, str]) -> None:
    async with origin() as app, sidecar(app.url, tmp_path, TABLES, environment=environment) as running:
        answer(app, "/a", "text")
        async with await RawClient.connect(running.address) as client:
            for number in range(12):
                assert (await client.ask(request("/a", f"X-Request-ID: {number}"))).body == b"text"
        _, document = await running.admin("GET", "/admin/pipeline/stats")
        _, metrics = await running.admin("GET", "/metrics")
        by_name = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        if environment is OFF:
            assert document["fast_lane"] is None
            assert not any("fast_lane" in name for name in by_name)
        else:
            lane = document["fast_lane"]
            assert (lane["replies"], lane["hits"]) == (1, 10)
            assert 0 < lane["bytes"] < 10_000
            for name, value in (("replies", 1), ("bytes", lane["bytes"]), ("hits_total", 10)):
                assert float(by_name[f"sidecache_fast_lane_{name}"]) == value
        assert float(by_name['sidecache_cache_requests_total{result="hit",route="default"}']) == 11
        assert (
            float(by_name['sidecache_request_duration_seconds_count{cache="hit",route="default",status="2xx"}']) == 11
        )
        await eventually(lambda: len(running.events("request")) == 12)


async def test_a_reload_voids_what_is_kept(tmp_path: Path) -> None:
    async with origin() as app, sidecar(app.url, tmp_path, TABLES, environment=ON) as running:
        answer(app, "/a", "text")
        async with await RawClient.connect(running.address) as client:
            for _ in range(5):
                assert (await client.ask(request("/a"))).field("Cache-Status") is not None
            assert await hits(running) == 3
            silent = {**TABLES, "plugins": {"cache": {"cache_status": False}}}
            running.config.write_text(toml(silent, app.url, running.port, running.admin_port, tmp_path))
            running.signal(signal.SIGHUP)
            await eventually(lambda: bool(running.events("configuration reloaded")))
            for _ in range(5):
                assert (await client.ask(request("/a"))).field("Cache-Status") is None
            assert await hits(running) == 6


async def test_a_purge_by_the_admin_port_ends_what_is_kept(tmp_path: Path) -> None:
    async with origin() as app, sidecar(app.url, tmp_path, TABLES, environment=ON) as running:
        answer(app, "/a", "old")
        head = request("/a", host=running.url.removeprefix("http://"))
        async with await RawClient.connect(running.address) as client:
            for _ in range(5):
                await client.ask(head)
            answer(app, "/a", "new")
            assert (await client.ask(head)).body == b"old"
            status, _ = await running.admin("POST", "/admin/cache/invalidate", {"url": f"{running.url}/a"})
            assert status == 200
            assert (await client.ask(head)).body == b"new"


@pytest.mark.parametrize("listen", ["tcp", "unix"])
async def test_a_long_answer_is_whole_when_it_is_sent_from_a_file(tmp_path: Path, listen: str) -> None:
    text = "".join(map(str, range(200_000)))  # over 1 MB: more than sockets take at once
    tables = dict(TABLES)
    if listen == "unix":
        tables["server"] = {"listen": f"unix:{tmp_path / 'socket'}"}
    async with origin() as app, sidecar(app.url, tmp_path, tables, environment=ON) as running:
        answer(app, "/a", text)
        address = Address.parse(f"unix:{tmp_path / 'socket'}") if listen == "unix" else running.address
        head = request("/a", host="localhost")
        async with await RawClient.connect(address) as client:
            async with asyncio.timeout(20):  # until it is given often, and renewed after that
                while not memory_files(running.pid):
                    assert (await client.ask(head)).body == text.encode()
            await client.send(head * 3)  # which the parser answers, as they come at once
            for _ in range(3):
                assert (await client.response()).body == text.encode()
        async with await RawClient.connect(address, receive_buffer_bytes=65_536) as slow:
            for _ in range(3):
                assert (await slow.ask(head)).body == text.encode()
        status, _ = await running.admin("POST", "/admin/cache/invalidate", {"all": True})
        assert status == 200
        assert memory_files(running.pid) == 0


async def test_who_keeps_it_from_a_route_is_told_at_the_start_and_after_a_reload(tmp_path: Path) -> None:
    (tmp_path / "sidecar_never_plugin.py").write_text(
        "from proxy.pipeline.plugin import Plugin, PluginSettings\n"
        "class Seeing(Plugin[PluginSettings]):\n"
        "    name = 'seeing'\n"
        "    settings_type = PluginSettings\n"
        "    async def on_request(self, exchange):\n"
        "        return None\n"
    )
    tables = {**TABLES, "pipeline": {"order": ["sidecar_never_plugin:Seeing", "cache"]}}
    environment = {**ON, "PYTHONPATH": str(tmp_path)}
    async with origin() as app, sidecar(app.url, tmp_path, tables, environment=environment) as running:
        event = "no kept answers on this route: plugins must see each request"
        (line,) = running.events(event)
        assert (line["route"], line["plugins"], line["level"]) == ("default", ["seeing"], "info")
        _, document = await running.admin("GET", "/admin/pipeline")
        assert document["routes"][0]["against_replay"] == ["seeing"]
        running.signal(signal.SIGHUP)
        await eventually(lambda: len(running.events(event)) == 2)
