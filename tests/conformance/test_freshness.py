"""Freshness: how long a stored response answers by itself (RFC 9111 §4.2, §5.2.1; RFC 9213)."""

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import CacheUnderTest
from tests.conformance.scripted_origin import http_date, reply

behaviour = behaviours_of(Group.FRESHNESS)
row = behaviour.row

DAY = 86_400
FUTURE, PAST = 3600, -3600


def expires(seconds: float) -> str:
    return f"Expires: {http_date(seconds)}"


FRESH = [
    row("RFC 9111 §5.2.2.1", "A response is fresh for its max-age", ["Cache-Control: max-age=60"]),
    row("RFC 9111 §5.2.2.10", "A response is fresh for its s-maxage", ["Cache-Control: s-maxage=60"]),
    row("RFC 9111 §5.2.2.10", "s-maxage counts before a shorter max-age", ["Cache-Control: max-age=0, s-maxage=60"]),
    row(
        "RFC 9111 §5.2.2.10",
        "s-maxage counts before an Expires in the past",
        ["Cache-Control: s-maxage=60", expires(PAST)],
    ),
    row("RFC 9111 §5.3", "A response is fresh until its Expires", [expires(FUTURE)]),
    row("RFC 9111 §5.3", "max-age counts before an Expires in the past", ["Cache-Control: max-age=60", expires(PAST)]),
    row("RFC 9111 §5.3", "max-age counts before an invalid Expires", ["Cache-Control: max-age=60", "Expires: 0"]),
    row(
        "RFC 9111 §5.3",
        "Expires counts where Cache-Control gives no lifetime",
        ["Cache-Control: public", expires(FUTURE)],
    ),
    row("RFC 9111 §5.2", "Names of directives are read in any case", ["Cache-Control: MaX-aGe=60"]),
    row("RFC 9111 §5.2", "A lifetime in quotes is read", ['Cache-Control: max-age="60"']),
    row("RFC 9111 §5.2", "Unknown directives beside a lifetime are ignored", ["Cache-Control: foo, max-age=60, bar=1"]),
    row(
        "RFC 9111 §5.2",
        "A comma in the quoted argument of an unknown directive parts no directives",
        ['Cache-Control: foo="a, max-age=0", max-age=60'],
    ),
    row(
        "RFC 9111 §5.2",
        "A directive inside another one's quoted argument does not count",
        ['Cache-Control: foo="no-store", max-age=60'],
    ),
    row(
        "RFC 9110 §5.3",
        "The lifetime is found on a second Cache-Control line",
        ["Cache-Control: public", "Cache-Control: max-age=60"],
    ),
    row("RFC 9110 §5.6.1", "Empty members of Cache-Control are skipped", ["Cache-Control: , ,max-age=60,,"]),
    row(
        "RFC 9110 §5.6.3",
        "White space around members of Cache-Control is skipped",
        ["Cache-Control:  public \t, \tmax-age=60 "],
    ),
    row(
        "RFC 9111 §4.2.1",
        "A lifetime given twice with the same value counts",
        ["Cache-Control: max-age=60, max-age=60"],
    ),
    row("RFC 9111 §1.2.2", "A lifetime of 2147483648 seconds counts", ["Cache-Control: max-age=2147483648"]),
    row(
        "RFC 9111 §1.2.2",
        "A lifetime beyond 64 bits is the longest there is, not negative",
        ["Cache-Control: max-age=99999999999999999999"],
    ),
    row("RFC 9111 §1.2.2", "Leading zeros in a lifetime are read", ["Cache-Control: max-age=0060"]),
    row("RFC 9111 §5.3", "Three hundred years ahead is an Expires", ["Expires: Fri, 01 Jan 2327 00:00:00 GMT"]),
    row("RFC 9111 §4.2", "Expires is read in any case", ["Expires: fRI, 01 jAN 2100 00:00:00 gMT"]),
    row("RFC 9110 §5.6.7", "An Expires in asctime form is read", ["Expires: Fri Jan  1 00:00:00 2100"]),
    row("RFC 9110 §5.6.7", "An Expires in RFC 850 form is read", ["Expires: Thursday, 01-Jan-60 00:00:00 GMT"]),
    row(
        "RFC 9111 §4.2.3",
        "A response is fresh while its Age is below its lifetime",
        ["Cache-Control: max-age=60", "Age: 30"],
    ),
    row("RFC 9111 §5.1", "An Age that is no number is ignored", ["Cache-Control: max-age=60", "Age: abc"]),
    row("RFC 9111 §5.1", "A negative Age is ignored", ["Cache-Control: max-age=60", "Age: -100"]),
    row("RFC 9111 §5.1", "Of several Age lines the first counts", ["Cache-Control: max-age=60", "Age: 0", "Age: 7200"]),
    row("RFC 9111 §5.1", "Of a list in Age the first member counts", ["Cache-Control: max-age=60", "Age: 0, 7200"]),
    row(
        "RFC 9111 §4.2.3",
        "A Date in the future makes no response older",
        ["Cache-Control: max-age=60", f"Date: {http_date(FUTURE)}"],
    ),
    row(
        "RFC 9111 §4.2.2",
        "Without an explicit lifetime a response is fresh for a tenth of the time since Last-Modified",
        [f"Last-Modified: {http_date(-10 * DAY)}"],
    ),
    row(
        "RFC 9111 §4.2.2",
        "public beside Last-Modified leaves the heuristic as it is",
        ["Cache-Control: public", f"Last-Modified: {http_date(-10 * DAY)}"],
    ),
    row(
        "RFC 8246 §2.1",
        "A fresh immutable response is not validated for itself",
        ["Cache-Control: max-age=60, immutable"],
    ),
    row(
        "RFC 9111 §5.2.2.2",
        "must-revalidate does not keep a fresh response from answering",
        ["Cache-Control: max-age=60, must-revalidate"],
    ),
    row(
        "RFC 9111 §5.2.2.8",
        "proxy-revalidate does not keep a fresh response from answering",
        ["Cache-Control: max-age=60, proxy-revalidate"],
    ),
    row(
        "RFC 9111 §5.4",
        "Pragma: no-cache in a response means nothing",
        ["Cache-Control: max-age=60", "Pragma: no-cache"],
    ),
    row(
        "RFC 9213 §2.2",
        "CDN-Cache-Control counts before Cache-Control",
        ["CDN-Cache-Control: max-age=60", "Cache-Control: no-store"],
    ),
    row("RFC 9213 §2.2", "CDN-Cache-Control counts before Expires", ["CDN-Cache-Control: max-age=60", expires(PAST)]),
    row(
        "RFC 9213 §2.1",
        "A malformed CDN-Cache-Control is ignored",
        ["CDN-Cache-Control: no-store, max-age=", "Cache-Control: max-age=60"],
    ),
    row(
        "RFC 9213 §2.1",
        "An upper-case key is no Structured Field, and the field is ignored",
        ["CDN-Cache-Control: No-Store", "Cache-Control: max-age=60"],
    ),
    row("RFC 9213 §2.1", "An empty CDN-Cache-Control is ignored", ["CDN-Cache-Control:", "Cache-Control: max-age=60"]),
    row(
        "RFC 9213 §2.1",
        "Parameters on a value of CDN-Cache-Control are ignored",
        ["CDN-Cache-Control: max-age=60;a=1", "Cache-Control: no-store"],
    ),
    row(
        "RFC 9213 §2.1",
        "no-store=?0 in CDN-Cache-Control forbids nothing",
        ["CDN-Cache-Control: max-age=60, no-store=?0"],
    ),
    row(
        "RFC 9213 §2.1",
        "Of a repeated key in CDN-Cache-Control the last counts",
        ["CDN-Cache-Control: max-age=0, max-age=60"],
    ),
    row(
        "RFC 9213 §2.2",
        "A targeted field for others changes nothing",
        ["Other-Cache-Control: no-store", "Cache-Control: max-age=60"],
    ),
    row(
        "RFC 9213 §2.2",
        "Surrogate-Control is not on the target list and changes nothing",
        ["Surrogate-Control: no-store", "Cache-Control: max-age=60"],
    ),
]


