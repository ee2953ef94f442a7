"""The admin port of a whole sidecar process: what it says agrees with what clients see."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.sidecar import SidecarProcess, sidecar

TOKEN = "a-token-of-some-length"
TABLES: dict[str, Any] = {"log": {"format": "json"}}


@asynccontextmanager
async def origin() -> AsyncIterator[tuple[str, list[str]]]:
    """An application whose answers may be kept for a minute; its URL, and the targets it was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response(text="hello", headers={"Cache-Control": "max-age=60", "Cache-Tag": "greetings"})

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}", asked
    finally:
        await runner.cleanup()


async def get(running: SidecarProcess, target: str) -> str:
    """The `Cache-Status` of an answer."""
    async with aiohttp.ClientSession() as session, session.get(running.url + target) as answer:
        await answer.read()
        assert answer.status == 200
        return answer.headers["Cache-Status"]


async def eventually_admin(running: SidecarProcess, path: str, wanted: Any, *names: str) -> None:
    """Ask `path` until what stands at `names` in its answer is `wanted`."""
    async with asyncio.timeout(20):
        while True:
            _, found = await running.admin("GET", path)
            for name in names:
                found = found[name]
            if found == wanted:
                return


async def test_warm_up_hit_purge_and_stats_agree(tmp_path: Path) -> None:
    async with origin() as (upstream, asked), sidecar(upstream, tmp_path, TABLES) as running:
        host = running.url.removeprefix("http://")
        order = {"host": host, "urls": ["/a", "/b"]}
        status, job = await running.admin("POST", "/admin/cache/warmup?wait=true", order)
        assert (status, job["done"], job["failed"]) == (200, 2, 0), job
        assert "hit" in await get(running, "/a")
        assert sorted(asked) == ["/a", "/b"]

        status, purged = await running.admin("POST", "/admin/cache/invalidate", {"url": f"{running.url}/a"})
        assert (status, purged["status"], purged["purges"][0]["dropped"]) == (200, "shared", 1)
        assert "fwd" in await get(running, "/a")
        assert "hit" in await get(running, "/b")

        _, stats = await running.admin("GET", "/admin/cache/stats")
        assert stats["tiers"]["l2"]["kind"] == "lmdb" and stats["tiers"]["l2"]["state"] == "up"
        route = stats["routes"]["default"]
        assert (route["hits"], route["misses"]) == (2, 3)
        _, pipeline = await running.admin("GET", "/admin/pipeline")
        places = {plugin["name"]: plugin["place"] for plugin in pipeline["routes"][0]["plugins"]}
        assert (places["compression"], places["cache"], places["circuit_breaker"]) == ("left", "cache", "right")
        _, health = await running.admin("GET", "/health/dependencies")
        assert (health["status"], health["upstream"]["state"], health["l2"]["kind"]) == ("ok", "up", "lmdb")


async def test_a_redis_that_dies_is_told_and_purges_wait_for_it(tmp_path: Path) -> None:
    with RedisServer() as redis:
        tables = {**TABLES, "cache": {"redis_url": redis.url, "l2_breaker_retry_seconds": 0.1, "l2_timeout_ms": 500}}
        async with origin() as (upstream, _), sidecar(upstream, tmp_path, tables) as running:
            await eventually_admin(running, "/health/dependencies", "up", "l2", "state")
            _, purged = await running.admin("POST", "/admin/cache/invalidate", {"tag": "greetings"})
            assert purged["status"] == "shared"
            redis.kill()
            _, purged = await running.admin("POST", "/admin/cache/invalidate", {"tag": "others"})
            assert purged["status"] == "pending"
            async with asyncio.timeout(20):
                while (await running.admin("GET", "/health/dependencies"))[1]["l2"]["state"] != "down":
                    await get(running, "/a")
                    await running.admin("POST", "/admin/cache/invalidate", {"all": True})
            status, _ = await running.admin("GET", "/ready")
            assert status == 200  # it serves without its L2
            redis.start()
            await eventually_admin(running, "/health/dependencies", "up", "l2", "state")


