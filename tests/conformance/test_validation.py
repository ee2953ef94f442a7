"""Validation: conditional requests of clients, and the cache's own (RFC 9110 §13, RFC 9111 §4.3)."""

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import CacheUnderTest, Resource
from tests.conformance.scripted_origin import Reply, Seen, http_date, reply

behaviour = behaviours_of(Group.VALIDATION)
row = behaviour.row

FRESH, STALE = "Cache-Control: max-age=60", ("Cache-Control: max-age=60", "Age: 100")
TAG, WEAK = 'ETag: "1"', 'ETag: W/"1"'
MODIFIED = http_date(-3600)
LAST_MODIFIED = f"Last-Modified: {MODIFIED}"


async def stored(cache: CacheUnderTest, *lines: str, status: int = 200, route: str = "") -> Resource:
    """A fresh response that is stored."""
    page = cache.resource(reply(FRESH, *lines, status=status, body="0123456789"), route=route)
    await page.ask()
    return page


def confirming(*lines: str, again: tuple[str, ...] = (FRESH,)) -> list[Reply]:
    """A response that is stale when it comes, then a 304 with the fields `again`."""
    return [reply(*STALE, *lines, body="first"), reply(*again, status=304)]


@pytest.mark.parametrize(
    ("lines", "asked", "status"),
    [
        row(
            "RFC 9110 §13.1.2", "If-None-Match with the stored tag is answered 304", [TAG], ['If-None-Match: "1"'], 304
        ),
        row(
            "RFC 9110 §13.1.2", "If-None-Match with another tag is answered in full", [TAG], ['If-None-Match: "2"'], 200
        ),
        row("RFC 9110 §13.1.2", "One tag of a list is enough", [TAG], ['If-None-Match: "0", "1" , "2"'], 304),
        row(
            "RFC 9110 §13.1.2",
            "One tag on several lines is enough",
            [TAG],
            ['If-None-Match: "0"', 'If-None-Match: "1"'],
            304,
        ),
        row("RFC 9110 §13.1.2", "If-None-Match: * is answered 304", [TAG], ["If-None-Match: *"], 304),
        row(
            "RFC 9110 §13.1.2",
            "If-None-Match: * is answered 304 without a stored tag, too",
            [],
            ["If-None-Match: *"],
            304,
        ),
        row("RFC 9110 §13.1.2", "Tags are compared weakly: a weak one asked for", [TAG], ['If-None-Match: W/"1"'], 304),
        row("RFC 9110 §13.1.2", "Tags are compared weakly: a weak one stored", [WEAK], ['If-None-Match: "1"'], 304),
        row("RFC 9110 §8.8.3", "A comma within a tag parts nothing", ['ETag: "a,b"'], ['If-None-Match: "a,b"'], 304),
        row("RFC 9110 §8.8.3", "Case counts in a tag", ['ETag: "a"'], ['If-None-Match: "A"'], 200),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since with the stored date is answered 304",
            [LAST_MODIFIED],
            [f"If-Modified-Since: {MODIFIED}"],
            304,
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since with a later date is answered 304",
            [LAST_MODIFIED],
            [f"If-Modified-Since: {http_date(-60)}"],
            304,
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since with an earlier date is answered in full",
            [LAST_MODIFIED],
            [f"If-Modified-Since: {http_date(-7200)}"],
            200,
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since with what is no date does not count",
            [LAST_MODIFIED],
            ["If-Modified-Since: yesterday"],
            200,
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since does not count beside If-None-Match",
            [TAG, LAST_MODIFIED],
            ['If-None-Match: "2"', f"If-Modified-Since: {MODIFIED}"],
            200,
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-None-Match alone decides where both stand",
            [TAG, LAST_MODIFIED],
            ['If-None-Match: "1"', f"If-Modified-Since: {http_date(-7200)}"],
            304,
        ),
        row(
            "RFC 9110 §13.1.3",
            "An obsolete form of date is understood",
            ["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"],
            ["If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT"],
            304,
        ),
    ],
)
async def test_a_condition_is_answered_from_the_store(
    cache: CacheUnderTest, lines: list[str], asked: list[str], status: int
) -> None:
    page = await stored(cache, *lines)
    answer = await page.ask(*asked)
    assert answer.came_from_store
    assert (answer.status, answer.body) == (status, b"0123456789" if status == 200 else b"")


