"""How a supervisor sees its workers and asks them, each at the Unix socket of its own admin port."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar

import aiohttp
import orjson

from proxy.admin.target import ReloadReport
from proxy.clock import Clock
from proxy.metrics.registry import Registry

ASK_SECONDS: Final = 3.0
"""How long a worker may take to answer. One whose event loop turns answers within milliseconds."""

PeerState = Literal["starting", "ready", "draining", "dead"]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Peer:
    """A worker, from one of its processes to the next.

    Attributes:
        name: for the log, and the label of its metrics.
        socket: the path of its admin port.
        pid: of its process; None: it has none yet, or not any more.
        reachable: its admin port is open. A worker opens it before it serves anyone, so that one that is not reachable
            keeps nothing.
        restarts: how many processes had to be replaced.
        last_exit: the exit code of the last of them; below zero: ended by that signal.
        since: monotonic seconds when `state` began.
        gone: set when the present process has ended.
    """

    name: str
    socket: str
    state: PeerState = "starting"
    pid: int | None = None
    reachable: bool = False
    restarts: int = 0
    last_exit: int | None = None
    since: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Peers(Protocol):
    """The workers, as the supervisor offers them to its admin port."""

    @property
    def clock(self) -> Clock:
        """The program's clock."""
        ...

    @property
    def metrics(self) -> Registry:
        """The supervisor's own metrics."""
        ...

    @property
    def all(self) -> Sequence[Peer]:
        """Every worker, in order."""
        ...

    @property
    def shares_cache(self) -> bool:
        """Whether there is a second tier, which all workers share."""
        ...

    def plugin(self, name: str) -> type[object] | None:
        """The class of the plugin that goes by `name`."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the program is ending."""
        ...

    async def reload(self) -> ReloadReport:
        """See `AdminTarget.reload`; in all workers, or in none.

        Raises:
            SilentError: a worker does not answer; the old configuration stays in all.
        """
        ...


class SilentError(Exception):
    """Workers are alive and do not answer.

    Args:
        names: of the workers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"worker {', '.join(names)} did not answer in time")
        self.names = tuple(names)


class GoneError(Exception):
    """The worker ended before it answered."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a worker answered."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def document(self) -> Any:
        """The body, from JSON."""
        return orjson.loads(self.data)


async def ask(
    peer: Peer,
    method: str,
    path: str,
    document: object = None,
    *,
    query: Iterable[tuple[str, str]] = (),
    seconds: float | None = ASK_SECONDS,
) -> Told:
    """Ask one worker.

    Args:
        document: the body of a POST, as JSON.
        seconds: None: however long it takes.

    Raises:
        SilentError: it is alive, and did not answer in time.
        GoneError: it has ended, or has not opened its port yet.
    """
    if not peer.reachable:
        raise GoneError(peer.name)
    gone = peer.gone  # of the process that is asked, not of the one that replaces it
    data = orjson.dumps(document) if document is not None else None
    headers = {"Content-Type": "application/json"} if method == "POST" else {}
    try:
        async with asyncio.timeout(seconds):
            try:
                async with (
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(peer.socket)) as session,
                    session.request(
                        method,
                        f"http://localhost{path}",
                        data=data,
                        headers=headers,
                        params=list(query),
                        timeout=_NEVER,
                    ) as answer,
                ):
                    return Told(answer.status, dict(answer.headers), await answer.read())
            except (aiohttp.ClientError, OSError):
                await gone.wait()  # it is ending; if it is not, time says so
    except TimeoutError:
        if not gone.is_set():
            raise SilentError([peer.name]) from None
    raise GoneError(peer.name)


_NEVER: Final = aiohttp.ClientTimeout(total=None)


async def ask_all(peers: Iterable[Peer], question: Callable[[Peer], Awaitable[T]]) -> tuple[dict[str, T], list[str]]:
    """Put `question` to all of `peers` at once. Those that end meanwhile are left out.

    Returns:
        The answers by name, and the names of those that are alive and silent.
    """
    answers: dict[str, T] = {}
    silent: list[str] = []

    async def one(peer: Peer) -> None:
        try:
            answers[peer.name] = await question(peer)
        except SilentError:
            silent.append(peer.name)
        except GoneError:
            pass

    asked = [peer for peer in peers if peer.reachable]
    await asyncio.gather(*map(one, asked))
    order = [peer.name for peer in asked]
    return {name: answers[name] for name in order if name in answers}, sorted(silent, key=order.index)
