"""The fast lane is a shortcut and nothing else: with it and without it, the same bytes get the same bytes.

Two whole sites, one with the lane and one without, stand before the same origin under the same clock, and are given the
same chunks. As the clock stands still but for what the test says, the answers are equal in every byte, `Age`, `Date`
and `RateLimit` among them.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from proxy.http.message import Request, Response
from proxy.pipeline.replay import PASSED_OVER
from tests.support.plugin_harness import response
from tests.support.site import Site, built_in, site
from tests.support.wire import Wire

JSON: Final = b'{"name": "value"}' * 100
LEVELS: Final = {"br": 4, "zstd": 3, "gzip": 5}
PLUGINS: Final = partial(
    built_in,
    # The forms that are kept are made as those that are sent once: when they are made is nobody's concern here.
    compression={"levels": LEVELS, "stored_levels": LEVELS},
    rate_limit={"rules": [{"name": "all", "rate": 25, "period_seconds": 10}]},
    access_log={"sample": 0},
)
TAGGED: Final = {"Cache-Control": "max-age=60", "ETag": '"v1"', "Last-Modified": "Tue, 14 Nov 2023 00:00:00 GMT"}
RESOURCES: Final = {
    "/text": (b"plain text", {"Cache-Control": "max-age=60", "Content-Type": "text/plain"}),
    "/tagged": (b"tagged text", TAGGED),
    "/json": (JSON, {**TAGGED, "Content-Type": "application/json"}),
    "/short": (b"not for long", {"Cache-Control": "max-age=2, stale-while-revalidate=3"}),
    "/none": (b"never kept", {"Cache-Control": "no-store"}),
    "/private": (b"mine", {"Cache-Control": "private, max-age=60"}),
    "/language": (b"varies", {"Cache-Control": "max-age=60", "Vary": "Accept-Language"}),
    "/agent": (b"varies", {"Cache-Control": "max-age=60", "Vary": "User-Agent, X-Request-ID"}),
    "/coding": (b"varies", {"Cache-Control": "max-age=60", "Vary": "Accept-Encoding, X-Other"}),
    "/dated": (b"long ago", {"Cache-Control": "max-age=60", "Age": "7", "Date": "Tue, 14 Nov 2023 22:13:10 GMT"}),
    "/empty": (b"", {"Cache-Control": "max-age=60"}),
}


COUNTED: Final = (
    "sidecache_request_duration_seconds_count", "sidecache_first_byte_seconds_count", "sidecache_cache_requests_total",
    "sidecache_cache_reasons_total", "sidecache_cache_served_bytes_total", "sidecache_compression_responses_total",
    "sidecache_rate_limit_decisions_total", "sidecache_server_refused_requests_total",
)  # fmt: skip


def origin(request: Request) -> Response:
    """Answers that depend on the request alone, and tell which of its fields they depend on."""
    body, headers = RESOURCES.get(request.path, (b"", {}))
    if request.method not in {"GET", "HEAD"}:
        return response(200, b"done", {"Cache-Control": "no-store"})
    if request.path not in RESOURCES:
        return response(404, b"no", {"Cache-Control": "max-age=60"})
    if "ETag" in headers and request.headers.get("If-None-Match") == headers["ETag"]:
        return response(304, b"", headers)
    for name in headers.get("Vary", "").split(", "):
        if name and name != "X-Request-ID":
            body += f" {request.headers.get(name)}".encode("utf-8", "surrogateescape")
    body += f" {request.host}".encode() if body else b""
    return response(200, body, headers)


@dataclass(frozen=True)
class Chunk:
    """What arrives at once.

    Attributes:
        settled: everything before it has been answered by then.
        seconds: that have passed since; only when settled.
    """

    data: bytes
    settled: bool = True
    seconds: float = 0.0


# What clients send.

TARGETS: Final = st.sampled_from([*RESOURCES, "/missing", "/text?q=1", "http://example.com/text", "/%74ext"])
VALUES: Final = st.sampled_from(
    ["", "a", "b", "a, b", "x=1; y=2", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
)
PASSED: Final = st.builds("{}: {}".format, st.sampled_from(sorted(PASSED_OVER)), VALUES)
ODD: Final = st.sampled_from([
    "user-agent: one\r\nUser-Agent: two", "Cookie: a\r\n folded", "Cookie : a", " Cookie: a", "Cookie: a\x00b",
    "Cookie: \x80\xff", "Cookie: a\rb", "Cookie: a\nb", "\r\nCookie: a", "COOKIE:\t a \t", "Cookie", ": a", "Cookie:",
    "X-Forwarded-For: 10.0.0.1, 192.0.2.9", "X-Forwarded-Host: other", "X-Forwarded-Proto: https, http",
    "X-Forwarded-Host: one, two", "Forwarded: for=192.0.2.1", "Host: twice", "Content-Length: 0", "Content-Length: x",
])  # fmt: skip
HEEDED: Final = st.sampled_from([
    "Accept-Encoding: gzip", "accept-encoding: br, gzip;q=0.5", "Accept-Encoding: identity;q=0", 'If-None-Match: "v1"',
    'If-None-Match: "v2"', "If-None-Match: *", "If-Modified-Since: Tue, 14 Nov 2023 00:00:00 GMT", 'If-Match: "v1"',
    "Range: bytes=0-3", "Range: bytes=2-", "Range: bytes=90000-", 'If-Range: "v1"', "Cache-Control: no-cache",
    "Cache-Control: max-age=1", "cache-control: only-if-cached", "Pragma: no-cache", "Authorization: Basic eDp5",
    "X-Other: 1", "X-HTTP-Method-Override: DELETE", "Connection: keep-alive", "Connection: Cookie, User-Agent",
    "TE: trailers", "Max-Forwards: 1",
])  # fmt: skip
ENDING: Final = st.sampled_from([
    "Connection: close", "Upgrade: websocket\r\nConnection: upgrade",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
    "Expect: 100-continue", "Expect: nonsense", "Transfer-Encoding: gzip, chunked",
])  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request; most are plain."""
    kind = draw(
        st.sampled_from(["plain"] * 6 + ["fields"] * 4 + ["odd", "ending", "version", "body", "chunked", "garbage"])
    )
    method, version, body = draw(st.sampled_from(["GET", "GET", "GET", "HEAD"])), "1.1", b""
    lines = draw(st.lists(PASSED, max_size=3))
    host = draw(st.sampled_from(["Host: example.com"] * 6 + ["host: example.com", "Host: EXAMPLE.com", "Host: other"]))
    match kind:
        case "fields":
            lines += draw(st.lists(HEEDED, min_size=1, max_size=2))
        case "odd":
            lines.append(draw(ODD))
        case "ending":
            lines.append(draw(ENDING))
        case "version":
            version = draw(st.sampled_from(["1.0", "1.0", "0.9", "1.2", "2.0"]))
            lines += draw(st.lists(st.just("Connection: keep-alive"), max_size=1))
        case "body":
            method = draw(st.sampled_from(["POST", "PUT", "GET", "DELETE"]))
            body = draw(
                st.sampled_from(
                    [b"", b"x", b"ends like a head\r\n\r\n", b"GET /text HTTP/1.1\r\nHost: example.com\r\n\r\n"]
                )
            )
            lines.append(f"Content-Length: {len(body)}")
        case "chunked":
            method = draw(st.sampled_from(["POST", "GET"]))
            body = draw(
                st.sampled_from(
                    [b"0\r\n\r\n", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"1\r\nx\r\n0\r\nX: y\r\n\r\n", b"zz\r\n\r\n"]
                )
            )
            lines.append("Transfer-Encoding: chunked")
        case _:
            return draw(
                st.sampled_from(
                    [
                        b"\r\n",
                        b"\r\n\r\n",
                        b"\n",
                        b"GET\r\n\r\n",
                        b"\x16\x03\x01",
                        b"GET / HTTP/1.1\r\n\r\n",
                        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    ]
                )
            )
    lines.insert(draw(st.integers(0, len(lines))), host)
    head = "\r\n".join([f"{method} {draw(TARGETS)} HTTP/{version}", *lines, "", ""])
    return head.encode("latin-1") + body


