"""Lines written by a thread, whatever their reader does."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.log_writer import LineWriter, _pieces
from tests.support.pipe import PATIENCE_SECONDS, Pipe, open_pipe, wait_until


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with open_pipe() as made:
        yield made


def no_report(count: int) -> bytes:
    return b"dropped %d\n" % count


def test_reader_that_is_gone_costs_lines_and_nothing_else() -> None:
    reader, write_fd = os.pipe()
    os.close(reader)
    writer = LineWriter(write_fd, 1 << 20, no_report)
    for _ in range(5):
        writer.write(b"lost\n")
    writer.write_all(b"lost\n" * 5000, 5000)
    wait_until(lambda: writer.dropped == 5005)
    assert writer.close(5)
    writer.write(b"after the end\n")
    assert writer.dropped == 5006
    os.close(write_fd)


def test_line_cut_by_a_reader_that_left_does_not_spoil_the_next(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    writer_fd = os.open(tmp_path / "log", os.O_WRONLY)
    writer = LineWriter(writer_fd, 4 << 20, no_report)
    writer.write(b"x" * 300_000 + b"\n")
    assert select.select([reader], [], [], PATIENCE_SECONDS)[0]
    os.read(reader, 1000)
    os.close(reader)
    wait_until(lambda: writer.dropped == 1)
    successor = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    writer.write(b"next\n")
    read = Pipe(successor, writer_fd).read_until(lambda text: b"next\ndropped 1\n" in text)
    assert writer.close(5)
    os.close(successor)
    os.close(writer_fd)
    assert set(read.split(b"\n", 1)[0]) == {ord("x")}
    assert read.split(b"\n", 1)[1] == b"next\ndropped 1\n"


def test_non_blocking_output_is_waited_for_by_the_thread(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_fd, False)
    writer = LineWriter(pipe.write_fd, 4 << 20, no_report)
    for number in range(20_000):
        writer.write(b"line %d\n" % number)
    read = pipe.read_until(lambda text: text.endswith(b"line 19999\n"))
    assert read.count(b"\n") == 20_000
    assert writer.close(5)
    assert writer.dropped == 0


def test_line_longer_than_a_pipe_is_written_whole(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_fd, 4 << 20, no_report)
    line = b"x" * 300_000 + b"\n"
    writer.write(b"before\n")
    writer.write(line)
    writer.write(b"after\n")
    assert pipe.read_until(lambda text: text.endswith(b"after\n")) == b"before\n" + line + b"after\n"
    assert writer.close(5)


@pytest.mark.parametrize("at_once", [1, 100])
@pytest.mark.parametrize("blocking", [True, False])
def test_writers_on_one_pipe_do_not_tear_each_others_lines(pipe: Pipe, blocking: bool, at_once: int) -> None:
    os.set_blocking(pipe.write_fd, blocking)
    writers = [LineWriter(pipe.write_fd, 8 << 20, no_report) for _ in range(3)]

    def fill(writer: LineWriter, letter: bytes) -> None:
        for _ in range(2000 // at_once):
            writer.write_all((letter * 200 + b"\n") * at_once, at_once)

    threads = [
        threading.Thread(target=fill, args=(writer, letter))
        for writer, letter in zip(writers, (b"a", b"b", b"c"), strict=True)
    ]
    for thread in threads:
        thread.start()
    read = pipe.read_until(lambda text: text.count(b"\n") == 6000)
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert all(writer.close(5) for writer in writers)
    assert set(read.splitlines()) == {letter * 200 for letter in (b"a", b"b", b"c")}


def test_file_gets_every_line(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        writer = LineWriter(file.fileno(), 8 << 20, no_report)
        for number in range(20_000):
            writer.write(b"line %d\n" % number)
        assert writer.close(5)
    assert (tmp_path / "log").read_bytes() == b"".join(b"line %d\n" % number for number in range(20_000))


def test_full_disk_costs_lines_and_nothing_else() -> None:
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 — unbuffered: nothing is left to flush
        writer = LineWriter(full.fileno(), 1 << 20, no_report)
        writer.write(b"lost\n")
        wait_until(lambda: writer.dropped == 1)
        assert writer.close(5)


def test_closed_descriptor_costs_lines_and_nothing_else() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    os.close(write_fd)
    writer = LineWriter(write_fd, 1 << 20, no_report)
    writer.write(b"lost\n")
    wait_until(lambda: writer.dropped == 1)
    assert writer.close(5)


CHATTERBOX = """
import asyncio, structlog
from proxy.logs import Logs, LogSettings

async def main():
    logs = Logs(LogSettings(format="json", max_buffered_bytes=65536, flush_seconds=0.1), lambda: 0.0)
    log = structlog.get_logger("chatterbox")
    for number in range(5000):
        log.info("x" * 100, number=number)
        await asyncio.sleep(0)
    dropped = logs.dropped
    raise SystemExit(3 if dropped and not logs.close() else 4)

asyncio.run(main())
"""


def test_process_whose_output_nobody_reads_works_on_and_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", CHATTERBOX], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.wait(30) == 3  # it dropped lines, could not flush, and ended all the same
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()


def test_process_whose_reader_left_works_on_and_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", CHATTERBOX], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 4  # what cannot be written is dropped: nothing is left to flush
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_several_lines_at_once_are_written_and_dropped_as_one_by_one(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_fd, 100, no_report)
    writer.write_all(b"a" * 49 + b"\n" + b"b" * 59 + b"\n" + b"c" * 49 + b"\n" + b"d\n", 4)
    assert writer.dropped == 2
    read = pipe.read_until(lambda text: text.endswith(b"dropped 2\n"))
    assert read == b"a" * 49 + b"\n" + b"c" * 49 + b"\ndropped 2\n"
    assert writer.close(5)
    writer.write_all(b"after the end\n" * 3, 3)
    assert writer.dropped == 5


def test_a_line_longer_than_a_piece_is_whole_among_others_left_with_it(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_fd, 4 << 20, no_report)
    text = b"".join(letter * size + b"\n" for letter, size in ((b"a", 3000), (b"b", 9000), (b"c", 200), (b"d", 6000)))
    writer.write_all(text + b"end\n", 5)
    assert pipe.read_until(lambda read: read.endswith(b"end\n")) == text + b"end\n"
    assert writer.close(5)
    assert writer.dropped == 0


@given(
    texts=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), max_size=8),
    most=st.integers(1, 40),
)
def test_pieces_are_of_whole_lines_as_long_as_may_be(texts: list[list[int]], most: int) -> None:
    lines = [b"".join(b"x" * size + b"\n" for size in sizes) for sizes in texts]
    pieces = list(_pieces([(text, len(sizes)) for text, sizes in zip(lines, texts, strict=True)], most))
    assert b"".join(piece for piece, _ in pieces) == b"".join(lines)
    for piece, count in pieces:
        assert piece.endswith(b"\n")
        assert piece.count(b"\n") == count
        assert len(piece) <= most or count == 1
