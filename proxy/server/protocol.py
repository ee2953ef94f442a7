"""A client's connection, on top of aiohttp's request handling.

Rule: aiohttp's private names stand in this file and nowhere else. `tests/contract/test_aiohttp_internals.py` names each
of them and fails first when aiohttp changes; the version is pinned to one minor release.

Theory of operation. aiohttp parses, and queues pipelined messages; `start` has them answered, one after the other. This
class adds what aiohttp leaves out: timers from the first byte on, back-pressure with a time-out, closing that does not
lose the response, errors as problem documents, and upgrades to protocols other than WebSocket. Requests are counted as
they are parsed (`_request_count`, aiohttp's) and as they are finished (`_finished`, ours); the connection *rests* when
the two are equal, and only then stands aiohttp's parser at a boundary or within a head.
"""

import asyncio
import contextlib
import socket
import struct
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, cast

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo
from typing_extensions import override

from proxy.pipeline.passage import Transcript
from proxy.server.deadline import Deadline
from proxy.server.edges import NOWHERE, MessageEdges
from proxy.server.fast_lane import FastLane
from proxy.server.forwarding import peer_address
from proxy.server.heads import Caller
from proxy.server.raw import WHOLE_BODY_BYTES, RawRequest
from proxy.server.refusals import RequestTimeoutError, of_parser
from proxy.server.settings import ServerSettings
from proxy.server.under_way import UnderWay

if TYPE_CHECKING:
    from proxy.server.clients import ProxyServer

LINGER_SECONDS: Final = 5.0
"""How long a client may go on sending what nobody reads before its connection is cut; nginx's lingering_timeout."""

LINGER_DRAINING_SECONDS: Final = 1.0
"""The same while the server shuts down."""

_log = structlog.get_logger("server")

_FOR_EVER: Final = 10.0 * 365 * 86_400
_MOST_PIECES: Final = 64  # of one chunk of data: what is left is fed whole, at the price of certainty
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_WRITE_AT_ONCE_BYTES: Final = 16_384
_SENT: Final = (bytes, tuple)  # a union of the two would be made each time


def _whole(body: StreamReader) -> bytes | None:
    """All of `body`, if it is here and not too long. It is not read by aiohttp's methods, six of them, which see to it
    that reading goes on: it never stopped.
    """
    if body is EMPTY_PAYLOAD:
        return b""
    if not body.is_eof() or body.total_bytes > WHOLE_BODY_BYTES or body.exception() is not None:
        return None
    return b"".join(body._buffer)  # noqa: SLF001 — private names of aiohttp stand in this file


class ClientGoneError(ConnectionError):
    """The client has left."""


class WriteTimeoutError(ClientGoneError):
    """The client took nothing of its response for too long."""


