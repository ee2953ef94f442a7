"""The cache key (RFC 9111 §2): what must be equal for two requests to be about the same stored response.

Scheme and host are in every key. The key is readable text, so that a purge by key and the `key` of Cache-Status
(RFC 9211 §2.7) can name it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from proxy.http.headers import combined
from proxy.http.message import Headers, Request


@dataclass(frozen=True, slots=True)
class KeyRules:
    """How a route makes its keys.

    Attributes:
        ignored_parameters: names of query parameters left out; `*` and `?` are wildcards (`utm_*`).
        sorted_query: parameters in the order of their names, so that `?a=1&b=2` and `?b=2&a=1` are one resource.
        fields: lower-case request header names whose values are part of the key.
        body_methods: methods whose content is part of the key; it must have been read (`bytes`).
    """

    ignored_parameters: tuple[str, ...] = ()
    sorted_query: bool = False
    fields: tuple[str, ...] = ()
    body_methods: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the target is the key as it is."""
        return not (self.ignored_parameters or self.sorted_query or self.fields or self.body_methods)

    @property
    def merges_queries(self) -> bool:
        """Whether requests for several URIs can have one key."""
        return bool(self.ignored_parameters) or self.sorted_query


PLAIN_RULES = KeyRules()


def primary_key(request: Request, rules: KeyRules = PLAIN_RULES) -> str:
    """The key of the resource that `request` is about. HEAD shares the key of GET (RFC 9110 §9.3.2)."""
    method = "GET" if request.method == "HEAD" else request.method
    if rules.plain:
        return f"{method} {request.scheme}://{request.host}{request.target}"
    target = request.target
    if "?" in target and (rules.ignored_parameters or rules.sorted_query):
        target = _normal_target(target, rules.ignored_parameters, rules.sorted_query)
    key = f"{method} {request.scheme}://{request.host}{target}"
    for name in rules.fields:
        # A field value holds no line break, so no value can pose as another field.
        key += f"\n{name}:{','.join(value.strip() for value in request.headers.getall(name, ()))}"
    if request.method in rules.body_methods:
        assert isinstance(request.body, bytes)
        key += f"\nbody:{content_digest(request.headers, request.body)}"
    return key


def keys_for_targets(request: Request, rules: KeyRules = PLAIN_RULES) -> Callable[[str], str]:
    """What makes the keys of requests without a body that are like `request`, a GET, but for their targets."""
    if rules.plain:
        return primary_key(replace(request, target=""), rules).__add__
    return lambda target: primary_key(replace(request, target=target), rules)


def content_digest(headers: Headers, body: bytes) -> str:
    """What stands for a request's content in a key: equal only for contents that mean the same (RFC 9110 §6.4).

    JSON counts without its white space, its escapes and the order of names. Numbers count as they are written, and JSON
    that names a member twice counts byte for byte: recipients do not agree on what these mean, and what one of them
    takes for different must not share an answer.
    """
    described = [combined(headers, name) for name in _CONTENT_FIELDS]
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    canonical: object = body
    if (media_type == "application/json" or media_type.endswith("+json")) and described[1] is None:
        try:
            canonical = json.loads(body.decode(), **_JSON_HOOKS)
        except (ValueError, RecursionError):
            canonical = body
    try:
        text = repr((described, canonical))
    except RecursionError:  # what was read without may be too deep to be written
        text = repr((described, body))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _members(pairs: list[tuple[str, object]]) -> object:
    names = {name for name, _ in pairs}
    if len(names) != len(pairs):
        raise ValueError("a member is named twice")
    return "object", tuple(sorted(pairs, key=lambda pair: pair[0]))


def _number(text: str) -> object:
    return "number", text  # a tuple, as no JSON string or array becomes one


_JSON_HOOKS: Final[dict[str, Any]] = {
    "object_pairs_hook": _members,
    "parse_int": _number,
    "parse_float": _number,
    "parse_constant": _number,
}
_CONTENT_FIELDS: Final = ("Content-Type", "Content-Encoding", "Content-Language")


@lru_cache(maxsize=4096)
def _normal_target(target: str, ignored: tuple[str, ...], ordered: bool) -> str:
    path, _, query = target.partition("?")
    parameters = [
        parameter
        for parameter in query.split("&")
        if not any(fnmatchcase(parameter.partition("=")[0], pattern) for pattern in ignored)
    ]
    if ordered:
        # By name alone: sorting is stable, and the order of one name's values may carry meaning.
        parameters.sort(key=lambda parameter: parameter.partition("=")[0])
    return f"{path}?{'&'.join(parameters)}" if parameters else path
