"""Ranges: parts of stored responses, and stored parts (RFC 9110 §14, RFC 9111 §3.3, §3.4)."""

import re
from collections.abc import Sequence

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import Reply, Script, Seen, http_date, reply

behaviour = behaviours_of(Group.RANGES)
row = behaviour.row

DIGITS = b"0123456789"
FRESH = "Cache-Control: max-age=60"
STRONG, WEAK, OTHER = 'ETag: "1"', 'ETag: W/"1"', 'ETag: "2"'
PAST = f"Last-Modified: {http_date(-3600)}"


def ranged(*lines: str, body: bytes = DIGITS, complete: str | None = None) -> Script:
    """An origin that answers `Range: bytes=first-last` with that part, and all else with the whole."""

    def answer(seen: Seen) -> Reply:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.field("Range") or "")
        if found is None:
            return reply(*lines, body=body)
        first, last = int(found[1]), min(int(found[2] or len(body) - 1), len(body) - 1)
        place = f"Content-Range: bytes {first}-{last}/{complete or len(body)}"
        return reply(*lines, place, status=206, body=body[first : last + 1])

    return answer


async def stored_whole(cache: CacheUnderTest, *lines: str, body: bytes = DIGITS) -> Resource:
    page = cache.resource(reply(*(lines or (FRESH, STRONG)), body=body))
    await page.ask()
    return page


