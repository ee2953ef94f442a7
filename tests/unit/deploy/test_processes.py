import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from deploy.demo import processes
from deploy.demo.processes import HOST, StartError, check_port, free_ports, running, wait_until_ready

PYTHON = [sys.executable, "-u", "-c"]
SERVER = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_port_that_is_taken_is_found_out() -> None:
    with socket.create_server((HOST, 0)) as server, pytest.raises(StartError, match="cannot be used"):
        check_port(server.getsockname()[1])
    with pytest.raises(StartError, match="cannot be used"):
        check_port(70_000)


def test_free_ports_differ_and_can_be_used() -> None:
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        check_port(port)


def test_a_program_ends_with_its_block() -> None:
    with running("sleeper", [*PYTHON, "import time; time.sleep(60)"]) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGTERM


def test_a_program_ends_when_its_block_fails() -> None:
    with contextlib.suppress(RuntimeError), running("sleeper", [*PYTHON, "import time; time.sleep(60)"]) as process:
        raise RuntimeError
    assert process.returncode == -signal.SIGTERM


def test_a_program_that_will_not_end_is_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)"
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as said,
        os.fdopen(writer, "wb") as output,
        running("sleeper", [*PYTHON, deaf], output=output) as process,
    ):
        assert said.readline() == b"deaf\n"
    assert process.returncode == -signal.SIGKILL
    assert "did not end" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux's")
def test_a_program_ends_when_its_starter_is_killed() -> None:
    starter = (
        "import sys, time\n"
        "from deploy.demo.processes import running\n"
        "with running('x', [sys.executable, '-c', 'import time; time.sleep(60)']) as p:\n"
        "    print(p.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as said, os.fdopen(writer, "wb") as output:
        with running("starter", [*PYTHON, starter], output=output) as process:
            child = int(said.readline())
            os.kill(child, 0)  # it is there
            process.kill()
        # The child holds the pipe's other end: this ends when the child does.
        output.close()
        assert said.read() == b""


def test_ready_is_the_first_200() -> None:
    (port,) = free_ports(1)
    with running("server", [*PYTHON, SERVER, str(port)], output=None) as process:
        wait_until_ready("server", process, f"http://{HOST}:{port}/LICENSE", threading.Event())


def test_a_program_that_ends_at_once_is_told_with_its_status() -> None:
    (port,) = free_ports(1)
    with (
        running("server", [*PYTHON, "raise SystemExit(3)"]) as process,
        pytest.raises(StartError, match="ended with status 3"),
    ):
        wait_until_ready("server", process, f"http://{HOST}:{port}/", threading.Event())


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_SECONDS", 0.1)
    (port,) = free_ports(1)
    with (
        running("server", [*PYTHON, "import time; time.sleep(60)"]) as process,
        pytest.raises(StartError, match="not ready"),
    ):
        wait_until_ready("server", process, f"http://{HOST}:{port}/", threading.Event())


def test_waiting_ends_when_told_to_stop() -> None:
    stopping = threading.Event()
    stopping.set()
    with running("server", [*PYTHON, "import time; time.sleep(60)"]) as process:
        wait_until_ready("server", process, "http://127.0.0.1:1/", stopping)


def test_settings_of_the_environment_reach_the_program(tmp_path: Path) -> None:
    path = tmp_path / "said"
    code = "import os; print(os.environ['SIDECACHE_TRIED'], os.getcwd())"
    with path.open("wb") as output, running("x", [*PYTHON, code], {"SIDECACHE_TRIED": "yes"}, output) as process:
        process.wait(20)
    assert path.read_text().split() == ["yes", str(processes.ROOT)]