async def test_a_bad_configuration_is_refused_whole_and_a_good_one_is_put_into_use(tmp_path: Path) -> None:
    async with origin() as (upstream, _), sidecar(upstream, tmp_path, TABLES) as running:
        good = running.config.read_text()
        running.config.write_text(good + "[plugins.cache]\nttl_second = 5\n[nonsense]\n")
        status, problem = await running.admin("POST", "/admin/config/reload")
        assert status == 422
        assert {"plugins.cache.ttl_second", "nonsense"} <= {mistake["path"] for mistake in problem["errors"]}
        _, view = await running.admin("GET", "/admin/config")
        assert view["plugins"]["cache"]["ttl_seconds"] is None
        running.config.write_text(good + "[plugins.cache]\nttl_seconds = 5\n")
        status, report = await running.admin("POST", "/admin/config/reload")
        assert (status, report["restart_needed"]) == (200, [])
        assert "plugins" in report["changed"]
        _, view = await running.admin("GET", "/admin/config")
        assert view["plugins"]["cache"]["ttl_seconds"] == 5
        assert "hit" not in await get(running, "/after") and "hit" in await get(running, "/after")


async def test_secrets_are_masked_and_the_token_from_a_file_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    environment = {"SIDECACHE_ADMIN__TOKEN_FILE": str(tmp_path / "token")}
    async with origin() as (upstream, _), sidecar(upstream, tmp_path, TABLES, environment=environment) as running:
        assert (await running.admin("GET", "/health"))[0] == 200
        assert (await running.admin("GET", "/admin/config"))[0] == 401
        status, view = await running.admin("GET", "/admin/config", headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 200
        assert TOKEN not in str(view)


async def test_the_admin_port_may_be_a_unix_socket_that_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    environment = {"SIDECACHE_ADMIN__LISTEN": f"unix:{path}"}
    async with origin() as (upstream, _):
        async with sidecar(upstream, tmp_path, TABLES, environment=environment):
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
                session.get("http://sidecar/ready") as answer,
            ):
                assert answer.status == 200
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()


async def test_an_upstream_that_is_not_there_degrades_and_the_sidecar_stays_ready(tmp_path: Path) -> None:
    async with sidecar(f"http://127.0.0.1:{free_port()}", tmp_path, TABLES) as running:
        _, job = await running.admin("POST", "/admin/cache/warmup?wait=true", {"urls": ["http://a.example/"]})
        assert (job["failed"], job["results"][0]["status"]) == (1, 502)
        assert job["results"][0]["error"]
        _, health = await running.admin("GET", "/health/dependencies")
        assert (health["status"], health["upstream"]["state"]) == ("degraded", "down")
        assert health["upstream"]["last_error"]
        assert (await running.admin("GET", "/ready"))[0] == 200


async def test_what_clients_did_is_in_the_metrics_and_in_the_stats_alike(tmp_path: Path) -> None:
    async with origin() as (upstream, _), sidecar(upstream, tmp_path, TABLES) as running:
        for _ in range(3):
            await get(running, "/a")
        _, stats = await running.admin("GET", "/admin/cache/stats")
        _, text = await running.admin("GET", "/metrics")
        assert 'sidecache_cache_requests_total{result="hit",route="default"} 2.0' in text
        assert stats["routes"]["default"]["hits"] == 2
        assert stats["routes"]["default"]["hit_ratio"]["1m"] == pytest.approx(2 / 3)


async def test_a_whole_sidecar_answers_as_its_openapi_document_says(tmp_path: Path) -> None:
    async with origin() as (upstream, _), sidecar(upstream, tmp_path, TABLES) as running:
        await get(running, "/a")
        _, document = await running.admin("GET", "/openapi.json")
        for path, methods in document["paths"].items():
            if "get" not in methods or "{" in path:
                continue
            question = "?url=http://a.test/a" if path == "/admin/cache/explain" else ""
            status, answer = await running.admin("GET", path + question)
            assert status == 200, path
            content = methods["get"]["responses"]["200"]["content"]
            if "application/json" in content:
                schema = {**content["application/json"]["schema"], "components": document["components"]}
                Draft202012Validator(schema).validate(answer)
