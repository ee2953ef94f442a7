"""Collapsing: one request to the origin for all who ask at a time (RFC 9111 §4)."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import Framing, Reply, Seen, reply
from tests.support.raw_client import RawClient, request
from tests.support.sidecar import eventually

behaviour = behaviours_of(Group.COLLAPSING)
row = behaviour.row

FRESH = "Cache-Control: max-age=60"
STALE = (FRESH, "Age: 100", 'ETag: "0"')  # worth storing, as it can be validated
NO_STORE = "Cache-Control: no-store"
CROWD = 50
LARGE = bytes(range(256)) * 8192
"""2 MiB: more than the sockets between origin, cache and client hold."""


async def crowd(page: Resource, gate: asyncio.Event, *lines: str, size: int = CROWD) -> list[Answer]:
    """The answers to `size` clients at once: the origin waits for `gate`, which opens when all requests are in."""
    asking = [asyncio.ensure_future(page.ask(*lines)) for _ in range(size)]
    await in_flight(page.cache, size)
    gate.set()
    return await asyncio.gather(*asking)


async def in_flight(cache: CacheUnderTest, count: int) -> None:
    """Return when the sidecar has as many requests under way.

    Raises:
        TimeoutError: they did not come.
    """
    async with asyncio.timeout(10):
        while True:
            _, text = await cache.running.admin("GET", "/metrics")
            figures = [line for line in text.splitlines() if line.startswith("sidecache_server_requests_in_flight")]
            if float(figures[0].rpartition(" ")[2]) >= count:
                return
            await asyncio.sleep(0.01)


def are_one(answers: Sequence[Answer], body: bytes) -> bool:
    """Whether all got one body, and all but one say that they waited for another's."""
    collapsed = sum("collapsed" in answer.cache_status for answer in answers)
    return {answer.body for answer in answers} == {body} and collapsed == len(answers) - 1


@behaviour("RFC 9111 §4", "Of many requests for what is not stored one goes to the origin, and all get its answer")
async def test_cold(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body="body", until=gate))
    assert are_one(await crowd(page, gate), b"body")
    assert len(page.seen) == 1


@behaviour("RFC 9111 §4", "Of many requests for what is stale one goes to the origin, and all get its answer")
async def test_stale(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(*STALE, body="old"), reply(FRESH, body="new", until=gate))
    await page.ask()
    assert are_one(await crowd(page, gate), b"new")
    assert len(page.seen) == 2


@behaviour("RFC 9111 §4.3", "Of many requests for what is stale one has it confirmed, and all get what is stored")
async def test_validated(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(*STALE, body="old"), reply(FRESH, 'ETag: "0"', status=304, until=gate))
    await page.ask()
    assert are_one(await crowd(page, gate), b"old")
    assert len(page.seen) == 2


@behaviour("RFC 9111 §4", "Of many requests for what was just purged one goes to the origin, and all get its answer")
async def test_purged(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body="old"), reply(FRESH, body="new", until=gate))
    await page.ask()
    await page.purge()
    assert are_one(await crowd(page, gate), b"new")
    assert len(page.seen) == 2


@behaviour("RFC 9111 §4", "Of many requests for one variant one goes to the origin, for each variant")
async def test_variants(cache: CacheUnderTest) -> None:
    def script(seen: Seen) -> Reply:
        return reply(FRESH, "Vary: X-Lang", body=seen.field("X-Lang"), until=gate if len(page.seen) > 1 else None)

    gate = asyncio.Event()
    page = cache.resource(script)
    await page.ask("X-Lang: fr")  # that it varies is known from now on
    english, german = (
        [asyncio.ensure_future(page.ask(f"X-Lang: {language}")) for _ in range(20)] for language in ("en", "de")
    )
    await in_flight(cache, 40)
    gate.set()
    assert are_one(await asyncio.gather(*english), b"en")
    assert are_one(await asyncio.gather(*german), b"de")
    assert len(page.seen) == 3