def parts_of(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Range and content of the parts of a multipart/byteranges body."""
    content_type = answer.field("Content-Type")
    assert content_type is not None
    assert content_type.startswith("multipart/byteranges; boundary=")
    delimiter = b"--" + content_type.partition("boundary=")[2].encode()
    before, *parts, end = answer.body.split(delimiter)
    assert (before.strip(), end.strip()) == (b"", b"--")
    found = []
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        place = re.search(rb"Content-Range: (.+)", head)
        assert place is not None
        found.append((place[1].decode().strip(), content.removesuffix(b"\r\n")))
    return found


@pytest.mark.parametrize(
    ("asked", "place", "body"),
    [
        row("RFC 9110 §14.1.2", "A first and a last byte are served from a stored whole", "2-4", "2-4", b"234"),
        row("RFC 9110 §14.1.2", "A single byte is served from a stored whole", "0-0", "0-0", b"0"),
        row("RFC 9110 §14.1.2", "All from a byte on is served from a stored whole", "7-", "7-9", b"789"),
        row("RFC 9110 §14.1.2", "The last bytes are served from a stored whole", "-3", "7-9", b"789"),
        row("RFC 9110 §14.1.2", "A last byte beyond the end means the end", "8-99", "8-9", b"89"),
        row("RFC 9110 §14.1.2", "More last bytes than there are mean all of them", "-99", "0-9", DIGITS),
        row(
            "RFC 9110 §14.1.1",
            "A position beyond 64 bits means the end",
            "5-99999999999999999999999999",
            "5-9",
            b"56789",
        ),
        row("RFC 9110 §15.3.7.2", "Ranges that overlap are served as one", "1-3,2-5", "1-5", b"12345"),
        row("RFC 9110 §15.3.7.2", "Ranges that touch are served as one", "1-3,4-5", "1-5", b"12345"),
        row("RFC 9110 §14.2", "Of several ranges, those beyond the end are left out", "2-4,50-60", "2-4", b"234"),
    ],
)
async def test_a_part_of_a_stored_whole(cache: CacheUnderTest, asked: str, place: str, body: bytes) -> None:
    page = await stored_whole(cache)
    part = await page.ask(f"Range: bytes={asked}")
    assert part.came_from_store
    assert (part.status, part.field("Content-Range"), part.body) == (206, f"bytes {place}/10", body)
    assert part.field("Content-Length") == str(len(body))


@behaviour("RFC 9110 §14.1", "The name of the range unit is read in any case")
async def test_the_units_case_does_not_matter(cache: CacheUnderTest) -> None:
    page = await stored_whole(cache)
    part = await page.ask("Range: BYTES=2-4")
    assert (part.came_from_store, part.status, part.body) == (True, 206, b"234")


@behaviour("RFC 9110 §15.3.7.2", "Ranges that lie apart are served as multipart/byteranges, in the order asked for")
async def test_several_parts_of_a_stored_whole(cache: CacheUnderTest) -> None:
    page = await stored_whole(cache, FRESH, STRONG, "Content-Type: text/plain")
    answer = await page.ask("Range: bytes=7-8, 0-1, 4-4")
    assert answer.came_from_store
    assert answer.status == 206
    assert parts_of(answer) == [("bytes 7-8/10", b"78"), ("bytes 0-1/10", b"01"), ("bytes 4-4/10", b"4")]
    assert answer.body.count(b"Content-Type: text/plain") == 3
    assert answer.field("Content-Range") is None, "it stands in the parts"


@behaviour("RFC 9110 §15.3.7", "A 206 has the fields that the 200 would have had: Date, ETag, Cache-Control, Vary")
async def test_the_fields_of_a_206(cache: CacheUnderTest) -> None:
    page = await stored_whole(cache, FRESH, STRONG, PAST, "Vary: X-Lang", "Content-Location: /here")
    whole = await page.ask()
    part = await page.ask("Range: bytes=2-4")
    assert part.came_from_store
    for name in ("Date", "ETag", "Cache-Control", "Vary", "Content-Location", "Last-Modified"):
        assert part.field(name) == whole.field(name) is not None


@pytest.mark.parametrize(
    "asked",
    [
        row("RFC 9110 §15.5.17", "A range that begins beyond the end is answered 416", "10-20"),
        row("RFC 9110 §15.5.17", "The last no bytes are answered 416", "-0"),
        row("RFC 9110 §15.5.17", "Several ranges all beyond the end are answered 416", "10-11,20-"),
    ],
)
async def test_a_range_that_is_not_there(cache: CacheUnderTest, asked: str) -> None:
    page = await stored_whole(cache)
    answer = await page.ask(f"Range: bytes={asked}")
    assert answer.came_from_store
    assert (answer.status, answer.field("Content-Range"), answer.body) == (416, "bytes */10", b"")
    assert (await page.ask()).body == DIGITS, "and what is stored stays"


@pytest.mark.parametrize(
    "field",
    [
        row("RFC 9110 §14.2", "A Range in an unknown unit is ignored", "lines=1-2"),
        row("RFC 9110 §14.2", "A Range whose last byte comes before its first is ignored", "bytes=4-2"),
        row("RFC 9110 §14.2", "A Range of no numbers is ignored", "bytes=a-b"),
        row("RFC 9110 §14.2", "A Range that is a lone dash is ignored", "bytes=-"),
        row("RFC 9110 §14.2", "A Range without members is ignored", "bytes="),
        row("RFC 9110 §14.2", "A Range with one malformed member is ignored as a whole", "bytes=0-1,x"),
        row("RFC 9110 §14.2", "A negative position in Range is ignored", "bytes=--1"),
        row(
            "RFC 9110 §17.15",
            "A Range of a hundred small ranges is ignored",
            "bytes=" + ",".join(f"{n % 5 * 2}-{n % 5 * 2}" for n in range(100)),
            optional=True,
        ),
    ],
)
async def test_a_range_field_that_is_ignored(cache: CacheUnderTest, field: str) -> None:
    page = await stored_whole(cache)
    answer = await page.ask(f"Range: {field}")
    assert answer.came_from_store
    assert (answer.status, answer.body, answer.field("Content-Range")) == (200, DIGITS, None)


@behaviour("RFC 9110 §14.2", "A Range in a HEAD request is ignored")
async def test_range_in_head(cache: CacheUnderTest) -> None:
    page = await stored_whole(cache)
    answer = await page.ask("Range: bytes=2-4", method="HEAD")
    assert (answer.came_from_store, answer.status) == (True, 200)
    assert answer.field("Content-Length") == "10"


@behaviour("RFC 9110 §14.2", "A Range is ignored where the stored response is no 200")
async def test_range_of_an_error(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, status=404, body=DIGITS))
    await page.ask()
    answer = await page.ask("Range: bytes=2-4")
    assert (answer.came_from_store, answer.status, answer.body) == (True, 404, DIGITS)


@behaviour("RFC 9110 §14.2", "If-None-Match is judged before Range: a client that has the response gets 304")
async def test_if_none_match_comes_before_range(cache: CacheUnderTest) -> None:
    page = await stored_whole(cache)
    has_it = await page.ask("Range: bytes=2-4", 'If-None-Match: "1"')
    has_not = await page.ask("Range: bytes=2-4", 'If-None-Match: "9"')
    assert (has_it.came_from_store, has_it.status) == (True, 304)
    assert (has_not.came_from_store, has_not.status, has_not.body) == (True, 206, b"234")


DATED = f"Date: {http_date(-60)}"
JUST_NOW = f"Last-Modified: {http_date(-60)}"


@pytest.mark.parametrize(
    ("lines", "condition", "holds"),
    [
        row("RFC 9110 §13.1.5", "If-Range with the stored strong entity tag holds", [STRONG], '"1"', True),
        row("RFC 9110 §13.1.5", "If-Range with another entity tag brings the whole", [STRONG], '"9"', False),
        row("RFC 9110 §13.1.5", "If-Range with a weak entity tag never holds", [WEAK], 'W/"1"', False),
        row(
            "RFC 9110 §13.1.5",
            "If-Range compares strongly: the strong tag of a weak one does not hold",
            [WEAK],
            '"1"',
            False,
        ),
        row("RFC 9110 §13.1.5", "If-Range takes no list of entity tags", [STRONG], '"9", "1"', False),
        row(
            "RFC 9110 §13.1.5", "If-Range with the exact Last-Modified holds, if it is old enough to be strong",
            [PAST], PAST.partition(": ")[2], True,
        ),
        row(
            "RFC 9110 §13.1.5", "If-Range with a later date than Last-Modified brings the whole",
            [PAST], http_date(-60), False,
        ),
        row(
            "RFC 9110 §8.8.2.2", "If-Range with a Last-Modified of the second of its Date brings the whole",
            [JUST_NOW, DATED], JUST_NOW.partition(": ")[2], False,
        ),
        row("RFC 9110 §13.1.5", "If-Range with a date brings the whole where only an entity tag is stored",
            [STRONG], http_date(-60), False),
        row("RFC 9110 §13.1.5", "If-Range that is neither tag nor date brings the whole", [STRONG], "what", False),
    ],
)  # fmt: skip
async def test_if_range(cache: CacheUnderTest, lines: Sequence[str], condition: str, *, holds: bool) -> None:
    page = await stored_whole(cache, "Cache-Control: max-age=3600", *lines)
    answer = await page.ask("Range: bytes=2-4", f"If-Range: {condition}")
    assert answer.came_from_store
    assert (answer.status, answer.body) == ((206, b"234") if holds else (200, DIGITS))


@behaviour("RFC 9110 §13.1.5", "If-Range without Range is ignored")
async def test_if_range_alone(cache: CacheUnderTest) -> None:
    page = await stored_whole(cache)
    answer = await page.ask('If-Range: "1"')
    assert (answer.came_from_store, answer.status, answer.body) == (True, 200, DIGITS)


@behaviour("RFC 9111 §4.3.1", "A range of a stale stored whole is served from it once a 304 has confirmed it")
async def test_range_of_a_stale_response(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, STRONG, "Age: 100", body=DIGITS), reply(FRESH, STRONG, status=304))
    await page.ask()
    answer = await page.ask("Range: bytes=2-4")
    assert (answer.asked, answer.status, answer.body) == (1, 206, b"234")
    assert answer.cache_status["fwd-status"] == "304"
    assert page.seen[-1].field("If-None-Match") == '"1"'
    assert page.seen[-1].field("Range") is None, "the 304 is to be about the whole"


# Stored parts.


@behaviour("RFC 9111 §3.3", "A part is stored, and answers the next request for it", optional=True)
async def test_a_part_is_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    first = await page.ask("Range: bytes=2-4")
    second = await page.ask("Range: bytes=2-4")
    assert (first.came_from_store, second.came_from_store) == (False, True)
    for answer in (first, second):
        assert (answer.status, answer.field("Content-Range"), answer.body) == (206, "bytes 2-4/10", b"234")


@pytest.mark.parametrize(
    ("asked", "place", "body"),
    [
        row("RFC 9111 §3.3", "A range within a stored part is served from it", "3-4", "3-4", b"34"),
        row("RFC 9111 §3.3", "Last bytes that lie within a stored part are served from it", "-4", "6-9", b"6789"),
        row("RFC 9111 §3.3", "All from a byte on is served from a part that goes to the end", "8-", "8-9", b"89"),
    ],
)
async def test_a_range_within_a_stored_part(cache: CacheUnderTest, asked: str, place: str, body: bytes) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask("Range: bytes=2-9")
    answer = await page.ask(f"Range: bytes={asked}")
    assert answer.came_from_store
    assert (answer.status, answer.field("Content-Range"), answer.body) == (206, f"bytes {place}/10", body)


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        row("RFC 9111 §3.3", "A stored part never answers a request for the whole", [], DIGITS),
        row("RFC 9111 §3.3", "A stored part answers no range that goes beyond it", ["Range: bytes=3-7"], b"34567"),
        row("RFC 9111 §3.3", "A stored part answers no range beside it", ["Range: bytes=7-8"], b"78"),
    ],
)  # fmt: skip
async def test_more_than_a_stored_part(cache: CacheUnderTest, lines: Sequence[str], body: bytes) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask("Range: bytes=2-4")
    answer = await page.ask(*lines)
    assert not answer.came_from_store
    assert answer.body == body
    assert answer.cache_status["fwd"] == "partial"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        row("RFC 9111 §3.4", "Parts that touch and have one strong entity tag are combined", "0-4", "5-7"),
        row("RFC 9111 §3.4", "Parts that overlap are combined", "0-4", "3-7"),
        row("RFC 9111 §3.4", "Parts are combined whichever came first", "5-7", "0-4"),
    ],
)
async def test_parts_are_combined(cache: CacheUnderTest, first: str, second: str) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask(f"Range: bytes={first}")
    await page.ask(f"Range: bytes={second}")
    answer = await page.ask("Range: bytes=1-6")
    assert answer.came_from_store
    assert (answer.status, answer.field("Content-Range"), answer.body) == (206, "bytes 1-6/10", b"123456")


@behaviour("RFC 9111 §3.4", "Parts that make up the whole are combined to a 200, which answers requests for the whole")
async def test_parts_complete_the_whole(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask("Range: bytes=0-4")
    await page.ask("Range: bytes=5-9")
    answer = await page.ask()
    assert answer.came_from_store
    assert (answer.status, answer.body, answer.field("Content-Range")) == (200, DIGITS, None)
    assert answer.field("Content-Length") == "10"


@behaviour("RFC 9111 §3.4", "A combined response has the fields of the newer part")
async def test_the_newer_parts_fields_count(cache: CacheUnderTest) -> None:
    page = cache.resource(
        reply(FRESH, STRONG, "X-Note: old", "Content-Range: bytes 0-4/10", status=206, body=b"01234"),
        reply(FRESH, STRONG, "X-Note: new", "Content-Range: bytes 5-9/10", status=206, body=b"56789"),
    )
    await page.ask("Range: bytes=0-4")
    await page.ask("Range: bytes=5-9")
    answer = await page.ask()
    assert (answer.came_from_store, answer.field("X-Note")) == (True, "new")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        row("RFC 9111 §3.4", "Parts with different entity tags are never combined", [STRONG], [OTHER]),
        row("RFC 9111 §3.4", "Parts with weak entity tags are never combined", [WEAK], [WEAK]),
        row("RFC 9111 §3.4", "Parts without entity tags are never combined", [PAST], [PAST], optional=True),
    ],
)
async def test_parts_that_are_not_combined(cache: CacheUnderTest, first: Sequence[str], second: Sequence[str]) -> None:
    page = cache.resource(
        reply(FRESH, *first, "Content-Range: bytes 0-4/10", status=206, body=b"01234"),
        reply(FRESH, *second, "Content-Range: bytes 5-9/10", status=206, body=b"abcde"),
        reply(FRESH, OTHER, body=b"whole"),
    )
    await page.ask("Range: bytes=0-4")
    await page.ask("Range: bytes=5-9")
    answer = await page.ask()
    assert not answer.came_from_store
    assert answer.body == b"whole"


@behaviour("RFC 9111 §3.4", "Parts with a gap between them are not combined")
async def test_a_gap(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask("Range: bytes=0-1")
    await page.ask("Range: bytes=5-9")
    answer = await page.ask()
    assert (answer.came_from_store, answer.body) == (False, DIGITS)


@behaviour("RFC 9111 §3.4", "Parts of representations of different lengths are not combined")
async def test_lengths_that_differ(cache: CacheUnderTest) -> None:
    page = cache.resource(
        reply(FRESH, STRONG, "Content-Range: bytes 0-4/10", status=206, body=b"01234"),
        reply(FRESH, STRONG, "Content-Range: bytes 5-9/12", status=206, body=b"56789"),
        reply(FRESH, STRONG, body=DIGITS),
    )
    await page.ask("Range: bytes=0-4")
    await page.ask("Range: bytes=5-9")
    answer = await page.ask("Range: bytes=0-9")
    assert not answer.came_from_store


@behaviour("RFC 9111 §3.3", "A whole that came after a part displaces it, and answers")
async def test_a_whole_displaces_a_part(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask("Range: bytes=2-4")
    await page.ask()
    whole, part = await page.ask(), await page.ask("Range: bytes=6-7")
    assert (whole.came_from_store, whole.body) == (True, DIGITS)
    assert (part.came_from_store, part.status, part.body) == (True, 206, b"67")


@behaviour("RFC 9111 §3.3", "A stored part is stale when its lifetime is over, and is asked for again")
async def test_a_stale_part(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG, "Age: 100"))
    await page.ask("Range: bytes=2-4")
    answer = await page.ask("Range: bytes=2-4")
    assert not answer.came_from_store
    assert (answer.status, answer.body) == (206, b"234")


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        row(
            "RFC 9110 §14.4", "A 206 without Content-Range is passed on, and not stored",
            [FRESH, STRONG], b"234",
        ),
        row(
            "RFC 9110 §14.4", "A 206 in an unknown unit is passed on, and not stored",
            [FRESH, STRONG, "Content-Range: lines 2-4/10"], b"234",
        ),
        row(
            "RFC 9110 §14.4", "A 206 with an impossible Content-Range is passed on, and not stored",
            [FRESH, STRONG, "Content-Range: bytes 4-2/10"], b"234",
        ),
        row(
            "RFC 9111 §3.3", "A 206 shorter than its Content-Range is not stored",
            [FRESH, STRONG, "Content-Range: bytes 2-6/10"], b"234",
        ),
        row(
            "RFC 9111 §3", "A 206 with no-store is not stored",
            ["Cache-Control: no-store", STRONG, "Content-Range: bytes 2-4/10"], b"234",
        ),
        row(
            "RFC 9110 §14.6", "A multipart/byteranges 206 is passed on, and not stored",
            [FRESH, STRONG, "Content-Type: multipart/byteranges; boundary=x"], b"--x--", optional=True,
        ),
    ],
)  # fmt: skip
async def test_a_206_that_is_not_stored(cache: CacheUnderTest, lines: Sequence[str], body: bytes) -> None:
    page = cache.resource(reply(*lines, status=206, body=body))
    first = await page.ask("Range: bytes=2-4")
    second = await page.ask("Range: bytes=2-4")
    assert (first.status, first.body) == (206, body)
    assert not second.came_from_store


@behaviour("RFC 9110 §15.3.7", "A 206 that nobody asked for is not stored, and answers no request for the whole")
async def test_an_unrequested_206(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, STRONG, "Content-Range: bytes 2-4/10", status=206, body=b"234"))
    await page.ask()
    assert not (await page.ask()).came_from_store


@behaviour("RFC 9110 §14.2", "A whole with which the origin answers a Range is stored, and serves parts from then on")
async def test_an_origin_that_knows_no_ranges(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, STRONG, body=DIGITS))
    first = await page.ask("Range: bytes=2-4")
    second = await page.ask("Range: bytes=5-6")
    assert first.asked == 1
    assert (second.came_from_store, second.status, second.body) == (True, 206, b"56")


@behaviour("RFC 9110 §15.5.17", "A 416 from the origin is passed on, and makes nothing stored void")
async def test_a_416_from_the_origin(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask("Range: bytes=2-4")
    page.answers(reply("Content-Range: bytes */10", status=416, body=b""))
    beyond = await page.ask("Range: bytes=90-99")
    again = await page.ask("Range: bytes=2-4")
    assert (beyond.status, beyond.field("Content-Range")) == (416, "bytes */10")
    assert (again.came_from_store, again.body) == (True, b"234")


@behaviour("RFC 9110 §14.4", "A part of unknown complete length is stored, and answers ranges within it")
async def test_unknown_complete_length(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG, complete="*"))
    await page.ask("Range: bytes=2-6")
    answer = await page.ask("Range: bytes=3-4")
    assert answer.came_from_store
    assert (answer.status, answer.field("Content-Range"), answer.body) == (206, "bytes 3-4/*", b"34")


@behaviour("RFC 9110 §13.1.5", "A stored part answers no If-Range of another entity tag")
async def test_if_range_against_a_stored_part(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG))
    await page.ask("Range: bytes=2-4")
    page.answers(reply(FRESH, OTHER, body=b"another whole"))
    answer = await page.ask("Range: bytes=2-4", 'If-Range: "2"')
    assert not answer.came_from_store
    assert page.seen[-1].field("If-Range") == '"2"', "the origin is to judge it"


@behaviour("store_parts", "On a route that keeps no parts a Range goes to the origin, and its part is not stored")
async def test_a_route_that_keeps_no_parts(cache: CacheUnderTest) -> None:
    page = cache.resource(ranged(FRESH, STRONG), route="whole")
    first = await page.ask("Range: bytes=2-4")
    second = await page.ask("Range: bytes=2-4")
    assert not second.came_from_store
    for answer in (first, second):
        assert (answer.status, answer.body) == (206, b"234")
