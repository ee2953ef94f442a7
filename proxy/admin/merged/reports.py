"""Metrics and the pipeline, of all workers."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field

from proxy.admin.merged.asking import NONE_ANSWERS, ask_each, ask_one, fit
from proxy.admin.operations import Answer, AnyOperation, Anything, Call, Empty, Operation, Raw, Reply
from proxy.admin.peers import Peers, ask, ask_all
from proxy.admin.pipeline import PipelineStats, PipelineView, PluginStats
from proxy.metrics.exposition import encode, process_families
from proxy.metrics.snapshot import Histograms, NumberFamily, Snapshot, added, load_snapshot, side_by_side, take_snapshot
from proxy.pipeline.merging import add, stats_by_histograms

LABEL = "worker"
SUPERVISOR = "supervisor"


class WorkersPluginStats(PluginStats):
    """What one plugin counts in all workers."""

    workers: dict[str, dict[str, Any]] = Field(description="The same of each worker, by name.")


class WorkersPipelineStats(BaseModel):
    """What every plugin counts. What cannot be added up is shown by worker."""

    plugins: list[WorkersPluginStats]
    fast_lane: dict[str, int] | None = Field(description="See `PipelineStats`; added up.")


class MergedReports:
    """`GET /metrics`, and the operations under `/admin/pipeline`."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        types = ("text/plain", "application/openmetrics-text")
        return (
            Operation(
                "GET", "/metrics", "metrics",
                "Every metric of every worker under the label `worker`, as plain text or OpenMetrics.", self.metrics,
                {200: Answer("The metrics.", types)}, Empty, Anything,
            ),
            Operation(
                "GET", "/admin/pipeline", "pipeline", "The compiled order of plugins per route.", self.pipeline,
                {200: Answer("The pipeline.", PipelineView), **NONE_ANSWERS}, Empty, Empty,
            ),
            Operation(
                "GET", "/admin/pipeline/stats", "pipelineStats", "What every plugin counts in all workers.",
                self.stats, {200: Answer("The counts.", WorkersPipelineStats), **NONE_ANSWERS}, Empty, Empty,
            ),
        )  # fmt: skip

    async def metrics(self, call: Call[Empty, Anything]) -> Reply:
        """`GET /metrics`. A worker that does not answer is missing, and `sidecache_worker_up` says so."""
        own = (*take_snapshot(self._peers.metrics), *process_families())
        snapshots = await self._snapshots()
        up = NumberFamily(
            "sidecache_worker_up",
            "Whether the worker answered this scrape",
            "gauge",
            (LABEL,),
            tuple(((peer.name,), float(peer.name in snapshots)) for peer in self._peers.all),
        )

        def text() -> tuple[bytes, str]:
            return encode(side_by_side(LABEL, {SUPERVISOR: (*own, up), **snapshots}), call.accept)

        data, content_type = await asyncio.to_thread(text)
        return Reply(Raw(data, content_type))

    async def pipeline(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/pipeline`."""
        _peer, told = await ask_one(self._peers, "GET", "/admin/pipeline")
        return Reply(PipelineView.model_validate_json(told.data))

    async def stats(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/pipeline/stats`."""
        (documents, _), snapshots = await asyncio.gather(
            ask_each(self._peers, "/admin/pipeline/stats"), self._snapshots()
        )
        histograms = added(snapshots.values())
        # By name and routes: of a plugin with other settings for some route there are several.
        parts: dict[tuple[str, tuple[str, ...]], dict[str, dict[str, Any]]] = {}
        lanes: dict[str, dict[str, int]] = {}
        for name, document in documents.items():
            stats = PipelineStats.model_validate(document)
            if stats.fast_lane is not None:
                lanes[name] = stats.fast_lane
            for plugin in stats.plugins:
                parts.setdefault((plugin.name, tuple(plugin.routes)), {})[name] = plugin.stats
        plugins = [
            WorkersPluginStats(name=name, routes=list(routes), stats=self._sum(name, each, histograms), workers=each)
            for (name, routes), each in parts.items()
        ]
        return Reply(WorkersPipelineStats(plugins=plugins, fast_lane=add(lanes) if lanes else None))

    def _sum(self, name: str, each: Mapping[str, dict[str, Any]], histograms: Histograms) -> dict[str, Any]:
        if (stats_of := stats_by_histograms(self._peers.plugin(name))) is not None:
            return dict(stats_of(histograms))
        summed: dict[str, Any] = add(each)
        return summed

    async def _snapshots(self) -> dict[str, Snapshot]:
        told, _ = await ask_all(self._peers.all, lambda peer: ask(peer, "GET", "/worker/metrics"))
        return {name: load_snapshot(fit(one).data) for name, one in told.items()}
