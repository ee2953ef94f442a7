"""`make run`: the demo API with Sidecache in front, until Ctrl-C. Standard library only.

python -m deploy.demo.run --port 8080
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
from types import FrameType
from typing import Final

from deploy.demo.processes import (
    HOST,
    StartError,
    check_port,
    demo_api,
    running,
    sidecar,
    sidecar_settings,
    wait_until_ready,
)

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
    curl -si {proxy}/items/7 | grep -iE '^(cache-status|x-origin)'

  What the sidecar knows
    curl -s {admin}/admin/cache/stats
    curl -s {admin}/metrics
    curl -s {admin}/health/detailed

  More to ask for: /items?page=2  /greeting  /stale  /flaky  /fail  /private  /events (curl -N)  / (a browser)

Ctrl-C ends both.
"""


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
        try:
            check_port(port)
        except StartError as error:
            raise StartError(f"{error}\nChoose another: make run {variable}={port + 1}") from error
    api, proxy, admin = (f"http://{HOST}:{port}" for port in (options.demo_port, options.port, options.admin_port))
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecache-demo-"))
        api_process = stack.enter_context(running("the demo API", demo_api(options.demo_port)))
        wait_until_ready("the demo API", api_process, f"{api}/health", stopping)
        settings = sidecar_settings(options.port, options.admin_port, api, directory)
        sidecar_process = stack.enter_context(running("Sidecache", sidecar(), settings))
        wait_until_ready("Sidecache", sidecar_process, f"{admin}/ready", stopping)
        if not stopping.is_set():
            print(WHAT_TO_TRY.format(api=api, proxy=proxy, admin=admin), flush=True)
        watch({"the demo API": api_process, "Sidecache": sidecar_process}, stopping)


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
