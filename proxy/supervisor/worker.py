"""A worker: a sidecar with a role, from its fork to its end."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from proxy import config as configuration
from proxy.address import Address
from proxy.app import Sidecar, StartError, WorkerRole
from proxy.errors import ConfigError
from proxy.supervisor.channel import Channel, Message

FAILED: Final = 1
MISUSED: Final = 2

MAX_BODY_BYTES: Final = 64 << 20

OPEN: Final = "open"
READY: Final = "ready"
LISTEN: Final = "listen"
DRAIN: Final = "drain"


def socket_path(directory: str, name: str) -> Path:
    """Where the supervisor reaches the worker `name`."""
    return Path(directory) / f"worker-{name}.sock"


def work(order: Message, descriptors: Sequence[int]) -> int:
    """Be a worker until told to end; the exit code.

    Args:
        order: `name`; `path` of config.toml or None, and its `text` file; `port` to listen at; the private `directory`.
        descriptors: the worker's end of the channel; then the listening socket, if all accept from one.
    """
    # A terminal sends this to everyone who belongs to it; what becomes of a worker is the supervisor's to say. SIGHUP
    # likewise, which the nursery ignores already.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    path = Path(order["path"]) if order["path"] is not None else None
    text = Path(order["text"]).read_text(encoding="utf-8") if order["text"] is not None else None
    try:
        config = configuration.load(path, text)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return MISUSED
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Worker(config, path, order, descriptors).run())
    except StartError as error:
        sys.stderr.write(f"sidecache: worker {order['name']}: {error}\n")
        return FAILED


class _Worker:
    """Between the sidecar and its supervisor."""

    def __init__(
        self, config: configuration.Config, path: Path | None, order: Message, descriptors: Sequence[int]
    ) -> None:
        end, *listening = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        values, name = config.values, order["name"]
        admin_socket = socket_path(order["directory"], name)
        server = values.server
        if not listening:
            listen = Address(server.listen.host, order["port"])
            server = server.model_copy(update={"listen": listen, "reuse_port": True})
        admin = values.admin.model_copy(
            # Who may call is checked at the supervisor's port; this one only the sidecar's own user can open.
            update={
                "listen": Address(path=str(admin_socket)),
                "token": None,
                "token_file": None,
                "max_body_bytes": MAX_BODY_BYTES,  # what callers send is limited there too; here come configurations
            }
        )
        self._end = end
        self._directory = order["directory"]
        self._told_to_listen = asyncio.Event()
        self._channel: Channel
        role = WorkerRole(
            name=name,
            server=server,
            admin=admin,
            listening=listening[0] if listening else None,
            may_listen=self._may_listen,
            ready=self._ready,
        )
        self._sidecar = Sidecar(config, path, role=role)

    async def run(self) -> int:
        self._channel = Channel(self._end, self._received, self._orphaned)
        return await self._sidecar.run()

    async def _may_listen(self) -> None:
        self._channel.send({"say": OPEN})
        await self._told_to_listen.wait()

    def _ready(self) -> None:
        self._channel.send({"say": READY})

    def _received(self, message: Message) -> None:
        if message["say"] in {LISTEN, DRAIN}:  # the latter may come while it starts
            self._told_to_listen.set()
        if message["say"] == DRAIN:
            self._sidecar.stop()

    def _orphaned(self) -> None:
        """The supervisor is gone without a word: nobody could ever reach or end this process again."""
        shutil.rmtree(self._directory, ignore_errors=True)
        os._exit(FAILED)
