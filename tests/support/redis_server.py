"""Real redis-server processes for tests, on free ports, ended and cleaned up."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.ports import free_port

START_SECONDS: Final = 20.0


def _binary(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(
            f"these tests need {name}, which is not installed: `apt-get install redis-server` on Debian and Ubuntu, "
            "`brew install redis` on macOS"
        )
    return path


def wait_for_answer(port: int, *, process: "subprocess.Popen[bytes] | None" = None, log: Path | None = None) -> None:
    """Wait until the server on `port` answers PING.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                return
        time.sleep(0.01)
    text = log.read_text(errors="replace") if log is not None and log.exists() else ""
    raise RuntimeError(f"the redis-server on port {port} did not start:\n{text[-2000:]}")


def command(port: int, *words: str) -> str:
    """What redis-cli prints for a command."""
    done = subprocess.run(
        [_binary("redis-cli"), "-p", str(port), *words], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        raise RuntimeError(f"redis-cli {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


class RedisServer:
    """One redis-server. Starts when made; a context manager that ends it.

    Args:
        options: more of redis-server's options, without the dashes before the first.
        sentinel_config: run as a sentinel with these lines of configuration.
    """

    def __init__(self, *options: str, port: int | None = None, sentinel_config: Sequence[str] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sidecache-redis-"))
        self.port = port or free_port()
        self.socket = self.directory / "redis.sock"
        self._options = options
        self._sentinel_config = sentinel_config
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, again after `kill`, on the same port; with nothing in it."""
        log = self.directory / "log"
        base = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--logfile", str(log)]
        if self._sentinel_config:
            config = self.directory / "sentinel.conf"
            config.write_text("\n".join(self._sentinel_config) + "\n")
            words = [_binary("redis-server"), str(config), "--sentinel", *base]
        else:
            words = [_binary("redis-server"), *base, "--save", "", "--appendonly", "no"]
            words += ["--unixsocket", str(self.socket), *self._options]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for_answer(self.port, process=self._process, log=log)

    def command(self, *words: str) -> str:
        """What redis-cli prints for a command."""
        return command(self.port, *words)

    def kill(self) -> None:
        """End at once, as the kernel does when memory runs out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Accepts connections and answers nothing for a while."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End and remove what it wrote. Safe to call twice."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def redis_cluster(masters: int = 3) -> Iterator[list[RedisServer]]:
    """A Redis Cluster of `masters` nodes that covers all slots."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                RedisServer("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", port=free_port(with_bus=True))
            )
            for _ in range(masters)
        ]
        places = [f"127.0.0.1:{node.port}" for node in nodes]
        nodes[0].command("--cluster", "create", *places, "--cluster-yes")
        deadline = time.monotonic() + START_SECONDS
        while not all("cluster_state:ok" in node.command("cluster", "info") for node in nodes):
            if time.monotonic() > deadline:
                raise RuntimeError("the Redis Cluster did not form")
            time.sleep(0.02)
        yield nodes


class SentinelTrio:
    """A master, its replica, and three sentinels that watch them under the name `cache`."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.master = stack.enter_context(RedisServer())
        self.replica = stack.enter_context(
            RedisServer("--replicaof", f"127.0.0.1 {self.master.port}", "--repl-diskless-sync-delay", "0")
        )
        config = [
            f"sentinel monitor cache 127.0.0.1 {self.master.port} 2",
            "sentinel down-after-milliseconds cache 500",
            "sentinel failover-timeout cache 3000",
        ]
        self.sentinels = [stack.enter_context(RedisServer(sentinel_config=config)) for _ in range(3)]
        self._wait("the replica to follow", lambda: "master_link_status:up" in self.replica.command("info"))
        for sentinel in self.sentinels:
            self._wait("the sentinels to know each other", partial(self._has_quorum, sentinel))

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{places}/cache/0"

    @staticmethod
    def _has_quorum(sentinel: RedisServer) -> bool:
        return sentinel.command("sentinel", "ckquorum", "cache").startswith("OK 3")

    @staticmethod
    def _wait(what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited in vain for {what}")
            time.sleep(0.05)


@contextlib.contextmanager
def redis_sentinel() -> Iterator[SentinelTrio]:
    """A server with a replica behind three sentinels."""
    with contextlib.ExitStack() as stack:
        yield SentinelTrio(stack)
