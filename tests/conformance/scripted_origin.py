"""An origin that answers each path as told, to the byte: fields as given, none added but a Date and the framing."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum
from typing import Final, TypeAlias

from typing_extensions import override

from tests.support.origin import raw_origin

Fields: TypeAlias = tuple[tuple[str, str], ...]
_PLACEHOLDER: Final = re.compile(r"<(-?\d+) s from now>")
BODILESS: Final = frozenset({204, 304})


class Framing(Enum):
    """How a reply's body ends."""

    LENGTH = "Content-Length"
    CHUNKED = "chunked"
    CLOSE = "the connection's end, HTTP/1.0 and HTTP/1.1"
    SHORT = "Content-Length, and the connection ends before it"
    CUT = "chunked, and the connection ends without the last chunk"
    NOTHING = "the connection ends without a response"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the origin sends.

    Attributes:
        lines: field lines in order, "Name: value".
        body: None: the target and the number of the request, so that each reply differs.
        dated: add the present Date unless `lines` have one.
        before: bytes sent ahead of the reply: interim responses.
        until: the reply waits for this event.
        pause: it waits for this event again before the second half of its body.
    """

    lines: tuple[str, ...] = ()
    status: int = 200
    body: bytes | None = None
    framing: Framing = Framing.LENGTH
    dated: bool = True
    before: bytes = b""
    until: asyncio.Event | None = None
    pause: asyncio.Event | None = None


def reply(
    *lines: str,
    status: int = 200,
    body: bytes | str | None = None,
    framing: Framing = Framing.LENGTH,
    dated: bool = True,
    before: bytes = b"",
    until: asyncio.Event | None = None,
    pause: asyncio.Event | None = None,
) -> Reply:
    """A `Reply` that reads like one: `reply("Cache-Control: max-age=60", status=404)`."""
    data = body.encode() if isinstance(body, str) else body
    return Reply(lines, status, data, framing, dated, before, until, pause)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the origin got it."""

    method: str
    target: str
    fields: Fields
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of all lines of a field."""
        return [value for field_name, value in self.fields if field_name.lower() == name.lower()]

    def field(self, name: str) -> str | None:
        """The value of a field that stands at most once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands {len(values)} times"
        return values[0] if values else None


Script: TypeAlias = Reply | Callable[[Seen], Reply]


@dataclass
class ScriptedOrigin:
    """The origin, and what it saw, by path (without the query)."""

    url: str = ""
    _scripts: dict[str, list[Script]] = field(default_factory=dict)
    _seen: defaultdict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))

    def answers(self, path: str, *scripts: Script) -> None:
        """Answer requests for `path` with `scripts` in turn, then on and on with the last."""
        assert scripts
        self._scripts[path] = list(scripts)

    def seen(self, path: str) -> list[Seen]:
        """The requests for `path` so far."""
        return self._seen[path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await _read(reader)) is not None:
            path = request.target.partition("?")[0]
            seen = self._seen[path]
            seen.append(request)
            number = len(seen)
            scripts = self._scripts.get(path, [Reply(("Cache-Control: no-store",), 404)])
            script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
            answer = script if isinstance(script, Reply) else script(request)
            if answer.until is not None:
                await answer.until.wait()
            if answer.framing is Framing.NOTHING:
                return
            body = answer.body if answer.body is not None else f"{request.target} #{number}".encode()
            wire = answer.before + _wire(answer, body, is_head=request.method == "HEAD")
            if answer.pause is not None:
                half = len(wire) - len(body) // 2
                writer.write(wire[:half])
                await answer.pause.wait()
                wire = wire[half:]
            writer.write(wire)
            await writer.drain()
            if answer.framing in {Framing.CLOSE, Framing.SHORT, Framing.CUT}:
                return


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head[:-4].decode("utf-8", "surrogateescape").split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    fields = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]))
    request = Seen(method, target, fields, b"")
    length = request.field("Content-Length")
    body = await reader.readexactly(int(length)) if length is not None else b""
    if request.field("Transfer-Encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    return Seen(method, target, fields, body)


def _wire(answer: Reply, body: bytes, *, is_head: bool) -> bytes:
    names = {line.partition(":")[0].lower() for line in answer.lines}
    lines = [f"HTTP/1.1 {answer.status} Scripted"]
    if answer.dated and "date" not in names:
        lines.append(f"Date: {formatdate(time.time(), usegmt=True)}")
    lines.extend(map(dated, answer.lines))
    has_body = answer.status not in BODILESS and not is_head
    if answer.status not in BODILESS:
        match answer.framing:
            case Framing.LENGTH if "content-length" not in names:
                lines.append(f"Content-Length: {len(body)}")
            case Framing.CHUNKED | Framing.CUT:
                lines.append("Transfer-Encoding: chunked")
                body = (
                    f"{len(body):x}\r\n".encode()
                    + body
                    + (b"\r\n0\r\n\r\n" if answer.framing is Framing.CHUNKED else b"")
                )
            case Framing.SHORT:
                lines.append(f"Content-Length: {len(body) + 10}")
            case Framing.CLOSE:
                lines.append("Connection: close")
            case Framing.LENGTH | Framing.NOTHING:
                pass
    head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
    return head + body if has_body else head


class HttpDate(str):
    """An IMF-fixdate so many seconds from the beginning of the test that uses it.

    Tables are made when tests are collected, which may be long before they run: as text this is a placeholder, and it
    becomes a date when it is sent, or compared with one.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    @override
    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) or dated(str(self)) == other


class _TestTime:
    """When the test that runs began, in wall seconds."""

    began = time.time()


def begin_test() -> None:
    """Dates count from now on."""
    _TestTime.began = time.time()


def http_date(seconds_from_now: float) -> HttpDate:
    """A date relative to the beginning of the test."""
    return HttpDate(f"<{seconds_from_now:.0f} s from now>")


def dated(text: str) -> str:
    """`text` with its `HttpDate`s as dates."""
    return _PLACEHOLDER.sub(lambda match: formatdate(_TestTime.began + int(match[1]), usegmt=True), text)


@asynccontextmanager
async def scripted_origin() -> AsyncIterator[ScriptedOrigin]:
    """A `ScriptedOrigin` that listens on loopback."""
    origin = ScriptedOrigin()
    async with raw_origin(origin._serve) as origin.url:
        yield origin