@pytest.mark.parametrize("lines", FRESH)
async def test_a_fresh_response_answers_by_itself(cache: CacheUnderTest, lines: list[str]) -> None:
    page = cache.resource(reply(*lines, 'ETag: "1"'))
    first, second = await page.ask(), await page.ask()
    assert second.came_from_store
    assert second.body == first.body


STALE = [
    row("RFC 9111 §5.2.2.1", "A response with max-age=0 is stale at once", ["Cache-Control: max-age=0"]),
    row("RFC 9111 §5.2.2.10", "s-maxage=0 counts before a longer max-age", ["Cache-Control: max-age=60, s-maxage=0"]),
    row(
        "RFC 9111 §5.2.2.10", "s-maxage=0 counts before a later Expires", ["Cache-Control: s-maxage=0", expires(FUTURE)]
    ),
    row("RFC 9111 §5.3", "A response is stale after its Expires", [expires(PAST)]),
    row("RFC 9111 §5.3", "max-age=0 counts before a later Expires", ["Cache-Control: max-age=0", expires(FUTURE)]),
    row("RFC 9111 §5.3", "An Expires that equals Date is stale at once", [expires(0)]),
    row("RFC 9111 §5.3", "Expires: 0 is in the past", ["Expires: 0"]),
    row("RFC 9111 §5.3", "An Expires that is no date is in the past", ["Expires: tomorrow"]),
    row(
        "RFC 9111 §5.3",
        "An Expires in another zone than GMT is in the past",
        ["Expires: Fri, 01 Jan 2100 00:00:00 EST"],
    ),
    row("RFC 9111 §5.3", "An Expires without a zone is in the past", ["Expires: Fri, 01 Jan 2100 00:00:00"]),
    row(
        "RFC 9111 §5.3",
        "An Expires with a two-digit hour left out is in the past",
        ["Expires: Fri, 01 Jan 2100 0:00:00 GMT"],
    ),
    row("RFC 9111 §5.3", "An Expires on a day that is none is in the past", ["Expires: Fri, 31 Feb 2100 00:00:00 GMT"]),
    row("RFC 9111 §5.3", "An Expires in ISO 8601 is in the past", ["Expires: 2100-01-01T00:00:00Z"]),
    row("RFC 9111 §4.2.1", "Two Expires lines that disagree are stale", [expires(FUTURE), expires(2 * FUTURE)]),
    row("RFC 9111 §4.2.1", "Two max-age that disagree are stale", ["Cache-Control: max-age=60, max-age=3600"]),
    row(
        "RFC 9111 §4.2.1",
        "Two max-age on two lines that disagree are stale",
        ["Cache-Control: max-age=60", "Cache-Control: max-age=3600"],
    ),
    row("RFC 9111 §4.2.1", "Two s-maxage that disagree are stale", ["Cache-Control: s-maxage=60, s-maxage=3600"]),
    row("RFC 9111 §4.2.1", "A negative max-age is stale", ["Cache-Control: max-age=-60"]),
    row("RFC 9111 §4.2.1", "A fractional max-age is stale", ["Cache-Control: max-age=60.5"]),
    row("RFC 9111 §4.2.1", "A max-age without a value is stale", ["Cache-Control: max-age"]),
    row("RFC 9111 §4.2.1", "A max-age with an empty value is stale", ["Cache-Control: max-age="]),
    row("RFC 9111 §4.2.1", "A max-age with letters is stale", ["Cache-Control: max-age=60s"]),
    row("RFC 9111 §4.2.1", "A max-age in hexadecimal is stale", ["Cache-Control: max-age=0x60"]),
    row("RFC 9111 §4.2.1", "A max-age with an exponent is stale", ["Cache-Control: max-age=6e1"]),
    row("RFC 9111 §4.2.1", "A max-age with a plus sign is stale", ["Cache-Control: max-age=+60"]),
    row("RFC 9111 §4.2.1", "A max-age in single quotes is stale", ["Cache-Control: max-age='60'"]),
    row("RFC 9111 §4.2.1", "A max-age with a space after the equals sign is stale", ["Cache-Control: max-age= 60"]),
    row("RFC 9111 §4.2.1", "A max-age with a space before the equals sign is stale", ["Cache-Control: max-age =60"]),
    row("RFC 9111 §4.2.1", "A max-age whose quotes do not end is stale", ['Cache-Control: max-age="60']),
    row(
        "RFC 9111 §4.2.1",
        "A malformed s-maxage is stale, whatever max-age says",
        ["Cache-Control: s-maxage=x, max-age=60"],
    ),
    row(
        "RFC 9111 §4.2.1",
        "A malformed max-age is stale, whatever Expires says",
        ["Cache-Control: max-age=x", expires(FUTURE)],
    ),
    row("RFC 9111 §4.2.1", "no-cache counts before any lifetime", ["Cache-Control: max-age=60, no-cache"]),
    row("RFC 9111 §5.2.2.4", "A response with no-cache is validated each time", ["Cache-Control: no-cache"]),
    row(
        "RFC 9111 §5.2.2.4",
        "A no-cache with a malformed argument counts for the whole response",
        ['Cache-Control: no-cache="a b", max-age=60'],
    ),
    row("RFC 9111 §5.2", "no-cache is read in any case", ["Cache-Control: No-Cache, max-age=60"]),
    row(
        "RFC 9111 §4.2.3",
        "A response whose Age has reached its lifetime is stale",
        ["Cache-Control: max-age=60", "Age: 60"],
    ),
    row(
        "RFC 9111 §4.2.3",
        "A response whose Age is beyond its s-maxage is stale",
        ["Cache-Control: s-maxage=60", "Age: 7200"],
    ),
    row("RFC 9111 §4.2.3", "Age counts against Expires as well", [expires(FUTURE), "Age: 7200"]),
    row(
        "RFC 9111 §1.2.2",
        "An Age beyond 64 bits is old, not negative",
        ["Cache-Control: max-age=60", "Age: 99999999999999999999"],
    ),
    row(
        "RFC 9111 §4.2.3",
        "A Date long past makes a response as old",
        ["Cache-Control: max-age=60", f"Date: {http_date(PAST)}"],
    ),
    row(
        "RFC 9111 §4.2.3",
        "Of Age and Date the older counts",
        ["Cache-Control: max-age=60", f"Date: {http_date(PAST)}", "Age: 1"],
    ),
    row("RFC 9111 §4.2.3", "An Age of the first list member is old", ["Cache-Control: max-age=60", "Age: 7200, 0"]),
    row(
        "RFC 9111 §4.2.2",
        "A response modified when it was sent has no heuristic freshness",
        [f"Date: {http_date(0)}", f"Last-Modified: {http_date(0)}"],
    ),
    row(
        "RFC 9111 §4.2.2",
        "A Last-Modified in the future gives no heuristic freshness",
        [f"Last-Modified: {http_date(FUTURE)}"],
    ),
    row(
        "RFC 9111 §4.2.2", "A Last-Modified that is no date gives no heuristic freshness", ["Last-Modified: yesterday"]
    ),
    row(
        "RFC 9111 §4.2.2",
        "An explicit lifetime of zero counts before any heuristic",
        ["Cache-Control: max-age=0", f"Last-Modified: {http_date(-100 * DAY)}"],
    ),
    row(
        "RFC 9111 §4.2.2",
        "An Expires in the past counts before any heuristic",
        [expires(PAST), f"Last-Modified: {http_date(-100 * DAY)}"],
    ),
    row(
        "RFC 9111 §4.2.2",
        "Heuristic freshness ends after a day, however old Last-Modified is",
        [f"Last-Modified: {http_date(-1000 * DAY)}", f"Age: {DAY}"],
    ),
    row("RFC 9111 §4.2", "A response with a validator alone is stored and validated", []),
    row("RFC 9111 §5.2.2.9", "public alone gives no lifetime", ["Cache-Control: public"]),
    row(
        "RFC 9111 §5.2",
        "A lifetime inside another directive's quotes does not count",
        ['Cache-Control: foo="a, max-age=60"'],
    ),
    row("RFC 8246 §2", "immutable alone gives no lifetime", ["Cache-Control: immutable"]),
    row(
        "RFC 8246 §2.1", "A stale immutable response is validated", ["Cache-Control: max-age=60, immutable", "Age: 60"]
    ),
    row(
        "RFC 9213 §2.2",
        "A CDN-Cache-Control without a lifetime leaves Expires out of account",
        ["CDN-Cache-Control: public", expires(FUTURE)],
    ),
    row(
        "RFC 9213 §2.2",
        "max-age=0 in CDN-Cache-Control counts before Cache-Control",
        ["CDN-Cache-Control: max-age=0", "Cache-Control: max-age=60"],
    ),
    row(
        "RFC 9213 §2.2",
        "no-cache in CDN-Cache-Control counts before Cache-Control",
        ["CDN-Cache-Control: no-cache", "Cache-Control: max-age=60"],
    ),
    row(
        "RFC 9213 §2.1",
        "A max-age of another type than Integer in CDN-Cache-Control is no lifetime",
        ['CDN-Cache-Control: max-age="60"', "Cache-Control: max-age=60"],
    ),
    row(
        "RFC 9213 §2.1",
        "A fractional max-age in CDN-Cache-Control is no lifetime",
        ["CDN-Cache-Control: max-age=60.5", "Cache-Control: max-age=60"],
    ),
]


