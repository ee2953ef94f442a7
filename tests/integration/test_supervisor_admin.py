"""The admin port of several workers: every operation of the table, merged from all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.admin import bench
from tests.support.origin import Origin, origin
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import SidecarProcess, sidecar, toml

TABLES: dict[str, Any] = {"workers": 2}
NO_L2: dict[str, Any] = {"workers": 2, "cache": {"l2": "none"}}
WORKERS = {"1", "2"}
DEADLINE_SECONDS = 20


@pytest.fixture
async def app() -> AsyncIterator[Origin]:
    async with origin() as one:
        one.text("/", "ok", Cache_Control="max-age=60", Cache_Tag="greetings")
        one.text("/other", "other", Cache_Control="max-age=60")
        yield one


async def ask(running: SidecarProcess, target: str = "/") -> int:
    async with await RawClient.connect(running.address) as client:
        return (await client.ask(request(target))).status


async def served_by_both(running: SidecarProcess, target: str = "/") -> int:
    """Ask until each worker has answered; how many requests that took."""
    asked = 0
    async with asyncio.timeout(DEADLINE_SECONDS):
        while {line["worker"] for line in running.events("request") if line["target"] == target} != WORKERS:
            assert await ask(running, target) == 200
            asked += 1
    return asked


async def scrape(running: SidecarProcess, accept: str = "") -> dict[str, Metric]:
    _, text = await running.admin("GET", "/metrics", headers={"Accept": accept})
    parse = parse_openmetrics if accept else parse_text
    return {family.name: family for family in parse(text)}


async def test_every_operation_of_one_sidecar_is_answered_by_several_as_the_description_says(
    app: Origin, tmp_path: Path
) -> None:
    async with bench() as alone:
        single = (await alone.get("/openapi.json")).document["paths"]
    bodies: dict[str, Any] = {
        "/admin/cache/invalidate": {"all": True},
        "/admin/cache/warmup": {"urls": [app.url + "/"]},
        "/admin/config/reload": {},
    }
    async with sidecar(app.url, tmp_path, TABLES) as running:
        _, document = await running.admin("GET", "/openapi.json")
        merged = document["paths"]
        assert {(path, method) for path, methods in merged.items() for method in methods} == {
            (path, method) for path, methods in single.items() for method in methods
        }
        _, job = await running.admin("POST", "/admin/cache/warmup", {"urls": [app.url + "/"]})
        for path, methods in merged.items():
            for method, described in methods.items():
                target = path.replace("{id}", job["id"])
                if path == "/admin/cache/explain":
                    target += f"?url={app.url}/"
                status, answer = await running.admin(method.upper(), target, bodies.get(path))
                assert status < 300, (method, path, answer)
                content = described["responses"][str(status)]["content"]
                if "application/json" in content:
                    schema = {**content["application/json"]["schema"], "components": document["components"]}
                    Draft202012Validator(schema).validate(answer)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
async def test_metrics_of_all_workers_parse_have_their_label_and_add_up(
    app: Origin, tmp_path: Path, accept: str
) -> None:
    async with sidecar(app.url, tmp_path, TABLES) as running:
        asked = await served_by_both(running)
        families = await scrape(running, accept)
        for family in families.values():
            assert all("worker" in sample.labels for sample in family.samples), family.name
        counted = {
            sample.labels["worker"]: sample.value
            for sample in families["sidecache_request_duration_seconds"].samples
            if sample.name.endswith("_count") and sample.value
        }
        assert families["sidecache_request_duration_seconds"].type == "histogram"
        total: dict[str, float] = {}
        for sample in families["sidecache_request_duration_seconds"].samples:
            if sample.name.endswith("_count"):
                total[sample.labels["worker"]] = total.get(sample.labels["worker"], 0) + sample.value
        assert set(counted) == WORKERS
        assert sum(total.values()) == asked
        processes = {s.labels["worker"] for s in families["process_resident_memory_bytes"].samples}
        assert processes == {*WORKERS, "supervisor"}
        assert {s.labels["worker"]: s.value for s in families["sidecache_worker_up"].samples} == {"1": 1, "2": 1}


async def test_stats_add_up_and_percentiles_are_those_of_all_observations(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        asked = await served_by_both(running)
        _, stats = await running.admin("GET", "/admin/cache/stats")
        route = stats["routes"]["default"]
        assert route["misses"] == len(app.seen) == 2, "each worker fetches once"
        assert route["hits"] + route["misses"] == asked
        assert route["hit_ratio"]["1m"] == pytest.approx((asked - 2) / asked)
        assert stats["tiers"]["l1"]["records"] == 2
        _, pipeline = await running.admin("GET", "/admin/pipeline/stats")
        latency = next(plugin for plugin in pipeline["plugins"] if plugin["name"] == "latency")
        misses = latency["stats"]["routes"]["default"]["miss"]
        assert misses["count"] == 2
        alone = [each["routes"]["default"]["miss"]["p50_ms"] for each in latency["workers"].values()]
        assert len(alone) == 2
        buckets = (await scrape(running))["sidecache_request_duration_seconds"].samples
        below = [
            float(sample.labels["le"]) * 1000
            for sample in buckets
            if sample.labels.get("cache") == "miss" and sample.name.endswith("_bucket") and sample.value >= 1
        ]
        assert misses["p99_ms"] <= max(bound for bound in below if bound < 1e9)
        assert min(alone) <= misses["p50_ms"] <= max(alone)


@pytest.mark.parametrize("l2", ["none", "lmdb"])
async def test_a_purge_holds_in_every_worker_when_it_is_answered(app: Origin, tmp_path: Path, l2: str) -> None:
    async with sidecar(app.url, tmp_path, {"workers": 2, "cache": {"l2": l2}}) as running:
        await served_by_both(running)
        for worker in WORKERS:
            _, explanation = await running.admin("GET", f"/admin/cache/explain?url=http://example.com/&worker={worker}")
            assert (explanation["worker"], explanation["verdict"]) == (worker, "hit")
        status, done = await running.admin("POST", "/admin/cache/invalidate", {"tag": "greetings"})
        assert (status, done["status"], done["purges"][0]["dropped"]) == (200, "shared", 2)
        for worker in WORKERS:
            _, explanation = await running.admin("GET", f"/admin/cache/explain?url=http://example.com/&worker={worker}")
            assert explanation["verdict"] == "miss"


async def test_an_unknown_worker_is_a_mistake_in_the_query(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, NO_L2) as running:
        status, problem = await running.admin("GET", f"/admin/cache/explain?url={running.url}/&worker=9")
        assert (status, problem["errors"][0]["path"]) == (422, "worker")
        for job in ("9.abc", "1.abc", "1", "1.abc,1.abc", "1.%2F"):
            status, problem = await running.admin("GET", f"/admin/cache/warmup/{job}")
            assert (status, problem["status"]) == (404, 404), job
        status, problem = await running.admin("POST", "/admin/cache/invalidate", {"nothing": 1})
        assert status == 422


@pytest.mark.parametrize(("l2", "fetches"), [("none", 2), ("lmdb", 1)])
async def test_a_warm_up_warms_what_no_second_tier_shares_in_each_worker(
    app: Origin, tmp_path: Path, l2: str, fetches: int
) -> None:
    async with sidecar(app.url, tmp_path, {"workers": 2, "cache": {"l2": l2}}) as running:
        status, job = await running.admin("POST", "/admin/cache/warmup?wait=true", {"urls": [running.url + "/"]})
        assert (status, job["state"], job["done"], job["failed"]) == (200, "done", fetches, 0)
        assert app.count["/"] == fetches
        _, again = await running.admin("GET", f"/admin/cache/warmup/{job['id']}")
        assert again == job


async def test_a_reload_reaches_all_workers_and_a_refused_one_none(app: Origin, tmp_path: Path) -> None:
    tables: dict[str, Any] = {**NO_L2, "admin": {"max_body_bytes": 1024}}  # of callers, not between the processes
    padding = "# " + "x" * 4096 + "\n"

    def config(tables: dict[str, Any]) -> str:
        return padding + toml(tables, app.url, running.port, running.admin_port, tmp_path)

    async with sidecar(app.url, tmp_path, tables) as running:
        running.config.write_text(config({**tables, "plugins": {"cache": {"ttl_seconds": -1}}}))
        status, problem = await running.admin("POST", "/admin/config/reload")
        assert (status, problem["errors"][0]["path"]) == (422, "plugins.cache.ttl_seconds")
        rules = [{"name": "r", "rate": 1, "period_seconds": 600}]
        running.config.write_text(config({**tables, "plugins": {"rate_limit": {"rules": rules}}}))
        status, report = await running.admin("POST", "/admin/config/reload")
        assert (status, report) == (200, {"changed": ["plugins"], "restart_needed": []})
        # Each worker keeps accounts of its own: one request each is admitted.
        statuses = [await ask(running) for _ in range(40)]
        assert statuses.count(200) == 2
        assert statuses.count(429) == 38


async def test_health_shows_each_worker_and_the_supervisor(app: Origin, tmp_path: Path) -> None:
    async with sidecar(app.url, tmp_path, TABLES) as running:
        async with asyncio.timeout(DEADLINE_SECONDS):  # one that is slow to say so is told of as silent
            while (await running.admin("GET", "/ready"))[1].get("workers") != [
                {"worker": "1", "state": "ready"},
                {"worker": "2", "state": "ready"},
            ]:
                pass
        _, health = await running.admin("GET", "/health/detailed")
        assert health["pid"] == running.pid
        assert len({running.pid, *(worker["pid"] for worker in health["workers"])}) == 3
        assert all(worker["pid"] == worker["health"]["pid"] for worker in health["workers"])


async def test_the_admin_port_asks_for_its_token(app: Origin, tmp_path: Path) -> None:
    token = "a-token-that-is-long-enough"
    async with sidecar(app.url, tmp_path, {**NO_L2, "admin": {"token": token}}) as running:
        assert (await running.admin("GET", "/admin/cache/stats"))[0] == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert (await running.admin("GET", "/admin/cache/stats", headers=headers))[0] == 200
        assert (await running.admin("GET", "/worker/metrics", headers=headers))[0] == 404


async def test_workers_accept_from_one_unix_socket(app: Origin, tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    async with sidecar(app.url, tmp_path, {**NO_L2, "server": {"listen": f"unix:{path}"}}) as running:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while {line["worker"] for line in running.events("request")} != WORKERS:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
                    session.get("http://localhost/") as answer,
                ):
                    assert answer.status == 200
        running.process.terminate()
        assert await running.wait() == 0
    assert not path.exists()
