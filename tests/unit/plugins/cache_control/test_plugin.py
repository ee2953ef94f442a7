"""Which responses a rule is for, what it does to them, and what it must not do."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from plugins.cache_control import CacheControl
from plugins.cache_control.settings import CacheControlSettings
from proxy.http.dates import parse_date
from tests.support.plugin_harness import Answered, PluginHarness, harness, response

Fields = Mapping[str, str]
HOUR = "public, max-age=3600"
FOREVER = "public, max-age=31536000, immutable"


def ruled(
    rules: Any = (), headers: Fields | None = None, status: int = 200, **chosen: Any
) -> AbstractAsyncContextManager[PluginHarness]:
    """Rules before an upstream that answers with `headers`."""
    named = [{"name": f"rule-{place}", **rule} for place, rule in enumerate(rules)]
    settings = CacheControlSettings.model_validate({"rules": named, **chosen})
    body = b"" if status == 304 else b"x"
    return harness(lambda services: [CacheControl(settings, services)], lambda _: response(status, body, headers))


async def answer(
    rule: Mapping[str, Any], headers: Fields | None = None, status: int = 200, request_headers: Fields | None = None
) -> Answered:
    """What a client gets under one rule."""
    async with ruled([rule], headers, status) as sidecar:
        return await sidecar.get(headers=request_headers)


async def test_without_rules_a_response_passes_as_it_is() -> None:
    async with ruled(headers={"Cache-Control": "x"}) as sidecar:
        got = await sidecar.get()
    assert list(got.response.headers.items()) == [("Cache-Control", "x"), ("Content-Length", "1")]


async def test_set_puts_a_field_in_place_of_every_line_of_it() -> None:
    said = {"Cache-Control": "max-age=1", "CACHE-control": "no-cache"}
    got = await answer({"set": {"cache-control": HOUR}}, said)
    assert got.response.headers.getall("Cache-Control") == [HOUR]


@pytest.mark.parametrize(
    ("said", "result"),
    [
        ({}, HOUR),
        ({"Vary": "Origin"}, HOUR),
        ({"Cache-Control": "max-age=5"}, "max-age=5"),
        ({"Expires": "0"}, None),
        ({"CDN-Cache-Control": "max-age=5"}, None),
        ({"Pragma": "no-cache"}, None),
    ],
)
async def test_a_default_is_for_origins_that_say_nothing(said: Fields, result: str | None) -> None:
    assert (await answer({"default": {"Cache-Control": HOUR}}, said)).header("Cache-Control") == result


async def test_a_default_tag_is_for_responses_without_tags() -> None:
    rule = {"default": {"Cache-Tag": "all"}}
    assert (await answer(rule, {"Cache-Control": "max-age=1"})).header("Cache-Tag") == "all"
    assert (await answer(rule, {"Cache-Tag": "mine"})).header("Cache-Tag") == "mine"


async def test_fields_are_added_to_and_removed() -> None:
    rule = {"add": {"Vary": "Accept-Language", "Surrogate-Key": "all"}, "remove": ["Pragma", "Cache-Tag"]}
    got = await answer(rule, {"Vary": "Origin", "Surrogate-Key": "one", "Pragma": "x", "X-Other": "y"})
    assert got.header("Vary") == "Origin, Accept-Language"
    assert got.header("Surrogate-Key") == "one all"
    assert got.header("Pragma") is None
    assert got.header("X-Other") == "y"


async def test_expires_is_so_far_from_now() -> None:
    async with ruled([{"expires_seconds": 90}], {"Expires": "0"}) as sidecar:
        sidecar.clock.jump(1000)
        now = sidecar.clock.wall()
        assert parse_date((await sidecar.get()).header("Expires"), now) == now + 90


@pytest.mark.parametrize(
    ("ranges", "status", "fits"),
    [
        (None, 200, True),
        (None, 206, True),
        (None, 404, False),
        (None, 500, False),
        (["404"], 404, True),
        (["404"], 200, False),
        (["4xx", "301"], 410, True),
        (["4xx", "301"], 301, True),
        (["4xx", "301"], 302, False),
    ],
)
async def test_rules_are_for_the_statuses_they_name(ranges: list[str] | None, status: int, fits: bool) -> None:
    rule: dict[str, Any] = {"set": {"Cache-Control": HOUR}}
    if ranges is not None:
        rule["status"] = ranges
    assert (await answer(rule, status=status)).header("Cache-Control") == (HOUR if fits else None)


@pytest.mark.parametrize(
    ("content_type", "fits"),
    [("image/png", True), ("IMAGE/PNG; q=1", True), ("text/css", True), ("text/html", False), (None, False)],
)
async def test_rules_are_for_the_types_they_name(content_type: str | None, fits: bool) -> None:
    rule = {"content_types": ["image/*", "text/css"], "set": {"Cache-Control": HOUR}}
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert (await answer(rule, headers)).header("Cache-Control") == (HOUR if fits else None)


async def test_each_rule_works_on_what_those_before_it_left() -> None:
    rules = [
        {"default": {"Cache-Control": "max-age=1"}},
        {"default": {"Cache-Control": "max-age=2"}},
        {"add": {"Cache-Control": "stale-if-error=9"}},
    ]
    async with ruled(rules) as sidecar:
        assert (await sidecar.get()).header("Cache-Control") == "max-age=1, stale-if-error=9"


# What must not be.


@pytest.mark.parametrize("said", ["private", "no-store", "private, max-age=5", "max-age=5, No-Store"])
@pytest.mark.parametrize(
    "change",
    [
        {"set": {"Cache-Control": HOUR}},
        {"remove": ["Cache-Control"]},
        {"set": {"CDN-Cache-Control": "max-age=60"}},
    ],
)
async def test_a_restriction_stays_and_the_rest_of_the_rule_is_done(said: str, change: dict[str, Any]) -> None:
    got = await answer({**change, "add": {"Cache-Tag": "a"}}, {"Cache-Control": said})
    assert got.header("Cache-Control") == said
    assert got.header("CDN-Cache-Control") is None
    assert got.header("Cache-Tag") == "a"
    assert got.exchange.notes["cache_control"] == "rule-0: restriction kept"


async def test_a_restriction_may_be_made_narrower() -> None:
    got = await answer({"set": {"Cache-Control": "no-store"}}, {"Cache-Control": "private"})
    assert got.header("Cache-Control") == "no-store"
    assert got.exchange.notes == {}


async def test_a_rule_may_be_private_to_browsers_and_open_to_a_cdn_where_the_origin_was_not_private() -> None:
    rule = {"set": {"Cache-Control": "private, max-age=5", "CDN-Cache-Control": "max-age=60"}}
    got = await answer(rule, {"Cache-Control": "max-age=1"})
    assert got.header("Cache-Control") == "private, max-age=5"
    assert got.header("CDN-Cache-Control") == "max-age=60"


@pytest.mark.parametrize(
    ("headers", "request_headers"), [({"Set-Cookie": "a=b"}, {}), ({}, {"Authorization": "Bearer x"})]
)
async def test_a_personal_response_is_not_made_public(headers: Fields, request_headers: Fields) -> None:
    got = await answer({"set": {"Cache-Control": HOUR}}, headers, request_headers=request_headers)
    assert got.header("Cache-Control") is None
    got = await answer({"set": {"Cache-Control": "max-age=5"}}, headers, request_headers=request_headers)
    assert got.header("Cache-Control") == "max-age=5"


async def test_override_overrides_and_says_so() -> None:
    rule = {"set": {"Cache-Control": HOUR}, "override": True}
    with capture_logs() as lines:
        async with ruled([rule], {"Cache-Control": "private"}) as sidecar:
            got = await sidecar.get()
            stats = sidecar.pipeline.plugins[0].stats()
    assert got.header("Cache-Control") == HOUR
    assert got.exchange.notes["cache_control"] == "rule-0: restriction overridden"
    assert stats == {"rules": {"rule-0": {"applied": 1, "withheld": 0, "overridden": 1}}}
    assert [line["rule"] for line in lines if line["log_level"] == "warning"] == ["rule-0"]


async def test_override_that_overrides_nothing_is_no_news() -> None:
    got = await answer({"set": {"Cache-Control": HOUR}, "override": True}, {"Cache-Control": "max-age=1"})
    assert got.exchange.notes == {}


async def test_a_rule_after_an_overriding_one_is_not_held_to_what_that_overrode() -> None:
    rules = [{"set": {"Cache-Control": HOUR}, "override": True}, {"add": {"Cache-Control": "immutable"}}]
    async with ruled(rules, {"Cache-Control": "private"}) as sidecar:
        got = await sidecar.get()
    assert got.header("Cache-Control") == f"{HOUR}, immutable"


async def test_what_was_withheld_is_counted() -> None:
    async with ruled([{"set": {"Cache-Control": HOUR}}], {"Cache-Control": "private"}) as sidecar:
        await sidecar.get()
        family = sidecar.services.metrics.counter("sidecache_cache_control_responses", "", ("rule", "result"))
        assert family.labels("rule-0", "withheld").value == 1
        stats = sidecar.pipeline.plugins[0].stats()
    assert stats == {"rules": {"rule-0": {"applied": 1, "withheld": 1, "overridden": 0}}}


# 304.


async def test_a_304_is_ruled_like_the_200_that_it_confirms() -> None:
    rule = {"set": {"Cache-Control": HOUR}, "remove": ["Pragma"], "add": {"Vary": "Accept"}, "expires_seconds": 5}
    got = await answer(rule, {"Cache-Control": "max-age=1", "Pragma": "x", "Vary": "Origin"}, 304)
    assert got.header("Cache-Control") == HOUR
    assert got.header("Pragma") is None
    assert got.header("Vary") == "Origin, Accept"
    assert got.header("Expires") is not None


async def test_what_a_304_does_not_say_stays_as_it_is_stored() -> None:
    rule = {
        "set": {"Cache-Control": HOUR, "Cache-Tag": "a"},
        "add": {"Vary": "Accept", "Surrogate-Key": "b"},
        "default": {"CDN-Cache-Control": "max-age=5"},
    }
    got = await answer(rule, {"ETag": '"x"'}, 304)
    assert set(got.response.headers) == {"ETag", "Content-Length"}


async def test_a_304_without_a_type_leaves_to_the_stored_response_what_a_rule_by_type_changed() -> None:
    rule = {"content_types": ["image/*"], "set": {"Cache-Control": HOUR}, "expires_seconds": 9, "add": {"Vary": "A"}}
    got = await answer(rule, {"Cache-Control": "max-age=1", "Vary": "B", "Expires": "0", "ETag": '"x"'}, 304)
    assert set(got.response.headers) == {"ETag", "Content-Length"}
    typed = await answer(rule, {"Cache-Control": "max-age=1", "Content-Type": "image/png"}, 304)
    assert typed.header("Cache-Control") == HOUR
    other = await answer(rule, {"Cache-Control": "max-age=1", "Content-Type": "text/html"}, 304)
    assert other.header("Cache-Control") == "max-age=1"


async def test_a_304_that_has_become_private_is_believed() -> None:
    rule = {"content_types": ["image/*"], "set": {"Cache-Control": HOUR}}
    got = await answer(rule, {"Cache-Control": "private", "ETag": '"x"'}, 304)
    assert got.header("Cache-Control") == "private"


async def test_a_rule_for_304_alone_is_for_304_alone() -> None:
    rule = {"status": ["304"], "set": {"Cache-Control": HOUR}}
    assert (await answer(rule, {"Cache-Control": "max-age=1"}, 304)).header("Cache-Control") == HOUR
    assert (await answer(rule, {"Cache-Control": "max-age=1"}, 200)).header("Cache-Control") == "max-age=1"


# Fingerprints.


async def fingerprinted(target: str, headers: Fields | None = None, **chosen: object) -> str | None:
    fields = {"Content-Type": "text/javascript", **(headers or {})}
    async with ruled((), fields, fingerprints=chosen) as sidecar:
        return (await sidecar.get(target)).header("Cache-Control")


@pytest.mark.parametrize(
    ("target", "marked"),
    [
        ("/app.3f9a1c2b.js", True),
        ("/static/app-3f9a1c2b.js?x=1", True),
        ("/app.3f9a1c2b4d5e6f708192a3b4c5d6e7f8.min.css", True),
        ("/app.3f9a1c2b.js.map", True),
        ("/logo.3f9a1c2b.svg", True),
        ("/app.js", False),
        ("/app.3f9a1c2.js", False),
        ("/report-20260131.png", False),
        ("/facade-defacade.png", False),
        ("/my-document.css", False),
        ("/app3f9a1c2b.js", False),
        ("/app.3f9a1c2b", False),
        ("/app.3f9a1c2b.json", False),
        ("/app.3f9a1c2b.js/edit", False),
        ("/app.js?v=3f9a1c2b", False),
        ("/?f=app.3f9a1c2b.js", False),
    ],
)
async def test_names_with_a_hash_are_kept_for_ever(target: str, marked: bool) -> None:
    assert await fingerprinted(target) == (FOREVER if marked else None)


async def test_fingerprints_are_off_unless_asked_for() -> None:
    async with ruled((), {"Content-Type": "text/css"}) as sidecar:
        assert (await sidecar.get("/app.3f9a1c2b.css")).header("Cache-Control") is None


@pytest.mark.parametrize(
    ("target", "marked"),
    [
        ("/app.js?v=2", True),
        ("/app.js?a=1&v=2", True),
        ("/app.js?w=2", False),
        ("/app.js?v", False),
        ("/app.js", False),
        ("/items?v=2", False),
    ],
)
async def test_a_query_parameter_can_be_the_mark_of_a_static_file(target: str, marked: bool) -> None:
    assert await fingerprinted(target, query=["v"]) == (FOREVER if marked else None)


async def test_patterns_and_the_value_are_settings() -> None:
    patterns = [r"^/assets/.*-[A-Za-z0-9_-]{8}\.js$"]
    assert await fingerprinted("/assets/index-BsV1TzKx.js", patterns=patterns, cache_control="max-age=7") == "max-age=7"
    assert await fingerprinted("/app.3f9a1c2b.js", patterns=patterns) is None
    assert await fingerprinted("/app.3f9a1c2b.js", patterns=[]) is None
    assert await fingerprinted("/B.JS", patterns=["^/a", r"(?i)\.js$"]) == FOREVER


@pytest.mark.parametrize("content_type", ["text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml"])
async def test_a_page_in_place_of_a_file_is_not_kept_for_ever(content_type: str) -> None:
    assert await fingerprinted("/app.3f9a1c2b.js", {"Content-Type": content_type}, replace=True) is None


async def test_what_the_origin_says_of_a_fingerprinted_file_counts_unless_replaced() -> None:
    target, said = "/app.3f9a1c2b.js", {"Cache-Control": "max-age=0"}
    assert await fingerprinted(target, said) == "max-age=0"
    assert await fingerprinted(target, said, replace=True) == FOREVER
    assert await fingerprinted(target, {"Cache-Control": "private"}, replace=True) == "private"


async def test_a_missing_file_is_not_kept_for_ever() -> None:
    async with ruled((), {"Content-Type": "text/javascript"}, 404, fingerprints={}) as sidecar:
        assert (await sidecar.get("/app.3f9a1c2b.js")).header("Cache-Control") is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rules": [{"name": "a"}]}, "does nothing"),
        ({"rules": [{"name": "a", "set": "Cache-Control"}]}, "valid tuple"),
        ({"rules": [{"name": "a", "set": {"X-Other": "1"}}]}, "no caching field"),
        ({"rules": [{"name": "a", "remove": ["Set-Cookie"]}]}, "no caching field"),
        ({"rules": [{"name": "a", "set": {"Expires": "tomorrow"}}]}, "expires_seconds"),
        ({"rules": [{"name": "a", "set": {"Cache-Control": "max-age: 5"}}]}, "no directive"),
        ({"rules": [{"name": "a", "set": {"Vary": "a\r\nb"}}]}, "pattern"),
        ({"rules": [{"name": "a", "status": ["2x"], "remove": ["Vary"]}]}, "pattern"),
        ({"rules": [{"name": "a", "content_types": ["png"], "remove": ["Vary"]}]}, "pattern"),
        ({"rules": [{"name": "a", "remove": ["Vary"]}] * 2}, "taken twice: a"),
        ({"rules": [{"name": "fingerprints", "remove": ["Vary"]}]}, "is taken"),
        ({"fingerprints": {"patterns": ["("]}}, "no regular expression"),
        ({"fingerprints": {"cache_control": "max-age=x"}}, "bad value"),
        ({"fingerprints": {"query": [""]}}, "at least 1 character"),
    ],
)
def test_wrong_settings_are_refused(wrong: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CacheControlSettings.model_validate(wrong)


def test_settings_are_hashed_dumped_and_read_back() -> None:
    given = {"rules": [{"name": "a", "set": {"Cache-Control": HOUR}, "add": {"Vary": "A"}}], "fingerprints": {}}
    chosen = CacheControlSettings.model_validate(given)
    assert hash(chosen) == hash(CacheControlSettings.model_validate(given))
    assert chosen.model_dump(mode="json")["rules"][0]["set"] == {"Cache-Control": HOUR}
    assert CacheControlSettings.model_validate_json(chosen.model_dump_json()) == chosen
    assert CacheControlSettings.model_json_schema()["$defs"]["Rule"]["properties"]["set"]["type"] == "object"
