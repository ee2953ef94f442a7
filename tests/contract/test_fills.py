"""Requests that fill the cache past the pipeline: what is stored, who waits and what is sent is the pipeline's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import Phase, event, example, given, settings
from hypothesis import strategies as st

from proxy.storage.invalidation_log import PurgeScope
from tests.contract.test_lanes import Chunk
from tests.contract.test_passages import Answer, compared
from tests.support.passing import Call, PassingSite, fresh, passing_site, silent_plugins
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import eventually
from tests.support.site import LANE_BYTES

PAST = pytest.mark.parametrize("lane_bytes", [LANE_BYTES, 0], ids=["past", "through"])
FRESH = "Cache-Control: max-age=60"
TARGETS = (*(f"/{letter}" for letter in "abcdefgh"), "/i.css", "/j?q=1&r=%20")

LINES = st.sampled_from([
    'ETag: "a"', 'ETag: W/"b"', "ETag: bare", "Last-Modified: Tue, 14 Nov 2023 00:00:00 GMT", "Last-Modified: never",
    "X-Request-ID: 7", "Content-Type: text/html", "Content-Type: text/css", "Cache-Tag: a b", "Set-Cookie: a=b",
    "Age: 3", "Vary: Accept", "Expires: Tue, 14 Nov 2023 23:13:20 GMT", "X-Runtime: 0.1", "Content-Encoding: gzip",
    "Via: 1.1 x",
])  # fmt: skip
CACHING = st.sampled_from([
    FRESH, FRESH, FRESH, FRESH, "Cache-Control: max-age=60, must-revalidate", "Cache-Control: s-maxage=3, max-age=9",
    "Cache-Control: max-age=2, stale-while-revalidate=5", "Cache-Control: no-store", "Cache-Control: private",
    "Cache-Control: no-cache", "Cache-Control: public", "Cache-Control: max-age=0", "Cache-Control: max-age=9, public",
])  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> dict[str, list[Answer]]:
    """For each target, most of them alike but for their own values."""
    lines, caching = draw(st.lists(LINES, max_size=3)), draw(CACHING)
    made: dict[str, list[Answer]] = {}
    for target in TARGETS:
        own = [f'ETag: "{draw(st.integers(0, 9))}"'] if draw(st.booleans()) else []
        odd = draw(st.sampled_from([False] * 7 + [True]))
        body = draw(st.sampled_from([b"", b"x", b"text" * 10, b"long " * 300]))
        data = (
            fresh(body, draw(CACHING), *draw(st.lists(LINES, max_size=2)))
            if odd
            else fresh(body, caching, *lines, *own)
        )
        cut = draw(st.integers(0, len(data)))
        pieces = (data[:cut], data[cut:]) if draw(st.sampled_from([False, False, False, True])) else (data,)
        made[target] = [Answer(pieces)]
    return made


@st.composite
def walks(draw: st.DrawFn) -> list[Chunk]:
    """Requests for one target after the other, most of them alike."""
    more = draw(st.sampled_from(["", "", "", "Cookie: a\r\n", "Accept-Encoding: gzip\r\n", 'If-None-Match: "1"\r\n']))
    late = st.sampled_from([0.0] * 6 + [1.4, 70.0])
    chosen = draw(st.lists(st.sampled_from(TARGETS), min_size=4, max_size=14))
    return [
        Chunk(f"GET {target} HTTP/1.1\r\nHost: example.com\r\n{more}\r\n".encode(), True, draw(late))
        for target in chosen
    ]


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(answers(), st.lists(st.tuples(st.sampled_from(["192.0.2.1", "10.0.0.1"]), walks()), min_size=1, max_size=2))
@example(
    {target: [Answer((fresh(b"x", FRESH),))] for target in TARGETS},
    [("192.0.2.1", [Chunk(f"GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n".encode()) for target in TARGETS])],
)
def test_past_the_pipeline_and_through_it_the_same_is_stored_and_sent(
    given_answers: dict[str, list[Answer]], connections: list[tuple[str, list[Chunk]]]
) -> None:
    crossed = asyncio.run(compared(given_answers, connections))
    event("went past the pipeline: " + ("none" if not crossed else "some" if crossed < 6 else "many"))


class Gate:
    """An origin that answers targets below `/slow/` when it is told to."""

    def __init__(self, *lines: str) -> None:
        self.open = asyncio.Event()
        self.slow = 0
        self.lines = lines

    async def __call__(self, call: Call) -> None:
        if call.target.startswith("/slow/"):
            self.slow += 1
            await self.open.wait()
            await call.send(fresh(b"slow", FRESH, *self.lines))
        else:
            await call.send(fresh(b"ok", FRESH))


@asynccontextmanager
async def warmed(gate: Gate, lane_bytes: int, **options: Any) -> AsyncIterator[tuple[PassingSite, RawClient]]:
    """A site, and a client whose next request for a new target fills the cache past the pipeline."""
    async with passing_site(gate, lane_bytes=lane_bytes, **options) as site, await site.client() as client:
        for number in range(5):
            assert (await client.ask(request(f"/{number}"))).body == b"ok"
        assert site.crossed == (3 if lane_bytes else 0)
        yield site, client


async def asked_for_slow(site: PassingSite, gate: Gate, client: RawClient) -> None:
    crossed = site.crossed
    await client.send(request("/slow/a"))
    await eventually(lambda: gate.slow == 1)
    assert site.crossed == crossed


@PAST
async def test_who_comes_meanwhile_waits_for_the_same_response(lane_bytes: int) -> None:
    gate = Gate()
    async with warmed(gate, lane_bytes) as (site, client):
        await asked_for_slow(site, gate, client)
        others = [await site.client() for _ in range(20)]
        for other in others:
            await other.send(request("/slow/a"))
        await eventually(lambda: site.under_way == 21)
        gate.open.set()
        got = [await one.response() for one in (client, *others)]
        assert {answer.body for answer in got} == {b"slow"}
        assert gate.slow == 1
        assert sum("collapsed" in (answer.field("Cache-Status") or "") for answer in got) == 20
        for other in others:
            await other.close()


@PAST
async def test_what_is_purged_meanwhile_is_not_stored(lane_bytes: int) -> None:
    gate = Gate()
    async with warmed(gate, lane_bytes) as (site, client):
        await asked_for_slow(site, gate, client)
        await site.services.invalidations.append(PurgeScope.ALL, "")
        gate.open.set()
        assert (await client.response()).body == b"slow"
        again = await client.ask(request("/slow/a"))
        assert "hit" not in (again.field("Cache-Status") or "")
        assert gate.slow == 2


@PAST
@pytest.mark.parametrize("lines", [(), ("X-Kind: another",)], ids=["known", "unknown"])
async def test_the_flight_outlives_the_client_that_caused_it(lane_bytes: int, lines: tuple[str, ...]) -> None:
    gate = Gate(*lines)
    async with warmed(gate, lane_bytes) as (site, client):
        await asked_for_slow(site, gate, client)
        other = await site.client()
        await other.send(request("/slow/a"))
        await eventually(lambda: site.under_way == 2)
        await client.close()
        await eventually(lambda: site.sample("sidecache_server_open_connections") == 1)
        gate.open.set()
        assert (await other.response()).body == b"slow"
        assert gate.slow <= (2 if lines and lane_bytes else 1)
        assert "hit" in ((await other.ask(request("/slow/a"))).field("Cache-Status") or "")
        await eventually(lambda: site.pool.stats()["open"] == site.pool.stats()["idle"])
        await other.close()


@PAST
async def test_a_response_of_another_kind_is_taken_over_with_all_who_wait(lane_bytes: int) -> None:
    gate = Gate("X-Kind: another")
    async with warmed(gate, lane_bytes) as (site, client):
        await asked_for_slow(site, gate, client)
        other = await site.client()
        await other.send(request("/slow/a"))
        await eventually(lambda: site.under_way == 2)
        gate.open.set()
        assert [(await one.response()).field("X-Kind") for one in (client, other)] == ["another"] * 2
        assert gate.slow == 1
        await other.close()


@PAST
async def test_a_slow_response_is_taken_over_with_all_who_wait(lane_bytes: int) -> None:
    gate = Gate()
    async with warmed(gate, lane_bytes, upstream={"first_byte_timeout_seconds": 0.2}) as (site, client):
        await asked_for_slow(site, gate, client)
        other = await site.client()
        await other.send(request("/slow/a"))
        await eventually(lambda: site.under_way == 2)
        site.clock.advance(0.2)
        assert [(await one.response()).status for one in (client, other)] == [504, 504]
        gate.open.set()
        assert gate.slow == 1
        await other.close()


@PAST
async def test_what_is_not_to_be_stored_after_all_is_not(lane_bytes: int) -> None:
    gate = Gate("Cache-Control: no-store")
    async with warmed(gate, lane_bytes) as (site, client):
        await asked_for_slow(site, gate, client)
        gate.open.set()
        assert "no-store" in ((await client.response()).field("Cache-Status") or "")
        await client.ask(request("/slow/a"))
        assert gate.slow == 2


@PAST
async def test_tags_are_each_response_s_own(lane_bytes: int) -> None:
    async def script(call: Call) -> None:
        await call.send(fresh(b"ok", FRESH, f"X-Correlation-ID: tag{call.target[1:]}"))

    plugins = partial(silent_plugins, cache={"tag_headers": ["X-Correlation-ID"]})
    async with passing_site(script, lane_bytes=lane_bytes, plugins=plugins) as site, await site.client() as client:
        for number in range(5):
            await client.ask(request(f"/{number}"))
        await site.services.invalidations.append(PurgeScope.TAG, "tag4")
        hits = ["hit" in ((await client.ask(request(f"/{n}"))).field("Cache-Status") or "") for n in (3, 4)]
        assert hits == [True, False]


@PAST
async def test_a_store_that_fails_leaves_those_who_wait_to_the_pipeline(
    lane_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    async with warmed(gate, lane_bytes) as (site, client):
        await asked_for_slow(site, gate, client)
        async with await site.client() as other:
            await other.send(request("/slow/a"))
            await eventually(lambda: site.under_way == 2)

            def fails(*_: object) -> None:
                raise OSError("out of order")

            monkeypatch.setattr(site.services.store, "put_packed", fails)
            gate.open.set()
            assert (await client.response()).body == (await other.response()).body == b"slow"
            assert gate.slow == 1
            assert (await client.ask(request("/slow/a"))).field("Cache-Status") == "sidecache;hit;ttl=60;detail=fresh"


ODD_LINES = (
    b"GET /b http/1.1", b"GET  /b HTTP/1.1", b"GET /b  HTTP/1.1", b"GET /b\tHTTP/1.1", b"get /b HTTP/1.1",
    b"GET /b HTTP/1.1 HTTP/1.1", b"GET /b HTTP/1.0", b"GET /b HTTP/1.2", b"GET /b HTTP/1.10", b"GET /b HTTP/2.0",
    b"GET /b HTTP/0.9", b"GET /b", b"GET /b HTTP/1.1 ", b" GET /b HTTP/1.1", b"\r\nGET /b HTTP/1.1", b"GET b HTTP/1.1",
    b"GET /\xff HTTP/1.1", b"GET /b\x00 HTTP/1.1", b"GET /b\x0b HTTP/1.1", b"GET /b#c HTTP/1.1", b"GET //b HTTP/1.1",
    b"GET /b? HTTP/1.1", b"GET /b?HTTP/1.1 HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET /../b HTTP/1.1", b"GET * HTTP/1.1",
    b"GET /b\\ HTTP/1.1", b'GET /"b" HTTP/1.1', b"GET /{b}|^` HTTP/1.1",
)  # fmt: skip
ODD_HEADS = (
    *(line + b"\r\nHost: example.com\r\n\r\n" for line in ODD_LINES),
    b"GET /b HTTP/1.1\nHost: example.com\n\n",
    b"GET /b HTTP/1.1\nHost: example.com\r\n\r\n",
    b"GET /b HTTP/1.1\nX: HTTP/1.1\r\nHost: example.com\r\n\r\n",
    b"GET /b HTTP/1.1\r\nHost: example.com\n\r\n",
    b"GET /b HTTP/1.1\rHost: example.com\r\n\r\n",
    b"GET /b HTTP/1.1\r\n\r\n",
    b"GET /b HTTP/1.1\r\nHost: example.com\r\nHost: example.com\r\n\r\n",
    b"GET /b HTTP/1.1\r\nHost: EXAMPLE.com:80\r\n\r\n",
)  # fmt: skip


@pytest.mark.parametrize("caching", [FRESH, "Cache-Control: no-store"], ids=["filling", "uncacheable"])
@pytest.mark.parametrize("head", ODD_HEADS)
async def test_an_odd_head_is_answered_as_by_the_pipeline_once_others_go_past_it(head: bytes, caching: str) -> None:
    def plain(target: str) -> Chunk:
        return Chunk(request(target))

    targets = ["/a", "/a", "/a", "/a", "/c", "/d"]
    answers = {
        target: [Answer((fresh(b"text", caching),))]
        for target in (*targets, "/b", "/b?", "/b?HTTP/1.1", "/b#c", "//b", "/%zz", "/../b")
    }
    odd = [("192.0.2.1", [Chunk(head)]) for _ in range(3)]
    crossed = await compared(
        answers, [("192.0.2.1", [*map(plain, targets)]), *odd, ("192.0.2.1", [plain("/a"), plain("/b")])]
    )
    assert crossed
