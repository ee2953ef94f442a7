"""What the systems take of the memory: at rest, for each idle connection, and for what they store."""

import contextlib
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from deploy.demo.processes import HOST
from loadtests.compare.figures import ReportError
from loadtests.compare.measure import load, noted, origin_requests, wrk_command
from loadtests.compare.scenarios import Scenario
from loadtests.compare.systems import Running, Stage
from loadtests.compare.usage import disk_bytes, pss_bytes

CONNECTIONS: Final = 10_000
OBJECTS: Final = 100_000
CONNECT_SECONDS: Final = 45
FILL_SECONDS: Final = 120
SYSTEMS: Final = ("sidecache", "nginx", "haproxy", "varnish")
_STORING: Final = {"sidecache": "sidecache-large"}  # where what stores so much is configured otherwise
_POLL_SECONDS: Final = 0.05
_STRAY_SHARE: Final = 0.001
_AT_ONCE: Final = struct.pack("ii", 1, 0)  # close by reset: ten thousand connections leave no TIME_WAIT behind


@dataclass(slots=True)
class Memory:
    """What one system takes, in bytes. None: it was not measured.

    Attributes:
        idle: just started.
        connections: more than idle, for `CONNECTIONS` that each had one answer.
        objects: in all, with `OBJECTS` of 1 KiB stored, files in memory included.
    """

    idle: int | None = None
    connections: int | None = None
    objects: int | None = None


@dataclass(slots=True)
class MemoryOutcome:
    """What each system takes, and what could not be measured, by `system: part`."""

    systems: dict[str, Memory] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the first system may take at most, in megabytes of 10^6 bytes."""

    part: str
    title: str
    megabytes: int


CEILINGS: Final = (
    Ceiling("idle", "idle", 80),
    Ceiling("connections", f"{CONNECTIONS:,} idle connections, more", 150),
    Ceiling("objects", f"{OBJECTS:,} objects of 1 KB, in all", 250),
)


@contextlib.contextmanager
def idle_connections(port: int, path: str, count: int) -> Iterator[None]:
    """So many connections, each of which had an answer and is kept open until the block is left.

    Raises:
        ReportError: one is refused, or they take too long.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    deadline = time.monotonic() + CONNECT_SECONDS
    with contextlib.ExitStack() as stack:
        for number in range(count):
            one = stack.enter_context(socket.create_connection((HOST, port), 5))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            one.sendall(request)
            if not one.recv(65536).startswith(b"HTTP/1.1 200"):
                raise ReportError(f"connection {number:,} was refused")
            if time.monotonic() > deadline:
                raise ReportError(f"{number:,} connections took {CONNECT_SECONDS} s")
        yield


def fill(running: Running, origin_port: int) -> None:
    """Have a system store `OBJECTS` different objects.

    Raises:
        ReportError: it does not get so far, or has not all of them when asked again.
    """
    prefix = "/hit/1k/m"
    keys = Scenario("fill", "", prefix, script="keys.lua", arguments=(prefix, str(OBJECTS)))
    before = origin_requests(origin_port)
    process = subprocess.Popen(
        wrk_command(keys, running.port, {}, FILL_SECONDS, ""), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        polls = 0
        while process.poll() is None:
            polls += 1
            if origin_requests(origin_port) - before - polls >= OBJECTS:
                break
            time.sleep(_POLL_SECONDS)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    stored = origin_requests(origin_port) - before - polls - 1
    if stored < OBJECTS:
        raise ReportError(f"stored {stored:,} of {OBJECTS:,} objects in {FILL_SECONDS} s")


def has_kept(running: Running, origin_port: int) -> None:
    """Ask for what was stored, oldest first: what was evicted is missed at once.

    Raises:
        ReportError: the origin was asked again.
    """
    prefix = "/hit/1k/m"
    keys = Scenario("kept", "", prefix, script="keys.lua", arguments=(prefix, str(OBJECTS)))
    before = origin_requests(origin_port)
    requests = load(keys, running, {}, 1, "").requests
    asked = origin_requests(origin_port) - before - 1
    if asked > requests * _STRAY_SHARE:
        raise ReportError(f"evicted: {asked} of {requests} requests reached the origin again")


def memory(stage: Stage, outcome: MemoryOutcome) -> None:
    """Measure each system into `outcome`, one after another, each time from a fresh start."""
    stage.keep_only(())
    for name in SYSTEMS:
        figures = outcome.systems[name] = Memory()
        with noted(outcome.failures, f"{name}: connections"):
            running = stage.get(name)
            figures.idle = pss_bytes(running.pid)
            with idle_connections(running.port, "/hit/1k/i", CONNECTIONS):
                figures.connections = pss_bytes(running.pid) - figures.idle
        stage.keep_only(())
        with noted(outcome.failures, f"{name}: objects"):
            running = stage.get(_STORING.get(name, name))
            fill(running, stage.origin.port)
            total = pss_bytes(running.pid) + disk_bytes(running.directory / "nginx-cache")
            has_kept(running, stage.origin.port)
            figures.objects = total
        stage.keep_only(())
