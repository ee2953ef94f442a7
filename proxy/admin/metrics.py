"""What a Prometheus scraper reads."""

import asyncio
from collections.abc import Iterable

from proxy.admin.operations import Answer, AnyOperation, Anything, Call, Empty, Operation, Raw, Reply
from proxy.admin.target import AdminTarget
from proxy.metrics.exposition import encode, process_families
from proxy.metrics.snapshot import take_snapshot


class Metrics:
    """`GET /metrics`."""

    def __init__(self, target: AdminTarget) -> None:
        self._target = target

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        types = ("text/plain", "application/openmetrics-text")
        return (
            Operation(
                "GET", "/metrics", "metrics", "Every metric, as plain text or OpenMetrics.", self.metrics,
                {200: Answer("The metrics.", types)}, Empty, Anything,
            ),
        )  # fmt: skip

    async def metrics(self, call: Call[Empty, Anything]) -> Reply:
        """`GET /metrics`."""
        snapshot = (*take_snapshot(self._target.metrics), *process_families())
        data, content_type = await asyncio.to_thread(encode, snapshot, call.accept)
        return Reply(Raw(data, content_type))
