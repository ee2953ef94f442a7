"""The comparison's results for readers and for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import orjson

from loadtests.compare.kinds import KINDS, SMALL_MB
from loadtests.compare.memory import CEILINGS, MemoryOutcome
from loadtests.compare.table import (
    HEADINGS,
    MEMORY_HEADINGS,
    Outcome,
    Verdict,
    cells,
    memory_cells,
    memory_verdict,
    remarks,
    verdict,
)

_HOW: Final = f"""\
Written by `make compare`; the configurations are in `loadtests/compare`.

On the loopback interface, all systems of a table in turn, round after round. Proxies run on one core; wrk, with one
thread and 64 connections where nothing else is said, and the origin, an nginx with files in memory, run on the other.
Answers are compared with the origin's files byte for byte before and after each scenario, and the origin's count of
requests shows that hits were hits and misses were misses. A ratio is the first system's figure over the row's, taken
within each round, of which the median is shown; the other figures are medians too. Systems that no floor is about take
part in each third round. CPU is the proxy's own, its children included; what Redis takes is not in it. Where it did not
fill its core, something else set the pace: the load generator, or the origin. PSS is memory, what processes share
counted once.

- **Sidecache**: one worker, the plugins latency, compression, cache, cache_control and circuit_breaker, and what
  `config.toml` sets; `sidecache-limited` has access_log and rate_limit beside them, `sidecache-bare` no latency. With
  `sidecache-redis` and `sidecache-lmdb` nothing fits into L1, so each answer is the second tier's.
- **nginx**: one worker, its cache in memory (tmpfs), `sendfile`, `open_file_cache`, `proxy_cache_lock`, connections to
  the origin kept, no access log. What is never stored does not pass its cache lock, which would let one request of
  a resource through at a time.
- **HAProxy**: one thread, connections to the origin kept, a cache of {KINDS["haproxy"].cache_mb} MB, which it takes at
  the start, no log. The Content-Length that it puts into a 304 is taken out, because wrk waits for that many bytes.
- **Varnish**: storage in memory, one pool of threads, its built-in rules. It writes its log to shared memory, as it
  always does.
- Kinds called **small** have {SMALL_MB} MB each, so that each new key evicts another.

A floor is what Sidecache sets out to reach."""


@dataclass(slots=True)
class Results:
    """All that is known so far.

    Attributes:
        about: what the figures depend on.
        failures: what went wrong beside single systems, and why.
        left_out: titles of scenarios for which no time was left.
    """

    about: Mapping[str, str]
    outcomes: list[Outcome] = field(default_factory=list)
    memory: MemoryOutcome | None = None
    failures: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def all_failures(self) -> dict[str, str]:
        """What could not be measured, and why, those of single systems among it."""
        found = {
            f"{outcome.scenario.title}: {kind}": reason
            for outcome in self.outcomes
            for kind, reason in outcome.failures.items()
        }
        if self.memory is not None:
            found |= {f"memory: {name}": reason for name, reason in self.memory.failures.items()}
        return found | self.failures | dict.fromkeys(self.left_out, "no time was left")

    def verdicts(self) -> list[tuple[str, Verdict]]:
        """What became of each floor, with what it is about."""
        found = [
            (outcome.scenario.title, verdict(outcome, floor))
            for outcome in self.outcomes
            for floor in outcome.scenario.floors
        ]
        if self.memory is not None:
            found += [("memory", memory_verdict(self.memory, ceiling)) for ceiling in CEILINGS]
        return found


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> list[str]:
    rule = "---:|" if numbers else "---|"
    lines = [f"| {' | '.join(headings)} |", "|---|" + rule * (len(headings) - 1)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def as_markdown(results: Results) -> str:
    """The whole result for readers."""
    lines = ["# Sidecache beside nginx, HAProxy and Varnish", "", _HOW, ""]
    lines += [f"- {name}: {value}" for name, value in results.about.items()]
    lines += ["", "![Throughput over nginx](compare.svg)"]
    if verdicts := results.verdicts():
        met = sum(one.met is True for _, one in verdicts)
        rows = [[title, one.wanted, one.measured, one.word] for title, one in verdicts]
        lines += ["", f"## Floors: {met} of {len(verdicts)} met", ""]
        lines += _table(("scenario", "floor", "measured", "verdict"), rows, numbers=False)
    if failures := results.all_failures():
        lines += ["", "## Not measured", "", *(f"- {name}: {_line(reason)}" for name, reason in failures.items())]
    for outcome in results.outcomes:
        lines += ["", f"## {outcome.scenario.title}", ""]
        lines += _table(HEADINGS, [cells(outcome, kind) for kind in outcome.kinds])
        if said := remarks(outcome):
            lines += ["", *(f"- {_line(text)}" for text in said)]
    if results.memory is not None:
        rows = [memory_cells(name, figures) for name, figures in results.memory.systems.items()]
        lines += ["", "## Memory", "", *_table(MEMORY_HEADINGS, rows), ""]
        lines += ["Megabytes of 10^6 bytes, PSS; the objects with nginx's files, which are in memory too."]
        lines += ["What the kernel takes for connections is not in it."]
    return "\n".join(lines) + "\n"


def as_json(results: Results) -> bytes:
    """The whole result for programs, each round kept."""
    scenarios = {
        outcome.scenario.name: {
            "rounds": [{kind: asdict(sample) for kind, sample in samples.items()} for samples in outcome.rounds],
            "floors": [
                {**asdict(floor), "measured": outcome.ratio(floor), "met": verdict(outcome, floor).met}
                for floor in outcome.scenario.floors
            ],
            "failures": dict(outcome.failures),
        }
        for outcome in results.outcomes
    }
    memory = None
    if results.memory is not None:
        memory = {
            **asdict(results.memory),
            "ceilings": [
                {**asdict(ceiling), "met": memory_verdict(results.memory, ceiling).met} for ceiling in CEILINGS
            ],
        }
    document = {
        "about": dict(results.about),
        "scenarios": scenarios,
        "memory": memory,
        "failures": results.all_failures(),
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
