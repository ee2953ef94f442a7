"""Access log: one line for each exchange.

Stands leftmost, so that a line tells of the request as the client sent it and of the response as it was delivered.
"""

import random
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from math import floor
from typing import Annotated, ClassVar, Final
from urllib.parse import unquote_plus

from pydantic import Field
from typing_extensions import override

from proxy.http.message import Headers, Request
from proxy.logs import MICROSECONDS, EventLogger, escaped, millisecond
from proxy.pipeline.exchange import Exchange, ExchangeKey, Outcome, Stats
from proxy.pipeline.passage import PassagePart, Passed
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from proxy.pipeline.replay import SERVER_MADE, Arrival, Journal, Note, ReplayPart

# What differs in the lines of exchanges that are alike, in the order in which it stands there.
_TEXTS: Final = "request_id", "client"
_NUMBERS: Final = "duration_ms", "first_byte_ms"
_MASK: Final = "***"
_SEPARATOR: Final = re.compile("([&;])")  # some servers part parameters at ";" too
# W3C Trace Context §3.2.2: version, trace-id, parent-id, flags. Version ff is invalid; versions after 00 may go on.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class AccessLogSettings(PluginSettings):
    """Settings of `[plugins.access_log]`.

    Attributes:
        sample: share (0 to 1) of the exchanges logged that are neither slow nor failed; those always are, so 0 logs
            slow and failed ones only. A failed one has a 5xx status or was cut off.
        slow_seconds: duration from which an exchange is slow.
        redact_query: names of query parameters whose values are masked, compared decoded and without regard to case.
        request_headers: names of request fields that are logged too.
    """

    sample: float = Field(default=1.0, ge=0, le=1)
    slow_seconds: float = Field(default=1.0, gt=0)
    redact_query: tuple[str, ...] = (
        "access_token", "api_key", "apikey", "code", "id_token", "key", "passwd", "password", "refresh_token", "secret",
        "sig", "signature", "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature",
    )  # fmt: skip
    request_headers: tuple[Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")], ...] = ()


class _Replays:
    """Exchanges that are all alike.

    Args:
        template: the line of one of them.
        log_fields: request fields are logged too; then no line can be made ready.

    Attributes:
        template: as given.
        is_ready: their line is made ready (`EventLogger.prepare`), and cut where it differs.
        begin: up to the time; to_id: from there to the request id.
        client: who asked last; to_took: from the id to the duration, the client's address between them.
        took: by whole microseconds, how a duration below a millisecond stands there, twice as it does.
        end, to_trace, traced_end: behind the durations, without a trace, and with one.
    """

    __slots__ = (
        "_before_took", "_between", "_to_client", "begin", "client", "end", "is_ready", "template", "to_id", "to_took",
        "to_trace", "took", "traced_end",
    )  # fmt: skip

    def __init__(self, log: EventLogger, template: dict[str, object], *, log_fields: bool) -> None:
        self.template = template
        self.is_ready = False
        bare = {key: value for key, value in template.items() if key != "trace_id"}
        untraced = None if log_fields else log.prepare(bare, _TEXTS, _NUMBERS)
        traced = None if log_fields else log.prepare(bare, (*_TEXTS, "trace_id"), _NUMBERS)
        if untraced is None or traced is None:
            return
        self.is_ready = True
        self.begin, self.to_id, self._to_client, self._before_took, self._between, self.end = untraced
        self.to_trace, self.traced_end = traced[-2:]
        self.took = _took_twice(self._between)
        self.client = self.to_took = ""
        self.turn_to("")

    def turn_to(self, client: str) -> None:
        """Have `to_took` say that `client` asked."""
        self.client = client
        self.to_took = f"{self._to_client}{escaped(client)}{self._before_took}"

    def took_long(self, seconds: float) -> str:
        """As `took` says it, for any duration."""
        milliseconds = f"{seconds * 1000:.3f}"
        return f"{milliseconds}{self._between}{milliseconds}"


class AccessLog(Plugin[AccessLogSettings]):
    """Writes the line when the exchange is over."""

    name: ClassVar[str] = "access_log"
    settings_type: ClassVar[type[PluginSettings]] = AccessLogSettings
    replay: ClassVar[Replay] = Replay.PURE

    def __init__(self, settings: AccessLogSettings, services: Services, *, rng: random.Random | None = None) -> None:
        super().__init__(settings, services)
        self._rng = rng or random.Random()  # noqa: S311 — it picks log lines, it guards nothing
        self._received: Final[ExchangeKey[Request]] = ExchangeKey("access_log.received")
        self._redacted = frozenset(name.lower() for name in settings.redact_query)
        self._log: EventLogger | None = None  # made by `start`: logging is configured by then
        self._replayed = Journal(self._log_replays)
        self._written = 0
        self._skipped = 0

    @override
    async def start(self) -> None:
        log = EventLogger("access")
        self._log = log if log.enabled else None

    @override
    async def on_request(self, exchange: Exchange) -> None:
        exchange.put(self._received, exchange.request)  # others may put another in its place

    @override
    def on_complete(self, exchange: Exchange, outcome: Outcome) -> None:
        if self._log is None:
            return
        if not self._wanted(outcome):
            self._skipped += 1
            return
        self._written += 1
        self._replayed.settle()  # a client's requests are logged in their order
        self._log.info(self._line(exchange, outcome))

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart | None:
        if self._log is None:
            return None
        if not SERVER_MADE.isdisjoint(name.lower() for name in self.settings.request_headers):
            return ReplayPart(check=lambda _: None)  # the head does not tell what these fields say
        replays = _Replays(self._log, self._line(exchange, outcome), log_fields=bool(self.settings.request_headers))
        return ReplayPart(journal=(self._replayed, replays))

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        if self._log is None:
            return PassagePart(any_target=True)
        if exchange.notes or not SERVER_MADE.isdisjoint(name.lower() for name in self.settings.request_headers):
            return None
        return PassagePart(note=partial(self._log_passed, self._line(exchange, outcome)), any_target=True)

    def _log_passed(self, template: Mapping[str, object], passed: Passed) -> None:
        """Log a request like the one that `template` is the line of."""
        if not self._is_picked(passed.seconds):
            self._skipped += 1
            return
        self._written += 1
        self._replayed.settle()  # a client's requests are logged in their order
        arrival = passed.arrival
        arrival.head = passed.head
        line = dict(template)
        line["request_id"] = passed.request_id
        line["client"] = arrival.client
        line["target"] = self.redact(passed.target)
        line["bytes"] = passed.bytes_sent
        took = _milliseconds(passed.seconds)
        for name in ("duration_ms", "first_byte_ms", "upstream_ms"):
            if name in line:
                line[name] = took
        self._add_own(line, arrival, _trace_id(arrival.field(b"traceparent")))
        assert self._log is not None
        self._log.info(line)

    def _log_replays(self, notes: Sequence[Note[_Replays]]) -> None:
        log = self._log
        assert log is not None
        picked = notes if self.settings.sample >= 1 else [note for note in notes if self._is_picked(note[-1])]
        self._skipped += len(notes) - len(picked)
        self._written += len(picked)
        text: list[str] = []
        alone = 0
        trace, trace_of = None, b""
        start, time = millisecond(0)
        for replays, arrival, head, moment, duration in picked:
            arrival.head = head
            if head != trace_of:
                trace, trace_of = _trace_id(arrival.field(b"traceparent")), head
            if not replays.is_ready:
                log.info(self._replay_line(replays.template, arrival, moment, duration, trace))
                alone += 1
                continue
            # `floor` takes half the time of `int`, and a product of two floats less than one of a float and an int.
            now = floor(moment * 1e6)
            past = now - start
            if not 0 <= past < 1000:
                start, time = millisecond(now)
                past = now - start
            client = arrival.client
            if client != replays.client:
                replays.turn_to(client)
            took = floor(duration * 1e6 + 0.5)
            text += (
                replays.begin, time, MICROSECONDS[past], replays.to_id, arrival.make_id(), replays.to_took,
                replays.took[took] if took < 1000 else replays.took_long(duration),
                replays.end if trace is None else f"{replays.to_trace}{trace}{replays.traced_end}",
            )  # fmt: skip
        if text:
            log.write("".join(text), len(picked) - alone)

    def _replay_line(
        self, template: Mapping[str, object], arrival: Arrival, moment: float, duration: float, trace: str | None
    ) -> dict[str, object]:
        """The line's fields for an exchange like the one that `template` is of."""
        line = dict(template)
        line["timestamp"] = datetime.fromtimestamp(moment, UTC)
        line["request_id"] = arrival.make_id()
        line["client"] = arrival.client
        line["duration_ms"] = line["first_byte_ms"] = _milliseconds(duration)
        self._add_own(line, arrival, trace)
        return line

    def _add_own(self, line: dict[str, object], arrival: Arrival, trace: str | None) -> None:
        """Say what the head of this request says, in place of what another one's said."""
        line.pop("trace_id", None)
        if trace is not None:
            line["trace_id"] = trace
        if self.settings.request_headers:
            read = ((name.lower(), arrival.field(name.lower().encode())) for name in self.settings.request_headers)
            line["request_headers"] = {name: value for name, value in read if value is not None}

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return frozenset()

    @override
    def stats(self) -> Stats:
        return {"written": self._written, "not_sampled": self._skipped}

    def _wanted(self, outcome: Outcome) -> bool:
        return outcome.status >= 500 or outcome.aborted or self._is_picked(outcome.duration)

    def _is_picked(self, duration: float) -> bool:
        sample = self.settings.sample
        return sample >= 1 or duration >= self.settings.slow_seconds or self._rng.random() < sample

    def _line(self, exchange: Exchange, outcome: Outcome) -> dict[str, object]:
        """The line's fields; what there is nothing to say of is left out."""
        request = exchange.take(self._received) or exchange.request
        cache = exchange.cache
        line: dict[str, object] = {
            "event": "request",
            "request_id": exchange.id,
            "client": request.client,
            "method": request.method,
            "host": request.host,
            "target": self.redact(request.target),
            "route": exchange.route.name,
            "status": outcome.status,
            "bytes": outcome.bytes_sent,
            "answered_by": exchange.answered_by,
            "cache": cache.result.value,
            "duration_ms": _milliseconds(outcome.duration),
        }
        if outcome.first_byte is not None:
            line["first_byte_ms"] = _milliseconds(outcome.first_byte)
        if exchange.upstream_seconds is not None:
            line["upstream_ms"] = _milliseconds(exchange.upstream_seconds)
        if cache.reason is not None:
            line["cache_reason"] = cache.reason.token
        if cache.tier:
            line["cache_tier"] = cache.tier
        if cache.collapsed:
            line["collapsed"] = True
        if (trace := trace_id(request.headers)) is not None:
            line["trace_id"] = trace
        if (error := outcome.error or exchange.error) is not None:
            line["error"] = error.error_type
            line["error_detail"] = error.detail
        if outcome.aborted:
            line["aborted"] = True
        if self.settings.request_headers:
            line["request_headers"] = self._request_headers(request)
        if exchange.notes:
            line["notes"] = exchange.notes
        return line

    def _request_headers(self, request: Request) -> dict[str, str]:
        logged = ((name.lower(), request.headers.getall(name, ())) for name in self.settings.request_headers)
        return {name: ", ".join(lines) for name, lines in logged if lines}

    def redact(self, target: str) -> str:
        """`target` with the values of the secret query parameters masked."""
        path, mark, query = target.partition("?")
        if not mark:
            return target
        parts = _SEPARATOR.split(query)
        for place, part in enumerate(parts):
            name, equals, _ = part.partition("=")
            if equals and self._is_secret(name):
                parts[place] = f"{name}={_MASK}"
        return f"{path}?{''.join(parts)}"

    def _is_secret(self, name: str) -> bool:
        if "%" in name or "+" in name:
            name = unquote_plus(name)
        return name.lower() in self._redacted


@lru_cache(maxsize=8)
def _took_twice(between: str) -> tuple[str, ...]:
    """By whole microseconds, a duration below a millisecond with `between` behind it, and the same once more."""
    took = [f"{microseconds / 1000:.3f}" for microseconds in range(1000)]
    return tuple([f"{once}{between}{once}" for once in took])


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def trace_id(headers: Headers) -> str | None:
    """The trace-id of the `traceparent` field (W3C Trace Context §3.2), None without a valid one, or with several."""
    return _trace_id(", ".join(headers.getall("traceparent", ())))


def _trace_id(value: str | None) -> str | None:
    if value is None:
        return None
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None or (value.startswith("00") and match[2] is not None):
        return None
    return match[1]
