"""Parts in the cache, and refreshing ahead of time."""

import asyncio
from typing import Any

import pytest

from plugins.cache import Cache
from proxy.http.message import Request, Response
from proxy.http.ranges import parse_range
from tests.support.clock import FakeClock
from tests.support.plugin_harness import ChunkStream, response
from tests.unit.plugins.test_cache import FRESH, Origin, cached, result, settle

WHOLE = b"0123456789"


def ranges(asked: Request, _: int = 0, *, streamed: bool = False, etag: str = '"v1"') -> Response:
    """An origin that knows ranges."""
    headers = {**FRESH, "ETag": etag}
    if asked.headers.get("If-None-Match") == etag:
        return response(304, headers=headers)
    specs = parse_range(asked.headers.get("Range"))
    body, status = WHOLE, 200
    if specs is not None and asked.headers.get("If-Range", etag) == etag:
        part = specs[0].within(len(WHOLE))
        assert part is not None
        body, status = WHOLE[part.first : part.last + 1], 206
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{len(WHOLE)}"
    if streamed:
        return response(status, ChunkStream([body]), {**headers, "Content-Length": str(len(body))})
    return response(status, body, headers)


def origin(**more: Any) -> Origin:
    return Origin({}, make=lambda asked, number: ranges(asked, number, **more))


@pytest.mark.parametrize("streamed", [True, False])
class TestParts:
    async def test_a_part_is_kept_and_answers_what_it_covers(self, streamed: bool) -> None:
        async with cached(origin(streamed=streamed)) as h:
            first = await h.get("/a", {"Range": "bytes=2-6"})
            inner = await h.get("/a", {"Range": "bytes=3-4"})
        assert (first.status, first.body, result(first)) == (206, b"23456", "miss")
        assert (inner.status, inner.body, inner.header("Content-Range")) == (206, b"34", "bytes 3-4/10")
        assert (result(inner), len(h.upstream.requests)) == ("hit", 1)
        assert "stored" in (first.header("Cache-Status") or "")

    async def test_the_whole_is_never_answered_by_a_part(self, streamed: bool) -> None:
        async with cached(origin(streamed=streamed)) as h:
            await h.get("/a", {"Range": "bytes=2-6"})
            whole = await h.get("/a")
            part = await h.get("/a", {"Range": "bytes=0-1"})
        assert (whole.status, whole.body) == (200, WHOLE)
        assert "fwd=partial" in (whole.header("Cache-Status") or "")
        assert "If-None-Match" not in h.upstream.requests[1].headers
        assert (result(part), part.body) == ("hit", b"01")

    async def test_parts_are_combined_and_become_the_whole(self, streamed: bool) -> None:
        async with cached(origin(streamed=streamed)) as h:
            await h.get("/a", {"Range": "bytes=0-4"})
            await h.get("/a", {"Range": "bytes=3-7"})
            across = await h.get("/a", {"Range": "bytes=1-6"})
            await h.get("/a", {"Range": "bytes=8-"})
            whole = await h.get("/a")
        assert (result(across), across.body) == ("hit", b"123456")
        assert (result(whole), whole.status, whole.body) == ("hit", 200, WHOLE)
        assert whole.header("Content-Range") is None

    async def test_a_part_never_displaces_the_whole(self, streamed: bool) -> None:
        gate = asyncio.Event()

        async def script(asked: Request) -> Response:
            if "Range" in asked.headers:
                await gate.wait()
            return ranges(asked, streamed=streamed)

        async with cached(script) as h:
            part = asyncio.ensure_future(h.get("/a", {"Range": "bytes=0-1"}))
            await settle()
            await h.get("/a")
            gate.set()
            assert (await part).status == 206
            assert result(await h.get("/a")) == "hit"

    async def test_if_range_that_does_not_hold_gets_the_whole(self, streamed: bool) -> None:
        async with cached(origin(streamed=streamed)) as h:
            await h.get("/a", {"Range": "bytes=0-4"})
            answered = await h.get("/a", {"Range": "bytes=0-1", "If-Range": '"old"'})
        assert (answered.status, answered.body) == (200, WHOLE)

    async def test_a_stale_part_is_confirmed(self, streamed: bool) -> None:
        async with cached(origin(streamed=streamed)) as h:
            await h.get("/a", {"Range": "bytes=0-4"})
            h.clock.advance(61)
            part = await h.get("/a", {"Range": "bytes=1-2"})
        assert (result(part), part.status, part.body) == ("revalidated", 206, b"12")


async def test_requests_for_the_same_part_share_one_fetch() -> None:
    script = origin()
    script.gate = asyncio.Event()
    async with cached(script) as h:
        waiting = [asyncio.ensure_future(h.get("/a", {"Range": f"bytes={n}-{n + 2}"})) for n in (1, 1, 4, 1)]
        await settle()
        script.gate.set()
        answers = await asyncio.gather(*waiting)
    assert script.asked == 2
    assert [each.body for each in answers] == [b"123", b"123", b"456", b"123"]


async def test_whoever_wants_the_whole_does_not_get_what_confirmed_a_part() -> None:
    script = origin()
    async with cached(script) as h:
        await h.get("/a", {"Range": "bytes=0-4"})
        h.clock.advance(61)
        script.gate = asyncio.Event()
        part = asyncio.ensure_future(h.get("/a", {"Range": "bytes=1-2"}))
        await settle()
        whole = asyncio.ensure_future(h.get("/a"))
        await settle()
        script.gate.set()
        assert (await part).status == 206
        assert ((await whole).status, (await whole).body) == (200, WHOLE)


async def test_a_route_may_keep_no_parts() -> None:
    async with cached(origin(), store_parts=False) as h:
        for _ in range(2):
            answered = await h.get("/a", {"Range": "bytes=0-1"})
            assert answered.exchange.cache.reason is not None
            assert (answered.status, answered.exchange.cache.reason.token) == (206, "range-request")


@pytest.mark.parametrize(("beta", "draw", "asked"), [(1.0, 0.9999, 2), (1.0, 0.0, 1), (0.0, 0.9999, 1)])
async def test_a_fresh_response_is_refreshed_early_once_and_in_the_background(
    beta: float, draw: float, asked: int
) -> None:
    clock = FakeClock()

    def make(_: Request, number: int) -> Response:
        clock.advance(5)  # a slow origin
        return response(200, str(number).encode(), {"Cache-Control": "max-age=60"})

    script = Origin({}, make=make)
    async with cached(script, clock, early_refresh_beta=beta) as h:
        (plugin,) = h.pipeline.plugins
        assert isinstance(plugin, Cache)
        plugin._draw = lambda: draw
        await h.get("/a")
        h.clock.advance(40)
        hits = [await h.get("/a") for _ in range(5)]
        await settle()
    assert {(result(each), each.body) for each in hits} == {("hit", b"1")}
    assert script.asked == asked
    early = "detail=refreshed-early" in (hits[0].header("Cache-Status") or "")
    assert early == (asked == 2)
