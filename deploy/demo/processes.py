"""Programs that are started, waited for and ended together. Standard library only.

One rule: nothing that was started here outlives the block that started it. Programs are asked to stop when the block is
left, for whatever reason; on Linux the kernel asks them if this process is killed.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parents[2]
HOST: Final = "127.0.0.1"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02
PR_SET_PDEATHSIG: Final = 1


class StartError(Exception):
    """The demo cannot be started; the message says why, and what to do."""


def check_port(port: int) -> None:
    """Find out before anything starts whether a port of the loopback interface can be listened on.

    Raises:
        StartError: it cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise StartError(f"port {port} cannot be used: {error}") from error


def free_ports(count: int) -> list[int]:
    """So many different ports of the loopback interface that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def _die_with_parent() -> Callable[[], None] | None:
    """For the child, between fork and exec: SIGTERM when its parent ends, however that happens. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask_kernel


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], settings: Mapping[str, str] | None = None, output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program, until the block is left: then it is asked to end, waited for, and in the end killed.

    Args:
        name: for messages.
        command: the program and its arguments.
        settings: set in its environment, beside what this process has.
        output: takes what it writes; None: it writes where this process does.
    """
    process = subprocess.Popen(  # noqa: S603  # the command is ours
        command,
        cwd=ROOT,
        env={**os.environ, **(settings or {})},
        stdout=output,
        stderr=output and subprocess.STDOUT,
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


def demo_api(port: int) -> list[str]:
    """The command that starts the demo API."""
    return [sys.executable, "-m", "deploy.demo.api", "--host", HOST, "--port", str(port)]


def sidecar() -> list[str]:
    """The command that starts the sidecar that is installed beside this Python, on the example configuration."""
    return [str(Path(sys.executable).with_name("sidecache")), "run", "--config", str(ROOT / "config.toml")]


def sidecar_settings(port: int, admin_port: int, upstream: str, directory: str) -> dict[str, str]:
    """The environment that places the sidecar; `directory` is for what it keeps on disk."""
    return {
        "SIDECACHE_SERVER__LISTEN": f"{HOST}:{port}",
        "SIDECACHE_ADMIN__LISTEN": f"{HOST}:{admin_port}",
        "SIDECACHE_UPSTREAM__URL": upstream,
        "SIDECACHE_CACHE__LMDB_PATH": str(Path(directory, "cache.mdb")),
    }
