"""What a reload replaces: a configuration, and the upstream pool and pipeline that were built from it."""

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.config import Config, PluginClass, RouteSettings
from proxy.pipeline.pipeline import AnyPlugin, Pipeline, RoutePlan
from proxy.pipeline.plugin import PluginSettings, Services
from proxy.upstream.health import UpstreamHealth
from proxy.upstream.pool import UpstreamPool


@dataclass(frozen=True, slots=True)
class Generation:
    """What a reload replaces."""

    config: Config
    pool: UpstreamPool
    health: UpstreamHealth
    pipeline: Pipeline


def build_pipeline(
    config: Config, services: Services, upstream: UpstreamPool, running: Iterable[AnyPlugin] = ()
) -> Pipeline:
    """The pipeline that `config` describes. One instance for equal settings.

    Args:
        running: plugins that run already; those whose settings have not changed go on, with what they remember (open
            circuits, the accounts of a rate limit). The others are not started yet.
    """
    # Compared, not hashed: the settings of a third-party plugin may hold lists and tables.
    instances: list[AnyPlugin] = list(running)

    def instance(kind: PluginClass, settings: PluginSettings) -> AnyPlugin:
        for plugin in instances:
            if type(plugin) is kind and plugin.settings == settings:
                return plugin
        instances.append(kind(settings, services))
        return instances[-1]

    def chain(route: RouteSettings | None) -> tuple[AnyPlugin, ...]:
        plugins: list[AnyPlugin] = []
        for kind in config.classes:
            settings = config.settings(kind, route)
            if settings.enabled:
                plugins.append(instance(kind, settings))
        return tuple(plugins)

    plans = [RoutePlan(route.route(), chain(route)) for route in config.routes]
    return Pipeline(plans, chain(None), upstream, services.clock, services.metrics)
