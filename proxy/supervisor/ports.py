"""The port that all workers share, claimed before any of them starts."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from proxy.address import Address, remove_stale_socket
from proxy.server.settings import ServerSettings

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_V6ONLY: Final = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


@contextlib.contextmanager
def claimed(settings: ServerSettings) -> Iterator[tuple[Address, socket.socket | None]]:
    """Hold the address of `settings` for the workers.

    An IP port is bound, so that nobody else takes it while no worker listens, and does not listen: each worker does,
    with SO_REUSEPORT, and the kernel deals out connections. Whoever listens there already without being one of ours
    is an error, which SO_REUSEPORT alone would hide. A Unix socket listens, and all workers accept from it.

    Yields:
        The address with its port as the system chose it, and the listening Unix socket if it is one.

    Raises:
        OSError: it cannot be had.
    """
    listen = settings.listen
    with contextlib.ExitStack() as stack:
        if listen.path:
            remove_stale_socket(Path(listen.path))
            shared = stack.enter_context(socket.socket(socket.AF_UNIX))
            shared.bind(listen.path)
            stack.callback(Path(listen.path).unlink, missing_ok=True)
            shared.listen(settings.backlog)
            yield listen, shared
            return
        places = socket.getaddrinfo(listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        port = listen.port
        for family, _, _, _, place in dict.fromkeys(places):
            where = (place[0], port, *place[2:])
            try:
                if port and not settings.reuse_port:
                    _bound(family, where).close()
                held = stack.enter_context(_bound(family, where, shared=True))
            except OSError as error:
                # A machine without IPv6 resolves names to it all the same.
                if error.errno in _NO_SUCH_FAMILY and len(places) > 1:
                    continue
                raise
            port = held.getsockname()[1]
        yield replace(listen, port=port), None


def _bound(family: int, where: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As asyncio sets it for the workers: connections of an earlier process that are not over yet do not matter.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(*_V6ONLY)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound
