"""Errors say whose fault they are."""

import pytest

from proxy import errors
from proxy.errors import (
    CircuitOpenError,
    ClientError,
    ConfigError,
    ConfigMistake,
    OverloadedError,
    PayloadTooLargeError,
    PluginError,
    ProxyError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamIncompleteError,
    UpstreamTimeoutError,
)

# RFC 9209 §2.3: the registered error types.
ERROR_TYPES = {
    "dns_timeout", "dns_error", "destination_not_found", "destination_unavailable", "destination_ip_prohibited",
    "destination_ip_unroutable", "connection_refused", "connection_terminated", "connection_timeout",
    "connection_read_timeout", "connection_write_timeout", "connection_limit_reached", "tls_protocol_error",
    "tls_certificate_error", "tls_alert_received", "http_request_error", "http_request_denied",
    "http_response_incomplete", "http_response_header_section_size", "http_response_header_size",
    "http_response_body_size", "http_response_trailer_section_size", "http_response_trailer_size",
    "http_response_transfer_coding", "http_response_content_coding", "http_response_timeout", "http_upgrade_failed",
    "http_protocol_error", "proxy_internal_response", "proxy_internal_error", "proxy_configuration_error",
    "proxy_loop_detected",
}  # fmt: skip


def every(kind: type[ProxyError]) -> list[type[ProxyError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in every(child))]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (ProxyError, 500),
        (ClientError, 400),
        (PayloadTooLargeError, 413),
        (UpstreamError, 502),
        (UpstreamConnectError, 502),
        (UpstreamTimeoutError, 504),
        (UpstreamIncompleteError, 502),
        (CircuitOpenError, 503),
        (OverloadedError, 503),
    ],
)
def test_error_has_the_status_that_a_client_sees(kind: type[ProxyError], status: int) -> None:
    assert kind("what happened").status_hint == status


def test_every_error_of_the_module_has_a_registered_type_and_an_error_status() -> None:
    kinds = [kind for kind in every(ProxyError) if kind.__module__ == errors.__name__]
    assert len(kinds) > 8
    for kind in kinds:
        assert kind.default_error_type in ERROR_TYPES
        assert 400 <= kind.status_hint <= 599


def test_error_may_say_its_type_and_when_to_come_back() -> None:
    error = UpstreamConnectError("no such host", error_type="dns_error", retry_after=3)
    assert (error.detail, error.error_type, error.retry_after) == ("no such host", "dns_error", 3)
    assert str(error) == "no such host"
    assert UpstreamConnectError("refused").error_type == "connection_refused"
    assert UpstreamConnectError("refused").retry_after is None


def test_upstream_faults_are_no_client_faults() -> None:
    assert not issubclass(ClientError, UpstreamError)
    for kind in (CircuitOpenError, OverloadedError, UpstreamConnectError, UpstreamTimeoutError):
        assert issubclass(kind, UpstreamError)
        assert not issubclass(kind, ClientError)


def test_plugin_error_names_plugin_and_hook() -> None:
    error = PluginError("cache", "on_request")
    assert (error.plugin, error.hook, error.status_hint) == ("cache", "on_request", 500)
    assert "'cache'" in error.detail


def test_configuration_error_lists_every_mistake_with_its_path() -> None:
    error = ConfigError(
        "config.toml",
        [ConfigMistake("server.listen", "expected host:port"), ConfigMistake("routes[0].name", "expected a name")],
    )
    assert str(error) == (
        "config.toml: 2 mistakes\n  server.listen: expected host:port\n  routes[0].name: expected a name"
    )
    assert [mistake.path for mistake in error.mistakes] == ["server.listen", "routes[0].name"]
    assert not isinstance(error, ProxyError)


def test_one_mistake_is_singular() -> None:
    assert str(ConfigError("config.toml", [ConfigMistake("a", "b")])).startswith("config.toml: 1 mistake\n")
