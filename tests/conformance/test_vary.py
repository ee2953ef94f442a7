"""Vary: which stored response a request selects, and how many there may be (RFC 9111 §4.1, RFC 9110 §12.5.5)."""

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import CODINGS_PASS, CacheUnderTest, Resource
from tests.conformance.scripted_origin import Reply, Script, Seen, http_date, reply

behaviour = behaviours_of(Group.VARY)
row = behaviour.row

CLAUSE = "RFC 9111 §4.1"
FRESH = "Cache-Control: max-age=3600"
AE, AL, ACCEPT = "Accept-Encoding", "Accept-Language", "Accept"


def varying(*lines: str) -> Script:
    """An origin whose answers are fresh for an hour, with `lines`."""
    return reply(FRESH, *lines)


def by_language(*, etags: bool = False, age: int = 0) -> Script:
    """An origin that answers with the value of X-Lang, by which it varies."""

    def answer(seen: Seen) -> Reply:
        value = seen.field("X-Lang") or "none"
        own = (f'ETag: "{value}"',) if etags else ()
        if own and seen.field("If-None-Match") == f'"{value}"':
            return reply(FRESH, "Vary: X-Lang", *own, status=304)
        return reply(FRESH, "Vary: X-Lang", f"Age: {age}", *own, body=value)

    return answer


async def stored_in(page: Resource, *languages: str) -> None:
    for language in languages:
        assert not (await page.ask(f"X-Lang: {language}")).came_from_store


@pytest.mark.parametrize(
    ("vary", "first", "second", "matches"),
    [
        row(CLAUSE, "Requests with the same value of a field select the same response",
            "X-Lang", ["X-Lang: en"], ["X-Lang: en"], True),
        row(CLAUSE, "Requests with different values of a field select different responses",
            "X-Lang", ["X-Lang: en"], ["X-Lang: fr"], False),
        row(CLAUSE, "Requests that both lack the field select the same response", "X-Lang", [], [], True),
        row(CLAUSE, "A request without the field does not match one with it", "X-Lang", ["X-Lang: en"], [], False),
        row(CLAUSE, "A request with the field does not match one without it", "X-Lang", [], ["X-Lang: en"], False),
        row(CLAUSE, "An empty field is no absent one", "X-Lang", ["X-Lang:"], [], False),
        row(CLAUSE, "All fields named have to match", "X-A, X-B", ["X-A: 1", "X-B: 2"], ["X-A: 1", "X-B: 3"], False),
        row(CLAUSE, "Requests that agree in all fields named select the same response",
            "X-A, X-B", ["X-A: 1", "X-B: 2"], ["X-B: 2", "X-A: 1"], True),
        row(CLAUSE, "The values of two fields are not mixed up", "X-A, X-B",
            ["X-A: 1", "X-B: 2"], ["X-A: 2", "X-B: 1"], False),
        row(CLAUSE, "A field that is not named does not matter", "X-A", ["X-A: 1", "X-B: 2"], ["X-A: 1"], True),
        row("RFC 9110 §5.1", "Names in Vary are read in any case", "x-lAnG", ["X-LANG: en"], ["X-Lang: fr"], False),
        row("RFC 9110 §5.6.1", "Empty members of Vary are ignored", ", X-A,,", ["X-A: 1"], ["X-A: 1"], True),
        row("RFC 9110 §5.3", "Several lines of a field equal one with their values in order", "X-A",
            ["X-A: 1", "X-A: 2"], ["X-A: 1, 2"], True),
        row(CLAUSE, "Lines of a field in another order are another value", "X-A",
            ["X-A: 1", "X-A: 2"], ["X-A: 2", "X-A: 1"], False),
        row("RFC 9110 §5.5", "White space around a value does not matter", "X-A", ["X-A: 1"], ["X-A:  \t1 \t"], True),
        row(CLAUSE, "The case of an unknown field's value matters", "X-A", ["X-A: a"], ["X-A: A"], False),
        row(CLAUSE, "White space within an unknown field's value matters", "X-A", ["X-A: 1,2"], ["X-A: 1, 2"], False),
        row(CLAUSE, "A value that looks like two fields does not pose as them", "X-A, X-B",
            ["X-A: 1", "X-B: 2"], ["X-A: 1x-b=2"], False),
        row(CLAUSE, "A value of bytes beyond ASCII selects by its bytes", "X-A",
            ["X-A: \u00e9"], ["X-A: \u00e8"], False),
        row(CLAUSE, "A value of thousands of bytes selects by all of them", "X-A",
            [f"X-A: {'a' * 4000}b"], [f"X-A: {'a' * 4000}c"], False),
        row(CLAUSE, "Vary on Cookie keeps clients with different cookies apart", "Cookie",
            ["Cookie: id=1"], ["Cookie: id=2"], False),
        row(CLAUSE, "Vary on Cookie lets those with the same cookie share", "Cookie",
            ["Cookie: id=1"], ["Cookie: id=1"], True),
        row(CLAUSE, "Vary on User-Agent keeps agents apart", "User-Agent",
            ["User-Agent: a/1"], ["User-Agent: b/1"], False),
    ],
)  # fmt: skip
async def test_what_a_request_selects(
    cache: CacheUnderTest, vary: str, first: list[str], second: list[str], *, matches: bool
) -> None:
    page = cache.resource(varying(f"Vary: {vary}"))
    await page.ask(*first)
    assert (await page.ask(*second)).came_from_store is matches
    assert (await page.ask(*first)).came_from_store, "the first is still there"


