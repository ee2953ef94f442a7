"""What the contract tests of stores and logs stand on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.stores import Backends, RedisServers, backends, redis_servers

__all__ = ["redis_servers"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def made(clock: FakeClock, redis_servers: RedisServers, tmp_path: Path) -> AsyncIterator[Backends]:
    async with backends(clock, redis_servers, tmp_path) as made:
        yield made
