"""`make compare`: Sidecache beside nginx, HAProxy and Varnish on the loopback interface.

All systems of a scenario run at once, and are loaded in turn, round after round; ratios are taken within a round, and
their medians are reported. What a system answers is checked before it is loaded, and the origin's own count tells
afterwards whether hits were hits.

It runs unattended: every wait has an end, a system that fails is marked as failed and started afresh for the next
scenario, and what is known so far is written after each. The status is 0 if everything could be measured, whether or
not the floors are met; 1 if not.
"""

import argparse
import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Final

from deploy.demo.processes import ROOT, StartError
from loadtests.compare.figures import Sample
from loadtests.compare.kinds import KINDS, OPEN_FILES
from loadtests.compare.measure import check, noted, sample, warm
from loadtests.compare.memory import MemoryOutcome, memory
from loadtests.compare.picture import as_svg
from loadtests.compare.report import Results, as_json, as_markdown
from loadtests.compare.scenarios import SCENARIOS, Scenario
from loadtests.compare.systems import Stage, program
from loadtests.compare.table import Outcome, judged, memory_judged

MEMORY: Final = "memory"
LIMIT_SECONDS: Final = 890
MEMORY_SECONDS: Final = 230
"""Kept free of scenarios for measuring the memory."""
_MOST_SHARES: Final = 2
"""How many times its share of the time that is left a scenario may take before it begins no more rounds."""
_SHOWN_EVERY: Final = 3
"""One round in so many is for all systems, the others are for those alone that floors are about: their ratios are to be
known best. A machine that others share is now slow, now fast: many short rounds make better medians than few long ones.
"""
_VERSION: Final = re.compile(r"\d+(\.\d+)+[\w.+~-]*")
_LAST_SECONDS: Final = 40
"""For ending everything after the limit, before this process ends itself, and the kernel its children."""


class TimeIsUp(BaseException):  # an order to end, as KeyboardInterrupt is
    """The whole takes too long. No Exception: what a system does wrong is passed over, this is not."""


def expected(scenario: Scenario, stage: Stage) -> bytes:
    """What the body is to be."""
    return (stage.origin.directory / "files" / scenario.file).read_bytes() if scenario.file else scenario.content


def sampled(scenario: Scenario, stage: Stage, kind: str, headers: dict[str, str], seconds: int, run: str) -> Sample:
    """A sample, the second if the first fails: one run may be spoilt on a shared machine, two are no accident."""
    with contextlib.suppress(Exception):
        return sample(scenario, stage.get(kind), stage.origin.port, headers, seconds, f"{run}-first")
    return sample(scenario, stage.get(kind), stage.origin.port, headers, seconds, f"{run}-second")


def compare(
    scenario: Scenario, stage: Stage, kinds: Sequence[str], rounds: int, seconds: int, deadline: float
) -> Outcome:
    """Measure one scenario.

    Args:
        deadline: of the monotonic clock; no round begins after it.
    """
    failures: dict[str, str] = {}
    headers: dict[str, dict[str, str]] = {}
    stage.keep_only(tuple(kinds))
    content = expected(scenario, stage)
    for kind in kinds:
        with noted(failures, kind):
            headers[kind] = check(scenario, stage.get(kind), content)
            warm(scenario, stage.get(kind), stage.origin.port, headers[kind])
    measured: list[dict[str, Sample]] = []
    for number in range(rounds):
        if time.monotonic() > deadline:
            break
        chosen = [kind for kind in kinds if number % _SHOWN_EVERY == 0 or kind in scenario.judged]
        samples: dict[str, Sample] = {}
        # The other way round each time: who comes first has no advantage.
        for kind in chosen if number % 2 == 0 else chosen[::-1]:
            if kind not in failures:
                with noted(failures, kind):
                    samples[kind] = sampled(scenario, stage, kind, headers[kind], seconds, f"round{number}")
        if samples:
            measured.append(samples)
    for kind in kinds:
        if kind not in failures:
            with noted(failures, kind):  # and still the right bytes
                check(scenario, stage.get(kind), content)
    for kind in failures:
        stage.stop(kind)
    return Outcome(scenario, tuple(kinds), tuple(measured), failures)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory in memory where the machine has one: nginx's cache is then as far from the disk as the others'."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="sidecache-compare-", dir=shared if shared.is_dir() else None, ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def version(command: list[str]) -> str:
    """What a program says of its version, or why it says nothing."""
    try:
        done = subprocess.run(
            [program(command[0]), *command[1:]], capture_output=True, text=True, check=False, timeout=10
        )
    except (StartError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "unknown"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    virtual = any(line.startswith("flags") and " hypervisor" in line for line in lines)
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": model[0] if model else "unknown",
        "cores": f"{len(os.sched_getaffinity(0))}{', virtual' if virtual else ''}",
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "sidecache": f"{metadata.version('sidecache')}, Python {sys.version.split()[0]}",
        "nginx": version(["nginx", "-v"]),
        "haproxy": version(["haproxy", "-v"]),
        "varnish": version(["varnishd", "-V"]),
        "redis": version(["redis-server", "--version"]),
        "wrk": version(["wrk", "-v"]),
    }


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description="Sidecache beside nginx, HAProxy and Varnish.")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=[*names, MEMORY], help="only this; may be repeated")
    parser.add_argument("--system", action="append", choices=list(KINDS), help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=1, help="of each run of wrk")
    parser.add_argument("--limit-seconds", type=int, default=LIMIT_SECONDS, help="for the whole")
    parser.add_argument("--store", type=Path, help="write the result below this directory, though it is a part only")
    return parser.parse_args()


