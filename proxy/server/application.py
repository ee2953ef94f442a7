"""What the server serves."""

from typing import Protocol

from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import Exchange, InformationalSender, Outcome


class Application(Protocol):
    """Answers requests. `proxy.pipeline.pipeline.Pipeline` is one."""

    async def handle(
        self, request: Request, *, request_id: str, informational: InformationalSender | None = None
    ) -> tuple[Exchange, Response]:
        """Answer `request`; errors are answers too. `complete` is owed for the exchange.

        Raises:
            asyncio.CancelledError: the client left; the exchange has been completed.
        """
        ...

    async def open_tunnel(
        self, request: Request, *, protocol: str, request_id: str
    ) -> tuple[Exchange, Response | Tunnel]:
        """Ask the upstream to switch to `protocol`; its refusal is a response. `complete` is owed for the exchange.

        The request's fields are without `Connection` and `Upgrade`: who sends it on writes them from `protocol`.

        Raises:
            asyncio.CancelledError: the client left; the exchange has been completed.
        """
        ...

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        """Take note of how `exchange` ended. Called once for each exchange."""
        ...
