"""One upstream request for any number of waiting requests.

Theory of operation. A `Flight` is one fetch in a task of its own, so it outlives the client that caused it. It *lands*
once, with what its waiters need to answer (the response's head, usually), or fails with one error for all of them. A
body that is still arriving is a `SharedBody`: it comes in once, and each reader takes it at its own pace. Nothing
polls: every wait is on a future that the event waited for sets.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

from typing_extensions import override

from proxy.errors import ProxyError
from proxy.http.body import BodyStream
from proxy.tasks import Tasks

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

WINDOW_BYTES: Final = 1 << 20
"""How far the slowest reader of a body too large to keep may lag behind before the upstream is held back."""


class SharedBody:
    """A body that arrives once and is read by any number of readers.

    Up to `keep_bytes` everything is kept: readers may join late, and a slow one holds nobody back, for the bytes are to
    be stored anyway. A longer body is *overflown*: what all readers have taken is dropped, none may join, and `feed`
    waits while the slowest is more than `WINDOW_BYTES` behind.
    """

    __slots__ = ("_chunks", "_done", "_dropped", "_error", "_keep_bytes", "_readers", "_room", "size")

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._chunks: deque[bytes] = deque()
        self._dropped = 0  # how many chunks are no longer in _chunks
        self._readers: set[SharedReader] = set()
        self._room: asyncio.Future[None] | None = None
        self._done = False
        self._error: ProxyError | None = None
        self.size = 0

    @property
    def overflown(self) -> bool:
        """Whether the body is longer than is kept."""
        return self.size > self._keep_bytes

    @property
    def wanted(self) -> bool:
        """Whether anybody reads, or the whole may still be kept."""
        return bool(self._readers) or not self.overflown

    def reader(self) -> "SharedReader":
        """A stream of the whole body.

        Raises:
            RuntimeError: the body's beginning is no longer here (`overflown`).
        """
        if self.overflown:
            raise RuntimeError("the beginning of this body is no longer kept")
        reader = SharedReader(self)
        self._readers.add(reader)
        return reader

    def whole(self) -> bytes:
        """The complete body, once it has arrived and was kept."""
        assert self._done and not self.overflown and self._error is None
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    async def feed(self, chunk: bytes) -> None:
        """Add bytes, and wait while the slowest reader of an overflown body is too far behind."""
        self._chunks.append(chunk)
        self.size += len(chunk)
        for reader in self._readers:
            reader.wake()
        while self.overflown and self._lag() > WINDOW_BYTES:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def finish(self, error: ProxyError | None = None) -> None:
        """No more bytes: the body is complete, or `error` cut it off."""
        self._done = True
        self._error = error
        for reader in self._readers:
            reader.wake()

    def _lag(self) -> int:
        """Bytes held for the slowest reader, after dropping what all have taken."""
        if not self._readers:
            self._dropped += len(self._chunks)
            self._chunks.clear()
            return 0
        slowest = min(reader.taken for reader in self._readers)
        while self._dropped < slowest:
            self._chunks.popleft()
            self._dropped += 1
        return sum(map(len, self._chunks))

    def chunk(self, number: int) -> bytes | None:
        """Chunk `number`, counted from the beginning; None if it has not arrived yet.

        Raises:
            StopAsyncIteration: the body ended before it.
            ProxyError: the body was cut off before it.
        """
        place = number - self._dropped
        if place < len(self._chunks):
            return self._chunks[place]
        if self._error is not None:
            raise self._error
        if self._done:
            raise StopAsyncIteration
        return None

    def moved(self) -> None:
        """A reader took a chunk."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def leave(self, reader: "SharedReader") -> None:
        """A reader is done."""
        self._readers.discard(reader)
        self.moved()


class SharedReader(BodyStream):
    """One reader's way through a `SharedBody`."""

    __slots__ = ("_body", "_wake", "taken")

    def __init__(self, body: SharedBody) -> None:
        self._body = body
        self._wake: asyncio.Future[None] | None = None
        self.taken = 0

    def wake(self) -> None:
        """Something arrived."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    @override
    async def __anext__(self) -> bytes:
        while True:
            chunk = self._body.chunk(self.taken)
            if chunk is not None:
                self.taken += 1
                self._body.moved()
                return chunk
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    def leave(self) -> None:
        """What `aclose` does, which need not wait."""
        self._body.leave(self)

    @override
    async def aclose(self) -> None:
        self.leave()


class Flight(Generic[T]):
    """One fetch and those who wait for it.

    Attributes:
        since: the position of the invalidation log when it began; who comes after a later purge must not join.
        joinable: whether newcomers may wait for it too.
        landed: whether it has a result.
    """

    __slots__ = ("_error", "_result", "_waiters", "joinable", "landed", "since")

    def __init__(self, since: int = 0) -> None:
        self.since = since
        self._result: T
        self._error: BaseException | None = None
        # A future for each waiter, in their order: shielding one that they share takes three times as long.
        self._waiters: dict[asyncio.Future[None], None] = {}
        self.joinable = True
        self.landed = False

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits now."""
        return bool(self._waiters)

    def land(self, result: T) -> None:
        """Give every waiter `result`, now and later."""
        assert not self.landed and self._error is None
        self._result = result
        self.landed = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Give every waiter `error`, if the flight has not landed."""
        if not self.landed and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> T:
        """What the flight lands with. A waiter that is cancelled leaves the flight alone.

        Raises:
            ProxyError: the flight failed.
        """
        if not self.landed and self._error is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                del self._waiters[waiter]
        if self._error is not None:
            raise self._error
        return self._result


class Flights(Generic[K, T]):
    """The flights under way, one for each key."""

    __slots__ = ("_tasks", "_under_way")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._under_way: dict[K, Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def find(self, key: K) -> Flight[T] | None:
        """The flight for `key` that one may join."""
        flight = self._under_way.get(key)
        return flight if flight is not None and flight.joinable else None

    def announce(self, key: K, since: int) -> Flight[T] | None:
        """A flight for `key` that nobody flies yet: who announced it lets it `depart`, or lands and withdraws it.

        Returns:
            None: there is one.
        """
        if key in self._under_way:
            return None
        flight: Flight[T] = Flight(since)
        self._under_way[key] = flight
        return flight

    def withdraw(self, key: K, flight: Flight[T]) -> None:
        """An announced flight is not to be joined any more."""
        if self._under_way.get(key) is flight:
            del self._under_way[key]

    def depart(
        self,
        key: K,
        fetch: Callable[[Flight[T]], Coroutine[Any, Any, None]],
        *,
        name: str = "fetch",
        since: int = 0,
        announced: Flight[T] | None = None,
    ) -> Flight[T]:
        """Begin a flight for `key`, in place of one that may not be joined any more; `name` is that of its task.

        `fetch` lands it, and may go on after that (the body). What `fetch` raises before landing goes to the waiters.
        """
        flight: Flight[T] = Flight(since) if announced is None else announced
        self._under_way[key] = flight
        self._tasks.spawn(name, self._fly(key, flight, fetch))
        return flight

    async def _fly(self, key: K, flight: Flight[T], fetch: Callable[[Flight[T]], Coroutine[Any, Any, None]]) -> None:
        try:
            await fetch(flight)
        except ProxyError as error:
            flight.fail(error)
        except asyncio.CancelledError:
            flight.fail(ProxyError("the proxy is shutting down", error_type="proxy_internal_error"))
            raise
        except Exception as error:
            flight.fail(ProxyError("the proxy failed while fetching"))
            raise error from None
        finally:
            if self._under_way.get(key) is flight:
                del self._under_way[key]
