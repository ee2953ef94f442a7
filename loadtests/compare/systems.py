"""The processes of the comparison: the origin, the proxies, and how they are started, found dead, and started again."""

import contextlib
import gzip
import os
import random
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploy.demo.processes import HOST, StartError, free_ports, running, wait_until_ready
from loadtests.compare.kinds import KINDS, LOAD_CORE, Kind, sidecache_config, write_template

LARGE_BYTES: Final = 100 << 20
_STARTS: Final = 2  # a free port may be taken by another program before ours listens on it


@dataclass(frozen=True, slots=True)
class Running:
    """A system that answers.

    Attributes:
        admin_port: of a Sidecache; 0: it has none.
        directory: its own, for configuration, log and cache.
    """

    kind: str
    pid: int
    port: int
    admin_port: int
    directory: Path

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"


def pinned(cores: str, command: list[str]) -> list[str]:
    """The command, kept on some cores."""
    return ["taskset", "--cpu-list", cores, *command]


def program(name: str) -> str:
    """Where a program is; Debian's servers are in /usr/sbin, which a user's PATH may lack.

    Raises:
        StartError: it is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise StartError(f"{name} is not installed: .ci/setup compare installs it")
    return found


@contextlib.contextmanager
def started(kind: Kind, command: list[str], directory: Path, url: str) -> Iterator[int]:
    """A program on its cores until the block is left, once `url` answers 200; its process id.

    Raises:
        StartError: it does not start; the message has the end of what it wrote.
    """
    log = directory / "output"
    with log.open("wb") as output, running(kind.name, pinned(kind.cores, command), output=output) as process:
        try:
            wait_until_ready(kind.name, process, url, threading.Event())
        except StartError as error:
            raise StartError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from error
        yield process.pid


def write_files(directory: Path) -> None:
    """What the origin serves: text that no two places of are alike, so that a mixed-up body is seen."""
    directory.mkdir()
    source = random.Random(1)
    for name, size in (("1k", 1024), ("16k", 16384), ("128k", 131072)):
        (directory / name).write_bytes(source.randbytes(size // 2).hex().encode())
    block = source.randbytes(1 << 20)
    with (directory / "100m").open("wb") as large:
        for number in range(LARGE_BYTES // len(block)):
            large.write(number.to_bytes(4, "big") + block[4:])
    text = b"".join(b"line %d of a text that compresses as texts do\n" % number for number in range(350))
    (directory / "16k.txt").write_bytes(text)
    (directory / "16k.txt.gz").write_bytes(gzip.compress(text, mtime=0))


@contextlib.contextmanager
def origin(directory: Path) -> Iterator[Running]:
    """The origin on the load core; its files are in `directory`/files.

    Raises:
        StartError: it does not start.
    """
    [port] = free_ports(1)
    write_files(directory / "files")
    config = write_template("origin.conf", directory, port=port, origin=0, cache_mb=0)
    command = [program("nginx"), "-p", str(directory), "-c", str(config)]
    kind = KINDS["origin"]
    with started(kind, command, directory, f"http://{HOST}:{port}/origin-status") as pid:
        yield Running(kind.name, pid, port, 0, directory)


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """A Redis of its own on the load core, as it is another machine's work in a fleet; its port.

    It is no child of the proxy, so its processor time is not counted as the proxy's.
    """
    [port] = free_ports(1)
    command = [program("redis-server"), "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(directory)]
    with (directory / "redis.out").open("wb") as output, running("redis", pinned(LOAD_CORE, command), output=output):
        wait_until_listening(port)
        yield port


def wait_until_listening(port: int) -> None:
    """Wait until a connection is taken.

    Raises:
        StartError: none is within five seconds.
    """
    deadline = time.monotonic() + 5
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return
        if time.monotonic() > deadline:
            raise StartError(f"nobody listens on port {port}")
        time.sleep(0.02)


@contextlib.contextmanager
def proxy(kind: Kind, directory: Path, upstream: int) -> Iterator[Running]:
    """A proxy with an empty cache.

    Raises:
        StartError: it does not start.
    """
    port, admin_port = free_ports(2)
    ready = f"http://{HOST}:{port}/miss/1k/ready"
    with contextlib.ExitStack() as stack:
        if kind.family == "sidecache":
            redis_port = stack.enter_context(redis_server(directory)) if kind.redis else 0
            config = directory / "config.toml"
            config.write_text(sidecache_config(kind, directory, port, admin_port, upstream, redis_port), "utf-8")
            command = [str(Path(sys.executable).with_name("sidecache")), "run", "--config", str(config)]
            ready = f"http://{HOST}:{admin_port}/ready"
        elif kind.family == "nginx":
            config = write_template("nginx.conf", directory, port=port, origin=upstream, cache_mb=kind.cache_mb)
            command = [program("nginx"), "-p", str(directory), "-c", str(config)]
        elif kind.family == "haproxy":
            config = write_template("haproxy.cfg", directory, port=port, origin=upstream, cache_mb=kind.cache_mb)
            command = [program("haproxy"), "-db", "-f", str(config)]
        else:
            config = write_template("varnish.vcl", directory, port=port, origin=upstream, cache_mb=0)
            # In the foreground, without a management port; in memory, bounded; one pool of threads for one core.
            command = [program("varnishd"), "-F", "-f", str(config), "-a", f"{HOST}:{port}", "-T", "none"]
            command += ["-n", str(directory / "work"), "-s", f"malloc,{kind.cache_mb}m", "-p", "thread_pools=1"]
            command += ["-p", "listen_depth=4096", "-p", "timeout_idle=3600", "-j", "none"]
        pid = stack.enter_context(started(kind, command, directory, ready))
        yield Running(kind.name, pid, port, admin_port if kind.family == "sidecache" else 0, directory)


class Stage:
    """An origin, and the systems in front of it, each started when it is first asked for. A context manager.

    Args:
        directory: for all their files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._proxies: dict[str, tuple[Running, contextlib.ExitStack]] = {}
        self._starts = 0
        self.origin: Running

    def __enter__(self) -> Self:
        place = self._directory / "origin"
        place.mkdir()
        self.origin = self._stack.enter_context(origin(place))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.keep_only(())
        finally:
            self._stack.close()

    def get(self, name: str) -> Running:
        """The system of a kind, started now if it does not run, with an empty cache then.

        Raises:
            StartError: it does not start.
        """
        if name == "origin":
            return self.origin
        if name in self._proxies:
            if self._proxies[name][0].alive:
                return self._proxies[name][0]
            self.stop(name)
        for attempt in range(_STARTS):
            stack = contextlib.ExitStack()
            self._starts += 1
            place = self._directory / f"{name}-{self._starts}"
            place.mkdir()
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            try:
                running_one = stack.enter_context(proxy(KINDS[name], place, self.origin.port))
            except BaseException as error:
                stack.close()
                if not isinstance(error, StartError) or attempt + 1 == _STARTS:
                    raise
            else:
                self._proxies[name] = (running_one, stack)
                return running_one
        raise AssertionError

    def stop(self, name: str) -> None:
        """End a system, if it runs, and delete its files."""
        found = self._proxies.pop(name, None)
        if found is not None:
            found[1].close()

    def keep_only(self, names: tuple[str, ...]) -> None:
        """End every system but these."""
        with contextlib.ExitStack() as stack:  # one that cannot be ended keeps no other from it
            for name in tuple(self._proxies):
                if name not in names:
                    stack.callback(self.stop, name)
