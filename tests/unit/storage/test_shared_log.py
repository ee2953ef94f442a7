import asyncio
from collections.abc import AsyncIterator

import pytest
from typing_extensions import override

from proxy.storage import shared_log
from proxy.storage.base import PurgeId
from proxy.storage.invalidation_log import Purge, PurgeScope
from proxy.storage.second_tier import TierFailedError
from proxy.storage.shared_log import SharedLog, purge_id
from proxy.tasks import Tasks
from tests.support.clock import FakeClock
from tests.support.records import entry, until


class ScriptedLog(SharedLog):
    """A log in a list that can be out of reach, and can hang."""

    def __init__(self, clock: FakeClock, tasks: Tasks) -> None:
        super().__init__(clock, tasks, timeout_seconds=0.05)
        self.sent: list[Purge] = []
        self.reachable = True
        self.hanging = False

    @override
    def refresh(self) -> None:
        pass

    @override
    async def start(self) -> None:
        pass

    @override
    async def _send(self, purge: Purge) -> PurgeId:
        if self.hanging:
            await asyncio.Event().wait()
        if not self.reachable:
            raise TierFailedError("scripted")
        self.sent.append(purge)
        return purge_id(int(self._clock.wall() * 1000), len(self.sent))


@pytest.fixture
async def log() -> AsyncIterator[ScriptedLog]:
    tasks = Tasks()
    log = ScriptedLog(FakeClock(), tasks)
    yield log
    await log.close()
    await tasks.close()


async def test_a_purge_that_was_sent_has_the_id_it_got(log: ScriptedLog) -> None:
    appended = await log.append(PurgeScope.TAG, "t")
    assert appended.shared
    assert appended.purge.id == log.last_seen == purge_id(1_700_000_000_000, 1)


async def test_a_purge_that_was_not_sent_has_an_id_below_all_later_shared_ones(log: ScriptedLog) -> None:
    first = (await log.append(PurgeScope.TAG, "1")).purge
    log.reachable = False
    local = (await log.append(PurgeScope.TAG, "2")).purge
    assert first.id < local.id < purge_id(1_700_000_000_001, 0)


@pytest.mark.parametrize("trouble", ["reachable", "hanging"])
async def test_purges_that_could_not_be_sent_follow_in_their_order(log: ScriptedLog, trouble: str) -> None:
    log.reachable, log.hanging = trouble == "hanging", trouble == "hanging"
    for value in "abc":
        assert not (await log.append(PurgeScope.TAG, value)).shared
        assert log.newest_match("", entry(tags=(value,))) is not None
    log.reachable, log.hanging = True, False
    await until(lambda: log.pending == 0)
    assert [purge.value for purge in log.sent] == ["a", "b", "c"]
    assert (await log.append(PurgeScope.TAG, "d")).shared


async def test_too_many_pending_purges_become_one_of_everything(
    log: ScriptedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_log, "MAX_PENDING", 3)
    log.reachable = False
    for value in "abcd":
        await log.append(PurgeScope.TAG, value)
    assert log.stats()["pending"] == 1
    assert log.newest_match("", entry(tags=("other",))) is None  # here nothing was forgotten
    log.reachable = True
    await until(lambda: log.pending == 0)
    assert [(purge.scope, purge.soft) for purge in log.sent] == [(PurgeScope.ALL, False)]


async def test_closing_gives_up_what_is_pending(log: ScriptedLog) -> None:
    log.reachable = False
    await log.append(PurgeScope.ALL, "")
    await log.close()
    await log.close()
    assert log.sent == []
