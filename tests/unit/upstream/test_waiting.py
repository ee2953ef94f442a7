"""Waits with time-outs whose timer is left running."""

import asyncio
from collections.abc import Callable

import pytest

from proxy.upstream.waiting import Signal
from tests.support.loops import LOOPS


@pytest.fixture(params=list(LOOPS.values()), ids=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    def run(work: Callable[[], object]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work())  # type: ignore[arg-type]  # each test's coroutine

    return run


def test_a_wait_ends_when_something_changes(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal = Signal()
        for _ in range(3):
            waiter = signal.wait(30)
            assert not waiter.done()
            signal.give()
            signal.give()
            await waiter
        signal.end()

    run(work)


def test_a_wait_ends_when_its_time_is_over_and_not_before(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal, loop = Signal(), asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError):
            await signal.wait(0.05)
        assert loop.time() >= began + 0.045  # uvloop counts milliseconds
        signal.end()

    run(work)


def test_the_timer_of_an_earlier_wait_ends_no_later_one(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal, loop = Signal(), asyncio.get_running_loop()
        earlier = signal.wait(0.02)
        signal.give()
        await earlier
        later = signal.wait(0.2)
        began = loop.time()
        with pytest.raises(TimeoutError):
            await later
        assert loop.time() >= began + 0.19
        signal.end()

    run(work)


def test_a_wait_that_is_shorter_than_the_one_before_ends_in_its_own_time(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal = Signal()
        longer = signal.wait(3600)
        signal.give()
        await longer
        async with asyncio.timeout(10):
            with pytest.raises(TimeoutError):
                await signal.wait(0.02)
        signal.end()

    run(work)


def test_the_timer_that_goes_off_while_nobody_waits_does_nothing(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal, loop = Signal(), asyncio.get_running_loop()
        waiter = signal.wait(0.01)
        signal.give()
        await waiter
        passed = loop.create_future()
        loop.call_later(0.05, passed.set_result, None)
        await passed
        assert waiter.result() is None
        with pytest.raises(TimeoutError):
            await signal.wait(0.01)

    run(work)


def test_a_wait_for_ever_outlives_the_timer_of_the_one_before(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal, loop = Signal(), asyncio.get_running_loop()
        earlier = signal.wait(0.01)
        signal.give()
        await earlier
        waiter = signal.wait(None)
        loop.call_later(0.05, signal.give)
        await waiter
        signal.end()

    run(work)


def test_a_wait_that_is_cancelled_is_left_alone(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal = Signal()
        cancelled = signal.wait(0.01)
        cancelled.cancel()
        signal.give()
        assert cancelled.cancelled()
        with pytest.raises(TimeoutError):
            await signal.wait(0.03)
        signal.end()

    run(work)


def test_the_end_wakes_and_leaves_no_timer(run: Callable[..., None]) -> None:
    async def work() -> None:
        signal = Signal()
        waiter = signal.wait(3600)
        signal.end()
        await waiter
        assert signal._timer is None

    run(work)
