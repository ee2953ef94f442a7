"""Invalidation: what makes stored responses void (RFC 9111 §4.4, RFC 9875)."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import Answer, CacheUnderTest, Resource
from tests.conformance.scripted_origin import reply

behaviour = behaviours_of(Group.INVALIDATION)
row = behaviour.row

FRESH = "Cache-Control: max-age=60"
ELSEWHERE = "elsewhere.example"


async def stored(cache: CacheUnderTest, *lines: str, route: str = "", host: str | None = None) -> Resource:
    """A resource with a response that is stored, and fresh."""
    page = cache.resource(reply(FRESH, *lines), route=route)
    await page.ask(host=host)
    assert (await page.ask(host=host)).came_from_store
    return page


async def send(page: Resource, method: str, *lines: str, status: int = 200, host: str | None = None) -> Answer:
    """An answer with `lines` to a request that goes past the cache; all that follow are fresh again."""
    page.answers(reply(*lines, status=status, body=b""))
    answer = await page.ask(method=method, body=b"a=1", host=host)
    assert (answer.asked, answer.status) == (1, status)
    page.answers(reply(FRESH))
    return answer


async def is_void(page: Resource, *lines: str, host: str | None = None) -> bool:
    return not (await page.ask(*lines, host=host)).came_from_store


# The target (§4.4).


@pytest.mark.parametrize(
    "method",
    [
        row("RFC 9111 §4.4", "POST makes the stored response of its target void", "POST"),
        row("RFC 9111 §4.4", "PUT makes the stored response of its target void", "PUT"),
        row("RFC 9111 §4.4", "DELETE makes the stored response of its target void", "DELETE"),
        row("RFC 9111 §4.4", "PATCH makes the stored response of its target void", "PATCH"),
        row("RFC 9111 §4.4", "A method of other specifications makes the stored response of its target void", "MKCOL"),
    ],
)
async def test_unsafe_method(cache: CacheUnderTest, method: str) -> None:
    page = await stored(cache)
    await send(page, method)
    assert await is_void(page)


@pytest.mark.parametrize(
    "method",
    [
        row("RFC 9110 §9.2.1", "OPTIONS makes nothing void", "OPTIONS"),
        row("RFC 9110 §9.2.1", "PROPFIND makes nothing void", "PROPFIND"),
        row("RFC 9110 §9.2.1", "REPORT makes nothing void", "REPORT"),
        row("RFC 9110 §9.2.1", "SEARCH makes nothing void", "SEARCH"),
        row("RFC 9110 §9.2.1", "QUERY makes nothing void", "QUERY"),
    ],
)
async def test_safe_method(cache: CacheUnderTest, method: str) -> None:
    page = await stored(cache)
    await send(page, method)
    assert not await is_void(page)


@pytest.mark.parametrize(
    ("status", "void"),
    [
        row("RFC 9111 §4.4", "201 to an unsafe method invalidates", 201, True),
        row("RFC 9111 §4.4", "202 to an unsafe method invalidates", 202, True),
        row("RFC 9111 §4.4", "204 to an unsafe method invalidates", 204, True),
        row("RFC 9111 §4.4", "A success code not understood invalidates", 299, True),
        row("RFC 9111 §4.4", "303 to an unsafe method invalidates", 303, True),
        row("RFC 9111 §4.4", "307 to an unsafe method invalidates", 307, True),
        row("RFC 9111 §4.4", "A redirection code not understood invalidates", 399, True),
        row("RFC 9111 §4.4", "400 to an unsafe method makes nothing void", 400, False),
        row("RFC 9111 §4.4", "403 to an unsafe method makes nothing void", 403, False),
        row("RFC 9111 §4.4", "412 to an unsafe method makes nothing void", 412, False),
        row("RFC 9111 §4.4", "500 to an unsafe method makes nothing void", 500, False),
        row("RFC 9111 §4.4", "503 to an unsafe method makes nothing void", 503, False),
    ],
)
async def test_status_of_the_answer(cache: CacheUnderTest, status: int, *, void: bool) -> None:
    page = await stored(cache)
    await send(page, "POST", status=status)
    assert await is_void(page) is void


@behaviour("RFC 9111 §4", "An unsafe request is written through, whatever is stored")
async def test_unsafe_methods_are_written_through(cache: CacheUnderTest) -> None:
    page = await stored(cache)
    answer = await send(page, "PUT")
    assert not answer.is_hit
    assert (page.seen[-1].method, page.seen[-1].body) == ("PUT", b"a=1")


@behaviour("RFC 9111 §4.4", "All variants of the target are made void")
async def test_all_variants(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH, "Vary: X-Lang"))
    languages = ["X-Lang: de", "X-Lang: en", "X-Lang: fr"]
    for line in languages:
        await page.ask(line)
        assert (await page.ask(line)).came_from_store
    page.answers(reply())
    await page.ask(languages[0], method="POST", body=b"a=1")
    page.answers(reply(FRESH, "Vary: X-Lang"))
    assert [await is_void(page, line) for line in languages] == [True, True, True]


@behaviour("RFC 9111 §4.4", "The answer to HEAD is void as well")
async def test_head(cache: CacheUnderTest) -> None:
    page = await stored(cache)
    assert (await page.ask(method="HEAD")).came_from_store
    await send(page, "POST")
    assert not (await page.ask(method="HEAD")).came_from_store


@behaviour("RFC 9111 §4.4", "A stored response with another query stays: it is another URI's")
async def test_another_query_stays(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH))
    await page.ask(query="?a=1")
    await send(page, "POST")
    assert (await page.ask(query="?a=1")).came_from_store


@behaviour("RFC 9111 §4.4", "A stored response of another host stays")
async def test_another_host_stays(cache: CacheUnderTest) -> None:
    page = await stored(cache)
    await send(page, "POST", host=ELSEWHERE)
    assert not await is_void(page)


@behaviour("RFC 9110 §4.2.3", "The host's case makes no difference to what is made void")
async def test_host_in_another_case(cache: CacheUnderTest) -> None:
    page = await stored(cache, host="api.example")
    await send(page, "POST", host="API.Example")
    assert await is_void(page, host="api.example")


@behaviour("RFC 9111 §4.4", "What is made void is not confirmed either: the origin is asked without conditions")
async def test_void_means_not_revalidated(cache: CacheUnderTest) -> None:
    page = await stored(cache, 'ETag: "1"')
    await send(page, "POST")
    assert await is_void(page)
    assert page.seen[-1].field("If-None-Match") is None


@behaviour("RFC 9111 §4.4", "What was made void is stored anew by the next request")
async def test_stored_anew(cache: CacheUnderTest) -> None:
    page = await stored(cache)
    await send(page, "DELETE")
    assert await is_void(page)
    assert not await is_void(page)


@behaviour("RFC 9111 §4.4", "A stored part of the target is made void")
async def test_part(cache: CacheUnderTest) -> None:
    part = reply(FRESH, 'ETag: "1"', "Content-Range: bytes 0-2/9", status=206, body=b"012")
    page = cache.resource(part)
    await page.ask("Range: bytes=0-2")
    assert (await page.ask("Range: bytes=0-2")).came_from_store
    await send(page, "PUT")
    page.answers(part)
    assert await is_void(page, "Range: bytes=0-2")


@behaviour("bypass", "A route whose cache is off still invalidates")
async def test_route_whose_cache_is_off(cache: CacheUnderTest) -> None:
    page, off = await stored(cache), cache.resource(route="bypass")
    await send(off, "POST", f"Location: {page.path}")
    assert await is_void(page)


@behaviour("ignore_query", "What is stored without ignored parameters is made void by its URI with and without them")
async def test_ignored_parameters(cache: CacheUnderTest) -> None:
    page = cache.resource(reply(FRESH), route="ignore-query")
    for stored_as, sent_to in (("?utm_a=1", ""), ("", "?utm_a=1"), ("?b=1&a=2", "?a=2&b=1")):
        await page.ask(query=stored_as)
        assert (await page.ask(query=sent_to)).came_from_store
        page.answers(reply())
        await page.ask(method="POST", body=b"a=1", query=sent_to)
        page.answers(reply(FRESH))
        assert not (await page.ask(query=sent_to)).came_from_store, (stored_as, sent_to)


# Location and Content-Location (§4.4).


@pytest.mark.parametrize(
    ("name", "form"),
    [
        row("RFC 9111 §4.4", "The URI in Location is made void", "Location", "{url}", optional=True),
        row("RFC 9111 §4.4", "The URI in Content-Location is made void", "Content-Location", "{url}", optional=True),
        row("RFC 9110 §10.2.2", "A relative Location is made void", "Location", "{path}", optional=True),
        row("RFC 9110 §8.7", "A relative Content-Location is made void", "Content-Location", "{path}", optional=True),
        row("RFC 3986 §5.2.4", "A Location with dot segments is resolved", "Location", "/x/../{path}", optional=True),
        row("RFC 9110 §10.2.2", "A Location without scheme is resolved", "Location", "//{host}{path}", optional=True),
        row(
            "RFC 9110 §10.2.2",
            "A Location with a fragment makes the URI without it void",
            "Location",
            "{url}#part",
            optional=True,
        ),
    ],
)
async def test_named_uri(cache: CacheUnderTest, name: str, form: str) -> None:
    named, target = await stored(cache), await stored(cache)
    reference = form.format(url=named.url, path=named.path, host=cache.running.address)
    await send(target, "POST", f"{name}: {reference.replace('..//', '../')}", status=201)
    assert await is_void(named)
    assert await is_void(target)


@pytest.mark.parametrize(
    "name",
    [
        row("RFC 9111 §4.4", "A Location of another origin makes nothing void there", "Location"),
        row("RFC 9111 §4.4", "A Content-Location of another origin makes nothing void there", "Content-Location"),
    ],
)
async def test_uri_of_another_origin(cache: CacheUnderTest, name: str) -> None:
    named, target = await stored(cache, host=ELSEWHERE), await stored(cache)
    await send(target, "POST", f"{name}: http://{ELSEWHERE}{named.path}", status=201)
    assert not await is_void(named, host=ELSEWHERE)
    assert await is_void(target)


@pytest.mark.parametrize(
    ("method", "status"),
    [
        row("RFC 9111 §4.4", "Location in an error makes nothing void", "POST", 409),
        row("RFC 9110 §9.2.1", "Location in the answer to a safe method makes nothing void", "OPTIONS", 200),
    ],
)
async def test_location_that_does_not_count(cache: CacheUnderTest, method: str, status: int) -> None:
    named, target = await stored(cache), cache.resource()
    await send(target, method, f"Location: {named.path}", status=status)
    assert not await is_void(named)


@behaviour("RFC 9111 §4.4", "A Location that is no URI makes the target void, and disturbs nothing")
async def test_location_that_is_no_uri(cache: CacheUnderTest) -> None:
    page = await stored(cache)
    await send(page, "POST", "Location: http://[::1", status=201)
    assert await is_void(page)


# Groups (RFC 9875).

LONG = "g" * 32
THIRTY_TWO = ", ".join(f'"{n:032d}"' for n in range(32))


@pytest.mark.parametrize(
    ("of_page", "of_answer", "void"),
    [
        row("RFC 9875 §3", "Cache-Group-Invalidation makes the responses of a group void", ['"{g}"'], ['"{g}"'], True),
        row("RFC 9875 §3", "One of several groups is enough", ['"a", "{g}", "b"'], ['"x", "{g}"'], True),
        row("RFC 9875 §2", "Groups stand on any of several lines", ['"a"', '"{g}"'], ['"x"', '"{g}"'], True),
        row("RFC 9875 §2", "Parameters of groups are ignored", ['"{g}";x=1'], ['"{g}";y'], True),
        row("RFC 9875 §2", "Names of groups may hold spaces and commas", ['"{g}, b"'], ['"{g}, b"'], True),
        row(
            "RFC 9875 §2", "Thirty-two groups of thirty-two characters are known",
            [f'{THIRTY_TWO.replace("0" * 32, "0" * 30 + "{g}")}'], [f'"{"0" * 30}{{g}}"'], True,
        ),
        row("RFC 9875 §2.1", "Groups are compared case-sensitively", ['"{g}a"'], ['"{g}A"'], False),
        row("RFC 9875 §2.1", "A group is not its beginning", ['"{g}ab"'], ['"{g}a"'], False),
        row("RFC 9875 §2", "A malformed Cache-Groups is ignored", ['"{g}", "'], ['"{g}"'], False),
        row("RFC 9875 §3", "A malformed Cache-Group-Invalidation is ignored", ['"{g}"'], ['"{g}" x'], False),
        row("RFC 9875 §2", "Cache-Groups of tokens is ignored: groups are strings", ["g{g}"], ['"g{g}"'], False),
        row("RFC 9875 §3", "Cache-Group-Invalidation of tokens is ignored", ['"g{g}"'], ["g{g}"], False),
    ],
)  # fmt: skip
async def test_groups(cache: CacheUnderTest, of_page: Sequence[str], of_answer: Sequence[str], *, void: bool) -> None:
    page, elsewhere = cache.resource(), cache.resource()
    group = page.path[1:]  # a name of this case alone
    page.answers(reply(FRESH, *(f"Cache-Groups: {one.format(g=group)}" for one in of_page)))
    await page.ask()
    assert (await page.ask()).came_from_store
    await send(elsewhere, "POST", *(f"Cache-Group-Invalidation: {one.format(g=group)}" for one in of_answer))
    assert await is_void(page) is void


@pytest.mark.parametrize(
    "method",
    [
        row("RFC 9875 §3", "Cache-Group-Invalidation in the answer to GET is ignored", "GET"),
        row("RFC 9875 §3", "Cache-Group-Invalidation in the answer to HEAD is ignored", "HEAD"),
        row("RFC 9875 §3", "Cache-Group-Invalidation in the answer to OPTIONS is ignored", "OPTIONS"),
    ],
)
async def test_group_invalidation_by_a_safe_method(cache: CacheUnderTest, method: str) -> None:
    page = await stored(cache, f'Cache-Groups: "safe-{method}"')
    elsewhere = cache.resource(reply(f'Cache-Group-Invalidation: "safe-{method}"', "Cache-Control: no-store"))
    await elsewhere.ask(method=method)
    assert not await is_void(page)


@behaviour("RFC 9875 §3", "Cache-Group-Invalidation in an error is ignored", optional=True)
async def test_group_invalidation_in_an_error(cache: CacheUnderTest) -> None:
    page, elsewhere = await stored(cache, 'Cache-Groups: "error"'), cache.resource()
    await send(elsewhere, "POST", 'Cache-Group-Invalidation: "error"', status=500)
    assert not await is_void(page)


@behaviour("RFC 9875 §2.1", "A group is one origin's own: another origin cannot make it void")
async def test_groups_of_another_origin(cache: CacheUnderTest) -> None:
    page, elsewhere = await stored(cache, 'Cache-Groups: "mine"'), cache.resource()
    await send(elsewhere, "POST", 'Cache-Group-Invalidation: "mine"', host=ELSEWHERE)
    assert not await is_void(page)


@behaviour("RFC 9875 §2.2.1", "Invalidation of a group does not cascade to the other groups of its members")
async def test_groups_do_not_cascade(cache: CacheUnderTest) -> None:
    bridge = await stored(cache, 'Cache-Groups: "near", "far"')
    far, elsewhere = await stored(cache, 'Cache-Groups: "far"'), cache.resource()
    await send(elsewhere, "POST", 'Cache-Group-Invalidation: "near"')
    assert await is_void(bridge)
    assert not await is_void(far)


@behaviour("RFC 9875 §2.2.1", "The others of a group stay when one is made void by its URI", optional=True)
async def test_the_others_of_a_group_stay(cache: CacheUnderTest) -> None:
    page, other = await stored(cache, 'Cache-Groups: "both"'), await stored(cache, 'Cache-Groups: "both"')
    await send(page, "POST")
    assert (await is_void(page), await is_void(other)) == (True, False)


@behaviour("RFC 9111 §3.2", "Groups that a 304 brings count from then on")
async def test_groups_of_a_304(cache: CacheUnderTest) -> None:
    page = cache.resource(
        reply(FRESH, "Age: 100", 'ETag: "1"'), reply(FRESH, 'ETag: "1"', 'Cache-Groups: "later"', status=304)
    )
    await page.ask()
    assert (await page.ask()).was_validated
    assert (await page.ask()).came_from_store
    await send(cache.resource(), "POST", 'Cache-Group-Invalidation: "later"')
    assert await is_void(page)


# Purges by an operator.


@pytest.mark.parametrize(
    "order",
    [
        row("admin/cache/invalidate: key", "A purge by key drops what is stored under it", {"key": "GET {url}"}),
        row("admin/cache/invalidate: url", "A purge by URL drops its stored response", {"url": "{url}"}),
        row("admin/cache/invalidate: prefix", "A purge by prefix drops what begins so", {"prefix": "{url}"}),
        row("admin/cache/invalidate: tag", "A purge by tag drops what the origin gave it", {"tag": "{tag}"}),
        row(
            "admin/cache/invalidate: tags", "A purge by tags drops what has any of them", {"tags": ["none", "{tag}"]}
        ),
    ],
)  # fmt: skip
async def test_purge(cache: CacheUnderTest, order: dict[str, Any]) -> None:
    other = await stored(cache, "Cache-Tag: other")
    page = cache.resource()
    tag = f"tag-{page.path[1:]}"
    page.answers(reply(FRESH, f"Cache-Tag: some, {tag}", 'ETag: "1"'))
    await page.ask()
    fill = {"url": page.url, "tag": tag}
    await cache.purge(
        **{
            name: [one.format(**fill) for one in value] if isinstance(value, list) else value.format(**fill)
            for name, value in order.items()
        }
    )
    assert await is_void(page)
    assert page.seen[-1].field("If-None-Match") is None
    assert not await is_void(other)


@behaviour("tag_headers", "Surrogate-Key gives tags, parted by spaces")
async def test_surrogate_key(cache: CacheUnderTest) -> None:
    page = await stored(cache, "Surrogate-Key: alpha beta")
    await cache.purge(tag="beta")
    assert await is_void(page)


@behaviour("admin/cache/invalidate: all", "A purge of everything drops everything")
async def test_purge_of_everything(cache: CacheUnderTest) -> None:
    pages = [await stored(cache) for _ in range(3)]
    await cache.purge(all=True)
    assert [await is_void(page) for page in pages] == [True, True, True]


@behaviour("admin/cache/invalidate: soft", "A soft purge makes stale: the next request has the origin confirm it")
async def test_soft_purge(cache: CacheUnderTest) -> None:
    page = await stored(cache, 'ETag: "1"')
    await page.purge(soft=True)
    page.answers(reply(FRESH, 'ETag: "1"', status=304))
    answer = await page.ask()
    assert answer.was_validated
    assert answer.cache_status["fwd"] == "stale"
    assert not await is_void(page)


@behaviour("admin/cache/invalidate", "A purge does not hold for what comes after it")
async def test_purge_is_of_the_past(cache: CacheUnderTest) -> None:
    page = await stored(cache)
    await page.purge()
    assert await is_void(page)
    assert not await is_void(page)
