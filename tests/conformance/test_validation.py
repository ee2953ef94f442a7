"""Validation: clients' conditions, the cache's own, and what a 304 changes (RFC 9110 §13, RFC 9111 §3.2, §4.3)."""

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import CacheUnderTest, Resource
from tests.conformance.scripted_origin import Reply, Seen, dated, http_date, reply

behaviour = behaviours_of(Group.VALIDATION)
row = behaviour.row

FRESH = "Cache-Control: max-age=3600"
SHORT = "Cache-Control: max-age=60"
OLD = "Age: 100"
TAG, WEAK, OTHER = 'ETag: "1"', 'ETag: W/"1"', 'ETag: "2"'
MODIFIED = http_date(-7200)
PAST = f"Last-Modified: {MODIFIED}"
EARLIER, LATER = http_date(-9000), http_date(-3600)
INM, IMS = "If-None-Match", "If-Modified-Since"


async def stored(cache: CacheUnderTest, *lines: str, status: int = 200, route: str = "") -> Resource:
    """A resource with a stored response."""
    page = cache.resource(reply(*lines, status=status, body="old"), route=route)
    await page.ask()
    return page


# Clients' conditions, answered from the store.


@pytest.mark.parametrize(
    ("lines", "conditions", "status"),
    [
        row(
            "RFC 9110 §13.1.2", "If-None-Match with the stored entity tag is answered 304", [TAG], [f'{INM}: "1"'], 304
        ),
        row(
            "RFC 9110 §13.1.2", "If-None-Match with another entity tag brings the response", [TAG], [f'{INM}: "2"'], 200
        ),
        row(
            "RFC 9110 §13.1.2",
            "If-None-Match may list the stored entity tag among others",
            [TAG],
            [f'{INM}: "0", "1", W/"2"'],
            304,
        ),
        row("RFC 9110 §13.1.2", "A list of other entity tags brings the response", [TAG], [f'{INM}: "0", "2"'], 200),
        row("RFC 9110 §5.3", "If-None-Match may stand in several lines", [TAG], [f'{INM}: "0"', f'{INM}: "1"'], 304),
        row("RFC 9110 §13.1.2", "If-None-Match: * is answered 304", [TAG], [f"{INM}: *"], 304),
        row(
            "RFC 9110 §13.1.2", "If-None-Match: * is answered 304 where no entity tag is stored", [], [f"{INM}: *"], 304
        ),
        row(
            "RFC 9110 §13.1.2",
            "If-None-Match compares weakly: a weak tag asked for, a strong one stored",
            [TAG],
            [f'{INM}: W/"1"'],
            304,
        ),
        row(
            "RFC 9110 §13.1.2",
            "If-None-Match compares weakly: a strong tag asked for, a weak one stored",
            [WEAK],
            [f'{INM}: "1"'],
            304,
        ),
        row("RFC 9110 §8.8.3.2", "Two weak tags that are equal match", [WEAK], [f'{INM}: W/"1"'], 304),
        row("RFC 9110 §8.8.3", "The case of an entity tag matters", ['ETag: "a"'], [f'{INM}: "A"'], 200),
        row(
            "RFC 9110 §8.8.3", "A comma in an entity tag does not part it", ['ETag: "a,b"'], [f'{INM}: "0", "a,b"'], 304
        ),
        row(
            "RFC 9110 §13.1.2",
            "If-None-Match brings the response where no entity tag is stored",
            [PAST],
            [f'{INM}: "1"'],
            200,
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since with the stored Last-Modified is answered 304",
            [PAST],
            [f"{IMS}: {MODIFIED}"],
            304,
        ),
        row(
            "RFC 9110 §13.1.3", "If-Modified-Since with a later date is answered 304", [PAST], [f"{IMS}: {LATER}"], 304
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since with an earlier date brings the response",
            [PAST],
            [f"{IMS}: {EARLIER}"],
            200,
        ),
        row("RFC 9110 §13.1.3", "If-Modified-Since with a malformed date is ignored", [PAST], [f"{IMS}: soon"], 200),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since with several dates is ignored",
            [PAST],
            [f"{IMS}: {MODIFIED}", f"{IMS}: {MODIFIED}"],
            200,
        ),
        row(
            "RFC 9111 §4.3.2",
            "Without a stored Last-Modified, If-Modified-Since is compared with Date",
            [f"Date: {MODIFIED}", "Cache-Control: max-age=90000"],
            [f"{IMS}: {LATER}"],
            304,
        ),
        row(
            "RFC 9111 §4.3.2",
            "A date before the stored Date brings the response where there is no Last-Modified",
            [f"Date: {MODIFIED}", "Cache-Control: max-age=90000"],
            [f"{IMS}: {EARLIER}"],
            200,
        ),
        row(
            "RFC 9110 §13.2.2",
            "If-None-Match that fails wins over If-Modified-Since that would hold",
            [TAG, PAST],
            [f'{INM}: "2"', f"{IMS}: {MODIFIED}"],
            200,
        ),
        row(
            "RFC 9110 §13.2.2",
            "If-None-Match that matches wins over If-Modified-Since with an earlier date",
            [TAG, PAST],
            [f'{INM}: "1"', f"{IMS}: {EARLIER}"],
            304,
        ),
        row(
            "RFC 9110 §13.1.3",
            "If-Modified-Since is ignored beside If-None-Match even where no entity tag is stored",
            [PAST],
            [f'{INM}: "1"', f"{IMS}: {MODIFIED}"],
            200,
        ),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_clients_condition(
    cache: CacheUnderTest, method: str, lines: list[str], conditions: list[str], status: int
) -> None:
    own_lifetime = any(line.startswith("Cache-Control") for line in lines)
    page = await stored(cache, *([] if own_lifetime else [FRESH]), *lines)
    answer = await page.ask(*conditions, method=method)
    assert answer.came_from_store
    assert (answer.status, answer.body) == (status, b"old" if (status, method) == (200, "GET") else b"")


@behaviour("RFC 9110 §13.2.1", "A condition is ignored where the stored response is an error")
async def test_a_condition_on_an_error(cache: CacheUnderTest) -> None:
    page = await stored(cache, FRESH, TAG, status=404)
    answer = await page.ask(f'{INM}: "1"')
    assert (answer.came_from_store, answer.status, answer.body) == (True, 404, b"old")


@behaviour(
    "RFC 9110 §15.4.5", "A 304 has ETag, Date, Cache-Control, Content-Location, Expires of the 200, and no content"
)
async def test_the_fields_of_a_304(cache: CacheUnderTest) -> None:
    page = await stored(
        cache, FRESH, TAG, PAST, "Content-Location: /x", f"Expires: {http_date(60)}", "Content-Type: a/b"
    )
    whole, answer = await page.ask(), await page.ask(f'{INM}: "1"')
    assert (answer.came_from_store, answer.status, answer.body) == (True, 304, b"")
    for name in ("ETag", "Date", "Cache-Control", "Content-Location", "Expires"):
        assert answer.field(name) == whole.field(name) is not None
    assert answer.age >= 0
    assert answer.field("Content-Type") is None
    assert answer.field("Content-Length") is None


# The cache's own conditions.


@pytest.mark.parametrize(
    ("lines", "none_match", "since"),
    [
        row("RFC 9111 §4.3.1", "A stale response is validated by its entity tag", [TAG], '"1"', None),
        row("RFC 9111 §4.3.1", "A weak entity tag is sent as it is stored", [WEAK], 'W/"1"', None),
        row("RFC 9111 §4.3.1", "A stale response is validated by its Last-Modified", [PAST], None, MODIFIED),
        row("RFC 9111 §4.3.1", "Both validators are sent where both are stored", [TAG, PAST], '"1"', MODIFIED),
        row("RFC 9111 §4.3.1", "A response without validator is asked for without conditions", [], None, None),
        row("RFC 9110 §8.8.3", "A malformed entity tag is not sent", ["ETag: 1"], None, None),
    ],
)
async def test_what_is_sent(cache: CacheUnderTest, lines: list[str], none_match: str | None, since: str | None) -> None:
    # Without validators nothing stale is kept but for errors.
    page = await stored(cache, SHORT + ", stale-if-error=600", OLD, *lines)
    answer = await page.ask()
    assert (answer.asked, answer.status) == (1, 200)
    assert (page.seen[-1].field(INM), page.seen[-1].field(IMS)) == (none_match, since)


@behaviour("RFC 9111 §4.3.3", "A 304 confirms the stored response, which answers and is fresh again")
async def test_a_304_freshens(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply(SHORT, TAG, status=304))
    answer = await page.ask()
    assert (answer.was_validated, answer.status, answer.body) == (True, 200, b"old")
    again = await page.ask()
    assert (again.came_from_store, again.body, again.age < 60) == (True, b"old", True)


@pytest.mark.parametrize(
    ("before", "update", "name", "after"),
    [
        row("RFC 9111 §3.2", "A 304 replaces a stored field", ["X-A: 1"], ["X-A: 2"], "X-A", ["2"]),
        row("RFC 9111 §3.2", "A 304 adds a field", [], ["X-A: 2"], "X-A", ["2"]),
        row(
            "RFC 9111 §3.2",
            "A 304 replaces all lines of a stored field",
            ["X-A: 1", "X-A: 2"],
            ["X-A: 3"],
            "X-A",
            ["3"],
        ),
        row("RFC 9111 §3.2", "A field that a 304 does not have stays", ["X-A: 1"], [], "X-A", ["1"]),
        row(
            "RFC 9111 §3.2", "A 304 does not change Content-Length", [], ["Content-Length: 99"], "Content-Length", ["3"]
        ),
        row(
            "RFC 9111 §3.2",
            "A 304 does not change Content-Encoding: its bytes stay as they are",
            ["Content-Encoding: x"],
            ["Content-Encoding: y"],
            "Content-Encoding",
            ["x"],
        ),
        row(
            "RFC 9111 §3.2", "A 304 does not add Content-Range", [], ["Content-Range: bytes 0-1/9"], "Content-Range", []
        ),
        row(
            "RFC 9111 §3.2",
            "A 304 may change Content-Type",
            ["Content-Type: a/b"],
            ["Content-Type: c/d"],
            "Content-Type",
            ["c/d"],
        ),
        row(
            "RFC 9111 §3.1",
            "A field that a 304 names in Connection is not taken over",
            ["X-A: 1"],
            ["X-A: 2", "Connection: X-A"],
            "X-A",
            ["1"],
        ),
    ],
)
async def test_what_a_304_updates(
    cache: CacheUnderTest, before: list[str], update: list[str], name: str, after: list[str]
) -> None:
    page = await stored(cache, SHORT, OLD, TAG, *before)
    page.answers(reply(SHORT, TAG, *update, status=304))
    validated, later = await page.ask(), await page.ask()
    assert (validated.was_validated, later.came_from_store) == (True, True)
    for answer in (validated, later):
        assert (answer.all(name), answer.body) == (after, b"old")


@behaviour("RFC 9111 §4.3.4", "no-store in a 304 answers this request, and the stored response is not used again")
async def test_a_304_with_no_store(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply("Cache-Control: no-store", TAG, status=304), reply(SHORT, body="new"))
    first = await page.ask()
    assert (first.was_validated, first.body) == (True, b"old")
    second = await page.ask()
    assert (second.asked, second.body) == (1, b"new")
    assert page.seen[-1].field(INM) is None


@pytest.mark.parametrize(
    "update",
    [
        row(
            "RFC 9111 §4.3.4",
            "A 304 without validators freshens the one response that was asked about",
            [],
            optional=True,
        ),
        row("RFC 9111 §4.3.4", "A 304 with the weak form of the stored tag freshens", [WEAK]),
        row("RFC 9111 §4.3.4", "A 304 with the stored Last-Modified alone freshens", [PAST]),
    ],
)
async def test_a_304_that_selects(cache: CacheUnderTest, update: list[str]) -> None:
    page = await stored(cache, SHORT, OLD, TAG, PAST)
    page.answers(reply(SHORT, *update, status=304))
    assert (await page.ask()).was_validated
    assert (await page.ask()).came_from_store


@behaviour(
    "RFC 9111 §4.3.4", "A 304 with another entity tag freshens nothing: the request goes again, without conditions"
)
async def test_a_304_about_another(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply(SHORT, OTHER, status=304), reply(SHORT, OTHER, body="new"))
    answer = await page.ask()
    assert (answer.asked, answer.status, answer.body) == (2, 200, b"new")
    assert [seen.field(INM) for seen in page.seen[-2:]] == ['"1"', None]


@behaviour("RFC 9110 §15.4.5", "A 304 that no condition asked for is the origin's error, and no client's answer")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_304_that_nobody_asked_for(cache: CacheUnderTest, method: str) -> None:
    page = cache.resource(reply(SHORT, TAG, status=304))
    for _ in range(2):
        answer = await page.ask(method=method)
        assert (answer.asked, answer.status) == (1, 502)
    page.answers(reply(SHORT, TAG, body="whole"))
    answer = await page.ask()
    assert (answer.status, answer.body) == (200, b"whole")


@behaviour("RFC 9111 §4.3.3", "A full response to a validation answers and replaces what is stored")
async def test_a_full_response(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply(SHORT, OTHER, body="new"))
    first, second = await page.ask(), await page.ask()
    assert (first.asked, first.body) == (1, b"new")
    assert (second.came_from_store, second.body, second.field("ETag")) == (True, b"new", '"2"')


@behaviour("RFC 9111 §4.3.3", "A 404 to a validation answers, and is no confirmation")
async def test_a_404_on_validation(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply(SHORT, status=404, body="gone"))
    first, second = await page.ask(), await page.ask()
    assert (first.asked, first.status, first.body) == (1, 404, b"gone")
    assert (second.came_from_store, second.status) == (True, 404)


@behaviour("RFC 9111 §4.3.3", "A 5xx to a validation is passed on where stale-if-error does not allow otherwise")
async def test_a_5xx_on_validation(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT + ", must-revalidate", OLD, TAG)
    page.answers(reply(status=503, body="down"), reply(SHORT, TAG, status=304))
    first = await page.ask()
    assert (first.asked, first.status, first.body) == (1, 503, b"down")
    second = await page.ask()
    assert (second.was_validated, second.body) == (True, b"old"), "it is still stored, and still to be validated"


@behaviour("RFC 5861 §4", "A 5xx to a validation gives way to the stale response where stale-if-error allows it")
async def test_stale_if_error_on_validation(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT + ", stale-if-error=600", OLD, TAG)
    page.answers(reply(status=503, body="down"))
    answer = await page.ask()
    assert (answer.asked, answer.status, answer.body) == (1, 200, b"old")


# A client's condition while what is stored is stale.


@pytest.mark.parametrize(
    ("condition", "status", "body"),
    [
        row("RFC 9111 §4.3.2", "A client that has the confirmed response gets 304", f'{INM}: "1"', 304, b""),
        row("RFC 9111 §4.3.3", "A client that has another response gets the confirmed one", f'{INM}: "9"', 200, b"old"),
        row("RFC 9111 §4.3.3", "A client without conditions never gets a 304", "X-None: 1", 200, b"old"),
    ],
)
async def test_a_clients_condition_on_a_stale_response(
    cache: CacheUnderTest, condition: str, status: int, body: bytes
) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply(SHORT, TAG, status=304))
    answer = await page.ask(condition)
    assert (answer.asked, answer.status, answer.body) == (1, status, body)
    assert answer.cache_status["fwd-status"] == "304"
    assert (await page.ask()).body == b"old"


