"""What a shared cache may do, said plainly: RFC 9111 over the list of all that the origin ever gave.

Nothing here is fast, and nothing is taken from `proxy.policy`. Times are wall seconds. Bodies have one length, and each
version and variant of a resource has another body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from hashlib import blake2b
from typing import Final, TypeAlias

BODY_BYTES: Final = 40
HEURISTIC_SHARE: Final = 10

Fields: TypeAlias = Mapping[str, str]

# Values that mean the same by the grammar of their field have the same meaning here.
MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "accept-encoding": {"gzip, br": "gzip+br", "br,gzip;q=1.0": "gzip+br", "identity": "identity"},
    "accept-language": {"de": "de", "DE": "de", "en;q=0.5, de": "de>en", "de,en;q=0.50": "de>en"},
    "x-plan": {"a": "a", "A": "A", "": "(empty)"},
}


@dataclass(frozen=True)
class Directives:
    """What the origin says in Cache-Control."""

    max_age: int | None = None
    s_maxage: int | None = None
    public: bool = False
    private: bool = False
    no_store: bool = False
    no_cache: bool = False
    must_revalidate: bool = False
    stale_while_revalidate: int | None = None
    stale_if_error: int | None = None

    def field(self) -> str:
        parts = []
        for name, value in vars(self).items():
            shown = "s-maxage" if name == "s_maxage" else name.replace("_", "-")
            if value is True:
                parts.append(shown)
            elif value is not None and value is not False:
                parts.append(f"{shown}={value}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Purge:
    """`names`: a URL, the beginning of URLs, a tag; nothing for everything."""

    scope: str
    names: str
    soft: bool
    at: float

    def voids(self, given: "Given") -> bool:
        match self.scope:
            case "url":
                return given.url == self.names
            case "key":
                return self.names == f"GET {given.url}"
            case "prefix":
                return given.url.startswith(self.names)
            case "tag":
                return self.names in given.tags
            case _:
                return True


@dataclass(frozen=True)
class Asked:
    """What a client asks, and how many purges there had been when it did."""

    method: str
    url: str
    fields: Fields
    purges: int
    at: float

    def directive(self, name: str) -> int | None:
        """The value of a directive of the request's Cache-Control, one of which each request has at most."""
        own, _, value = self.fields.get("cache-control", "").partition("=")
        return (int(value) if value else 2**31) if own == name else None


@dataclass
class Given:
    """What the origin gave, once. The serial number comes back in a field of each response made of it.

    Attributes:
        asked: what the proxy asked it; `at` is when the response began its life.
        status: 0: no response.
        body: of the whole representation.
        age: the Age field.
        over: the answer has left the origin, at `answered_at`, and `complete`: all of it.
    """

    serial: int
    asked: Asked
    status: int
    directives: Directives
    vary: tuple[str, ...]
    tags: tuple[str, ...]
    etag: str | None
    modified: int | None
    body: bytes
    age: int
    sidecar: int
    over: bool = False
    answered_at: float = 0.0
    complete: bool = True

    @property
    def url(self) -> str:
        return self.asked.url

    @property
    def failed(self) -> bool:
        return self.status == 0 or self.status >= 500

    def lifetime(self) -> float:
        """RFC 9111 §4.2.1, §4.2.2."""
        said = self.directives
        if said.s_maxage is not None:
            return said.s_maxage
        if said.max_age is not None:
            return said.max_age
        return 0.0 if self.modified is None else (self.asked.at - self.modified) / HEURISTIC_SHARE

    def age_at(self, now: float) -> float:
        """RFC 9111 §4.2.3; the clocks agree here."""
        return self.age + now - self.asked.at


def meanings(fields: Fields, names: Sequence[str]) -> tuple[str, ...]:
    """What selects a variant (RFC 9111 §4.1)."""
    return tuple(MEANINGS[name][fields[name]] if name in fields else "(absent)" for name in names)


