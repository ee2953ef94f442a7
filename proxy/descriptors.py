"""How many file descriptors the process may have, against how many connections it is configured for."""

import contextlib
import resource
from typing import Final

import structlog

RESERVED: Final = 128
"""For what is no connection of a client or to the upstream: files, the admin port, the second tier."""

_log = structlog.get_logger("sidecar")


def make_room(max_connections: int, max_upstream_connections: int) -> int:
    """Raise the soft limit to the hard one if so many connections need it, and warn if even that is too little.

    The soft limit is 1,024 on most systems for the sake of programs that use select(2), which this one does not.

    Returns:
        The limit in effect.
    """
    needed = max_connections + max_upstream_connections + RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, needed):
        return soft
    with contextlib.suppress(OSError, ValueError):  # macOS refuses what it calls infinite
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _enough(soft, needed):
        _log.warning(
            "fewer file descriptors than connections may need: clients beyond them wait until others leave",
            limit=soft,
            needed=needed,
            advice="raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of a container) "
            f"or set server.max_connections to at most {max(1, soft - max_upstream_connections - RESERVED)}",
        )
    return soft


def _enough(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
