"""Requests and responses."""

from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.http.message import Request, Response, from_wire, make_headers, shared_headers, to_wire


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_any_bytes_come_out_as_they_went_in(raw: bytes) -> None:
    assert to_wire(from_wire(raw)) == raw


def test_target_is_taken_apart_as_sent() -> None:
    request = Request("GET", "/a%2Fb;x?q=1?2", scheme="https", host="example.com:8443")
    assert request.path == "/a%2Fb;x"
    assert request.query == "q=1?2"
    assert request.url == "https://example.com:8443/a%2Fb;x?q=1?2"
    assert Request("GET", "/").query == ""


def test_headers_repeat_and_compare_without_case() -> None:
    headers = make_headers([("Set-Cookie", "a"), ("set-cookie", "b")])
    assert headers.getall("SET-COOKIE") == ["a", "b"]


def test_headers_to_be_kept_share_what_is_short_and_came_before() -> None:
    long = "x" * 65
    one, other = (shared_headers([(from_wire(b"X-Name"), from_wire(b"value")), (long[:64] + "y", long)]) for _ in "ab")
    assert list(one.items()) == [("X-Name", "value"), ("x" * 64 + "y", long)]
    (name, value), (long_name, _) = one.items()
    (other_name, other_value), (other_long_name, _) = other.items()
    assert name is other_name
    assert value is other_value
    assert long_name is not other_long_name


def test_shared_names_keep_the_case_they_were_sent_in() -> None:
    assert list(shared_headers([("ETAG", "1"), ("etag", "2")]).items()) == [("ETAG", "1"), ("etag", "2")]


def test_response_with_other_headers_keeps_the_rest() -> None:
    response = Response(200, make_headers([("A", "1")]), b"body", "Fine")
    other = response.with_headers(CIMultiDict([("B", "2")]))
    assert (other.status, dict(other.headers), other.body, other.reason) == (200, {"B": "2"}, b"body", "Fine")
    headers = make_headers([("C", "3")])
    assert response.with_headers(headers).headers is headers


def test_request_with_other_headers_keeps_the_rest() -> None:
    request = Request("PUT", "/a?b", "https", "example.com", make_headers([("A", "1")]), b"body", "192.0.2.1", (1, 0))
    changed = request.with_headers(CIMultiDict({"B": "2"}))
    assert changed == Request("PUT", "/a?b", "https", "example.com", changed.headers, b"body", "192.0.2.1", (1, 0))
    assert list(changed.headers.items()) == [("B", "2")]
    assert list(request.headers.items()) == [("A", "1")]


def test_response_with_another_body() -> None:
    response = Response(200, make_headers([("A", "1")]), b"body", "Fine")
    other = response.with_body(CIMultiDict([("B", "2")]), b"")
    assert (other.status, dict(other.headers), other.body, other.reason) == (200, {"B": "2"}, b"", "Fine")
    headers = make_headers([("C", "3")])
    assert response.with_body(headers, b"x").headers is headers
