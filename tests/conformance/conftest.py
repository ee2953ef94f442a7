"""One cache for the whole suite, and the marks of its tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance.behaviours import behaviour_in
from tests.conformance.cache import CacheUnderTest, cache_under_test
from tests.support.loops import LOOPS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The sidecar is a process with a loop of its own: the tests' loop does not matter."""
    return {"asyncio": LOOPS["asyncio"]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the suite on one loop, and expect to fail what is not done."""
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        if pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="package"), append=False)
        behaviour = behaviour_in(item.iter_markers())
        if behaviour is not None and behaviour.not_done:
            item.add_marker(pytest.mark.xfail(reason=behaviour.not_done, strict=True))


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cache(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CacheUnderTest]:
    async with cache_under_test(tmp_path_factory.mktemp("conformance")) as one:
        yield one
