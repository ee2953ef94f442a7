"""One answer on its way to one client, and the account of how it went."""

from dataclasses import dataclass
from typing import Final

import structlog

from proxy.clock import Clock
from proxy.errors import ProxyError
from proxy.http.body import Body, close_body
from proxy.http.channel import Tunnel
from proxy.http.message import Request, Response
from proxy.http.problem import error_response
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.server.application import Application
from proxy.server.counters import ServerCounters
from proxy.server.fast_lane import FastLane
from proxy.server.inbound import RequestBody, discard
from proxy.server.protocol import ClientGoneError, Connection
from proxy.server.raw import RawRequest
from proxy.server.settings import ServerSettings
from proxy.server.tunnel import ClientChannel, TunnelRun
from proxy.server.ways import Ways
from proxy.server.writer import BodySender, Frame, Framing, ResponseWriter, UnwritableResponseError

CLIENT_CLOSED_REQUEST: Final = 499
"""The status recorded when the client left before its response began; nginx's number."""

_log = structlog.get_logger("server")


@dataclass(frozen=True, slots=True)
class ReplyTools:
    """What every reply of a server needs."""

    application: Application
    settings: ServerSettings
    clock: Clock
    writer: ResponseWriter
    counters: ServerCounters
    lane: FastLane | None
    ways: Ways | None


def may_keep_alive(raw: RawRequest, connection: Connection, body: Body, max_unread_bytes: int) -> bool:
    """Whether a further request can follow: the client wants it, and what is left of the body can be read away."""
    if not raw.keep_alive or connection.must_close:
        return False
    content = raw.content
    if content.is_eof():
        return True
    if isinstance(body, RequestBody) and (body.failed or body.held_back):
        return False  # RFC 9110 §10.1.1: whether an awaited body comes after a final response is anybody's guess
    length = raw.headers.get("Content-Length")
    return length is not None and int(length) - content.total_bytes <= max_unread_bytes


