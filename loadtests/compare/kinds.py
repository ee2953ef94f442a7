"""The systems that are compared, and how each is configured."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import orjson

from deploy.demo.processes import HOST

Family = Literal["sidecache", "nginx", "haproxy", "varnish", "origin"]

PEERS_DIRECTORY: Final = Path(__file__).parent / "peers"
_CORES: Final = sorted(os.sched_getaffinity(0))
PROXY_CORE: Final = str(_CORES[0])
LOAD_CORE: Final = str(_CORES[-1])
BOTH_CORES: Final = f"{PROXY_CORE},{LOAD_CORE}"
OPEN_FILES: Final = 20_000
SMALL_MB: Final = 16
DEFAULT_ORDER: Final = ("latency", "compression", "cache", "cache_control", "circuit_breaker")
LIMITED_ORDER: Final = ("latency", "access_log", "rate_limit", *DEFAULT_ORDER[1:])


@dataclass(frozen=True, slots=True)
class Kind:
    """A program with a configuration.

    Attributes:
        cache_mb: what the cache of a peer may take. Sidecache's is in `cache`.
        cache: lines of Sidecache's table `[cache]`.
        redis: the second tier is a Redis of its own.
        limited: a rate limit that counts and never says no.
    """

    name: str
    family: Family
    cores: str = PROXY_CORE
    cache_mb: int = 256
    cache: tuple[str, ...] = ()
    order: tuple[str, ...] = DEFAULT_ORDER
    redis: bool = False
    limited: bool = False
    workers: int = 1


# No record passes 0.01 of 64 KiB: L1 keeps nothing, and each answer is the second tier's.
_NO_L1: Final = ('l1_max_bytes = "64KiB"', "l1_max_object_share = 0.01")
_SMALL: Final = f'l1_max_bytes = "{SMALL_MB}MiB"'
_SIDECACHE: Final = Kind("sidecache", "sidecache")
_NGINX: Final = Kind("nginx", "nginx", cache_mb=512)  # it counts blocks of 4 KiB, the others bytes
_HAPROXY: Final = Kind("haproxy", "haproxy")
_VARNISH: Final = Kind("varnish", "varnish")

KINDS: Final = {
    kind.name: kind
    for kind in (
        _SIDECACHE,
        replace(_SIDECACHE, name="sidecache-limited", order=LIMITED_ORDER, limited=True),
        replace(_SIDECACHE, name="sidecache-bare", order=DEFAULT_ORDER[1:]),
        replace(_SIDECACHE, name="sidecache-redis", cache=_NO_L1, redis=True),
        replace(_SIDECACHE, name="sidecache-lmdb", cache=(*_NO_L1, 'l2 = "lmdb"')),
        replace(_SIDECACHE, name="sidecache-small", cache=(_SMALL, 'l2 = "none"')),
        replace(
            _SIDECACHE,
            name="sidecache-small-lmdb",
            cache=(_SMALL, 'l2 = "lmdb"', f'lmdb_max_bytes = "{SMALL_MB}MiB"', 'max_object_bytes = "1MiB"'),
        ),
        replace(_SIDECACHE, name="sidecache-large", cache=('l1_max_bytes = "512MiB"', 'l2 = "none"')),
        replace(_SIDECACHE, name="sidecache-1-worker", cores=BOTH_CORES),
        replace(_SIDECACHE, name="sidecache-2-workers", cores=BOTH_CORES, workers=2),
        _NGINX,
        replace(_NGINX, name="nginx-small", cache_mb=SMALL_MB),
        _HAPROXY,
        replace(_HAPROXY, name="haproxy-small", cache_mb=SMALL_MB),
        _VARNISH,
        replace(_VARNISH, name="varnish-small", cache_mb=SMALL_MB),
        Kind("origin", "origin", cores=LOAD_CORE),
    )
}


def sidecache_config(kind: Kind, directory: Path, port: int, admin_port: int, upstream: int, redis_port: int) -> str:
    """Sidecache's configuration: the defaults of config.toml, without limiter and access log where not said otherwise.

    Args:
        directory: for the file of the second tier.
        port, admin_port: to listen on.
        upstream: the origin's port.
    """
    cache = [*kind.cache, f'lmdb_path = "{directory / "cache.mdb"}"']
    if kind.redis:
        cache.append(f'redis_url = "redis://{HOST}:{redis_port}/0"')
    lines = [f"workers = {kind.workers}"]
    lines += [f'[server]\nlisten = "{HOST}:{port}"', f'[admin]\nlisten = "{HOST}:{admin_port}"']
    lines += [f'[upstream]\nurl = "http://{HOST}:{upstream}"', "[cache]", *cache]
    lines += [f"[pipeline]\norder = {orjson.dumps(kind.order).decode()}"]
    if kind.limited:
        lines += ['[[plugins.rate_limit.rules]]\nname = "all"\nrate = 1000000\nperiod_seconds = 1\nkey = "address"']
    return "\n".join(lines) + "\n"


def write_template(name: str, directory: Path, *, port: int, origin: int, cache_mb: int) -> Path:
    """Fill in a configuration of peers/; the file's path."""
    text = (PEERS_DIRECTORY / name).read_text(encoding="utf-8")
    target = directory / name
    filled = text.format(directory=directory, port=port, origin=origin, files=OPEN_FILES, cache_mb=cache_mb)
    target.write_text(filled, encoding="utf-8")
    return target
