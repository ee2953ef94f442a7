"""The container's HEALTHCHECK: status 0 if the admin port says that the process lives. Standard library only."""

import http.client
import os
import socket
import sys
from typing import Final

DEFAULT_LISTEN: Final = "127.0.0.1:9090"
UNIX_PREFIX: Final = "unix:"
ANY_ADDRESS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # asked of, not listened on
TIMEOUT_SECONDS: Final = 2.0


def is_alive(listen: str) -> bool:
    """Whether `GET /health` is answered by 200 at the address that the admin port was told to listen on."""
    connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT_SECONDS)
    try:
        connection.sock = _connect(listen)
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _connect(listen: str) -> socket.socket:
    if listen.startswith(UNIX_PREFIX):
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(TIMEOUT_SECONDS)
        try:
            connected.connect(listen.removeprefix(UNIX_PREFIX))
        except OSError:
            connected.close()
            raise
        return connected
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return socket.create_connection((ANY_ADDRESS.get(host, host), int(port)), TIMEOUT_SECONDS)


if __name__ == "__main__":
    sys.exit(0 if is_alive(os.environ.get("SIDECACHE_ADMIN__LISTEN", DEFAULT_LISTEN)) else 1)
