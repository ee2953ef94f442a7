"""Who may call. Rule: every call is let in, or not, in this file, before its path is looked at.

With a token, every call carries it, probes perhaps excepted. Without one, only this machine can connect, and what is
left to fear is its own browser: a web page whose host name suddenly resolves to 127.0.0.1 (DNS rebinding), told by the
`Host` field; and a page that posts across origins, told by its `Content-Type` (see `Endpoint`), since nothing here
answers the preflight request that `application/json` needs.
"""

import hmac
import ipaddress
from typing import Final

from aiohttp import web

from proxy.admin.operations import RefusedError
from proxy.admin.settings import AdminSettings

REALM: Final = 'Bearer realm="sidecache"'


class Guard:
    """Lets calls in.

    Args:
        probes: paths that need no token if the settings open them.
    """

    __slots__ = ("_check_host", "_open", "_token")

    def __init__(self, settings: AdminSettings, probes: frozenset[str]) -> None:
        self._token = settings.token.get_secret_value().encode() if settings.token is not None else None
        self._open = probes if settings.open_health else frozenset[str]()
        self._check_host = self._token is None and not settings.listen.path  # no browser speaks to a Unix socket

    def check(self, request: web.BaseRequest) -> None:
        """Let `request` in.

        Raises:
            RefusedError: it may not.
        """
        if self._check_host and not names_loopback(request.headers.get("Host", "")):
            raise RefusedError(421, "without a token, only a loopback name may stand in the Host field")
        if self._token is None or request.path in self._open:
            return
        fields = request.headers.getall("Authorization", ())
        if not fields:
            raise RefusedError(401, "a bearer token is required", headers={"WWW-Authenticate": REALM})
        scheme, _, token = fields[0].partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        # Compared in a time that does not depend on how much of it is right.
        right = hmac.compare_digest(given, self._token)
        if not right or scheme.lower() != "bearer" or len(fields) > 1:
            challenge = f'{REALM}, error="invalid_token"'  # RFC 6750 §3.1
            raise RefusedError(401, "the bearer token is wrong", headers={"WWW-Authenticate": challenge})


def names_loopback(host: str) -> bool:
    """Whether a `Host` field names this machine's loopback: `localhost`, a name below it, or an address."""
    in_brackets = host.startswith("[")
    name = host[1:].partition("]")[0] if in_brackets else host.partition(":")[0].lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 §6.3: never another machine
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
