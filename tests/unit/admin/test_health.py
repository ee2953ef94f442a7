"""Liveness, readiness, and how dependencies are."""

import os

from proxy.storage.breaker import TierHealth, TierState
from tests.support.admin import bench


async def test_health_and_ready_answer_while_all_is_well() -> None:
    async with bench() as admin:
        assert (await admin.get("/health")).document == {"status": "ok"}
        assert (await admin.get("/ready")).document == {"status": "ready"}


async def test_not_ready_tells_why_and_health_stays() -> None:
    async with bench() as admin:
        admin.target.reasons = ("shutting down",)
        answer = await admin.get("/ready")
        assert answer.status == 503 and answer.is_problem
        assert answer.document["reasons"] == ["shutting down"]
        assert answer.headers["Retry-After"] == "1"
        assert (await admin.get("/health")).status == 200
        detailed = (await admin.get("/health/detailed")).document
        assert (detailed["ready"], detailed["reasons"]) == (False, ["shutting down"])


async def test_probes_may_add_parameters_of_their_own() -> None:
    async with bench() as admin:
        assert (await admin.get("/health?nonce=1")).status == 200
        assert (await admin.get("/admin/config?nonce=1")).status == 422


async def test_a_dependency_that_is_down_is_told_and_degrades() -> None:
    async with bench() as admin:
        at = admin.driven.clock.wall()
        admin.target.upstream_health = TierHealth(TierState.DOWN, at - 5, "connection refused", at - 1, 0.25)
        document = (await admin.get("/health/dependencies")).document
        assert document == {
            "status": "degraded",
            "upstream": {
                "kind": "upstream",
                "state": "down",
                "since": "2023-11-14T22:13:15Z",
                "latency_seconds": 0.25,
                "last_error": "connection refused",
                "last_error_at": "2023-11-14T22:13:19Z",
            },
            "l2": None,
        }
        assert (await admin.get("/health/detailed")).document["status"] == "degraded"


async def test_an_error_that_quotes_bytes_from_the_wire_is_told() -> None:
    async with bench() as admin:
        admin.target.upstream_health = TierHealth(TierState.DOWN, 0.0, "bad header caf\udce9", 0.0)
        document = (await admin.get("/health/dependencies")).document
        assert document["upstream"]["last_error"] == "bad header caf\\udce9"


async def test_detailed_health_tells_of_the_process_and_its_memory() -> None:
    async with bench() as admin:
        await admin.driven.get("/items/1")
        admin.driven.clock.advance(30)
        document = (await admin.get("/health/detailed")).document
        assert document["pid"] == os.getpid()
        assert document["uptime_seconds"] == 30
        assert document["cached_records"] == 1 and document["cached_bytes"] > 100
        assert document["max_rss_bytes"] > 10_000_000
        assert document["started"] == "2023-11-14T22:13:20Z"
