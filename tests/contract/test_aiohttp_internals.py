"""The private names and undocumented behaviours of aiohttp that `proxy.server.protocol` stands on.

When an upgrade of aiohttp breaks the server, a test here fails first and says which name or behaviour moved.
"""

import ast
import asyncio
import inspect
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from typing_extensions import override

from proxy.server import protocol, supported

SERVER = Path(protocol.__file__).parent
FIELDS = {
    "_buffer_paused", "_close", "_force_close", "_loop", "_message_tail", "_messages",
    "_msg_queue_resume_size", "_parser", "_paused", "_payload_parser", "_reading_paused", "_request_count",
    "_task_handler", "_upgraded", "_waiter",
}  # fmt: skip
OF_A_BODY = {"_buffer"}
METHODS = {"_resume_reading_if_drained", "_resume_transport_reading"}


def own_attributes() -> set[str]:
    return {name for name in protocol.Connection.__slots__ if name.startswith("_")}


def private_names(source: Path) -> set[str]:
    """Names with a leading underscore that are read or written on any object, or imported from aiohttp."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            names.add(node.attr)
    return names


def private_names_of_others(source: Path) -> set[str]:
    """Private names that are not an object's own: of something other than `self`, or imported from aiohttp."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiohttp"):
            names |= {alias.name for alias in node.names if alias.name.startswith("_")}
    return names


@pytest.fixture
async def connection() -> RequestHandler:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError

    return RequestHandler(web.Server(handler), loop=asyncio.get_running_loop(), auto_decompress=False)


def test_version_is_the_pinned_minor_release() -> None:
    assert tuple(int(part) for part in aiohttp.__version__.split(".")[:2]) == supported.SUPPORTED_AIOHTTP


@pytest.mark.parametrize("source", sorted(SERVER.glob("*.py")), ids=lambda path: path.name)
def test_private_names_of_aiohttp_stand_in_protocol_alone(source: Path) -> None:
    if source.name != "protocol.py":
        assert private_names_of_others(source) == set()


def test_every_private_name_in_protocol_is_known_here() -> None:
    used = private_names(SERVER / "protocol.py") - own_attributes()
    used -= {name for name, _ in inspect.getmembers(protocol.Connection, inspect.isfunction)} - METHODS
    used -= set(vars(protocol.Connection)) - METHODS
    used -= {"_caller", "_connection", "_empty"}  # of the other classes in the file
    assert used == FIELDS | METHODS | OF_A_BODY


@pytest.mark.parametrize("name", sorted(FIELDS))
async def test_field_exists(connection: RequestHandler, name: str) -> None:
    assert hasattr(connection, name)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_method_exists_and_takes_no_argument(name: str) -> None:
    parameters = inspect.signature(getattr(RequestHandler, name)).parameters
    assert list(parameters) == ["self"]


def test_own_fields_do_not_hide_one_of_aiohttp() -> None:
    inherited = {name for cls in (RequestHandler, BaseProtocol) for name in cls.__slots__}
    assert not inherited & set(protocol.Connection.__slots__)


def test_own_methods_hide_only_what_they_mean_to() -> None:
    meant = {
        "__init__", "__slots__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__",
        "connection_made", "connection_lost", "data_received", "eof_received", "force_close", "resume_reading",
        "resume_writing", "start",
    }  # fmt: skip
    hidden = {name for name in vars(protocol.Connection) if hasattr(RequestHandler, name)}
    assert hidden <= meant


async def test_a_body_that_is_here_is_in_its_buffer() -> None:
    body = StreamReader(BaseProtocol(asyncio.get_running_loop()), 65_536)
    body.feed_data(b"ab")
    body.feed_data(b"cd")
    body.feed_eof()
    assert list(body._buffer) == [b"ab", b"cd"]
    assert body.total_bytes == 4


async def test_fields_begin_as_the_server_expects(connection: RequestHandler) -> None:
    assert connection._request_count == 0
    assert not connection._messages
    assert connection._message_tail == b""
    assert connection._upgraded is False
    assert connection._buffer_paused is False
    assert connection._payload_parser is None


async def test_each_message_is_counted_and_queued(connection: RequestHandler) -> None:
    connection.data_received(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"
    )
    assert connection._request_count == 2
    (_, first), (message, second) = connection._messages
    assert first is EMPTY_PAYLOAD
    assert not second.is_eof()
    assert isinstance(message, RawRequestMessage)
    assert message.upgrade is False


async def test_the_task_of_a_connection_ends_with_it() -> None:
    states: list[str] = []

    class Transport(asyncio.Transport):
        @override
        def close(self) -> None:
            states.append("closed")

    class Started(RequestHandler):
        __slots__ = ()

        @override
        async def start(self) -> None:
            states.append("begun")
            try:
                await asyncio.Event().wait()
            finally:
                states.append("ended")

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError

    started = Started(web.Server(handler, handler_cancellation=True), loop=asyncio.get_running_loop())
    # As `Connection.connection_made` does, and not aiohttp's method.
    started.transport = Transport()
    started._task_handler = asyncio.get_running_loop().create_task(started.start())
    await asyncio.sleep(0)
    assert states == ["begun"]
    started.connection_lost(None)
    await asyncio.sleep(0)
    assert states == ["begun", "closed", "ended"]


