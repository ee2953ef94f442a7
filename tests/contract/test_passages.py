"""The ways past the pipeline are a shortcut and nothing else: with them and without, the same bytes get the same bytes.

Two whole sites, one that lets requests go past its pipeline and one that does not, stand before the same origin, each
over a pool of its own and real sockets, under the same clock. Clients send both the same chunks, and the origin answers
both with the same pieces. What clients get, what the origin is asked, and what is counted must be equal.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.contract.test_lanes import ENDING, HEEDED, HIDING, ODD, PASSED, Chunk, hiding
from tests.support.passing import DATE, Call, PassingSite, Script, ok, passing_site, silent_plugins
from tests.support.raw_client import request
from tests.support.site import LANE_BYTES

TRUSTED: Final = "10.0.0.0/8"
PLUGINS: Final = partial(silent_plugins, circuit_breaker={"jitter": 0.0})  # what is random cannot be compared
COUNTED: Final = (
    "sidecache_request_duration_seconds_count", "sidecache_first_byte_seconds_count",
    "sidecache_upstream_seconds_count", "sidecache_cache_requests_total", "sidecache_cache_reasons_total",
    "sidecache_cache_served_bytes_total", "sidecache_compression_responses_total", "sidecache_compression_bytes_total",
    "sidecache_upstream_requests_total", "sidecache_upstream_retries_total", "sidecache_upstream_failures_total",
    "sidecache_server_aborted_responses_total", "sidecache_server_refused_requests_total",
    "sidecache_circuit_failures_total", "sidecache_circuit_refused_total", "sidecache_circuit_transitions_total",
    "sidecache_plugin_failures_total", "sidecache_server_requests_in_flight", "sidecache_upstream_waiting",
)  # fmt: skip
_OWN_ID: Final = re.compile(rb"(?i:x-request-id): [0-9a-f]{12}-[0-9a-f]+")


@dataclass(frozen=True)
class Answer:
    """What the origin answers.

    Attributes:
        pieces: it writes.
        close: it closes then.
    """

    pieces: tuple[bytes, ...]
    close: bool = False


def playing(answers: Mapping[str, Sequence[Answer]]) -> Script:
    """Each target has its answers, in turn."""

    async def script(call: Call) -> bool:
        mine = answers.get(call.target) or [Answer((ok(b"other"),))]
        answer = mine[(call.number - 1) % len(mine)]
        await call.send(*answer.pieces)
        return not answer.close

    return script


# What clients get.


def asked(site: PassingSite) -> list[list[bytes]]:
    """What the origin was asked, in any order of fields; its port, and ids that the sidecar made, are its own."""
    heads: list[list[bytes]] = []
    own_host = b"\r\nHost: " + (site.origin.url.partition("//")[2] or "localhost").encode()
    for head in site.origin.heads:
        told = _OWN_ID.sub(b"X-Request-ID: made", head).replace(own_host, b"\r\nHost: origin")
        first, *lines = told.split(b"\r\n")
        fields = [line.partition(b":") for line in lines]
        heads.append([first, *sorted(name.lower() + b": " + value.strip(b" \t") for name, _, value in fields)])
    return heads


async def received(site: PassingSite, chunks: Sequence[Chunk], peer: str) -> tuple[bytes, bool]:
    """Everything that a client gets for `chunks`, and whether the connection is over then."""
    wire = site.wire(peer)
    for chunk in chunks:
        if chunk.settled:
            await site.settle(wire)
            site.clock.advance(chunk.seconds)
        await wire.feed(chunk.data)
    await site.settle(wire)
    result = wire.sent, wire.over
    await wire.leave()
    return result


@dataclass(frozen=True)
class Observed:
    """What is to be the same of two sites: bytes, requests, counters, and the state that the upstream is left in."""

    received: list[tuple[list[bytes], bool]]
    asked: list[list[bytes]]
    counted: dict[str, float]
    unused: bool
    health: str


async def observed(
    answers: Mapping[str, Sequence[Answer]],
    connections: Sequence[tuple[str, Sequence[Chunk]]],
    lane_bytes: int,
    **options: Any,
) -> tuple[Observed, int]:
    """What one site did, and how many requests went past its pipeline."""
    async with passing_site(
        playing(answers), plugins=PLUGINS, trusted_proxies=TRUSTED, lane_bytes=lane_bytes, **options
    ) as site:
        got = [await received(site, chunks, peer) for peer, chunks in connections]
        pool = site.pool.stats()
        return Observed(
            [(sent.split(b"HTTP/1.1 "), over) for sent, over in got],
            asked(site),
            site.samples(COUNTED),
            pool["open"] == pool["idle"],
            site.pool.health.state.value,
        ), site.crossed


async def compared(
    answers: Mapping[str, Sequence[Answer]], connections: Sequence[tuple[str, Sequence[Chunk]]], **options: Any
) -> int:
    """Check that both sites do alike; how many requests went past the pipeline.

    Args:
        options: of both sites, see `passing_site`.
    """
    quick, crossed = await observed(answers, connections, LANE_BYTES, **options)
    whole, none = await observed(answers, connections, 0, **options)
    assert quick.received == whole.received
    assert quick.asked == whole.asked
    assert quick.counted == whole.counted
    assert quick == whole
    assert whole.unused
    assert none == 0
    return crossed


# What the origin answers.

FIELDS: Final = st.sampled_from([
    "Content-Type: text/plain", "Content-Type: application/json", "Content-Type: image/png", 'ETag: "v1"',
    'ETag: W/"v2"', 'etag: "v3"', "ETag: none", "ETag:", 'ETag: "v1" ', "Last-Modified: Tue, 14 Nov 2023 00:00:00 GMT",
    "Set-Cookie: a=1", "Set-Cookie: b=2; Secure", "X-Request-ID: 1", "X-Request-Id: 2", "X-Runtime: 0.001",
    "Server-Timing: db;dur=53", "Server-Timing: db;dur=7, app", "X-Response-Time:\t5ms", "X-Runtime: \x80\xff",
    "Request-Id: a\r\n folded", "X-Runtime: 0.1\r\n\tfolded", "Age: 7", "Vary: Accept-Encoding", "Vary: *",
    "Cache-Control: no-cache", "Expires: 0", "Warning: 199 - x", "Server: nginx", "Keep-Alive: timeout=5",
    "Connection: keep-alive", "Connection: ETag, Set-Cookie", "Connection: X-Runtime", "Proxy-Authenticate: Basic",
    "Content-Encoding: gzip", "Content-Encoding: identity", "Cache-Control: no-transform", "Trailer: X-Sum",
    "Via: 1.1 other", "Cache-Status: other;hit", "X-Empty:", "Content-Range: bytes 0-3/10", "Location: /elsewhere",
    "Upgrade: h2c", "Date: Tue, 14 Nov 2023 22:13:20 GMT", "Date: yesterday", "Surrogate-Control: no-store",
])  # fmt: skip
STATUSES: Final = st.sampled_from(
    ["1.1 200 OK"] * 12
    + ["1.1 200 Fine", "1.1 200 ", "1.0 200 OK", "1.1 201 Created", "1.1 204 No Content", "1.1 206 Partial Content"]
    + ["1.1 304 Not Modified", "1.1 302 Found", "1.1 404 Not Found", "1.1 500 Oh", "1.1 503 Busy", "1.1 599 x"]
    + ["1.1 99 x", "1.1 101 Switching Protocols", "2.0 200 OK"]
)
BODIES: Final = st.sampled_from([b"", b"x", b"hello", b"ends\r\n\r\n", b"a" * 900, b"b" * 1100, b"c" * 5000])
FRAMINGS: Final = st.sampled_from(["length"] * 14 + ["none", "chunked", "trailers", "longer", "shorter", "both"])
LENGTHS: Final = st.sampled_from(
    ["Content-Length: {}"] * 12
    + ["content-length: {}", "Content-Length: 0{}", "Content-Length:{}", "Content-Length: {} ", "Content-Length: +{}"]
    + ["Content-Length: {}, {}", "Content-Length: {}\r\nContent-Length: {}", "Content-Length: {}\r\n "]
)
CACHING: Final = st.sampled_from(
    ["Cache-Control: no-store"] * 5 + ["Cache-Control: private", "Cache-Control: max-age=9"]
)
BEFORE: Final = st.sampled_from(
    [b""] * 12 + [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n"]
)
BEHIND: Final = st.sampled_from([b""] * 12 + [b"x", b"\r\n", ok(b"second"), ok()[:30]])


@st.composite
def responses(draw: st.DrawFn) -> Answer:
    """One answer; most are plain."""
    lines = draw(st.lists(FIELDS, max_size=3))
    lines += draw(st.lists(st.just(DATE.decode().strip()), min_size=1, max_size=1) | st.just([]))
    lines.append(draw(CACHING))
    body, framing, close = draw(BODIES), draw(FRAMINGS), draw(st.sampled_from([False] * 8 + [True]))
    match framing:
        case "length":
            lines.append(draw(LENGTHS).format(len(body), len(body)))
        case "longer":
            lines.append(f"Content-Length: {len(body) + 3}")
            close = True
        case "shorter":
            lines.append(f"Content-Length: {len(body) // 2}")
        case "none":
            close = True
        case _:
            lines.append("Transfer-Encoding: chunked")
            if framing == "both":
                lines.append(f"Content-Length: {len(body)}")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n"
            body += b"X-Sum: 1\r\n\r\n" if framing == "trailers" else b"\r\n"
    lines = draw(st.permutations(lines))
    if draw(st.sampled_from([False] * 9 + [True])):
        lines.append("Connection: close")
        close = True
    head = "\r\n".join([f"HTTP/{draw(STATUSES)}", *lines, "", ""]).encode("latin-1")
    if b" 1.0 " in head or head.startswith((b"HTTP/1.1 304", b"HTTP/1.1 204")):
        body = draw(st.sampled_from([b""] * 4 + [body]))
    data = draw(BEFORE) + head + body + draw(BEHIND)
    if draw(st.sampled_from([False] * 14 + [True])):
        data, close = data[: draw(st.integers(0, len(data)))], True
    close = close or not whole(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3))) if draw(st.booleans()) else []
    return Answer(tuple(data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)), close)


def whole(data: bytes) -> bool:
    """Whether a head ends in `data`, so that it may be that nothing more is awaited."""
    return b"\r\n\r\n" in data


@st.composite
def several(draw: st.DrawFn) -> list[Answer]:
    """The answers of one target: few, so that they come again, and most often almost alike."""
    palette = draw(st.lists(responses(), min_size=1, max_size=2))
    if draw(st.booleans()):
        body = draw(BODIES)
        lines = draw(st.lists(FIELDS, max_size=2))
        palette += [Answer((ok(body, *lines),)), Answer((ok(body * 2 + b"y", *lines),))]
    return draw(st.lists(st.sampled_from(palette), min_size=1, max_size=6))


# What clients send.

TARGETS: Final = ("/a", "/b")
BEGINNINGS: Final = st.sampled_from(
    ["GET {} HTTP/1.1"] * 8 + ["HEAD {} HTTP/1.1", "GET {} HTTP/1.0", "GET http://else{} HTTP/1.1"]
)


@st.composite
def asking(draw: st.DrawFn) -> bytes:
    """One request; most are plain."""
    lines = draw(st.lists(PASSED, max_size=3))
    kind = draw(st.sampled_from(["plain"] * 8 + ["fields", "fields", "odd", "ending", "body"]))
    body = ""
    match kind:
        case "fields":
            lines += draw(st.lists(HEEDED, min_size=1, max_size=2))
        case "odd":
            lines.append(draw(ODD))
        case "ending":
            lines.append(draw(ENDING))
        case "body":
            body = draw(st.sampled_from(["", "x", "GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"]))
            lines.append(f"Content-Length: {len(body)}")
        case _:
            pass
    lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["Host: example.com"] * 6 + ["Host: other"])))
    first = draw(BEGINNINGS).format(draw(st.sampled_from(TARGETS)))
    return "\r\n".join([first, *lines, "", body]).encode("latin-1")


@st.composite
def streams(draw: st.DrawFn) -> list[Chunk]:
    """What one connection brings: the same few requests again and again, some of them cut, joined, or pipelined."""
    palette = draw(st.lists(asking(), min_size=1, max_size=2))
    chosen = draw(st.lists(st.sampled_from(palette), min_size=4, max_size=12))
    late = st.sampled_from([0.0] * 8 + [0.4, 3.0, 70.0])
    chunks: list[Chunk] = []
    pending = b""
    for data in chosen:
        how = draw(st.sampled_from(["whole"] * 10 + ["cut", "joined", "hidden"]))
        pending += data
        if how == "joined":
            continue
        if how == "hidden":
            chunks.append(Chunk(pending + hiding(draw(st.sampled_from(HIDING)), data), draw(st.booleans())))
            pending = data
        cuts = sorted(draw(st.lists(st.integers(0, len(pending)), max_size=2))) if how == "cut" else []
        for start, end in zip([0, *cuts], [*cuts, len(pending)], strict=True):
            settled = draw(st.sampled_from([True] * 6 + [False]))
            chunks.append(Chunk(pending[start:end], settled, draw(late) if settled else 0.0))
        pending = b""
    return [*chunks, Chunk(pending)]


PEERS: Final = st.sampled_from(["192.0.2.1", "192.0.2.1", "192.0.2.2", "10.0.0.1"])


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries({target: several() for target in TARGETS}),
    st.lists(st.tuples(PEERS, streams()), min_size=1, max_size=3),
)
@example({"/a": [Answer((ok(),))]}, [("192.0.2.1", [Chunk(request("/a"))] * 5)])
def test_past_the_pipeline_and_through_it_everything_is_the_same(
    answers: dict[str, list[Answer]], connections: list[tuple[str, list[Chunk]]]
) -> None:
    crossed = asyncio.run(compared(answers, connections))
    event("went past the pipeline: " + ("none" if not crossed else "some" if crossed < 6 else "many"))


# What is rare.

PLAIN: Final = request("/a")
UNTRUSTED: Final = "192.0.2.1"
PROXY: Final = "10.0.0.1"


def answering(*answers: bytes) -> dict[str, list[Answer]]:
    """`/a` has these answers, in turn, and then the last again and again."""
    return {"/a": [Answer((answer,)) for answer in answers] + [Answer((answers[-1],))] * 20}


def bare(status: str, *fields: str, body: bytes = b"") -> bytes:
    """A response as its fields say."""
    return "\r\n".join([f"HTTP/1.1 {status}", DATE.decode().strip(), *fields, "", ""]).encode() + body


@pytest.mark.parametrize(
    "values",
    [
        ["Content-Length: 5", "Content-Length: 005"],
        ["Content-Length: 5", "Content-Length: 5 "],
        ["Content-Length: 5", "content-length: 5"],
        ["Content-Length: 5", "Content-Length: +5"],
        ["Content-Length: 5", "Content-Length: 5, 5"],
        ["Content-Length: 5", "Content-Length: 5\r\nContent-Length: 5"],
        ["Content-Length: 5\r\nContent-Length: 5"] * 2,
        ["Content-Length: 5", "Content-Length: \r\n 5"],
        ["Content-Length: 5", "Content-Length: 99999999999999999999"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5\r\nETag: a", "Content-Length: 5\r\nETag: a\t "],
        ["Content-Length: 5\r\nETag: a", "Content-Length: 5\r\nETag: a\r\n b"],
        ["Content-Length: 5\r\nETag: a", "Content-Length: 5\r\nETag:"],
        ["Content-Length: 5\r\nETag: a", "Content-Length: 5\r\nETag: \x00"],
        ["Content-Length: 5\r\nETag: a", "Content-Length: 5\r\nETag : b"],
        ["Content-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b", "Content-Length: 5\r\nSet-Cookie: b\r\nSet-Cookie: a"],
        ["Set-Cookie: a\r\nContent-Length: 5\r\nETag: a", "ETag: a\r\nContent-Length: 5\r\nSet-Cookie: a"],
        ["Connection: ETag\r\nContent-Length: 5\r\nETag: a"] * 2,
        ["Connection: Set-Cookie\r\nContent-Length: 5\r\nETag: a\r\nSet-Cookie: a\r\nSet-Cookie: b"] * 2,
        ["Keep-Alive: timeout=5, max=99\r\nContent-Length: 5", "Keep-Alive: timeout=5, max=98\r\nContent-Length: 5"],
        ["Date: twice\r\nContent-Length: 5"] * 2,
    ],
)
async def test_lengths_and_values_are_taken_as_the_parser_takes_them(values: list[str]) -> None:
    first, then = (bare("200 OK", "Cache-Control: no-store", value, body=b"hello") for value in values)
    await compared(answering(first, first, first, then), [(UNTRUSTED, [Chunk(PLAIN)] * 6)])


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified", "206 Partial Content"])
@pytest.mark.parametrize("fields", [(), ("Content-Encoding: gzip",), ('ETag: W/"1"', "Content-Encoding: br")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_response_without_a_body_tells_nothing_of_one_that_has_one(
    status: str, fields: tuple[str, ...], method: str
) -> None:
    fields = ("Cache-Control: no-store", "Content-Type: text/plain", *fields)
    coded = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xcbH\xcd\xc9\xc9\x07\x00\x86\xa6\x106\x05\x00\x00\x00"
    none = bare(status, *fields, "Content-Length: 0")
    body = b"" if method == "HEAD" or status.startswith(("204", "304")) else coded
    some = bare(status, *fields, f"Content-Length: {len(coded)}", body=body)
    head = request("/a", "Accept-Encoding: identity", 'If-None-Match: "1"', method=method)
    await compared(answering(none, none, none, some), [(UNTRUSTED, [Chunk(head)] * 6)])


@pytest.mark.parametrize("accept", ["Accept-Encoding: gzip", "Accept-Encoding: identity", "Accept-Encoding: gzip;q=0"])
@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "text/event-stream"])
@pytest.mark.parametrize("first", [0, 10, 1023, 1024, 30_000, 65_536, 65_537])
async def test_a_body_of_another_length_is_coded_and_counted_as_any(accept: str, content_type: str, first: int) -> None:
    def of(length: int) -> bytes:
        return ok(b"x" * length, f"Content-Type: {content_type}")

    lengths = [first, first, first, 10, 1023, 1024, 20_000, 65_536, 65_537, first]
    asking = Chunk(request("/a", accept))
    await compared({"/a": [Answer((of(length),)) for length in lengths]}, [(UNTRUSTED, [asking] * len(lengths))])


@pytest.mark.parametrize("kinds", [1, 2, 7, 8, 9, 20])
async def test_any_number_of_kinds_is_told_apart(kinds: int) -> None:
    answers = [Answer((ok(b"x" * kind, f"X-Kind: {kind}"),)) for kind in range(kinds)]
    crossed = await compared({"/a": answers}, [(UNTRUSTED, [Chunk(PLAIN)] * (4 * kinds + 4))])
    assert crossed > kinds or kinds > 8


FORWARDED: Final = [
    "X-Forwarded-For: 192.0.2.7", "X-Forwarded-For: 192.0.2.7, 10.9.9.9", "x-forwarded-for:192.0.2.8 ",
    "X-Forwarded-For: nonsense", "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: 10.1.1.1", "X-Forwarded-For:",
    "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https", "X-Forwarded-Proto: https", "X-Forwarded-Host: other",
    "X-Forwarded-Proto: https, http\r\nX-Forwarded-For: 192.0.2.7, 192.0.2.8", "X-Real-IP: 192.0.2.9",
    "X-Forwarded-Port: 8443", 'Forwarded: for=192.0.2.7;host=other;proto=https, for="[2001:db8::1]"', "Forwarded: ",
    "X-Request-ID: given", "X-Request-ID: not one", "X-Request-ID: one\r\nX-Request-ID: two", "x-request-id:given",
    "X-Request-ID: " + "a" * 200, "X-Request-ID:", "X-Forwarded-For: \xff", "Via: 1.0 other",
]  # fmt: skip


@pytest.mark.parametrize("peer", [UNTRUSTED, PROXY, "2001:db8::1", ""])
@pytest.mark.parametrize("lines", FORWARDED)
@pytest.mark.parametrize("learnt", [True, False])
async def test_the_origin_is_told_the_same_of_who_asks(peer: str, lines: str, learnt: bool) -> None:
    given = request("/a").replace(b"\r\n\r\n", b"\r\n" + lines.encode("latin-1") + b"\r\n\r\n")
    before = [Chunk(given if learnt else PLAIN)] * 3
    await compared({}, [(peer, [*before, Chunk(given), Chunk(given), Chunk(PLAIN)])])


@pytest.mark.parametrize(
    "lines",
    [
        "user-agent:b",
        "User-Agent: b ",
        "USER-AGENT:\tb",
        "cookie: a\r\nCookie: ab",
        "Cookie: ab\r\nCookie: a",
        "accept: */*",
    ],
)
async def test_a_request_that_is_handed_over_is_not_sent_again_for_how_it_is_spelt(lines: str) -> None:
    odd = request("/a").replace(b"\r\n\r\n", b"\r\n" + lines.encode() + b"\r\n\r\n")
    other = ok(b"other", "X-Kind: 2")
    chunks = [Chunk(PLAIN)] * 3 + [Chunk(odd)] * 4
    assert await compared(answering(ok(), ok(), ok(), other, ok()), [(UNTRUSTED, chunks)]) >= 3
    assert await compared(answering(ok()), [(UNTRUSTED, [Chunk(odd)] * 4)]) == 2
