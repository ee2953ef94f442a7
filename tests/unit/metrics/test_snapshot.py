"""The values of a registry at one moment."""

from dataclasses import replace

import orjson
from structlog.testing import capture_logs

from proxy.metrics.registry import Registry
from proxy.metrics.snapshot import HistogramFamily, HistogramValue, NumberFamily, take_snapshot

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
