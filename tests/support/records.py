"""Records to store, made from little, and strategies that make many."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import fields
from time import monotonic

from hypothesis import strategies as st

from proxy.http.message import from_wire, make_headers
from proxy.policy.model import EntityTag, Stored
from proxy.storage.base import CacheKey, Entry, Record, VaryMarker

NOW = 1_700_000_000.0
"""The wall time at which a `FakeClock` begins."""


def key(name: str = "/a", variant: str = "") -> CacheKey:
    return CacheKey(f"GET http://example.test{name}", variant)


def stored(headers: Mapping[str, str] | None = None, *, fresh_for: float = 60.0, body_length: int = 0) -> Stored:
    """A response that arrived at `NOW`."""
    return Stored(
        method="GET",
        status=200,
        headers=make_headers((headers or {"Content-Type": "text/plain", "ETag": '"v1"'}).items()),
        request_time=NOW,
        response_time=NOW,
        initial_age=0.0,
        fresh_until=NOW + fresh_for,
        stale_while_revalidate_until=NOW + fresh_for,
        stale_if_error_until=NOW + fresh_for + 60,
        etag=EntityTag("v1"),
        body_length=body_length,
    )


def entry(
    name: str = "/a",
    body: bytes = b"body",
    *,
    purge_id: int = 0,
    discard_at: float = NOW + 3600,
    tags: tuple[str, ...] = (),
    forms: Mapping[str, bytes] | None = None,
) -> Entry:
    """What was fetched from `http://example.test` + `name`."""
    return Entry(
        stored=stored(body_length=len(body)),
        body=body,
        url=f"http://example.test{name}",
        purge_id=purge_id,
        discard_at=discard_at,
        tags=tags,
        forms=forms or {},
    )


def marker(
    name: str = "/a", names: tuple[str, ...] = ("accept",), *, generation: int = 1, purge_id: int = 0
) -> VaryMarker:
    return VaryMarker(names, generation, NOW + 3600, f"http://example.test{name}", purge_id)


def same(one: Record | None, other: Record | None) -> bool:
    """Whether two records are equal in all their parts, the case and the order of header fields among them."""
    if isinstance(one, Entry) and isinstance(other, Entry):
        return all(
            getattr(one, field.name) == getattr(other, field.name) for field in fields(Entry) if field.name != "stored"
        ) and (one.stored == other.stored and list(one.stored.headers.items()) == list(other.stored.headers.items()))
    return one == other


async def until(condition: Callable[[], object], *, seconds: float = 15.0) -> None:
    """Wait until `condition()` is true.

    Raises:
        AssertionError: it was not within `seconds`.
    """
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


# Any bytes may stand in a header or a target: they are text by surrogateescape.
texts = st.binary(max_size=20).map(from_wire) | st.text(max_size=20)
times = st.floats(allow_nan=False)
header_lists = st.lists(st.tuples(st.sampled_from(["A", "a", "Set-Cookie", "ETag", "x-B"]) | texts, texts), max_size=8)
storeds = st.builds(
    Stored,
    method=texts,
    status=st.integers(200, 599),
    headers=header_lists.map(make_headers),
    request_time=times,
    response_time=times,
    initial_age=times,
    fresh_until=times,
    stale_while_revalidate_until=times,
    stale_if_error_until=times,
    reason_phrase=texts,
    must_validate=st.booleans(),
    never_stale=st.booleans(),
    immutable=st.booleans(),
    etag=st.none() | st.builds(EntityTag, texts, st.booleans()),
    last_modified=st.none() | times,
    date=st.none() | times,
    vary=st.lists(texts, max_size=3).map(tuple),
    body_length=st.integers(0, 2**70),
    content_range=st.none() | st.tuples(st.integers(), st.integers(), st.none() | st.integers()),
    softened=st.booleans(),
    no_default_ttl=st.booleans(),
)
entries = st.builds(
    Entry,
    stored=storeds,
    body=st.binary(max_size=100),
    url=texts,
    purge_id=st.integers(0, 2**63),
    discard_at=times,
    tags=st.lists(texts, max_size=3).map(tuple),
    route=texts,
    forms=st.dictionaries(texts, st.binary(max_size=50), max_size=3),
)
markers = st.builds(
    VaryMarker,
    names=st.lists(texts, max_size=3).map(tuple),
    generation=st.integers(),
    discard_at=times,
    url=texts,
    purge_id=st.integers(0, 2**63),
)
records = entries | markers
