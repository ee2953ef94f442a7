"""What a scraper reads."""

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.support.admin import bench

NAME = "sidecache_request_duration_seconds"


async def test_metrics_are_plain_text_by_default() -> None:
    async with bench() as admin:
        await admin.driven.get("/items/1")
        answer = await admin.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        families = {family.name: family for family in read_text(answer.raw.decode())}
        (count,) = [sample.value for sample in families[NAME].samples if sample.name == f"{NAME}_count"]
        assert count == 1


async def test_openmetrics_is_given_to_those_who_ask_for_it() -> None:
    async with bench() as admin:
        accept = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1"}
        answer = await admin.get("/metrics", headers=accept)
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        assert NAME in _names(answer.raw.decode())


def _names(text: str) -> set[str]:
    families = read_openmetrics(text)  # type: ignore[no-untyped-call]  # it has no annotations
    return {family.name for family in families}