class Reply:
    """Sends one exchange's answer. Exactly one of `send` and `tunnel` is called, once.

    Args:
        received: monotonic seconds when the request's head had arrived.
        keys: under which the fast lane wants the answer, and of the way in which it is given; empty: it does not.
    """

    __slots__ = ("_connection", "_exchange", "_key", "_raw", "_received", "_request", "_tools", "_way_key")

    def __init__(
        self,
        tools: ReplyTools,
        raw: RawRequest,
        connection: Connection,
        request: Request,
        exchange: Exchange,
        received: float,
        keys: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self._key, self._way_key = keys
        self._tools = tools
        self._raw = raw
        self._connection = connection
        self._request = request
        self._exchange = exchange
        self._received = received

    async def send(self, response: Response) -> bool:
        """Write `response` and complete the exchange, whatever happens; whether the connection can go on."""
        error: ProxyError | None = None
        try:
            frame = self._frame(response)
        except UnwritableResponseError as failure:
            _log.error("response cannot be written", request_id=self._exchange.id, detail=failure.detail)
            await self._close(response.body)
            error = failure
            response = error_response(failure)
            frame = self._frame(response)
        sender = BodySender(frame, self._connection)
        first_byte = self._elapsed()
        whole = False
        try:
            if not sender.send_at_once(response.body):
                await sender.send_rest(response.body)
            whole = True
        except ClientGoneError:
            self._connection.reset()
        except ProxyError as failure:
            error = failure
            self._break_off(frame)
        except Exception as failure:  # noqa: BLE001 — a body is a plugin's or the upstream's code
            _log.error("response body failed", request_id=self._exchange.id, exc_info=failure)
            error = ProxyError("the response's body failed")
            self._break_off(frame)
        finally:
            if sender.head_sent:
                outcome = Outcome(response.status, sender.sent, self._elapsed(), first_byte, error, not whole)
            else:
                outcome = Outcome(CLIENT_CLOSED_REQUEST, 0, self._elapsed(), None, error, not whole)
            if isinstance(response.body, bytes):
                self._complete(outcome)
            else:
                await self._close_and_complete(response.body, outcome)
        if (self._key or self._way_key) and whole and frame.keep_alive and self._request.version == (1, 1):
            self._keep(response, frame, outcome)
        return whole and frame.keep_alive and (self._raw.content.is_eof() or await self._read_away())

    async def tunnel(self, tunnel: Tunnel) -> None:
        """Switch protocols, move bytes until the tunnel ends, and complete the exchange, whatever happens."""
        counters = self._tools.counters
        run = TunnelRun(self._tools.settings.tunnel_idle_timeout_seconds)
        first_byte: float | None = None
        whole = False
        counters.open_tunnels += 1
        try:
            self._connection.send(self._tools.writer.switch_head(tunnel.response, tunnel.protocol))
            first_byte = self._elapsed()
            await run.run(ClientChannel(self._connection), tunnel.channel)
            whole = True
        except (OSError, TimeoutError, UnwritableResponseError) as failure:
            _log.info("tunnel broke", request_id=self._exchange.id, reason=str(failure) or type(failure).__name__)
        finally:
            counters.open_tunnels -= 1
            counters.tunnel_ended(run.to_client_bytes, run.to_upstream_bytes)
            status = CLIENT_CLOSED_REQUEST if first_byte is None else tunnel.response.status
            try:
                await tunnel.channel.aclose()
            finally:
                self._tools.application.complete(
                    self._exchange,
                    Outcome(status, run.to_client_bytes, self._elapsed(), first_byte, aborted=not whole),
                )

    def _keep(self, response: Response, frame: Frame, outcome: Outcome) -> None:
        """Have the fast lane give this answer again, if the pipeline allows that."""
        tools, exchange, caller = self._tools, self._exchange, self._connection.caller
        if tools.lane is None or caller is None or not isinstance(response.body, bytes):
            return
        if self._way_key and tools.ways is not None and frame.framing is Framing.LENGTH:
            steps = tools.application.passage_parts(exchange, outcome)
            if steps is not None:
                tools.ways.learn(self._way_key, caller, exchange, steps, frame.head, response.body)
        if not self._key or exchange.replay is None:
            return
        parts = tools.application.replay_parts(exchange, outcome)
        if parts is not None:
            body = response.body if frame.framing is Framing.LENGTH else b""
            tools.lane.keep(self._key, caller, exchange.replay, parts, frame.head, body)

    def _elapsed(self) -> float:
        return self._tools.clock.monotonic() - self._received

    def _frame(self, response: Response) -> Frame:
        keep_alive = may_keep_alive(
            self._raw, self._connection, self._request.body, self._tools.settings.max_unread_body_bytes
        )
        return self._tools.writer.frame(
            response, method=self._request.method, version=self._request.version, keep_alive=keep_alive
        )

    def _break_off(self, frame: Frame) -> None:
        """End a response that is not whole so that the client can tell (RFC 9112 §8)."""
        if frame.framing is Framing.CLOSE:
            self._connection.reset()  # an orderly end would look like the end of the body
        else:
            self._connection.cut()

    async def _read_away(self) -> bool:
        settings = self._tools.settings
        return await discard(self._raw.content, settings.max_unread_body_bytes, settings.body_timeout_seconds)

    async def _close(self, body: Body) -> None:
        try:
            await close_body(body)
        except Exception as failure:  # noqa: BLE001 — a plugin's or the upstream's code; the response is out already
            _log.error("response body did not close", request_id=self._exchange.id, exc_info=failure)

    async def _close_and_complete(self, body: Body, outcome: Outcome) -> None:
        try:
            await self._close(body)
        finally:
            self._complete(outcome)

    def _complete(self, outcome: Outcome) -> None:
        if outcome.aborted:
            self._tools.counters.aborted(by_client=outcome.error is None)
        self._tools.application.complete(self._exchange, outcome)
