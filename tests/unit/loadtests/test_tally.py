from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.tally import Tally, outcome_of, percentile


@pytest.mark.parametrize(
    ("field", "outcome"),
    [
        ("", "none"),
        ("sidecache; hit; ttl=30", "hit"),
        ("sidecache;hit", "hit"),
        ("sidecache; fwd=uri-miss; stored", "fwd=uri-miss"),
        ("sidecache; fwd=stale; fwd-status=304", "fwd=stale"),
        ("sidecache; hit-ratio=1", "other"),
        ("sidecache", "other"),
        ('sidecache; fwd=stale; key="a, b; hit"', "fwd=stale"),
        ('sidecache; key="a', "malformed"),
        ("origin-cdn; hit, sidecache; fwd=vary-miss", "fwd=vary-miss"),
        ("origin-cdn; fwd=miss, sidecache; hit", "hit"),
    ],
)
def test_the_nearest_cache_says_what_was_done(field: str, outcome: str) -> None:
    assert outcome_of(field) == outcome


def test_percentile_is_a_value_that_was_measured() -> None:
    values = array("d", range(1, 101))
    assert [percentile(values, share) for share in (0.01, 0.5, 0.95, 0.99, 1.0)] == [1, 50, 95, 99, 100]
    assert percentile(array("d", [7]), 0.01) == 7
    assert percentile(array("d"), 0.95) == 0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1))
@settings(deadline=None)
def test_at_most_the_rest_lies_above_a_percentile(values: list[float], share: float) -> None:
    found = percentile(array("d", sorted(values)), share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6


def test_summary_tells_hits_from_the_rest() -> None:
    tally = Tally()
    for milliseconds in (1.0, 2.0, 3.0):
        tally.add(milliseconds, 200, "sidecache; hit", "br")
    tally.add(100.0, 200, "sidecache; fwd=uri-miss")
    tally.add(5000.0, 0)
    assert tally.summary() == {
        "requests": 5,
        "hit_ratio": 0.6,
        "outcomes": {"fwd=uri-miss": 1, "hit": 3, "none": 1},
        "statuses": {"0": 1, "200": 4},
        "content_codings": {"br": 3, "identity": 1},
        "milliseconds": {
            "all": {"p50": 3.0, "p95": 5000.0, "p99": 5000.0, "max": 5000.0},
            "cached": {"p50": 2.0, "p95": 3.0, "p99": 3.0, "max": 3.0},
            "not_cached": {"p50": 100.0, "p95": 5000.0, "p99": 5000.0, "max": 5000.0},
        },
    }


def test_nothing_measured_is_no_hit_and_no_division_by_zero() -> None:
    summary = Tally().summary()
    assert (summary["requests"], summary["hit_ratio"]) == (0, 0.0)
