"""Why the server itself refuses a request, before the pipeline sees it."""

from aiohttp.http_exceptions import BadHttpMethod, HttpProcessingError, LineTooLong

from proxy.errors import ClientError, ProxyError
from proxy.server.settings import ServerSettings


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


def of_parser(error: HttpProcessingError, settings: ServerSettings) -> ClientError:
    """What aiohttp's parser says, in our words: its own show the bytes it stumbled over."""
    if isinstance(error, LineTooLong):
        if "reading: bytearray" in error.message:  # the parser collects a target in a bytearray, a field in bytes
            return TargetTooLongError(f"the request target is longer than {settings.max_target_bytes} bytes")
        return FieldsTooLargeError(f"a header field is longer than {settings.max_field_bytes} bytes")
    if isinstance(error, BadHttpMethod):
        return NotImplementedRequestError("the request method is not known here")
    message = error.message
    if message == "Too many headers received":
        return FieldsTooLargeError(f"there are more than {settings.max_fields} header fields")
    if message.endswith("header in request."):
        return ClientError("the Host field is missing")
    if message.startswith("Duplicate "):
        return ClientError("a header field that may stand only once is repeated")
    return ClientError("the request is malformed")