PLAIN: Final = b"GET /text HTTP/1.1\r\nHost: example.com\r\n\r\n"
HIDING: Final = (
    b"GET /tagged HTTP/1.1\r\nX: ",
    b"GET /tagged HTTP/1.1\r\nX-Other: a\r\n ",
    b"GET /tagged HTTP/1.1\r\nHost: other\r\nCookie: a\r\n",
    b"PUT /none HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n",
    b"GET /none HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n",
    b"PUT /none HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n",
    b"PUT /none HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n%x\r\n",
    b"PUT /none HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    b"GET /none HTTP/1.1\r\nHost: example.com\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: %d\r\n\r\n",
    b"\r\n",
)
"""What may stand before a whole request so that it is none, or is one all the same."""


def hiding(how: bytes, data: bytes) -> bytes:
    return how % len(data) if b"%" in how else how


@st.composite
def streams(draw: st.DrawFn) -> list[Chunk]:
    """What one connection brings: some requests, several of them many times, cut anywhere."""
    palette = draw(st.lists(requests(), min_size=1, max_size=3))
    chosen = draw(st.lists(st.sampled_from(palette), min_size=4, max_size=16))
    if draw(st.booleans()):
        chosen = sorted(chosen, key=palette.index)  # the same again and again: what the lane is for
    chunks: list[Chunk] = []
    late = st.sampled_from([0.0] * 6 + [0.4, 1.0, 1.7, 4.0, 70.0])
    pending = b""
    for data in chosen:
        pending += data
        how = draw(st.sampled_from(["whole"] * 10 + ["cut", "cut", "joined", "hidden"]))
        if how == "joined":
            continue
        if how == "hidden":
            chunks.append(Chunk(pending + hiding(draw(st.sampled_from(HIDING)), data), draw(st.booleans())))
            pending = b""
            chunks.append(Chunk(data, draw(st.booleans())))
            continue
        cuts = sorted(draw(st.lists(st.integers(0, len(pending)), max_size=3))) if how == "cut" else []
        for start, end in zip([0, *cuts], [*cuts, len(pending)], strict=True):
            settled = draw(st.sampled_from([True] * 6 + [False]))
            chunks.append(Chunk(pending[start:end], settled, draw(late) if settled else 0.0))
        pending = b""
    return [*chunks, Chunk(pending)]