def body_of(url: str, version: int, selecting: tuple[str, ...]) -> bytes:
    """The representation."""
    return blake2b(f"{url} {version} {selecting}".encode(), digest_size=BODY_BYTES // 2).hexdigest().encode()


def why_not_stored(given: Given) -> str:
    """Why a shared cache may not keep the response (RFC 9111 §3, §3.5); empty when it may."""
    said = given.directives
    if given.status not in {200, 206, 304, 404} or not given.complete:
        return "no whole answer"
    if said.no_store or said.private or given.asked.directive("no-store") is not None:
        return "no-store or private"
    shared = said.public or said.s_maxage is not None or said.must_revalidate
    if "authorization" in given.asked.fields and not shared:
        return "somebody's own"
    if given.status == 206 and (given.etag is None or given.etag.startswith("W/")):
        return "a part of nobody knows what"
    return ""


def is_useful(given: Given) -> bool:
    """Whether the response, kept, could ever answer: an answer that is stale and cannot be confirmed could not."""
    said = given.directives
    window = (said.stale_while_revalidate or 0) + (said.stale_if_error or 0)
    has_validator = given.etag is not None or given.modified is not None
    return has_validator or (not said.no_cache and (given.lifetime() > 0 or window > 0))


def why_not_reused(asked: Asked, given: Given, now: float, purges: Sequence[Purge], *, failed: bool) -> str:
    """Why the stored `given` may not answer `asked` without the origin's word (RFC 9111 §4); empty when it may.

    Args:
        failed: the origin was asked, and did not answer well.
    """
    said = given.directives
    forbidden = why_not_stored(given)
    if forbidden:
        return f"must not be stored: {forbidden}"
    if given.url != asked.url:
        return "another resource"
    if meanings(asked.fields, given.vary) != meanings(given.asked.fields, given.vary):
        return "another variant"
    fresh_until = given.asked.at - given.age + given.lifetime()
    since = [purge for purge in purges[given.asked.purges : asked.purges] if purge.voids(given)]
    if any(not purge.soft for purge in since):
        return "purged"
    if since:
        fresh_until = min(fresh_until, since[-1].at)
    if said.no_cache or asked.directive("no-cache") is not None:
        return "no-cache"
    staleness, age = now - fresh_until, given.age_at(now)
    max_age, min_fresh = asked.directive("max-age"), asked.directive("min-fresh")
    if staleness < 0:
        if not failed and max_age is not None and age > max_age:
            return "older than the client's max-age"
        if not failed and min_fresh is not None and -staleness < min_fresh:
            return "not fresh for as long as min-fresh demands"
        return ""
    return _why_not_stale(asked, given, staleness, failed=failed)


def _why_not_stale(asked: Asked, given: Given, staleness: float, *, failed: bool) -> str:
    """RFC 9111 §4.2.4, RFC 5861."""
    said = given.directives
    if said.must_revalidate or said.s_maxage is not None:
        return "must not be used stale"
    max_stale = asked.directive("max-stale")
    if max_stale is not None and staleness <= max_stale:
        return ""
    if failed and staleness < (said.stale_if_error or 0):
        return ""
    if asked.directive("max-age") is not None or asked.directive("min-fresh") is not None:
        return "stale for a client that wants it fresh"
    return "" if staleness < (said.stale_while_revalidate or 0) else "stale"


def is_not_modified(fields: Fields, etag: str | None, modified: float | None) -> bool:
    """Whether the conditions of a request are met by what the client has (RFC 9110 §13.2.2)."""
    wanted = fields.get("if-none-match")
    if wanted is not None:
        own = etag.removeprefix("W/") if etag is not None else None
        return wanted == "*" or (
            own is not None and own in [one.strip().removeprefix("W/") for one in wanted.split(",")]
        )
    since = fields.get("if-modified-since")
    return since is not None and modified is not None and modified <= seconds_of(since)


def ranges_of(fields: Fields, etag: str | None) -> list[tuple[int, int]] | None:
    """First and last byte of each satisfiable range asked for; None: the whole is (RFC 9110 §14.2, §13.1.5)."""
    value = fields.get("range")
    if value is None or (fields.get("if-range", etag) != etag or ("if-range" in fields and str(etag).startswith("W/"))):
        return None
    found = []
    for part in value.removeprefix("bytes=").split(","):
        first, _, last = part.partition("-")
        low = int(first) if first else max(0, BODY_BYTES - int(last))
        high = min(int(last), BODY_BYTES - 1) if first and last else BODY_BYTES - 1
        if low < BODY_BYTES:
            found.append((low, high))
    return found


def date_of(seconds: float) -> str:
    """An HTTP-date."""
    return formatdate(seconds, usegmt=True)


def seconds_of(date: str) -> float:
    """The inverse of `date_of`."""
    return parsedate_to_datetime(date).timestamp()