class TunnelFeed(Protocol):
    """Takes what a client sends after its protocol switch."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take `data`; the answer is `(False, b"")`: there is never an end that HTTP would go on after."""
        ...

    def feed_eof(self) -> None:
        """The client sends no more. May be called twice."""
        ...


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_at_boundary", "_closing_buffer", "_content", "_deadline", "_discarding", "_edges", "_finished", "_gone",
        "_head_started", "_lane", "_last_request", "_outbox", "_server", "_settings", "_socket_transport", "_under_way",
        "_writable", "caller", "peer", "reply_key", "transcript", "way_key",
    )  # fmt: skip

    def __init__(self, server: "ProxyServer", loop: asyncio.AbstractEventLoop, settings: ServerSettings) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=_FOR_EVER,  # the timers here start earlier and know more
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp is told to keep no log
            max_line_size=settings.max_target_bytes,
            max_headers=settings.max_fields,
            max_field_size=settings.max_field_bytes,
            lingering_time=0.0,
            read_bufsize=65_536,
            auto_decompress=False,
        )
        # For the connection's life.
        self._server = server
        self._outbox = server.outbox
        self._settings = settings
        self._socket_transport: asyncio.Transport | None = None
        self.peer = ""  # the client's address; empty for a Unix socket
        self._finished = 0
        self._last_request: float = inf  # the number of the request after which nothing can be read
        self._deadline = Deadline(loop, self._time_out)
        self._writable: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._discarding = False
        self._closing_buffer: int | None = None
        # For one request's head.
        self._head_started = False
        self._edges = MessageEdges()
        # For the fast lane.
        self._lane = None if server.draining else server.lane
        self.caller: Caller | None = None
        self._at_boundary = False
        # For the request in hand.
        self._content: StreamReader = EMPTY_PAYLOAD
        self.reply_key = b""  # if the fast lane wants its answer
        self.way_key = b""  # if it is to be learnt how it is answered
        self._under_way: UnderWay | None = None
        self.transcript: Transcript | None = None  # if it is under way to the upstream already

    @property
    def resting(self) -> bool:
        """Whether every request that was received has been answered."""
        return self._request_count == self._finished and self._under_way is None

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which nothing has been seen yet."""
        return self.resting and not self._head_started and not self._discarding

    @property
    def must_close(self) -> bool:
        """Whether no request can follow the present one."""
        return self._finished + 1 >= self._last_request or self._server.draining

    # --- what arrives

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket_transport = cast("asyncio.Transport", transport)
        # Not by aiohttp's method, which sets two options of the socket anew, starts a timer of its own, and registers
        # the connection a second time: 20 of the 65 µs that a new client takes.
        self.transport = self._socket_transport
        self.peer = peer_address(self.peername)  # once: each time it is asked for is a system call
        self._task_handler = self._loop.create_task(self.start())
        if self._server.admit(self):
            self._deadline.set(self._settings.keep_alive_timeout_seconds)
            if self._lane is not None:
                self.caller = self._server.caller(self.peer)
                self._at_boundary = True

    @override
    def connection_lost(self, exc: BaseException | None) -> None:
        self._deadline.end()
        if self._under_way is not None:
            self._under_way.give_up()
            self._under_way = None
        self._drop_transcript()
        for waiter in (self._writable, self._gone):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        self._server.forget(self)
        self._fail_bodies(exc or ConnectionResetError("the client left"))  # whoever reads one may be another task
        super().connection_lost(exc)
        self._socket_transport = None

    @override
    def data_received(self, data: bytes) -> None:
        if self._under_way is not None:
            self._under_way.hand_over()
        # The boundary rule. What comes now begins a message only if the parser has been fed nothing yet, or was last
        # fed the end of a head without a body; and if nothing is under way, waiting, or held back.
        if self._at_boundary and self._request_count == self._finished and not self._head_started:
            if self._lane is not None and not self._paused and self._answer_at_once(self._lane, data):
                return
        else:
            self.reply_key = self.way_key = b""
        if not self._discarding:
            self._parse(data)

    def _answer_at_once(self, lane: FastLane, data: bytes) -> bool:
        """Answer from the fast lane; whether that was done. If not, nothing has happened."""
        caller, transport = self.caller, self.transport
        if caller is None or transport is None or self._force_close or self._close or self._discarding:
            return False
        wire = lane.answer(data, caller)
        if wire is None:
            ways = self._server.ways
            answer = ways.answer(data, caller, self) if ways is not None else None
            if answer is None:
                self.reply_key = lane.wants(data)
                self.way_key = ways.wants(data) if ways is not None else b""
                caller.head = data
                return False
            if not isinstance(answer, _SENT):
                self._under_way = answer
                self._deadline.at = inf
                return True
            wire = answer
        self._outbox.put(transport, wire)
        # The timer that runs may be early: it then sets itself anew.
        self._deadline.at = self._loop.time() + self._settings.keep_alive_timeout_seconds
        return True

    def answered(self, wire: bytes | tuple[bytes, ...]) -> None:
        """See `Client.answered`."""
        self._under_way = None
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._outbox.put(transport, wire)
        self._deadline.set(self._settings.keep_alive_timeout_seconds)

    def taken_over(self, head: bytes, key: bytes, transcript: Transcript | None = None) -> None:
        """See `Client.taken_over`."""
        self._under_way = None
        self.transcript = transcript
        self.reply_key = b""
        self.way_key = key
        if self.caller is not None:
            self.caller.head = head
        self._parse(head)

    @override
    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this for each piece of a body that is read, and has its parser look each time for what it kept
        # back when reading was paused: 4 % of a request with a small body.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _drop_transcript(self) -> None:
        transcript, self.transcript = self.transcript, None
        if transcript is not None:
            transcript.drop()

    def leave_lane(self) -> None:
        """The fast lane answers nothing more here: its answers say nothing of a close."""
        self._lane = None

    def _parse(self, data: bytes) -> None:
        start, end = 0, NOWHERE
        for _ in range(_MOST_PIECES):
            if self._upgraded or self._buffer_paused:
                break
            # Feed what belongs to one message at a time: only then is it certain where each of them ends, and a
            # malformed one does not take those before it with it.
            end = self._edges.next(data, start)
            if not 0 < end < len(data):
                break
            self._feed(data[start:end], at_boundary=True)
            start, end = end, NOWHERE
        self._feed(data[start:], at_boundary=end == len(data))
        if not data:
            return
        self._at_boundary = (
            self._edges.passed(data)
            and not (self._upgraded or self._buffer_paused or self._reading_paused or self._message_tail)
            and self._last_request == inf
        )
        if self.resting and not self._head_started:
            self._head_started = True
            self._deadline.set(self._settings.header_timeout_seconds)

    def _feed(self, data: bytes, *, at_boundary: bool) -> None:
        before = self._request_count
        certain = at_boundary and not self._buffer_paused and not self._reading_paused  # the parser then holds nothing
        super().data_received(data)
        if self._request_count > before:
            self._message_arrived(certain=certain and self._request_count == before + 1)

    def _message_arrived(self, *, certain: bool) -> None:
        """Look at the newest message. `certain`: its head ended where the data did that was fed."""
        self._deadline.at = inf
        self._head_started = False
        edges = self._edges
        message, edges.payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            self._fail_bodies(message.exc)
            return
        length = message.headers.get("Content-Length")
        edges.body_bytes = int(length) if length is not None else None
        if message.upgrade and not self._upgraded:
            # Unless the protocol is WebSocket, aiohttp throws away what follows such a request in what it is fed, and
            # takes what comes later for a request. If nothing was thrown away, go on as aiohttp does for WebSocket;
            # otherwise nothing that follows may be read.
            if certain and edges.payload is EMPTY_PAYLOAD:
                self._upgraded = True
            else:
                self._last_request = min(self._last_request, self._request_count)

    def _fail_bodies(self, error: BaseException) -> None:
        # aiohttp leaves a body that its parser gave up on without an end: whoever reads it would wait for ever.
        for body in [self._content, *(body for _, body in self._messages)]:
            if not body.is_eof():
                body.set_exception(error)

    @override
    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's signature; aiohttp narrows it to None
        if self._payload_parser is None:
            self._outbox.flush()  # for the transport closes itself
            return None
        self._payload_parser.feed_eof()
        return True

    # --- one message after the other

    @override
    async def start(self) -> None:
        """Have every message answered; aiohttp runs this in a task of the connection, and cancels it when that is lost.

        aiohttp's own method takes a further task, a `web.BaseRequest` and a writer for each message: 40 µs.
        """
        goes_on = True
        while goes_on and not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, content = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            if isinstance(message, _ErrInfo):
                goes_on = await self._refuse(message.exc)
            else:
                self._content = content
                try:
                    goes_on = await self._server.answer(self._request(message, content))
                except Exception as error:  # noqa: BLE001 — our mistake, whatever it is: no response can be trusted any more
                    _log.error("request handler failed", exc_info=error)
                    self.reset()
                    goes_on = False
                finally:
                    self._content = EMPTY_PAYLOAD
        self.force_close()

    def _request(self, message: RawRequestMessage, content: StreamReader) -> RawRequest:
        return RawRequest(
            message.method,
            message.path,
            message.headers,
            message.version,
            not message.should_close,
            content,
            _whole(content),
            self,
        )

    async def _refuse(self, error: BaseException | None) -> bool:
        """Answer what never became a request. Nothing follows it."""
        if not isinstance(error, HttpProcessingError):
            _log.error("request parser failed", exc_info=error)
            self.reset()
            return False
        with contextlib.suppress(ClientGoneError):
            self.send(self._server.refuse(of_parser(error, self._settings)))
        self.finish(keep_alive=False)
        await self.linger()
        return False

    # --- what is sent

    def send(self, *parts: bytes) -> None:
        """Give `parts` to the socket.

        Raises:
            ClientGoneError: the client has left.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError("the client has left")
        if self._outbox.waiting:
            self._outbox.flush()
        if len(parts) == 1:
            transport.write(parts[0])
        elif sum(map(len, parts)) <= _WRITE_AT_ONCE_BYTES:
            transport.write(b"".join(parts))
        else:
            transport.writelines(parts)

    def send_eof(self) -> None:
        """End the direction to the client; the other one may go on.

        Raises:
            ClientGoneError: the client has left.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError("the client has left")
        self._outbox.flush()
        if transport.can_write_eof():
            transport.write_eof()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def drain(self) -> None:
        """Wait while the client is slow to take what was sent.

        Raises:
            WriteTimeoutError: it took nothing for the write time-out; the connection is cut.
            ClientGoneError: it has left.
        """
        while self.writing_paused and (transport := self.transport) is not None:
            before = transport.get_write_buffer_size()
            self._writable = self._loop.create_future()
            try:
                async with asyncio.timeout(self._settings.write_timeout_seconds):
                    await self._writable
            except TimeoutError:
                if transport.get_write_buffer_size() >= before:
                    self.reset()
                    raise WriteTimeoutError("the client takes nothing of its response") from None
            finally:
                self._writable = None
        if self.transport is None:
            raise ClientGoneError("the client has left")

    def finish(self, *, keep_alive: bool) -> None:
        """The request in hand has been answered. Owed once for each request, whatever became of it."""
        self._finished += 1
        self._drop_transcript()
        if not keep_alive:
            self.leave_lane()
            self._arm_close()
            return
        if self.resting:
            self._head_started = False
            self._deadline.set(self._settings.keep_alive_timeout_seconds)
            if self._upgraded and self._payload_parser is None:
                self._go_on_after_refused_upgrade()

    def _go_on_after_refused_upgrade(self) -> None:
        # aiohttp would do this itself, later and past `data_received`.
        tail, self._message_tail = self._message_tail, b""
        self._edges.begin_anew()
        self._upgraded = False
        if self._parser is not None:
            self._parser.set_upgraded(False)
        self._at_boundary = False
        if tail:
            self._parse(tail)
        if self._buffer_paused:
            self._resume_reading_if_drained()

    @property
    def can_switch(self) -> bool:
        """Whether the request in hand was the last thing the parser read, so that the rest can go through a tunnel."""
        return self._upgraded and not self._messages

    @override
    def force_close(self) -> None:
        self._outbox.flush()
        super().force_close()

    def cut(self) -> None:
        """Close the connection behind what was sent, within the write time-out."""
        self.force_close()
        self._arm_close()

    def reset(self) -> None:
        """Cut the connection so that the client cannot take what it has for a complete response.

        A Unix socket knows no reset: its client sees an end.
        """
        transport = self._socket_transport
        if transport is None:
            return
        self._outbox.flush()
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError, ValueError):  # closed already: asyncio and uvloop say it differently
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    async def linger(self) -> None:
        """Half-close, and throw away what still arrives until the client closes: closing at once with unread input
        makes the system send a reset, which may overtake the response (RFC 9112 §9.6).
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._outbox.flush()
        self._discarding = True
        self._gone = self._loop.create_future()
        if transport.can_write_eof():
            transport.write_eof()
        self._resume_transport_reading()
        try:
            async with asyncio.timeout(LINGER_DRAINING_SECONDS if self._server.draining else LINGER_SECONDS):
                await self._gone
        except TimeoutError:
            pass
        finally:
            self._gone = None

    # --- protocol switch

    def switch(self, feed: TunnelFeed) -> None:
        """Everything that arrives from now on goes to `feed`, first what arrived behind the request's head."""
        self._deadline.at = inf
        self.set_parser(feed)  # type: ignore[arg-type]  # aiohttp asks for a WebSocketReader and calls these two methods

    # --- timers

    def _arm_close(self) -> None:
        transport = self._socket_transport
        if transport is not None:
            self._outbox.flush()
            self._closing_buffer = transport.get_write_buffer_size()
            self._deadline.set(max(self._settings.write_timeout_seconds, LINGER_SECONDS + 1.0))

    def _time_out(self) -> None:
        transport = self._socket_transport
        if transport is None:
            return
        self._outbox.flush()
        left = transport.get_write_buffer_size()
        if self._closing_buffer is not None:
            if left and left < self._closing_buffer:
                self._arm_close()
            else:
                self.reset()
        elif left:
            self.reset()
        else:
            if self._head_started:
                transport.write(self._server.refuse(RequestTimeoutError("the request's head took too long")))
            self.force_close()
            self._arm_close()
