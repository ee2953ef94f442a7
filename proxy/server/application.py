"""What the server serves."""

from collections.abc import Sequence
from typing import Protocol

from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import Exchange, InformationalSender, Outcome
from proxy.pipeline.passage import PassagePart, Transcript
from proxy.pipeline.replay import ReplayPart


class Application(Protocol):
    """Answers requests. `proxy.pipeline.pipeline.Pipeline` is one."""

    async def handle(
        self,
        request: Request,
        *,
        request_id: str,
        informational: InformationalSender | None = None,
        wants_replay: bool = False,
        transcript: Transcript | None = None,
    ) -> tuple[Exchange, Response]:
        """Answer `request`; errors are answers too. `complete` is owed for the exchange.

        Args:
            wants_replay, transcript: see `Exchange`.

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

    def replay_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[ReplayPart] | None:
        """What is to be done when the answer to `exchange` is given again; None: that may not be."""
        ...

    def passage_parts(self, exchange: Exchange, outcome: Outcome) -> Sequence[PassagePart] | None:
        """What is to be done when a request goes the way of `exchange` again; None: that may not be."""
        ...

    def leads_alike(self, alike: Exchange, target: str) -> bool:
        """Whether a request for `target`, else like that of `alike`, would be answered on the same route."""
        ...

    def abandon(self, alike: Exchange, request_id: str, started: float) -> None:
        """Take note of an exchange like `alike` whose client left before there was a response.

        Args:
            started: monotonic seconds.
        """
        ...

    @property
    def heeded_fields(self) -> frozenset[str] | None:
        """The request fields that answers given again depend on, in lower case; None: all of them."""
        ...

    def complete(self, exchange: Exchange, outcome: Outcome) -> None:
        """Take note of how `exchange` ended. Called once for each exchange."""
        ...
