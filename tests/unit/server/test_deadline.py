import asyncio
import gc
import weakref
from math import inf

from typing_extensions import override

from proxy.server.deadline import Deadline


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until a test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0

    @override
    def time(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let `seconds` pass, and run what is due."""
        self.now += seconds
        self.run_until_complete(asyncio.sleep(0))
        self.run_until_complete(asyncio.sleep(0))


def made() -> tuple[Loop, Deadline, list[float]]:
    loop = Loop()
    calls: list[float] = []
    return loop, Deadline(loop, lambda: calls.append(loop.now)), calls


def test_it_calls_once_when_its_time_has_come() -> None:
    loop, deadline, calls = made()
    deadline.set(5)
    loop.pass_by(4)
    assert calls == []
    loop.pass_by(2)
    loop.pass_by(10)
    assert calls == [106]
    loop.close()


def test_put_off_by_a_number_it_calls_at_the_later_time() -> None:
    loop, deadline, calls = made()
    deadline.set(5)
    deadline.at = loop.now + 8
    loop.pass_by(6)
    assert calls == []
    loop.pass_by(3)
    assert calls == [109]
    loop.close()


def test_set_to_an_earlier_time_it_calls_then() -> None:
    loop, deadline, calls = made()
    deadline.set(60)
    deadline.set(5)
    loop.pass_by(6)
    loop.pass_by(60)
    assert calls == [106]
    loop.close()


def test_lifted_it_calls_no_more_until_it_is_set_again() -> None:
    loop, deadline, calls = made()
    deadline.set(5)
    deadline.at = inf
    loop.pass_by(10)
    assert calls == []
    deadline.set(5)
    loop.pass_by(6)
    assert calls == [116]
    loop.close()


def test_ended_it_never_calls_and_keeps_nothing_alive() -> None:
    class Owner:
        def __init__(self, loop: Loop) -> None:
            self.deadline = Deadline(loop, self.due)

        def due(self) -> None:
            raise AssertionError("it has ended")

    loop = Loop()
    owner = Owner(loop)
    owner.deadline.set(5)
    owner.deadline.end()
    owner.deadline.set(5)
    loop.pass_by(10)
    gone = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert gone() is None
    finally:
        gc.enable()
    loop.close()
