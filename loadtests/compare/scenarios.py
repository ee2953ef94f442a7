"""What is compared: the request, the load, and the floors."""

from dataclasses import dataclass
from typing import Final, Literal

from loadtests.compare.figures import Floor, Metric

NGINX: Final = "nginx"
PEERS: Final = (NGINX, "haproxy", "varnish")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. The first system is the one that is judged.

    Attributes:
        file: the origin's file that the body is to be, once decoded; None: it is `content`.
        origin: what the origin may see of the requests: none of them (hits), or all.
        stray_share: of requests, that may reach the origin though they should hit, and the other way round.
        script: of wrk, with `arguments`; without one each request has the same head.
        keys: different ones that are asked for.
        least_seconds: how long a run of wrk takes at least, so that something is finished in it.
        warm_requests: how many are sent at least before anything is measured.
        from_l2: the second tier of the first system is to answer.
        evicts: the first system's cache is to be full.
    """

    name: str
    title: str
    path: str
    floors: tuple[Floor, ...] = ()
    systems: tuple[str, ...] = ("sidecache", *PEERS)
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200
    file: str | None = "1k"
    content: bytes = b""
    origin: Literal["none", "all"] = "none"
    stray_share: float = 0.001
    connections: int = 64
    script: str | None = None
    arguments: tuple[str, ...] = ()
    keys: int = 1
    warm_requests: int = 1_000
    least_seconds: int = 1
    method: str = "GET"
    metric: Metric = "rate"
    coding: str | None = None
    from_l2: bool = False
    evicts: bool = False

    @property
    def judged(self) -> frozenset[str]:
        """The systems whose figures decide whether a floor is met."""
        others = {name for floor in self.floors for name in (floor.against, floor.over) if name is not None}
        return frozenset({self.systems[0], *others}) if others else frozenset()


def _l2(kind: str, title: str, floor: float) -> Scenario:
    return Scenario(
        f"l2_{kind}",
        title,
        "/hit/1k/l",
        (Floor(NGINX, floor),),
        systems=(f"sidecache-{kind}", NGINX),
        # A call that passes its time budget is a miss, and the origin answers.
        stray_share=0.02,
        script="keys.lua",
        arguments=("/hit/1k/l", "5000", "{sent}"),
        keys=5_000,
        warm_requests=10_000,
        from_l2=True,
    )


SCENARIOS: Final = (
    Scenario("hit_1k", "hit 1 KB", "/hit/1k/a", (Floor(NGINX, 1.25), Floor("haproxy", 1.0))),
    Scenario(
        "hit_unique",
        "hit, 1,000 keys, unique heads",
        "/hit/1k/u",
        (Floor(NGINX, 1.0),),
        script="unique.lua",
        arguments=("/hit/1k/u", "1000"),
        keys=1_000,
        warm_requests=5_000,  # the third request of a key is the first to be answered by the fast lane
    ),
    Scenario("hit_16k", "hit 16 KB", "/hit/16k/a", (Floor(NGINX, 1.1),), file="16k"),
    Scenario("hit_128k", "hit 128 KB", "/hit/128k/a", (Floor(NGINX, 1.0),), file="128k"),
    Scenario(
        "not_modified",
        "304 from cache",
        "/hit/1k/a",
        (Floor(NGINX, 1.0),),
        headers=(("If-None-Match", "{etag}"),),
        status=304,
        file=None,
    ),
    Scenario(
        "hit_gzip",
        "hit compressed",
        "/gzip/a",
        (Floor(NGINX, 1.0),),
        headers=(("Accept-Encoding", "gzip"),),
        file="16k.txt",
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
        least_seconds=6,  # while wrk connects, each first request waits for all others: let that be less than 1 %
    ),
    Scenario("miss_1k", "miss 1 KB", "/miss/1k/a", (Floor(NGINX, 0.5),), origin="all"),
    Scenario("miss_16k", "miss 16 KB", "/miss/16k/a", origin="all", file="16k"),
    Scenario(
        "miss_latency",
        "miss 1 KB, one connection",
        "/miss/1k/a",
        (Floor(NGINX, 2.0, "p50_ms", at_most=True, over="origin"),),
        systems=("sidecache", *PEERS, "origin"),
        origin="all",
        connections=1,
        metric="p50_ms",
    ),
    Scenario(
        "post_1k", "POST 1 KB", "/post/a", origin="all", script="post.lua", method="POST", file=None, content=b"taken"
    ),
    Scenario(
        "large",
        "100 MB download",
        "/large/a",
        (Floor(NGINX, 0.7, "bytes_rate"),),
        origin="all",
        stray_share=0.5,  # of a dozen: those that are under way at the end are cut off, and count at the origin alone
        connections=2,
        warm_requests=1,
        least_seconds=3,
        metric="bytes_rate",
        file="100m",
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
    Scenario(
        "new_keys",
        "every request a new key",
        "/hit/1k/n",
        (Floor("nginx-small", 0.8),),
        systems=("sidecache-small", "sidecache-small-lmdb", "nginx-small", "haproxy-small", "varnish-small"),
        origin="all",
        script="keys.lua",
        arguments=("/hit/1k/{run}/", "0"),
        warm_requests=10_000,  # more than any of the caches holds
        evicts=True,
    ),
    _l2("redis", "L2 hit, Redis (nginx: its own hit)", 0.25),
    _l2("lmdb", "L2 hit, LMDB (nginx: its own hit)", 0.4),
    Scenario(
        "workers",
        "hit, 2 workers / 1, all on both cores",
        "/hit/1k/a",
        systems=("sidecache-2-workers", "sidecache-1-worker"),
    ),
)
