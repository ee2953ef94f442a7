"""What is compared: the request, the load, and the floors."""

from dataclasses import dataclass
from typing import Final, Literal

from loadtests.compare.figures import Floor, Metric

PEERS: Final = ("nginx", "haproxy", "varnish")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. The first system is the one that is judged.

    Attributes:
        origin: what the origin may see of the requests: none of them (hits), or all.
        script: of wrk, with `arguments`; without one each request has the same head.
        new_keys: each run of wrk is given a path prefix of its own.
    """

    name: str
    title: str
    path: str
    floors: tuple[Floor, ...] = ()
    systems: tuple[str, ...] = ("sidecache", *PEERS)
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200
    body_bytes: int | None = 1024
    origin: Literal["none", "all"] = "none"
    connections: int = 64
    script: str | None = None
    arguments: tuple[str, ...] = ()
    new_keys: bool = False
    method: str = "GET"
    metric: Metric = "rate"
    coding: str | None = None


NGINX: Final = "nginx"
SCENARIOS: Final = (
    Scenario("hit_1k", "hit 1 KB", "/hit/1k/a", (Floor(NGINX, 1.25), Floor("haproxy", 1.0))),
    Scenario(
        "hit_unique",
        "hit, 1,000 keys, unique heads",
        "/hit/1k/u",
        (Floor(NGINX, 1.0),),
        script="unique.lua",
        arguments=("/hit/1k/u", "1000"),
    ),
    Scenario("hit_16k", "hit 16 KB", "/hit/16k/a", (Floor(NGINX, 1.1),), body_bytes=16384),
    Scenario("hit_128k", "hit 128 KB", "/hit/128k/a", (Floor(NGINX, 1.0),), body_bytes=131072),
    Scenario(
        "not_modified",
        "304 from cache",
        "/hit/1k/a",
        (Floor(NGINX, 1.0),),
        headers=(("If-None-Match", "{etag}"),),
        status=304,
        body_bytes=0,
    ),
    Scenario(
        "hit_gzip",
        "hit compressed",
        "/gzip/a",
        (Floor(NGINX, 1.0),),
        headers=(("Accept-Encoding", "gzip"),),
        body_bytes=None,
        coding="gzip",
    ),
    Scenario(
        "connections_1",
        "one connection, hit",
        "/hit/1k/a",
        (Floor(NGINX, 1.4, "p50_ms", at_most=True),),
        connections=1,
        metric="p50_ms",
    ),
    Scenario(
        "connections_1000",
        "1,000 connections, hit",
        "/hit/1k/a",
        (Floor(NGINX, 1.0), Floor(NGINX, 1.0, "p99_ms", at_most=True)),
        connections=1000,
    ),
    Scenario(
        "hit_limited",
        "hit, rate limiter and access log on",
        "/hit/1k/a",
        (Floor("sidecache", 0.7),),
        systems=("sidecache-limited", "sidecache"),
    ),
    Scenario(
        "hit_metrics",
        "hit, with latency plugin / without",
        "/hit/1k/a",
        (Floor("sidecache-bare", 0.95),),
        systems=("sidecache", "sidecache-bare"),
    ),
    Scenario("miss_1k", "miss 1 KB", "/miss/1k/a", (Floor(NGINX, 0.5),), origin="all"),
    Scenario("miss_16k", "miss 16 KB", "/miss/16k/a", origin="all", body_bytes=16384),
    Scenario(
        "miss_latency",
        "miss 1 KB, one connection",
        "/miss/1k/a",
        origin="all",
        connections=1,
        metric="p50_ms",
    ),
    Scenario(
        "new_keys",
        "every request a new key",
        "/hit/1k/n",
        (Floor(NGINX, 0.8),),
        origin="all",
        script="keys.lua",
        arguments=("/hit/1k/{run}/", "0"),
        new_keys=True,
    ),
    Scenario("post_1k", "POST 1 KB", "/post/a", origin="all", script="post.lua", method="POST", body_bytes=5),
    Scenario(
        "large",
        "100 MB download",
        "/large/a",
        (Floor(NGINX, 0.7, "bytes_rate"),),
        origin="all",
        connections=2,
        metric="bytes_rate",
        body_bytes=100 << 20,
    ),
    Scenario(
        "l2_redis",
        "L2 hit, Redis (nginx: its own hit)",
        "/hit/1k/l",
        (Floor(NGINX, 0.25),),
        systems=("sidecache-redis", NGINX),
        script="keys.lua",
        arguments=("/hit/1k/l", "5000"),
    ),
    Scenario(
        "l2_lmdb",
        "L2 hit, LMDB (nginx: its own hit)",
        "/hit/1k/l",
        (Floor(NGINX, 0.4),),
        systems=("sidecache-lmdb", NGINX),
        script="keys.lua",
        arguments=("/hit/1k/l", "5000"),
    ),
)
