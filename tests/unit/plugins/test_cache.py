"""The cache plugin in a pipeline, over real tiers in memory, under a clock moved by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from typing_extensions import override

from plugins.cache import Cache, CacheSettings
from proxy.errors import CircuitOpenError, UpstreamError, UpstreamIncompleteError, UpstreamTimeoutError
from proxy.http.message import Request, Response
from proxy.metrics.registry import Registry
from proxy.storage.base import CacheKey
from proxy.storage.invalidation_log import PurgeScope
from proxy.storage.memory import MemoryStore
from proxy.storage.memory_log import MemoryLog
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.plugin_harness import Answered, ChunkStream, PluginHarness, Script, harness, request, response

FRESH = {"Cache-Control": "max-age=60", "ETag": '"v1"'}


@dataclass
class Origin:
    """Answers with a body that tells how often it was asked."""

    headers: Mapping[str, str]
    status: int = 200
    asked: int = 0
    gate: asyncio.Event | None = None
    make: Callable[[Request, int], Any] | None = None

    async def __call__(self, request: Request) -> Any:
        self.asked += 1
        number = self.asked
        if self.gate is not None:
            await self.gate.wait()
        if self.make is not None:
            return self.make(request, number)
        if "If-None-Match" in request.headers and request.headers["If-None-Match"] == self.headers.get("ETag"):
            return response(304, headers=self.headers)
        return response(self.status, f"answer {number}".encode(), self.headers)


class HeldStream(ChunkStream):
    """Comes when the gate opens."""

    def __init__(self, gate: asyncio.Event) -> None:
        super().__init__([b"old"])
        self._gate = gate

    @override
    async def __anext__(self) -> bytes:
        await self._gate.wait()
        return await super().__anext__()


@asynccontextmanager
async def cached(script: Script, clock: FakeClock | None = None, **settings: Any) -> AsyncIterator[PluginHarness]:
    """A pipeline that is nothing but the cache."""
    clock = clock or FakeClock()
    tasks, log, metrics = Tasks(), MemoryLog(clock), Registry()
    store = TieredStore(MemoryStore(1 << 20, clock), None, log, clock, tasks, metrics)
    async with harness(
        lambda services: [Cache(CacheSettings(**settings), services)],
        script,
        clock=clock,
        store=store,
        invalidations=log,
        metrics=metrics,
    ) as running:
        yield running
    await store.close()
    await tasks.close()


async def settle() -> None:
    """Let background work that is ready run to its end."""
    for _ in range(30):
        await asyncio.sleep(0)


def result(answered: Answered) -> str:
    return answered.exchange.cache.result.value


class TestHits:
    async def test_the_second_request_is_a_hit_with_an_age(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            first = await h.get("/a")
            h.clock.advance(7)
            second = await h.get("/a")
        assert (result(first), result(second)) == ("miss", "hit")
        assert (first.body, second.body, origin.asked) == (b"answer 1", b"answer 1", 1)
        assert second.header("Age") == "7"
        assert (
            first.header("Cache-Status") == "sidecache;fwd=uri-miss;fwd-status=200;ttl=60;stored;detail=nothing-stored"
        )
        assert second.header("Cache-Status") == "sidecache;hit;ttl=53;detail=fresh"

    async def test_a_stream_is_stored_when_it_is_complete(self) -> None:
        origin = Origin({}, make=lambda _, n: response(200, ChunkStream([b"one ", b"two"]), FRESH))
        async with cached(origin) as h:
            first = await h.get("/a")
            second = await h.get("/a")
        assert (first.body, second.body) == (b"one two", b"one two")
        assert (result(second), origin.asked) == ("hit", 1)

    async def test_a_stream_that_is_cut_off_is_not_stored(self) -> None:
        broken = UpstreamIncompleteError("cut")
        origin = Origin(
            {}, make=lambda _, n: response(200, ChunkStream([b"half"], error=broken if n == 1 else None), FRESH)
        )
        async with cached(origin) as h:
            first = await h.get("/a")
            second = await h.get("/a")
        assert isinstance(first.error, UpstreamIncompleteError)
        assert (result(second), origin.asked) == ("miss", 2)

    async def test_head_is_answered_from_a_stored_get(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            await h.get("/a")
            head = await h.send(request("HEAD", "/a"))
        assert (result(head), origin.asked) == ("hit", 1)

    @pytest.mark.parametrize(
        ("fields", "after", "asked"),
        [
            ({**FRESH, "ETag": '"1"', "X-New": "1", "Content-Length": "8"}, "hit", 2),
            ({**FRESH, "ETag": '"2"'}, "miss", 3),
            ({"Cache-Control": "no-store", "ETag": '"1"'}, "miss", 3),
        ],
        ids=["agrees", "contradicts", "forbids"],
    )
    async def test_head_freshens_a_stored_get_or_makes_it_void(
        self, fields: Mapping[str, str], after: str, asked: int
    ) -> None:
        def make(asking: Request, number: int) -> Any:
            headers = fields if asking.method == "HEAD" else {**FRESH, "ETag": '"1"'}
            return response(200, b"" if asking.method == "HEAD" else f"answer {number}".encode(), headers)

        origin = Origin({}, make=make)
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(100)
            await h.send(request("HEAD", "/a"))
            again = await h.get("/a")
        assert (result(again), origin.asked) == (after, asked)
        if after == "hit":
            assert (again.body, again.header("X-New"), again.header("Age")) == (b"answer 1", "1", "0")

    async def test_head_that_was_asked_before_a_purge_does_not_undo_it(self) -> None:
        gate = asyncio.Event()
        origin = Origin({**FRESH, "ETag": '"1"'})
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(100)
            origin.gate = gate
            head = asyncio.ensure_future(h.send(request("HEAD", "/a")))
            while origin.asked < 2:
                await asyncio.sleep(0)
            await h.services.invalidations.append(PurgeScope.ALL, "")
            gate.set()
            await head
            assert result(await h.get("/a")) == "miss"

    async def test_hosts_and_schemes_do_not_share(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            await h.get("/a")
            other = await h.get("/a", host="other.test")
            secure = await h.get("/a", scheme="https")
        assert (result(other), result(secure)) == ("miss", "miss")

    async def test_query_rules_make_one_key(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin, ignore_query=("utm_*",), sort_query=True) as h:
            await h.get("/a?b=2&a=1&utm_source=x")
            assert result(await h.get("/a?a=1&b=2")) == "hit"
            assert result(await h.get("/a?a=1&b=3")) == "miss"

    async def test_key_headers_part_keys(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin, key_headers=("X-Tenant",)) as h:
            await h.get("/a", {"X-Tenant": "one"})
            assert result(await h.get("/a", {"X-Tenant": "one"})) == "hit"
            assert result(await h.get("/a", {"X-Tenant": "two"})) == "miss"

    async def test_variants_are_kept_apart_and_each_is_a_hit(self) -> None:
        origin = Origin({**FRESH, "Vary": "Accept-Language"})
        async with cached(origin) as h:
            await h.get("/a", {"Accept-Language": "de"})
            await h.get("/a", {"Accept-Language": "en"})
            german = await h.get("/a", {"Accept-Language": "de"})
            english = await h.get("/a", {"Accept-Language": "EN"})
        assert (german.body, english.body, origin.asked) == (b"answer 1", b"answer 2", 2)

    async def test_a_resource_that_varies_by_more_later_serves_no_wrong_variant(self) -> None:
        varies = iter(["Accept-Language", "X-Plan"])
        origin = Origin({}, make=lambda _, n: response(200, str(n).encode(), {**FRESH, "Vary": next(varies, "X-Plan")}))
        async with cached(origin) as h:
            await h.get("/a", {"Accept-Language": "de", "X-Plan": "a"})
            await h.get("/a", {"Accept-Language": "en", "X-Plan": "a"})
            other = await h.get("/a", {"Accept-Language": "en", "X-Plan": "b"})
            same = await h.get("/a", {"Accept-Language": "en", "X-Plan": "a"})
        assert (other.body, same.body) == (b"3", b"2")

    async def test_a_set_cookie_reaches_the_client_it_was_meant_for_alone(self) -> None:
        headers = {"Cache-Control": "public, max-age=60", "Set-Cookie": "id=1"}
        async with cached(Origin(headers)) as h:
            first, second = await h.get("/a"), await h.get("/a")
        assert (first.header("Set-Cookie"), second.header("Set-Cookie")) == ("id=1", None)
        assert result(second) == "hit"


class TestConditionsAndRanges:
    async def test_a_client_with_the_current_copy_gets_304(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            first = await h.get("/a", {"If-None-Match": '"v1"'})
            second = await h.get("/a", {"If-None-Match": 'W/"v1", "v0"'})
        assert (first.status, second.status) == (304, 304)
        assert "If-None-Match" not in h.upstream.requests[0].headers
        assert (second.body, origin.asked) == (b"", 1)

    async def test_a_range_of_a_stored_response_is_cut_here(self) -> None:
        async with cached(Origin(FRESH)) as h:
            await h.get("/a")
            part = await h.get("/a", {"Range": "bytes=2-4"})
            beyond = await h.get("/a", {"Range": "bytes=100-"})
        assert (part.status, part.body, part.header("Content-Range")) == (206, b"swe", "bytes 2-4/8")
        assert beyond.status == 416

    async def test_a_range_of_what_is_not_stored_goes_to_the_origin_as_it_is(self) -> None:
        part = {"Content-Range": "bytes 0-1/8", **FRESH}
        origin = Origin({}, make=lambda r, n: response(206 if "Range" in r.headers else 200, b"an", part))
        async with cached(origin) as h:
            answered = await h.get("/a", {"Range": "bytes=0-1"})
            assert answered.status == 206
            assert h.upstream.requests[0].headers["Range"] == "bytes=0-1"
            assert (await h.get("/a")).status == 200


class TestValidation:
    async def test_a_stale_response_is_validated_and_fresh_again(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(61)
            again = await h.get("/a")
            after = await h.get("/a")
        assert (result(again), again.body, origin.asked) == ("revalidated", b"answer 1", 2)
        assert "fwd=stale;fwd-status=304" in (again.header("Cache-Status") or "")
        assert (result(after), after.header("Age")) == ("hit", "0")

    async def test_a_full_response_to_the_validation_takes_the_old_ones_place(self) -> None:
        origin = Origin({}, make=lambda r, n: response(200, str(n).encode(), {**FRESH, "ETag": f'"v{n}"'}))
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(61)
            assert (await h.get("/a")).body == b"2"
            assert (await h.get("/a")).body == b"2"
        assert h.upstream.requests[1].headers["If-None-Match"] == '"v1"'

    async def test_a_304_for_something_else_is_asked_again_without_conditions(self) -> None:
        def make(request: Request, number: int) -> Response:
            if "If-None-Match" in request.headers:
                return response(304, headers={"ETag": '"other"'})
            return response(200, str(number).encode(), FRESH)

        async with cached(Origin({}, make=make)) as h:
            await h.get("/a")
            h.clock.advance(61)
            assert (await h.get("/a")).body == b"3"

    @pytest.mark.parametrize("fields", [{"Authorization": "Basic x"}, {"Cache-Control": "no-store"}])
    async def test_what_a_304_says_to_one_client_alone_is_not_stored_for_all(self, fields: dict[str, str]) -> None:
        def make(asked: Request, number: int) -> Response:
            return response(304 if number > 1 else 200, b"", {**FRESH, "X-Asked": str(number)})

        origin = Origin({}, make=make)
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(61)
            own = await h.get("/a", fields)
            assert (result(own), own.header("X-Asked"), own.exchange.cache.stored) == ("revalidated", "2", False)
            others = await h.get("/a")
        assert (result(others), others.header("X-Asked"), origin.asked) == ("revalidated", "3", 3)

    async def test_a_304_to_credentials_is_not_shared_with_those_who_wait(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(61)
            origin.gate = asyncio.Event()
            waiting = [asyncio.ensure_future(h.get("/a", {"Authorization": name})) for name in "abc"]
            await settle()
            origin.gate.set()
            answers = await asyncio.gather(*waiting)
        assert [answer.exchange.cache.collapsed for answer in answers] == [False] * 3
        assert origin.asked == 4

    @pytest.mark.parametrize("now_said", ["no-store", "private"])
    async def test_a_304_that_takes_back_what_it_confirms_is_not_shared_with_those_who_wait(
        self, now_said: str
    ) -> None:
        said = iter(["max-age=0", *[now_said] * 3])

        async def script(request: Request) -> Response:
            await asyncio.sleep(0)
            fields = {"ETag": '"1"', "Cache-Control": next(said)}
            return response(304 if "If-None-Match" in request.headers else 200, b"x", fields)

        async with cached(script) as h:
            await h.get("/a")
            answers = await asyncio.gather(*(h.get("/a") for _ in range(3)))
            assert [answer.exchange.cache.collapsed for answer in answers] == [False] * 3
            assert not any(answer.exchange.cache.stored for answer in answers)

    async def test_a_304_that_permits_it_is_stored_whoever_asked(self) -> None:
        origin = Origin({**FRESH, "Cache-Control": "public, max-age=60"})
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(61)
            await h.get("/a", {"Authorization": "Basic x"})
            assert result(await h.get("/a")) == "hit"

    async def test_the_tags_of_a_304_take_the_place_of_the_old_ones(self) -> None:
        def make(asked: Request, number: int) -> Response:
            tags = {1: {"Cache-Tag": "old"}, 2: {"Cache-Tag": "new"}}.get(number, {})
            return response(200 if number == 1 else 304, b"x", {**FRESH, **tags})

        async with cached(Origin({}, make=make)) as h:
            await h.get("/a")
            for _ in range(2):  # the second 304 says nothing of tags
                h.clock.advance(61)
                await h.get("/a")
            await h.services.invalidations.append(PurgeScope.TAG, "old")
            assert result(await h.get("/a")) == "hit"
            await h.services.invalidations.append(PurgeScope.TAG, "new")
            assert result(await h.get("/a")) == "miss"

    async def test_a_clients_no_cache_is_validated(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            await h.get("/a")
            answered = await h.get("/a", {"Cache-Control": "no-cache"})
        assert (result(answered), origin.asked) == ("revalidated", 2)

    async def test_a_variant_that_is_not_stored_is_a_vary_miss(self) -> None:
        async with cached(Origin({**FRESH, "Vary": "X-Lang"})) as h:
            await h.get("/a", {"X-Lang": "de"})
            answered = await h.get("/a", {"X-Lang": "en"})
            await h.services.invalidations.append(PurgeScope.URL, answered.exchange.request.url)
            purged = await h.get("/a", {"X-Lang": "en"})
        assert [one.exchange.cache.fwd for one in (answered, purged)] == ["vary-miss", "uri-miss"]

    async def test_stale_after_an_answered_error_says_that_the_origin_was_asked(self) -> None:
        good = response(200, b"x", {"Cache-Control": "max-age=1, stale-if-error=60"})
        origin = Origin({}, make=lambda _, n: good if n == 1 else response(503))
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(3)
            asked, left_alone = await h.get("/a"), await h.get("/a")
        assert asked.header("Cache-Status") == "sidecache;fwd=stale;fwd-status=503;ttl=-2;detail=stale-if-error"
        assert left_alone.header("Cache-Status") == "sidecache;hit;ttl=-2;detail=stale-if-error"

    @pytest.mark.parametrize("line", [{"Cache-Control": "no-cache"}, {"Pragma": "no-cache"}])
    async def test_a_clients_no_cache_shares_no_answer_from_before_it(self, line: dict[str, str]) -> None:
        gate = asyncio.Event()
        origin = Origin({}, make=lambda _, n: response(200, HeldStream(gate) if n == 1 else b"new", FRESH))
        async with cached(origin) as h:
            arriving = asyncio.ensure_future(h.get("/a"))
            await settle()
            asked = asyncio.ensure_future(h.get("/a", line))
            await settle()
            gate.set()
            assert (await arriving).body == b"old"
            assert ((await asked).body, origin.asked) == (b"new", 2)

    async def test_a_route_may_turn_that_off(self) -> None:
        async with cached(Origin(FRESH), ignore_request_directives=("no-cache",)) as h:
            await h.get("/a")
            assert result(await h.get("/a", {"Cache-Control": "no-cache"})) == "hit"

    async def test_only_if_cached_is_never_sent_on(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            answered = await h.get("/a", {"Cache-Control": "only-if-cached"})
        assert (answered.status, origin.asked) == (504, 0)

    async def test_head_that_contradicts_voids_the_stored_get(self) -> None:
        origin = Origin({}, make=lambda r, n: response(200, b"x", {**FRESH, "ETag": f'"v{n}"'}))
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(61)
            await h.send(request("HEAD", "/a"))
            await h.get("/a")
        assert "If-None-Match" not in h.upstream.requests[-1].headers


class TestStale:
    async def test_while_revalidate_answers_at_once_and_refreshes_once(self) -> None:
        origin = Origin({"Cache-Control": "max-age=60, stale-while-revalidate=30"})
        async with cached(origin) as h:
            await h.get("/a")
            h.clock.advance(70)
            origin.gate = asyncio.Event()
            stale = [await h.get("/a") for _ in range(5)]
            origin.gate.set()
            await settle()
            after = await h.get("/a")
        assert [(result(each), each.body) for each in stale] == [("stale", b"answer 1")] * 5
        assert "hit;ttl=-10;detail=stale-while-revalidate" in (stale[0].header("Cache-Status") or "")
        assert (result(after), after.body, origin.asked) == ("hit", b"answer 2", 2)

    @pytest.mark.parametrize(
        "trouble",
        [UpstreamError("x"), UpstreamTimeoutError("x"), CircuitOpenError("x"), response(503, b"down"), response(500)],
        ids=["unreachable", "timeout", "open circuit", "503", "500"],
    )
    @pytest.mark.parametrize("kind", ["GET", "HEAD", "range"])
    async def test_if_error_answers_for_a_failing_origin(self, trouble: Any, kind: str) -> None:
        def make(request: Request, number: int) -> Any:
            return (
                trouble if number > 1 else response(200, b"good", {"Cache-Control": "max-age=60, stale-if-error=600"})
            )

        asked = request("HEAD" if kind == "HEAD" else "GET", "/a", {"Range": "bytes=0-1"} if kind == "range" else None)
        async with cached(Origin({}, make=make)) as h:
            await h.get("/a")
            h.clock.advance(61)
            answered = await h.send(asked)
        assert (result(answered), answered.exchange.cache.tier) == ("stale", "l1")
        assert answered.status == (206 if kind == "range" else 200)

    async def test_a_failing_origin_is_probed_once_an_interval(self) -> None:
        def make(request: Request, number: int) -> Any:
            return UpstreamError("x") if number > 1 else response(200, b"good", {"Cache-Control": "max-age=1"})

        origin = Origin({}, make=make)
        async with cached(origin, stale_if_error_seconds=600, retry_seconds=5) as h:
            await h.get("/a")
            h.clock.advance(61)
            for _ in range(10):
                assert result(await h.get("/a")) == "stale"
            assert origin.asked == 2
            h.clock.advance(6)
            await h.get("/a")
        assert origin.asked == 3

    async def test_staleness_is_bounded(self) -> None:
        def make(request: Request, number: int) -> Any:
            return UpstreamError("down") if number > 1 else response(200, b"good", {"Cache-Control": "max-age=1"})

        async with cached(Origin({}, make=make), stale_if_error_seconds=60) as h:
            await h.get("/a")
            h.clock.advance(62)
            answered = await h.get("/a")
        assert answered.status == 502
        assert "fwd=" in (answered.header("Cache-Status") or "")

    async def test_must_revalidate_forbids_stale(self) -> None:
        def make(request: Request, number: int) -> Any:
            if number > 1:
                return UpstreamError("down")
            return response(200, b"good", {"Cache-Control": "max-age=1, must-revalidate, stale-if-error=600"})

        async with cached(Origin({}, make=make)) as h:
            await h.get("/a")
            h.clock.advance(2)
            assert (await h.get("/a")).status == 502


class TestCollapse:
    async def test_a_cold_key_is_fetched_once_for_all(self) -> None:
        origin = Origin(FRESH, gate=asyncio.Event())
        async with cached(origin) as h:
            waiting = [asyncio.ensure_future(h.get("/a")) for _ in range(500)]
            await settle()
            assert origin.gate is not None
            origin.gate.set()
            answers = await asyncio.gather(*waiting)
        assert origin.asked == 1
        assert {answer.body for answer in answers} == {b"answer 1"}
        assert sum(answer.exchange.cache.collapsed for answer in answers) == 499

    @pytest.mark.parametrize("state", ["cold", "stale", "purged", "soft purged"])
    async def test_a_crowd_is_one_request_and_ends_with_the_client_that_caused_it(self, state: str) -> None:
        def make(asked: Request, number: int) -> Response:
            return response(200, str(number).encode(), {**FRESH, "ETag": f'"{number}"'})

        origin, before = Origin({}, make=make), 0
        async with cached(origin) as h:
            if state != "cold":
                await h.get("/a")
                before = 1
            if state == "stale":
                h.clock.advance(61)
            elif state != "cold":
                await h.services.invalidations.append(PurgeScope.URL, "http://example.test/a", soft=state != "purged")
            origin.gate = asyncio.Event()
            crowd = [asyncio.ensure_future(h.get("/a")) for _ in range(500)]
            await settle()
            assert origin.asked == before + 1
            origin.gate.set()
            await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
            for _ in range(5):  # turns of the loop: nobody looks again from time to time
                await asyncio.sleep(0)
            assert all(one.done() for one in crowd)
            answers = [one.result() for one in crowd]
        assert {one.body for one in answers} == {str(before + 1).encode()}
        assert sum(one.exchange.cache.collapsed for one in answers) == 499
        assert origin.asked == before + 1

    async def test_a_stream_reaches_all_as_it_arrives(self) -> None:
        async with cached(Origin({}, make=lambda _, n: response(200, ChunkStream([b"a", b"b", b"c"]), FRESH))) as h:
            answers = await asyncio.gather(*(h.get("/a") for _ in range(50)))
        assert [answer.body for answer in answers] == [b"abc"] * 50
        assert len(h.upstream.requests) == 1

    async def test_the_client_that_caused_the_fetch_may_leave(self) -> None:
        origin = Origin(FRESH, gate=asyncio.Event())
        async with cached(origin) as h:
            first = asyncio.ensure_future(h.get("/a"))
            await settle()
            second = asyncio.ensure_future(h.get("/a"))
            await settle()
            first.cancel()
            await settle()
            assert origin.gate is not None
            origin.gate.set()
            assert (await second).body == b"answer 1"
        assert origin.asked == 1

    async def test_an_error_is_everybodys(self) -> None:
        gate = asyncio.Event()
        origin = Origin({}, gate=gate, make=lambda _, n: UpstreamError("down"))
        async with cached(origin) as h:
            waiting = [asyncio.ensure_future(h.get("/a")) for _ in range(20)]
            await settle()
            gate.set()
            answers = await asyncio.gather(*waiting)
        assert ({answer.status for answer in answers}, origin.asked) == ({502}, 1)

    async def test_what_cannot_be_stored_goes_side_by_side(self) -> None:
        arrived = 0
        all_here = asyncio.Event()

        async def script(_: Request) -> Response:
            nonlocal arrived
            arrived += 1
            mine = arrived
            if mine > 1:  # the first finds out that it cannot be shared; the others then meet at the origin
                if arrived == 20:
                    all_here.set()
                await asyncio.wait_for(all_here.wait(), 5)
            return response(200, str(mine).encode(), {"Cache-Control": "private"})

        async with cached(script) as h:
            answers = await asyncio.gather(*(h.get("/a") for _ in range(20)))
        assert len({answer.body for answer in answers}) == 20

    async def test_that_a_key_is_uncacheable_is_remembered_and_forgotten(self) -> None:
        async with cached(Origin({"Cache-Control": "no-store"}), uncacheable_seconds=10) as h:
            first, second = await h.get("/a"), await h.get("/a")
            h.clock.advance(11)
            third = await h.get("/a")
        reasons = [each.exchange.cache.reason.token for each in (first, second, third) if each.exchange.cache.reason]
        assert reasons == ["no-store", "recently-uncacheable", "no-store"]

    async def test_variants_do_not_get_each_others_fetch(self) -> None:
        origin = Origin({**FRESH, "Vary": "X-Plan"}, gate=asyncio.Event())
        async with cached(origin) as h:
            waiting = [asyncio.ensure_future(h.get("/a", {"X-Plan": plan})) for plan in "ababab"]
            await settle()
            assert origin.gate is not None
            origin.gate.set()
            answers = await asyncio.gather(*waiting)
        assert origin.asked == 2
        assert [answer.body for answer in answers] == [b"answer 1", b"answer 2"] * 3

    async def test_a_private_stream_ends_at_the_origin_when_its_client_leaves(self) -> None:
        stream = ChunkStream([b"a"] * 100)
        async with cached(Origin({}, make=lambda _, n: response(200, stream, {"Cache-Control": "private"}))) as h:
            begun = await h.begin(request("GET", "/a"))
            await h.finish(*begun, abort=True)
            await settle()
        assert stream.closed
        assert stream.delivered < 100

    async def test_a_private_stream_whose_client_left_before_it_came_is_closed(self) -> None:
        gate, stream = asyncio.Event(), ChunkStream([b"a"])

        def make(_: Request, number: int) -> Response:
            return response(200, stream, {"Cache-Control": "private"})

        async with cached(Origin({}, gate=gate, make=make)) as h:
            waiting = asyncio.ensure_future(h.get("/a"))
            await settle()
            waiting.cancel()
            await settle()
            gate.set()
            await settle()
        assert stream.closed

    async def test_a_body_too_large_to_keep_streams_through_and_is_remembered(self) -> None:
        chunks = [b"x" * 1000] * 20
        async with cached(
            Origin({}, make=lambda _, n: response(200, ChunkStream(chunks), FRESH)), max_object_bytes=5000
        ) as h:
            first = await h.get("/a")
            second = await h.get("/a")
        assert first.body == second.body == b"".join(chunks)
        assert second.exchange.cache.reason is not None
        assert second.exchange.cache.reason.token == "recently-uncacheable"
        assert second.exchange.cache.fwd == "miss", "the cache was there for it, and had nothing"


class TestInvalidation:
    @pytest.mark.parametrize(("stored", "changed"), [("/a?utm_a=1", "/a"), ("/a", "/a?utm_a=1"), ("/a?b&a", "/a?a&b")])
    async def test_an_unsafe_method_voids_what_answers_its_uri_though_stored_for_another(
        self, stored: str, changed: str
    ) -> None:
        async with cached(Origin(FRESH), ignore_query=["utm_*"], sort_query=True, body_methods=["QUERY"]) as h:
            await h.get(stored)
            assert result(await h.get(changed)) == "hit"
            await h.send(request("POST", changed))
            assert result(await h.get(changed)) == "miss"

    @pytest.mark.parametrize(
        ("method", "status", "gone"), [("POST", 200, True), ("PUT", 204, True), ("POST", 500, False)]
    )
    async def test_an_unsafe_method_that_succeeds_voids_every_variant(
        self, method: str, status: int, gone: bool
    ) -> None:
        def make(request: Request, number: int) -> Response:
            return response(200 if request.method == "GET" else status, b"x", {**FRESH, "Vary": "X-Plan"})

        async with cached(Origin({}, make=make)) as h:
            await h.get("/a", {"X-Plan": "a"})
            await h.get("/a", {"X-Plan": "b"})
            await h.send(request(method, "/a", body=b"{}"))
            expected = "miss" if gone else "hit"
            assert result(await h.get("/a", {"X-Plan": "a"})) == expected
            assert result(await h.get("/a", {"X-Plan": "b"})) == expected

    @pytest.mark.parametrize(
        ("scope", "value"),
        [
            (PurgeScope.TAG, "items"),
            (PurgeScope.URL, "http://example.test/a"),
            (PurgeScope.PREFIX, "http://example.test/"),
            (PurgeScope.KEY, "GET http://example.test/a"),
            (PurgeScope.ALL, ""),
        ],
    )
    @pytest.mark.parametrize("soft", [True, False])
    async def test_a_purge_in_any_scope(self, scope: PurgeScope, value: str, soft: bool) -> None:
        headers = {**FRESH, "Cache-Tag": "items, all"}
        async with cached(Origin(headers)) as h:
            await h.get("/a")
            await h.services.invalidations.append(scope, value, soft=soft)
            assert result(await h.get("/a")) == ("revalidated" if soft else "miss")

    @pytest.mark.parametrize(("scope", "value"), [(PurgeScope.TAG, "items"), (PurgeScope.URL, "http://example.test/a")])
    async def test_a_fetch_under_way_does_not_undo_a_purge(self, scope: PurgeScope, value: str) -> None:
        gate = asyncio.Event()
        origin = Origin({**FRESH, "Cache-Tag": "items"}, gate=gate)
        async with cached(origin) as h:
            before = asyncio.ensure_future(h.get("/a"))
            await settle()
            await h.services.invalidations.append(scope, value)
            after = asyncio.ensure_future(h.get("/a"))
            await settle()
            assert origin.asked == 2, "a request after the purge does not join the fetch before it"
            gate.set()
            await before
            assert (await after).body == b"answer 2"
            assert (await h.get("/a")).body == b"answer 2"

    async def test_a_purge_of_something_else_does_not_part_requests(self) -> None:
        origin = Origin(FRESH, gate=asyncio.Event())
        async with cached(origin) as h:
            first = asyncio.ensure_future(h.get("/a"))
            await settle()
            await h.services.invalidations.append(PurgeScope.URL, "http://example.test/b")
            second = asyncio.ensure_future(h.get("/a"))
            await settle()
            assert origin.gate is not None
            origin.gate.set()
            await asyncio.gather(first, second)
        assert origin.asked == 1

    async def test_cache_groups(self) -> None:
        def make(asked: Request, number: int) -> Response:
            if asked.method == "POST":
                return response(200, b"", {"Cache-Group-Invalidation": '"cart"'})
            return response(200, b"x", {**FRESH, "Cache-Groups": '"cart"'})

        async with cached(Origin({}, make=make)) as h:
            await h.get("/a")
            await h.send(request("POST", "/b", body=b""))
            assert result(await h.get("/a")) == "miss"


class TestStandingAside:
    async def test_a_get_with_a_body_is_not_cached(self) -> None:
        async with cached(Origin(FRESH)) as h:
            answers = [await h.send(request("GET", "/a", body=b"x")) for _ in range(2)]
        assert [result(each) for each in answers] == ["bypass", "bypass"]
        assert "fwd=bypass;fwd-status=200;detail=request-body" in (answers[0].header("Cache-Status") or "")

    async def test_a_bypassed_route_still_invalidates(self) -> None:
        async with cached(Origin(FRESH), bypass=True) as h:
            assert result(await h.get("/a")) == "bypass"
            before = h.services.invalidations.last_seen
            await h.send(request("POST", "/a", body=b""))
            assert h.services.invalidations.last_seen > before

    async def test_credentials_are_not_shared_without_leave(self) -> None:
        origin = Origin(FRESH)
        async with cached(origin) as h:
            await h.get("/a", {"Authorization": "Basic x"})
            assert result(await h.get("/a")) == "miss"
            assert result(await h.get("/a")) == "hit"

    async def test_no_cache_status_when_it_is_turned_off(self) -> None:
        async with cached(Origin(FRESH), cache_status=False) as h:
            assert (await h.get("/a")).header("Cache-Status") is None

    @pytest.mark.parametrize(
        ("client", "told"), [("192.0.2.1", True), ("198.51.100.1", False), ("2001:db8::1%eth0", True), ("", False)]
    )
    async def test_cache_status_may_be_for_some_clients_alone(self, client: str, told: bool) -> None:
        async with cached(Origin(FRESH), cache_status_clients=("192.0.2.0/24", "2001:db8::/32")) as h:
            for _ in range(2):
                assert ((await h.get("/a", client=client)).header("Cache-Status") is not None) is told

    async def test_an_answer_that_is_not_for_all_to_see_is_not_kept_to_be_given_again(self) -> None:
        kept = []
        for clients in (None, ("192.0.2.0/24",)):
            async with cached(Origin(FRESH), cache_status_clients=clients) as h:
                await h.get("/a")
                exchange, got = await h.pipeline.handle(request("GET", "/a"), request_id="test", wants_replay=True)
                kept.append(exchange.replay is not None)
                await h.finish(exchange, got)
        assert kept == [True, False]

    async def test_the_key_is_told_when_asked_for(self) -> None:
        async with cached(Origin(FRESH), cache_status_key=True) as h:
            assert 'key="GET http://example.test/a"' in ((await h.get("/a")).header("Cache-Status") or "")


class TestLife:
    async def test_a_closed_plugin_hears_of_no_more_purges(self) -> None:
        async with cached(Origin(FRESH)) as h:
            (plugin,) = h.pipeline.plugins
            assert isinstance(plugin, Cache)
            await plugin.close()
            await h.services.invalidations.append(PurgeScope.TAG, "items")
            assert plugin._last_tag_purge == 0
            await plugin.close()


class TestForms:
    async def test_a_form_is_computed_once_for_all_and_kept(self) -> None:
        computed = 0

        async def compute(body: bytes) -> bytes:
            nonlocal computed
            computed += 1
            await asyncio.sleep(0)
            return body.upper()

        async with cached(Origin(FRESH)) as h:
            await h.get("/a")
            forms = [(await h.get("/a")).exchange.forms for _ in range(3)]
            made = await asyncio.gather(*(each.derive("up", compute) for each in forms if each is not None))
            later = (await h.get("/a")).exchange.forms
            assert later is not None
            assert later.get("up") == b"ANSWER 1"
        assert (made, computed) == ([b"ANSWER 1"] * 3, 1)


class TestAccount:
    async def test_stats_count_results_reasons_and_ratios_per_route(self) -> None:
        async with cached(Origin(FRESH)) as h:
            for _ in range(4):
                await h.get("/a")
            (plugin,) = h.pipeline.plugins
            routes = plugin.stats()["routes"]
        assert isinstance(routes, dict)
        default = routes["default"]
        assert (default["hit"], default["miss"], default["bytes"]) == (3, 1, 24)
        assert default["hit_ratio"] == {"1m": 0.75, "5m": 0.75, "15m": 0.75}
        assert default["reasons"] == {"miss: nothing-stored": 1}

    async def test_an_expired_entry_leaves_the_store(self) -> None:
        async with cached(Origin({"Cache-Control": "max-age=5"})) as h:
            await h.get("/a")
            h.clock.advance(6)
            assert h.services.store.get_local(CacheKey("GET http://example.test/a")) is None
