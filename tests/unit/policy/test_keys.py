"""Cache keys."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import Request, make_headers
from proxy.policy.keys import PLAIN_RULES, KeyRules, content_digest, primary_key


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


BODIES = KeyRules(body_methods=("POST", "QUERY"))


def keyed(body: bytes, method: str = "POST", **fields: str) -> str:
    fields.setdefault("Content_Type", "application/json")
    return primary_key(replace(request(method=method, **fields), body=body), BODIES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"b":[1,2]}', b' { "b" : [1, 2], "a": 1 } '),
        (b'{"a":{"c":null,"b":true}}', b'{"a":{"b":true,"c":null}}'),
        (rb'"\u00e9\/"', '"é/"'.encode()),
    ],
)
def test_json_that_means_the_same_is_one_key(one: bytes, other: bytes) -> None:
    assert keyed(one) == keyed(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":[1,2]}', b'{"a":[2,1]}'),
        (b'{"a":1}', b'{"a":"1"}'),
        (b'{"a":1}', b'{"a":1.0}'),
        (b'{"a":18446744073709551616}', b'{"a":18446744073709551617}'),
        (b'{"a":0.1}', b'{"a":0.1000000000000000001}'),
        (b'{"a":1,"a":2}', b'{"a":2}'),
        (b'{"a":1,"a":2}', b'{"a":2,"a":1}'),
        (b"1", b'["number","1"]'),
        (b"{}", b'["object",[]]'),
        (b"null", b""),
        (b"[" * 100_000, b"[" * 100_001),
        (b"[" * 100_000 + b"]" * 100_000, b"[" * 99_999 + b"]" * 99_999),
        (b"\xff", b"\xfe"),
    ],
)
def test_json_that_some_recipient_tells_apart_is_not(one: bytes, other: bytes) -> None:
    assert keyed(one) != keyed(other)


def test_what_is_no_json_counts_byte_for_byte() -> None:
    assert keyed(b"{ }", Content_Type="text/plain") != keyed(b"{}", Content_Type="text/plain")
    assert keyed(b"{ }", Content_Encoding="br") != keyed(b"{}", Content_Encoding="br")
    assert keyed(b"{ }", Content_Type="application/geo+json") == keyed(b"{}", Content_Type="application/geo+json")


@pytest.mark.parametrize("depth", [450, 100_000])
def test_json_too_deep_to_be_compared_counts_byte_for_byte(depth: int) -> None:
    # 450 objects can be read and not written, each being three tuples; 100,000 cannot even be read.
    deep, spaced = (opening * depth + b"1" + b"}" * depth for opening in (b'{"a":', b'{"a": '))
    json_type = make_headers([("Content-Type", "application/json")])
    assert content_digest(json_type, deep) != content_digest(json_type, spaced)
    assert content_digest(json_type, deep) == content_digest(json_type, bytes(deep))


def test_what_describes_the_content_and_the_method_part_keys() -> None:
    keys = [keyed(b"{}"), keyed(b"{}", "QUERY"), keyed(b"{}", Content_Type="text/plain")]
    keys += [keyed(b"{}", Content_Encoding="br"), keyed(b"{}", Content_Language="de")]
    assert len(set(keys)) == 5
    assert not BODIES.plain


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_VALUES, _VALUES)
@settings(deadline=None)
def test_json_values_share_a_key_when_they_are_equal_and_only_then(one: object, other: object) -> None:
    same = keyed(json.dumps(one, indent=1).encode()) == keyed(json.dumps(other, ensure_ascii=True).encode())
    assert same == (repr_of(one) == repr_of(other))


def repr_of(value: object) -> str:
    return json.dumps(value, sort_keys=True)
