"""The admin port: its table of operations as an aiohttp application, and the listener in front of it."""

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.address import Address, remove_stale_socket
from proxy.admin.auth import Guard
from proxy.admin.cache import CacheControls
from proxy.admin.config import Configuration
from proxy.admin.explain import Explanations
from proxy.admin.health import VERSION, Health
from proxy.admin.metrics import Metrics
from proxy.admin.openapi import Description
from proxy.admin.operations import AnyOperation, Endpoint, RefusedError, refusal
from proxy.admin.pipeline import PipelineReport
from proxy.admin.settings import AdminSettings
from proxy.admin.target import AdminTarget, ReloadError, ReloadReport
from proxy.admin.warmup import Warmups
from proxy.http.problem import PROXY_NAME
from proxy.tasks import Tasks

__all__ = ["AdminPort", "AdminSettings", "AdminTarget", "ReloadError", "ReloadReport", "admin_application"]

SHUTDOWN_SECONDS: Final = 2.0
"""How long calls under way may take at shutdown."""

BACKLOG: Final = 128

_log = structlog.get_logger("admin")


def admin_application(
    target: AdminTarget, settings: AdminSettings, unlisted: Iterable[AnyOperation] = ()
) -> web.Application:
    """The admin port as an application. Its warm-ups end when it is shut down.

    Args:
        unlisted: operations that the description leaves out: those between a supervisor and its workers.
    """
    tasks = Tasks()
    subjects = (
        Health(target),
        Metrics(target),
        CacheControls(target),
        Explanations(target),
        Warmups(target, settings, tasks),
        PipelineReport(target),
        Configuration(target),
    )
    operations: list[AnyOperation] = [operation for subject in subjects for operation in subject.operations()]
    operations += Description(operations, settings, VERSION).operations()
    operations += unlisted
    application = application_of(operations, settings, target.settle)

    async def end(_: web.Application) -> None:
        await tasks.close()

    application.on_shutdown.append(end)
    return application


def application_of(
    operations: Sequence[AnyOperation], settings: AdminSettings, before: Callable[[], None]
) -> web.Application:
    """An application that serves `operations` to whoever may call, and calls `before` before each."""
    guard = Guard(settings, frozenset(operation.path for operation in operations if operation.probe))
    application = web.Application(client_max_size=settings.max_body_bytes, middlewares=[_answering(guard, before)])
    _add_routes(application, operations, settings)
    return application


def _add_routes(application: web.Application, operations: Sequence[AnyOperation], settings: AdminSettings) -> None:
    for operation in operations:
        serve = Endpoint(operation, settings).serve
        resource = application.router.add_resource(operation.path)
        resource.add_route(operation.method, serve)
        if operation.method == "GET":
            resource.add_route("HEAD", serve)  # RFC 9110 §9.1; aiohttp leaves the content out


def _answering(guard: Guard, before: Callable[[], None]) -> Middleware:
    """The middleware around everything: lets calls in, and makes a problem document of whatever goes wrong."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            guard.check(request)
            before()
            response = await handler(request)
        except RefusedError as error:
            response = refusal(error)
        except web.HTTPException as error:
            kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
            response = refusal(RefusedError(error.status, _detail(error, request), headers=kept))
        except Exception as error:  # noqa: BLE001 — whatever it is, the caller gets no traceback, and the log does
            _log.error("an admin call failed", method=request.method, path=request.path, exc_info=error)
            response = refusal(RefusedError(500, "the sidecar failed to answer; its log says how"))
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Server"] = PROXY_NAME  # else aiohttp names itself, Python, and their versions
        return response

    return answer


def _detail(error: web.HTTPException, request: web.Request) -> str:
    match error.status:
        case 404:
            return f"there is nothing at {request.path}; /openapi.json says what there is"
        case 405:
            return f"{request.path} does not answer {request.method}"
        case 413:
            return "the body is too long (admin.max_body_bytes)"
        case _:
            return error.reason


class AdminPort:
    """Serves an admin application at its address, from `start` to `close`.

    Args:
        application: what to serve; for a target, its `admin_application`.
        unlisted: see `admin_application`.
    """

    def __init__(
        self,
        application: AdminTarget | web.Application,
        settings: AdminSettings,
        unlisted: Iterable[AnyOperation] = (),
    ) -> None:
        self._application = application
        self._unlisted = tuple(unlisted)
        self._settings = settings
        self._runner: web.AppRunner | None = None
        self._accepting: asyncio.Server | None = None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where callers can connect, ports as the system chose them; empty unless it accepts."""
        if self._accepting is None:
            return ()
        return tuple(Address.of(sock) for sock in self._accepting.sockets)

    async def start(self) -> None:
        """Open the address.

        Raises:
            OSError: the address cannot be had.
        """
        application = self._application
        if not isinstance(application, web.Application):
            application = admin_application(application, self._settings, self._unlisted)
        runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        self._runner = runner
        serve, listen = runner.server, self._settings.listen
        assert serve is not None
        loop = asyncio.get_running_loop()
        try:
            if listen.path:
                self._accepting = await loop.create_unix_server(serve, sock=_bind_unix(Path(listen.path)))
            else:
                self._accepting = await loop.create_server(serve, listen.host or None, listen.port, backlog=BACKLOG)
        except OSError:
            await self.close()
            raise
        _log.info("admin port listening", addresses=[str(address) for address in self.addresses])

    async def close(self) -> None:
        """Accept no more, end warm-ups, let calls under way finish for a moment. Safe to call twice."""
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None
            if self._settings.listen.path:
                with contextlib.suppress(FileNotFoundError):
                    Path(self._settings.listen.path).unlink()  # noqa: ASYNC240 — a socket, and one system call
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()


def _bind_unix(path: Path) -> socket.socket:
    """A socket bound to `path` that this user alone may connect to. One that a dead process left is replaced."""
    remove_stale_socket(path)
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.setblocking(False)
        bound.bind(str(path))
        os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)  # noqa: PTH101 — before it listens, so that nobody comes earlier
    except OSError:
        bound.close()
        raise
    return bound
