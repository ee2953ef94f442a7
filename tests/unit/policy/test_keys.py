"""Cache keys."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import Request, make_headers
from proxy.policy.keys import PLAIN_RULES, KeyRules, primary_key


def request(target: str = "/a", method: str = "GET", scheme: str = "https", host: str = "h", **fields: str) -> Request:
    return Request(method, target, scheme, host, make_headers((n.replace("_", "-"), v) for n, v in fields.items()))


def test_method_scheme_host_and_target_are_in_the_key() -> None:
    base = primary_key(request())
    assert base == "GET https://h/a"
    others = [
        request("/b"),
        request(method="POST"),
        request(scheme="http"),
        request(host="i"),
        request("/a?"),
        request("/A"),
    ]
    assert base not in {primary_key(other) for other in others}


def test_head_shares_the_key_of_get() -> None:
    assert primary_key(request(method="HEAD")) == primary_key(request())


@pytest.mark.parametrize(
    ("target", "rules", "expected"),
    [
        ("/a?utm_source=x&b=1", KeyRules(ignored_parameters=("utm_*",)), "/a?b=1"),
        ("/a?utm_source=x", KeyRules(ignored_parameters=("utm_*",)), "/a"),
        ("/a?fbclid&b", KeyRules(ignored_parameters=("fbclid",)), "/a?b"),
        ("/a?b=2&a=1&b=1", KeyRules(sorted_query=True), "/a?a=1&b=2&b=1"),
        ("/a", KeyRules(sorted_query=True), "/a"),
        ("/a?b=2&a=1", KeyRules(fields=("x",)), "/a?b=2&a=1\nx:"),
    ],
)
def test_route_rules(target: str, rules: KeyRules, expected: str) -> None:
    assert primary_key(request(target), rules) == f"GET https://h{expected}"


def test_key_fields_are_part_of_the_key() -> None:
    rules = KeyRules(fields=("x-tenant",))
    assert not rules.plain
    assert PLAIN_RULES.plain
    assert primary_key(request(X_Tenant=" a "), rules) == "GET https://h/a\nx-tenant:a"
    assert primary_key(request(X_Tenant="b"), rules) != primary_key(request(X_Tenant="a"), rules)


@given(st.permutations(["a=1", "b=2", "c", "d="]))
@settings(deadline=None)
def test_sorted_query_does_not_depend_on_the_order(parameters: list[str]) -> None:
    rules = KeyRules(sorted_query=True)
    assert primary_key(request("/?" + "&".join(parameters)), rules) == "GET https://h/?a=1&b=2&c&d="
