"""The processes of the comparison: the origin, the proxies, and what they use of the machine."""

import contextlib
import gzip
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from deploy.demo.processes import HOST, StartError, free_ports, running, wait_until_ready

HERE: Final = Path(__file__).parent
PROXY_CORE: Final = 0
LOAD_CORE: Final = 1
OPEN_FILES: Final = 20_000
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
DEFAULT_ORDER: Final = ("latency", "compression", "cache", "cache_control", "circuit_breaker")
LIMITED_ORDER: Final = ("latency", "access_log", "rate_limit", *DEFAULT_ORDER[1:])
KINDS: Final = (
    "sidecache",
    "sidecache-limited",
    "sidecache-bare",
    "sidecache-redis",
    "sidecache-lmdb",
    "nginx",
    "haproxy",
    "varnish",
)


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that answers."""

    kind: str
    pid: int
    port: int


def pinned(core: int, command: list[str]) -> list[str]:
    """The command, kept on one core where the machine has more than one."""
    return ["taskset", "--cpu-list", str(core), *command] if (os.cpu_count() or 1) > 1 else command


def program(name: str) -> str:
    """Where a program is; Debian's servers are in /usr/sbin, which a user's PATH may lack.

    Raises:
        StartError: it is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise StartError(f"{name} is not installed: .ci/setup compare installs it")
    return found


def tree(pid: int) -> list[int]:
    """A process and its descendants, as far as they still run."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name, in parentheses, may hold spaces: the fields are counted from its end.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its descendants have used, in user and kernel mode."""
    ticks = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def pss_bytes(pid: int) -> int:
    """Memory of a process and its descendants, what they share counted once."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def write_template(name: str, directory: Path, port: int, origin: int) -> Path:
    """Fill in a configuration of peers/; the file's path."""
    text = (HERE / "peers" / name).read_text(encoding="utf-8")
    target = directory / name
    target.write_text(text.format(directory=directory, port=port, origin=origin, files=OPEN_FILES), encoding="utf-8")
    return target


@contextlib.contextmanager
def started(name: str, command: list[str], core: int, directory: Path, url: str) -> Iterator[int]:
    """A program on a core until the block is left, once `url` answers 200; its process id.

    Raises:
        StartError: it does not start; the message has the end of what it wrote.
    """
    log = directory / f"{name}.out"
    with log.open("wb") as output, running(name, pinned(core, command), output=output) as process:
        try:
            wait_until_ready(name, process, url, threading.Event())
        except StartError as error:
            raise StartError(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from error
        yield process.pid


@contextlib.contextmanager
def origin(directory: Path) -> Iterator[int]:
    """The origin on the load core; its port."""
    [port] = free_ports(1)
    files = directory / "files"
    files.mkdir()
    for name, size in (("1k", 1024), ("16k", 16384), ("128k", 131072)):
        (files / name).write_bytes(b"x" * size)
    with (files / "100m").open("wb") as large:
        large.truncate(100 << 20)
    text = b"".join(b"line %d of a text that compresses as texts do\n" % number for number in range(350))[:16384]
    (files / "16k.txt").write_bytes(text)
    (files / "16k.txt.gz").write_bytes(gzip.compress(text, mtime=0))
    config = write_template("origin.conf", directory, port, 0)
    command = [program("nginx"), "-p", str(directory), "-c", str(config)]
    with started("origin", command, LOAD_CORE, directory, f"http://{HOST}:{port}/origin-status"):
        yield port


def sidecache_config(kind: str, directory: Path, port: int, admin_port: int, upstream: int, redis: int) -> str:
    """The configuration of a Sidecache: the defaults of config.toml, without limiter and access log."""
    order = {"sidecache-limited": LIMITED_ORDER, "sidecache-bare": DEFAULT_ORDER[1:]}.get(kind, DEFAULT_ORDER)
    cache = [f'lmdb_path = "{directory / kind}.mdb"']
    if kind in {"sidecache-redis", "sidecache-lmdb"}:
        # Far less than the scenario's 5,000 keys take, read in turn: each is gone from L1 before it is asked for again.
        cache += ['l1_max_bytes = "1MiB"']
        cache += [f'redis_url = "redis://{HOST}:{redis}/0"'] if kind == "sidecache-redis" else ['l2 = "lmdb"']
    lines = [f'[server]\nlisten = "{HOST}:{port}"', f'[admin]\nlisten = "{HOST}:{admin_port}"']
    lines += [f'[upstream]\nurl = "http://{HOST}:{upstream}"', "[cache]", *cache]
    lines += [f"[pipeline]\norder = {orjson.dumps(order).decode()}"]
    if kind == "sidecache-limited":  # a rule that counts, and never says no
        lines += ['[[plugins.rate_limit.rules]]\nname = "all"\nrate = 1000000\nperiod_seconds = 1\nkey = "address"']
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """A Redis of its own on the load core, as it is another machine's work in a fleet; its port."""
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
def proxy(kind: str, directory: Path, upstream: int) -> Iterator[Running]:
    """A proxy of a kind on the proxies' core, with an empty cache.

    Raises:
        StartError: it does not start.
    """
    port, admin_port = free_ports(2)
    ready = f"http://{HOST}:{port}/miss/1k/ready"
    with contextlib.ExitStack() as stack:
        if kind.startswith("sidecache"):
            redis = stack.enter_context(redis_server(directory)) if kind == "sidecache-redis" else 0
            config = directory / f"{kind}.toml"
            config.write_text(sidecache_config(kind, directory, port, admin_port, upstream, redis), encoding="utf-8")
            command = [str(Path(sys.executable).with_name("sidecache")), "run", "--config", str(config)]
            ready = f"http://{HOST}:{admin_port}/ready"
        elif kind == "nginx":
            config = write_template("nginx.conf", directory, port, upstream)
            command = [program("nginx"), "-p", str(directory), "-c", str(config)]
        elif kind == "haproxy":
            config = write_template("haproxy.cfg", directory, port, upstream)
            command = [program("haproxy"), "-db", "-f", str(config)]
        else:
            config = write_template("varnish.vcl", directory, port, upstream)
            # In the foreground, without a management port; in memory, bounded; one pool of threads for one core.
            command = [program("varnishd"), "-F", "-f", str(config), "-a", f"{HOST}:{port}", "-T", "none"]
            command += ["-n", str(directory / "varnish"), "-s", "malloc,256m", "-p", "thread_pools=1"]
            command += ["-p", "listen_depth=4096", "-p", "timeout_idle=3600", "-j", "none"]
        pid = stack.enter_context(started(kind, command, PROXY_CORE, directory, ready))
        yield Running(kind, pid, port)
