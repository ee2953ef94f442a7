"""Access log: one line for each exchange.

Stands leftmost, so that a line tells of the request as the client sent it and of the response as it was delivered.
"""

import logging
import random
import re
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import unquote_plus

import structlog
from pydantic import Field
from typing_extensions import override

from proxy.errors import ProxyError
from proxy.http.message import Headers, Request
from proxy.pipeline.exchange import Exchange, ExchangeKey, Outcome, Stats
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services

_MASK: Final = "***"
_PAIR: Final = re.compile(r"([^=&;]*)=[^&;]*")  # some servers part parameters at ";" too
# W3C Trace Context §3.2.2: version, trace-id, parent-id, flags. Version ff is invalid; versions after 00 may go on.
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class AccessLogSettings(PluginSettings):
    """Settings of `[plugins.access_log]`.

    Attributes:
        sample: share (0 to 1) of the exchanges logged that are neither slow nor failed; those always are, so 0 logs
            slow and failed ones only. A failed one has a 5xx status, an error, or was cut off.
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
        # Filled by `start`: logging is configured by then, and a bound logger costs half of an unbound one.
        self._log: Any = None
        self._written = 0
        self._skipped = 0

    @override
    async def start(self) -> None:
        log = structlog.get_logger("access").bind()
        self._log = log if log.is_enabled_for(logging.INFO) else None

    @override
    async def on_request(self, exchange: Exchange) -> None:
        exchange.put(self._received, exchange.request)  # others may put another in its place

    @override
    def on_complete(self, exchange: Exchange, outcome: Outcome) -> None:
        if self._log is None:
            return
        error = outcome.error or exchange.error
        if not self._wanted(outcome, failed=error is not None or outcome.aborted or outcome.status >= 500):
            self._skipped += 1
            return
        self._written += 1
        self._log.info("request", **self._fields(exchange, outcome, error))

    @override
    def stats(self) -> Stats:
        return {"written": self._written, "not_sampled": self._skipped}

    def _wanted(self, outcome: Outcome, *, failed: bool) -> bool:
        sample = self.settings.sample
        return sample >= 1 or failed or outcome.duration >= self.settings.slow_seconds or self._rng.random() < sample

    def _fields(self, exchange: Exchange, outcome: Outcome, error: ProxyError | None) -> dict[str, object]:
        """What the line says; what there is nothing to say of is left out."""
        request = exchange.take(self._received) or exchange.request
        cache = exchange.cache
        fields: dict[str, object] = {
            "request_id": exchange.id,
            "trace_id": trace_id(request.headers),
            "client": request.client,
            "method": request.method,
            "host": request.host,
            "target": self.redact(request.target),
            "route": exchange.route.name,
            "status": outcome.status,
            "bytes": outcome.bytes_sent,
            "answered_by": exchange.answered_by,
            "cache": cache.result.value,
            "cache_reason": cache.reason.token if cache.reason else None,
            "cache_tier": cache.tier or None,
            "collapsed": cache.collapsed or None,
            "duration_ms": _milliseconds(outcome.duration),
            "first_byte_ms": _milliseconds(outcome.first_byte),
            "upstream_ms": _milliseconds(exchange.upstream_seconds),
            "aborted": outcome.aborted or None,
            "notes": exchange.notes or None,
        }
        if error is not None:
            fields["error"] = error.error_type
            fields["error_detail"] = error.detail
        if self.settings.request_headers:
            fields["request_headers"] = {
                name.lower(): value
                for name in self.settings.request_headers
                if (value := request.headers.get(name)) is not None
            }
        return {name: value for name, value in fields.items() if value is not None}

    def redact(self, target: str) -> str:
        """`target` with the values of the secret query parameters masked."""
        path, mark, query = target.partition("?")
        if not mark or not self._redacted:
            return target
        return f"{path}?{_PAIR.sub(self._mask, query)}"

    def _mask(self, pair: re.Match[str]) -> str:
        return f"{pair[1]}={_MASK}" if unquote_plus(pair[1]).lower() in self._redacted else pair[0]


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def trace_id(headers: Headers) -> str | None:
    """The trace-id of the `traceparent` field (W3C Trace Context §3.2), None without a valid one."""
    value = headers.get("traceparent")
    if value is None:
        return None
    match = _TRACEPARENT.fullmatch(value.strip())
    if match is None or (value.startswith("00") and match[2] is not None):
        return None
    return match[1]
