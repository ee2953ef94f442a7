"""The words in which the cases are told: a cache under test, its resources, and what is asked of them.

    page = cache.resource(reply("Cache-Control: max-age=60"))
    await page.ask()
    assert (await page.ask()).came_from_store

Each resource has a path of its own, so that cases do not meet. Staleness is not waited for: what the origin sends is as
old as a case needs it to be (`Age`, `Date`, an old `Expires`).
"""

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conformance.scripted_origin import Fields, Script, ScriptedOrigin, Seen, dated, scripted_origin
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.sidecar import SidecarProcess, sidecar

ROUTES: Final[Mapping[str, Mapping[str, Any]]] = {
    "ignore-no-cache": {"ignore_request_directives": ["no-cache"]},
    "ignore-no-store": {"ignore_request_directives": ["no-store"]},
    "ignore-max-age": {"ignore_request_directives": ["max-age"]},
    "ignore-min-fresh": {"ignore_request_directives": ["min-fresh"]},
    "ignore-max-stale": {"ignore_request_directives": ["max-stale"]},
    "ignore-only-if-cached": {"ignore_request_directives": ["only-if-cached"]},
    "ignore-pragma": {"ignore_request_directives": ["pragma"]},
    "bypass": {"bypass": True},
    "ttl": {"ttl_seconds": 60},
    "max-ttl": {"max_ttl_seconds": 30},
    "heuristic-half": {"heuristic_fraction": 0.5},
    "heuristic-short": {"heuristic_max_seconds": 60},
    "heuristic-none": {"heuristic_fraction": 0},
    "cookies": {"store_set_cookie": True},
    "small": {"max_object_bytes": 100},
    "two-targets": {"targets": ["Sidecar-Cache-Control", "CDN-Cache-Control"]},
    "no-targets": {"targets": []},
    "three-variants": {"max_variants": 3},
    "key-headers": {"key_headers": ["X-Tenant"]},
    "unkeyed": {"unkeyed_fields": {"X-Feature": "drop", "X-Preview": "bypass", "X-Host": "pass"}},
    "ignore-query": {"ignore_query": ["utm_*"], "sort_query": True},
    "whole": {"store_parts": False},
    "swr": {"stale_while_revalidate_seconds": 600},
    "patient": {"stale_if_error_seconds": 600, "retry_seconds": 600},
    "early": {"early_refresh_beta": 100},
    "sie": {"stale_if_error_seconds": 600, "retry_seconds": 0},
    "body": {"body_methods": ["POST", "QUERY"], "max_request_body_bytes": 1000},
    "quiet": {"cache_status": False},
    "show-key": {"cache_status_key": True},
}
"""Settings of the cache by route: requests for `/<route>/…` have them; all others have the defaults."""

CODINGS_PASS: Final = "codings-pass"
"""A route on which the origin sees each client's own Accept-Encoding, and not `identity` for all."""

