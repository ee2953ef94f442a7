"""What goes wrong while a request is on its way past the pipeline: nothing of it is seen, but what the pipeline shows.

Each test runs twice: with the ways past the pipeline, and with everything through it. What is expected is the same.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
from typing_extensions import override

from proxy.http.message import Response
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.passage import Transcript
from proxy.pipeline.plugin import Plugin, PluginSettings, Services
from proxy.server.passage import MOST_STRANGERS, STRANGER
from proxy.server.protocol import Connection
from tests.support.passing import Call, PassingSite, Script, always, ok, passing_site, silent_plugins
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import eventually
from tests.support.site import LANE_BYTES

OTHER = ok(b"other", "X-Kind: another")
PAST = pytest.mark.parametrize("lane_bytes", [LANE_BYTES, 0], ids=["past", "through"])


@asynccontextmanager
async def passing(lane_bytes: int = LANE_BYTES, **settings: Any) -> AsyncIterator[tuple[PassingSite, RawClient]]:
    """A site, and a client whose next request for `/a` goes past the pipeline."""
    async with passing_site(always(ok()), lane_bytes=lane_bytes, **settings) as site, await site.client() as client:
        for _ in range(4):
            assert (await client.ask(request("/a"))).body == b"ok"
        assert site.crossed == (2 if lane_bytes else 0)
        site.origin.heads.clear()
        yield site, client


class Held:
    """A script that answers when it is told to.

    Attributes:
        calls: that have come.
        left: how many of them the proxy has closed the connection of.
    """

    def __init__(self, *pieces: bytes) -> None:
        self.calls: list[Call] = []
        self.left = 0
        self._pieces = pieces
        self._go = asyncio.Event()

    async def __call__(self, call: Call) -> bool | None:
        self.calls.append(call)
        going = asyncio.ensure_future(self._go.wait())
        gone = asyncio.ensure_future(call.gone())
        await asyncio.wait({going, gone}, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (going, gone):
            waiter.cancel()
        await asyncio.gather(going, gone, return_exceptions=True)
        if not self._go.is_set():
            self.left += 1
            return False
        await call.send(*self._pieces)
        return None

    def go(self) -> None:
        """Answer all."""
        self._go.set()


async def held(site: PassingSite, client: RawClient, *pieces: bytes, head: bytes = b"") -> Held:
    """A request of `client` that the origin does not answer yet."""
    script = Held(*(pieces or (ok(),)))
    site.origin.script = script
    await client.send(head or request("/a"))
    await eventually(lambda: len(script.calls) == 1)
    return script


def once(script: Script, then: Script) -> Script:
    """`script` answers the first call, `then` the others."""
    scripts = iter([script])

    async def either(call: Call) -> object:
        return await next(scripts, then)(call)

    return either


def breaking(*pieces: bytes) -> Script:
    """Sends `pieces` and closes."""

    async def script(call: Call) -> bool:
        await call.send(*pieces)
        return False

    return script


class TestAnOriginThatBreaksOff:
    @PAST
    async def test_a_connection_that_closes_as_the_request_goes_out_costs_nobody_an_error(
        self, lane_bytes: int
    ) -> None:
        async with passing(lane_bytes) as (site, client):
            site.origin.script = once(breaking(), always(ok(b"again")))
            assert (await client.ask(request("/a"))).body == b"again"
            assert len(site.origin.heads) == 2, "it is sent again once"
            assert site.sample("sidecache_upstream_retries_total") == 1
            assert site.sample("sidecache_upstream_failures_total") == 0

    @PAST
    @pytest.mark.parametrize(
        "pieces",
        [(b"HTTP/1.1 200 OK\r\nDate",), (b"HTTP/1.1 2", b"00 OK\r\n"), (b"garbage\r\n\r\n",), (b"\x16\x03\x01",)],
    )
    async def test_half_a_head_or_garbage_is_a_502(self, lane_bytes: int, pieces: Sequence[bytes]) -> None:
        async with passing(lane_bytes) as (site, client):
            site.origin.script = breaking(*pieces)
            assert (await client.ask(request("/a"))).status == 502
            assert len(site.origin.heads) == 1
            assert site.sample("sidecache_upstream_failures_total") == 1
            assert site.sample("sidecache_circuit_failures_total") == 1
            site.origin.script = always(ok())
            assert (await client.ask(request("/a"))).body == b"ok"

    @PAST
    async def test_half_a_body_ends_the_clients_connection(self, lane_bytes: int) -> None:
        async with passing(lane_bytes) as (site, client):
            whole = ok(b"x" * 1000)
            site.origin.script = breaking(whole[:-500], whole[-500:-1])
            await client.send(request("/a"))
            assert (await client.head()).field("Content-Length") == "1000"
            assert len(await client.read_rest()) < 1000
            await eventually(lambda: site.sample("sidecache_server_aborted_responses_total") == 1)
            await eventually(lambda: site.pool.stats()["open"] == site.pool.stats()["idle"])

    @PAST
    async def test_what_comes_on_an_idle_connection_is_nobodys_answer(self, lane_bytes: int) -> None:
        async with passing(lane_bytes) as (site, client):
            calls: list[Call] = []

            async def remembering(call: Call) -> None:
                calls.append(call)
                await call.send(ok(b"mine"))

            site.origin.script = remembering
            assert (await client.ask(request("/a"))).body == b"mine"
            before = site.origin.open
            await calls[0].send(ok(b"nobody's"))
            await eventually(lambda: site.origin.open == before - 1)
            assert (await client.ask(request("/a"))).body == b"mine"

    @PAST
    async def test_a_second_response_is_nobodys_answer(self, lane_bytes: int) -> None:
        async with passing(lane_bytes) as (site, client):
            for gap in (False, True):
                evil = ok(b"evil")
                site.origin.script = always(*((ok(), evil) if gap else (ok() + evil,)))
                for _ in range(3):
                    fewer = range(max(site.origin.open, 1))
                    assert (await client.ask(request("/a"))).body == b"ok"
                    await eventually(partial(lambda fewer: site.origin.open in fewer, fewer))


class TestAnOriginThatIsSlow:
    @PAST
    @pytest.mark.parametrize("answer", [ok(), OTHER], ids=["known", "unknown"])
    async def test_who_waits_for_long_is_left_to_the_pipeline_and_the_request_is_sent_once(
        self, lane_bytes: int, answer: bytes
    ) -> None:
        async with passing(lane_bytes) as (site, client):
            crossed = site.crossed
            script = await held(site, client, answer, head=request("/a", "user-agent:odd"))
            site.clock.advance(1.0)
            await asyncio.sleep(1.2)  # the patience, which is real time, too
            script.go()
            assert (await client.response()).status == 200
            assert len(site.origin.heads) == 1
            assert site.crossed == crossed
            assert site.sample("sidecache_upstream_requests_total") == 5
            assert site.sample("sidecache_request_duration_seconds_sum") == pytest.approx(1.0)
            assert site.sample("sidecache_upstream_seconds_sum") == pytest.approx(1.0)

    @PAST
    @pytest.mark.parametrize("seconds", [0.2, 1.2])
    async def test_who_waits_for_too_long_gets_a_504(self, lane_bytes: int, seconds: float) -> None:
        async with passing(lane_bytes, upstream={"first_byte_timeout_seconds": seconds}) as (site, client):
            script = await held(site, client)
            site.clock.advance(min(seconds, 1.0))
            answer = await client.response()
            assert answer.status == 504
            assert f"did not answer within {seconds:g} s".encode() in answer.body
            await eventually(lambda: script.left == 1)
            assert len(site.origin.heads) == 1
            assert site.sample("sidecache_circuit_failures_total", kind="timeout") == 1
            site.origin.script = always(ok())
            assert (await client.ask(request("/a"))).body == b"ok"

    @PAST
    async def test_a_response_that_stops_half_way_is_left_to_the_pipeline(self, lane_bytes: int) -> None:
        async with passing(lane_bytes) as (site, client):
            whole, held_back = ok(b"x" * 1000), asyncio.Event()

            async def pausing(call: Call) -> None:
                await call.send(whole[:-500])
                await held_back.wait()
                await call.send(whole[-500:])

            site.origin.script = pausing
            await client.send(request("/a"))
            await eventually(lambda: len(site.origin.heads) == 1)
            site.clock.advance(1.0)
            assert (await client.head()).status == 200, "what is here is sent"
            held_back.set()
            assert await client.read_exactly(1000) == b"x" * 1000
            assert len(site.origin.heads) == 1


class TestAClient:
    @PAST
    @pytest.mark.parametrize("how", ["close", "reset", "half-close"])
    async def test_that_leaves_is_counted_and_its_request_given_up(self, lane_bytes: int, how: str) -> None:
        async with passing(lane_bytes) as (site, client):
            script = await held(site, client)
            assert site.under_way == 1
            if (
                how == "half-close"
            ):  # nobody who asks by GET and goes on reading does that: as nginx, it is taken to leave
                client.writer.write_eof()
            elif how == "close":
                await client.close()
            else:
                client.reset()
            await eventually(lambda: script.left == 1)
            await eventually(lambda: site.under_way == 0)
            assert site.sample("sidecache_request_duration_seconds_count", status="4xx") == 1
            assert site.sample("sidecache_request_duration_seconds_count") == 5
            assert site.sample("sidecache_upstream_seconds_count") == 5
            assert site.sample("sidecache_cache_requests_total") == 5
            assert site.sample("sidecache_server_aborted_responses_total") == 0
            assert site.sample("sidecache_upstream_requests_total") == 5
            assert site.sample("sidecache_circuit_failures_total") == 0
            assert site.pool.stats()["open"] == site.pool.stats()["idle"]
            assert site.application.pipeline.in_flight == 0

    @PAST
    @pytest.mark.parametrize("answer", [ok(), OTHER], ids=["known", "unknown"])
    async def test_may_send_the_next_request_early(self, lane_bytes: int, answer: bytes) -> None:
        async with passing(lane_bytes) as (site, client):
            script = await held(site, client, answer)
            await client.send(request("/b"), request("/a")[:20])
            script.go()
            assert [(await client.response()).status for _ in range(2)] == [200, 200]
            await client.send(request("/a")[20:])
            assert (await client.response()).status == 200
            assert [head.split(b" ")[1] for head in site.origin.heads] == [b"/a", b"/b", b"/a"]

    @PAST
    async def test_is_not_timed_out_while_it_waits_but_when_it_rests(self, lane_bytes: int) -> None:
        async with passing(lane_bytes, keep_alive_timeout_seconds=0.3) as (site, client):
            script = await held(site, client)
            await asyncio.sleep(0.5)
            script.go()
            assert (await client.response()).body == b"ok"
            await asyncio.sleep(0.15)
            assert (await client.ask(request("/a"))).body == b"ok"
            began = asyncio.get_running_loop().time()
            assert await client.closed()
            assert 0.2 < asyncio.get_running_loop().time() - began < 5


@PAST
async def test_a_thousand_clients_take_turns_on_four_connections(lane_bytes: int) -> None:
    async with passing_site(always(ok()), lane_bytes=lane_bytes, upstream={"max_connections": 4}) as site:
        clients = [await site.client() for _ in range(1_000)]
        try:
            for client in clients[:3]:
                await client.ask(request("/a"))
            for _ in range(2):
                answers = await asyncio.gather(*(client.ask(request("/a")) for client in clients))
                assert {answer.body for answer in answers} == {b"ok"}
            assert site.origin.connections <= 5
            stats = site.pool.stats()
            assert (stats["open"], stats["waiting"]) == (stats["idle"], 0)
            assert site.sample("sidecache_upstream_requests_total") == 2_003
            assert site.sample("sidecache_request_duration_seconds_count") == 2_003
            assert bool(site.crossed) == bool(lane_bytes)
        finally:
            await asyncio.gather(*(client.close() for client in clients))


class TestTheEnd:
    @PAST
    @pytest.mark.parametrize("answer", [ok(), OTHER], ids=["known", "unknown"])
    async def test_a_drain_waits_for_what_is_under_way(self, lane_bytes: int, answer: bytes) -> None:
        async with passing(lane_bytes) as (site, client):
            script = await held(site, client, answer)
            draining = asyncio.ensure_future(site.listener.drain(5.0))
            await asyncio.sleep(0)
            assert not draining.done()
            script.go()
            response = await client.response()
            assert (response.status, response.field("Connection")) == (200, "close")
            assert await client.closed()
            assert await draining
            assert len(site.origin.heads) == 1

    @PAST
    async def test_a_drain_cuts_what_takes_too_long(self, lane_bytes: int) -> None:
        async with passing(lane_bytes) as (site, client):
            script = await held(site, client)
            assert not await site.listener.drain(0.1)
            await eventually(lambda: script.left == 1)
            assert site.under_way == 0

    @PAST
    async def test_a_pool_that_closes_ends_what_is_under_way(self, lane_bytes: int) -> None:
        async with passing(lane_bytes) as (site, client):
            await held(site, client)
            await site.pool.close()
            assert (await client.response()).status == 502


class TestAReload:
    @PAST
    @pytest.mark.parametrize("answer", [ok(), OTHER], ids=["known", "unknown"])
    async def test_what_is_under_way_goes_on(self, lane_bytes: int, answer: bytes) -> None:
        async with passing(lane_bytes) as (site, client):
            script = await held(site, client, answer)
            await site.replace_plugins(silent_plugins)
            script.go()
            assert (await client.response()).status == 200
            assert len(site.origin.heads) == 1
            for _ in range(3):
                assert (await client.ask(request("/a"))).status == 200

    @PAST
    async def test_what_plugins_heed_now_is_not_left_out_of_what_is_known(self, lane_bytes: int) -> None:
        async with passing(lane_bytes) as (site, client):
            script = await held(site, client, OTHER, head=request("/a", "Cookie: mine"))
            await site.replace_plugins(partial(silent_plugins, cache={"key_headers": ["cookie"]}))
            site.origin.heads.clear()
            script.go()
            assert (await client.response()).body == b"other"
            for _ in range(3):
                assert (await client.ask(request("/a"))).status == 200
            assert not any(b"mine" in head for head in site.origin.heads)


class TestTheBreaker:
    SETTINGS: ClassVar = {"consecutive_failures": 2, "open_seconds": 10.0, "jitter": 0.0, "successes_to_close": 1}

    @PAST
    async def test_failures_count_and_nothing_goes_past_it_while_it_is_troubled(self, lane_bytes: int) -> None:
        plugins = partial(silent_plugins, circuit_breaker=self.SETTINGS)
        async with passing(lane_bytes, plugins=plugins) as (site, client):
            site.origin.script = always(ok(b"no", status="503 Busy"))
            assert [(await client.ask(request("/a"))).status for _ in range(3)] == [503] * 3
            assert len(site.origin.heads) == 2, "the third is not sent"
            site.origin.script = always(ok())
            crossed = site.crossed
            assert (await client.ask(request("/a"))).status == 503
            site.clock.advance(10.0)
            assert (await client.ask(request("/a"))).status == 200
            assert site.crossed == crossed, "the probe is the pipeline's"
            assert (await client.ask(request("/a"))).status == 200
            assert site.crossed == crossed + bool(lane_bytes)
            assert site.sample("sidecache_circuit_failures_total") == 2

    @PAST
    async def test_what_went_well_past_it_counts_before_the_next_failure(
        self, lane_bytes: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("proxy.server.listener.SETTLE_SECONDS", 60.0)  # plugins are told as late as can be
        rules = {"consecutive_failures": 0, "failure_ratio": 0.5, "minimum_calls": 6, "window_seconds": 1.0}
        async with passing(lane_bytes, plugins=partial(silent_plugins, circuit_breaker=rules)) as (site, client):
            site.clock.advance(2.0)
            for _ in range(8):
                site.origin.script = always(ok(b"no", status="500 Oh"))
                assert (await client.ask(request("/a"))).body == b"no"
                site.origin.script = always(ok())
                for _ in range(4):
                    assert (await client.ask(request("/a"))).body == b"ok", "a fifth of the calls fails, not half"

    @PAST
    async def test_what_it_had_let_through_is_answered_though_it_opens_meanwhile(self, lane_bytes: int) -> None:
        plugins = partial(silent_plugins, circuit_breaker=self.SETTINGS)
        async with passing(lane_bytes, plugins=plugins) as (site, client), await site.client() as another:
            script = await held(site, client, OTHER)
            site.origin.script = always(ok(b"no", status="500 Oh"))
            assert [(await another.ask(request("/b"))).status for _ in range(3)] == [500, 500, 503]
            script.go()
            assert (await client.response()).body == b"other"
            assert (await another.ask(request("/b"))).status == 503, "it says nothing of the circuit"


class _Silent(Plugin[PluginSettings]):
    """A plugin that says nothing of what goes past it."""

    name: ClassVar[str] = "silent"
    settings_type = PluginSettings

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        return response


class _Failing(_Silent):
    """A plugin that fails to."""

    name: ClassVar[str] = "failing"

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return frozenset()

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> None:
        raise RuntimeError("no")


@pytest.mark.parametrize("plugin", [_Silent, _Failing])
@pytest.mark.parametrize("place", [0, 2, 5])
async def test_a_plugin_that_does_not_say_what_it_does_sees_every_request(
    plugin: type[Plugin[Any]], place: int
) -> None:
    def plugins(services: Services) -> list[Plugin[Any]]:
        members = silent_plugins(services)
        members.insert(place, plugin(PluginSettings(), services))
        return members

    async with passing_site(always(ok()), plugins=plugins) as site, await site.client() as client:
        for _ in range(6):
            assert (await client.ask(request("/a"))).body == b"ok"
        assert site.crossed == 0
        failures = site.sample("sidecache_plugin_failures_total", plugin="failing", hook="on_passage")
        assert (failures > 0) == (plugin is _Failing)


class TestTheCache:
    async def test_a_key_that_becomes_cacheable_is_stored_when_its_time_is_up(self) -> None:
        async with passing(plugins=partial(silent_plugins, cache={"uncacheable_seconds": 30.0})) as (site, client):
            site.origin.script = always(ok(b"kept").replace(b"no-store", b"max-age=60"))
            for _ in range(3):
                assert "recently-uncacheable" in ((await client.ask(request("/a"))).field("Cache-Status") or "")
            site.clock.advance(31.0)
            crossed = site.crossed
            asked = len(site.origin.heads)
            for _ in range(3):
                assert (await client.ask(request("/a"))).body == b"kept"
            assert len(site.origin.heads) == asked + 1
            assert site.crossed == crossed

    async def test_an_uncacheable_key_is_looked_at_anew_when_its_time_is_up(self) -> None:
        async with passing(plugins=partial(silent_plugins, cache={"uncacheable_seconds": 30.0})) as (site, client):
            site.clock.advance(31.0)
            crossed = site.crossed
            told = [(await client.ask(request("/a"))).field("Cache-Status") or "" for _ in range(3)]
            assert ["detail=no-store" in text for text in told] == [True, False, False]
            assert site.crossed == crossed + 2

    async def test_a_route_without_a_cache_lets_everything_pass(self) -> None:
        async with passing(plugins=partial(silent_plugins, cache={"bypass": True})) as (site, client):
            site.origin.script = always(ok(b"kept").replace(b"no-store", b"max-age=60"))
            crossed = site.crossed
            for _ in range(4):
                assert (await client.ask(request("/a"))).body == b"kept"
            assert site.crossed == crossed + 3


class TestMemory:
    async def test_no_more_ways_are_known_than_there_is_room_for(self) -> None:
        async with passing_site(always(ok()), lane_bytes=160_000) as site, await site.client() as client:
            for number in range(60):
                for _ in range(3):
                    await client.ask(request("/a", f"X-Number: {number}"))
            assert 1 <= site.sample("sidecache_fast_lane_passages") <= 9
            before = site.crossed
            await client.ask(request("/a", "X-Number: 59"))
            assert site.crossed == before + 1, "the newest is known"

    async def test_a_way_holds_neither_a_client_nor_what_it_was_learnt_from(self) -> None:
        async with passing_site(always(ok(b"x" * 50_000))) as site:
            async with await site.client() as client:
                for number in range(20):
                    for _ in range(3):
                        await client.ask(request(f"/{number}"))
            assert site.crossed > 20
            await eventually(lambda: site.sample("sidecache_server_open_connections") == 0)
            gc.collect()
            alive = gc.get_objects()
            assert not [one for one in alive if isinstance(one, Connection) and one._server is site.listener._protocols]
            assert sum(len(one.received) for one in alive if isinstance(one, Transcript)) < 200_000

    async def test_responses_that_are_all_different_are_given_up_for_a_while(self) -> None:
        async def counting(call: Call) -> None:
            await call.send(ok(b"ok", f"X-Number: {call.number}"))

        async with passing_site(counting) as site, await site.client() as client:
            for _ in range(MOST_STRANGERS // STRANGER + 30):
                await client.ask(request("/a"))
            assert site.sample("sidecache_fast_lane_passages") == 0
            site.origin.script = always(ok())
            for _ in range(4):
                await client.ask(request("/a"))
            assert site.crossed == 0
            site.clock.advance(61.0)
            for _ in range(6):
                await client.ask(request("/a"))
            assert site.crossed > 0

    async def test_some_responses_that_are_like_no_other_do_not_close_a_way_that_the_others_take(self) -> None:
        async def mostly_alike(call: Call) -> None:
            await call.send(ok(b"ok", f"X-Number: {call.number}") if call.number % 6 == 0 else ok())

        async with passing_site(mostly_alike) as site, await site.client() as client:
            for _ in range(6 * (MOST_STRANGERS // STRANGER + 30)):
                await client.ask(request("/a"))
            assert site.sample("sidecache_fast_lane_passages") == 1
