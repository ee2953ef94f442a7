"""One report of what several processes count."""

from typing import Any

import pytest

from plugins.latency import Latency
from proxy.pipeline.merging import add, stats_by_histograms


@pytest.mark.parametrize(
    ("parts", "sum_"),
    [
        ({"1": 1, "2": 2}, 3),
        ({"1": "open", "2": "open"}, "open"),
        ({"1": "open", "2": "closed"}, {"1": "open", "2": "closed"}),
        ({"1": True, "2": True}, True),
        ({"1": True, "2": False}, {"1": True, "2": False}),
        ({"1": 0.5, "2": 0.25}, {"1": 0.5, "2": 0.25}),
        ({"1": None, "2": 3}, {"1": None, "2": 3}),
        ({"1": {"a": 1, "b": {"c": 2}}, "2": {"b": {"c": 3}, "d": "x"}}, {"a": 1, "b": {"c": 5}, "d": "x"}),
        ({"1": ["a"], "2": ["a"]}, ["a"]),
        ({"1": {}}, {}),
        ({}, {}),
    ],
)
def test_whole_numbers_add_and_what_differs_is_told_by_process(parts: dict[str, Any], sum_: object) -> None:
    assert add(parts) == sum_


def test_only_a_plugin_that_says_so_is_judged_by_its_histograms() -> None:
    assert stats_by_histograms(Latency) == Latency.stats_of
    assert stats_by_histograms(object) is None
    assert stats_by_histograms(None) is None
