"""Compression: response bodies in the coding that the client likes best.

Stands left of the cache, because what a client accepts is its own affair. What is stored, and asked of the upstream, is
the plain form; the coded forms of a stored response are made from it once, kept beside it, and made better than those
that are sent once. So the upstream is asked once per resource, never once per coding.

A plugin between this one and the cache that changes a body must set `exchange.forms` to None: forms are made from what
is stored.

Never coded: what is coded already, partial content, what has no body, answers to range requests, and what is marked
`no-transform` (RFC 9110 §7.7) on either side. A response that the upstream coded although nobody asked for it is
decoded for a client that does not accept that.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Final

from typing_extensions import override

from plugins.compression.codecs import CODINGS, Coding, compress, decoder
from plugins.compression.fields import NO_TAGS, reformed, tag_as_sent, unmark_conditions, varies, varying
from plugins.compression.settings import CompressionSettings
from plugins.compression.streams import DecodedStream, EncodedStream, SingleChunk, Tally
from plugins.compression.threads import CodingThreads
from plugins.compression.wishes import IDENTITY, Wish, Wishes
from plugins.media_types import media_matcher
from proxy.http.body import Body
from proxy.http.cache_control import request_directives, response_directives
from proxy.http.headers import combined
from proxy.http.message import Response
from proxy.http.names import (
    ACCEPT_ENCODING,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    IF_MATCH,
    IF_NONE_MATCH,
    RANGE,
    UPGRADE,
)
from proxy.metrics.registry import Counter
from proxy.pipeline.exchange import DerivedForms, Exchange, ExchangeKey, Outcome, Stats
from proxy.pipeline.passage import PassagePart
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from proxy.pipeline.replay import ReplayPart

_BODYLESS: Final = frozenset({101, 204, 205, 206, 304})
_CONDITION_FAILED: Final = frozenset({412, 416})  # answers to a stored response's conditions, not that response
_HEEDED: Final = frozenset({
    "accept-encoding", "cache-control", "if-match", "if-none-match", "if-range", "range", "upgrade",
})  # fmt: skip
_LARGER: Final = b""
"""Kept as the form of a body that does not get smaller; no coding makes nothing of something."""


def _count_into(counter: Counter) -> Callable[[Sequence[float], int], None]:
    def tally(durations: Sequence[float], _bytes_sent: int) -> None:
        counter.value += len(durations)

    return tally


class Compression(Plugin[CompressionSettings]):
    """See the module."""

    name: ClassVar[str] = "compression"
    settings_type: ClassVar[type[PluginSettings]] = CompressionSettings
    replay: ClassVar[Replay] = Replay.PURE

    def __init__(self, settings: CompressionSettings, services: Services) -> None:
        super().__init__(settings, services)
        self._wish: Final[ExchangeKey[Wish]] = ExchangeKey("compression.wish")
        self._counted: Final[ExchangeKey[str]] = ExchangeKey("compression.counted")
        # Read for each request; an attribute of a pydantic model takes its time.
        self._asks_for_identity = settings.upstream_encoding == IDENTITY
        self._min_bytes: int = settings.min_bytes
        self._wishes = Wishes(settings.codings)
        self._threads = CodingThreads(settings.threads)
        self._compressible = media_matcher(settings.content_types)
        self._flushed = media_matcher(settings.flush_types)
        responses = services.metrics.counter(
            "sidecache_compression_responses", "Responses with a body worth compressing, by coding sent.", ("coding",)
        )
        sizes = services.metrics.counter(
            "sidecache_compression_bytes",
            "Bytes of bodies compressed, before (in) and after (out).",
            ("coding", "side"),
        )
        self._responses = {coding: responses.labels(coding) for coding in (*CODINGS, IDENTITY)}
        self._count_replays = {coding: _count_into(counter) for coding, counter in self._responses.items()}
        self._tallies = {coding: Tally(sizes.labels(coding, "in"), sizes.labels(coding, "out")) for coding in CODINGS}

    @override
    async def close(self) -> None:
        self._threads.close()

    @override
    async def on_request(self, exchange: Exchange) -> None:
        request = exchange.request
        headers = request.headers
        if exchange.switch_to or UPGRADE in headers:
            return
        accept = combined(headers, ACCEPT_ENCODING)
        wish = self._wishes.of_get(accept)
        changed, tags = None, NO_TAGS
        if IF_NONE_MATCH in headers or IF_MATCH in headers:
            changed, tags = unmark_conditions(headers, wish.accepted)
        head = request.method == "HEAD"
        as_is = RANGE in headers or (CACHE_CONTROL in headers and request_directives(headers).no_transform)
        if head or as_is or tags:
            wish = Wish(wish.accepted, wish.coding, as_is, head, tags)
        exchange.put(self._wish, wish)
        if self._asks_for_identity and accept != IDENTITY:
            changed = headers.copy() if changed is None else changed
            # Not left out: to an upstream that would mean that any coding will do (RFC 9110 §12.5.3).
            changed[ACCEPT_ENCODING] = IDENTITY
        if changed is not None:
            exchange.request = request.with_headers(changed)

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        wish = exchange.take(self._wish)
        headers = response.headers
        if wish is None or (CACHE_CONTROL in headers and response_directives(headers).no_transform):
            return response
        if response.status == 304:
            return self._confirm(response, wish)
        if (
            CONTENT_ENCODING in headers
            and (coded := combined(headers, CONTENT_ENCODING))
            and (coding := coded.strip().lower()) != IDENTITY
        ):
            return self._decode(response, coding.removeprefix("x-"), wish)
        if not self._worthwhile(response, wish):
            return response
        if wish.coding is None or wish.as_is or response.status in _BODYLESS:
            return self._plain(exchange, response)
        return await self._encode(exchange, response, wish.coding, head=wish.head)

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart | None:
        coding = exchange.take(self._counted)
        return None if coding is None else ReplayPart(tally=self._count_replays[coding])

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        wish, coding = exchange.take(self._wish), exchange.take(self._counted)
        if wish is None or (coding is not None and wish.coding is not None and not wish.as_is):
            return None  # whether a body gets smaller is its own affair
        tally = None if coding is None else self._count_replays[coding]
        if outcome.bytes_sent < self._min_bytes:
            return PassagePart(tally=tally, most_bytes=self._min_bytes - 1, any_target=True)
        return PassagePart(tally=tally, least_bytes=self._min_bytes, any_target=True)

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return _HEEDED

    @override
    def stats(self) -> Stats:
        return {
            "responses": {coding: int(counter.value) for coding, counter in self._responses.items()},
            "bytes": {
                coding: {"in": int(tally.bytes_in.value), "out": int(tally.bytes_out.value)}
                for coding, tally in self._tallies.items()
            },
        }

    def _worthwhile(self, response: Response, wish: Wish) -> bool:
        """Whether the response is of a type and size that would be compressed for a client that accepts it."""
        headers = response.headers
        if response.status in _BODYLESS and response.status != 206:
            return False
        if not self._compressible(headers.get(CONTENT_TYPE, "")):
            return False
        length = headers.get(CONTENT_LENGTH, "")
        if length.isascii() and length.isdigit():
            # Of a part, its own length says nothing about the whole.
            return response.status == 206 or int(length) >= self._min_bytes
        return wish.head or not isinstance(response.body, bytes) or len(response.body) >= self._min_bytes

    async def _encode(self, exchange: Exchange, response: Response, coding: Coding, *, head: bool) -> Response:
        body: Body = response.body
        length: int | None = None
        if exchange.forms is not None and response.status not in _CONDITION_FAILED:
            form = await self._form(exchange.forms, coding)
            if form == _LARGER:
                return self._plain(exchange, response)
            body, length = form, len(form)
        elif isinstance(body, bytes):
            if not head:
                coded = await self._compress(coding, self.settings.levels.of(coding), body)
                if len(coded) >= len(body):
                    return self._plain(exchange, response)
                body, length = coded, len(coded)
        else:
            flushed = self._flushed(response.headers.get("Content-Type", ""))
            body = EncodedStream(
                body,
                coding,
                self.settings.levels.of(coding),
                threads=self._threads,
                tasks=self.services.tasks,
                tally=self._tallies[coding],
                flush_after_seconds=0 if flushed else self.settings.flush_after_seconds,
            )
        headers = reformed(varying(response.headers), coding)
        headers["Content-Encoding"] = coding
        if length is not None:
            headers["Content-Length"] = str(length)
        self._count(exchange, coding)
        return response.with_body(headers, b"" if head and isinstance(body, bytes) else body)

    def _plain(self, exchange: Exchange, response: Response) -> Response:
        """Sent as it is, though it would be compressed for others."""
        self._count(exchange, IDENTITY)
        headers = response.headers
        return response if varies(headers) else response.with_headers(varying(headers))

    def _count(self, exchange: Exchange, coding: str) -> None:
        self._responses[coding].value += 1
        if exchange.wants_replay or exchange.transcript is not None:
            exchange.put(self._counted, coding)

    async def _form(self, forms: DerivedForms, coding: Coding) -> bytes:
        async def compute(body: bytes) -> bytes:
            form = await self._compress(coding, self.settings.stored_levels.of(coding), body)
            return form if len(form) < len(body) else _LARGER

        return await forms.derive(coding, compute)

    async def _compress(self, coding: Coding, level: int, body: bytes) -> bytes:
        coded = await self._threads.run(partial(compress, coding, level, body), len(body), coding, level)
        tally = self._tallies[coding]
        tally.bytes_in.value += len(body)
        tally.bytes_out.value += len(coded)
        return coded

    @staticmethod
    def _decode(response: Response, coding: str, wish: Wish) -> Response:
        """What the upstream coded, without its coding for a client that does not accept it."""
        if coding not in CODINGS or response.status in _BODYLESS:
            return response
        headers = varying(response.headers)
        if coding in wish.accepted or IDENTITY not in wish.accepted or wish.as_is:
            return response.with_headers(headers)
        headers = reformed(headers, IDENTITY)
        del headers["Content-Encoding"]
        body = response.body
        if wish.head or not body:
            return response.with_body(headers, body)
        source = SingleChunk(body) if isinstance(body, bytes) else body
        return response.with_body(headers, DecodedStream(source, decoder(coding)))

    def _confirm(self, response: Response, wish: Wish) -> Response:
        """A 304 in the client's tags. What it confirms may well vary, unless it says that it is of another type."""
        headers = response.headers.copy()
        if (content_type := headers.get("Content-Type")) is None or self._compressible(content_type):
            headers = varying(response.headers)
        if (tag := headers.get("ETag")) is not None:
            headers["ETag"] = tag_as_sent(tag, wish.tags)
        return response.with_headers(headers)
