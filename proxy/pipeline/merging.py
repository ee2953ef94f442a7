"""How what plugins count in several processes becomes one report."""

from collections.abc import Callable, Mapping
from typing import Any

from proxy.metrics.snapshot import Histograms
from proxy.pipeline.exchange import Stats


def stats_by_histograms(plugin: type[object] | None) -> Callable[[Histograms], Stats] | None:
    """The class method `stats_of` of a plugin whose stats follow from its histograms alone.

    Percentiles cannot be added, observations can. It returns what `stats` would say if one process had made all
    observations.
    """
    found: Callable[[Histograms], Stats] | None = getattr(plugin, "stats_of", None)
    return found


def add(parts: Mapping[str, Any]) -> Any:
    """One value for what several processes report, by their names.

    Whole numbers add up, tables and what they hold likewise, and what is the same everywhere stays as it is. Whatever
    else differs (a state, a share) cannot be added: it becomes a table by process.
    """
    values = list(parts.values())
    if all(isinstance(value, Mapping) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: add({name: part[key] for name, part in parts.items() if key in part}) for key in keys}
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return sum(values)
    if all(value == values[0] for value in values):
        return values[0]
    return dict(parts)
