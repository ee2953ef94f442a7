"""Routes: which requests share settings and a metric label."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from proxy.http.message import Request

DEFAULT_ROUTE_NAME: Final = "default"


@lru_cache(maxsize=1024)
def compile_path(template: str) -> re.Pattern[str]:
    """A path template as a pattern: `{name}` stands for one segment, `*` at the end for any rest, else to the letter.

    Raises:
        ValueError: the template does not begin with `/`, or a `*` stands elsewhere.
    """
    if not template.startswith("/"):
        raise ValueError(f"a path template begins with '/', not {template[:1]!r}")
    head, star, rest = template.partition("*")
    if rest:
        raise ValueError("'*' may only end a path template")
    parts = re.split(r"(\{[A-Za-z_][A-Za-z0-9_]*\})", head)
    pattern = "".join("[^/]+" if part.startswith("{") and part.endswith("}") else re.escape(part) for part in parts)
    if "{" in re.sub(r"\{[A-Za-z_][A-Za-z0-9_]*\}", "", head):
        raise ValueError("'{' begins a placeholder such as {id}")
    return re.compile(pattern + (".*" if star else ""), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Route:
    """A set of requests.

    Attributes:
        name: metric label; unique.
        path: template (see `compile_path`), None: any.
        methods: upper case; empty: any.
        hosts: lower case, `*.example.com` for any label before; empty: any.
    """

    name: str
    path: str | None = None
    methods: frozenset[str] = frozenset()
    hosts: tuple[str, ...] = ()
    _pattern: re.Pattern[str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.path is not None:
            object.__setattr__(self, "_pattern", compile_path(self.path))

    def matches(self, request: Request) -> bool:
        """Whether `request` belongs to this route."""
        if self.methods and request.method not in self.methods:
            return False
        if self._pattern is not None and self._pattern.fullmatch(request.path) is None:
            return False
        return not self.hosts or any(_host_matches(pattern, request.host) for pattern in self.hosts)


def _host_matches(pattern: str, host: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and ":" not in pattern and not host.endswith("]") else host
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


class RouteTable:
    """Routes in order; the first that matches wins, and a default route takes the rest."""

    __slots__ = ("_default", "routes")

    def __init__(self, routes: Sequence[Route]) -> None:
        self._default = Route(DEFAULT_ROUTE_NAME)
        self.routes = (*routes, self._default)

    def find(self, request: Request) -> Route:
        """The route of `request`."""
        for route in self.routes:
            if route.matches(request):
                return route
        raise AssertionError("the default route matches everything")
