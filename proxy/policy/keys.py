"""The cache key (RFC 9111 §2): what must be equal for two requests to be about the same stored response.

Scheme and host are in every key. The key is readable text, so that a purge by key and the `key` of Cache-Status
(RFC 9211 §2.7) can name it.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from proxy.http.message import Request


@dataclass(frozen=True, slots=True)
class KeyRules:
    """How a route makes its keys.

    Attributes:
        ignored_parameters: names of query parameters left out; `*` and `?` are wildcards (`utm_*`).
        sorted_query: parameters in the order of their names, so that `?a=1&b=2` and `?b=2&a=1` are one resource.
        fields: lower-case request header names whose values are part of the key.
    """

    ignored_parameters: tuple[str, ...] = ()
    sorted_query: bool = False
    fields: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether the target is the key as it is."""
        return not (self.ignored_parameters or self.sorted_query or self.fields)


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
    return key


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
