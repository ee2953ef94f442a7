"""One cache for the whole suite, and the marks of its tests."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.conformance.behaviours import behaviour_in
from tests.conformance.cache import CacheUnderTest, cache_under_test
from tests.conformance.scripted_origin import begin_test
from tests.support.loops import LOOPS

ON_ONE_LOOP: Final = pytest.mark.asyncio(loop_scope="package")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The sidecar is a process with a loop of its own: the tests' loop does not matter."""
    return {"asyncio": LOOPS["asyncio"]}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The loop is the suite's from the first: chosen test by test, it would take the one sidecar down with it."""
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.definition.add_marker(ON_ONE_LOOP, append=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the suite on one loop, and expect to fail what is not done."""
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        if pytest_asyncio.is_async_test(item):
            item.add_marker(ON_ONE_LOOP, append=False)
        behaviour = behaviour_in(item.iter_markers())
        if behaviour is not None and behaviour.not_done:
            item.add_marker(pytest.mark.xfail(reason=behaviour.not_done, strict=True))


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cache(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CacheUnderTest]:
    async with cache_under_test(tmp_path_factory.mktemp("conformance")) as one:
        yield one


@pytest.fixture(autouse=True)
def _dates_count_from_here() -> None:
    begin_test()
