"""The fast lane before real sockets: what it answers, what it leaves alone, and what becomes of what it keeps."""

import asyncio
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from plugins.cache import Cache
from plugins.cache.settings import CacheSettings
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from proxy.pipeline.replay import ReplayPart
from proxy.pipeline.routes import Route
from proxy.server.protocol import Connection
from proxy.storage.base import CacheKey
from proxy.storage.invalidation_log import PurgeScope
from tests.support.plugin_harness import response
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.sidecar import eventually
from tests.support.site import Site, built_in, site
from tests.support.wire import Wire

FRESH: Mapping[str, str] = {"Cache-Control": "max-age=60", "Content-Type": "text/plain", "ETag": '"v1"'}
KNOWN = request("/a")
LARGE = 128 * 1024


@dataclass
class Origin:
    """An upstream that counts."""

    headers: Mapping[str, str] = field(default_factory=lambda: dict(FRESH))
    body: Callable[[Request], bytes] = lambda request: f"body of {request.target}".encode()
    asked: int = 0

    def __call__(self, request: Request) -> Response:
        self.asked += 1
        return response(200, self.body(request), self.headers)


async def warm(one: Site, client: RawClient, head: bytes = KNOWN, method: str = "GET") -> RawResponse:
    """Ask until the lane answers; its answer."""
    for _ in range(6):
        before = one.hits
        got = await client.ask(head, method=method)
        if one.hits > before:
            return got
    raise AssertionError("the lane does not answer")


async def never_warm(one: Site, client: RawClient, head: bytes = KNOWN, method: str = "GET") -> RawResponse:
    """Ask so often that the lane would answer; the last answer."""
    before = one.hits
    answers = [await client.ask(head, method=method) for _ in range(6)]
    assert one.hits == before
    return answers[-1]


def alike(one: RawResponse, other: RawResponse) -> bool:
    moving = {"age", "date", "cache-status", "ratelimit"}
    return (one.status, one.body, [pair for pair in one.fields if pair[0].lower() not in moving]) == (
        (other.status, other.body, [pair for pair in other.fields if pair[0].lower() not in moving])
    )


# What it answers.


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", (), 200),
        ("HEAD", (), 200),
        ("GET", ('If-None-Match: "v1"',), 304),
        ("GET", ("Range: bytes=2-5",), 206),
        ("GET", ("Accept-Encoding: gzip",), 200),
        ("GET", ("Connection: keep-alive", "User-Agent: x", "Cookie: a=1"), 200),
    ],
)
async def test_it_answers_as_the_pipeline_does(method: str, fields: tuple[str, ...], status: int) -> None:
    async with site(Origin(body=lambda _: b"some text " * 200)) as one, await RawClient.connect(one.address) as client:
        head = request("/a", *fields, method=method)
        await client.ask(request("/a"))  # so that there is something stored
        full = await client.ask(head, method=method)
        fast = await warm(one, client, head, method)
        assert full.status == fast.status == status
        if one.hits:
            again = await client.ask(head, method=method)
            assert alike(again, fast)
        one.clock.advance(7)
        later = await client.ask(head, method=method)
        assert alike(later, fast)
        assert later.field("Age") == "7"


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (request("/a", version="1.0"), True),
        (request("/a", "Connection: keep-alive", version="1.0"), False),
        (request("/a", "Connection: close"), True),
        (request("/a", "Cache-Control: max-age=30"), False),
        (request("/a", "Pragma: no-cache"), False),
        (request("/a", "Upgrade: websocket", "Connection: upgrade"), False),
    ],
)
async def test_it_leaves_alone_what_is_not_plain(head: bytes, closes: bool) -> None:
    async with site(Origin()) as one:
        async with await RawClient.connect(one.address) as client:
            await warm(one, client)
        before = one.hits
        for _ in range(4):
            async with await RawClient.connect(one.address) as client:
                got = await client.ask(head)
                assert got.body == b"body of /a"
                assert (got.field("Connection") == "close") == closes
                if closes:
                    assert await client.closed()
        assert one.hits == before


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        for joined in (True, False):
            heads = [KNOWN, request("/b"), KNOWN, KNOWN, request("/c"), KNOWN] * 10
            await client.send(*([b"".join(heads)] if joined else heads))
            for head in heads:
                assert (await client.response()).body == b"body of " + head.split()[1]


