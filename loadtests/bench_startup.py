"""`make bench`: how long the sidecar takes to start, and what it holds when it is idle.

Start-up is the time from starting the process to the first 200 of `/ready`, with the upstream up. Memory is the
resident set of the one process, a moment after it is ready. Medians of several starts; the status is 0 if both hold.
"""

import argparse
import http.client
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from deploy.demo.processes import (
    HOST,
    StartError,
    demo_api,
    free_ports,
    running,
    sidecar,
    sidecar_settings,
    wait_until_ready,
)

MAX_START_SECONDS: Final = 1.0
MAX_IDLE_MIB: Final = 80.0
SETTLE_SECONDS: Final = 1.0
DEADLINE_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.002


def seconds_until_ready(process: subprocess.Popen[bytes], admin_port: int, began: float) -> float:
    """From `began` (monotonic seconds) to the first 200 of `/ready`.

    Raises:
        StartError: the process ended, or took too long.
    """
    while time.monotonic() < began + DEADLINE_SECONDS:
        if process.poll() is not None:
            raise StartError(f"Sidecache ended with status {process.returncode}; what it said is above")
        connection = http.client.HTTPConnection(HOST, admin_port, timeout=2)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == http.client.OK:
                return time.monotonic() - began
        except OSError:
            time.sleep(POLL_SECONDS)
        finally:
            connection.close()
    raise StartError(f"Sidecache was not ready after {DEADLINE_SECONDS:.0f} s")


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB, from /proc, or by ps where there is none."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except FileNotFoundError:
        pass
    output = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], check=True, capture_output=True, text=True).stdout
    return int(output) / 1024


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used so far; not a number where there is no /proc.

    On a busy machine this tells a slow start from a start that had to wait.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime: proc(5)


def start_once(upstream: str) -> tuple[float, float, float]:
    """Seconds to start, processor seconds of them, and MiB when idle."""
    port, admin_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="sidecache-bench-") as directory, tempfile.TemporaryFile() as log:
        settings = sidecar_settings(port, admin_port, upstream, directory)
        began = time.monotonic()
        try:
            with running("Sidecache", sidecar(), settings, output=log) as process:
                seconds = seconds_until_ready(process, admin_port, began)
                used = processor_seconds(process.pid)
                time.sleep(SETTLE_SECONDS)  # what start-up leaves behind has been freed by then
                return seconds, used, resident_mib(process.pid)
        except StartError:
            log.seek(0)
            sys.stderr.buffer.write(log.read())
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description="Start-up time and idle memory of the sidecar.")
    parser.add_argument("--starts", type=int, default=7)
    options = parser.parse_args()
    (api_port,) = free_ports(1)
    upstream = f"http://{HOST}:{api_port}"
    try:
        with running("the demo API", demo_api(api_port)) as api:
            wait_until_ready("the demo API", api, f"{upstream}/health", threading.Event())
            start_once(upstream)  # the first start reads byte code from the disk, or writes it
            results = [start_once(upstream) for _ in range(options.starts)]
    except StartError as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1
    seconds, used, mebibytes = (statistics.median(values) for values in zip(*results, strict=True))
    slowest = max(result[0] for result in results)
    print(
        f"start-up until ready: {seconds * 1000:.0f} ms, {used * 1000:.0f} of them on a processor "
        f"(slowest {slowest * 1000:.0f}; limit {MAX_START_SECONDS * 1000:.0f})"
    )
    print(f"idle memory (RSS):    {mebibytes:.1f} MiB (limit {MAX_IDLE_MIB:.0f})")
    return 0 if seconds < MAX_START_SECONDS and mebibytes < MAX_IDLE_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
