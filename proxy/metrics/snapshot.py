"""The values of a registry at one moment: plain data that another thread can encode and another process can read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import structlog

from proxy.metrics.registry import Counter, Family, Histogram, Labels, Level, Reading, Registry

_log = structlog.get_logger("metrics")


@dataclass(frozen=True, slots=True)
class NumberFamily:
    """Counters or gauges of one name, as they were."""

    name: str
    help: str
    kind: Literal["counter", "gauge"]
    label_names: Labels
    samples: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True, slots=True)
class HistogramValue:
    """A histogram as it was; see `Histogram`."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class HistogramFamily:
    """Histograms of one name, as they were."""

    name: str
    help: str
    label_names: Labels
    samples: tuple[tuple[Labels, HistogramValue], ...]


Snapshot: TypeAlias = tuple[NumberFamily | HistogramFamily, ...]


def take_snapshot(registry: Registry) -> Snapshot:
    """The values of `registry` now, to be called on the thread that counts.

    1,000 histograms take about a millisecond, a hundredth of what it takes to encode them. A metric whose reader fails
    is left out, logged, and counted in `sidecache_unreadable_metrics`.
    """
    families: list[NumberFamily | HistogramFamily] = [
        *(_numbers("counter", family) for family in registry.counters()),
        *(_numbers("gauge", family) for family in registry.levels()),
        *map(_histograms, registry.histograms()),
    ]
    unreadable = 0
    for reading in registry.readings():
        try:
            families.append(_read(reading))
        except Exception as error:  # noqa: BLE001 — one reader that fails must not blind the operator to the rest
            _log.error("metric cannot be read", metric=reading.name, exc_info=error)
            unreadable += 1
    text = "Metrics whose reader failed at this scrape"
    families.append(NumberFamily("sidecache_unreadable_metrics", text, "gauge", (), (((), unreadable),)))
    return tuple(families)


def _numbers(kind: Literal["counter", "gauge"], family: Family[Counter] | Family[Level]) -> NumberFamily:
    samples = tuple((labels, member.value) for labels, member in family.members.items())
    return NumberFamily(family.name, family.help, kind, family.label_names, samples)


def _histograms(family: Family[Histogram]) -> HistogramFamily:
    samples = tuple(
        (labels, HistogramValue(histogram.bounds, tuple(histogram.counts), histogram.total))
        for labels, histogram in family.members.items()
    )
    return HistogramFamily(family.name, family.help, family.label_names, samples)


def _read(reading: Reading) -> NumberFamily:
    value = reading.read()
    read: Iterable[tuple[Labels, float]] = value.items() if isinstance(value, Mapping) else [((), value)]
    samples = tuple((labels, float(number)) for labels, number in read)
    for labels, _ in samples:
        if len(labels) != len(reading.label_names):
            raise ValueError(f"{reading.name} has the labels {reading.label_names}, not {labels}")
    return NumberFamily(reading.name, reading.help, reading.kind, reading.label_names, samples)