async def test_one_and_a_half_requests_are_two() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        for cut in range(1, len(KNOWN)):
            await client.send(KNOWN + KNOWN[:cut])
            assert (await client.response()).body == b"body of /a"
            await client.send(KNOWN[cut:])
            assert (await client.response()).body == b"body of /a"


async def test_a_head_may_be_cut_at_every_byte() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        for cut in range(1, len(KNOWN)):
            before = one.hits
            await client.send(KNOWN[:cut])
            connection = next(iter(one.listener._protocols.clients))
            await eventually(lambda: connection._head_started)  # noqa: B023 — called before the next round
            await client.send(KNOWN[cut:])
            assert (await client.response()).body == b"body of /a"
            assert one.hits == before
            for _ in range(2):  # a chunk within the last line end leaves it open where the parser stands
                assert (await client.ask(KNOWN)).body == b"body of /a"
            assert one.hits > before


# Bytes that look like a request, and are none.

BODIES = [
    request("/a"),
    b"\r\n\r\n" + request("/a"),
    b"x\r\n\r\n",
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("apart", [False, True])
async def test_a_body_that_looks_like_a_known_request_is_a_body(body: bytes, chunked: bool, apart: bool) -> None:
    async def script(request: Request) -> Response:
        if request.method != "POST":
            return response(200, b"body of /a", FRESH)
        content = request.body if isinstance(request.body, bytes) else b"".join([part async for part in request.body])
        return response(200, content)

    async with site(script) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        before = one.hits
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        wire = [b"%x\r\n" % len(body), body, b"\r\n0\r\n\r\n"] if chunked else [body]
        head = request("/post", framing, method="POST")
        if apart:
            await client.send(head)
            await eventually(lambda: not all(connection.resting for connection in one.listener._protocols.clients))
            await client.send(*wire)
        else:
            await client.send(head + b"".join(wire))
        assert (await client.response()).body == body
        assert one.hits == before
        assert (await client.ask(KNOWN)).body == b"body of /a"


async def test_what_follows_an_upgrade_is_no_request() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        before = one.hits
        await client.send(
            request("/up", "Upgrade: example", "Connection: upgrade", "Content-Length: 4") + b"\r\n\r\n" + KNOWN
        )
        data = await client.read_rest()
        assert data.count(b"HTTP/1.1 ") == 1
        assert one.hits == before


@pytest.mark.parametrize("upgrade", ["websocket", "example", "h2c"])
async def test_after_a_refused_upgrade_requests_are_answered_in_order(upgrade: str) -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        for number in range(5):
            head = request(f"/up{number}", f"Upgrade: {upgrade}", "Connection: upgrade")
            await client.send(head, KNOWN, KNOWN)
            targets = [(await client.response()).body for _ in range(3)]
            assert targets == [b"body of /up%d" % number, b"body of /a", b"body of /a"]
        assert (await client.ask(KNOWN)).body == b"body of /a"


@pytest.mark.parametrize(
    "garbage", [b"GET /a HTTP/1.1\r\nHost : x\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_nothing_is_answered_behind_what_was_refused(garbage: bytes) -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        before = one.hits
        await client.send(garbage, KNOWN, KNOWN)
        assert (await client.response()).status in {400, 501}
        assert await client.closed()
        assert one.hits == before


async def test_nothing_is_answered_behind_a_request_to_close() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        before = one.hits
        await client.send(request("/a", "Connection: close"), KNOWN)
        assert (await client.response()).body == b"body of /a"
        assert await client.closed()
        assert one.hits == before


async def test_empty_lines_before_a_request_do_not_matter() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        for empty in (b"\r\n", b"\r\n\r\n"):
            await client.send(empty)
            connection = next(iter(one.listener._protocols.clients))
            await eventually(lambda: connection._head_started)  # noqa: B023 — called before the next round
            assert (await client.ask(KNOWN)).body == b"body of /a"
            await client.send(empty + KNOWN)
            assert (await client.response()).body == b"body of /a"
        before = one.hits
        await client.ask(KNOWN)
        assert one.hits == before + 1


# What becomes of what it keeps.


async def test_what_is_past_its_freshness_is_not_given() -> None:
    origin = Origin()
    async with site(origin) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        one.clock.advance(59.9)
        assert (await client.ask(KNOWN)).field("Age") == "59"
        before = one.hits
        one.clock.advance(0.2)
        assert "hit" not in ((await client.ask(KNOWN)).field("Cache-Status") or "").split(";")
        assert (origin.asked, one.hits) == (2, before)


async def purge_url(one: Site) -> None:
    await one.purge(PurgeScope.URL, "http://example.com/a")


async def purge_softly(one: Site) -> None:
    await one.purge(PurgeScope.URL, "http://example.com/a", soft=True)


async def purge_prefix(one: Site) -> None:
    await one.purge(PurgeScope.PREFIX, "http://example.com/")


async def purge_tag(one: Site) -> None:
    await one.purge(PurgeScope.TAG, "apples")


async def purge_all(one: Site) -> None:
    await one.purge(PurgeScope.ALL, "")


async def purge_all_softly(one: Site) -> None:
    await one.purge(PurgeScope.ALL, "", soft=True)


async def delete(one: Site) -> None:
    (key,) = one.store.l1.keys_of_url("http://example.com/a")
    one.store.delete(key)


async def evict(one: Site) -> None:
    async with await RawClient.connect(one.address) as client:
        one.store.l1.max_bytes = 30_000
        await client.ask(request("/fill"))
    assert not one.store.l1.keys_of_url("http://example.com/a")


async def invalidate(one: Site) -> None:
    async with await RawClient.connect(one.address) as client:
        await client.ask(request("/a", "Content-Length: 0", method="POST"))


ENDS = [purge_url, purge_softly, purge_prefix, purge_tag, purge_all, purge_all_softly, delete, evict, invalidate]


@pytest.mark.parametrize("end", ENDS)
async def test_what_is_gone_is_never_given_again_and_its_memory_is_free(end: Callable[[Site], Any]) -> None:
    made: list[bytes] = []

    def body(request: Request) -> bytes:
        made.append(bytes([65 + len(made) % 26]) * 20_000)
        return made[-1]

    origin = Origin({**FRESH, "Cache-Tag": "apples", "Content-Type": "image/x"}, body)
    async with site(origin, l1_bytes=2_000_000) as one, await RawClient.connect(one.address) as client:
        old = await warm(one, client)
        assert old.body == made[0]
        held = made[0]
        before = one.hits
        gc.collect()
        gc.disable()
        try:
            assert sys.getrefcount(held) > 3
            await end(one)
            one.listener.settle()
            if end not in {purge_softly, purge_all_softly}:
                assert sys.getrefcount(held) <= 3  # `made`, `held` and the argument
            assert one.lane is not None
            assert one.hits == before
        finally:
            gc.enable()
        origin.body = lambda _: b"new"
        assert (await client.ask(KNOWN)).body == b"new"
        assert one.hits == before


async def test_a_response_in_place_of_another_is_given() -> None:
    origin = Origin(body=lambda _: b"old")
    async with site(origin) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        origin.body = lambda _: b"new"
        assert (await client.ask(request("/a", "Cache-Control: no-cache"))).body == b"new"
        before = one.hits
        assert (await client.ask(KNOWN)).body == b"new"
        assert one.hits == before
        assert (await warm(one, client)).body == b"new"


async def test_a_changed_marker_ends_what_it_led_to() -> None:
    origin = Origin({**FRESH, "Vary": "X-A"}, lambda request: f"{request.headers.get('X-B')}".encode())
    async with site(origin) as one, await RawClient.connect(one.address) as client:
        head = request("/a", "X-A: 1")
        assert (await warm(one, client, head)).body == b"None"
        before = one.hits
        origin.headers = {**FRESH, "Vary": "X-A, X-B"}
        assert (await client.ask(request("/a", "X-A: 2", "X-B: 2"))).body == b"2"
        origin.body = lambda _: b"new"
        assert (await client.ask(head)).body == b"new"
        assert one.hits == before


async def test_fields_of_the_marker_count_though_this_variant_does_not_vary_by_them() -> None:
    origin = Origin(
        {**FRESH, "Vary": "Accept-Language"}, lambda request: f"{request.headers.get('Accept-Language')}".encode()
    )
    async with site(origin) as one, await RawClient.connect(one.address) as client:
        await client.ask(request("/a", "Accept-Language: de"))
        origin.headers = {**FRESH, "Vary": "X-A"}
        french = request("/a", "X-A: 1", "Accept-Language: fr")
        await never_warm(one, client, french)
        got = await client.ask(request("/a", "X-A: 1", "Accept-Language: it"))
        assert got.body == b"it"


@pytest.mark.parametrize(
    "name", ["User-Agent", "Cookie", "Accept", "X-Forwarded-For", "X-Request-ID", "Via", "X-Real-IP"]
)
@pytest.mark.parametrize("how", ["vary", "key"])
async def test_what_varies_by_a_field_that_is_passed_over_or_made_here_is_not_shared(name: str, how: str) -> None:
    origin = Origin(
        {**FRESH, **({"Vary": name} if how == "vary" else {})}, lambda request: f"{request.headers.get(name)}".encode()
    )
    keyed = partial(built_in, cache={"key_headers": [name] if how == "key" else []})
    async with site(origin, plugins=keyed) as one, await RawClient.connect(one.address) as client:
        for _ in range(4):
            for value in ("one", "two"):
                got = await client.ask(request("/a", f"{name}: {value}"))
                if name in {"User-Agent", "Cookie", "Accept"}:
                    assert got.body == value.encode()
        assert one.hits == 0


async def test_what_varies_by_another_field_is_shared_by_those_that_agree_in_it() -> None:
    origin = Origin({**FRESH, "Vary": "X-A"}, lambda request: f"{request.headers.get('X-A')}".encode())
    async with site(origin) as one, await RawClient.connect(one.address) as client:
        for value in ("1", "2"):
            assert (await warm(one, client, request("/a", f"X-A: {value}"))).body == value.encode()
        before = one.hits
        for number in range(10):
            got = await client.ask(request("/a", f"X-Request-ID: {number}", f"X-A: {number % 2 + 1}"))
            assert got.body == b"%d" % (number % 2 + 1)
        assert one.hits == before + 10


async def test_the_origin_need_not_say_the_date() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        first = await client.ask(KNOWN)
        await warm(one, client)
        one.clock.advance(30)
        assert (await client.ask(KNOWN)).field("Date") == first.field("Date")


# Peers.


async def test_peers_that_are_trusted_and_others_never_share() -> None:
    origin = Origin(body=lambda request: request.scheme.encode())
    async with site(origin, trusted_proxies="127.0.0.2/32") as one:
        head = request("/a", "X-Forwarded-Proto: https")
        async with await RawClient.connect(one.address) as client, await trusted_client(one) as proxy:
            assert (await warm(one, client, head)).body == b"http"
            assert (await proxy.ask(head)).body == b"https"
            assert (await warm(one, proxy, head)).body == b"https"
            assert (await client.ask(head)).body == b"http"


async def trusted_client(one: Site) -> RawClient:
    return RawClient(*await asyncio.open_connection(one.address.host, one.address.port, local_addr=("127.0.0.2", 0)))


async def test_hosts_in_a_list_go_with_the_addresses_in_theirs() -> None:
    origin = Origin(body=lambda request: request.host.encode())
    async with site(origin, trusted_proxies="127.0.0.2/32, 10.0.0.0/8") as one, await trusted_client(one) as proxy:
        for _ in range(5):
            for addresses, host in (("9.9.9.9, 10.0.0.1", "one"), ("9.9.9.9, 9.9.9.8", "two")):
                got = await proxy.ask(request("/a", f"X-Forwarded-For: {addresses}", "X-Forwarded-Host: one, two"))
                assert got.body == host.encode()


async def test_clients_behind_a_proxy_have_their_own_accounts_and_log_lines() -> None:
    plugins = partial(built_in, rate_limit={"rules": [{"name": "all", "rate": 10, "period_seconds": 1000}]})
    with capture_logs() as lines:
        async with (
            site(Origin(), plugins=plugins, trusted_proxies="127.0.0.2/32") as one,
            await trusted_client(one) as proxy,
        ):
            for number in range(5):
                for client in ("192.0.2.1", "192.0.2.2, 127.0.0.2", "192.0.2.3"):
                    got = await proxy.ask(
                        request("/a", f"X-Forwarded-For: {client}", f"X-Request-ID: {client[:9]}-{number}")
                    )
                    assert f"r={9 - number};" in (got.field("RateLimit") or "")
            assert one.hits > 8
    logged = [(line["client"], line["request_id"]) for line in lines if line["event"] == "request"]
    assert sorted(logged) == sorted(
        (f"192.0.2.{client}", f"192.0.2.{client}-{number}") for client in (1, 2, 3) for number in range(5)
    )


# What plugins say, and what is counted.


async def test_a_limit_reached_is_told_by_the_pipeline_and_each_request_is_charged_once() -> None:
    rules = [{"name": "all", "rate": 10, "period_seconds": 10}, {"name": "wide", "rate": 100, "period_seconds": 10}]
    plugins = partial(built_in, rate_limit={"rules": rules})
    async with site(Origin(), plugins=plugins) as one, await RawClient.connect(one.address) as client:
        for left in range(9, -1, -1):
            got = await client.ask(KNOWN)
            assert got.status == 200
            assert f'"all";r={left};' in (got.field("RateLimit") or "")
            assert f'"wide";r={left + 90};' in (got.field("RateLimit") or "")
        assert one.hits == 8
        refused = await client.ask(KNOWN)
        assert refused.status == 429
        assert refused.field("Retry-After") == "1"
        assert refused.field("Content-Type") == "application/problem+json"
        assert '"all";r=0;t=1' in (refused.field("RateLimit") or "")
        one.clock.advance(1)
        assert (await client.ask(KNOWN)).status == 200
        assert (await client.ask(KNOWN)).status == 429
        assert one.hits == 9
        for rule in ("all", "wide"):
            assert one.sample("sidecache_rate_limit_decisions_total", rule=rule, decision="admitted") == 11
        assert one.sample("sidecache_rate_limit_decisions_total", rule="all", decision="refused") == 2


@pytest.mark.parametrize("lane_bytes", [0, 1 << 20])
async def test_every_request_is_counted_and_logged_lane_or_not(lane_bytes: int) -> None:
    routes = [Route("items", path="/items/*"), Route("others", path="/others/*")]
    heads = [request(f"/{kind}/1", f"X-Request-ID: {number}") for number in range(20) for kind in ("items", "others")]
    heads += [request("/items/1", 'If-None-Match: "v1"')] * 10
    with capture_logs() as lines:
        async with (
            site(Origin(), routes=routes, lane_bytes=lane_bytes) as one,
            await RawClient.connect(one.address) as client,
        ):
            for head in heads:
                await client.ask(head)
            assert one.hits == (44 if lane_bytes else 0)
            count = "sidecache_request_duration_seconds_count"
            assert one.sample(count) == 50 == one.sample("sidecache_first_byte_seconds_count")
            assert (one.sample(count, route="items"), one.sample(count, route="others")) == (30, 20)
            results = "sidecache_cache_requests_total"
            assert (one.sample(results, result="hit"), one.sample(results, result="miss")) == (48, 2)
            assert one.sample(results, result="hit", route="items") == 29
            assert one.sample("sidecache_cache_served_bytes_total", route="items") == 19 * len("body of /items/1")
            assert one.store.l1.hits == 48
            assert one.sample("sidecache_server_requests_in_flight") == 0
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 50
    assert sorted(line["status"] for line in requests) == [200] * 40 + [304] * 10
    alike = [
        {k: v for k, v in line.items() if not k.endswith("_ms") and k != "timestamp"}
        for line in requests
        if line["target"] == "/items/1" and line["cache"] == "hit" and line["status"] == 200
    ]
    assert len({line.pop("request_id") for line in alike}) == 19
    assert all(line == alike[0] for line in alike)


async def test_a_clients_requests_are_logged_in_their_order_whoever_answered() -> None:
    with capture_logs() as lines:
        async with site(Origin()) as one, await RawClient.connect(one.address) as client:
            await warm(one, client, request("/a"))
            for number in range(5):
                await client.ask(request("/a"))
                await client.ask(request(f"/{number}"))
    assert [line["target"] for line in lines if line["event"] == "request"][-10:] == [
        target for number in range(5) for target in ("/a", f"/{number}")
    ]


async def test_what_a_line_of_the_log_tells_of_the_head_is_of_this_request() -> None:
    plugins = partial(built_in, access_log={"request_headers": ["User-Agent", "X-Nothing"]})
    trace = "00-4bf92f3577b34da6a3ce929d0e0e47%02d-00f067aa0ba902b7-01"
    for lane_bytes in (0, 1 << 20):
        with capture_logs() as lines:
            async with (
                site(Origin(), plugins=plugins, lane_bytes=lane_bytes) as one,
                await RawClient.connect(one.address) as client,
            ):
                for number in range(10, 16):
                    await client.ask(request("/a", f"User-Agent: agent {number}", f"traceparent: {trace % number}"))
                await client.ask(request("/a"))
        requests = [line for line in lines if line["event"] == "request"]
        assert [line["request_headers"] for line in requests] == [
            *({"user-agent": f"agent {n}"} for n in range(10, 16)),
            {},
        ]
        assert [line.get("trace_id") for line in requests] == [
            *((trace % n).split("-")[1] for n in range(10, 16)),
            None,
        ]


async def test_a_field_with_several_lines_is_logged_whole() -> None:
    plugins = partial(built_in, access_log={"request_headers": ["Cookie"]})
    trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with capture_logs() as lines:
        async with site(Origin(), plugins=plugins) as one, await RawClient.connect(one.address) as client:
            await warm(one, client, request("/a", "Cookie: a", "Cookie: b", trace, trace))
    requests = [line for line in lines if line["event"] == "request"]
    assert {line["request_headers"]["cookie"] for line in requests} == {"a, b"}
    assert not any("trace_id" in line for line in requests)


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "x-request-id"])
async def test_a_rule_by_a_field_that_is_made_here_goes_by_what_is_made(name: str) -> None:
    rule = {"name": "all", "rate": 10, "period_seconds": 1000, "key": {"header": name}}
    plugins = partial(built_in, rate_limit={"rules": [rule]})
    for lane_bytes in (0, 1 << 20):
        left = []
        bench = site(Origin(), plugins=plugins, lane_bytes=lane_bytes)
        async with bench as one, await RawClient.connect(one.address) as client:
            for _ in range(6):
                got = await client.ask(request("/a", f"{name}: 9.9.9.9"))
                left.append((got.field("RateLimit") or "").split(";")[1])
        assert left == (["r=9"] * 6 if name == "x-request-id" else [f"r={9 - number}" for number in range(6)])


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Request-ID", "via"])
async def test_a_field_that_is_made_here_is_logged_as_made(name: str) -> None:
    plugins = partial(built_in, access_log={"request_headers": [name]})
    with capture_logs() as lines:
        async with site(Origin(), plugins=plugins) as one, await RawClient.connect(one.address) as client:
            for _ in range(5):
                await client.ask(request("/a", f"{name}: given"))
            assert one.hits == 0
    logged = [line["request_headers"][name.lower()] for line in lines if line["event"] == "request"]
    expected = {"x-forwarded-for": "127.0.0.1", "via": "given, 1.1 sidecache"}.get(name.lower())
    assert len(logged) == 5
    assert "given" not in logged
    assert expected is None or set(logged) == {expected}


# Plugins of others.


class Never(Plugin[PluginSettings]):
    """Must see each exchange."""

    name = "never"
    settings_type = PluginSettings
    seen = 0

    @override
    async def on_request(self, exchange: Exchange) -> None:
        self.seen += 1


class PureOfAll(Plugin[PluginSettings]):
    """Its effect may depend on any field."""

    name = "pure"
    settings_type = PluginSettings
    replay: ClassVar[Replay] = Replay.PURE

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        headers = response.headers.copy()
        headers["X-Agent"] = exchange.request.headers.get("User-Agent", "")
        return response.with_headers(headers)


class PureOfAgent(PureOfAll):
    """Says which one."""

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return frozenset({"user-agent"})


class Broken(PureOfAgent):
    """Fails when it is asked."""

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart | None:
        raise ValueError("no")


def before_the_cache(kind: type[Plugin[Any]]) -> Callable[[Services], Sequence[Plugin[Any]]]:
    return lambda services: [kind(PluginSettings(), services), Cache(CacheSettings(), services)]


async def test_a_plugin_that_must_see_each_exchange_sees_each() -> None:
    async with site(Origin(), plugins=before_the_cache(Never)) as one, await RawClient.connect(one.address) as client:
        await never_warm(one, client)
        (plugin, _) = one.application.pipeline.plugins
        assert isinstance(plugin, Never)
        assert plugin.seen == 6


@pytest.mark.parametrize("kind", [PureOfAll, PureOfAgent])
async def test_a_plugin_that_heeds_a_field_gets_its_way(kind: type[Plugin[Any]]) -> None:
    async with site(Origin(), plugins=before_the_cache(kind)) as one, await RawClient.connect(one.address) as client:
        for agent in ("one", "two"):
            assert (await warm(one, client, request("/a", f"User-Agent: {agent}"))).field("X-Agent") == agent
        before = one.hits
        assert (await client.ask(request("/a", "User-Agent: three"))).field("X-Agent") == "three"
        assert one.hits == before
        await client.ask(request("/a", "User-Agent: one", "Cookie: a"))
        assert one.hits == before + (kind is PureOfAgent)


async def test_a_plugin_that_fails_to_say_keeps_the_answer_from_being_kept() -> None:
    async with site(Origin(), plugins=before_the_cache(Broken)) as one, await RawClient.connect(one.address) as client:
        assert (await never_warm(one, client)).status == 200
        assert one.sample("sidecache_plugin_failures_total", plugin="pure", hook="on_replay") == 5


async def test_other_plugins_void_everything() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        before = one.hits
        await one.replace_plugins(before_the_cache(PureOfAgent))
        assert (await client.ask(KNOWN)).field("X-Agent") == ""
        assert one.hits == before
        assert (await warm(one, client)).field("X-Agent") == ""


async def test_a_key_from_before_other_plugins_is_not_used() -> None:
    async with site(Origin()) as one, await RawClient.connect(one.address) as client:
        plain, agent = request("/a"), request("/a", "User-Agent: one")
        await client.ask(plain)
        old = one.application.pipeline
        await one.replace_plugins(before_the_cache(PureOfAgent))
        new, one.application.pipeline = one.application.pipeline, old
        one.listener.application_changed()
        await client.ask(plain)  # seen once, by the names of old
        connection = next(iter(one.listener._protocols.clients))
        connection.data_received(agent)  # wanted, under the key of `plain`
        assert connection.reply_key == plain
        one.application.pipeline = new
        one.listener.application_changed()
        assert (await client.response()).field("X-Agent") == "one"
        assert (await client.ask(plain)).field("X-Agent") == ""
        await new.close()
        one.application.pipeline = old


# Slow clients, timers, the end.


async def test_a_client_that_does_not_read_holds_up_nobody_and_loses_nothing() -> None:
    origin = Origin({**FRESH, "Content-Type": "image/x"}, lambda request: request.target[1:].encode() * LARGE)
    async with site(origin) as one, await RawClient.connect(one.address) as other:
        for target in ("/a", "/b"):
            await warm(one, other, request(target))
        async with await RawClient.connect(one.address, receive_buffer_bytes=4096) as client:
            heads = [request("/b" if number % 3 else "/a") for number in range(60)]
            sending = asyncio.ensure_future(client.send(*heads))
            most = 0
            for _ in range(50):
                assert (await other.ask(KNOWN)).body[:1] == b"a"
                for connection in one.listener._protocols.clients:
                    if connection.transport is not None:
                        most = max(most, connection.transport.get_write_buffer_size())
            assert most < 4 * LARGE
            for head in heads:
                got = await client.response()
                assert got.body == head.split()[1][1:] * LARGE
            await sending


ENDS_OF_CONNECTIONS: list[Callable[[Connection, Site], object]] = [
    lambda connection, _: connection.force_close(),
    lambda connection, _: connection.cut(),
    lambda connection, _: connection.reset(),
    lambda connection, _: connection.eof_received(),
    lambda _, one: one.listener._protocols.close_idle(),
    lambda _, one: one.listener._protocols.cut(),
]


@pytest.mark.parametrize("end", ENDS_OF_CONNECTIONS)
async def test_what_was_answered_is_sent_though_the_connection_ends_in_the_same_turn(
    end: Callable[[Connection, Site], object],
) -> None:
    async with site(Origin()) as one:
        async with await RawClient.connect(one.address) as client:
            await warm(one, client)
        connection = one.listener._protocols()
        wire = Wire(connection)
        before = one.hits
        connection.data_received(KNOWN)
        assert one.hits == before + 1
        end(connection, one)
        assert wire.sent.endswith(b"body of /a")
        await wire.leave()


async def test_answers_of_the_lane_and_of_the_pipeline_leave_in_their_order() -> None:
    async with site(Origin()) as one:
        async with await RawClient.connect(one.address) as client:
            await warm(one, client)
        connection = one.listener._protocols()
        wire = Wire(connection)
        connection.data_received(KNOWN)
        connection.data_received(KNOWN)
        connection.data_received(b"BAD\r\n\r\n")
        await eventually(lambda: wire.over)
        assert [part[:3] for part in wire.sent.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"501"]
        await wire.leave()


async def test_a_connection_that_only_the_lane_has_served_is_closed_when_it_idles() -> None:
    async with site(Origin(), keep_alive_timeout_seconds=1.0) as one:
        async with await RawClient.connect(one.address) as first:
            await warm(one, first)
        async with await RawClient.connect(one.address) as client:
            began = asyncio.get_running_loop().time()
            for _ in range(6):
                before = one.hits
                assert (await client.ask(KNOWN)).status == 200
                assert one.hits == before + 1
                await asyncio.sleep(0.25)  # the timer is set anew by each of them
            assert await client.closed()
            assert 2.2 < asyncio.get_running_loop().time() - began < 9


async def test_half_a_head_behind_what_the_lane_has_answered_is_given_its_time_and_no_more() -> None:
    async with site(Origin(), header_timeout_seconds=0.2) as one:
        async with await RawClient.connect(one.address) as first:
            await warm(one, first)
        async with await RawClient.connect(one.address) as client:
            for _ in range(3):
                await client.ask(KNOWN)
            await client.send(KNOWN[:-1])
            assert (await client.response()).status == 408
            assert await client.closed()


async def test_at_the_end_each_connection_gets_whole_answers_and_then_its_end() -> None:
    async with site(Origin(body=lambda _: b"x" * 5_000), drain_timeout_seconds=5.0) as one:
        clients = [await RawClient.connect(one.address) for _ in range(10)]
        await warm(one, clients[0])
        stop = asyncio.Event()

        async def busy(client: RawClient) -> int:
            asked = 0
            try:
                while True:
                    got = await client.ask(KNOWN)
                    assert len(got.body) == 5_000
                    asked += 1
                    if got.field("Connection") == "close":
                        assert await client.closed()
                        return asked
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                partial_bytes = getattr(error, "partial", b"")
                assert partial_bytes == b""  # an end between answers, never within one
                return asked
            finally:
                stop.set()

        running = [asyncio.ensure_future(busy(client)) for client in clients]
        await eventually(lambda: one.hits > 100)
        assert await one.listener.drain() is True
        assert sum(await asyncio.gather(*running)) >= 100
        for client in clients:
            await client.close()
        assert not one.listener._protocols.clients
        hits = one.hits
        assert one.sample("sidecache_request_duration_seconds_count") >= hits


async def test_the_key_of_the_marker_is_watched_too() -> None:
    origin = Origin({**FRESH, "Vary": "X-A"})
    async with site(origin) as one, await RawClient.connect(one.address) as client:
        await warm(one, client)
        (marker,) = [key for key in one.store.l1.keys_of_url("http://example.com/a") if not key.variant]
        one.store.delete(CacheKey(marker.primary))
        before = one.hits
        await client.ask(KNOWN)
        assert (one.hits, origin.asked) == (before, 2)
