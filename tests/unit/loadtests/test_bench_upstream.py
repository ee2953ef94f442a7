"""The bench of the upstream path measures what it says: every scenario comes through, by the pool and by the floor."""

import re
import sys

import pytest

from loadtests import bench_upstream


def test_every_scenario_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_upstream", "--requests", "40", "--rounds", "2", "--concurrency", "4"])
    assert bench_upstream.main() == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split()[0] == "scenario"
    assert [line.split()[0] for line in lines] == [scenario.name for scenario in bench_upstream.SCENARIOS]
    for line in lines:
        ours, least, floor, _ = map(float, re.findall(r" (\d+\.\d)", line)[:4])
        assert ours >= least > 0
        assert floor > 0
