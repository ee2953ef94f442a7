"""Whether a stored response answers a request (RFC 9111 §4), and what admission reads."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policy.invalidation import soften
from proxy.policy.model import (
    DEFAULT_OPTIONS,
    Decision,
    Hit,
    Miss,
    PolicyOptions,
    Revalidate,
    StaleHit,
    Stored,
    Unsatisfiable,
)
from proxy.policy.reasons import Reason
from proxy.policy.reuse import (
    KEPT_FOR_VALIDATION_SECONDS,
    decide,
    discard_at,
    refreshes_early,
    usable_on_error,
)
from tests.unit.policy.build import NOW, ask, ask_with, date, keep, reply, reply_with

MINUTE = keep(reply(Cache_Control="max-age=60"))


def stored(cache_control: str, options: PolicyOptions = DEFAULT_OPTIONS, **fields: str) -> Stored:
    return keep(reply_with({"Cache_Control": cache_control} | fields), options=options)


def with_directives(text: str) -> Decision:
    return decide(ask(Cache_Control=text), MINUTE, NOW + 10)


# Decisions without request directives.


@pytest.mark.parametrize(
    ("cache_control", "after", "kind", "reason"),
    [
        ("max-age=60", 0, Hit, Reason.FRESH),
        ("max-age=60", 59.999, Hit, Reason.FRESH),
        ("max-age=60", 60, Revalidate, Reason.STALE),  # §4.2: fresh while the lifetime exceeds the age
        ("max-age=60", -100, Hit, Reason.FRESH),
        ("max-age=60, no-cache", 0, Revalidate, Reason.NO_CACHE),
        ("s-maxage=60", 59, Hit, Reason.FRESH),
        ("s-maxage=60, stale-while-revalidate=99", 60, Revalidate, Reason.MUST_REVALIDATE),
        ("max-age=60, must-revalidate, stale-while-revalidate=99", 60, Revalidate, Reason.MUST_REVALIDATE),
        ("max-age=60, proxy-revalidate", 61, Revalidate, Reason.MUST_REVALIDATE),
        ("max-age=60, stale-while-revalidate=30", 60, StaleHit, Reason.STALE_WHILE_REVALIDATE),
        ("max-age=60, stale-while-revalidate=30", 89.9, StaleHit, Reason.STALE_WHILE_REVALIDATE),
        ("max-age=60, stale-while-revalidate=30", 90, Revalidate, Reason.STALE),
        ("max-age=60, stale-if-error=30", 60, Revalidate, Reason.STALE),
        ("max-age=0, stale-while-revalidate=30", 0, StaleHit, Reason.STALE_WHILE_REVALIDATE),
        ("max-age=x", 0, Revalidate, Reason.STALE),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_decision(cache_control: str, after: float, kind: type[Decision], reason: Reason, method: str) -> None:
    decision = decide(ask(method), stored(cache_control), NOW + after)
    assert type(decision) is kind
    assert decision.reason is reason
    if isinstance(decision, StaleHit):
        assert decision.refresh
    assert not isinstance(decision, Miss | Unsatisfiable)
    assert decision.age == pytest.approx(max(0, after))
    lifetimes = {"max-age=60": 60, "s-maxage=60": 60}
    assert decision.ttl == pytest.approx(lifetimes.get(cache_control.partition(",")[0], 0) - after, abs=1e-6)


def test_nothing_stored_is_a_miss() -> None:
    assert decide(ask(), None, NOW) == Miss(Reason.NOTHING_STORED)


@pytest.mark.parametrize("asked", ["GET", "HEAD", "POST", "QUERY", "get"])
@pytest.mark.parametrize("answered", ["GET", "HEAD", "POST", "QUERY"])
def test_stored_response_answers_its_own_method_and_get_answers_head(asked: str, answered: str) -> None:
    found = replace(MINUTE, method=answered)
    if asked == answered or (asked, answered) == ("HEAD", "GET"):
        assert isinstance(decide(ask(asked), found, NOW), Hit)
        assert usable_on_error(ask(asked), found, NOW)
    else:
        assert decide(ask(asked), found, NOW) == Miss(Reason.OTHER_METHOD)
        assert not usable_on_error(ask(asked), found, NOW)


@pytest.mark.parametrize(
    ("method", "fields", "kind"),
    [
        ("GET", {"Range": "bytes=0-9"}, Hit),
        ("GET", {"Range": "bytes=3-4, 6-7"}, Hit),
        ("GET", {"Range": "bytes=3-4", "If_Range": '"a"'}, Hit),
        ("GET", {"Range": "bytes=3-4", "If_Range": '"b"'}, Miss),
        ("GET", {}, Miss),
        ("GET", {"Range": "bytes=0-10"}, Miss),
        ("GET", {"Range": "bytes=0-"}, Miss),
        ("GET", {"Range": "bytes=junk"}, Miss),
        ("HEAD", {}, Miss),
        ("HEAD", {"Range": "bytes=0-9"}, Miss),
    ],
)
def test_stored_part_answers_only_what_it_covers(method: str, fields: dict[str, str], kind: type[Decision]) -> None:
    part = keep(reply(206, ETag='"a"', Content_Range="bytes 0-9/100", Cache_Control="max-age=60"))
    decision = decide(replace(ask_with(fields), method=method), part, NOW)
    assert type(decision) is kind
    assert decision.reason is (Reason.PARTIAL if kind is Miss else Reason.FRESH)


# Request directives.


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("no-cache", Revalidate, Reason.REQUEST_NO_CACHE),
        ("NO-CACHE", Revalidate, Reason.REQUEST_NO_CACHE),
        ("max-age=0", Revalidate, Reason.REQUEST_MAX_AGE),
        ("max-age=9", Revalidate, Reason.REQUEST_MAX_AGE),
        ("max-age=10", Hit, Reason.FRESH),
        ("max-age=x", Revalidate, Reason.REQUEST_MAX_AGE),
        ("min-fresh=50", Hit, Reason.FRESH),
        ("min-fresh=51", Revalidate, Reason.REQUEST_MIN_FRESH),
        ("min-fresh=x", Revalidate, Reason.REQUEST_MIN_FRESH),
        ("no-store", Hit, Reason.FRESH),  # §5.2.1.5 forbids storing, not reuse
        ("only-if-cached", Hit, Reason.FRESH),
        ("only-if-cached, no-cache", Unsatisfiable, Reason.ONLY_IF_CACHED),
        ("only-if-cached, max-age=5", Unsatisfiable, Reason.ONLY_IF_CACHED),
        ("max-stale", Hit, Reason.FRESH),
        ("foo, bar=1", Hit, Reason.FRESH),
        ("", Hit, Reason.FRESH),
    ],
)
def test_request_directive_on_a_fresh_response(text: str, kind: type[Decision], reason: Reason) -> None:
    decision = with_directives(text)
    assert (type(decision), decision.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("max-stale", StaleHit, Reason.REQUEST_MAX_STALE),
        ("max-stale=10", StaleHit, Reason.REQUEST_MAX_STALE),
        ("max-stale=9", Revalidate, Reason.STALE),
        ("max-stale=x", Revalidate, Reason.STALE),
        ("max-stale, max-age=5", Revalidate, Reason.REQUEST_MAX_AGE),
        ("max-stale, no-cache", Revalidate, Reason.REQUEST_NO_CACHE),
        ("max-stale, min-fresh=5", StaleHit, Reason.REQUEST_MAX_STALE),
        ("only-if-cached", Unsatisfiable, Reason.ONLY_IF_CACHED),
        ("only-if-cached, max-stale", StaleHit, Reason.REQUEST_MAX_STALE),
        ("min-fresh=0", Revalidate, Reason.STALE),
    ],
)
def test_request_directive_on_a_stale_response(text: str, kind: type[Decision], reason: Reason) -> None:
    decision = decide(ask(Cache_Control=text), MINUTE, NOW + 70)
    assert (type(decision), decision.reason) == (kind, reason)
    if isinstance(decision, StaleHit):
        assert not decision.refresh


@pytest.mark.parametrize(
    "cache_control", ["s-maxage=60", "max-age=60, must-revalidate", "max-age=60, proxy-revalidate"]
)
def test_max_stale_does_not_override_the_origin(cache_control: str) -> None:
    decision = decide(ask(Cache_Control="max-stale"), stored(cache_control), NOW + 70)
    assert decision.reason is Reason.MUST_REVALIDATE
    decision = decide(ask(Cache_Control="max-stale, only-if-cached"), stored(cache_control), NOW + 70)
    assert isinstance(decision, Unsatisfiable)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("max-age=1000", Revalidate), ("min-fresh=1", Revalidate), ("foo", StaleHit), ("no-store", StaleHit)],
)
def test_client_that_limits_age_takes_no_stale_while_revalidate(text: str, kind: type[Decision]) -> None:
    found = stored("max-age=60, stale-while-revalidate=60")
    assert type(decide(ask(Cache_Control=text), found, NOW + 70)) is kind


def test_only_if_cached_with_nothing_stored_is_unsatisfiable() -> None:
    assert decide(ask(Cache_Control="only-if-cached"), None, NOW) == Unsatisfiable(Reason.ONLY_IF_CACHED)
    assert decide(ask("POST", Cache_Control="only-if-cached"), MINUTE, NOW) == Unsatisfiable(Reason.ONLY_IF_CACHED)


def test_pragma_counts_without_cache_control() -> None:
    assert decide(ask(Pragma="no-cache"), MINUTE, NOW).reason is Reason.REQUEST_PRAGMA
    assert isinstance(decide(ask(Pragma="no-cache", Cache_Control="max-age=5"), MINUTE, NOW), Hit)
    assert isinstance(decide(ask(Pragma="foo"), MINUTE, NOW), Hit)


@pytest.mark.parametrize(
    ("fields", "option", "after"),
    [
        ({"Cache_Control": "no-cache"}, {"honour_no_cache": False}, 10),
        ({"Cache_Control": "max-age=0"}, {"honour_max_age": False}, 10),
        ({"Cache_Control": "min-fresh=99"}, {"honour_min_fresh": False}, 10),
        ({"Pragma": "no-cache"}, {"honour_pragma": False}, 10),
    ],
)
def test_route_may_ignore_what_would_pass_the_cache(
    fields: dict[str, str], option: dict[str, bool], after: float
) -> None:
    options = PolicyOptions(**{"honour_no_cache": True, **option})  # type: ignore[arg-type]  # names are bools
    assert isinstance(decide(ask_with(fields), MINUTE, NOW + after, options), Hit)


def test_route_may_ignore_max_stale_and_only_if_cached() -> None:
    options = PolicyOptions(honour_max_stale=False, honour_only_if_cached=False)
    request = ask(Cache_Control="max-stale, only-if-cached")
    assert isinstance(decide(request, MINUTE, NOW + 70, options), Revalidate)
    assert isinstance(decide(request, None, NOW, options), Miss)


def test_route_that_ignores_limits_serves_stale_while_revalidate() -> None:
    options = PolicyOptions(honour_max_age=False, honour_min_fresh=False)
    found = stored("max-age=60, stale-while-revalidate=60")
    assert isinstance(decide(ask(Cache_Control="max-age=0, min-fresh=9"), found, NOW + 70, options), StaleHit)


def test_soft_purge_is_the_reason() -> None:
    decision = decide(ask(), soften(MINUTE, NOW), NOW + 1)
    assert decision.reason is Reason.SOFT_PURGED


# Errors of the origin.


@pytest.mark.parametrize(
    ("cache_control", "after", "request_directives", "expected"),
    [
        ("max-age=60", 59, "", True),
        ("max-age=60", 60, "", False),
        ("max-age=60, stale-if-error=30", 89, "", True),
        ("max-age=60, stale-if-error=30", 90, "", False),
        ("max-age=60, stale-while-revalidate=30", 70, "", False),
        ("max-age=60", 70, "stale-if-error=10", True),
        ("max-age=60", 71, "stale-if-error=10", False),
        ("max-age=60", 70, "stale-if-error=x", False),
        ("max-age=60, must-revalidate, stale-if-error=30", 59, "", True),
        ("max-age=60, must-revalidate, stale-if-error=30", 61, "stale-if-error=99", False),
        ("s-maxage=60, stale-if-error=30", 61, "stale-if-error=99", False),
        ("max-age=60, proxy-revalidate, stale-if-error=30", 61, "", False),
        ("max-age=60, no-cache, stale-if-error=30", 1, "stale-if-error=99", False),
        ("max-age=60, stale-if-error=30", 70, "no-cache", False),
        (
            "max-age=60, stale-if-error=30",
            70,
            "max-age=0",
            True,
        ),  # RFC 5861 §4: regardless of other freshness information
    ],
)
def test_use_in_place_of_an_error(cache_control: str, after: float, request_directives: str, expected: bool) -> None:
    request = ask_with({"Cache_Control": request_directives} if request_directives else {})
    assert usable_on_error(request, stored(cache_control), NOW + after) is expected


def test_route_may_ignore_the_clients_stale_if_error_and_no_cache() -> None:
    request = ask(Cache_Control="stale-if-error=99")
    assert not usable_on_error(request, MINUTE, NOW + 70, PolicyOptions(honour_stale_if_error=False))
    assert usable_on_error(ask(Cache_Control="no-cache"), MINUTE, NOW + 5, PolicyOptions(honour_no_cache=False))


# How long it is kept.


@pytest.mark.parametrize(
    ("cache_control", "fields", "seconds"),
    [
        ("max-age=60", {}, 60),
        ("max-age=60, stale-while-revalidate=30", {}, 90),
        ("max-age=60, stale-while-revalidate=30, stale-if-error=300", {}, 360),
        ("max-age=60", {"ETag": '"a"'}, 60 + KEPT_FOR_VALIDATION_SECONDS),
        ("max-age=60", {"Last_Modified": date(-9)}, 60 + KEPT_FOR_VALIDATION_SECONDS),
        ("no-cache, max-age=60", {"ETag": '"a"'}, KEPT_FOR_VALIDATION_SECONDS),
        ("no-cache, max-age=60", {}, 0),
        ("max-age=60", {"Age": "1000"}, 0),
        ("max-age=60", {"Age": "1000", "ETag": '"a"'}, KEPT_FOR_VALIDATION_SECONDS),
    ],
)
def test_kept_as_long_as_it_can_be_of_use(cache_control: str, fields: dict[str, str], seconds: float) -> None:
    assert discard_at(stored(cache_control, **fields)) == NOW + seconds  # type: ignore[arg-type]  # str fields alone


# Early refresh.


def test_early_refresh_is_likelier_near_expiry_and_for_slow_origins() -> None:
    slow, fast = (keep(reply(Cache_Control="max-age=60"), delay=delay) for delay in (5, 0.01))

    def share(found: Stored, after: float) -> float:
        draws = [step / 100 for step in range(1, 101)]
        return sum(refreshes_early(found, NOW + after, beta=1, draw=draw) for draw in draws) / len(draws)

    assert share(slow, 0) < share(slow, 45) < share(slow, 52)
    assert share(fast, 45) == 0
    assert not refreshes_early(slow, NOW + 54.9, beta=0, draw=0.5)
    assert not refreshes_early(slow, NOW + 99, beta=1, draw=0.01)  # stale is not early


# Properties.

REQUEST = st.lists(
    st.sampled_from(
        ["no-cache", "no-store", "max-age=5", "min-fresh=5", "max-stale", "max-stale=5", "only-if-cached", "x"]
    ),
    max_size=3,
).map(", ".join)
RESPONSE = st.lists(
    st.sampled_from(
        [
            "max-age=60", "s-maxage=50", "no-cache", "must-revalidate", "proxy-revalidate", "stale-if-error=30",
            "stale-while-revalidate=20", "public", "max-age=x", 'no-cache="a"', "immutable",
        ]
    ),
    max_size=4,
).map(", ".join)  # fmt: skip


@given(REQUEST, RESPONSE, st.integers(0, 100), st.floats(-10, 300), st.sampled_from(["GET", "HEAD", "POST"]))
@settings(deadline=None, max_examples=1000)
def test_stored_response_is_never_served_to_a_request_it_must_not_be(
    asked: str, told: str, age: int, after: float, method: str
) -> None:
    found = stored(told, Age=str(age))
    request = replace(ask(Cache_Control=asked), method=method)
    decision = decide(request, found, NOW + after)
    words, said = set(told.split(", ")), set(asked.split(", "))
    if isinstance(decision, Hit | StaleHit):
        assert method != "POST"
        assert "no-cache" not in words
        assert "no-cache" not in said
        assert "max-age=5" not in said or decision.age <= 5
    if isinstance(decision, Hit):
        assert decision.ttl > 0
        assert "min-fresh=5" not in said or decision.ttl >= 5
    if isinstance(decision, StaleHit):
        assert decision.ttl <= 0
        assert not {"must-revalidate", "proxy-revalidate", "s-maxage=50"} & words
        permitted = "max-stale" in said or ("max-stale=5" in said and decision.ttl >= -5)
        assert permitted or ("stale-while-revalidate=20" in words and decision.ttl > -20)
    if "only-if-cached" in said:
        assert isinstance(decision, Hit | StaleHit | Unsatisfiable)
    if usable_on_error(request, found, NOW + after):
        assert "no-cache" not in words | said
        ttl = found.fresh_until - NOW - after
        assert ttl > 0 or ("stale-if-error=30" in words and ttl > -30)


@given(RESPONSE, st.lists(st.floats(-10, 300), min_size=2, max_size=5))
@settings(deadline=None)
def test_response_that_went_stale_does_not_become_fresh_again(told: str, moments: list[float]) -> None:
    found = stored(told)
    hits = [isinstance(decide(ask(), found, NOW + moment), Hit) for moment in sorted(moments)]
    assert hits == sorted(hits, reverse=True)


@given(RESPONSE, st.floats(0, 10**6))
@settings(deadline=None)
def test_after_discard_at_nothing_serves_by_itself(told: str, after: float) -> None:
    found = stored(told)
    now = max(discard_at(found), NOW) + after
    assert isinstance(decide(ask(), found, now), Revalidate)
    assert not usable_on_error(ask(), found, now)


def test_every_combination_of_windows_is_ordered() -> None:
    for told in itertools.permutations(["max-age=5", "stale-while-revalidate=3", "stale-if-error=9", "no-cache"], 3):
        found = stored(", ".join(told))
        assert found.fresh_until <= found.stale_while_revalidate_until
        assert found.fresh_until <= found.stale_if_error_until
