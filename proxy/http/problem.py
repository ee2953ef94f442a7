"""Errors as responses: problem documents (RFC 9457) with a Proxy-Status (RFC 9209). Rule: nowhere else."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson

from proxy.errors import ProxyError
from proxy.http.message import Response, make_headers

PROXY_NAME: Final = "sidecache"
MEDIA_TYPE: Final = "application/problem+json"


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem(
    status: int,
    title: str = "",
    detail: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> Response:
    """A problem document as a response that no cache keeps.

    Args:
        status: of the response.
        title: short and the same for all problems of its kind; by default the status's phrase.
        detail: what happened this time, for the client.
        headers: fields added.
        members: extension members of the document (RFC 9457 §3.2).
    """
    document: dict[str, object] = {"type": "about:blank", "title": title or _title(status), "status": status}
    if detail:
        # A detail that quotes the client may hold bytes that are not UTF-8, as surrogates, which JSON has no room for.
        document["detail"] = detail.encode("utf-8", "replace").decode()
    document.update(members or {})
    body = orjson.dumps(document)
    return Response(
        status,
        make_headers(
            [
                ("Content-Type", MEDIA_TYPE),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                *(headers or {}).items(),
            ]
        ),
        body,
    )


def error_response(error: ProxyError) -> Response:
    """What a client gets to see of `error`: whose fault, what happened, whether to wait; nothing of our insides."""
    headers = {"Proxy-Status": f"{PROXY_NAME}; error={error.error_type}"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return problem(error.status_hint, detail=error.detail, headers=headers)
