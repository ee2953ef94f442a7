"""`make load`: a thousand users against the sidecar on the loopback interface, and a report of what they saw.

Starts the demo API, the sidecar in front of it and locust, each a process of its own, and ends all three. The status
is 0 if every limit holds. `--direct` leaves the sidecar out and judges nothing: it shows what the rest of it costs.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

from deploy.demo.processes import (
    HOST,
    ROOT,
    StartError,
    demo_api,
    free_ports,
    running,
    sidecar,
    sidecar_settings,
    wait_until_ready,
)

RESULTS: Final = ROOT / "loadtests" / "results"
STOP_SECONDS: Final = 15
GRACE_SECONDS: Final = 60.0
OPEN_FILES: Final = 20_000
LOG_LINES_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure that has to stay below a bound, or above it."""

    name: str
    figure: float
    sign: Literal["<", ">"]
    bound: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        return self.figure < self.bound if self.sign == "<" else self.figure > self.bound

    def row(self) -> str:
        """The limit as a row of the report's table."""
        verdict = "holds" if self.holds else "**broken**"
        return f"| {self.name} | {self.figure:g}{self.unit} | {self.sign} {self.bound:g}{self.unit} | {verdict} |"


def limits(figures: dict[str, Any]) -> list[Limit]:
    """The limits that a run through the sidecar is judged by."""
    times = figures["milliseconds"]
    return [
        Limit("requests made", figures["requests"], ">", 0),
        Limit("failures", figures["failures"], "<", 1),
        Limit("hit ratio", round(100 * figures["hit_ratio"], 1), ">", 60, " %"),
        Limit("p95 of cached answers", times["cached"]["p95"], "<", 50, " ms"),
        Limit("p95 of all answers", times["all"]["p95"], "<", 2000, " ms"),
    ]


def as_markdown(figures: dict[str, Any], judged: list[Limit]) -> str:
    """The report for people."""
    kind = "the demo API directly" if figures["direct"] else "Sidecache in front of the demo API"
    lines = [
        f"# Load test of {figures['at']}",
        "",
        f"{figures['users']} users against {kind}, {figures['spawn_rate']:g} more each second,",
        f"{figures['seconds']} s at full load. Python {figures['python']};",
        f"{figures['cores']} cores shared by locust, the demo API and the sidecar.",
        "",
        f"{figures['requests']} requests, {figures['requests_per_second']} a second;",
        f"hit ratio {100 * figures['hit_ratio']:.1f} %; {figures['failures']} failures.",
        "",
    ]
    if judged:
        lines += ["| limit | measured | wanted | |", "|---|---|---|---|", *(limit.row() for limit in judged), ""]
    lines += ["| answers, ms | p50 | p95 | p99 | max |", "|---|---|---|---|---|"]
    for name, times in figures["milliseconds"].items():
        cells = " | ".join(f"{times[share]:.1f}" for share in ("p50", "p95", "p99", "max"))
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    for title, key in (("outcome", "outcomes"), ("status", "statuses"), ("content coding", "content_codings")):
        lines += ["", f"| {title} | requests |", "|---|---|"]
        lines += [f"| {name} | {count} |" for name, count in figures[key].items()]
    if figures["mistakes"]:
        lines += ["", "| failure | how often |", "|---|---|"]
        lines += [f"| {m['method']} {m['name']}: {m['error']} | {m['count']} |" for m in figures["mistakes"]]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def target(directory: Path, stopping: threading.Event, *, direct: bool) -> Iterator[str]:
    """The URL of what is to be loaded, running until the block is left.

    Raises:
        StartError: it does not start.
    """
    api_port, port, admin_port = free_ports(3)
    api = f"http://{HOST}:{api_port}"
    log_path = directory / "sidecar.log"
    with contextlib.ExitStack() as stack:
        api_process = stack.enter_context(running("the demo API", demo_api(api_port)))
        wait_until_ready("the demo API", api_process, f"{api}/health", stopping)
        if direct:
            yield api
            return
        log = stack.enter_context(log_path.open("wb"))  # one line a request: kept off the terminal
        settings = sidecar_settings(port, admin_port, api, str(directory))
        process = stack.enter_context(running("Sidecache", sidecar(), settings, output=log))
        try:
            wait_until_ready("Sidecache", process, f"http://{HOST}:{admin_port}/ready", stopping)
            yield f"http://{HOST}:{port}"
        except StartError:
            print(*log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:], sep="\n", file=sys.stderr)
            raise


def run_locust(url: str, options: argparse.Namespace, tally: Path, stopping: threading.Event) -> dict[str, Any]:
    """Let the users come, stay and go; what they saw.

    Raises:
        StartError: locust did not run to its end.
    """
    spawning = options.users / options.spawn_rate
    seconds = spawning + options.seconds
    command = [sys.executable, "-m", "locust", "--locustfile", str(ROOT / "loadtests" / "locustfile.py")]
    command += ["--headless", "--only-summary", "--users", str(options.users), "--spawn-rate", str(options.spawn_rate)]
    command += ["--run-time", f"{int(seconds)}s", "--stop-timeout", str(STOP_SECONDS), "--host", url]
    command += ["--tally", str(tally)]
    with running("locust", command) as process:
        deadline = seconds + STOP_SECONDS + GRACE_SECONDS
        while process.poll() is None and deadline > 0 and not stopping.wait(0.2):
            deadline -= 0.2
        if stopping.is_set() or process.poll() is None:
            raise StartError("stopped" if stopping.is_set() else "locust did not come to its end")
    if not tally.exists():
        raise StartError(f"locust ended with status {process.returncode} and left no figures")
    figures: dict[str, Any] = json.loads(tally.read_text(encoding="utf-8"))
    return figures


def measure(options: argparse.Namespace, stopping: threading.Event) -> list[Limit]:
    """Run the test, print and store its report; the limits it was judged by.

    Raises:
        StartError: a part of it did not run.
    """
    with tempfile.TemporaryDirectory(prefix="sidecache-load-") as directory:
        place = Path(directory)
        with target(place, stopping, direct=options.direct) as url:
            measured = run_locust(url, options, place / "tally.json", stopping)
    at = datetime.now(UTC)
    figures = {
        "at": at.strftime("%Y-%m-%d %H:%M UTC"),
        "direct": options.direct,
        "users": options.users,
        "spawn_rate": options.spawn_rate,
        "seconds": options.seconds,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        **measured,
    }
    judged = [] if options.direct else limits(figures)
    report = as_markdown(figures, judged)
    options.results.mkdir(parents=True, exist_ok=True)
    stem = options.results / f"load-{at:%Y%m%dT%H%M%SZ}{'-direct' if options.direct else ''}"
    stem.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(report, encoding="utf-8")
    print(f"\n{report}\nstored as {os.path.relpath(stem)}.md and .json")
    return judged


def main() -> int:
    parser = argparse.ArgumentParser(description="A load test of the sidecar on the loopback interface.")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--spawn-rate", type=float, default=50, help="users that arrive each second")
    parser.add_argument("--seconds", type=int, default=60, help="time at full load")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory for the reports")
    parser.add_argument("--direct", action="store_true", help="load the demo API itself, for comparison")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))  # a thousand users are a thousand sockets on either side
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        judged = measure(options, stopping)
    except (StartError, subprocess.SubprocessError) as error:
        print(f"make load: {error}", file=sys.stderr)
        return 1
    return 0 if all(limit.holds for limit in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
