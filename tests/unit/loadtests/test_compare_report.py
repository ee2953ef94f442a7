"""What the comparison writes: tables, verdicts, the picture, and files that are whole or not there."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadtests.compare.figures import Floor, Load, Sample
from loadtests.compare.memory import Memory, MemoryOutcome
from loadtests.compare.picture import as_svg
from loadtests.compare.report import Results, as_json, as_markdown
from loadtests.compare.run import store
from loadtests.compare.scenarios import Scenario
from loadtests.compare.table import Outcome, judged, memory_judged, verdict

ABOUT = {"at": "2026-01-02 03:04 UTC", "processor": "One & Two <3 GHz>", "nginx": "1.22.1"}
HIT = Scenario("hit", "hit 1 KB", "/", (Floor("nginx", 1.25), Floor("haproxy", 1.0)))


def sample(rate: float, p50_ms: float = 1.0, l2_share: float | None = None) -> Sample:
    load = Load(requests=10, rate=rate, bytes_rate=1024 * rate, p50_ms=p50_ms, p99_ms=2)
    return Sample(load, cpu_us=15, pss_bytes=50 << 20, l2_share=l2_share)


def outcome(failures: dict[str, str] | None = None, **rates: float) -> Outcome:
    rounds = tuple({kind: sample(rate * factor) for kind, rate in rates.items()} for factor in (1, 2, 3))
    return Outcome(HIT, (*rates,), rounds, failures or {})


def results(*outcomes: Outcome, memory: MemoryOutcome | None = None, **more: Any) -> Results:
    return Results(ABOUT, list(outcomes), memory, **more)


def rows(markdown: str, heading: str) -> list[list[str]]:
    section = markdown.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_a_table_has_the_medians_and_the_ratio_to_each_peer() -> None:
    page = as_markdown(results(outcome(sidecache=3000, nginx=2000, haproxy=4000)))
    assert rows(page, "hit 1 KB") == [
        ["sidecache", "6,000", "6", "", "1.00", "2.00", "15.0", "9", "50"],
        ["nginx", "4,000", "4", "1.50", "1.00", "2.00", "15.0", "6", "50"],
        ["haproxy", "8,000", "8", "0.75", "1.00", "2.00", "15.0", "12", "50"],
    ]


def test_floors_that_are_met_and_that_are_not_are_listed_first() -> None:
    page = as_markdown(results(outcome(sidecache=3000, nginx=2000, haproxy=4000)))
    assert rows(page, "Floors: 1 of 2 met") == [
        ["hit 1 KB", "requests/s at least 1.25 times nginx", "1.50", "met"],
        ["hit 1 KB", "requests/s at least 1 times haproxy", "0.75", "NOT MET"],
    ]


def test_a_system_that_failed_has_no_figures_and_its_reason_is_told() -> None:
    failed = outcome({"nginx": "StartError: no\nport"}, sidecache=3000, nginx=2000, haproxy=1000)
    page = as_markdown(results(failed))
    assert rows(page, "hit 1 KB")[1][:3] == ["nginx", "failed", ""]
    assert "- hit 1 KB: nginx: StartError: no port" in page
    assert [row[3] for row in rows(page, "Floors: 1 of 2 met")] == ["not measured", "met"]
    assert "nginx failed: StartError" in judged(failed)


def test_a_round_that_lacks_a_system_does_not_count_for_its_ratio() -> None:
    whole = outcome(sidecache=3000, nginx=2000)
    cut = replace(whole, rounds=({"sidecache": sample(1)}, *whole.rounds))
    assert cut.ratio(Floor("nginx", 1)) == 1.5


def test_what_was_not_run_is_said_and_judges_nothing() -> None:
    empty = Outcome(HIT, ("sidecache", "nginx"), (), {})
    page = as_markdown(results(empty, left_out=["304 from cache"]))
    assert rows(page, "hit 1 KB")[0][:2] == ["sidecache", "not run"]
    assert "- 304 from cache: no time was left" in page
    assert "Floors: 0 of 2 met" in page


def test_what_a_proxy_adds_is_judged_without_what_the_origin_takes() -> None:
    floor = Floor("nginx", 2.0, "p50_ms", at_most=True, over="origin")
    samples = {"sidecache": sample(1, 0.15), "nginx": sample(1, 0.10), "origin": sample(1, 0.05)}
    one = Outcome(replace(HIT, floors=(floor,)), ("sidecache", "nginx", "origin"), (samples,), {})
    assert one.ratio(floor) == pytest.approx(2.0)
    assert str(verdict(one, floor)) == "p50 over the origin's at most 2 times nginx: 2.00, met"
    swapped = replace(one, rounds=({**samples, "nginx": sample(1, 0.04)},))  # less than the origin itself: noise
    assert verdict(swapped, floor).met is None


def test_the_second_tiers_share_is_told() -> None:
    one = Outcome(HIT, ("sidecache",), ({"sidecache": sample(1, l2_share=0.9876)},), {})
    assert "- sidecache: 98.8% of the requests were answered by its second tier" in as_markdown(results(one))


def memory_outcome() -> MemoryOutcome:
    systems = {
        "sidecache": Memory(idle=79_000_000, connections=150_000_001, objects=None),
        "nginx": Memory(idle=11_000_000, connections=5_000_000, objects=420_000_000),
    }
    return MemoryOutcome(systems, {"sidecache: objects": "ReportError: evicted"})


def test_memory_is_judged_by_ceilings_in_megabytes() -> None:
    page = as_markdown(results(memory=memory_outcome()))
    assert rows(page, "Memory") == [["sidecache", "79", "150", "not measured"], ["nginx", "11", "5", "420"]]
    assert [row[3] for row in rows(page, "Floors: 1 of 3 met")] == ["met", "NOT MET", "not measured"]
    assert "- memory: sidecache: objects: ReportError: evicted" in page
    assert "sidecache: objects failed: ReportError: evicted" in memory_judged(memory_outcome())


def test_programs_get_each_round_and_what_was_measured_of_each_floor() -> None:
    document = orjson.loads(as_json(results(outcome(sidecache=3, nginx=2), memory=memory_outcome())))
    hit = document["scenarios"]["hit"]
    assert [samples["nginx"]["load"]["rate"] for samples in hit["rounds"]] == [2, 4, 6]
    assert [(floor["measured"], floor["met"]) for floor in hit["floors"]] == [(1.5, True), (None, None)]
    assert [ceiling["met"] for ceiling in document["memory"]["ceilings"]] == [True, False, None]
    assert document["failures"] == {"memory: sidecache: objects": "ReportError: evicted"}


def bar_widths(picture: str) -> list[float]:
    root = ET.fromstring(picture)
    return [float(one.attrib["width"]) for one in root.iter("{http://www.w3.org/2000/svg}rect")]


def test_bars_are_as_long_as_their_ratios_and_cut_where_the_picture_ends() -> None:
    picture = as_svg([outcome(sidecache=rate, nginx=1000) for rate in (500, 1000, 9000)], ABOUT)
    half, equal, cut = bar_widths(picture)
    assert equal == 2 * half
    assert cut == 2 * equal
    assert ">9.00<" in picture


def test_what_nginx_did_not_run_has_no_bar() -> None:
    outcomes = [outcome(sidecache=1, haproxy=1), outcome({"nginx": "x"}, sidecache=1, nginx=1)]
    assert bar_widths(as_svg(outcomes, ABOUT)) == []


def test_latencies_have_no_bar_for_longer_is_not_better() -> None:
    one = replace(outcome(sidecache=1, nginx=1), scenario=replace(HIT, metric="p50_ms"))
    assert bar_widths(as_svg([one], ABOUT)) == []


def test_files_are_written_and_written_anew(tmp_path: Path) -> None:
    store(tmp_path, results(outcome(sidecache=1, nginx=1)))
    store(tmp_path, results(outcome(sidecache=3, nginx=2)))
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["docs/compare.md", "docs/compare.svg", "loadtests/results/compare.json"]
    assert re.search(r"\| nginx \|.*\| 1\.50 \|", (tmp_path / "docs" / "compare.md").read_text())
