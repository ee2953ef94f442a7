"""One stream of log lines, and a proxy that never waits for its reader."""

import asyncio
import io
import logging
import os
import pty
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from proxy.logs import (
    MICROSECONDS,
    EventLogger,
    JsonRenderer,
    Logs,
    LogSettings,
    TextRenderer,
    escaped,
    log_loop_exception,
    millisecond,
)
from tests.support.pipe import PATIENCE_SECONDS, Pipe, open_pipe

WALL = 1_700_000_000.25


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with open_pipe() as made:
        yield made


@contextmanager
def logs_to(fd: int, wall: Callable[[], float] = lambda: WALL, **changes: Any) -> Iterator[Logs]:
    logs = Logs(LogSettings(**{"format": "json", "flush_seconds": 5, **changes}), wall, fd)
    try:
        yield logs
    finally:
        logs.close()


def objects(text: bytes) -> list[dict[str, Any]]:
    assert text.endswith(b"\n") or not text
    return [orjson.loads(line) for line in text.splitlines()]


def test_line_is_one_json_object_with_time_level_logger_and_event(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd):
        structlog.get_logger("pipeline").warning("plugin failed", plugin="cache", attempt=2)
    assert pipe.read_available() == (
        b'{"timestamp":"2023-11-14T22:13:20.250000Z","level":"warning","logger":"pipeline",'
        b'"event":"plugin failed","plugin":"cache","attempt":2}\n'
    )


def test_each_line_of_one_of_several_workers_says_which(pipe: Pipe) -> None:
    logs = Logs(LogSettings(format="json"), lambda: 0.0, pipe.write_fd, worker="2")
    try:
        structlog.get_logger("a").info("ours")
        logging.getLogger("aiohttp.server").error("theirs")
    finally:
        logs.close()
    assert [(line["event"], line["worker"]) for line in objects(pipe.read_available())] == [
        ("ours", "2"),
        ("theirs", "2"),
    ]


def test_bound_request_id_is_in_the_line(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd), structlog.contextvars.bound_contextvars(request_id="abc"):
        structlog.get_logger("a").info("first")
    with logs_to(pipe.write_fd):
        structlog.get_logger("a").info("second")
    first, second = objects(pipe.read_available())
    assert first["request_id"] == "abc"
    assert "request_id" not in second


def test_lines_below_the_level_are_not_written(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd, level="warning"):
        log = structlog.get_logger("a")
        log.info("no")
        logging.getLogger("aiohttp.server").info("no")
        log.error("yes")
        logging.getLogger("aiohttp.server").error("yes")
    assert [line["event"] for line in objects(pipe.read_available())] == ["yes", "yes"]


def test_level_and_format_follow_a_new_configuration(pipe: Pipe) -> None:
    log = structlog.get_logger("a")
    with logs_to(pipe.write_fd, level="error") as logs:
        log.info("one")
        logs.configure(LogSettings(format="json", level="info"))
        log.info("two")
        logs.configure(LogSettings(format="text", level="info"))
        log.info("three")
        logging.getLogger("b").info("four")
    first, *rest = pipe.read_available().splitlines()
    assert orjson.loads(first)["event"] == "two"
    assert [b"three" in rest[0], b"four" in rest[1], rest[0][:1] == b"{"] == [True, True, False]


def test_event_logger_writes_what_a_bound_logger_would(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd) as logs:
        events = EventLogger("access")
        assert events.enabled
        events.info({"event": "request", "status": 200})
        structlog.get_logger("access").info("request", status=200)
        logs.configure(LogSettings(format="text"))
        events.info({"event": "request", "status": 200})
    first, second, third = pipe.read_available().splitlines()
    assert first == second
    assert third[:1] != b"{"


def time_text(microseconds: int) -> str:
    start, begin = millisecond(microseconds)
    return begin + MICROSECONDS[microseconds - start]


def filled(prepared: Sequence[str] | None, *values: str) -> str:
    assert prepared is not None
    assert len(prepared) == len(values) + 1
    return "".join([piece + value for piece, value in zip(prepared, (*values, ""), strict=True)])


