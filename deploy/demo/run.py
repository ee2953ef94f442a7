"""`make run`: the demo API with Sidecache in front, until Ctrl-C.

Standard library only, and one rule: nothing that was started here outlives it. Both programs are asked to stop when
this one is told to, or when either of them ends by itself; on Linux the kernel ends them if this process is killed.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HOST: Final = "127.0.0.1"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05
PR_SET_PDEATHSIG: Final = 1

WHAT_TO_TRY: Final = """
The demo API listens on {api}, Sidecache in front of it on {proxy}, its admin port on {admin}.
Try, in another terminal (X-Origin-Request is the running number of the request that reached the API):

  A miss, then a hit: the number stays, Age grows
    curl -si {proxy}/items/7 | grep -iE '^(HTTP|cache-status|age|x-origin)'
    curl -si {proxy}/items/7 | grep -iE '^(HTTP|cache-status|age|x-origin)'

  A large response as it is, and by brotli (bytes on the wire)
    curl -so /dev/null -w '%{{size_download}}\\n' {proxy}/report
    curl -so /dev/null -w '%{{size_download}}\\n' -H 'Accept-Encoding: br' {proxy}/report

  Not modified: the client's copy is good still
    curl -so /dev/null --etag-save /tmp/etag {proxy}/items/7
    curl -so /dev/null --etag-compare /tmp/etag -w '%{{http_code}}\\n' {proxy}/items/7

  Two seconds of work, done once for all who ask
    curl -so /dev/null -w '%{{time_total}} s\\n' {proxy}/slow
    curl -so /dev/null -w '%{{time_total}} s\\n' {proxy}/slow

  A write ends what was stored for its URL: the next read is a miss
    curl -s -X PUT -d '{{"stock": 3}}' {proxy}/items/7
    curl -si {proxy}/items/7 | grep -iE '^(cache-status|x-origin)'

  Purge everything that carries a tag
    curl -s {admin}/admin/cache/invalidate -H 'Content-Type: application/json' -d '{{"tag": "items"}}'

  What the sidecar knows
    curl -s {admin}/admin/cache/stats
    curl -s {admin}/metrics
    curl -s {admin}/health/detailed

  More to ask for: /items?page=2  /greeting  /stale  /flaky  /fail  /private  /events (curl -N)  / (a browser)

Ctrl-C ends both.
"""


class StartError(Exception):
    """The demo cannot be started; the message says why, and what to do."""


def check_port(port: int, variable: str) -> None:
    """Find out before anything starts whether a port can be listened on.

    Raises:
        StartError: it cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StartError(
                f"port {port} cannot be used ({error.strerror}); choose another: make run {variable}={port + 10_000}"
            ) from error


def _die_with_parent() -> Callable[[], None] | None:
    """For the child, between fork and exec: SIGTERM when its parent ends, however that happens. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask_kernel


@contextlib.contextmanager
def running(name: str, command: Sequence[str], **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program, until the block is left: then it is asked to end, waited for, and in the end killed."""
    process = subprocess.Popen(  # noqa: S603  # the command is ours
        command,
        cwd=ROOT,
        env={**os.environ, **settings},
        process_group=0,  # a Ctrl-C in the terminal reaches this program alone, which ends the others in order
        preexec_fn=_die_with_parent(),  # noqa: PLW1509  # no threads have been started here
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name} did not end within {STOP_SECONDS:.0f} s and is killed", file=sys.stderr)
            process.kill()
            process.wait()


def wait_until_ready(name: str, process: subprocess.Popen[bytes], url: str, stopping: threading.Event) -> None:
    """Wait for 200 from `url`, or for the order to stop.

    Raises:
        StartError: the program ended, or took too long.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # HTTP_PROXY is not for the loopback
    deadline = time.monotonic() + START_SECONDS
    while not stopping.is_set():
        if process.poll() is not None:
            raise StartError(f"{name} ended with status {process.returncode}; what it said is above")
        with contextlib.suppress(OSError), opener.open(url, timeout=2) as response:
            if response.status == 200:
                return
        if time.monotonic() > deadline:
            raise StartError(f"{name} was not ready after {START_SECONDS:.0f} s ({url})")
        stopping.wait(POLL_SECONDS)


def watch(processes: dict[str, subprocess.Popen[bytes]], stopping: threading.Event) -> None:
    """Return when told to stop.

    Raises:
        StartError: one of the programs ended by itself.
    """
    while not stopping.wait(0.2):
        for name, process in processes.items():
            if process.poll() is not None:
                raise StartError(f"{name} ended by itself, with status {process.returncode}")


def demonstrate(options: argparse.Namespace, stopping: threading.Event) -> None:
    """Start both, say what to try, and wait.

    Raises:
        StartError: something could not be started, or did not stay.
    """
    ports = {"PORT": options.port, "ADMIN_PORT": options.admin_port, "DEMO_PORT": options.demo_port}
    if len(set(ports.values())) < len(ports):
        raise StartError(f"the three ports have to differ: {ports}")
    for variable, port in ports.items():
        check_port(port, variable)
    api, proxy, admin = (f"http://{HOST}:{port}" for port in (options.demo_port, options.port, options.admin_port))
    sidecache = Path(sys.executable).with_name("sidecache")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecache-demo-"))
        api_process = stack.enter_context(
            running("the demo API", [sys.executable, "-m", "deploy.demo.api", "--port", str(options.demo_port)])
        )
        wait_until_ready("the demo API", api_process, f"{api}/health", stopping)
        sidecar = stack.enter_context(
            running(
                "Sidecache",
                [str(sidecache), "run", "--config", str(ROOT / "config.toml")],
                SIDECACHE_SERVER__LISTEN=f"{HOST}:{options.port}",
                SIDECACHE_ADMIN__LISTEN=f"{HOST}:{options.admin_port}",
                SIDECACHE_UPSTREAM__URL=api,
                SIDECACHE_CACHE__LMDB_PATH=str(Path(directory, "cache")),
            )
        )
        wait_until_ready("Sidecache", sidecar, f"{admin}/ready", stopping)
        if not stopping.is_set():
            print(WHAT_TO_TRY.format(api=api, proxy=proxy, admin=admin), flush=True)
        watch({"the demo API": api_process, "Sidecache": sidecar}, stopping)


def main() -> int:
    parser = argparse.ArgumentParser(description="The demo API with Sidecache in front.")
    parser.add_argument("--port", type=int, default=8080, help="Sidecache listens here (default: %(default)s)")
    parser.add_argument("--admin-port", type=int, default=9090, help="its admin port (default: %(default)s)")
    parser.add_argument("--demo-port", type=int, default=9000, help="the demo API's port (default: %(default)s)")
    options = parser.parse_args()
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        demonstrate(options, stopping)
    except StartError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
