"""Stale responses: when they are used all the same, and when never (RFC 9111 §4.2.4, RFC 5861)."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import TABLES, Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import Framing, reply, scripted_origin
from tests.support.sidecar import eventually, sidecar

behaviour = behaviours_of(Group.STALE)
row = behaviour.row

OLD = "Age: 100"
NEW = "Cache-Control: max-age=60"
SWR = "Cache-Control: max-age=60, stale-while-revalidate=600"
SIE = "Cache-Control: max-age=60, stale-if-error=600"
FAILURE = reply("Cache-Control: no-store", status=503, body="down")


async def stale(cache: CacheUnderTest, *lines: str, route: str = "", age: str = OLD) -> Resource:
    """A resource with a stored response that is as old as `age` says."""
    page = cache.resource(reply(*lines, age, body="old"), route=route)
    await page.ask()
    return page


def is_stale_answer(answer: Answer) -> bool:
    """Whether it is the stored one, and Cache-Status says that it is stale."""
    return answer.body == b"old" and answer.is_hit and int(answer.cache_status["ttl"]) < 0


async def refreshed(page: Resource, body: bytes) -> Answer:
    """The first answer with `body`, which a refresh in the background brings.

    Raises:
        TimeoutError: none came.
    """
    async with asyncio.timeout(10):
        while (answer := await page.ask()).body != body:
            await asyncio.sleep(0.005)
    return answer


# While it is refreshed (RFC 5861 §3).


@behaviour("RFC 5861 §3", "stale-while-revalidate answers at once with the stale response while the origin is asked")
async def test_stale_while_revalidate(cache: CacheUnderTest) -> None:
    page = await stale(cache, SWR)
    gate = asyncio.Event()
    page.answers(reply(NEW, body="new", until=gate))
    assert is_stale_answer(await page.ask())
    await eventually(lambda: len(page.seen) == 2)
    gate.set()
    assert (await refreshed(page, b"new")).is_hit


@behaviour("RFC 5861 §3", "Everybody is answered at once while one refresh is under way, and there is but one")
async def test_one_refresh_for_all(cache: CacheUnderTest) -> None:
    page = await stale(cache, SWR)
    gate = asyncio.Event()
    page.answers(reply(NEW, body="new", until=gate))
    answers = await asyncio.gather(*(page.ask() for _ in range(20)))
    assert all(is_stale_answer(answer) for answer in answers)
    assert is_stale_answer(await page.ask())
    gate.set()
    await refreshed(page, b"new")
    assert len(page.seen) == 2


@behaviour("RFC 5861 §3", "The refresh asks with the stored validators, and a 304 makes the stored response fresh")
async def test_refresh_by_validation(cache: CacheUnderTest) -> None:
    page = await stale(cache, SWR, 'ETag: "1"')
    page.answers(reply(NEW, 'ETag: "1"', status=304))
    assert is_stale_answer(await page.ask())
    async with asyncio.timeout(10):
        while int((answer := await page.ask()).cache_status["ttl"]) < 0:
            await asyncio.sleep(0.005)
    assert (answer.is_hit, answer.body) == (True, b"old")
    assert page.seen[1].field("If-None-Match") == '"1"'


@behaviour("RFC 5861 §3", "The refresh carries none of the client's conditions and ranges")
async def test_refresh_is_for_all(cache: CacheUnderTest) -> None:
    page = await stale(cache, SWR)
    page.answers(reply(NEW, body="new"))
    part = await page.ask("Range: bytes=0-1", 'If-None-Match: "9"')
    assert (part.is_hit, part.status, part.body) == (True, 206, b"ol")
    await eventually(lambda: len(page.seen) == 2)
    assert (page.seen[1].field("Range"), page.seen[1].field("If-None-Match")) == (None, None)


@behaviour("RFC 5861 §3", "A refresh that fails takes nothing away: the stale response answers on")
async def test_refresh_that_fails(cache: CacheUnderTest) -> None:
    page = await stale(cache, SWR)
    page.answers(FAILURE)
    assert is_stale_answer(await page.ask())
    await eventually(lambda: len(page.seen) == 2)
    assert is_stale_answer(await page.ask())


@behaviour("retry_seconds", "After a refresh that failed the origin is left alone for a while")
async def test_failed_refresh_is_not_repeated_at_once(cache: CacheUnderTest) -> None:
    page = await stale(cache, SIE, route="patient")
    page.answers(FAILURE)
    assert (await page.ask()).body == b"old"
    assert all([is_stale_answer(await page.ask()) for _ in range(9)])
    assert len(page.seen) == 2


@behaviour("RFC 5861 §3", "A refresh that brings a storable 404 replaces the stale response")
async def test_refresh_that_brings_another_status(cache: CacheUnderTest) -> None:
    page = await stale(cache, SWR)
    page.answers(reply(NEW, status=404, body="gone"))
    assert is_stale_answer(await page.ask())
    answer = await refreshed(page, b"gone")
    assert (answer.status, answer.is_hit) == (404, True)


@behaviour("RFC 5861 §3", "Once stale-while-revalidate is over, the request waits for the origin")
async def test_window_that_is_over(cache: CacheUnderTest) -> None:
    page = await stale(cache, "Cache-Control: max-age=60, stale-while-revalidate=10")
    page.answers(reply(NEW, body="new"))
    answer = await page.ask()
    assert (answer.asked, answer.body) == (1, b"new")


@pytest.mark.parametrize(
    "directive",
    [
        row("RFC 9111 §5.2.2.2", "must-revalidate forbids to answer while revalidating", "must-revalidate"),
        row("RFC 9111 §5.2.2.8", "proxy-revalidate forbids to answer while revalidating", "proxy-revalidate"),
        row("RFC 9111 §5.2.2.10", "s-maxage forbids to answer while revalidating", "s-maxage=60"),
        row("RFC 9111 §5.2.2.4", "no-cache forbids to answer while revalidating", "no-cache"),
    ],
)
async def test_directive_that_forbids_stale_while_revalidate(cache: CacheUnderTest, directive: str) -> None:
    page = await stale(cache, f"{SWR}, {directive}", 'ETag: "1"')
    page.answers(reply(NEW, body="new"))
    answer = await page.ask()
    assert (answer.asked, answer.body) == (1, b"new")


@pytest.mark.parametrize(
    "line",
    [
        row("RFC 9111 §5.2.1.4", "A client's no-cache is not answered stale while revalidating", "no-cache"),
        row("RFC 9111 §5.2.1.1", "A client's max-age is not answered stale while revalidating", "max-age=1000"),
        row("RFC 9111 §5.2.1.3", "A client's min-fresh is not answered stale while revalidating", "min-fresh=1"),
    ],
)
async def test_client_that_takes_nothing_stale(cache: CacheUnderTest, line: str) -> None:
    page = await stale(cache, SWR)
    page.answers(reply(NEW, body="new"))
    answer = await page.ask(f"Cache-Control: {line}")
    assert (answer.asked, answer.body) == (1, b"new")


@behaviour("stale_while_revalidate_seconds", "A route gives stale-while-revalidate where the response does not")
async def test_route_gives_stale_while_revalidate(cache: CacheUnderTest) -> None:
    page = await stale(cache, NEW, route="swr")
    page.answers(reply(NEW, body="new"))
    assert is_stale_answer(await page.ask())
    assert (await refreshed(page, b"new")).is_hit


@behaviour("stale_while_revalidate_seconds", "The response's own stale-while-revalidate counts before the route's")
async def test_own_window_counts_before_the_routes(cache: CacheUnderTest) -> None:
    page = await stale(cache, "Cache-Control: max-age=60, stale-while-revalidate=10", route="swr")
    page.answers(reply(NEW, body="new"))
    assert (await page.ask()).body == b"new"


@behaviour("RFC 5861 §3", "What was purged softly answers while it is revalidated, too")
async def test_soft_purge_within_the_window(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(SWR, body="old"))
    await page.ask()
    await page.purge(soft=True)
    page.answers(reply(NEW, body="new"))
    answer = await page.ask()
    assert (answer.is_hit, answer.body) == (True, b"old")
    assert (await refreshed(page, b"new")).is_hit


@behaviour("RFC 8246 §2", "A stale immutable response is validated as any other")
async def test_stale_immutable(cache: CacheUnderTest) -> None:
    page = await stale(cache, "Cache-Control: max-age=60, immutable", 'ETag: "1"')
    page.answers(reply(NEW, 'ETag: "1"', status=304))
    assert (await page.ask()).was_validated


@behaviour("early_refresh_beta", "A route may refresh a fresh response ahead of its end, in the background, by chance")
async def test_early_refresh(cache: CacheUnderTest) -> None:
    slow = asyncio.Event()
    page = cache.resource(reply(NEW, "Age: 50", body="old", until=slow), reply(NEW, body="new"), route="early")
    asyncio.get_running_loop().call_later(0.2, slow.set)  # the slower the origin, the earlier: here some 20 s
    await page.ask()
    async with asyncio.timeout(8):
        while (answer := await page.ask()).cache_status["detail"] != "refreshed-early":
            assert answer.is_hit
    assert (answer.is_hit, answer.body) == (True, b"old")
    assert (await refreshed(page, b"new")).is_hit


# In place of an error (RFC 5861 §4).


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 5861 §4", "stale-if-error answers in place of 500", 500),
        row("RFC 5861 §4", "stale-if-error answers in place of 502", 502),
        row("RFC 5861 §4", "stale-if-error answers in place of 503", 503),
        row("RFC 5861 §4", "stale-if-error answers in place of 504", 504),
    ],
)
async def test_stale_if_error(cache: CacheUnderTest, status: int) -> None:
    page = await stale(cache, SIE)
    page.answers(reply(status=status, body="down"))
    answer = await page.ask()
    assert (answer.asked, answer.status, answer.body) == (1, 200, b"old")
    assert int(answer.cache_status["ttl"]) < 0


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 5861 §4", "404 is no such error: it is passed on", 404),
        row("RFC 5861 §4", "429 is no such error: it is passed on", 429),
        row("RFC 5861 §4", "501 is no such error: it is passed on", 501),
    ],
)
async def test_what_is_no_error(cache: CacheUnderTest, status: int) -> None:
    page = await stale(cache, SIE)
    page.answers(reply("Cache-Control: no-store", status=status, body="so"))
    answer = await page.ask()
    assert (answer.status, answer.body) == (status, b"so")


@behaviour("RFC 5861 §4", "stale-if-error answers where the connection ends without a response")
async def test_connection_that_ends(cache: CacheUnderTest) -> None:
    page = await stale(cache, SIE)
    page.answers(reply(framing=Framing.NOTHING))
    answer = await page.ask()
    assert (answer.status, answer.body) == (200, b"old")


@behaviour("RFC 5861 §4", "Once stale-if-error is over, the error is passed on")
async def test_error_window_that_is_over(cache: CacheUnderTest) -> None:
    page = await stale(cache, "Cache-Control: max-age=60, stale-if-error=10", 'ETag: "1"')
    page.answers(FAILURE)
    answer = await page.ask()
    assert (answer.status, answer.body) == (503, b"down")


@behaviour("RFC 5861 §4", "Without stale-if-error an error is passed on, and what is stored is kept to be validated")
async def test_error_takes_nothing_away(cache: CacheUnderTest) -> None:
    page = await stale(cache, NEW, 'ETag: "1"')
    page.answers(FAILURE)
    assert (await page.ask()).status == 503
    page.answers(reply(NEW, 'ETag: "1"', status=304))
    answer = await page.ask()
    assert (answer.was_validated, answer.body) == (True, b"old")


@pytest.mark.parametrize(
    "directive",
    [
        row("RFC 9111 §5.2.2.2", "must-revalidate forbids a stale answer in place of an error", "must-revalidate"),
        row("RFC 9111 §5.2.2.8", "proxy-revalidate forbids a stale answer in place of an error", "proxy-revalidate"),
        row("RFC 9111 §5.2.2.10", "s-maxage forbids a stale answer in place of an error", "s-maxage=60"),
        row("RFC 9111 §5.2.2.4", "no-cache forbids a stale answer in place of an error", "no-cache"),
    ],
)
async def test_directive_that_forbids_stale_if_error(cache: CacheUnderTest, directive: str) -> None:
    page = await stale(cache, f"{SIE}, {directive}", 'ETag: "1"')
    page.answers(FAILURE)
    answer = await page.ask()
    assert (answer.status, answer.body) == (503, b"down")


@behaviour(
    "RFC 9111 §5.2.2.2", "With must-revalidate an origin that cannot be reached makes an error, not a stale answer"
)
async def test_must_revalidate_without_an_origin(cache: CacheUnderTest) -> None:
    page = await stale(cache, f"{SIE}, must-revalidate", 'ETag: "1"')
    page.answers(reply(framing=Framing.NOTHING))
    answer = await page.ask()
    assert answer.status in {502, 504}
    assert answer.body != b"old"


@behaviour("RFC 5861 §4", "A client's own stale-if-error lets it have a stale answer in place of an error")
async def test_client_that_takes_stale_on_error(cache: CacheUnderTest) -> None:
    page = await stale(cache, NEW, 'ETag: "1"')
    page.answers(FAILURE)
    patient = await page.ask("Cache-Control: stale-if-error=1000")
    strict = await page.ask("Cache-Control: stale-if-error=10")
    assert (patient.status, patient.body) == (200, b"old")
    assert (strict.status, strict.body) == (503, b"down")


@behaviour("RFC 9111 §5.2.1.4", "A client's no-cache gets the error, not a stale answer")
async def test_no_cache_gets_the_error(cache: CacheUnderTest) -> None:
    page = await stale(cache, SIE)
    page.answers(FAILURE)
    assert (await page.ask("Cache-Control: no-cache")).status == 503


@behaviour("stale_if_error_seconds", "A route gives stale-if-error where the response does not")
async def test_route_gives_stale_if_error(cache: CacheUnderTest) -> None:
    page = await stale(cache, NEW, route="sie")
    page.answers(FAILURE)
    assert (await page.ask()).body == b"old"


@behaviour("RFC 5861 §4", "An origin that works again is believed at once")
async def test_recovery(cache: CacheUnderTest) -> None:
    page = await stale(cache, SIE, route="sie")
    page.answers(FAILURE, reply(NEW, body="new"))
    assert (await page.ask()).body == b"old"
    assert (await page.ask()).body == b"new"


@behaviour("RFC 5861 §4", "A fresh response whose validation fails answers a client's max-age")
async def test_fresh_response_in_place_of_an_error(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=600", OLD, body="old"), FAILURE)
    await page.ask()
    answer = await page.ask("Cache-Control: max-age=50")
    assert (answer.asked, answer.status, answer.body) == (1, 200, b"old")


@pytest.mark.parametrize(
    "failure",
    [
        row("RFC 5861 §4", "stale-if-error answers where the origin refuses connections", "refused"),
        row("RFC 5861 §4", "stale-if-error answers where the origin does not answer in time", "silent"),
        row("RFC 5861 §4", "stale-if-error answers while the circuit to the origin is open", "circuit"),
    ],
)
async def test_stale_without_an_answer(tmp_path: Path, failure: str) -> None:
    tables = {
        **TABLES,
        "pipeline": {"order": ["cache", "circuit_breaker"]},
        "upstream": {"first_byte_timeout_seconds": 0.3},
        "plugins": {"circuit_breaker": {"consecutive_failures": 1 if failure == "circuit" else 0, "open_seconds": 60}},
    }
    async with AsyncExitStack() as upstream:
        origin = await upstream.enter_async_context(scripted_origin())
        async with sidecar(origin.url, tmp_path, tables) as running:
            fragile = CacheUnderTest(running, origin)
            page = await stale(fragile, SIE)
            if failure == "refused":
                await upstream.aclose()
            elif failure == "silent":
                page.answers(reply(until=asyncio.Event()))
            else:
                broken = fragile.resource(FAILURE)
                assert (await broken.ask()).status == 503
                assert (await broken.ask()).asked == 0, "the circuit is open"
            answer = await page.ask()
            assert (answer.status, answer.body) == (200, b"old")
            assert answer.asked == (1 if failure == "silent" else 0)
            assert answer.cache_status["detail"] == "stale-if-error"
