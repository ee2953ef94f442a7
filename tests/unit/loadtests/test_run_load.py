from typing import Any

import pytest

from loadtests.run_load import as_markdown, limits

GOOD: dict[str, Any] = {
    "at": "2026-01-02 03:04 UTC",
    "direct": False,
    "users": 1000,
    "spawn_rate": 50.0,
    "seconds": 60,
    "python": "3.11.2",
    "cores": 2,
    "requests": 30_000,
    "requests_per_second": 400.0,
    "hit_ratio": 0.85,
    "failures": 0,
    "mistakes": [],
    "outcomes": {"hit": 25_500, "fwd=uri-miss": 4500},
    "statuses": {"200": 30_000},
    "content_codings": {"br": 30_000},
    "milliseconds": {
        name: {"p50": 1.0, "p95": 9.0, "p99": 20.0, "max": 90.0} for name in ("all", "cached", "not_cached")
    },
}


def with_p95(name: str, milliseconds: float) -> dict[str, Any]:
    times = {**GOOD["milliseconds"], name: {**GOOD["milliseconds"][name], "p95": milliseconds}}
    return {**GOOD, "milliseconds": times}


def test_a_good_run_breaks_no_limit() -> None:
    assert all(limit.holds for limit in limits(GOOD))
    assert "broken" not in as_markdown(GOOD, limits(GOOD))


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        ({**GOOD, "failures": 1}, "failures"),
        ({**GOOD, "requests": 0}, "requests made"),
        ({**GOOD, "hit_ratio": 0.6}, "hit ratio"),
        (with_p95("cached", 50.0), "p95 of cached answers"),
        (with_p95("all", 2000.0), "p95 of all answers"),
    ],
)
def test_each_limit_can_be_broken_alone(figures: dict[str, Any], broken: str) -> None:
    judged = limits(figures)
    assert [limit.name for limit in judged if not limit.holds] == [broken]
    assert as_markdown(figures, judged).count("**broken**") == 1


def test_failures_are_told() -> None:
    mistakes = [{"method": "GET", "name": "/items/{id}", "error": "status 502", "count": 3}]
    assert "| GET /items/{id}: status 502 | 3 |" in as_markdown({**GOOD, "mistakes": mistakes}, [])