def test_prepared_line_is_the_line_that_the_event_logger_writes(pipe: Pipe) -> None:
    event = {"event": "request", "target": '/"a\n', "id": "x", "status": 200, "took_ms": 0.0, "tier": "l1"}
    with logs_to(pipe.write_fd):
        log = EventLogger("access")
        prepared = log.prepare(event, ("id",), ("took_ms",))
        for number in range(2):
            log.info({**event, "id": f'"{number}"', "took_ms": 1.5})
            log.write(filled(prepared, time_text(int(WALL * 1_000_000)), escaped(f'"{number}"'), "1.500"), 1)
    written = objects(pipe.read_available())
    assert written[0] == written[1] and written[2] == written[3]
    assert [list(line) for line in written] == [list(written[0])] * 4


@given(wall=st.floats(0, 4e9), text=st.text(alphabet=st.characters(), max_size=20), number=st.floats(0, 1e6))
@settings(deadline=None, max_examples=50)
def test_prepared_line_is_json_whatever_its_values(wall: float, text: str, number: float) -> None:
    with open_pipe() as pipe:
        with logs_to(pipe.write_fd, lambda: wall):
            log = EventLogger("access")
            prepared = log.prepare({"event": "request", "id": "", "took_ms": 0.0}, ("id",), ("took_ms",))
            log.write(filled(prepared, time_text(int(wall * 1_000_000)), escaped(text), f"{number:.3f}"), 1)
        (line,) = objects(pipe.read_available())
    assert line["took_ms"] == pytest.approx(number, abs=0.0006)
    assert line["id"] == text.encode("utf-8", "backslashreplace").decode()
    assert datetime.fromisoformat(line["timestamp"]).timestamp() == pytest.approx(wall, abs=1e-5)


def test_no_line_is_prepared_where_lines_are_for_people(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd, format="text"):
        assert EventLogger("access").prepare({"event": "request", "id": ""}, ("id",)) is None


def test_no_line_is_prepared_that_has_another_time_in_it(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd):
        event = {"event": "request", "id": "", "notes": {"timestamp": "today"}}
        assert EventLogger("access").prepare(event, ("id",)) is None
        event = {"event": "request", "id": "", "target": '"timestamp":"today"'}
        prepared = EventLogger("access").prepare(event, ("id",))
        assert orjson.loads(filled(prepared, "now", "x"))["target"] == '"timestamp":"today"'


@given(st.integers(0, 4_000_000_000_000_000))
def test_a_time_made_of_two_parts_is_that_of_a_datetime(microseconds: int) -> None:
    start, _ = millisecond(microseconds)
    assert 0 <= microseconds - start < 1000 and start % 1000 == 0
    exact = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
    assert time_text(microseconds) == exact.isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_event_logger_knows_that_its_level_is_not_written(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd, level="warning"):
        assert not EventLogger("access").enabled


def test_event_logger_can_be_captured() -> None:
    with structlog.testing.capture_logs() as logs:
        EventLogger("access").info({"event": "request"})
    assert logs == [{"event": "request", "log_level": "info"}]


def test_standard_library_records_take_the_same_way(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd):
        logging.getLogger("redis.connection").error("no connection to %s", "example.test", exc_info=OSError("refused"))
    (line,) = objects(pipe.read_available())
    assert line["logger"] == "redis.connection"
    assert line["level"] == "error"
    assert line["event"] == "no connection to example.test"
    assert line["exception"][0]["exc_type"] == "OSError"


def test_bad_standard_library_call_does_not_fail_its_caller(pipe: Pipe, capsys: pytest.CaptureFixture[str]) -> None:
    with logs_to(pipe.write_fd):
        logging.getLogger("a").error("%d", "no number")
        logging.getLogger("a").error("next")
    assert [line["event"] for line in objects(pipe.read_available())] == ["next"]
    assert "no number" in capsys.readouterr().err