@behaviour("RFC 9111 §4.3.2", "A client that has the new response gets 304 when validation brings it, and it is stored")
async def test_a_client_that_is_ahead(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply(SHORT, OTHER, body="new"))
    answer = await page.ask(f'{INM}: "2"')
    assert (answer.asked, answer.status, answer.body) == (1, 304, b"")
    later = await page.ask()
    assert (later.came_from_store, later.body) == (True, b"new")


# HEAD (§4.3.5).


@behaviour("RFC 9111 §4.3.5", "A HEAD response that differs makes the stored GET response void or stale")
async def test_head_that_differs(cache: CacheUnderTest) -> None:
    page = await stored(cache, FRESH, TAG)
    page.answers(reply(FRESH, OTHER, body="new"))
    assert (await page.ask("Cache-Control: no-cache", method="HEAD")).asked == 1
    answer = await page.ask()
    assert (answer.asked, answer.body) == (1, b"new")


@behaviour("RFC 9111 §4.3.5", "A HEAD response that agrees freshens the stored GET response")
async def test_head_that_agrees(cache: CacheUnderTest) -> None:
    page = await stored(cache, SHORT, OLD, TAG)
    page.answers(reply(SHORT, TAG, "X-A: 2", body="old"))
    head = await page.ask(method="HEAD")
    assert (head.asked, head.status) == (1, 200)
    later = await page.ask()
    assert (later.came_from_store, later.body, later.field("X-A")) == (True, b"old", "2")


