"""Counters, levels and histograms."""

import math
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.metrics.registry import LATENCY_BUCKETS, Histogram, Registry, merged

BOUNDS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=8, unique=True).map(sorted)
VALUES = st.lists(st.floats(0, 2000), max_size=60)


def histogram(bounds: list[float], values: list[float]) -> Histogram:
    made = Histogram(bounds)
    for value in values:
        made.observe(value)
    return made


def test_observation_lies_in_the_bucket_whose_bound_it_reaches() -> None:
    made = histogram([1, 2], [0, 1, 1.5, 2, 2.1])
    assert made.counts == [2, 2, 1]
    assert made.count == 5
    assert made.total == pytest.approx(6.6)


@pytest.mark.parametrize("bounds", [[], [1, 1], [2, 1], [1, math.inf], [math.nan]])
def test_bad_bounds_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="bounds"):
        Histogram(bounds)


def test_quantile_of_nothing_is_zero() -> None:
    assert Histogram([1]).quantile(0.99) == 0


def test_quantile_is_interpolated_within_its_bucket() -> None:
    made = histogram([10, 20], [15.0] * 4)
    assert made.quantile(0.5) == 15
    assert made.quantile(1) == 20


def test_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert histogram([1, 2], [100.0]).quantile(0.5) == 2


@given(BOUNDS, VALUES.filter(bool), st.floats(0.001, 1))
@settings(deadline=None)
def test_quantile_lies_in_the_bucket_of_the_true_one(bounds: list[float], values: list[float], share: float) -> None:
    made = histogram(bounds, values)
    true = sorted(values)[math.ceil(share * len(values)) - 1]
    place = bisect_left(bounds, true)
    lower = bounds[place - 1] if place else 0.0
    upper = bounds[place] if place < len(bounds) else bounds[-1]
    assert lower - 1e-9 <= made.quantile(share) <= upper + 1e-9


@given(BOUNDS, VALUES, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_quantiles_ascend(bounds: list[float], values: list[float], one: float, other: float) -> None:
    made = histogram(bounds, values)
    assert made.quantile(min(one, other)) <= made.quantile(max(one, other)) + 1e-9


@given(BOUNDS, st.lists(VALUES, min_size=1, max_size=4))
@settings(deadline=None)
def test_merging_histograms_is_observing_the_union(bounds: list[float], groups: list[list[float]]) -> None:
    parts = [histogram(bounds, group) for group in groups]
    union = merged(parts)
    whole = histogram(bounds, [value for group in groups for value in group])
    assert union.counts == whole.counts
    assert union.total == pytest.approx(whole.total)
    assert [part.count for part in parts] == [len(group) for group in groups]  # the parts are as they were


@given(BOUNDS, VALUES)
@settings(deadline=None)
def test_observing_all_at_once_is_observing_each(bounds: list[float], values: list[float]) -> None:
    each, at_once = Histogram(bounds), Histogram(bounds)
    for value in values:
        each.observe(value)
    at_once.observe_all(values)
    assert at_once.counts == each.counts
    assert at_once.total == pytest.approx(each.total)


def test_histograms_of_different_bounds_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        merged([Histogram([1]), Histogram([2])])


def test_merging_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        merged([])


def test_same_labels_give_the_same_metric() -> None:
    family = Registry().counter("requests", "Requests.", ("route",))
    family.labels("a").value += 1
    family.labels("a").value += 1
    family.labels("b").value += 1
    assert {labels: counter.value for labels, counter in family.members.items()} == {("a",): 2, ("b",): 1}


@pytest.mark.parametrize("values", [(), ("a", "b")])
def test_wrong_number_of_label_values_is_refused(values: tuple[str, ...]) -> None:
    family = Registry().counter("requests", "Requests.", ("route",))
    with pytest.raises(ValueError, match="has the labels"):
        family.labels(*values)
    assert not family.members


def test_asking_twice_for_a_name_gives_the_same_family() -> None:
    registry = Registry()
    assert registry.counter("a", "A.", ("x",)) is registry.counter("a", "A.", ("x",))
    assert registry.level("b", "B.") is registry.level("b", "B.")
    assert registry.histogram("c", "C.") is registry.histogram("c", "C.", bounds=list(LATENCY_BUCKETS))
    assert [family.name for family in registry.counters()] == ["a"]
    assert [family.name for family in registry.levels()] == ["b"]
    assert [family.name for family in registry.histograms()] == ["c"]


def test_name_of_another_kind_or_shape_is_refused() -> None:
    registry = Registry()
    registry.counter("a", "A.", ("x",))
    registry.histogram("h", "H.", bounds=(1, 2))
    with pytest.raises(ValueError, match="exists"):
        registry.counter("a", "A.", ("y",))
    with pytest.raises(ValueError, match="exists"):
        registry.gauge("a", "A.", lambda: 1.0)
    with pytest.raises(ValueError, match="exists"):
        registry.total("a", "A.", lambda: 1.0)
    with pytest.raises(ValueError, match="exists"):
        registry.level("a", "A.", ("x",))
    with pytest.raises(ValueError, match="exists"):
        registry.histogram("h", "H.", bounds=(1, 3))


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a b", "a_total", "a_count", "a_sum", "a_bucket", "a_info"])
def test_bad_metric_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metric name"):
        Registry().counter(name, "Help.")


@pytest.mark.parametrize("label", ["", "le", "Route", "a-b"])
def test_bad_label_name_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="label"):
        Registry().histogram("a", "A.", (label,))


def test_bad_bounds_are_refused_when_the_family_is_made() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Registry().histogram("a", "A.", bounds=(2, 1))


def test_gauge_is_read_when_asked_and_the_last_reader_wins() -> None:
    registry = Registry()
    size = 1
    registry.gauge("size", "Size.", lambda: 99.0)
    registry.gauge("size", "Size.", lambda: size)
    registry.gauge("tiers", "Tiers.", lambda: {("l1",): 1.0, ("l2",): 2.0}, ("tier",))
    size = 7
    assert [reading.read() for reading in registry.readings()] == [7, {("l1",): 1.0, ("l2",): 2.0}]
