"""Opening connections: names looked up anew, addresses tried side by side, failures told in our terms."""

import asyncio
import socket
import ssl
from typing import Final

import aiohappyeyeballs

from proxy.clock import Clock
from proxy.errors import UpstreamConnectError, UpstreamError, UpstreamTimeoutError
from proxy.upstream.connection import UpstreamConnection
from proxy.upstream.settings import UpstreamSettings

ATTEMPT_DELAY_SECONDS: Final = 0.25
"""RFC 8305 §5: how long one address has before the next is tried beside it."""


class Dialler:
    """Opens connections to one upstream."""

    __slots__ = ("_address", "_clock", "_settings", "_tls")

    def __init__(self, settings: UpstreamSettings, clock: Clock) -> None:
        self._settings = settings
        self._address = settings.address
        self._clock = clock
        self._tls = settings.tls_context()

    async def dial(self) -> UpstreamConnection:
        """A new connection.

        Raises:
            UpstreamError: there is none, with the type that says why (RFC 9209 §2.3).
        """
        where = self._address.path or self._address.authority
        seconds = self._settings.connect_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._open()
        except TimeoutError:
            raise UpstreamTimeoutError(
                f"no connection to the upstream within {seconds:g} s", error_type="connection_timeout"
            ) from None
        except (socket.gaierror, UnicodeError) as error:
            raise UpstreamConnectError(
                f"the upstream's name {where!r} cannot be looked up", error_type="dns_error"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise UpstreamConnectError(
                "the upstream's certificate is not trusted", error_type="tls_certificate_error"
            ) from error
        except ssl.SSLError as error:
            raise UpstreamConnectError("the upstream does not speak TLS", error_type="tls_protocol_error") from error
        except FileNotFoundError as error:
            raise UpstreamConnectError(
                f"the upstream's socket {where!r} does not exist", error_type="destination_not_found"
            ) from error
        except ConnectionRefusedError as error:
            raise UpstreamConnectError("the upstream refuses connections") from error
        except OSError as error:
            raise _unreachable(error) from error

    async def _open(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        address = self._address

        def make() -> UpstreamConnection:
            return UpstreamConnection(self._clock, self._settings.max_head_bytes, self._settings.idle_timeout_seconds)

        if address.path:
            _, connection = await loop.create_unix_connection(make, address.path)
            return connection
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        connected = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=ATTEMPT_DELAY_SECONDS, loop=loop
        )
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await loop.create_connection(
                make, sock=connected, ssl=self._tls, server_hostname=address.host if self._tls is not None else None
            )
        except BaseException:
            connected.close()
            raise
        return connection


def _unreachable(error: OSError) -> UpstreamError:
    # aiohappyeyeballs reports several failures as one OSError that names them.
    if "refused" in str(error).lower():
        return UpstreamConnectError("the upstream refuses connections")
    return UpstreamConnectError("the upstream cannot be reached", error_type="destination_ip_unroutable")