@behaviour("RFC 9110 §15.4.5", "A 304 from the store has the fields that the 200 would have had, and no content")
async def test_a_304_has_the_fields_of_the_200(cache: CacheUnderTest) -> None:
    page = await stored(cache, TAG, "Vary: X-Plan", "Content-Location: /x", f"Expires: {http_date(600)}")
    whole, confirmed = await page.ask(), await page.ask('If-None-Match: "1"')
    for name in ("ETag", "Cache-Control", "Content-Location", "Date", "Expires"):
        assert confirmed.all(name) == whole.all(name)
    assert set(whole.all("Vary")) <= set(confirmed.all("Vary"))
    assert confirmed.status == 304


@behaviour("RFC 9110 §13.2.1", "A condition is not looked at where the stored status is none that it could hold for")
async def test_a_condition_counts_for_200_alone(cache: CacheUnderTest) -> None:
    page = await stored(cache, TAG, status=404)
    assert (await page.ask('If-None-Match: "1"')).status == 404


@behaviour("RFC 9110 §13.1.2", "HEAD with a condition that fails is answered 304")
async def test_a_condition_of_head(cache: CacheUnderTest) -> None:
    page = await stored(cache, TAG)
    answer = await page.ask('If-None-Match: "1"', method="HEAD")
    assert (answer.status, answer.came_from_store) == (304, True)


@pytest.mark.parametrize(
    ("lines", "sent", "value"),
    [
        row("RFC 9111 §4.3.1", "The stored tag goes into If-None-Match", [TAG], "If-None-Match", '"1"'),
        row("RFC 9111 §4.3.1", "A weak tag as well", [WEAK], "If-None-Match", 'W/"1"'),
        row(
            "RFC 9111 §4.3.1",
            "The stored date goes into If-Modified-Since",
            [LAST_MODIFIED],
            "If-Modified-Since",
            MODIFIED,
        ),
        row("RFC 9111 §4.3.1", "Both go where both are stored", [TAG, LAST_MODIFIED], "If-Modified-Since", MODIFIED),
    ],
)
async def test_what_is_stale_is_validated(cache: CacheUnderTest, lines: list[str], sent: str, value: str) -> None:
    page = cache.resource(*confirming(*lines))
    await page.ask()
    second = await page.ask()
    assert second.was_validated
    assert (second.status, second.body) == (200, b"first")
    assert page.seen[1].field(sent) == value


@behaviour("RFC 9111 §4.3.1", "What is stale and has no validator is asked for without conditions")
async def test_without_a_validator_there_is_no_condition(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(*STALE))
    await page.ask()
    await page.ask()
    assert (page.seen[1].field("If-None-Match"), page.seen[1].field("If-Modified-Since")) == (None, None)