@behaviour("RFC 9111 §4.1", "Who waited for an answer that turns out to be another variant gets one of their own")
async def test_unknown_variants(cache: CacheUnderTest) -> None:
    def script(seen: Seen) -> Reply:
        return reply(FRESH, "Vary: X-Lang", body=seen.field("X-Lang"), until=gate)

    gate = asyncio.Event()
    page = cache.resource(script)
    languages = ["en", "de"] * 10
    asking = [asyncio.ensure_future(page.ask(f"X-Lang: {language}")) for language in languages]
    await in_flight(cache, len(asking))
    gate.set()
    assert [answer.body.decode() for answer in await asyncio.gather(*asking)] == languages
    assert len(page.seen) == 2


@behaviour("RFC 9111 §4", "Of many requests for one part one goes to the origin, and all get that part")
async def test_parts(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    part = reply(FRESH, 'ETag: "1"', "Content-Range: bytes 2-4/10", status=206, body=b"234", until=gate)
    page = cache.resource(part)
    assert are_one(await crowd(page, gate, "Range: bytes=2-4", size=20), b"234")
    assert len(page.seen) == 1


@behaviour("RFC 9111 §4", "Each of those who waited has its own conditions judged: 304, 206 and 200 from one response")
async def test_each_follower_has_its_own_conditions(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(*STALE, body="old"), reply(FRESH, 'ETag: "1"', body="0123456789", until=gate))
    await page.ask()
    lines: list[list[str]] = [[], ['If-None-Match: "1"'], ["Range: bytes=2-4"]]
    asking = [asyncio.ensure_future(page.ask(*one)) for one in lines]
    await in_flight(cache, len(asking))
    gate.set()
    answers = await asyncio.gather(*asking)
    assert [(one.status, one.body) for one in answers] == [(200, b"0123456789"), (304, b""), (206, b"234")]
    assert len(page.seen) == 2


@behaviour("RFC 9111 §4", "Requests with credentials wait for none without, nor the other way round")
async def test_credentials(cache: CacheUnderTest) -> None:
    def script(seen: Seen) -> Reply:
        return reply("Cache-Control: max-age=60", body=seen.field("Authorization") or "anybody", until=gate)

    gate = asyncio.Event()
    page = cache.resource(script)
    asking = [
        asyncio.ensure_future(page.ask(*lines))
        for lines in ([], ["Authorization: Basic YQ=="], [], ["Authorization: Basic Yg=="])
    ]
    await in_flight(cache, len(asking))
    gate.set()
    bodies = [answer.body for answer in await asyncio.gather(*asking)]
    assert bodies == [b"anybody", b"Basic YQ==", b"anybody", b"Basic Yg=="]


@behaviour("RFC 9111 §4", "Requests of different hosts never share an answer")
async def test_hosts(cache: CacheUnderTest) -> None:
    def script(seen: Seen) -> Reply:
        return reply(FRESH, body=seen.field("Host"), until=gate)

    gate = asyncio.Event()
    page = cache.resource(script)
    hosts = ["a.example", "b.example"]
    asking = [asyncio.ensure_future(page.ask(host=host)) for host in hosts]
    await eventually(lambda: len(page.seen) == len(hosts))
    gate.set()
    assert [answer.body.decode() for answer in await asyncio.gather(*asking)] == hosts


# Clients that leave, and slow ones.


@behaviour("RFC 9111 §4", "The fetch outlives the client that caused it: those who waited get the answer")
async def test_first_client_leaves(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body="body", until=gate))
    async with await RawClient.connect(cache.running.address) as first:
        await first.send(request(page.path, host=str(cache.running.address)))
        await eventually(lambda: len(page.seen) == 1)
        asking = [asyncio.ensure_future(page.ask()) for _ in range(10)]
        await in_flight(cache, 11)
        first.reset()
    gate.set()
    assert {answer.body for answer in await asyncio.gather(*asking)} == {b"body"}
    assert len(page.seen) == 1


