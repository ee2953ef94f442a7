"""What the server counts."""

from proxy.metrics.registry import Registry
from proxy.server.ways import Ways


class ServerCounters:
    """Counters and gauges of one listener.

    Args:
        ways: on which requests are answered, too.

    Attributes:
        in_flight: requests being answered by the handler.
        open_tunnels: protocol switches that go on.
    """

    __slots__ = ("_aborted", "_refused", "_tunnel_bytes", "_tunnels", "_ways", "in_flight", "open_tunnels")

    def __init__(self, metrics: Registry, ways: Ways | None) -> None:
        self._ways = ways
        self.in_flight = 0
        self.open_tunnels = 0
        self._refused = metrics.counter(
            "sidecache_server_refused_requests", "Requests refused before the pipeline", ("status",)
        )
        self._aborted = metrics.counter(
            "sidecache_server_aborted_responses", "Responses that did not reach their client whole", ("by",)
        )
        self._tunnels = metrics.counter("sidecache_server_tunnels", "Protocol switches tunnelled").labels()
        self._tunnel_bytes = metrics.counter(
            "sidecache_server_tunnel_bytes", "Bytes moved through tunnels that have ended", ("direction",)
        )
        metrics.gauge("sidecache_server_requests_in_flight", "Requests being answered", self.all_in_flight)
        metrics.gauge("sidecache_server_open_tunnels", "Tunnels that are open", lambda: self.open_tunnels)

    def all_in_flight(self) -> int:
        """Requests being answered, by the handler or past it."""
        return self.in_flight + (len(self._ways) if self._ways is not None else 0)

    def refused(self, status: int) -> None:
        """A request did not get as far as the pipeline. `status` is one that this server itself sends."""
        self._refused.labels(str(status)).value += 1

    def aborted(self, *, by_client: bool) -> None:
        """A response was not sent whole: the client left or was too slow, or the body failed."""
        self._aborted.labels("client" if by_client else "upstream").value += 1

    def tunnel_ended(self, to_client_bytes: int, to_upstream_bytes: int) -> None:
        """A tunnel is closed."""
        self._tunnels.value += 1
        self._tunnel_bytes.labels("to_client").value += to_client_bytes
        self._tunnel_bytes.labels("to_upstream").value += to_upstream_bytes