async def test_a_message_wakes_who_waits_for_one(connection: RequestHandler) -> None:
    waiter = connection._waiter = asyncio.get_running_loop().create_future()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert waiter.done()


async def test_half_a_head_is_neither_counted_nor_queued(connection: RequestHandler) -> None:
    connection.data_received(b"GET / HTTP/1.1\r\nHost")
    assert connection._request_count == 0
    assert not connection._messages


async def test_malformed_message_is_counted_and_queued_as_an_error(connection: RequestHandler) -> None:
    connection.data_received(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    assert connection._request_count == 1
    message, payload = connection._messages[-1]
    assert isinstance(message, _ErrInfo)
    assert isinstance(message.exc, BadHttpMessage)
    assert payload is EMPTY_PAYLOAD


async def test_malformed_chunk_leaves_the_body_waiting(connection: RequestHandler) -> None:
    connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    _, payload = connection._messages[0]
    connection.data_received(b"nonsense\r\n")
    assert isinstance(connection._messages[-1][0], _ErrInfo)
    assert payload.exception() is None
    assert not payload.is_eof()


async def test_websocket_upgrade_keeps_what_follows(connection: RequestHandler) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    connection.data_received(head + b"\x81\x00")
    assert connection._upgraded is True
    assert connection._message_tail == b"\x81\x00"
    connection.data_received(b"more")
    assert connection._message_tail == b"\x81\x00more"


async def test_other_upgrade_loses_what_follows(connection: RequestHandler) -> None:
    """The server makes up for it; should aiohttp learn to do this, `data_received` becomes simpler."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"
    connection.data_received(head + b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    message = connection._messages[-1][0]
    assert isinstance(message, RawRequestMessage)
    assert message.upgrade is True
    assert connection._request_count == 1
    assert connection._upgraded is False
    assert connection._message_tail == b""


async def test_parser_goes_on_after_an_upgrade_that_was_refused(connection: RequestHandler) -> None:
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert connection._parser is not None
    connection._parser.set_upgraded(False)
    connection._upgraded = False
    connection.data_received(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    message = connection._messages[-1][0]
    assert isinstance(message, RawRequestMessage)
    assert message.path == "/2"


async def test_set_parser_feeds_what_followed_the_head(connection: RequestHandler) -> None:
    class Feed:
        def __init__(self) -> None:
            self.data = b""

        def feed_data(self, data: bytes) -> tuple[bool, bytes]:
            self.data += data
            return False, b""

        def feed_eof(self) -> None:
            raise NotImplementedError

    feed = Feed()
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    connection.data_received(head + b"one")
    connection.set_parser(feed)  # type: ignore[arg-type]  # aiohttp uses these two methods only
    connection.data_received(b"two")
    assert feed.data == b"onetwo"


def test_length_errors_tell_target_and_field_apart() -> None:
    assert "reading: bytearray" in LineTooLong(bytearray(b"/aaa"), 3).message  # type: ignore[arg-type]
    assert "reading: bytearray" not in LineTooLong(b"X: aaa", 3).message


async def test_errors_of_the_parser_are_told_apart_by_these_words() -> None:
    parser_errors = {
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n": (LineTooLong, "reading: bytearray"),
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n": (LineTooLong, "reading: b'"),
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 200 + b"\r\n": (BadHttpMessage, "Too many headers received"),
        b"GET / HTTP/1.1\r\n\r\n": (BadHttpMessage, "Missing 'Host' header in request."),
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n": (BadHttpMessage, "Duplicate 'Host' header found."),
        b"NONSENSE / HTTP/1.1\r\nHost: a\r\n\r\n": (BadHttpMethod, "Invalid method encountered"),
    }
    for data, (kind, words) in parser_errors.items():
        parser = HttpRequestParser(
            BaseProtocol(asyncio.get_running_loop()), asyncio.get_running_loop(), 65_536, max_line_size=8190
        )
        with pytest.raises(kind) as caught:
            parser.feed_data(data)
        assert isinstance(caught.value, BadHttpMessage)
        assert words in caught.value.message


def test_c_parser_is_in_use() -> None:
    assert HttpRequestParser.__module__ == "aiohttp._http_parser"
    supported.require_supported_aiohttp()


def test_pure_python_parser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class HttpRequestParserPy:
        pass

    HttpRequestParserPy.__module__ = "aiohttp.http_parser"
    monkeypatch.setattr(supported, "HttpRequestParser", HttpRequestParserPy)
    with pytest.raises(RuntimeError, match="pure-Python parser"):
        supported.require_supported_aiohttp()


def test_other_minor_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp, "__version__", "3.15.0")
    with pytest.raises(RuntimeError, match=r"needs aiohttp 3\.14"):
        supported.require_supported_aiohttp()
