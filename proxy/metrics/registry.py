"""Counters, gauges and histograms as plain ints and floats: an increment on the hot path is one attribute addition.

`proxy.metrics.exposition` reads them when scraped. Everything runs on the event loop's thread; nothing is locked.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

LATENCY_BUCKETS: Final[tuple[float, ...]] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds in seconds, from a memory hit to a slow origin."""

Labels: TypeAlias = tuple[str, ...]


class Counter:
    """A number that grows. Hold the object and write `counter.value += 1`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """Observations in buckets; `counts[i]` is the number at most `bounds[i]` and above the bound before, the last is +Inf."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many observations there are."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The value below which `share` (0 to 1) of the observations lie, interpolated within its bucket; 0 when empty."""
        count = self.count
        if not count:
            return 0.0
        rank = share * count
        below = 0
        lower = 0.0
        for bound, inside in zip(self.bounds, self.counts, strict=False):
            if inside and below + inside >= rank:
                return lower + (bound - lower) * (rank - below) / inside
            below += inside
            lower = bound
        return lower


M = TypeVar("M", Counter, Histogram)


class Family(Generic[M]):
    """All metrics of one name, one for each combination of label values."""

    __slots__ = ("_make", "help", "kind", "label_names", "members", "name")

    def __init__(self, name: str, help_text: str, kind: str, label_names: Labels, make: Callable[[], M]) -> None:
        self.name = name
        self.help = help_text
        self.kind = kind
        self.label_names = label_names
        self.members: dict[Labels, M] = {}
        self._make: Callable[[], M] = make

    def labels(self, *values: str) -> M:
        """The metric for these label values, made on first use. Values must come from a bounded set."""
        member = self.members.get(values)
        if member is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, not {values}")
            member = self.members[values] = self._make()
        return member


GaugeReader: TypeAlias = Callable[[], float | Mapping[Labels, float]]


class Gauge:
    """A value read when scraped: one number, or one for each combination of label values."""

    __slots__ = ("help", "label_names", "name", "read")

    def __init__(self, name: str, help_text: str, label_names: Labels, read: GaugeReader) -> None:
        self.name = name
        self.help = help_text
        self.label_names = label_names
        self.read = read

    def samples(self) -> Iterable[tuple[Labels, float]]:
        """Label values and value of each sample."""
        value = self.read()
        return value.items() if isinstance(value, Mapping) else [((), value)]


class Registry:
    """Every metric of the process. Asking twice for a name gives the same family."""

    def __init__(self) -> None:
        self._counters: dict[str, Family[Counter]] = {}
        self._histograms: dict[str, Family[Histogram]] = {}
        self._gauges: dict[str, Gauge] = {}

    def counter(self, name: str, help_text: str, labels: Labels = ()) -> Family[Counter]:
        """A family of counters. `name` is without the `_total` suffix, which the exposition adds."""
        family = self._counters.get(name)
        if family is None:
            family = self._counters[name] = Family(name, help_text, "counter", labels, Counter)
        return family

    def histogram(
        self, name: str, help_text: str, labels: Labels = (), bounds: Sequence[float] = LATENCY_BUCKETS
    ) -> Family[Histogram]:
        """A family of histograms."""
        family = self._histograms.get(name)
        if family is None:
            family = self._histograms[name] = Family(name, help_text, "histogram", labels, lambda: Histogram(bounds))
        return family

    def gauge(self, name: str, help_text: str, read: GaugeReader, labels: Labels = ()) -> None:
        """A value read when scraped; the last reader given for a name is the one that is asked."""
        self._gauges[name] = Gauge(name, help_text, labels, read)

    def families(self) -> Iterator[Family[Counter] | Family[Histogram]]:
        """Counters and histograms, in the order in which they were made."""
        yield from self._counters.values()
        yield from self._histograms.values()

    def gauges(self) -> Iterator[Gauge]:
        """Gauges, in the order in which they were made."""
        yield from self._gauges.values()
