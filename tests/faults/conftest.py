"""Which event loops the tests of this folder run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support.loops import LOOPS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    """Tests of what clients do, and of what goes past the pipeline, run on each loop."""
    return LOOPS if item.path.name.startswith(("test_clients", "test_passages")) else {"asyncio": LOOPS["asyncio"]}