@behaviour("RFC 9111 §4", "What an only client asked for is stored though it has left")
async def test_only_client_leaves(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body="body", until=gate))
    async with await RawClient.connect(cache.running.address) as first:
        await first.send(request(page.path, host=str(cache.running.address)))
        await eventually(lambda: len(page.seen) == 1)
        first.reset()
    gate.set()
    answer = await page.ask()
    assert answer.body == b"body"
    assert len(page.seen) == 1


@behaviour("RFC 9111 §4", "A client that reads nothing holds up no other of those who share its answer")
async def test_slow_follower(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body=LARGE, until=gate))
    asking = [asyncio.ensure_future(page.ask()) for _ in range(5)]
    async with await RawClient.connect(cache.running.address, receive_buffer_bytes=4096) as slow:
        await slow.send(request(page.path, host=str(cache.running.address)))
        await in_flight(cache, 6)
        gate.set()
        assert {answer.body for answer in await asyncio.gather(*asking)} == {LARGE}
        assert (await slow.response()).body == LARGE, "and it gets all of it in its own time"
    assert len(page.seen) == 1


@behaviour("RFC 9111 §4", "The body streams to those who wait as it arrives, not when it is complete")
async def test_body_streams(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body=b"0123456789", pause=gate))
    async with (
        await RawClient.connect(cache.running.address) as one,
        await RawClient.connect(cache.running.address) as other,
    ):
        for client in (one, other):
            await client.send(request(page.path, host=str(cache.running.address)))
            assert (await client.head()).status == 200
            assert await client.read_exactly(5) == b"01234"
        gate.set()
        assert [await client.read_exactly(5) for client in (one, other)] == [b"56789", b"56789"]
    assert len(page.seen) == 1


# What cannot be shared.


@pytest.mark.parametrize(
    "lines",
    [
        row("RFC 9111 §5.2.2.5", "Requests for what has no-store go side by side", [NO_STORE]),
        row("RFC 9111 §5.2.2.7", "Requests for what is private go side by side", ["Cache-Control: private"]),
        row("RFC 9111 §4.1", "Requests for what varies on everything go side by side", [FRESH, "Vary: *"]),
    ],
)  # fmt: skip
async def test_uncacheable(cache: CacheUnderTest, lines: Sequence[str]) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(*lines), reply(*lines, until=gate))
    await page.ask()
    asking = [asyncio.ensure_future(page.ask()) for _ in range(20)]
    await eventually(lambda: len(page.seen) == 21)  # all of them, before the first is answered
    gate.set()
    answers = await asyncio.gather(*asking)
    assert len({answer.body for answer in answers}) == 20
    assert {answer.cache_status["detail"] for answer in answers} == {"recently-uncacheable"}


@behaviour("RFC 9111 §4", "Who waited for what turns out not to be storable is answered by the origin, each by itself")
async def test_uncacheable_unawares(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(NO_STORE, until=gate))
    answers = await crowd(page, gate, size=20)
    assert len({answer.body for answer in answers}) == 20
    assert len(page.seen) == 20


@behaviour("RFC 9111 §4", "An error for the one request is an error for all who waited: the origin is not stormed")
async def test_error(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, status=404, body="none", until=gate))
    answers = await crowd(page, gate, size=20)
    assert {(answer.status, answer.body) for answer in answers} == {(404, b"none")}
    assert len(page.seen) == 1


@behaviour("RFC 9111 §4", "Unsafe requests are never collapsed")
async def test_unsafe_requests(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, until=gate))
    asking = [asyncio.ensure_future(page.ask(method="POST", body=b"a=1")) for _ in range(10)]
    await eventually(lambda: len(page.seen) == 10)
    gate.set()
    assert len({answer.body for answer in await asyncio.gather(*asking)}) == 10