@pytest.mark.parametrize(
    ("name", "first", "second", "matches"),
    [
        row(CLAUSE, "White space in Accept-Encoding does not matter", AE, "gzip,br", "gzip ,\tbr", True),
        row(CLAUSE, "Case in Accept-Encoding does not matter", AE, "gzip", "GZip", True),
        row(CLAUSE, "The order of codings of one weight does not matter", AE, "gzip, br", "br, gzip", True),
        row(CLAUSE, "x-gzip in Accept-Encoding is gzip", AE, "gzip", "x-gzip", True),
        row(CLAUSE, "A weight of 1 in Accept-Encoding is no weight", AE, "gzip", "gzip;q=1.000", True),
        row(CLAUSE, "A coding of weight 0 is excluded, not accepted", AE, "gzip", "gzip;q=0", False),
        row(CLAUSE, "Other codings are another variant", AE, "gzip", "br", False),
        row(CLAUSE, "Case and order of languages of one weight do not matter", AL, "en-GB, fr", "FR,en-gb", True),
        row(CLAUSE, "Languages of other weights are another variant", AL, "en, fr;q=0.5", "fr, en;q=0.5", False),
        row(CLAUSE, "The same weight in other digits is the same", AL, "en;q=0.5", "en; Q=0.500", True),
        row(CLAUSE, "Where a language of less weight stands does not matter", AL, "fr;q=0.5, en", "en,fr;q=0.5", True),
        row(CLAUSE, "Case and order of media ranges of one weight do not matter",
            ACCEPT, "text/html, Text/Plain", "text/plain,text/html", True),
        row(CLAUSE, "Media ranges with their weights match in any order",
            ACCEPT, "text/html;q=0.8, a/b", "a/b,text/html; q=0.80", True),
        row(CLAUSE, "Media ranges of other weights are another variant", ACCEPT, "a/b;q=0.8", "a/b;q=0.7", False),
        row(CLAUSE, "The case of a media type parameter's value matters", ACCEPT, "a/b;v=x", "a/b;v=X", False),
        row(CLAUSE, "A comma in a quoted parameter parts no media ranges",
            ACCEPT, 'a/b;v="1,2"', 'a/b;v="2,1"', False),
    ],
)  # fmt: skip
async def test_values_of_one_meaning_select_the_same(
    cache: CacheUnderTest, name: str, first: str, second: str, *, matches: bool
) -> None:
    page = cache.resource(varying(f"Vary: {name}"), route=CODINGS_PASS)
    await page.ask(f"{name}: {first}")
    assert page.seen[-1].field(name) == first, "the origin could tell them apart"
    assert (await page.ask(f"{name}: {second}")).came_from_store is matches


