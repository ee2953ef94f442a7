"""What makes stored responses void."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import Request
from proxy.policy.invalidation import SAFE_METHODS, groups, invalidated_by, invalidated_groups, soften
from proxy.policy.model import PolicyOptions, Revalidate, StaleHit
from proxy.policy.reuse import decide, usable_on_error
from tests.unit.policy.build import NOW, ask, keep, reply

TARGET = "https://example.com/a"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "FOO", "post", "MKCOL", "get"])
def test_unsafe_method_invalidates_unless_it_fails(method: str) -> None:
    for status in range(100, 600):
        expected = (TARGET,) if 200 <= status <= 399 else ()
        assert invalidated_by(ask(method), reply(status)) == expected, status


@pytest.mark.parametrize("method", sorted(SAFE_METHODS))
def test_safe_method_invalidates_nothing(method: str) -> None:
    response = reply(200, Location="/b", Cache_Group_Invalidation='"g"')
    assert invalidated_by(ask(method), response) == ()
    assert invalidated_groups(ask(method), response) == ()


@pytest.mark.parametrize("field", ["Location", "Content_Location"])
@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("/b", "https://example.com/b"),
        ("b?x=1", "https://example.com/b?x=1"),
        ("?x=1", "https://example.com/a?x=1"),
        ("https://example.com/b", "https://example.com/b"),
        ("https://example.com", "https://example.com/"),
        ("https://example.com?x", "https://example.com/?x"),
        ("HTTPS://EXAMPLE.com:443/b#f", "https://example.com/b"),
        ("//example.com/b", "https://example.com/b"),
        ("/b%2Fc;d", "https://example.com/b%2Fc;d"),
        ("../x/./y", "https://example.com/x/y"),
        (" /b ", "https://example.com/b"),
        # Another origin's.
        ("http://example.com/b", None),
        ("https://example.com:8443/b", None),
        ("https://example.org/b", None),
        ("//example.org/b", None),
        ("https://sub.example.com/b", None),
        ("https://user@example.com/b", None),
        # No URI.
        ("https://[::1/b", None),
        ("https://example.com:x/b", None),
        ("mailto:a@example.com", None),
    ],
)
def test_named_uri_of_the_same_origin_is_invalidated(field: str, reference: str, expected: str | None) -> None:
    found = invalidated_by(ask("POST"), reply(201, (field.replace("_", "-"), reference)))
    assert found == ((TARGET, expected) if expected else (TARGET,))


def test_each_uri_is_named_once() -> None:
    response = reply(200, ("Location", "/b"), ("Content-Location", "/b"), ("Content-Location", "/a"))
    assert invalidated_by(ask("PUT"), response) == (TARGET, "https://example.com/b")


def test_ipv6_origin() -> None:
    request = Request("POST", "/a", "http", "[::1]:8080")
    assert invalidated_by(request, reply(Location="http://[::1]:8080/b"))[1:] == ("http://[::1]:8080/b",)


@given(st.text(max_size=30))
@settings(deadline=None)
def test_any_reference_stays_in_the_origin(reference: str) -> None:
    for url in invalidated_by(ask("POST"), reply(201, ("Location", reference))):
        assert url.startswith("https://example.com/")


# Cache groups.


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ([], ()),
        (['"scripts"'], ("scripts",)),
        (['"a", "b"'], ("a", "b")),
        (['"a"', '"b"'], ("a", "b")),
        (['"a";x=1, "a"'], ("a",)),
        (['"A", "a"'], ("A", "a")),
        (['""'], ("",)),
        (["a"], ()),
        (['"a", b'], ()),
        (['"a", 1'], ()),
        (['"a", ("b")'], ()),
        (['"a'], ()),
        ([""], ()),
        ([", ".join(f'"{"g" * 32}{number}"' for number in range(32))], tuple("g" * 32 + str(n) for n in range(32))),
    ],
)
def test_groups_are_the_origins_own(lines: list[str], names: tuple[str, ...]) -> None:
    expected = tuple(f"https://example.com {name}" for name in names)
    assert groups(ask(), reply(200, *[("Cache-Groups", line) for line in lines])) == expected
    response = reply(200, *[("Cache-Group-Invalidation", line) for line in lines])
    assert invalidated_groups(ask("POST"), response) == expected
    other = Request("POST", "/", "https", "other.example")
    assert not set(invalidated_groups(other, response)) & set(expected)


def test_failed_request_invalidates_no_group() -> None:
    assert invalidated_groups(ask("POST"), reply(500, Cache_Group_Invalidation='"a"')) == ()


# Soft purges.

WINDOWS = "max-age=60, stale-while-revalidate=10, stale-if-error=100"


def test_soft_purge_ends_freshness_and_starts_the_windows() -> None:
    stored = soften(keep(reply(Cache_Control=WINDOWS)), NOW + 20)
    assert (stored.fresh_until, stored.stale_while_revalidate_until) == (NOW + 20, NOW + 30)
    assert stored.stale_if_error_until == NOW + 120
    assert isinstance(decide(ask(), stored, NOW + 25), StaleHit)
    assert isinstance(decide(ask(), stored, NOW + 31), Revalidate)
    assert usable_on_error(ask(), stored, NOW + 119)


def test_soft_purge_changes_nothing_that_is_stale_already() -> None:
    stored = keep(reply(Cache_Control=WINDOWS))
    assert soften(stored, NOW + 60) is stored


@pytest.mark.parametrize("directive", ["must-revalidate", "proxy-revalidate", "s-maxage=60"])
def test_soft_purge_permits_no_stale_use_that_is_forbidden(directive: str) -> None:
    options = PolicyOptions(stale_while_revalidate=99, stale_if_error=99)
    stored = soften(keep(reply(Cache_Control=f"{WINDOWS}, {directive}"), options=options), NOW + 5)
    assert isinstance(decide(ask(Cache_Control="max-stale"), stored, NOW + 6), Revalidate)
    assert not usable_on_error(ask(), stored, NOW + 6)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=4), st.floats(0, 300))
@settings(deadline=None)
def test_soft_purges_never_make_anything_usable(moments: list[float], later: float) -> None:
    before = stored = keep(reply(Cache_Control=WINDOWS))
    for moment in moments:
        stored = soften(stored, NOW + moment)
    assert stored.fresh_until <= before.fresh_until
    assert stored.stale_while_revalidate_until <= before.stale_while_revalidate_until
    if usable_on_error(ask(), stored, NOW + later):
        assert usable_on_error(ask(), before, NOW + later)
