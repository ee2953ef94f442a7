"""Where a listener listens: an IP socket or a Unix socket, written as one string."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_settings import NoDecode
from typing_extensions import override

UNIX_PREFIX: Final = "unix:"
EXPECTED: Final = "expected 'host:port', '[::1]:port', ':port' for every interface, or 'unix:/path/to.sock'"


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen at.

    Attributes:
        host: name or IP address without brackets; empty for every interface.
        port: 0 lets the system choose.
        path: of a Unix socket; empty for an IP socket.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address that `text` names.

        Raises:
            ValueError: `text` is no address; the message says what was expected.
        """
        if text.startswith(UNIX_PREFIX):
            path = text.removeprefix(UNIX_PREFIX)
            if not path or "\0" in path:
                raise ValueError(f"{text!r} names no socket file; {EXPECTED}")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise ValueError(f"{text!r} has no port number; {EXPECTED}")
        if int(port) > 65535:
            raise ValueError(f"{port} is no port: ports end at 65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if ":" not in host:
                raise ValueError(f"{text!r} has brackets around what is no IPv6 address; {EXPECTED}")
        elif ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address stands in brackets; {EXPECTED}")
        if any(character in host for character in "/@[] \t"):
            raise ValueError(f"{host!r} is no host; {EXPECTED}")
        return cls(host=host, port=int(port))

    @classmethod
    def of(cls, sock: socket.socket) -> "Address":
        """Where `sock` is bound, the port as the system chose it."""
        name = sock.getsockname()
        return cls(path=name) if isinstance(name, str) else cls(name[0], name[1])

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.path) or self.host in {"localhost", "::1"} or self.host.startswith("127.")

    @override
    def __str__(self) -> str:
        if self.path:
            return UNIX_PREFIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def remove_stale_socket(path: Path) -> None:
    """Remove what a process left that did not end in order. asyncio would take a socket in use away from its owner.

    What is no socket is left alone: binding to it then says what is wrong.

    Raises:
        OSError: somebody listens there.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, f"{path} is in use")


def _read(value: Any) -> Any:
    return Address.parse(value) if isinstance(value, str) else value


ListenAddress: TypeAlias = Annotated[
    Address,
    NoDecode,
    BeforeValidator(_read),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"type": "string", "examples": ["127.0.0.1:8080", "[::]:8080", ":8080", "unix:/run/sidecache.sock"]}
    ),
]
"""An `Address` as a setting: a string in config.toml and in the environment."""