TABLES: Final[Mapping[str, Any]] = {
    "pipeline": {"order": ["compression", "cache"]},  # nothing that answers, or refuses, by itself
    "routes": [
        {"name": name, "match": {"path": f"/{name}/*"}, "plugins": {"cache": dict(own)}} for name, own in ROUTES.items()
    ]
    + [
        {
            "name": CODINGS_PASS,
            "match": {"path": f"/{CODINGS_PASS}/*"},
            "plugins": {"compression": {"upstream_encoding": "pass"}},
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got.

    Attributes:
        asked: how many requests the origin got for the resource between the request and the end of its answer.
        cache_status: the parameters of this cache's member of Cache-Status; empty when it says nothing.
    """

    status: int
    fields: Fields
    body: bytes
    asked: int
    cache_status: Mapping[str, str]

    def all(self, name: str) -> list[str]:
        """The values of all lines of a field."""
        return [value for field_name, value in self.fields if field_name.lower() == name.lower()]

    def field(self, name: str) -> str | None:
        """The value of a field that stands at most once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands {len(values)} times"
        return values[0] if values else None

    @property
    def age(self) -> int:
        """The value of Age, in seconds."""
        value = self.field("Age")
        assert value is not None, "there is no Age"
        return int(value)

    @property
    def is_hit(self) -> bool:
        """Whether Cache-Status says that the cache answered."""
        return "hit" in self.cache_status

    @property
    def came_from_store(self) -> bool:
        """Whether the cache answered without the origin: its request count and Cache-Status have to agree."""
        assert not (self.is_hit and self.asked), f"it says {self.cache_status}, and the origin was asked"
        assert self.is_hit or self.asked or self.status == 504, f"it says {self.cache_status}; the origin was not asked"
        return self.is_hit

    @property
    def was_validated(self) -> bool:
        """Whether the origin confirmed a stored response with a 304, and that answered."""
        return self.asked == 1 and self.status != 304 and self.cache_status.get("fwd-status") == "304"


@dataclass(frozen=True, slots=True)
class Resource:
    """A path that no other case uses, and the origin's answers for it."""

    cache: "CacheUnderTest"
    path: str

    @property
    def seen(self) -> list[Seen]:
        """The requests that the origin got for it."""
        return self.cache.origin.seen(self.path)

    @property
    def url(self) -> str:
        """As clients know it."""
        return self.cache.running.url + self.path

    def answers(self, *scripts: Script) -> None:
        """From now on the origin answers so, one after another, then on and on with the last."""
        self.cache.origin.answers(self.path, *scripts)

    async def ask(
        self, *lines: str, method: str = "GET", query: str = "", body: bytes | None = None, host: str | None = None
    ) -> Answer:
        """Send a request on a connection of its own.

        Args:
            lines: field lines, "Name: value".
            query: with its question mark.
            host: another Host than the sidecar's address.
        """
        before = len(self.seen)
        authority = host or str(self.cache.running.address)
        framing = () if body is None else (f"Content-Length: {len(body)}",)
        head = request(self.path + query, *map(dated, lines), *framing, method=method, host=authority)
        async with await RawClient.connect(self.cache.running.address) as client:
            got = await client.ask(head + (body or b""), method=method)
        return _answer(got, len(self.seen) - before)

    async def purge(self, *, soft: bool = False) -> None:
        """Purge it by its URL, as an operator does; return once the purge is acknowledged."""
        await self.cache.purge(url=self.url, soft=soft)


def _answer(got: RawResponse, asked: int) -> Answer:
    members = [part.strip() for line in got.all("Cache-Status") for part in line.split(",")]
    own = [member for member in members if member.partition(";")[0] == "sidecache"]
    assert len(own) <= 1, members
    parameters = [part.strip().partition("=") for part in own[0].split(";")[1:]] if own else []
    return Answer(got.status, got.fields, got.body, asked, {name: value for name, _, value in parameters})


class CacheUnderTest:
    """A sidecar process before a scripted origin."""

    def __init__(self, running: SidecarProcess, origin: ScriptedOrigin) -> None:
        self.running = running
        self.origin = origin
        self._numbers = itertools.count(1)

    def resource(self, *scripts: Script, route: str = "", suffix: str = "") -> Resource:
        """A new resource.

        Args:
            scripts: see `ScriptedOrigin.answers`.
            route: one of `ROUTES`, or `CODINGS_PASS`; otherwise the defaults count.
            suffix: the end of its path.
        """
        assert not route or route == CODINGS_PASS or route in ROUTES, route
        one = Resource(self, f"{'/' + route if route else ''}/{next(self._numbers)}{suffix}")
        if scripts:
            one.answers(*scripts)
        return one

    async def purge(self, **order: Any) -> None:
        """`POST /admin/cache/invalidate` with `order`; return once it is acknowledged."""
        status, document = await self.running.admin("POST", "/admin/cache/invalidate", order)
        assert status == 200, document


@asynccontextmanager
async def cache_under_test(state: Path, tables: Mapping[str, Any] = TABLES) -> AsyncIterator[CacheUnderTest]:
    """A cache that runs.

    Args:
        state: a folder for its files.
        tables: of its configuration.
    """
    async with scripted_origin() as origin, sidecar(origin.url, state, tables) as running:
        yield CacheUnderTest(running, origin)