@behaviour("RFC 6265 §3", "Of those who share an answer only the client that caused it gets its cookie")
async def test_cookie(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply("Cache-Control: public, max-age=60", "Set-Cookie: id=1", body="body", until=gate))
    answers = await crowd(page, gate, size=10)
    assert sum(bool(answer.all("Set-Cookie")) for answer in answers) == 1
    assert len(page.seen) == 1


@behaviour("RFC 9111 §3.3", "A body that breaks off breaks off for all who share it, and is not stored")
async def test_cut_body(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, framing=Framing.SHORT, until=gate), reply(FRESH, body="whole"))
    asking = [asyncio.ensure_future(page.ask()) for _ in range(5)]
    await in_flight(cache, 5)
    gate.set()
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(outcome, asyncio.IncompleteReadError | ConnectionError), outcome
    answer = await page.ask()
    assert answer.body == b"whole"
    assert not answer.is_hit


# Purges meanwhile.


@pytest.mark.parametrize(
    "scope",
    [
        row("RFC 9111 §4.4", "A purge by URL while the fetch is under way is not undone by it", "url"),
        row("RFC 9111 §4.4", "A purge by tag while the fetch is under way is not undone by it", "tag"),
        row("RFC 9111 §4.4", "A purge by prefix while the fetch is under way is not undone by it", "prefix"),
        row("RFC 9111 §4.4", "A purge of everything while the fetch is under way is not undone by it", "all"),
    ],
)
async def test_purge_during_a_fetch(cache: CacheUnderTest, scope: str) -> None:
    gate = asyncio.Event()
    page = cache.resource()
    tag = f"during-{page.path[1:]}"
    page.answers(reply(FRESH, f"Cache-Tag: {tag}", body="old", until=gate), reply(FRESH, body="new"))
    asking = asyncio.ensure_future(page.ask())
    await eventually(lambda: len(page.seen) == 1)
    await cache.purge(**{scope: {"url": page.url, "tag": tag, "prefix": page.url, "all": True}[scope]})
    gate.set()
    assert (await asking).body == b"old"
    answer = await page.ask()
    assert (answer.body, answer.came_from_store) == (b"new", False)


@behaviour("RFC 9111 §4.4", "Who asks after a purge does not wait for a fetch from before it")
async def test_request_after_a_purge(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body="old", until=gate), reply(FRESH, body="new"))
    before = asyncio.ensure_future(page.ask())
    await eventually(lambda: len(page.seen) == 1)
    await page.purge()
    after = await page.ask()
    gate.set()
    assert (after.body, (await before).body) == (b"new", b"old")
    assert (await page.ask()).body == b"new", "the older answer, which came later, displaces nothing"


@behaviour("RFC 9111 §4.4", "An unsafe request while the fetch is under way is not undone by it")
async def test_unsafe_request_during_a_fetch(cache: CacheUnderTest) -> None:
    def script(seen: Seen) -> Reply:
        return reply() if seen.method == "POST" else reply(FRESH, body="old", until=gate)

    gate = asyncio.Event()
    page = cache.resource(script)
    asking = asyncio.ensure_future(page.ask())
    await eventually(lambda: len(page.seen) == 1)
    await page.ask(method="POST", body=b"a=1")
    gate.set()
    await asking
    page.answers(reply(FRESH, body="new"))
    assert (await page.ask()).body == b"new"


@behaviour("RFC 9111 §5.2.1.4", "A client's no-cache shares no answer that came before it asked")
async def test_no_cache_does_not_join_what_has_landed(cache: CacheUnderTest) -> None:
    gate = asyncio.Event()
    page = cache.resource(reply(FRESH, body=b"0123456789", pause=gate), reply(FRESH, body="new"))
    async with await RawClient.connect(cache.running.address) as client:
        await client.send(request(page.path, host=str(cache.running.address)))
        await client.head()
        answer = await page.ask("Cache-Control: no-cache")
        assert (answer.asked, answer.body) == (1, b"new")
        gate.set()
        assert await client.read_exactly(10) == b"0123456789"
