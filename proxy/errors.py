"""Errors say whose fault they are: the client's, the upstream's, the configuration's.

One root, `ProxyError`, with the status a client is to see and the Proxy-Status error type (RFC 9209 §2.3) that names
what went wrong. A foreign exception is translated once, where it enters, with `raise … from`. How an error becomes a
response is in `proxy.http.problem`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class ProxyError(Exception):
    """An error that ends a request.

    Args:
        detail: one sentence for the client: what happened, without internals.
        error_type: the Proxy-Status error type; the class has a default.
        retry_after: whole seconds for the `Retry-After` field, if waiting helps.
    """

    status_hint: ClassVar[int] = 500
    default_error_type: ClassVar[str] = "proxy_internal_error"

    def __init__(self, detail: str, *, error_type: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.error_type = error_type or self.default_error_type
        self.retry_after = retry_after


class ClientError(ProxyError):
    """The request cannot be served as it is."""

    status_hint = 400
    default_error_type = "http_request_error"


class PayloadTooLargeError(ClientError):
    """The request's body is over a limit."""

    status_hint = 413


class UpstreamError(ProxyError):
    """The upstream could not be reached, or did not answer in HTTP."""

    status_hint = 502
    default_error_type = "http_protocol_error"


class UpstreamConnectError(UpstreamError):
    """No connection to the upstream: refused, unreachable, TLS, or a name that does not resolve."""

    default_error_type = "connection_refused"


class UpstreamTimeoutError(UpstreamError):
    """The upstream took too long to accept, to begin its response, or between two parts of it."""

    status_hint = 504
    default_error_type = "http_response_timeout"


class UpstreamIncompleteError(UpstreamError):
    """The upstream's response ended before it was complete."""

    default_error_type = "http_response_incomplete"


class CircuitOpenError(UpstreamError):
    """The circuit breaker lets no request through at the moment."""

    status_hint = 503
    default_error_type = "destination_unavailable"


class OverloadedError(UpstreamError):
    """Every upstream connection is busy and the queue for one is full, or the wait for one was too long."""

    status_hint = 503
    default_error_type = "connection_limit_reached"


class PluginError(ProxyError):
    """A plugin's hook raised something that is no `ProxyError`: our fault, or the plugin author's."""

    def __init__(self, plugin: str, hook: str) -> None:
        super().__init__(f"the plugin {plugin!r} failed")
        self.plugin = plugin
        self.hook = hook


@dataclass(frozen=True, slots=True)
class ConfigMistake:
    """One mistake in the configuration.

    Attributes:
        path: where, as written in config.toml: `routes[2].plugins.cache.ttl`.
        message: what is wrong and what was expected.
    """

    path: str
    message: str


class ConfigError(Exception):
    """The configuration cannot be used. Carries every mistake found, not only the first."""

    def __init__(self, source: str, mistakes: Sequence[ConfigMistake]) -> None:
        lines = [f"{source}: {len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}"]
        lines += [f"  {mistake.path}: {mistake.message}" for mistake in mistakes]
        super().__init__("\n".join(lines))
        self.source = source
        self.mistakes = tuple(mistakes)
