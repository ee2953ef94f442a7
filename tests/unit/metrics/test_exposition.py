"""What a scraper reads."""

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.metrics.exposition import encode, expose
from proxy.metrics.registry import Histogram, Registry
from proxy.metrics.snapshot import take_snapshot

OPENMETRICS = "application/openmetrics-text"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


def scrape(registry: Registry, accept: str = "") -> dict[str, Metric]:
    """The families of one scrape, read by the parser for its format."""
    return families_of(*expose(registry, accept))


def families_of(body: bytes, content_type: str) -> dict[str, Metric]:
    text = body.decode()
    parse = parse_openmetrics if content_type.startswith(OPENMETRICS) else parse_text
    return {family.name: family for family in parse(text)}


def samples(family: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples}


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.counter("sidecache_requests", "Requests.", ("route",)).labels("items").value += 3
    made.level("sidecache_open", "Open things.").labels().value += 2
    made.gauge("sidecache_bytes", "Bytes.", lambda: {("l1",): 10.5}, ("tier",))
    histogram = made.histogram("sidecache_seconds", "Seconds.", ("route",), (0.5, 1, 10_000_000)).labels("items")
    for value in (0.1, 0.5, 0.7, 20_000_000):
        histogram.observe(value)
    return made


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", OPENMETRICS, PROMETHEUS])
def test_every_kind_of_metric_can_be_read_in_both_formats(registry: Registry, accept: str) -> None:
    families = scrape(registry, accept)
    assert families["sidecache_requests"].type == "counter"
    assert samples(families["sidecache_requests"]) == {("sidecache_requests_total", (("route", "items"),)): 3}
    assert samples(families["sidecache_open"]) == {("sidecache_open", ()): 2}
    assert families["sidecache_bytes"].type == "gauge"
    assert samples(families["sidecache_bytes"]) == {("sidecache_bytes", (("tier", "l1"),)): 10.5}
    assert families["sidecache_seconds"].type == "histogram"
    route = ("route", "items")
    assert samples(families["sidecache_seconds"]) == {
        ("sidecache_seconds_bucket", (("le", "0.5"), route)): 2,
        ("sidecache_seconds_bucket", (("le", "1.0"), route)): 3,
        ("sidecache_seconds_bucket", (("le", "1e+07"), route)): 3,
        ("sidecache_seconds_bucket", (("le", "+Inf"), route)): 4,
        ("sidecache_seconds_count", (route,)): 4,
        ("sidecache_seconds_sum", (route,)): pytest.approx(20_000_001.3),
    }


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (f"{OPENMETRICS};version=x", "text/plain; version=0.0.4; charset=utf-8"),
        (
            f"text/html, {OPENMETRICS} ; version=1.0.0;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (f"{OPENMETRICS};version=0.0.1", "text/plain; version=0.0.4; charset=utf-8"),
        (f"{OPENMETRICS};version=9.9.9", "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("text/plain;version=abc", "text/plain; version=0.0.4; charset=utf-8"),
        (";;;,=,", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_content_type_is_one_that_we_speak(registry: Registry, accept: str, content_type: str) -> None:
    body, sent = expose(registry, accept)
    assert sent == content_type
    assert body.endswith(b"# EOF\n") is sent.startswith(OPENMETRICS)


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=50)
def test_any_accept_field_gets_an_exposition(accept: str) -> None:
    body, content_type = expose(Registry(), accept)
    assert b"sidecache_build_info" in body
    assert content_type


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(deadline=None, max_examples=50)
def test_label_values_come_out_as_they_went_in(value: str) -> None:
    registry = Registry()
    registry.counter("odd", "Odd.", ("label",)).labels(value).value += 1
    for accept in ("", OPENMETRICS):
        (sample,) = [sample for sample in scrape(registry, accept)["odd"].samples if sample.name == "odd_total"]
        assert sample.labels == {"label": value}


def test_label_that_is_no_unicode_text_does_not_fail_the_scrape() -> None:
    registry = Registry()
    registry.counter("odd", "Odd.", ("label",)).labels("caf\udcc3").value += 1
    assert samples(scrape(registry)["odd"]) == {("odd_total", (("label", "caf\\udcc3"),)): 1}


def test_help_text_may_hold_anything() -> None:
    registry = Registry()
    registry.counter("odd", 'Back\\slash, "quotes" and\nlines.').labels().value += 1
    for accept in ("", OPENMETRICS):
        assert scrape(registry, accept)["odd"].documentation == 'Back\\slash, "quotes" and\nlines.'


def test_process_interpreter_and_build_are_reported() -> None:
    families = scrape(Registry())
    assert families["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert families["process_open_fds"].samples[0].value > 2
    assert families["process_cpu_seconds"].samples[0].value > 0
    assert families["process_start_time_seconds"].samples[0].value > 1_600_000_000
    assert {sample.labels["generation"] for sample in families["python_gc_collections"].samples} == {"0", "1", "2"}
    (build,) = families["sidecache_build_info"].samples
    assert build.value == 1
    assert set(build.labels) == {"version", "python"}
    assert all(build.labels.values())


def test_another_thread_can_encode_while_counting_goes_on(registry: Registry) -> None:
    snapshot = take_snapshot(registry)
    expected = families_of(*encode(snapshot))
    found: list[dict[str, Metric]] = []
    encoder = threading.Thread(target=lambda: found.append(families_of(*encode(snapshot))))
    encoder.start()
    family = registry.counter("sidecache_requests", "Requests.", ("route",))
    number = 0
    while encoder.is_alive() or number < 100:
        family.labels(f"route{number}").value += 1
        number += 1
    encoder.join()
    for name in ("sidecache_requests", "sidecache_open", "sidecache_bytes", "sidecache_seconds"):
        assert found[0][name] == expected[name]


def test_odd_numbers_are_written() -> None:
    registry = Registry()
    registry.gauge("odd", "Odd.", lambda: {("inf",): math.inf, ("nan",): math.nan}, ("value",))
    found = samples(scrape(registry, OPENMETRICS)["odd"])
    assert found[("odd", (("value", "inf"),))] == math.inf
    assert math.isnan(found[("odd", (("value", "nan"),))])


def test_nothing_is_registered_globally(registry: Registry) -> None:
    expose(registry)
    assert not [metric.name for metric in REGISTRY.collect() if metric.name.startswith("sidecache")]


@given(st.lists(st.floats(0, 100), max_size=40))
@settings(deadline=None, max_examples=50)
def test_exposed_buckets_are_cumulative_and_end_with_the_count(values: list[float]) -> None:
    registry = Registry()
    histogram: Histogram = registry.histogram("h", "H.", bounds=(1, 10, 50)).labels()
    for value in values:
        histogram.observe(value)
    found = samples(scrape(registry, OPENMETRICS)["h"])
    for bound in (1.0, 10.0, 50.0):
        assert found[("h_bucket", (("le", str(bound)),))] == sum(value <= bound for value in values)
    assert found[("h_bucket", (("le", "+Inf"),))] == found[("h_count", ())] == len(values)
