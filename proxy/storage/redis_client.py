"""Connections to Redis, however its servers are organised."""

import contextlib
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from proxy.storage.redis_url import RedisAddress, RedisKind

RedisClient: TypeAlias = "Redis | RedisCluster"

# What a call can raise: redis-py lets some of asyncio's own errors through.
REDIS_ERRORS: Final = (RedisError, OSError, TimeoutError, EOFError)

MAX_CONNECTIONS: Final = 64


def connect(address: RedisAddress, *, connect_seconds: float, retries: int) -> RedisClient:
    """A client for `address`. Connects when it is first used.

    Args:
        connect_seconds: the most that connecting takes, the search among sentinels included. Calls have no time limit:
            their callers cancel them.
        retries: how often a command is sent again over a new connection when its own is broken.
    """
    options: dict[str, Any] = {
        "username": address.username or None,
        "password": address.password or None,
        # With a limit of its own redis-py makes a task for each command, measured at 60 µs on a busy machine, and can
        # lose a cancellation.
        "socket_timeout": None,
        "socket_connect_timeout": connect_seconds,
        "socket_keepalive": True,
        "max_connections": MAX_CONNECTIONS,
        "protocol": 2,  # the shape of XREAD's answer depends on it
        "retry": Retry(NoBackoff(), retries),
    }
    match address.kind:
        case RedisKind.STANDALONE if address.socket:
            del options["socket_keepalive"]
            return Redis(unix_socket_path=address.socket, db=address.database, **options)
        case RedisKind.STANDALONE:
            [(host, port)] = address.hosts
            return Redis(host=host, port=port, db=address.database, ssl=address.tls, **options)
        case RedisKind.SENTINEL:
            # They are asked one after the other, and the first one may be gone together with the server: all but one
            # may be silent, and time to connect is left. redis-py by itself asks each eleven times, with pauses.
            share = connect_seconds / (len(address.hosts) + 1)
            sentinel = Sentinel(  # type: ignore[no-untyped-call]  # its __init__ has no annotations
                list(address.hosts),
                sentinel_kwargs={
                    "socket_timeout": share,
                    "socket_connect_timeout": share,
                    "retry": Retry(NoBackoff(), 0),
                },
            )
            master: Redis = sentinel.master_for(address.service, db=address.database, ssl=address.tls, **options)
            return master
        case RedisKind.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return RedisCluster(startup_nodes=nodes, ssl=address.tls, require_full_coverage=False, **options)


async def disconnect(client: RedisClient) -> None:
    """Close what `connect` gave, whatever state it is in."""
    with contextlib.suppress(*REDIS_ERRORS):  # what is broken already
        await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            with contextlib.suppress(*REDIS_ERRORS):
                await sentinel.aclose()
