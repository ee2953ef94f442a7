"""The values of a registry at one moment."""

import math
from dataclasses import replace

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from proxy.metrics.exposition import encode, process_families
from proxy.metrics.registry import Registry
from proxy.metrics.snapshot import (
    HistogramFamily,
    HistogramValue,
    NumberFamily,
    Snapshot,
    added,
    load_snapshot,
    side_by_side,
    take_snapshot,
)

NONE_UNREADABLE = NumberFamily(
    "sidecache_unreadable_metrics", "Metrics whose reader failed at this scrape", "gauge", (), (((), 0),)
)


def test_every_kind_is_in_it() -> None:
    registry = Registry()
    registry.counter("requests", "Requests.", ("route",)).labels("a").value += 2
    registry.level("open", "Open.").labels().value += 1
    registry.histogram("seconds", "Seconds.", bounds=(1, 2)).labels().observe(1.5)
    registry.gauge("bytes", "Bytes.", lambda: 10)
    registry.gauge("tiers", "Tiers.", lambda: {("l1",): 1, ("l2",): 2}, ("tier",))
    registry.total("dropped", "Dropped.", lambda: 3)
    assert take_snapshot(registry) == (
        NumberFamily("requests", "Requests.", "counter", ("route",), ((("a",), 2),)),
        NumberFamily("open", "Open.", "gauge", (), (((), 1),)),
        HistogramFamily("seconds", "Seconds.", (), (((), HistogramValue((1.0, 2.0), (0, 1, 0), 1.5)),)),
        NumberFamily("bytes", "Bytes.", "gauge", (), (((), 10.0),)),
        NumberFamily("tiers", "Tiers.", "gauge", ("tier",), ((("l1",), 1.0), (("l2",), 2.0))),
        NumberFamily("dropped", "Dropped.", "counter", (), (((), 3.0),)),
        NONE_UNREADABLE,
    )


def test_it_stays_as_it_was() -> None:
    registry = Registry()
    counter = registry.counter("requests", "Requests.").labels()
    histogram = registry.histogram("seconds", "Seconds.").labels()
    before = take_snapshot(registry)
    copy = orjson.dumps(before)
    counter.value += 1
    histogram.observe(1)
    registry.counter("requests", "Requests.")
    assert orjson.dumps(before) == copy
    assert take_snapshot(registry) != before


def test_metric_that_fails_is_left_out_logged_and_counted() -> None:
    def broken() -> float:
        raise OSError("gone")

    registry = Registry()
    registry.gauge("broken", "Broken.", broken)
    registry.gauge("mislabelled", "Mislabelled.", lambda: 1.0, ("tier",))
    registry.gauge("sound", "Sound.", lambda: 1.0)
    with capture_logs() as logs:
        snapshot = take_snapshot(registry)
    assert [family.name for family in snapshot] == ["sound", "sidecache_unreadable_metrics"]
    assert snapshot[-1] == replace(NONE_UNREADABLE, samples=(((), 2),))
    assert {line["metric"] for line in logs} == {"broken", "mislabelled"}
    assert take_snapshot(Registry()) == (NONE_UNREADABLE,)


def worker(requests: int, *seconds: float) -> Snapshot:
    registry = Registry()
    registry.counter("requests", "Requests.", ("route",)).labels("a").value += requests
    histogram = registry.histogram("seconds", "Seconds.", ("route",), bounds=(1, 2)).labels("a")
    for one in seconds:
        histogram.observe(one)
    return take_snapshot(registry)


def test_it_comes_back_from_json_as_it_was() -> None:
    before = (*worker(2, 0.5, 1.5), *process_families())
    assert load_snapshot(orjson.dumps(before)) == before


def test_what_json_cannot_hold_comes_back_as_no_number() -> None:
    snapshot = (NumberFamily("ratio", "Ratio.", "gauge", (), (((), math.inf),)),)
    (family,) = load_snapshot(orjson.dumps(snapshot))
    assert isinstance(family, NumberFamily)
    assert math.isnan(family.samples[0][1])


@pytest.mark.parametrize(
    "data", [b"1", b"[1]", b'[{"name": "a"}]', b"[", b'[{"label_names": [], "samples": [[[], 1]]}]']
)
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 — orjson has a message of its own
        load_snapshot(data)


def test_processes_stand_side_by_side_under_a_label() -> None:
    merged = side_by_side("worker", {"1": worker(2, 0.5), "2": worker(3, 1.5)})
    assert merged[:2] == (
        NumberFamily("requests", "Requests.", "counter", ("route", "worker"), ((("a", "1"), 2), (("a", "2"), 3))),
        HistogramFamily(
            "seconds",
            "Seconds.",
            ("route", "worker"),
            (
                (("a", "1"), HistogramValue((1.0, 2.0), (1, 0, 0), 0.5)),
                (("a", "2"), HistogramValue((1.0, 2.0), (0, 1, 0), 1.5)),
            ),
        ),
    )
    text, _ = encode(merged)
    names = [family.name for family in text_string_to_metric_families(text.decode())]
    assert len(names) == len(set(names)) == 3


def test_what_tells_of_processes_by_itself_keeps_its_label() -> None:
    up = NumberFamily("up", "Up.", "gauge", ("worker",), ((("1",), 1.0), (("2",), 0.0)))
    assert side_by_side("worker", {"supervisor": (up,)}) == (up,)


@pytest.mark.parametrize(
    "other",
    [
        NumberFamily("requests", "Requests.", "gauge", ("route",), ((("a",), 1.0),)),
        NumberFamily("requests", "Requests.", "counter", (), (((), 1.0),)),
        HistogramFamily("requests", "Requests.", ("route",), ()),
    ],
)
def test_what_two_processes_mean_differently_is_left_out_and_counted(other: NumberFamily | HistogramFamily) -> None:
    merged: dict[str, object] = {
        family.name: family.samples
        for family in side_by_side("worker", {"1": worker(2), "2": (other, NONE_UNREADABLE)})
    }
    assert merged["requests"] == ((("a", "1"), 2),)
    assert merged["sidecache_unreadable_metrics"] == ((("1",), 0), (("2",), 1))


def test_observations_of_several_processes_are_added_and_percentiles_follow() -> None:
    fast, slow = worker(0, *[0.5] * 98), worker(0, 1.5, 1.5)
    histogram = added([fast, slow])["seconds"][("a",)]
    assert (histogram.count, histogram.total) == (100, 52.0)
    assert histogram.quantile(0.5) < 1 < histogram.quantile(0.99)


def test_histograms_with_other_bounds_are_not_added() -> None:
    other = HistogramFamily("seconds", "Seconds.", ("route",), ((("a",), HistogramValue((5.0,), (7, 0), 1.0)),))
    assert added([worker(0, 0.5), (other,)])["seconds"][("a",)].count == 1
