"""Background work is held, named, logged, and ends."""

import asyncio

import pytest
from structlog.testing import capture_logs

from proxy.tasks import Tasks


async def test_task_runs_under_its_name_and_gives_its_result() -> None:
    tasks = Tasks()

    async def work() -> str:
        current = asyncio.current_task()
        assert current is not None
        return current.get_name()

    task = tasks.start("refresh", work())
    assert len(tasks) == 1
    assert await task == "refresh"
    await asyncio.sleep(0)
    assert len(tasks) == 0
    await tasks.close()


async def test_task_that_nobody_holds_is_not_lost() -> None:
    tasks = Tasks()
    done = asyncio.Event()
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()
        done.set()

    _ = tasks.start("work", work())
    go.set()
    await asyncio.wait_for(done.wait(), 5)
    await tasks.close()


async def test_error_that_nobody_awaits_is_logged() -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise OSError("broken")

    with capture_logs() as logs:
        task = tasks.start("doomed", fail())
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert [(line["event"], line["task"], line["log_level"]) for line in logs] == [("task failed", "doomed", "error")]
    assert isinstance(logs[0]["exc_info"], OSError)
    assert len(tasks) == 0
    await tasks.close()


async def test_cancelled_task_is_no_failure() -> None:
    tasks = Tasks()
    with capture_logs() as logs:
        task = tasks.start("idle", asyncio.Event().wait())
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert logs == []
    await tasks.close()


async def test_closing_waits_for_what_ends_within_the_grace() -> None:
    tasks = Tasks()
    go = asyncio.Event()
    finished = False

    async def work() -> None:
        nonlocal finished
        await go.wait()
        finished = True

    _ = tasks.start("work", work())
    closing = asyncio.get_running_loop().create_task(tasks.close(grace_seconds=30))
    await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await asyncio.wait_for(closing, 5)
    assert finished


async def test_closing_cancels_what_does_not_end_and_waits_for_its_cleanup() -> None:
    tasks = Tasks()
    started = asyncio.Event()
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    task = tasks.start("work", work())
    await started.wait()
    await tasks.close(grace_seconds=0.001)
    assert task.cancelled()
    assert cleaned
    assert len(tasks) == 0


async def test_closing_twice_and_with_nothing_running_is_fine() -> None:
    tasks = Tasks()
    await tasks.close(grace_seconds=1)
    await tasks.close()


async def test_start_after_closing_is_refused_and_its_coroutine_closed() -> None:
    tasks = Tasks()
    await tasks.close()

    async def work() -> None:
        raise AssertionError("it must not run")

    coroutine = work()  # were it left unclosed, "never awaited" would be a warning, and warnings are errors
    with pytest.raises(RuntimeError, match="'late' was started after shutdown"):
        _ = tasks.start("late", coroutine)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await coroutine
