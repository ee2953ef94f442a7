"""Why the server itself refuses a request, before the pipeline sees it."""

from proxy.errors import ClientError, ProxyError


class RequestTimeoutError(ClientError):
    """The client took too long to send its request's head or body (RFC 9110 §15.5.9)."""

    status_hint = 408


class TargetTooLongError(ClientError):
    """The request target is over the limit (RFC 9110 §15.5.15)."""

    status_hint = 414


class FieldsTooLargeError(ClientError):
    """A header field, or their number, is over the limit (RFC 6585 §5)."""

    status_hint = 431


class NotImplementedRequestError(ClientError):
    """A method or transfer coding that this server does not know (RFC 9110 §15.6.2)."""

    status_hint = 501


class VersionNotSupportedError(ClientError):
    """Neither HTTP/1.0 nor HTTP/1.1 (RFC 9110 §15.6.6)."""

    status_hint = 505


class TooManyConnectionsError(ProxyError):
    """As many clients are connected as the settings allow."""

    status_hint = 503
    default_error_type = "connection_limit_reached"
