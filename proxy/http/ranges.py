"""Range requests (RFC 9110 §14): which bytes are asked for, and responses made of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeAlias

from multidict import CIMultiDict

from proxy.http.headers import split_list
from proxy.http.message import Headers, Response, make_headers, to_wire

MAX_RANGES: Final = 32
"""More in one request are a mistake or an attack: the field is ignored (RFC 9110 §14.2, §17.15)."""

_SPEC: Final = re.compile(r"(?P<first>[0-9]*)[ \t]*-[ \t]*(?P<last>[0-9]*)")
_CONTENT_RANGE: Final = re.compile(r"bytes[ \t]+(?:([0-9]+)-([0-9]+)/([0-9]+|\*))", re.IGNORECASE)
_DIGITS_MAX: Final = 18


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `first` to `last`, both included, counted from 0."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class RangeSpec:
    """One member of a `Range` field: `first-last`, `first-` (last None) or `-suffix` (first None, last the length)."""

    first: int | None
    last: int | None

    def within(self, length: int) -> ByteRange | None:
        """The bytes it means of a representation of `length` bytes; None when it is unsatisfiable (§14.1.2)."""
        if self.first is None:
            assert self.last is not None
            return ByteRange(max(0, length - self.last), length - 1) if self.last and length else None
        if self.first >= length:
            return None
        return ByteRange(self.first, length - 1 if self.last is None else min(self.last, length - 1))


ContentRange: TypeAlias = tuple[int, int, int | None]
"""First and last byte, both included, and the complete length, None when unknown."""


def parse_range(value: str | None) -> tuple[RangeSpec, ...] | None:
    """The ranges of a `Range` field; None when it is to be ignored: absent, malformed, another unit, too many."""
    if value is None:
        return None
    unit, equals, ranges = value.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes":
        return None
    members = split_list(ranges)
    if not members or len(members) > MAX_RANGES:
        return None
    specs: list[RangeSpec] = []
    for member in members:
        match = _SPEC.fullmatch(member)
        if match is None:
            return None
        first, last = _position(match["first"]), _position(match["last"])
        if (first is None and last is None) or (first is not None and last is not None and last < first):
            return None
        specs.append(RangeSpec(first, last))
    return tuple(specs)


def _position(digits: str) -> int | None:
    if not digits:
        return None
    # No body is as long as that; int() of thousands of digits is slow, and refused.
    return int(digits) if len(digits.lstrip("0")) <= _DIGITS_MAX else 10**_DIGITS_MAX


def satisfiable(specs: Sequence[RangeSpec], length: int) -> tuple[ByteRange, ...]:
    """The bytes asked for, in the order asked; ranges that overlap or touch are joined (RFC 9110 §15.3.7.2)."""
    joined: list[ByteRange] = []
    for wanted in (spec.within(length) for spec in specs):
        if wanted is None:
            continue
        merged, place = wanted, len(joined)
        for index in range(len(joined) - 1, -1, -1):
            other = joined[index]
            if merged.first <= other.last + 1 and other.first <= merged.last + 1:
                merged = ByteRange(min(merged.first, other.first), max(merged.last, other.last))
                del joined[index]
                place = index
        joined.insert(min(place, len(joined)), merged)
    return tuple(joined)


def covers(specs: Sequence[RangeSpec], held: ContentRange | None) -> bool:
    """Whether all that `specs` ask for is in the part `held`, or can be seen to be unsatisfiable (RFC 9111 §3.3)."""
    if held is None:
        return True
    first, last, complete = held
    if complete is None:
        return all(
            spec.first is not None and spec.last is not None and first <= spec.first and spec.last <= last
            for spec in specs
        )
    wanted = [part for spec in specs if (part := spec.within(complete)) is not None]
    return all(first <= part.first and part.last <= last for part in wanted)


def format_content_range(part: ByteRange, complete: int | None) -> str:
    """The value of a `Content-Range` field (RFC 9110 §14.4)."""
    return f"bytes {part.first}-{part.last}/{'*' if complete is None else complete}"


def parse_content_range(value: str | None) -> ContentRange | None:
    """What a `Content-Range` field of a 206 says; None when absent, malformed, in another unit, or for no part."""
    match = _CONTENT_RANGE.fullmatch(value.strip(" \t")) if value is not None else None
    if match is None:
        return None
    first, last = _position(match[1]), _position(match[2])
    assert first is not None and last is not None
    complete = None if match[3] == "*" else _position(match[3])
    if last < first or (complete is not None and complete <= last):
        return None
    return first, last, complete


def partial_response(full: Response, body: bytes, specs: Sequence[RangeSpec], held: ContentRange | None) -> Response:
    """The 206 or 416 for `specs`, or `full` where ranges make no sense.

    Args:
        full: the response without regard to ranges.
        body: the complete body, or the part that `held` describes.
        held: None for a complete body.
    """
    offset, last, complete = (0, len(body) - 1, len(body)) if held is None else held
    length = last + 1 if complete is None else complete
    if not length or not covers(specs, held):
        return full
    wanted = satisfiable(specs, length)
    if not wanted:
        return unsatisfiable(full.headers, complete)
    parts = [body[part.first - offset : part.last - offset + 1] for part in wanted]
    headers = full.headers.copy()
    headers.popall("Content-Length", None)
    headers.popall("Content-Range", None)
    if len(wanted) == 1:
        headers["Content-Range"] = format_content_range(wanted[0], complete)
        headers["Content-Length"] = str(wanted[0].length)
        return Response(206, type(full.headers)(headers), parts[0])
    content_type = full.headers.get("Content-Type")
    boundary = _boundary(body, wanted)
    content = _multipart(parts, wanted, complete, content_type, boundary)
    headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    headers["Content-Length"] = str(len(content))
    return Response(206, type(full.headers)(headers), content)


def unsatisfiable(headers: Headers, complete: int | None) -> Response:
    """416 (RFC 9110 §15.5.17). `headers` are those of the full response; its validators and Date stay."""
    kept = CIMultiDict((name, headers[name]) for name in ("Date", "ETag", "Last-Modified") if name in headers)
    kept["Content-Range"] = f"bytes */{'*' if complete is None else complete}"
    kept["Content-Length"] = "0"
    return Response(416, make_headers(kept.items()), b"")


def _boundary(body: bytes, wanted: Sequence[ByteRange]) -> str:
    """A delimiter that is not in `body` (RFC 2046 §5.1.1). The same request gets the same."""
    seed = f"{len(body)}:{wanted}".encode() + body[:64]
    while True:
        boundary = blake2b(seed, digest_size=12).hexdigest()
        if boundary.encode() not in body:
            return boundary
        seed = boundary.encode()


def _multipart(
    parts: Sequence[bytes], wanted: Sequence[ByteRange], complete: int | None, content_type: str | None, boundary: str
) -> bytes:
    """multipart/byteranges (RFC 9110 §14.6)."""
    pieces: list[bytes] = []
    for part, place in zip(parts, wanted, strict=True):
        head = f"\r\n--{boundary}\r\n"
        if content_type is not None:
            head += f"Content-Type: {content_type}\r\n"
        head += f"Content-Range: {format_content_range(place, complete)}\r\n\r\n"
        pieces += [to_wire(head), part]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    return b"".join(pieces)
