import asyncio
from collections.abc import Callable

from typing_extensions import override

from proxy.server.memory_file import MemoryFile
from proxy.server.outbox import MOST_WAITING, Outbox


class Transport(asyncio.Transport):
    """Keeps what is written, together with all others."""

    def __init__(self, name: str, written: list[tuple[str, bytes]]) -> None:
        super().__init__()
        self.name = name
        self.written = written
        self.closing = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append((self.name, bytes(data)))

    @override
    def is_closing(self) -> bool:
        return self.closing

    @override
    def get_write_buffer_size(self) -> int:
        return 0


class Turn:
    """An event loop that is told when its turn ends."""

    def __init__(self) -> None:
        self.called: list[Callable[[], None]] = []
        self.outbox = Outbox(self.called.append)
        self.written: list[tuple[str, bytes]] = []

    def transport(self, name: str) -> Transport:
        return Transport(name, self.written)

    def end(self) -> None:
        called = self.called.copy()
        self.called.clear()
        for call in called:
            call()


def test_all_is_written_in_its_order_when_the_turn_ends() -> None:
    turn = Turn()
    one, other = turn.transport("one"), turn.transport("other")
    file = MemoryFile.of([b"from", b" a file"])
    assert file is not None
    turn.outbox.put(one, b"first")
    turn.outbox.put(other, (b"head", b"body"))
    turn.outbox.put(one, file)
    assert turn.written == []
    assert len(turn.called) == 1
    turn.end()
    assert [name for name, _ in turn.written] == ["one", "other", "one"]
    assert b"".join(data for _, data in turn.written) == b"firstheadbodyfrom a file"
    turn.end()
    assert len(turn.written) == 3


def test_the_next_turn_has_an_end_of_its_own() -> None:
    turn = Turn()
    one = turn.transport("one")
    turn.outbox.put(one, b"first")
    turn.outbox.flush()
    turn.outbox.put(one, b"second")
    turn.end()
    assert turn.written == [("one", b"first"), ("one", b"second")]
    turn.outbox.put(one, b"third")
    turn.end()
    assert turn.written[2:] == [("one", b"third")]


def test_many_do_not_wait_for_the_end() -> None:
    turn = Turn()
    one = turn.transport("one")
    for number in range(MOST_WAITING + 1):
        turn.outbox.put(one, b"%d" % number)
    assert len(turn.written) == MOST_WAITING
    turn.end()
    assert [data for _, data in turn.written] == [b"%d" % number for number in range(MOST_WAITING + 1)]


def test_who_has_left_holds_nobody_up() -> None:
    turn = Turn()
    gone, here = turn.transport("gone"), turn.transport("here")
    turn.outbox.put(gone, b"x")
    turn.outbox.put(here, b"y")
    gone.closing = True
    turn.end()
    assert turn.written == [("here", b"y")]
