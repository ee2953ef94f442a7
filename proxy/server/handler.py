"""One request, from its connection's hands to the application and back to the client.

Theory of operation. `Handler` reads the request, asks the application for an answer, has it written, and returns only
then, so that nothing lies between the answer and the account of it. A client that leaves cancels the handler (aiohttp's
`handler_cancellation`), wherever it waits.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Iterator
from typing import cast

import structlog

from proxy.clock import Clock
from proxy.errors import ClientError, ProxyError
from proxy.http.body import close_body
from proxy.http.channel import Tunnel
from proxy.http.message import Headers, Request, Response
from proxy.http.names import EXPECT
from proxy.http.problem import error_response
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.passage import Transcript
from proxy.server.application import Application
from proxy.server.counters import ServerCounters
from proxy.server.fast_lane import FastLane
from proxy.server.heads import Caller, DirectCaller, TrustedCaller
from proxy.server.inbound import RequestBody, RequestReader, wanted_protocol
from proxy.server.protocol import ClientGoneError, Connection
from proxy.server.raw import RawRequest
from proxy.server.reply import Reply, ReplyTools
from proxy.server.settings import ServerSettings
from proxy.server.ways import Ways
from proxy.server.writer import BodySender, ResponseWriter, UnwritableResponseError

_log = structlog.get_logger("server")


def request_ids() -> Iterator[str]:
    """Request ids: a random prefix for the process and a counter. They are made 256 at a time, by a `replace` and a
    `split`: an answer from the fast lane notices more.
    """
    prefix = secrets.token_hex(6)
    block_of_ids = " ".join([f"@{number:02x}" for number in range(256)])
    return itertools.chain.from_iterable(
        block_of_ids.replace("@", f"{prefix}-{block:x}").split(" ") for block in itertools.count(1)
    )


class Informational:
    """Passes 1xx responses to one client until its final response begins (RFC 9110 §15.2)."""

    __slots__ = ("_connection", "_request", "_writer", "over")

    def __init__(self, connection: Connection, request: Request, writer: ResponseWriter) -> None:
        self._connection = connection
        self._request = request
        self._writer = writer
        self.over = False

    async def __call__(self, status: int, headers: Headers) -> None:
        """See `InformationalSender`. A `100` asks the client for the body, if it waits to be asked.

        A client that has left is no matter for the upstream: the handler is cancelled. Nor does one that does not
        read hold it up, with all who wait for the same response: its hints are left out.
        """
        if self.over or self._request.version < (1, 1) or status == 101:
            return
        if status == 100:
            if isinstance(self._request.body, RequestBody):
                with contextlib.suppress(ClientError):
                    self._request.body.ask()
            return
        if self._connection.writing_paused:
            return
        try:
            self._connection.send(self._writer.informational_head(status, headers))
        except UnwritableResponseError as error:
            _log.error("informational response cannot be written", status=status, detail=error.detail)
        except ClientGoneError:
            self.over = True


class Handler:
    """Handles the requests of a `protocol.ProxyServer`.

    Args:
        application: answers the requests.
    """

    def __init__(self, application: Application, settings: ServerSettings, clock: Clock, metrics: Registry) -> None:
        self._application = application
        self._settings = settings
        self._clock = clock
        self._make_id = request_ids().__next__
        self._reader = RequestReader(settings, self._make_id)
        self._writer = ResponseWriter(clock, settings.name)
        self.lane: FastLane | None = None
        self.ways: Ways | None = None
        if settings.fast_lane_max_bytes:
            self.lane = FastLane(
                clock,
                max_bytes=settings.fast_lane_max_bytes,
                max_fields=settings.max_fields,
                max_field_bytes=settings.max_field_bytes,
            )
            self.lane.reset(application.heeded_fields)
            self.ways = Ways(
                self.lane,
                clock,
                self._reader.forwarding,
                application,
                abandoned=self._abandoned,
                max_bytes=settings.fast_lane_max_bytes,
            )
        self._counters = ServerCounters(metrics, self.ways)
        self._tools = ReplyTools(application, settings, clock, self._writer, self._counters, self.lane, self.ways)
        self._quiet = asyncio.Event()
        self._quiet.set()

    def caller(self, peer: str) -> Caller:
        """What the fast lane is to know of a peer."""
        forwarding = self._reader.forwarding
        if forwarding.trusts(peer):
            return TrustedCaller(peer, forwarding.client, self._reader.request_id)
        return DirectCaller(peer, self._make_id)

    def _abandoned(self, alike: Exchange, request_id: str, began: float) -> None:
        self._application.abandon(alike, request_id, began)

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return self._counters.all_in_flight()

    async def wait_until_quiet(self) -> None:
        """Wait until no request is in flight."""
        await self._quiet.wait()

    def refuse(self, error: ProxyError) -> bytes:
        """The whole response, connection to be closed, for what never became a request; counted."""
        response = self._refusal(error)
        frame = self._writer.frame(response, method="GET", version=(1, 1), keep_alive=False)
        return frame.head + cast("bytes", response.body)

    def _refusal(self, error: ProxyError) -> Response:
        self._counters.refused(error.status_hint)
        _log.info("request refused", status=error.status_hint, detail=error.detail)
        return error_response(error)

    async def __call__(self, raw: RawRequest) -> bool:
        """Answer one request; whether another may follow it."""
        connection = cast("Connection", raw.protocol)
        if not self._counters.in_flight:
            self._quiet.clear()
        self._counters.in_flight += 1
        keep_alive = False
        try:
            keep_alive = await self._serve(raw, connection)
        except ClientGoneError:
            connection.reset()
        finally:
            connection.finish(keep_alive=keep_alive)
            self._counters.in_flight -= 1
            if not self._counters.in_flight:
                self._quiet.set()
        if keep_alive:
            return True
        if raw.keep_alive or not raw.content.is_eof():
            await connection.linger()  # the client may not know yet that it is to send no more
        return False

    async def _serve(self, raw: RawRequest, connection: Connection) -> bool:
        """Answer `raw`; whether the connection can go on."""
        received = self._clock.monotonic()
        reply_key, connection.reply_key = connection.reply_key, b""
        way_key, connection.way_key = connection.way_key, b""
        transcript, request_id = connection.transcript, ""
        if transcript is not None:
            received, request_id = transcript.began, transcript.request_id
        elif way_key:
            transcript = Transcript()
        try:
            request, request_id = self._reader.read(raw, connection.send, request_id)
        except ClientError as error:
            return await self._send_refusal(raw, connection, self._refusal(error))
        try:
            informational = Informational(connection, request, self._writer)
            protocol = wanted_protocol(raw, self._settings.upgrades) if connection.can_switch else None
            answer: Response | Tunnel
            if protocol is None:
                if request.body != b"" or EXPECT in request.headers:
                    reply_key = way_key = b""
                exchange, answer = await self._application.handle(
                    request,
                    request_id=request_id,
                    informational=informational,
                    wants_replay=bool(reply_key),
                    transcript=transcript,
                )
            else:
                exchange, answer = await self._application.open_tunnel(
                    request, protocol=protocol, request_id=request_id
                )
            informational.over = True
            reply = Reply(self._tools, raw, connection, request, exchange, received, (reply_key, way_key))
            if isinstance(answer, Tunnel):
                await reply.tunnel(answer)
                return False
            return await reply.send(answer)
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 — the application promises that there is none
            _log.error("application failed", request_id=request_id, exc_info=error)
            return await self._send_refusal(raw, connection, error_response(ProxyError("internal error")))
        finally:
            if transcript is not None:
                transcript.drop()
            if not isinstance(request.body, bytes):
                await close_body(request.body)

    async def _send_refusal(self, raw: RawRequest, connection: Connection, response: Response) -> bool:
        frame = self._writer.frame(
            response,
            method=raw.method,
            version=(1, 1) if raw.version >= (1, 1) else (1, 0),
            keep_alive=raw.keep_alive and raw.content.is_eof() and not connection.must_close,
        )
        await BodySender(frame, connection).send(response.body)
        return frame.keep_alive