@behaviour("RFC 9111 §4.3.4", "A 304 makes the stored response fresh again")
async def test_a_304_freshens(cache: CacheUnderTest) -> None:
    page = cache.resource(*confirming(TAG))
    await page.ask()
    assert (await page.ask()).was_validated
    third = await page.ask()
    assert third.came_from_store
    assert (third.body, third.age < 30) == (b"first", True)


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        row("RFC 9111 §3.2", "A 304's fields take the place of the stored ones", "X-A", "1", "2", "2"),
        row("RFC 9111 §3.2", "A field that only the 304 has is added", "X-A", "", "2", "2"),
        row("RFC 9111 §3.2", "A field that only the stored response has stays", "X-A", "1", "", "1"),
        row("RFC 9111 §3.2", "Content-Encoding stays what it was", "Content-Encoding", "x-own", "other", "x-own"),
        row("RFC 9111 §3.2", "Content-Type stays what it was, or is the 304's", "Content-Type", "text/a", "", "text/a"),
        row("RFC 9111 §3.2", "Content-Range of a 304 is not taken over", "Content-Range", "", "bytes 0-1/9", ""),
        row("RFC 9111 §3.1", "A field of this hop is not taken over", "Keep-Alive", "", "timeout=9", ""),
    ],
)
async def test_what_a_304_changes(cache: CacheUnderTest, name: str, before: str, after: str, expected: str) -> None:
    page = cache.resource(
        reply(*STALE, TAG, *([f"{name}: {before}"] if before else []), body="first"),
        reply(FRESH, TAG, *([f"{name}: {after}"] if after else []), status=304),
    )
    await page.ask()
    answers = [await page.ask(), await page.ask()]
    assert answers[0].was_validated
    assert answers[1].came_from_store
    for answer in answers:
        assert (answer.field(name) or "") == expected
        assert (answer.field("Content-Length"), answer.body) == ("5", b"first")


@behaviour("RFC 9111 §4.3.3", "A full response to a validation answers, and takes the stored one's place")
async def test_a_full_response_replaces(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(*STALE, TAG, body="first"), reply(FRESH, 'ETag: "2"', body="second"))
    await page.ask()
    assert (await page.ask()).body == b"second"
    third = await page.ask()
    assert third.came_from_store
    assert third.body == b"second"


@pytest.mark.parametrize(
    ("status", "control", "expected"),
    [
        row(
            "RFC 9111 §4.3.3",
            "A 5xx on validation is passed on where stale answers are not allowed",
            503,
            "max-age=60",
            503,
        ),
        row(
            "RFC 5861 §4",
            "With stale-if-error the stored response answers in its place",
            503,
            "max-age=60, stale-if-error=600",
            200,
        ),
        row("RFC 5861 §4", "500, 502 and 504 count as errors too", 502, "max-age=60, stale-if-error=600", 200),
        row(
            "RFC 9111 §5.2.2.2",
            "must-revalidate forbids it",
            503,
            "max-age=60, stale-if-error=600, must-revalidate",
            503,
        ),
        row("RFC 5861 §4", "A 404 is no error, and is passed on", 404, "max-age=60, stale-if-error=600", 404),
    ],
)
async def test_an_error_on_validation(cache: CacheUnderTest, status: int, control: str, expected: int) -> None:
    page = cache.resource(reply(f"Cache-Control: {control}", "Age: 100", TAG, body="first"), reply(status=status))
    await page.ask()
    second = await page.ask()
    assert second.status == expected
    assert second.asked == 1


@behaviour("RFC 9111 §4.3.3", "A client's condition that the origin confirms is answered 304, by what is stored")
async def test_a_client_condition_while_stale(cache: CacheUnderTest) -> None:
    page = cache.resource(*confirming(TAG))
    await page.ask()
    answer = await page.ask('If-None-Match: "1"')
    assert (answer.status, answer.asked, answer.body) == (304, 1, b"")
    assert (await page.ask()).came_from_store


@behaviour("RFC 9111 §4.3.1", "A client without a condition never gets a 304, though the cache asked with one")
async def test_an_unconditional_client_gets_no_304(cache: CacheUnderTest) -> None:
    page = cache.resource(*confirming(TAG))
    await page.ask()
    assert [(await page.ask()).status for _ in range(3)] == [200, 200, 200]


@behaviour("RFC 9111 §4.3.1", "A client's tag is not sent in place of the stored one")
async def test_the_stored_tag_is_sent(cache: CacheUnderTest) -> None:
    page = cache.resource(*confirming(TAG))
    await page.ask()
    await page.ask('If-None-Match: "other"')
    assert page.seen[1].field("If-None-Match") == '"1"'


