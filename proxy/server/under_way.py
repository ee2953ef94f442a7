"""Requests that are not answered at once, and not by the pipeline either."""

from typing import Protocol, TypeAlias

from proxy.pipeline.passage import Transcript

Sent: TypeAlias = bytes | tuple[bytes, ...]
"""A response: in two pieces where the body is long."""


class UnderWay(Protocol):
    """Such a request. Exactly one thing becomes of it: answered, handed over to the pipeline, or given up."""

    def hand_over(self) -> None:
        """Let the pipeline go on with it, now."""
        ...

    def give_up(self) -> None:
        """The client has left."""
        ...


class Client(Protocol):
    """The connection that it came on."""

    def answered(self, wire: Sent) -> None:
        """Send the response."""
        ...

    def taken_over(self, head: bytes, key: bytes, transcript: Transcript | None = None) -> None:
        """Have the pipeline go on.

        Args:
            head: of the request, as it came.
            key: see `Ways.wants`.
            transcript: if it is under way to the upstream already.
        """
        ...