@pytest.mark.parametrize(
    "lines",
    [
        row(CLAUSE, "A response with Vary: * answers no other request", ["Vary: *"]),
        row(CLAUSE, "* after other members of Vary counts", ["Vary: X-A, *"]),
        row(CLAUSE, "* before other members of Vary counts", ["Vary: *, X-A"]),
        row(CLAUSE, "* between other members of Vary counts", ["Vary: X-A, *, X-B"]),
        row(CLAUSE, "* in the second of two lines of Vary counts", ["Vary: X-A", "Vary: *"]),
        row(CLAUSE, "A member of Vary that is no field name matches nothing", ["Vary: X A"]),
    ],
)
async def test_what_matches_nothing(cache: CacheUnderTest, lines: list[str]) -> None:
    page = cache.resource(varying(*lines))
    await page.ask("X-A: 1")
    again = await page.ask("X-A: 1")
    assert (again.came_from_store, again.asked) == (False, 1)


@behaviour("RFC 9110 §5.3", "Several lines of Vary count together")
async def test_several_lines(cache: CacheUnderTest) -> None:
    page = cache.resource(varying("Vary: X-A", "Vary: X-B"))
    await page.ask("X-A: 1", "X-B: 1")
    assert (await page.ask("X-A: 1", "X-B: 1")).came_from_store
    assert not (await page.ask("X-A: 1", "X-B: 2")).came_from_store
    assert not (await page.ask("X-A: 2", "X-B: 1")).came_from_store


@behaviour(CLAUSE, "Variants stand side by side, each with its own content")
async def test_variants_side_by_side(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language())
    await stored_in(page, "en", "fr", "de")
    for language in ("de", "en", "fr"):
        answer = await page.ask(f"X-Lang: {language}")
        assert (answer.came_from_store, answer.body) == (True, language.encode())


@behaviour(CLAUSE, "A stored response passes its Vary on to clients")
async def test_vary_is_passed_on(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language())
    await page.ask("X-Lang: en")
    answer = await page.ask("X-Lang: en")
    assert (answer.came_from_store, answer.field("Vary")) == (True, "X-Lang")


@behaviour(CLAUSE, "A HEAD request selects a variant as a GET request does")
async def test_head_selects(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language())
    await stored_in(page, "en")
    assert (await page.ask("X-Lang: en", method="HEAD")).came_from_store
    assert not (await page.ask("X-Lang: fr", method="HEAD")).came_from_store


@behaviour("RFC 9111 §4", "The most recent response that matches answers")
async def test_the_most_recent_wins(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "Vary: X-A", body="old"), reply(FRESH, "Vary: X-A", body="new"))
    await page.ask("X-A: 1")
    assert not (await page.ask("X-A: 1", "Cache-Control: no-cache")).came_from_store
    answer = await page.ask("X-A: 1")
    assert (answer.came_from_store, answer.body) == (True, b"new")


@behaviour(CLAUSE, "Where the origin's Vary grows, requests are told apart by the new fields as well")
async def test_vary_that_grows(cache: CacheUnderTest) -> None:
    page = cache.resource(varying("Vary: X-A"), varying("Vary: X-A, X-B"))
    await page.ask("X-A: 1", "X-B: 1")
    await page.ask("X-A: 2", "X-B: 1")
    assert (await page.ask("X-A: 2", "X-B: 1")).came_from_store
    assert not (await page.ask("X-A: 2", "X-B: 2")).came_from_store


@behaviour(CLAUSE, "Where a response without Vary gives way to one with it, requests are told apart")
async def test_vary_that_comes(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), by_language())
    await page.ask("X-Lang: en")
    await page.ask("X-Lang: en", "Cache-Control: no-cache")
    assert (await page.ask("X-Lang: en")).body == b"en"
    answer = await page.ask("X-Lang: fr")
    assert (answer.came_from_store, answer.body) == (False, b"fr")


@behaviour("max_variants", "A resource keeps no more variants than it may; others pass, and displace none")
async def test_the_cap_on_variants(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language(), route="three-variants")
    await stored_in(page, "a", "b", "c", "d")
    assert not (await page.ask("X-Lang: d")).came_from_store
    for language in ("a", "b", "c"):
        assert (await page.ask(f"X-Lang: {language}")).came_from_store