@pytest.mark.parametrize("lines", STALE)
async def test_a_stale_response_is_validated_before_it_answers(cache: CacheUnderTest, lines: list[str]) -> None:
    page = cache.resource(reply(*lines, 'ETag: "1"'))
    await page.ask()
    second = await page.ask()
    assert not second.came_from_store
    assert second.cache_status["fwd"] == "stale"
    assert page.seen[1].field("If-None-Match") == '"1"', "it was stored"


REQUESTS = [
    # directive as the client sends it; what is stored; whether the store answers; the route that ignores it
    row(
        "RFC 9111 §5.2.1.4",
        "A request with no-cache is answered by the origin",
        ["Cache-Control: no-cache"],
        ["Cache-Control: max-age=60"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.4",
        "no-cache in a request is read in any case",
        ["Cache-Control: NO-CACHE"],
        ["Cache-Control: max-age=60"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.1",
        "A request with max-age=0 is not answered with what is older",
        ["Cache-Control: max-age=0"],
        ["Cache-Control: max-age=60", "Age: 1"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.1",
        "A request with max-age is not answered with what is older",
        ["Cache-Control: max-age=20"],
        ["Cache-Control: max-age=60", "Age: 30"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.1",
        "A request with max-age is answered with what is younger",
        ["Cache-Control: max-age=40"],
        ["Cache-Control: max-age=60", "Age: 10"],
        True,
    ),
    row(
        "RFC 9111 §5.2.1.1",
        "A max-age in quotes in a request is read",
        ['Cache-Control: max-age="20"'],
        ["Cache-Control: max-age=60", "Age: 30"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.1",
        "A malformed max-age in a request is zero",
        ["Cache-Control: max-age=x"],
        ["Cache-Control: max-age=60", "Age: 30"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.1",
        "Of two max-age in a request the shorter counts",
        ["Cache-Control: max-age=90, max-age=20"],
        ["Cache-Control: max-age=60", "Age: 30"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.3",
        "A request with min-fresh is not answered with what is fresh for less",
        ["Cache-Control: min-fresh=40"],
        ["Cache-Control: max-age=60", "Age: 30"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.3",
        "A request with min-fresh is answered with what is fresh for longer",
        ["Cache-Control: min-fresh=20"],
        ["Cache-Control: max-age=60", "Age: 30"],
        True,
    ),
    row(
        "RFC 9111 §5.2.1.3",
        "A malformed min-fresh in a request is met by nothing",
        ["Cache-Control: min-fresh=x"],
        ["Cache-Control: max-age=60"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.2",
        "A request with max-stale is answered with what is stale",
        ["Cache-Control: max-stale"],
        ["Cache-Control: max-age=60", "Age: 90"],
        True,
    ),
    row(
        "RFC 9111 §5.2.1.2",
        "A request with max-stale is answered with what is less stale",
        ["Cache-Control: max-stale=60"],
        ["Cache-Control: max-age=60", "Age: 90"],
        True,
    ),
    row(
        "RFC 9111 §5.2.1.2",
        "A request with max-stale is not answered with what is more stale",
        ["Cache-Control: max-stale=20"],
        ["Cache-Control: max-age=60", "Age: 90"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.2",
        "A malformed max-stale in a request permits nothing",
        ["Cache-Control: max-stale=x"],
        ["Cache-Control: max-age=60", "Age: 90"],
        False,
    ),
    row(
        "RFC 9111 §5.2.2.2",
        "must-revalidate counts before a request's max-stale",
        ["Cache-Control: max-stale"],
        ["Cache-Control: max-age=60, must-revalidate", "Age: 90"],
        False,
    ),
    row(
        "RFC 9111 §5.2.2.8",
        "proxy-revalidate counts before a request's max-stale",
        ["Cache-Control: max-stale"],
        ["Cache-Control: max-age=60, proxy-revalidate", "Age: 90"],
        False,
    ),
    row(
        "RFC 9111 §5.2.2.10",
        "s-maxage counts before a request's max-stale",
        ["Cache-Control: max-stale"],
        ["Cache-Control: s-maxage=60", "Age: 90"],
        False,
    ),
    row(
        "RFC 9111 §5.2.2.4",
        "A response's no-cache counts before a request's max-stale",
        ["Cache-Control: max-stale"],
        ["Cache-Control: max-age=60, no-cache"],
        False,
    ),
    row(
        "RFC 9111 §5.2.1.7",
        "A request with only-if-cached is answered with what is fresh",
        ["Cache-Control: only-if-cached"],
        ["Cache-Control: max-age=60"],
        True,
    ),
    row(
        "RFC 9111 §5.2.1.5",
        "A request with no-store may be answered from the store",
        ["Cache-Control: no-store"],
        ["Cache-Control: max-age=60"],
        True,
        optional=True,
    ),
    row(
        "RFC 9111 §5.4",
        "A request with Pragma: no-cache and no Cache-Control is answered by the origin",
        ["Pragma: no-cache"],
        ["Cache-Control: max-age=60"],
        False,
    ),
    row(
        "RFC 9111 §5.4",
        "Pragma counts for nothing beside Cache-Control",
        ["Pragma: no-cache", "Cache-Control: max-age=60"],
        ["Cache-Control: max-age=60"],
        True,
    ),
    row(
        "RFC 9111 §5.2",
        "An unknown directive in a request is ignored",
        ["Cache-Control: foo=bar"],
        ["Cache-Control: max-age=60"],
        True,
    ),
    row(
        "RFC 9111 §5.2.1.4",
        "no-cache on a second line of a request counts",
        ["Cache-Control: max-age=60", "Cache-Control: no-cache"],
        ["Cache-Control: max-age=60"],
        False,
    ),
]


@pytest.mark.parametrize(("asked", "stored", "from_store"), REQUESTS)
async def test_request_directives(cache: CacheUnderTest, asked: list[str], stored: list[str], from_store: bool) -> None:
    page = cache.resource(reply(*stored, 'ETag: "1"'))
    await page.ask()
    assert (await page.ask(*asked)).came_from_store is from_store


SWITCHED_OFF = [
    row("ignore_request_directives", "A route may ignore a request's no-cache", "no-cache", "Cache-Control: no-cache"),
    row("ignore_request_directives", "A route may ignore a request's max-age", "max-age", "Cache-Control: max-age=0"),
    row(
        "ignore_request_directives",
        "A route may ignore a request's min-fresh",
        "min-fresh",
        "Cache-Control: min-fresh=90",
    ),
    row("ignore_request_directives", "A route may ignore a request's Pragma", "pragma", "Pragma: no-cache"),
]


@pytest.mark.parametrize(("directive", "line"), SWITCHED_OFF)
async def test_a_route_may_ignore_what_would_pass_the_cache(cache: CacheUnderTest, directive: str, line: str) -> None:
    stored = reply("Cache-Control: max-age=60", "Age: 10")
    heeding, ignoring = cache.resource(stored), cache.resource(stored, route=f"ignore-{directive}")
    for page, from_store in ((heeding, False), (ignoring, True)):
        await page.ask()
        assert (await page.ask(line)).came_from_store is from_store


@behaviour("ignore_request_directives", "A route may ignore a request's max-stale")
async def test_a_route_may_ignore_max_stale(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60", "Age: 90", 'ETag: "1"'), route="ignore-max-stale")
    await page.ask()
    assert not (await page.ask("Cache-Control: max-stale")).came_from_store


@behaviour("ignore_request_directives", "A route may ignore a request's no-store")
async def test_a_route_may_ignore_no_store(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60"), route="ignore-no-store")
    await page.ask("Cache-Control: no-store")
    assert (await page.ask()).came_from_store


@behaviour("ignore_request_directives", "A route may ignore a request's only-if-cached")
async def test_a_route_may_ignore_only_if_cached(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60"), route="ignore-only-if-cached")
    answer = await page.ask("Cache-Control: only-if-cached")
    assert (answer.status, answer.asked) == (200, 1)


@behaviour(
    "RFC 9111 §5.2.1.7", "A request with only-if-cached gets 504 when nothing is stored, and the origin is not asked"
)
async def test_only_if_cached_with_nothing_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60"))
    answer = await page.ask("Cache-Control: only-if-cached")
    assert (answer.status, answer.asked, page.seen) == (504, 0, [])


@behaviour("RFC 9111 §5.2.1.7", "A request with only-if-cached gets 504 when what is stored is stale")
async def test_only_if_cached_with_something_stale_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60", "Age: 90", 'ETag: "1"'))
    await page.ask()
    answer = await page.ask("Cache-Control: only-if-cached")
    assert (answer.status, answer.asked) == (504, 0)


@behaviour("RFC 9111 §5.2.1.7", "A request with only-if-cached and max-stale is answered with what is stale")
async def test_only_if_cached_with_max_stale(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60", "Age: 90", 'ETag: "1"'))
    await page.ask()
    assert (await page.ask("Cache-Control: only-if-cached, max-stale")).came_from_store


@pytest.mark.parametrize(
    ("lines", "age"),
    [
        row("RFC 9111 §4", "An answer from the store has an Age", ["Cache-Control: max-age=60"], 0),
        row(
            "RFC 9111 §4.2.3",
            "The Age of the origin's answer is counted on",
            ["Cache-Control: max-age=60", "Age: 20"],
            20,
        ),
        row(
            "RFC 9111 §4.2.3",
            "The Age of an answer is no less than what its Date says",
            ["Cache-Control: max-age=7200", f"Date: {http_date(PAST)}"],
            3600,
        ),
    ],
)
async def test_age_of_an_answer_from_the_store(cache: CacheUnderTest, lines: list[str], age: int) -> None:
    page = cache.resource(reply(*lines))
    await page.ask()
    second = await page.ask()
    assert second.came_from_store
    assert age <= second.age <= age + 30  # of which the test may take some


@pytest.mark.parametrize(
    ("route", "lines", "from_store"),
    [
        row("ttl_seconds", "A route gives a lifetime to a response that says nothing", "ttl", [], True),
        row(
            "ttl_seconds", "A route's lifetime gives way to an explicit one", "ttl", ["Cache-Control: max-age=0"], False
        ),
        row("ttl_seconds", "A route's lifetime gives way to an Expires in the past", "ttl", [expires(PAST)], False),
        row("ttl_seconds", "A route's lifetime gives way to no-cache", "ttl", ["Cache-Control: no-cache"], False),
        row(
            "max_ttl_seconds",
            "A route limits every lifetime",
            "max-ttl",
            ["Cache-Control: max-age=3600", "Age: 30"],
            False,
        ),
        row(
            "max_ttl_seconds",
            "A lifetime below the route's limit stays",
            "max-ttl",
            ["Cache-Control: max-age=3600", "Age: 0"],
            True,
        ),
        row(
            "heuristic_fraction",
            "A route sets the heuristic fraction",
            "heuristic-half",
            [f"Last-Modified: {http_date(-100)}", "Age: 30"],
            True,
        ),
        row(
            "heuristic_fraction",
            "Without a heuristic fraction nothing is fresh by Last-Modified",
            "heuristic-none",
            [f"Last-Modified: {http_date(-10 * DAY)}"],
            False,
        ),
        row(
            "heuristic_max_seconds",
            "A route limits heuristic lifetimes",
            "heuristic-short",
            [f"Last-Modified: {http_date(-10 * DAY)}", "Age: 60"],
            False,
        ),
        row(
            "targets",
            "A route has a target list of its own, most specific first",
            "two-targets",
            ["Sidecar-Cache-Control: max-age=60", "CDN-Cache-Control: max-age=0"],
            True,
        ),
        row(
            "targets",
            "The next target counts where the first is malformed",
            "two-targets",
            ["Sidecar-Cache-Control: max-age=", "CDN-Cache-Control: max-age=60"],
            True,
        ),
        row(
            "targets",
            "Without targets CDN-Cache-Control changes nothing",
            "no-targets",
            ["CDN-Cache-Control: no-store", "Cache-Control: max-age=60"],
            True,
        ),
    ],
)
async def test_lifetimes_of_a_route(cache: CacheUnderTest, route: str, lines: list[str], from_store: bool) -> None:
    page = cache.resource(reply(*lines, 'ETag: "1"'), route=route)
    await page.ask()
    assert (await page.ask()).came_from_store is from_store


HEURISTIC_STATUSES = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501]


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9110 §15.1", f"A {status} is fresh by heuristics where it has a Last-Modified", status)
        for status in HEURISTIC_STATUSES
    ],
)
async def test_statuses_with_heuristic_freshness(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(f"Last-Modified: {http_date(-10 * DAY)}", status=status))
    await page.ask()
    assert (await page.ask()).came_from_store


@pytest.mark.parametrize(
    "status",
    [
        row("RFC 9110 §15.1", f"A {status} without explicit freshness is not stored", status)
        for status in (
            201,
            202,
            302,
            303,
            307,
            400,
            401,
            402,
            403,
            406,
            409,
            412,
            413,
            415,
            417,
            422,
            429,
            431,
            500,
            502,
            503,
            504,
            299,
            499,
            599,
        )
    ],
)
async def test_statuses_without_heuristic_freshness(cache: CacheUnderTest, status: int) -> None:
    page = cache.resource(reply(f"Last-Modified: {http_date(-10 * DAY)}", status=status))
    first, second = await page.ask(), await page.ask()
    assert not second.came_from_store
    assert "stored" not in first.cache_status
    assert page.seen[1].field("If-Modified-Since") is None
