"""The pipeline as it was compiled: which plugins a route's requests pass, and where the cache stands among them."""

from collections.abc import Iterable
from typing import Any, Final, Literal

import structlog
from pydantic import BaseModel, Field, JsonValue

from proxy.admin.operations import Answer, AnyOperation, Call, Empty, Operation, Reply
from proxy.admin.target import AdminTarget
from proxy.pipeline.pipeline import AnyPlugin, Chain, defines
from proxy.pipeline.plugin import HOOKS

CACHE: Final = "cache"
"""The name of the plugin whose place divides the pipeline."""


_log = structlog.get_logger("admin")


class PluginView(BaseModel):
    """A plugin on a route."""

    name: str
    type: str = Field(description="Module and class.")
    hooks: list[str] = Field(description="The hooks that it has.")
    replay: str = Field(description="How it stands to answers that are replayed without it.")
    place: Literal["left", "cache", "right"] | None = Field(
        description="Left of the cache: works for each client. Right of it: once, and what it does is stored. "
        "Null on a route without a cache."
    )
    settings: dict[str, JsonValue] = Field(description="In effect on this route; secrets are masked.")


class RouteView(BaseModel):
    """A route; the first that matches takes a request."""

    name: str
    path: str | None = Field(description="Null: any.")
    methods: list[str] = Field(description="Empty: any.")
    hosts: list[str] = Field(description="Empty: any.")
    plugins: list[PluginView] = Field(description="From the client to the upstream.")
    against_replay: list[str] = Field(
        description="The plugins that must see each exchange, for which no answer is kept ready to be given again."
    )


class PipelineView(BaseModel):
    """Every route, in order of matching."""

    routes: list[RouteView]


class PluginStats(BaseModel):
    """What one instance of a plugin counts; it serves all routes that give it the same settings."""

    name: str
    routes: list[str]
    stats: dict[str, Any]


class PipelineStats(BaseModel):
    """What every plugin counts, and the fast lane."""

    plugins: list[PluginStats]
    fast_lane: dict[str, int] | None = Field(
        description="What goes past the pipeline. Answers kept ready to be given again: how many, what they weigh in "
        "bytes, and how many requests they have answered. Known ways to the upstream: how many, and how many requests "
        "went such a way. Null: everything goes through the pipeline."
    )


class PipelineReport:
    """The operations under `/admin/pipeline`."""

    def __init__(self, target: AdminTarget) -> None:
        self._target = target

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/admin/pipeline", "pipeline", "The compiled order of plugins per route.", self.view,
                {200: Answer("The pipeline.", PipelineView)}, Empty, Empty,
            ),
            Operation(
                "GET", "/admin/pipeline/stats", "pipelineStats", "What every plugin counts.", self.stats,
                {200: Answer("The counts.", PipelineStats)}, Empty, Empty,
            ),
        )  # fmt: skip

    async def view(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/pipeline`."""
        pipeline = self._target.pipeline
        routes = [
            RouteView(
                name=route.name,
                path=route.path,
                methods=sorted(route.methods),
                hosts=list(route.hosts),
                plugins=_plugins(pipeline.chains[route.name]),
                against_replay=list(pipeline.chains[route.name].against_replay),
            )
            for route in pipeline.table.routes
        ]
        return Reply(PipelineView(routes=routes))

    async def stats(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/pipeline/stats`."""
        pipeline = self._target.pipeline
        plugins = [
            PluginStats(
                name=plugin.name,
                routes=[name for name, chain in pipeline.chains.items() if plugin in _members(chain)],
                stats=_stats(plugin),
            )
            for plugin in pipeline.plugins
        ]
        return Reply(PipelineStats(plugins=plugins, fast_lane=self._target.fast_lane))


def _members(chain: Chain) -> list[AnyPlugin]:
    return [step.plugin for step in chain.steps]


def _plugins(chain: Chain) -> list[PluginView]:
    members = _members(chain)
    cache = next((place for place, plugin in enumerate(members) if plugin.name == CACHE), None)
    return [
        PluginView(
            name=plugin.name,
            type=f"{type(plugin).__module__}:{type(plugin).__qualname__}",
            hooks=[hook for hook in HOOKS if defines(plugin, hook)],
            replay=plugin.replay.value,
            place=_place(place, cache),
            settings=_settings(plugin),
        )
        for place, plugin in enumerate(members)
    ]


def _stats(plugin: AnyPlugin) -> dict[str, Any]:
    try:
        return dict(plugin.stats())
    except Exception as error:  # noqa: BLE001 — one plugin that fails must not blind the operator to the others
        _log.error("plugin stats cannot be read", plugin=plugin.name, exc_info=error)
        return {"error": "cannot be read; the log says why"}


def _place(place: int, cache: int | None) -> Literal["left", "cache", "right"] | None:
    if cache is None:
        return None
    return "left" if place < cache else "cache" if place == cache else "right"


def _settings(plugin: AnyPlugin) -> dict[str, Any]:
    settings: BaseModel = plugin.settings
    return settings.model_dump(mode="json")
