"""Errors as responses."""

import http_sf
import orjson
import pytest

from proxy import errors
from proxy.errors import ProxyError
from proxy.http.message import Response
from proxy.http.problem import error_response, problem


def document(response: Response) -> dict[str, object]:
    assert isinstance(response.body, bytes)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Content-Length"] == str(len(response.body))
    assert response.headers["Cache-Control"] == "no-store"
    found: dict[str, object] = orjson.loads(response.body)
    return found


def test_problem_document() -> None:
    response = problem(429, "Too Many Requests", "wait a little", headers={"Retry-After": "3"}, members={"limit": 5})
    assert document(response) == {
        "type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": "wait a little", "limit": 5,
    }  # fmt: skip
    assert response.status == 429
    assert response.headers["Retry-After"] == "3"


@pytest.mark.parametrize(
    ("status", "title"), [(404, "Not Found"), (502, "Bad Gateway"), (499, "Error"), (799, "Error")]
)
def test_title_is_the_status_phrase(status: int, title: str) -> None:
    assert document(problem(status)) == {"type": "about:blank", "title": title, "status": status}


def test_detail_with_bytes_that_are_no_utf8_is_written() -> None:
    assert document(problem(400, detail="odd: \udcff"))["detail"] == "odd: ?"


CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ProxyError)]


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not errors.PluginError])
def test_error_says_whose_fault_it_is(cls: type[ProxyError]) -> None:
    response = error_response(cls("what happened", retry_after=7))
    assert response.status == cls.status_hint
    assert document(response)["detail"] == "what happened"
    assert response.headers["Retry-After"] == "7"
    parsed = http_sf.parse(response.headers["Proxy-Status"].encode(), tltype="list")
    assert parsed == [(http_sf.Token("sidecache"), {"error": http_sf.Token(cls.default_error_type)})]


def test_error_without_a_time_to_wait_has_no_retry_after() -> None:
    assert "Retry-After" not in error_response(errors.UpstreamError("gone")).headers


def test_nothing_of_the_cause_leaks() -> None:
    error = errors.PluginError("cache", "on_request")
    error.__cause__ = RuntimeError("/secret/path")
    response = error_response(error)
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body
    assert response.status == 500
