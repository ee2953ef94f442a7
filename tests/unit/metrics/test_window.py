"""Counts over a sliding window."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.metrics.window import Ratio, RollingCounts
from tests.support.clock import FakeClock


def test_nothing_recorded_has_no_share() -> None:
    window = RollingCounts(FakeClock())
    assert window.over() == Ratio(0, 0)
    assert window.over().share is None


def test_share_is_hits_per_event() -> None:
    window = RollingCounts(FakeClock())
    window.record(True, 3)
    window.record(False)
    assert window.over(60) == Ratio(3, 4)
    assert window.over(60).share == 0.75


def test_spans_see_what_lies_within_them() -> None:
    clock = FakeClock()
    window = RollingCounts(clock, window_seconds=900, bucket_seconds=5)
    window.record(True, 100)
    clock.advance(240)
    window.record(True, 10)
    clock.advance(50)
    window.record(False, 1)
    assert window.over(60) == Ratio(10, 11)
    assert window.over(300) == Ratio(110, 111)
    assert window.over(900) == Ratio(110, 111)
    clock.advance(60)
    assert window.over(60) == Ratio(0, 0)
    clock.advance(900)
    assert window.over(900) == Ratio(0, 0)


def test_long_silence_leaves_nothing_behind() -> None:
    clock = FakeClock()
    window = RollingCounts(clock, window_seconds=10, bucket_seconds=1)
    for _ in range(10):
        window.record(True)
        clock.advance(1)
    clock.advance(1_000_000)
    assert window.over() == Ratio(0, 0)
    window.record(False)
    assert window.over() == Ratio(0, 1)


def test_clear_forgets() -> None:
    window = RollingCounts(FakeClock())
    window.record(True)
    window.clear()
    assert window.over() == Ratio(0, 0)
    window.record(False)
    assert window.over() == Ratio(0, 1)


@pytest.mark.parametrize(("window_seconds", "bucket_seconds"), [(10, 0), (10, -1), (1, 2), (0, 0)])
def test_impossible_window_is_refused(window_seconds: float, bucket_seconds: float) -> None:
    with pytest.raises(ValueError, match="cannot have buckets"):
        RollingCounts(FakeClock(), window_seconds=window_seconds, bucket_seconds=bucket_seconds)


@pytest.mark.parametrize("span", [0, -1, 901])
def test_span_outside_the_window_is_refused(span: float) -> None:
    with pytest.raises(ValueError, match="knows nothing"):
        RollingCounts(FakeClock()).over(span)


EVENTS = st.lists(st.tuples(st.floats(0, 40), st.booleans()), max_size=50)


@given(EVENTS, st.integers(1, 60))
@settings(deadline=None)
def test_counts_are_those_of_the_buckets_that_the_span_reaches(events: list[tuple[float, bool]], span: int) -> None:
    clock = FakeClock(monotonic=0)
    window = RollingCounts(clock, window_seconds=60, bucket_seconds=2)
    record: list[tuple[float, bool]] = []
    for pause, hit in events:
        clock.advance(pause)
        window.record(hit)
        record.append((clock.monotonic(), hit))
    newest = clock.monotonic() // 2
    reached = [hit for when, hit in record if newest - when // 2 < -(-span // 2)]
    assert window.over(span) == Ratio(sum(reached), len(reached))
    assert len(window._totals) == 30  # however much was recorded
