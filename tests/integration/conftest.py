"""Which event loops the tests of this folder run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support.loops import LOOPS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    """Tests of the server run on each loop."""
    return LOOPS if item.path.name.startswith("test_server") else {"asyncio": LOOPS["asyncio"]}
