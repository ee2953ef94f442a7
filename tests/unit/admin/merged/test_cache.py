"""Stats of several workers as one document."""

from typing import Any

import pytest

from proxy.admin.cache import CacheStats
from proxy.admin.merged.cache import added_stats


def l2(state: str = "up", **changes: Any) -> dict[str, Any]:
    return {
        "kind": "lmdb", "state": state, "since": 10.0, "last_error": None, "last_error_at": None,
        "last_latency_seconds": 0.001, "hits": 1, "misses": 2, "errors": 0, "timeouts": 0,
        "records": 5, "bytes": 500, "max_bytes": 1000, **changes,
    }  # fmt: skip


def stats(hits: int, misses: int, second: dict[str, Any] | None = None, **routes: Any) -> dict[str, Any]:
    return {
        "tiers": {
            "l1": {
                "records": 1, "bytes": 10, "max_bytes": 100, "hits": hits, "misses": misses, "evictions": 0,
                "hit_ratio": None,
            },
            "l2": second,
        },
        "invalidations": {"kind": "memory", "purges": 2, "last_seen": 7, "floor": 0, "applied": 3, "lost": 0},
        "routes": routes,
    }  # fmt: skip


def route(hits: int, requests: int, **reasons: int) -> dict[str, Any]:
    recent = {span: {"hits": hits, "requests": requests} for span in ("1m", "5m", "15m")}
    return {
        "hits": hits, "misses": requests - hits, "stale": 0, "revalidated": 0, "bypass": 0, "bytes": hits * 10,
        "hit_ratio": {}, "recent": recent, "reasons": reasons,
    }  # fmt: skip


def test_a_ratio_is_that_of_all_requests_and_not_the_mean_of_ratios() -> None:
    added = added_stats({
        "1": stats(90, 10, a=route(90, 100, expired=1)),
        "2": stats(0, 300, a=route(0, 300, expired=2, new=5), b=route(0, 0)),
    })  # fmt: skip
    assert added["routes"]["a"]["hit_ratio"] == dict.fromkeys(("1m", "5m", "15m"), 90 / 400)
    assert added["routes"]["b"]["hit_ratio"]["1m"] is None
    assert list(added["routes"]["a"]["reasons"].items()) == [("new", 5), ("expired", 3)]
    assert added["tiers"]["l1"]["hit_ratio"] == 90 / 400
    assert added["tiers"]["l1"]["max_bytes"] == 200
    assert added["tiers"]["l2"] is None
    CacheStats.model_validate(added)


def test_what_workers_share_is_counted_once() -> None:
    added = added_stats({"1": stats(1, 1, l2()), "2": stats(1, 1, l2(records=6, bytes=510))})
    second = added["tiers"]["l2"]
    assert (second["records"], second["bytes"], second["max_bytes"], second["hits"]) == (6, 510, 1000, 2)
    assert (added["invalidations"]["purges"], added["invalidations"]["applied"]) == (2, 3)
    assert added["invalidations"]["lost"] == 0
    CacheStats.model_validate(added)


def test_a_log_in_memory_is_each_workers_own() -> None:
    added = added_stats({"1": stats(0, 0), "2": stats(0, 0)})
    assert (added["invalidations"]["purges"], added["invalidations"]["last_seen"]) == (4, 7)


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
def test_the_second_tier_is_as_the_worker_sees_it_that_sees_it_worst(order: tuple[str, str]) -> None:
    seen = {
        "1": stats(0, 0, l2(since=20.0, last_error="old", last_error_at=1.0, last_latency_seconds=None)),
        "2": stats(0, 0, l2("down", since=15.0, last_error="new", last_error_at=14.0)),
    }
    second = added_stats({name: seen[name] for name in order})["tiers"]["l2"]
    assert (second["state"], second["since"], second["last_error"], second["last_error_at"]) == (
        "down",
        15.0,
        "new",
        14.0,
    )
    assert second["last_latency_seconds"] == 0.001
    assert added_stats({"1": stats(0, 0, l2(last_latency_seconds=None))})["tiers"]["l2"]["last_latency_seconds"] is None
