"""The comparison's results in words: the cells of a table, what became of a floor, and the terminal's view of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from loadtests.compare.figures import Floor, ReportError, Sample, middle, ratio
from loadtests.compare.memory import CEILINGS, Ceiling, Memory, MemoryOutcome
from loadtests.compare.scenarios import Scenario

MIB: Final = 1 << 20
HEADINGS: Final = ("system", "requests/s", "MiB/s", "ratio", "p50 ms", "p99 ms", "CPU µs/request", "core %", "PSS MiB")
MEMORY_HEADINGS: Final = ("system", *(f"{ceiling.title}, MB" for ceiling in CEILINGS))
_METRICS: Final = {"rate": "requests/s", "bytes_rate": "bytes/s", "p50_ms": "p50", "p99_ms": "p99"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario, the systems it was run on, the rounds, and why systems failed. One that failed has no figures."""

    scenario: Scenario
    kinds: tuple[str, ...]
    rounds: tuple[Mapping[str, Sample], ...]
    failures: Mapping[str, str]

    @property
    def subject(self) -> str:
        """The system that is judged."""
        return self.scenario.systems[0]

    def samples(self, kind: str) -> list[Sample]:
        """What was measured of a system; empty: it failed, or did not run."""
        return [] if kind in self.failures else [samples[kind] for samples in self.rounds if kind in samples]

    def ratio(self, floor: Floor) -> float | None:
        """The measured ratio that a floor is about; None: one of the two has no figures."""
        if not all(self.samples(kind) for kind in {self.subject, floor.against, floor.over or self.subject}):
            return None
        try:
            return ratio(self.rounds, self.subject, floor)
        except ReportError:
            return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a floor. `met` is None where it could not be measured."""

    wanted: str
    measured: str
    met: bool | None

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return "not measured" if self.met is None else "met" if self.met else "NOT MET"

    @override
    def __str__(self) -> str:
        return f"{self.wanted}: {self.measured}, {self.word}" if self.measured else f"{self.wanted}: {self.word}"


def verdict(outcome: Outcome, floor: Floor) -> Verdict:
    """What became of a floor of a scenario."""
    sign = "at most" if floor.at_most else "at least"
    what = _METRICS[floor.metric] + (f" over the {floor.over}'s" if floor.over else "")
    measured = outcome.ratio(floor)
    return Verdict(
        f"{what} {sign} {floor.ratio:g} times {floor.against}",
        "" if measured is None else f"{measured:.2f}",
        None if measured is None else floor.met(measured),
    )


def memory_verdict(outcome: MemoryOutcome, ceiling: Ceiling) -> Verdict:
    """What became of a ceiling of the memory."""
    figures = outcome.systems.get("sidecache", Memory())
    measured: int | None = getattr(figures, ceiling.part)
    return Verdict(
        f"{ceiling.title}, at most {ceiling.megabytes} MB",
        "" if measured is None else f"{measured / 1e6:.0f} MB",
        None if measured is None else measured <= ceiling.megabytes * 1_000_000,
    )


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def cells(outcome: Outcome, kind: str) -> list[str]:
    """The row of a system."""
    samples = outcome.samples(kind)
    if not samples:
        return [kind, "failed" if kind in outcome.failures else "not run", *[""] * (len(HEADINGS) - 2)]
    sample = middle(samples)
    compared = outcome.ratio(Floor(kind, 0, outcome.scenario.metric)) if kind != outcome.subject else None
    return [
        kind,
        _rate(sample.load.rate),
        f"{sample.load.bytes_rate / MIB:,.0f}",
        "" if compared is None else f"{compared:.2f}",
        _milliseconds(sample.load.p50_ms),
        _milliseconds(sample.load.p99_ms),
        f"{sample.cpu_us:,.1f}",
        f"{sample.busy:.0%}".rstrip("%"),
        f"{sample.pss_bytes / MIB:,.0f}",
    ]


def memory_cells(name: str, figures: Memory) -> list[str]:
    """The row of a system's memory, in megabytes of 10^6 bytes."""
    values: list[int | None] = [getattr(figures, ceiling.part) for ceiling in CEILINGS]
    return [name, *("not measured" if value is None else f"{value / 1e6:,.0f}" for value in values)]


def remarks(outcome: Outcome) -> list[str]:
    """What is to be said of a scenario beside its table and floors."""
    lines = [f"{kind} failed: {reason}" for kind, reason in outcome.failures.items()]
    if outcome.scenario.metric == "p50_ms":
        lines.append("the ratio is that of p50: less is better")
    for kind in outcome.kinds:
        samples = outcome.samples(kind)
        share = middle(samples).l2_share if samples else None
        if share is not None:
            lines.append(f"{kind}: {share:.1%} of the requests were answered by its second tier")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def judged(outcome: Outcome) -> str:
    """A scenario for the terminal. A ratio is the first system's figure over that of the row's."""
    lines = [f"{outcome.scenario.title} ({outcome.scenario.name})"]
    lines += _aligned([HEADINGS, *(cells(outcome, kind) for kind in outcome.kinds)])
    lines += [f"  {verdict(outcome, floor)}" for floor in outcome.scenario.floors]
    lines += [f"  {line}" for line in remarks(outcome)]
    return "\n".join(lines) + "\n"


def memory_judged(outcome: MemoryOutcome) -> str:
    """The memory for the terminal."""
    rows = [MEMORY_HEADINGS, *(memory_cells(name, figures) for name, figures in outcome.systems.items())]
    lines = ["memory", *_aligned(rows)]
    lines += [f"  {memory_verdict(outcome, ceiling)}" for ceiling in CEILINGS]
    lines += [f"  {name} failed: {reason}" for name, reason in outcome.failures.items()]
    return "\n".join(lines) + "\n"
