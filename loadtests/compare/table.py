"""The comparison's result as text, as Markdown, as JSON and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Final

import orjson

from loadtests.compare.figures import Floor, Sample, ratio
from loadtests.compare.scenarios import Scenario

MIB: Final = 1 << 20
_METRICS: Final = {"rate": "requests/s", "bytes_rate": "bytes/s", "p50_ms": "p50", "p99_ms": "p99"}
_BAR_PIXELS: Final = 220  # of a ratio of 1
_MOST_SHOWN: Final = 2.0
_ROW_PIXELS: Final = 26


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario, the medians of each system, and the rounds they are from."""

    scenario: Scenario
    middles: Mapping[str, Sample]
    rounds: tuple[Mapping[str, Sample], ...]

    @property
    def subject(self) -> str:
        return self.scenario.systems[0]

    def ratio(self, floor: Floor) -> float | None:
        """The measured ratio that a floor is about; None: one of the two did not run."""
        if self.subject not in self.middles or floor.against not in self.middles:
            return None
        return ratio(self.rounds, self.subject, floor.against, floor.metric)


def _verdict(outcome: Outcome, floor: Floor) -> str:
    sign = "at most" if floor.at_most else "at least"
    wanted = f"{_METRICS[floor.metric]} {sign} {floor.ratio:g} times {floor.against}"
    measured = outcome.ratio(floor)
    if measured is None:
        return f"{wanted}: not measured"
    return f"{wanted}: {measured:.2f}, {'met' if floor.met(measured) else 'NOT MET'}"


def _cells(outcome: Outcome, kind: str, sample: Sample) -> list[str]:
    floor = Floor(kind, 0, outcome.scenario.metric)
    compared = outcome.ratio(floor) if kind != outcome.subject else None
    return [
        kind,
        f"{sample.load.rate:,.0f}",
        f"{sample.load.bytes_rate / MIB:,.0f}",
        "" if compared is None else f"{compared:.2f}",
        f"{sample.load.p50_ms:.2f}",
        f"{sample.load.p99_ms:.2f}",
        f"{sample.cpu_us:,.1f}",
        f"{sample.pss_bytes / MIB:,.0f}",
    ]


_HEADINGS: Final = ("system", "requests/s", "MiB/s", "ratio", "p50 ms", "p99 ms", "CPU µs/request", "PSS MiB")


def judged(outcome: Outcome) -> str:
    """A scenario for the terminal. A ratio is the first system's figure over that of the row's."""
    rows = [list(_HEADINGS), *(_cells(outcome, kind, sample) for kind, sample in outcome.middles.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [f"{outcome.scenario.title} ({outcome.scenario.name})"]
    lines += ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines += [f"  {_verdict(outcome, floor)}" for floor in outcome.scenario.floors]
    return "\n".join(lines) + "\n"


def as_markdown(outcomes: Sequence[Outcome], about: Mapping[str, str]) -> str:
    """The whole result for readers."""
    lines = ["# Sidecache beside nginx, HAProxy and Varnish", ""]
    lines += ["Written by `make compare`. Ratio: Sidecache's figure over the row's, the median over rounds.", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    for outcome in outcomes:
        lines += ["", f"## {outcome.scenario.title}", "", f"| {' | '.join(_HEADINGS)} |"]
        lines += ["|---|" + "---:|" * (len(_HEADINGS) - 1)]
        lines += [f"| {' | '.join(_cells(outcome, kind, sample))} |" for kind, sample in outcome.middles.items()]
        if outcome.scenario.floors:
            lines += ["", *(f"- {_verdict(outcome, floor)}" for floor in outcome.scenario.floors)]
    return "\n".join(lines) + "\n"


def as_json(outcomes: Sequence[Outcome], about: Mapping[str, str]) -> bytes:
    """The whole result for programs, each round kept."""
    scenarios = {
        outcome.scenario.name: {
            "rounds": [{kind: asdict(sample) for kind, sample in samples.items()} for samples in outcome.rounds],
            "floors": [{**asdict(floor), "measured": outcome.ratio(floor)} for floor in outcome.scenario.floors],
        }
        for outcome in outcomes
    }
    return orjson.dumps({"about": dict(about), "scenarios": scenarios}, option=orjson.OPT_INDENT_2) + b"\n"


def as_svg(outcomes: Sequence[Outcome], about: Mapping[str, str]) -> str:
    """Bars: the throughput of each scenario over nginx's, with a line where they are equal."""
    bars = []
    for outcome in outcomes:
        if outcome.scenario.metric in {"rate", "bytes_rate"}:
            measured = outcome.ratio(Floor("nginx", 0, outcome.scenario.metric))
            if measured is not None:
                bars.append((outcome.scenario.title, measured))
    left, top = 250, 44
    height = top + len(bars) * _ROW_PIXELS + 34
    line = left + _BAR_PIXELS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif" font-size="13">',
        # Greys and a blue that stand out from white and from black alike; the ground is the page's.
        "<style>text{fill:#57606a}.b{fill:#2f81f7}.l{stroke:#8b949e;stroke-dasharray:4 3}",
        "@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}</style>",
        '<text x="8" y="20" font-weight="bold">Throughput over nginx, one core (1 = as fast as nginx)</text>',
    ]
    for number, (title, measured) in enumerate(bars):
        y = top + number * _ROW_PIXELS
        width = min(measured, _MOST_SHOWN) * _BAR_PIXELS
        parts.append(f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(title)}</text>')
        parts.append(f'<rect class="b" x="{left}" y="{y}" width="{width:.0f}" height="18" rx="2"/>')
        parts.append(f'<text x="{max(left + width, line if width > _BAR_PIXELS - 40 else 0) + 6:.0f}" y="{y + 14}">')
        parts.append(f"{measured:.2f}</text>")
    parts.append(f'<line class="l" x1="{line}" x2="{line}" y1="{top - 8}" y2="{height - 30}"/>')
    parts.append(
        f'<text x="8" y="{height - 10}" font-size="11">{escape(about["at"])}, {escape(about["processor"])}</text>'
    )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