@pytest.mark.parametrize(
    ("lines", "demand"),
    [
        row(
            "RFC 9111 §5.2.2.4",
            "A response with no-cache is validated before each use",
            ["Cache-Control: no-cache"],
            [],
        ),
        row(
            "RFC 9111 §5.2.1.4",
            "A request with no-cache has a fresh response validated",
            [FRESH],
            ["Cache-Control: no-cache"],
        ),
        row(
            "RFC 9111 §5.2.1.1",
            "A request with max-age=0 has an older response validated",
            [FRESH, "Age: 9"],
            ["Cache-Control: max-age=0"],
        ),
    ],
)
async def test_validation_on_demand(cache: CacheUnderTest, lines: list[str], demand: list[str]) -> None:
    page = await stored(cache, *lines, TAG)
    page.answers(reply(*lines, TAG, status=304))
    for _ in range(2):
        answer = await page.ask(*demand)
        assert (answer.was_validated, answer.body) == (True, b"old")
        assert page.seen[-1].field(INM) == '"1"'


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
    assert page.seen[0].field(line.partition(":")[0]) == dated(line).partition(": ")[2]


@behaviour("RFC 9111 §4.3.4", "A 304 freshens the variant that was asked about, and no other")
async def test_a_304_freshens_its_variant(cache: CacheUnderTest) -> None:
    def answers(seen: Seen) -> Reply:
        plan = seen.field("X-Plan") or ""
        if seen.field("If-None-Match"):
            return reply(FRESH, "Vary: X-Plan", f'ETag: "{plan}"', status=304)
        return reply(SHORT, OLD, "Vary: X-Plan", f'ETag: "{plan}"', body=plan)

    page = cache.resource(answers)
    for plan in ("a", "b"):
        await page.ask(f"X-Plan: {plan}")
    assert (await page.ask("X-Plan: a")).was_validated
    again = await page.ask("X-Plan: a")
    assert again.came_from_store
    assert again.body == b"a"
    assert (await page.ask("X-Plan: b")).was_validated
