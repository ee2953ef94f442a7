"""A real sidecar process, before a real upstream, on ports of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from proxy.address import Address
from tests.support.ports import free_port

START_SECONDS = 20.0

LANE_VARIABLE = "SIDECACHE_SERVER__FAST_LANE_MAX_BYTES"
"""The one setting of the environment that every sidecar and listener of the tests heeds: 0 turns the fast lane off."""


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until `condition` holds.

    Raises:
        TimeoutError: it did not within `seconds`.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class SidecarProcess:
    """A running `python -m proxy run`."""

    process: asyncio.subprocess.Process
    port: int
    admin_port: int
    config: Path
    log_lines: list[dict[str, Any]] = field(default_factory=list)
    stderr: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def rss_bytes(self) -> int:
        """Resident memory."""
        return self._status_bytes("VmRSS:")

    def peak_rss_bytes(self) -> int:
        """The most resident memory since `forget_peak`, or since the start."""
        return self._status_bytes("VmHWM:")

    def forget_peak(self) -> None:
        """Begin a new `peak_rss_bytes`."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def open_files(self) -> int:
        """How many file descriptors it holds."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def _status_bytes(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")

    def events(self, event: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        return [line for line in self.log_lines if line.get("event") == event]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self, seconds: float = 15.0) -> int:
        """The exit code, once it has ended."""
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def admin(self, method: str, path: str, document: object = None, **more: Any) -> tuple[int, Any]:
        """Status and JSON answer of an admin call."""
        data = None if document is None else orjson.dumps(document)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.admin_url + path, data=data, headers=headers, **more) as answer,
        ):
            raw = await answer.read()
            return answer.status, orjson.loads(raw) if "json" in answer.content_type else raw.decode()

    async def _read_log(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            try:
                self.log_lines.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                self.log_lines.append({"event": "unreadable", "line": line.decode(errors="replace")})

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.stderr += line


def toml(tables: Mapping[str, Any], upstream: str, port: int, admin_port: int, state: Path) -> str:
    """A configuration: defaults for tests, with `tables` over them, written as TOML inline values."""
    merged: dict[str, Any] = {
        "server": {"listen": f"127.0.0.1:{port}"},
        "admin": {"listen": f"127.0.0.1:{admin_port}"},
        "upstream": {"url": upstream},
        "cache": {"lmdb_path": str(state / "cache.lmdb")},
        "log": {"format": "json"},
    }
    routes: Sequence[Mapping[str, Any]] = ()
    for name, table in tables.items():
        if name == "routes":
            routes = table
        elif not isinstance(table, Mapping):
            merged[name] = table
        else:
            merged[name] = {**merged.get(name, {}), **table}
    lines = [f"{name} = {_value(table)}" for name, table in merged.items()]
    lines.append(f"routes = {_value(list(routes))}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return orjson.dumps(value).decode()


def plain_environment() -> dict[str, str]:
    """The environment without settings of the sidecar, but for `LANE_VARIABLE`."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("SIDECACHE_") or name == LANE_VARIABLE
    }


@asynccontextmanager
async def sidecar(
    upstream: str,
    tmp_path: Path,
    tables: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
) -> AsyncIterator[SidecarProcess]:
    """A sidecar that is ready, and is ended in any case.

    Args:
        upstream: URL.
        tables: of config.toml, over the defaults for tests.
    """
    port, admin_port = port or free_port(), free_port()
    config = tmp_path / f"sidecar-{port}.toml"
    config.write_text(toml(tables or {}, upstream, port, admin_port, tmp_path))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "run", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**plain_environment(), **(environment or {})},
    )
    running = SidecarProcess(process, port, admin_port, config)
    readers = [asyncio.ensure_future(running._read_log()), asyncio.ensure_future(running._read_errors())]
    try:
        await eventually(lambda: bool(running.events("ready")) or process.returncode is not None, START_SECONDS)
        if process.returncode is not None:
            await asyncio.gather(*readers)
            raise AssertionError(f"the sidecar ended with {process.returncode}: {running.stderr.decode()}")
        yield running
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
        await asyncio.gather(*readers)
        process._transport.close()  # type: ignore[attr-defined] # asyncio leaves the pipes to the collector
