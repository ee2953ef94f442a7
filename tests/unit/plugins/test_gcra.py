"""GCRA against a slow and obvious model, and the table's bounds under attack."""

import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.gcra import NANOSECONDS, Limit, Meter

SECOND = NANOSECONDS


def take(meter: Meter, key: str, now_ns: int) -> bool:
    """Whether one more request is granted."""
    return meter.take(key, now_ns) > 0


class Bucket:
    """The model: a token bucket in exact fractions, filled at each arrival."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.tokens = Fraction(limit.burst)
        self.at = 0

    def take(self, now_ns: int) -> bool:
        self.tokens = min(Fraction(self.limit.burst), self.tokens + Fraction(now_ns - self.at, self.limit.interval_ns))
        self.at = now_ns
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


limits = st.builds(Limit, st.integers(1, 10 * SECOND), st.integers(1, 50))
gaps = st.lists(
    st.one_of(st.just(0), st.integers(0, 100), st.integers(0, SECOND), st.integers(0, 100 * SECOND)), max_size=150
)


@given(limits, gaps)
@settings(deadline=None)
def test_it_grants_exactly_what_a_token_bucket_grants(limit: Limit, gaps: list[int]) -> None:
    meter, bucket, now = Meter(limit, 10), Bucket(limit), 0
    for gap in gaps:
        now += gap
        assert take(meter, "a", now) == bucket.take(now)


@given(limits, gaps)
@settings(deadline=None)
def test_no_window_holds_more_than_the_burst_and_the_rate(limit: Limit, gaps: list[int]) -> None:
    meter, now = Meter(limit, 10), 0
    granted: list[int] = []
    for gap in gaps:
        now += gap
        if take(meter, "a", now):
            granted.append(now)
    for first, start in enumerate(granted):
        for last in range(first, len(granted)):
            assert last - first + 1 <= limit.burst + (granted[last] - start) // limit.interval_ns


@given(limits, gaps)
@settings(deadline=None)
def test_what_it_says_is_left_and_when_more_comes_is_true(limit: Limit, gaps: list[int]) -> None:
    meter, now = Meter(limit, 10), 0
    for gap in gaps:
        now += gap
        owed_ns, wait_ns = meter.ask("a", now), meter.wait_ns("a", now)
        if owed_ns:
            assert wait_ns == 0
            meter.charge("a", now, owed_ns)
            remaining = meter.remaining(owed_ns)
            assert (meter.ask("a", now) > 0) == (remaining > 0)
            assert meter.remaining(meter.ask("a", now + owed_ns)) == limit.burst - 1
        else:
            assert wait_ns > 0
            assert not meter.ask("a", now + wait_ns - 1)
            assert meter.ask("a", now + wait_ns)


@given(limits, st.lists(st.tuples(st.integers(0, 20), st.integers(0, SECOND)), max_size=200))
@settings(deadline=None)
def test_each_key_has_an_account_of_its_own(limit: Limit, arrivals: list[tuple[int, int]]) -> None:
    meter, now = Meter(limit, 1000), 0
    buckets: dict[int, Bucket] = {}
    for key, gap in arrivals:
        now += gap
        bucket = buckets.setdefault(key, Bucket(limit))
        assert take(meter, f"k{key}", now) == bucket.take(now)


@given(limits, st.integers(1, 8), st.lists(st.tuples(st.integers(0, 20), st.integers(0, SECOND)), max_size=200))
@settings(deadline=None)
def test_to_take_is_to_ask_and_to_charge_what_is_granted(
    limit: Limit, max_keys: int, arrivals: list[tuple[int, int]]
) -> None:
    meter, other, now = Meter(limit, max_keys), Meter(limit, max_keys), 0
    for key, gap in arrivals:
        now += gap
        owed_ns = other.ask(f"k{key}", now)
        if owed_ns:
            other.charge(f"k{key}", now, owed_ns)
        assert meter.take(f"k{key}", now) == owed_ns
        assert meter._due == other._due
        assert meter.forgotten == other.forgotten


@given(limits, st.integers(1, 8), st.lists(st.tuples(st.integers(0, 20), st.integers(0, SECOND)), max_size=200))
@settings(deadline=None)
def test_the_table_is_never_above_its_bound_and_its_file_is_whole(
    limit: Limit, max_keys: int, arrivals: list[tuple[int, int]]
) -> None:
    meter, now = Meter(limit, max_keys), 0
    for key, gap in arrivals:
        now += gap
        take(meter, f"k{key}", now)
        filed = [filed for keys in meter._slots.values() for filed in keys]
        assert sorted(map(str, filed)) == sorted(map(str, meter._due))
        assert len(meter) <= max_keys
        assert meter._first == min(meter._slots)


def test_keys_that_owe_nothing_are_dropped_as_others_come() -> None:
    meter = Meter(Limit.per_period(10, 1), 1_000_000)
    for number in range(1000):
        take(meter, f"old {number}", 0)
    for number in range(600):
        take(meter, f"new {number}", 10 * SECOND)
    assert len(meter) == 600
    assert meter.forgotten == 0


def test_a_key_in_steady_use_is_kept_when_its_slot_has_passed() -> None:
    meter = Meter(Limit(SECOND, 4), 1_000)
    for second in range(100):
        take(meter, "steady", second * SECOND)
        take(meter, "steady", second * SECOND)
        take(meter, f"other {second}", second * SECOND)
    assert "steady" in meter
    assert not meter.ask("steady", 99 * SECOND)


def test_keys_used_once_do_not_push_out_a_key_at_its_limit() -> None:
    meter = Meter(Limit.per_period(100, 60), 100)
    while take(meter, "limited", 0):
        pass
    for number in range(10_000):
        take(meter, f"invented {number}", number)  # all within ten microseconds
    assert not meter.ask("limited", 10_000)
    assert len(meter) == 100
    assert meter.forgotten == 10_000 - 99


def test_pushing_out_a_limited_key_costs_a_burst_on_each_key_of_the_table() -> None:
    meter = Meter(Limit.per_period(16, 60), 50)
    while take(meter, "limited", 0):
        pass
    spent = 0
    for number in range(49):
        for _ in range(14):  # short of the burst
            spent += take(meter, f"invented {number}", 0)
    take(meter, "one more", 0)
    assert spent == 49 * 14
    assert not meter.ask("limited", 0)


def test_the_key_that_owes_least_is_found_where_the_file_is_out_of_date() -> None:
    meter = Meter(Limit.per_period(100, 100), 4)
    for key in "abcd":
        take(meter, key, 0)
    for key in "abd":  # all four are filed in the slot of one request
        for _ in range(50):
            take(meter, key, 0)
    take(meter, "new", 0)
    assert "c" not in meter
    assert all(key in meter for key in "abd")


def test_memory_is_bounded_by_the_table_and_not_by_the_number_of_clients() -> None:
    meter = Meter(Limit.per_period(100, 60), 5_000)
    tracemalloc.start()
    try:
        for number in range(50_000):
            take(meter, f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64", number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(meter) == 5_000
    assert held < 5_000 * 300


def test_a_key_pushed_out_after_its_time_is_no_loss() -> None:
    meter = Meter(Limit(SECOND, 1), 2)
    take(meter, "a", 0)
    take(meter, "b", 0)
    take(meter, "c", 5 * SECOND)
    assert meter.forgotten == 0
    assert "c" in meter


def test_a_rate_is_rounded_down_never_up() -> None:
    assert Limit.per_period(3, 1).interval_ns == 333_333_334
    assert Limit.per_period(100, 60) == Limit(600_000_000, 100)
    assert Limit.per_period(100, 60, 5) == Limit(600_000_000, 5)
    assert Limit.per_period(100, 60).horizon_ns == 60 * SECOND


@pytest.mark.parametrize(("rate", "period", "burst"), [(0, 1, 1), (-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_limit_that_is_none_is_refused(rate: int, period: float, burst: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Limit.per_period(rate, period, burst)