# What servers answer.


async def answers(one: Site, chunks: Sequence[Chunk], peer: str = "192.0.2.1") -> tuple[bytes, bool]:
    """Everything that a client gets for `chunks`, and whether the connection is over then."""
    wire = Wire(one.listener.connection(), peer)
    for chunk in chunks:
        if chunk.settled:
            await wire.settle()
            one.clock.advance(chunk.seconds)
        await wire.feed(chunk.data)
    await wire.settle()
    result = wire.sent, wire.over
    await wire.leave()
    return result


async def compared(connections: Sequence[tuple[str, Sequence[Chunk]]], **more: object) -> int:
    """Check that both sites answer alike; how many requests the lane has answered."""
    async with AsyncExitStack() as stack:
        fast = await stack.enter_async_context(site(origin, plugins=PLUGINS, trusted_proxies="10.0.0.0/8", **more))  # type: ignore[arg-type]  # settings
        full = await stack.enter_async_context(
            site(origin, plugins=PLUGINS, trusted_proxies="10.0.0.0/8", lane_bytes=0, **more)  # type: ignore[arg-type]  # settings
        )
        for peer, chunks in connections:
            assert await answers(fast, chunks, peer) == await answers(full, chunks, peer)
        for name in COUNTED:
            assert fast.sample(name) == full.sample(name), name
        assert full.hits == 0
        return fast.hits


PEERS: Final = st.sampled_from(["192.0.2.1", "192.0.2.1", "192.0.2.2", "10.0.0.1"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(PEERS, streams()), min_size=1, max_size=3))
@example([("192.0.2.1", [Chunk(PLAIN)] * 4)])
@example([("192.0.2.1", [Chunk(PLAIN)] * 4 + [Chunk(PLAIN[:9], settled=False), Chunk(PLAIN[9:], settled=False)])])
@example([("192.0.2.1", [Chunk(PLAIN)] * 4), ("10.0.0.1", [Chunk(PLAIN)] * 4)])
def test_with_and_without_the_lane_every_byte_is_the_same(connections: list[tuple[str, list[Chunk]]]) -> None:
    hits = asyncio.run(compared(connections))
    event("the lane answered " + ("none" if not hits else "some" if hits < 6 else "many"))


@pytest.mark.parametrize("how", HIDING)
@pytest.mark.parametrize("waiting", [b"", b"GET /tagged HTTP/1.1\r\nHost: example.com\r\n\r\n"])
@pytest.mark.parametrize("settled", [False, True])
async def test_a_known_head_is_no_request_where_it_belongs_to_something_else(
    how: bytes, waiting: bytes, settled: bool
) -> None:
    known = [Chunk(PLAIN)] * 4
    around = [Chunk(waiting), Chunk(hiding(how, PLAIN), settled=False), Chunk(PLAIN, settled)]
    assert await compared([("192.0.2.1", [*known, *around, Chunk(PLAIN), *known])]) >= 2
    joined = [Chunk(waiting + hiding(how, PLAIN)), Chunk(PLAIN, settled), Chunk(b"\r\n0\r\n\r\n", settled)]
    assert await compared([("192.0.2.1", [*known, *joined, Chunk(PLAIN), *known])]) >= 2