def store(root: Path, results: Results) -> None:
    """Write the result for machines, for readers and for the README, each file at once or not at all."""
    for path, content in (
        ("loadtests/results/compare.json", as_json(results)),
        ("docs/compare.md", as_markdown(results).encode()),
        ("docs/compare.svg", as_svg(results.outcomes, results.about).encode()),
    ):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.new")
        draft.write_bytes(content)
        draft.replace(target)


def raise_limits() -> None:
    """Let this process, and so its children, have as many files open as ten thousand connections need."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def end_by(limit_seconds: int) -> None:
    """Have `TimeIsUp` raised after a time, and KeyboardInterrupt when asked to end; if that hangs, end at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def last(_number: int, _frame: FrameType | None) -> None:
        os._exit(1)  # the kernel then asks the children to end

    def up(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, last)
        signal.alarm(_LAST_SECONDS)
        raise TimeIsUp

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGALRM, up)
    signal.alarm(limit_seconds)


def measure(chosen: argparse.Namespace, results: Results, root: Path | None) -> None:
    """Measure what was chosen into `results`, and write them below `root` after each step."""
    plan = [
        (scenario, kinds)
        for scenario in SCENARIOS
        if (not chosen.scenario or scenario.name in chosen.scenario)
        and (kinds := [kind for kind in scenario.systems if not chosen.system or kind in chosen.system])
    ]
    with_memory = not chosen.system and (not chosen.scenario or MEMORY in chosen.scenario)
    deadline = time.monotonic() + chosen.limit_seconds - (MEMORY_SECONDS if with_memory else 0)
    with directory() as place, Stage(place) as stage:
        for number, (scenario, kinds) in enumerate(plan):
            now = time.monotonic()
            if now > deadline:
                results.left_out.append(scenario.title)
                continue
            # A slow scenario loses rounds before the others lose theirs.
            share = now + _MOST_SHARES * (deadline - now) / (len(plan) - number)
            with noted(results.failures, scenario.title):
                outcome = compare(scenario, stage, kinds, chosen.rounds, chosen.seconds, min(share, deadline))
                results.outcomes.append(outcome)
                print(judged(outcome), flush=True)
            if root is not None:
                store(root, results)
        if with_memory:
            results.memory = MemoryOutcome()
            memory(stage, results.memory)
            print(memory_judged(results.memory), flush=True)
            if root is not None:
                store(root, results)


def main() -> int:
    began = time.monotonic()
    chosen = options()
    raise_limits()
    whole = not (chosen.scenario or chosen.system)
    root = chosen.store or (ROOT if whole else None)
    results = Results({**machine(), "rounds": f"{chosen.rounds} of {chosen.seconds} s"})
    end_by(chosen.limit_seconds)
    try:
        with noted(results.failures, "the run"):
            measure(chosen, results, root)
    except KeyboardInterrupt:
        results.failures["the run"] = "was stopped"
    except TimeIsUp:
        results.failures["the run"] = f"did not end within {chosen.limit_seconds} s"
    finally:
        signal.alarm(_LAST_SECONDS)
        if root is not None:
            store(root, results)
    print(f"took {time.monotonic() - began:.0f} s", file=sys.stderr)
    for name, reason in results.all_failures().items():
        print(f"FAILED: {name}: {reason}", file=sys.stderr)
    return 1 if results.all_failures() else 0


if __name__ == "__main__":
    sys.exit(main())
