"""`make run`: the demo starts, what it tells people to try does what it says, and nothing is left when it ends."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from deploy.demo.processes import HOST, free_ports

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 30


class Demo:
    """The running demo, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, ports: list[int]) -> None:
        self.process = process
        self.ports = ports
        self.said = ""

    async def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            while text not in self.said:
                line = await self.process.stdout.readline()
                assert line, f"ended before it said {text!r}:\n{self.said}"
                self.said += line.decode()

    async def end(self, number: signal.Signals) -> int:
        """Send a signal, and read to the end; the exit status. Everything that it started has to be gone then."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_SECONDS):
            rest, _ = await self.process.communicate()
        self.said += rest.decode()
        assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        return self.process.returncode if self.process.returncode is not None else -1


@asynccontextmanager
async def demo(ports: list[int] | None = None) -> AsyncIterator[Demo]:
    ports = ports or free_ports(3)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-m",
            "deploy.demo.run",
            "--port",
            str(ports[0]),
            "--admin-port",
            str(ports[1]),
            "--demo-port",
            str(ports[2]),
        ),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Demo(process, ports)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def shell(commands: str) -> str:
    """What the commands print. A terminal's pipes, so `curl ... | head` has to end well too."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", commands, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        output, _ = await process.communicate()
    assert process.returncode == 0, f"{commands}\n{output.decode()}"
    return output.decode()


def printed_commands(said: str) -> dict[str, list[str]]:
    """The command lines that were printed, by the line above them."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in said.splitlines():
        if line.startswith("    curl "):
            found.setdefault(title, []).append(line.strip())
        elif line.startswith("  ") and line.strip():
            title = line.strip()
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="what is printed is for curl")
async def test_every_printed_command_shows_what_it_says() -> None:
    async with demo() as running:
        await running.read_until("Ctrl-C ends both.")
        commands = printed_commands(running.said)
        outputs = {title: [await shell(line) for line in lines] for title, lines in commands.items()}
        assert await running.end(signal.SIGINT) == 0

    def of(words: str) -> list[str]:
        return next(output for title, output in outputs.items() if words in title)

    miss, hit = of("A miss, then a hit")
    assert "fwd=" in miss
    assert re.search(r"; ?hit\b", hit)
    number = re.compile(r"x-origin-request: (\d+)", re.IGNORECASE)
    assert number.findall(miss) == number.findall(hit) != []
    whole, compressed = (int(output) for output in of("by brotli"))
    assert 0 < compressed < whole / 4
    assert of("Not modified")[-1].strip() == "304"
    first, second = (float(output.split()[0]) for output in of("Two seconds of work"))
    assert first >= 2
    assert second < 1
    assert "fwd=" in of("A write ends")[-1]
    purged, after = of("Purge everything")
    assert purged.startswith("{")
    assert "fwd=" in after
    stats, metrics, health = of("What the sidecar knows")
    assert stats.startswith("{")
    assert "# TYPE " in metrics
    assert health.startswith("{")
    assert "Traceback" not in running.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_everything_cleanly(number: signal.Signals) -> None:
    async with demo() as running:
        await running.read_until("Ctrl-C ends both.")
        assert await running.end(number) == 0
    assert "Traceback" not in running.said


async def test_a_port_that_is_taken_is_told_with_a_way_out() -> None:
    async with await asyncio.start_server(lambda _r, w: w.close(), HOST, 0) as server:
        ports = [server.sockets[0].getsockname()[1], *free_ports(2)]
        async with demo(ports) as refused:
            output, _ = await refused.process.communicate()
    assert refused.process.returncode == 1
    assert f"port {ports[0]} cannot be used" in output.decode()
    assert "make run PORT=" in output.decode()
    assert "Traceback" not in output.decode()


async def test_when_one_of_the_two_ends_the_other_is_ended_too() -> None:
    async with demo() as running:
        await running.read_until("Ctrl-C ends both.")
        children = psutil.Process(running.process.pid).children()
        api = next(child for child in children if "deploy.demo.api" in child.cmdline())
        os.kill(api.pid, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_SECONDS):
            output, _ = await running.process.communicate()
        assert running.process.returncode == 1
        assert "the demo API ended by itself" in output.decode()
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
