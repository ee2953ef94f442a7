"""Which responses may be stored (RFC 9111 §3), and which of their fields."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.headers import HOP_BY_HOP, PROXY_FIELDS
from proxy.policy.freshness import HEURISTICALLY_CACHEABLE, PROVOKED
from proxy.policy.model import PolicyOptions
from proxy.policy.reasons import Reason
from proxy.policy.storing import UNDERSTOOD, is_complete, may_store, may_update, storable_headers
from tests.unit.policy.build import ask, ask_with, date, reply, reply_with

FRESH = "max-age=60"
FINAL = [status for status in range(200, 600) if status not in {206, 304}]
PART = {"Content_Range": "bytes 0-9/100", "ETag": '"a"', "Cache_Control": FRESH}


@pytest.mark.parametrize("status", FINAL)
def test_any_final_status_with_explicit_freshness_may_be_stored(status: int) -> None:
    for explicit in (FRESH, "s-maxage=60", "public, max-age=1", "stale-if-error=5, max-age=0"):
        assert may_store(ask(), reply(status, Cache_Control=explicit)).reason is Reason.STORABLE
    assert may_store(ask(), reply(status, Expires=date(60))).reason is Reason.STORABLE


@pytest.mark.parametrize("status", FINAL)
def test_status_without_explicit_freshness(status: int) -> None:
    verdict = may_store(ask(), reply(status, Last_Modified=date(-1000)))
    assert bool(verdict) is (status in HEURISTICALLY_CACHEABLE)
    if not verdict:
        assert verdict.reason is Reason.STATUS_NOT_CACHEABLE


@pytest.mark.parametrize("status", FINAL)
def test_default_ttl_is_for_cacheable_statuses_that_no_odd_request_provokes(status: int) -> None:
    verdict = may_store(ask(), reply(status), PolicyOptions(default_ttl=60))
    assert bool(verdict) is (status in HEURISTICALLY_CACHEABLE - PROVOKED)


@pytest.mark.parametrize("status", [0, 99, 100, 101, 102, 103, 199, 600, 999])
def test_status_that_is_not_final_is_not_stored(status: int) -> None:
    assert may_store(ask(), reply(status, Cache_Control=FRESH)).reason is Reason.STATUS_NOT_FINAL


def test_304_is_not_stored() -> None:
    assert may_store(ask(), reply(304, Cache_Control=FRESH, ETag='"a"')).reason is Reason.NOT_MODIFIED


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY", "get", "FOO"]
)
def test_response_to_another_method_is_not_stored(method: str) -> None:
    assert may_store(ask(method), reply(Cache_Control=FRESH)).reason is Reason.METHOD_NOT_CACHED


def test_method_that_a_route_adds_needs_explicit_freshness() -> None:
    options = PolicyOptions(methods=("GET", "HEAD", "POST"), default_ttl=60)
    assert may_store(ask("POST", body=b"q"), reply(Cache_Control=FRESH), options)
    assert may_store(ask("POST"), reply(Last_Modified=date(-9)), options).reason is Reason.STATUS_NOT_CACHEABLE


def test_get_with_a_body_is_not_stored() -> None:
    assert may_store(ask(body=b"x"), reply(Cache_Control=FRESH)).reason is Reason.REQUEST_BODY


@pytest.mark.parametrize(
    ("directive", "reason"),
    [
        ("no-store", Reason.NO_STORE),
        ("private", Reason.PRIVATE),
        ('private=""', Reason.PRIVATE),
        ('private="content-type"', Reason.PRIVATE),
        ('private="cache-control"', Reason.PRIVATE),
        ("no-store, private", Reason.NO_STORE),
    ],
)
@pytest.mark.parametrize("others", ["", ", max-age=60, public, s-maxage=60, must-revalidate"])
def test_forbidding_directive_forbids(directive: str, reason: Reason, others: str) -> None:
    lenient = PolicyOptions(default_ttl=60, store_set_cookie=True)
    for status, options in itertools.product(FINAL, (PolicyOptions(), lenient)):
        for response in (
            reply(status, Cache_Control=directive + others),
            reply(status, Cache_Control=(directive + others).upper()),
            reply(status, ("Cache-Control", others), ("Cache-Control", directive), Expires=date(60)),
            reply(status, CDN_Cache_Control=directive + (", max-age=60" if others else ""), Cache_Control=FRESH),
        ):
            assert may_store(ask(), response, options).reason is reason


def test_private_with_fields_lets_the_rest_be_stored() -> None:
    assert may_store(ask(), reply(Cache_Control='private="x-user", max-age=60'))


@pytest.mark.parametrize("status", range(200, 600))
def test_must_understand_turns_no_store_off_for_understood_statuses_alone(status: int) -> None:
    if status in {206, 304}:
        return
    verdict = may_store(ask(), reply(status, Cache_Control="no-store, must-understand, max-age=60"))
    assert verdict.reason is (Reason.STORABLE if status in UNDERSTOOD else Reason.STATUS_NOT_UNDERSTOOD)


def test_must_understand_does_not_turn_private_off() -> None:
    response = reply(Cache_Control="no-store, private, must-understand, max-age=60")
    assert may_store(ask(), response).reason is Reason.PRIVATE


@pytest.mark.parametrize(
    ("cache_control", "stored"),
    [
        (FRESH, False),
        ("max-age=60, foo=public", False),
        ('foo="public", max-age=60', False),
        ("max-age=60, proxy-revalidate", False),
        ("max-age=60, immutable", False),
        ("max-age=60, s-maxage=x", False),
        ("max-age=60, s-maxage=1, s-maxage=2", False),
        ('max-age=60, foo="bar, must-revalidate', False),
        ("max-age=60, must-revalidate=x", False),
        ("max-age=60, public=x", False),
        ("max-age=60, public", True),
        ("max-age=60, must-revalidate", True),
        ("s-maxage=60", True),
    ],
)
@pytest.mark.parametrize("options", [PolicyOptions(), PolicyOptions(default_ttl=60, store_set_cookie=True)])
def test_response_to_credentials_is_stored_only_with_leave(
    cache_control: str, stored: bool, options: PolicyOptions
) -> None:
    verdict = may_store(ask(Authorization="Bearer x"), reply(Cache_Control=cache_control), options)
    assert bool(verdict) is stored
    assert stored or verdict.reason is Reason.AUTHORIZATION


@pytest.mark.parametrize("status", sorted(HEURISTICALLY_CACHEABLE - {206}))
def test_default_ttl_shares_no_answer_to_credentials_or_cookies(status: int) -> None:
    options = PolicyOptions(default_ttl=60)
    assert may_store(ask(Authorization="x"), reply(status, ETag='"a"'), options).reason is Reason.AUTHORIZATION
    assert may_store(ask(), reply(status, ETag='"a"', Set_Cookie="a=b"), options).reason is Reason.SET_COOKIE


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"Cache_Control": FRESH}, False),
        ({"Expires": date(60)}, False),
        ({"Cache_Control": 'max-age=60, x="a, public'}, False),
        ({"Cache_Control": "max-age=60, public"}, True),
        ({"Cache_Control": "s-maxage=60"}, True),
        ({"CDN_Cache_Control": "max-age=60"}, True),
        ({"CDN_Cache_Control": "must-revalidate", "Cache_Control": "public"}, False),
        ({"CDN_Cache_Control": "max-age=1.5", "ETag": '"a"'}, False),
        ({"Cache_Control": "s-maxage=x", "ETag": '"a"'}, False),
        ({"Cache_Control": 'max-age=60, no-cache="set-cookie"'}, True),
        ({"Cache_Control": 'max-age=60, private="Set-Cookie"'}, True),
    ],
)
def test_response_with_a_cookie_is_stored_only_if_meant_for_all(fields: dict[str, str], stored: bool) -> None:
    response = reply_with({"Set_Cookie": "id=1"} | fields)
    verdict = may_store(ask(), response)
    assert bool(verdict) is stored
    assert stored or verdict.reason is Reason.SET_COOKIE
    assert "Set-Cookie" not in storable_headers(ask(), response)


def test_route_may_store_cookies() -> None:
    response = reply(Set_Cookie="id=1", Cache_Control=FRESH)
    options = PolicyOptions(store_set_cookie=True)
    assert may_store(ask(), response, options)
    assert storable_headers(ask(), response, options)["Set-Cookie"] == "id=1"


@pytest.mark.parametrize("vary", ["*", " *", "Accept, *", "*, Accept", "a,*,b", "Accept;q=1", "a b", "é"])
def test_response_that_no_request_can_select_is_not_stored(vary: str) -> None:
    assert may_store(ask(), reply(Vary=vary, Cache_Control=FRESH)).reason is Reason.VARY_STAR
    assert (
        may_store(ask(), reply(200, ("Vary", "Accept"), ("Vary", vary), Cache_Control=FRESH)).reason is Reason.VARY_STAR
    )


@pytest.mark.parametrize("text", ["no-store", "No-Store", "max-age=0, no-store"])
def test_request_no_store_is_obeyed_unless_the_route_says_not(text: str) -> None:
    assert may_store(ask(Cache_Control=text), reply(Cache_Control=FRESH)).reason is Reason.REQUEST_NO_STORE
    assert may_store(ask(Cache_Control=text), reply(Cache_Control=FRESH), PolicyOptions(honour_no_store=False))


def test_other_request_directives_do_not_keep_from_storing() -> None:
    assert may_store(ask(Cache_Control="no-cache, max-age=0", Pragma="no-cache"), reply(Cache_Control=FRESH))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, Reason.NO_FRESHNESS),
        ({"ETag": "unquoted"}, Reason.NO_FRESHNESS),
        ({"Last_Modified": "yesterday"}, Reason.NO_FRESHNESS),
        ({"Last_Modified": date(-100)}, Reason.STORABLE),
        ({"ETag": '"a"'}, Reason.STORABLE),
        ({"Cache_Control": "no-cache"}, Reason.NEVER_REUSABLE),
        ({"Cache_Control": "no-cache, max-age=60"}, Reason.NEVER_REUSABLE),
        ({"Cache_Control": 'no-cache="content-type", max-age=60'}, Reason.NEVER_REUSABLE),
        ({"Cache_Control": "no-cache", "ETag": '"a"'}, Reason.STORABLE),
        ({"Cache_Control": "max-age=0"}, Reason.NEVER_REUSABLE),
        ({"Cache_Control": "max-age=x"}, Reason.NEVER_REUSABLE),
        ({"Expires": "0"}, Reason.NEVER_REUSABLE),
        ({"Expires": "0", "ETag": '"a"'}, Reason.STORABLE),
        ({"Cache_Control": "max-age=0, stale-while-revalidate=9"}, Reason.STORABLE),
        ({"Cache_Control": "max-age=0", "Last_Modified": date(-100)}, Reason.STORABLE),
        ({"CDN_Cache_Control": "must-revalidate", "Expires": date(60)}, Reason.NO_FRESHNESS),
    ],
)
def test_what_nobody_could_use_is_not_stored(fields: dict[str, str], reason: Reason) -> None:
    assert may_store(ask(), reply_with(fields)).reason is reason


def test_route_windows_make_a_stale_response_useful() -> None:
    response = reply(Cache_Control="max-age=0")
    assert may_store(ask(), response, PolicyOptions(stale_if_error=60))
    assert may_store(ask(), response, PolicyOptions(stale_while_revalidate=60))


# Parts.


def test_part_that_was_asked_for_is_stored_as_a_part() -> None:
    assert may_store(ask(Range="bytes=0-9"), reply(206, **PART)).reason is Reason.STORABLE_PART


@pytest.mark.parametrize(
    ("request_fields", "changes"),
    [
        ({}, {}),
        ({"Range": "lines=0-9"}, {}),
        ({"Range": "bytes=0-9"}, {"Content_Range": "bytes */100"}),
        ({"Range": "bytes=0-9"}, {"Content_Range": "lines 0-9/100"}),
        ({"Range": "bytes=0-9,20-29"}, {"Content_Range": ""}),
        ({"Range": "bytes=0-9"}, {"ETag": 'W/"a"'}),
        ({"Range": "bytes=0-9"}, {"ETag": "a"}),
    ],
)
def test_other_parts_are_not_stored(request_fields: dict[str, str], changes: dict[str, str]) -> None:
    verdict = may_store(ask_with(request_fields), reply_with(PART | changes, 206))
    assert verdict.reason is Reason.UNREQUESTED_PART


def test_parts_are_not_stored_where_the_route_says_so_or_the_range_is_told_twice() -> None:
    request = ask(Range="bytes=0-9")
    assert not may_store(request, reply(206, **PART), PolicyOptions(store_parts=False))
    assert not may_store(request, reply(206, ("Content-Range", "bytes 0-9/100"), **PART))


# Fields.


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP | PROXY_FIELDS | {"age", "set-cookie", "set-cookie2"}))
def test_field_that_is_not_stored(name: str) -> None:
    kept = storable_headers(ask(), reply(200, (name, "x"), (name.upper(), "y"), X_Kept="1"))
    assert list(kept) == ["X-Kept"]


@pytest.mark.parametrize("directive", ["private", "no-cache"])
@pytest.mark.parametrize("where", ["Cache_Control", "CDN_Cache_Control"])
def test_field_named_by_a_qualified_directive_is_not_stored(directive: str, where: str) -> None:
    kept = storable_headers(ask(), reply(200, ("X-User", "1"), ("X-Kept", "2"), **{where: f'{directive}="X-User"'}))
    assert "X-User" not in kept
    assert "X-Kept" in kept


def test_field_named_by_connection_is_not_stored() -> None:
    assert list(storable_headers(ask(), reply(200, ("Connection", "x-hop"), ("X-Hop", "1"), ("A", "1")))) == ["A"]


def test_unknown_fields_are_stored_in_order_with_repetitions() -> None:
    pairs = [("X-B", "1"), ("X-A", "2"), ("X-B", "3"), ("Content-Foo", "4"), ("Trailer-Like", "5")]
    assert list(storable_headers(ask(), reply(200, *pairs)).items()) == pairs


@pytest.mark.parametrize(
    ("method", "lines", "length", "expected"),
    [
        ("GET", [], 10, True),
        ("GET", ["10"], 10, True),
        ("GET", [" 10 "], 10, True),
        ("GET", ["10", "10"], 10, True),
        ("GET", ["10, 10"], 10, True),
        ("GET", ["11"], 10, False),
        ("GET", ["9"], 10, False),
        ("GET", ["10", "11"], 10, False),
        ("GET", ["x"], 10, False),
        ("HEAD", ["10"], 0, True),
    ],
)
def test_body_is_complete_when_it_is_as_long_as_promised(
    method: str, lines: list[str], length: int, expected: bool
) -> None:
    response = reply(200, *[("Content-Length", line) for line in lines])
    assert is_complete(ask(method), response, length) is expected


DIRECTIVES = st.lists(
    st.sampled_from(
        [
            "no-store",
            "private",
            "public",
            "max-age=60",
            "s-maxage=60",
            "no-cache",
            "must-revalidate",
            'x="a,b"',
            "max-age=x",
        ]
    ),
    max_size=5,
).map(", ".join)


@given(
    DIRECTIVES, st.booleans(), st.booleans(), st.sampled_from([200, 206, 302, 404, 500]), st.sampled_from([None, 60.0])
)
@settings(deadline=None, max_examples=400)
def test_nothing_forbidden_is_ever_stored(
    directives: str, credentials: bool, cookie: bool, status: int, default_ttl: float | None
) -> None:
    request = ask_with({"Authorization": "x"} if credentials else {})
    response = reply(status, ETag='"a"', Cache_Control=directives, **({"Set_Cookie": "a=b"} if cookie else {}))
    if may_store(request, response, PolicyOptions(default_ttl=default_ttl)):
        words = directives.split(", ")
        assert "no-store" not in words
        assert "private" not in words
        assert not credentials or {"public", "s-maxage=60", "must-revalidate"} & set(words)
        assert not cookie or {"public", "s-maxage=60"} & set(words)
        assert status != 206


@pytest.mark.parametrize(
    ("fields", "said", "may"),
    [
        ({}, FRESH, True),
        ({"Cache_Control": "no-cache"}, FRESH, True),
        ({"Cache_Control": "no-store"}, FRESH, False),
        ({"Authorization": "Basic x"}, FRESH, False),
        ({"Authorization": "Basic x"}, "public, max-age=60", True),
        ({"Authorization": "Basic x"}, "s-maxage=60", True),
    ],
)
def test_what_a_304_may_change_for_everybody(fields: dict[str, str], said: str, may: bool) -> None:
    assert may_update(ask_with(fields), reply(Cache_Control=said).headers) is may


def test_a_route_that_ignores_no_store_lets_a_304_to_it_be_kept() -> None:
    options = PolicyOptions(honour_no_store=False)
    assert may_update(ask(Cache_Control="no-store"), reply(Cache_Control=FRESH).headers, options)