@behaviour(
    "RFC 9111 §4.3.4", "With nothing stored a client's condition is not sent on: the whole is fetched and stored"
)
async def test_a_condition_with_nothing_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, TAG, body="whole"))
    answer = await page.ask('If-None-Match: "1"')
    assert page.seen[0].field("If-None-Match") is None
    assert (answer.status, answer.body) == (304, b"")
    assert (await page.ask()).came_from_store


@pytest.mark.parametrize(
    "line",
    [
        row("RFC 9110 §13.1.1", "If-Match goes to the origin", 'If-Match: "1"'),
        row("RFC 9110 §13.1.4", "If-Unmodified-Since goes to the origin", f"If-Unmodified-Since: {http_date(-60)}"),
    ],
)
async def test_a_condition_on_the_present_state_goes_to_the_origin(cache: CacheUnderTest, line: str) -> None:
    page = cache.resource(reply("Cache-Control: no-store", status=412))
    answer = await page.ask(line)
    assert (answer.status, answer.asked) == (412, 1)
    assert page.seen[0].field(line.partition(":")[0]) == line.partition(": ")[2]


@behaviour("RFC 9111 §5.2.2.4", "A response with no-cache is stored, and validated before each use")
async def test_no_cache_is_validated_each_time(cache: CacheUnderTest) -> None:
    control = "Cache-Control: no-cache, max-age=60"
    page = cache.resource(reply(control, TAG, body="first"), reply(control, TAG, status=304))
    await page.ask()
    answers = [await page.ask(), await page.ask()]
    assert all(answer.was_validated and answer.body == b"first" for answer in answers)


@behaviour("RFC 9111 §4.3.5", "A HEAD response that agrees leaves the stored response to GET in use")
async def test_head_that_agrees(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(*STALE, TAG, body="first"), reply(FRESH, TAG, body="first"), reply(FRESH, status=304))
    await page.ask()
    await page.ask(method="HEAD")
    third = await page.ask()
    assert third.came_from_store or third.was_validated
    assert third.body == b"first"


@pytest.mark.parametrize(
    "line",
    [
        row("RFC 9111 §4.3.5", "A HEAD response with another tag makes the stored response to GET void", 'ETag: "2"'),
        row("RFC 9111 §4.3.5", "A HEAD response with another length does as well", "Content-Length: 99"),
    ],
)
async def test_head_that_differs(cache: CacheUnderTest, line: str) -> None:
    def answers(seen: Seen) -> Reply:
        if seen.method == "HEAD":
            lines = [line] if line.startswith("ETag") else [TAG]
            return reply(FRESH, *lines, body="first" if line.startswith("ETag") else "x" * 99)
        return reply(*STALE, TAG, body="first")

    page = cache.resource(answers)
    await page.ask()
    await page.ask(method="HEAD")
    await page.ask()
    assert page.seen[2].field("If-None-Match") is None


@behaviour("RFC 9111 §4.3.4", "A 304 freshens the variant that was asked about, and no other")
async def test_a_304_freshens_its_variant(cache: CacheUnderTest) -> None:
    def answers(seen: Seen) -> Reply:
        plan = seen.field("X-Plan") or ""
        if seen.field("If-None-Match"):
            return reply(FRESH, "Vary: X-Plan", f'ETag: "{plan}"', status=304)
        return reply(*STALE, "Vary: X-Plan", f'ETag: "{plan}"', body=plan)

    page = cache.resource(answers)
    for plan in ("a", "b"):
        await page.ask(f"X-Plan: {plan}")
    assert (await page.ask("X-Plan: a")).was_validated
    again = await page.ask("X-Plan: a")
    assert again.came_from_store
    assert again.body == b"a"
    assert (await page.ask("X-Plan: b")).was_validated
