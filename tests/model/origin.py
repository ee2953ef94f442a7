"""An origin that writes down all that it gives."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from proxy.errors import UpstreamError, UpstreamIncompleteError
from proxy.http.message import Request, Response
from tests.model.reference import (
    BODY_BYTES,
    MEANINGS,
    Asked,
    Directives,
    Given,
    body_of,
    date_of,
    is_not_modified,
    meanings,
    ranges_of,
)
from tests.support.clock import FakeClock
from tests.support.plugin_harness import ChunkStream, response

Delivery: TypeAlias = Literal["whole", "stream", "cut"]
LASTING = Directives(max_age=60)
HEEDED = (*MEANINGS, "authorization", "cache-control", "if-modified-since", "if-none-match", "if-range", "range")


def fields_of(request: Request) -> dict[str, str]:
    """The fields of a request that count here, by lower-case name."""
    return {name: request.headers[name] for name in HEEDED if name in request.headers}


@dataclass(frozen=True)
class Resource:
    """What stands under a URL now.

    Attributes:
        status: 200 or 404.
        age: the Age field of what is given.
    """

    url: str
    version: int = 1
    modified: int = 0
    status: int = 200
    directives: Directives = LASTING
    vary: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    has_etag: bool = True
    has_modified: bool = False
    weak: bool = False
    ranges: bool = True
    age: int = 0
    delivery: Delivery = "whole"

    def etag(self, selecting: tuple[str, ...]) -> str | None:
        if not self.has_etag:
            return None
        tag = f'"{self.version}.{"/".join(selecting).replace(" ", "")}"'
        return f"W/{tag}" if self.weak else tag


@dataclass
class Origin:
    """Answers by its resources; what it answers is settled when it is asked, and sent when `open` is set.

    Attributes:
        trouble: 0: none; 1: it cannot be reached; else the status of all its answers.
        given: all that it gave, the serial number being the place.
    """

    clock: FakeClock
    resources: dict[str, Resource]
    count_purges: Callable[[], int]
    trouble: int = 0
    given: list[Given] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, url: str, **changes: object) -> None:
        """Let the resource be another way from now on."""
        self.resources[url] = replace(self.resources[url], **changes)  # type: ignore[arg-type]  # drawn by name

    def new_version(self, url: str) -> None:
        """Let the resource have another representation. A second passes: Last-Modified tells no shorter time."""
        self.clock.advance(1)
        old = self.resources[url]
        self.resources[url] = replace(old, version=old.version + 1, modified=int(self.clock.wall()))

    async def answer(self, request: Request, sidecar: int) -> Response | UpstreamError:
        """The answer to `request`, written down."""
        asked = Asked(request.method, request.url, fields_of(request), self.count_purges(), self.clock.wall())
        resource = self.resources[request.url]
        if request.method == "POST":
            if not self.trouble:
                self.new_version(request.url)
            await self.open.wait()
            return UpstreamError("down") if self.trouble == 1 else response(self.trouble or 200)
        given, made = self._give(asked, resource, sidecar)
        self.given.append(given)
        await self.open.wait()
        given.over, given.answered_at = True, self.clock.wall()
        return made

    def _give(self, asked: Asked, resource: Resource, sidecar: int) -> tuple[Given, Response | UpstreamError]:
        selecting = meanings(asked.fields, resource.vary)
        body = body_of(resource.url, resource.version, selecting)
        etag = resource.etag(selecting)
        modified = resource.modified if resource.has_modified else None
        given = Given(
            serial=len(self.given),
            asked=asked,
            status=resource.status,
            directives=resource.directives,
            vary=resource.vary,
            tags=resource.tags,
            etag=etag,
            modified=modified,
            body=body,
            age=resource.age,
            sidecar=sidecar,
        )
        if self.trouble:
            given.status = 0 if self.trouble == 1 else self.trouble
            failure = response(self.trouble, b"trouble", {"X-Serial": str(given.serial)}) if self.trouble > 1 else None
            return given, failure or UpstreamError("down")
        headers = {"X-Serial": str(given.serial), "Date": date_of(asked.at), "Content-Type": "text/plain"}
        optional = {
            "Cache-Control": resource.directives.field(),
            "Vary": ", ".join(resource.vary),
            "Cache-Tag": ", ".join(resource.tags),
            "ETag": etag or "",
            "Last-Modified": date_of(modified) if modified is not None else "",
            "Age": str(resource.age or ""),
        }
        headers |= {name: value for name, value in optional.items() if value}
        return given, self._made(given, resource, headers)

    def _made(self, given: Given, resource: Resource, headers: dict[str, str]) -> Response:
        asked = given.asked
        # A 304 without Cache-Control leaves what was said before, which may differ from one sidecar to the other.
        says = bool(resource.directives.field())
        if given.status == 200 and says and is_not_modified(asked.fields, given.etag, given.modified):
            given.status = 304
            return response(304, b"", headers)
        wanted = ranges_of(asked.fields, given.etag) if given.status == 200 and asked.method == "GET" else None
        if wanted is not None and resource.ranges and len(wanted) < 2:  # of several ranges it sends the whole
            if not wanted:
                given.status = 416
                return response(416, b"", {"Content-Range": f"bytes */{BODY_BYTES}"})
            first, last = wanted[0]
            given.status = 206
            part = {**headers, "Content-Range": f"bytes {first}-{last}/{BODY_BYTES}"}
            return self._sent(given, resource, 206, given.body[first : last + 1], part)
        if asked.method == "HEAD":
            return response(given.status, b"", {**headers, "Content-Length": str(BODY_BYTES)})
        return self._sent(given, resource, given.status, given.body, headers)

    @staticmethod
    def _sent(given: Given, resource: Resource, status: int, body: bytes, headers: dict[str, str]) -> Response:
        if resource.delivery == "whole":
            return response(status, body, headers)
        half = len(body) // 2
        if resource.delivery == "stream":
            return response(status, ChunkStream([body[:half], body[half:]]), headers)
        given.complete = False
        return response(status, ChunkStream([body[:half]], error=UpstreamIncompleteError("cut")), headers)