def test_warnings_are_logged(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    (line,) = objects(pipe.read_available())
    assert line["logger"] == "py.warnings"
    assert "old ways" in line["event"]


def test_traceback_is_structured_and_without_locals(pipe: Pipe) -> None:
    def fail() -> None:
        token = "top-secret"  # noqa: F841 — the point: it must not be logged
        raise ValueError("bad\nnews")

    with logs_to(pipe.write_fd):
        try:
            fail()
        except ValueError as error:
            structlog.get_logger("a").error("failed", exc_info=error)
    text = pipe.read_available()
    (line,) = objects(text)
    (trace,) = line["exception"]
    assert (trace["exc_type"], trace["exc_value"]) == ("ValueError", "bad\nnews")
    assert trace["frames"][-1]["name"] == "fail"
    assert b"top-secret" not in text


def test_closing_puts_back_what_was_configured_before(pipe: Pipe) -> None:
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with logs_to(pipe.write_fd):
        assert root.handlers != handlers
    assert structlog.get_config() == before
    assert (root.handlers, root.level) == (handlers, level)


class Odd:
    """A value whose `repr` fails."""

    @override
    def __repr__(self) -> str:
        raise RuntimeError("no")


def cycle() -> list[Any]:
    made: list[Any] = [1]
    made.append(made)
    return made


def test_request_text_that_is_no_utf8_is_logged_escaped() -> None:
    line = orjson.loads(JsonRenderer()(None, "info", {"event": "x", "target": "/caf\udcc3\udca9"}))
    assert line["target"] == "/caf\\udcc3\\udca9"


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        (2**70, str(2**70)),
        (-(2**70), str(-(2**70))),
        (b"\xff", "b'\\xff'"),
        ({"a": {1}}, {"a": "{1}"}),
        ((1, None, True, 1.5), [1, None, True, 1.5]),
        ({("k", 1): "v"}, {"('k', 1)": "v"}),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    ],
)
def test_value_that_json_cannot_hold_is_logged_as_text(value: object, logged: object) -> None:
    assert orjson.loads(JsonRenderer()(None, "info", {"event": "x", "value": value}))["value"] == logged


@pytest.mark.parametrize("make", [JsonRenderer, lambda: TextRenderer(colours=False)])
@pytest.mark.parametrize("value", [Odd(), cycle(), [Odd()], {"a": Odd()}, float("nan")])
def test_no_value_fails_a_renderer(make: Callable[[], Any], value: object) -> None:
    assert make()(None, "info", {"event": "x", "value": value, "timestamp": datetime.now(UTC)}).count(b"\n") == 1


TEXTS = st.text(st.characters(), max_size=20)
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=8) | st.builds(object),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, JSON_LIKE, max_size=5))
@settings(deadline=None)
def test_any_event_is_one_line_of_json(event: dict[str, Any]) -> None:
    line = JsonRenderer()(None, "info", event)
    assert line.count(b"\n") == 1
    assert isinstance(orjson.loads(line), dict)


@given(TEXTS, TEXTS)
@settings(deadline=None)
def test_text_line_never_moves_the_cursor(event: str, value: str) -> None:
    line = TextRenderer(colours=False)(None, "info", {"event": event, "value": value}).decode()
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_text_traceback_never_moves_the_cursor() -> None:
    error = ValueError("from the wire: \x1b[2J\r\x00")
    line = TextRenderer(colours=False)(None, "error", {"event": "failed", "exc_info": error}).decode()
    assert "ValueError: from the wire: \\x1b[2J\\r\\x00\n" in line
    assert all(part.isprintable() for part in line.split("\n"))


def test_text_for_people_has_colours_on_a_terminal_only() -> None:
    plain = TextRenderer(colours=False)(None, "info", {"event": "hello", "level": "info", "n": 1})
    coloured = TextRenderer(colours=True)(None, "info", {"event": "hello", "level": "info", "n": 1})
    assert b"\x1b[" not in plain
    assert b"\x1b[" in coloured


@pytest.mark.parametrize(("no_colour", "coloured"), [(False, True), (True, False)])
def test_auto_format_is_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch, no_colour: bool, coloured: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    main, terminal = pty.openpty()
    try:
        with logs_to(terminal, format="auto"):
            structlog.get_logger("a").error("hello", exc_info=ValueError("bad"))
        shown = os.read(main, 65536)
    finally:
        os.close(main)
        os.close(terminal)
    assert b"hello" in shown
    assert b"ValueError: bad" in shown
    assert shown[:1] != b"{"
    assert (b"\x1b[" in shown) is coloured