@behaviour("max_variants", "The cap counts by meaning: odd spellings of a value use up no places")
async def test_odd_spellings_use_no_places(cache: CacheUnderTest) -> None:
    page = cache.resource(varying("Vary: Accept-Language"), route="three-variants")
    await page.ask("Accept-Language: en, fr")
    for odd in ("fr,en", "EN,  fr", "en;q=1, fr;q=1.0", ",en,,fr,", "Fr;Q=1,eN"):
        assert (await page.ask(f"Accept-Language: {odd}")).came_from_store, odd


@behaviour("RFC 9111 §3.5", "Vary on Authorization does not by itself allow to store what answers it")
async def test_vary_on_authorization_alone(cache: CacheUnderTest) -> None:
    page = cache.resource(varying("Vary: Authorization"))
    await page.ask("Authorization: Basic YTpi")
    assert not (await page.ask("Authorization: Basic YTpi")).came_from_store


@behaviour("RFC 9111 §3.5", "A public response that varies on Authorization is shared by equal credentials alone")
async def test_public_and_vary_on_authorization(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: public, max-age=60", "Vary: Authorization"))
    await page.ask("Authorization: Basic YTpi")
    assert (await page.ask("Authorization: Basic YTpi")).came_from_store
    assert not (await page.ask("Authorization: Basic YTpj")).came_from_store
    assert not (await page.ask()).came_from_store


@behaviour("upstream_encoding", "The origin is asked for identity by default, so that all codings share one variant")
async def test_codings_share_a_variant(cache: CacheUnderTest) -> None:
    page = cache.resource(varying("Vary: Accept-Encoding"))
    await page.ask("Accept-Encoding: gzip")
    assert page.seen[-1].field("Accept-Encoding") == "identity"
    assert (await page.ask("Accept-Encoding: br")).came_from_store


@behaviour(CLAUSE, "A client's condition is judged by the variant that its request selects")
async def test_a_condition_and_variants(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language(etags=True))
    await stored_in(page, "en", "fr")
    own = await page.ask("X-Lang: en", 'If-None-Match: "en"')
    other = await page.ask("X-Lang: en", 'If-None-Match: "fr"')
    assert (own.came_from_store, own.status) == (True, 304)
    assert "X-Lang" in own.all("Vary")
    assert (other.came_from_store, other.status, other.body) == (True, 200, b"en")


@behaviour("RFC 9111 §4.3.4", "A 304 for a stale variant freshens that one, not the others")
async def test_freshening_one_variant(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language(etags=True, age=4000))
    await stored_in(page, "en", "fr")
    validated = await page.ask("X-Lang: en")
    assert (validated.was_validated, validated.body) == (True, b"en")
    assert (await page.ask("X-Lang: en")).came_from_store
    other = await page.ask("X-Lang: fr")
    assert (other.was_validated, other.body) == (True, b"fr")


@behaviour("POST /admin/cache/invalidate", "A purge by URL takes all variants")
async def test_purge_takes_all_variants(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language())
    await stored_in(page, "en", "fr")
    await page.purge()
    await stored_in(page, "en", "fr")
    assert (await page.ask("X-Lang: fr")).came_from_store


@behaviour("POST /admin/cache/invalidate", "A soft purge makes all variants stale, and each is validated by itself")
async def test_soft_purge_of_variants(cache: CacheUnderTest) -> None:
    page = cache.resource(by_language(etags=True))
    await stored_in(page, "en", "fr")
    await page.purge(soft=True)
    for language in ("en", "fr"):
        answer = await page.ask(f"X-Lang: {language}")
        assert (answer.was_validated, answer.body) == (True, language.encode())


@behaviour("RFC 9111 §4.2.4", "A stale variant does not make a fresh one stale")
async def test_fresh_beside_stale(cache: CacheUnderTest) -> None:
    def answer(seen: Seen) -> Reply:
        value = seen.field("X-Lang") or ""
        return reply("Cache-Control: max-age=60", "Vary: X-Lang", f"Date: {http_date(0)}",
                     f"Age: {100 if value == 'old' else 0}", body=value)  # fmt: skip

    page = cache.resource(answer)
    await stored_in(page, "new", "old")
    assert (await page.ask("X-Lang: new")).came_from_store
    assert not (await page.ask("X-Lang: old")).came_from_store