def test_auto_format_is_json_elsewhere(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd, format="auto"):
        structlog.get_logger("a").info("hello")
    assert objects(pipe.read_available())[0]["event"] == "hello"


def requests(text: bytes) -> list[dict[str, Any]]:
    return [line for line in objects(text) if line["event"] == "request"]


def reported(text: bytes) -> int:
    """How many lines the log says were dropped."""
    return sum(line["lines"] for line in objects(text) if line["event"] == "log lines dropped")


async def test_stopped_reader_of_a_full_pipe_does_not_stall_the_loop(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd, max_buffered_bytes=64 << 10) as logs:
        log = structlog.get_logger("access")
        longest = 0.0
        written = 0
        while not logs.dropped or written < 3000:
            began = monotonic()
            log.info("request", target="/x" * 50, number=written)
            written += 1
            await asyncio.sleep(0)
            longest = max(longest, monotonic() - began)
        assert longest < 2  # a blocked write would last until the test's time-out

        # The reader comes back: what was kept arrives whole and in order, and the log says what was lost.
        def all_accounted_for(text: bytes) -> bool:
            return text.endswith(b"\n") and len(requests(text)) + reported(text) == written

        read = await asyncio.to_thread(pipe.read_until, all_accounted_for)
        assert reported(read) == logs.dropped
        numbers = [line["number"] for line in requests(read)]
        assert numbers == sorted(numbers)
        log.info("request", number=-1)
    assert objects(pipe.read_available())[-1]["number"] == -1


def test_closing_waits_for_a_stopped_reader_only_so_long(pipe: Pipe) -> None:
    logs = Logs(LogSettings(format="json", flush_seconds=0.05, max_buffered_bytes=1 << 20), lambda: 0.0, pipe.write_fd)
    log = structlog.get_logger("a")
    for _ in range(3000):
        log.info("x" * 200)
    began = monotonic()
    assert not logs.close()
    assert monotonic() - began < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "log-writer"]


def test_closing_flushes_everything_to_a_reader(pipe: Pipe) -> None:
    with logs_to(pipe.write_fd) as logs:
        reader_got: list[bytes] = []

        def read_all() -> None:
            with io.FileIO(os.dup(pipe.read_fd)) as stream:
                while b"the last" not in (chunk := stream.read(65536) or b""):
                    reader_got.append(chunk)
                reader_got.append(chunk)

        reader = threading.Thread(target=read_all)
        reader.start()
        log = structlog.get_logger("a")
        for number in range(5000):
            log.info("line", number=number)
        log.info("the last")
        assert logs.close()
        reader.join(PATIENCE_SECONDS)
    assert len(objects(b"".join(reader_got))) == 5001
    assert logs.dropped == 0


def test_what_a_thread_dies_of_is_logged(pipe: Pipe) -> None:
    def fail() -> None:
        raise ValueError("bad news")

    before = threading.excepthook
    with logs_to(pipe.write_fd):
        thread = threading.Thread(target=fail, name="compressor")
        thread.start()
        thread.join(PATIENCE_SECONDS)
    (line,) = objects(pipe.read_available())
    assert (line["event"], line["level"], line["thread"]) == ("thread failed", "error", "compressor")
    assert line["exception"][0]["exc_value"] == "bad news"
    assert threading.excepthook is before


async def test_loop_exception_is_logged_with_its_context() -> None:
    loop = asyncio.get_running_loop()
    with structlog.testing.capture_logs() as logs:
        log_loop_exception(loop, {"message": "Task was destroyed", "exception": OSError("x"), "task": "<Task>"})
        log_loop_exception(loop, {"message": "odd"})
    assert logs[0]["detail"] == "Task was destroyed"
    assert isinstance(logs[0]["exc_info"], OSError)
    assert logs[0]["task"] == "'<Task>'"
    assert logs[1]["log_level"] == "error"


@pytest.mark.parametrize(
    "bad", [{"level": "loud"}, {"format": "xml"}, {"max_buffered_bytes": 1}, {"flush_seconds": -1}, {"colour": True}]
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        LogSettings(**bad)
