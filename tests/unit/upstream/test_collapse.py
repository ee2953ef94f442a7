"""Flights and shared bodies: one fetch for many, each reader at its own pace."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ProxyError, UpstreamError, UpstreamIncompleteError
from proxy.tasks import Tasks
from proxy.upstream.collapse import WINDOW_BYTES, Flight, Flights, SharedBody, SharedReader


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.close()


async def read(reader: SharedReader) -> bytes:
    try:
        return b"".join([chunk async for chunk in reader])
    finally:
        await reader.aclose()


async def turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestFlight:
    async def test_all_who_wait_get_what_lands(self, tasks: Tasks) -> None:
        gate = asyncio.Event()
        flights: Flights[str, int] = Flights(tasks)

        async def fetch(flight: Flight[int]) -> None:
            await gate.wait()
            flight.land(42)

        flight = flights.depart("k", fetch)
        assert flights.find("k") is flight
        waiters = [asyncio.ensure_future(flight.wait()) for _ in range(100)]
        await turns()
        gate.set()
        assert await asyncio.gather(*waiters) == [42] * 100

    async def test_a_flight_is_gone_when_its_fetch_is_over_not_when_it_lands(self, tasks: Tasks) -> None:
        gate = asyncio.Event()
        flights: Flights[str, int] = Flights(tasks)

        async def fetch(flight: Flight[int]) -> None:
            flight.land(1)
            await gate.wait()

        flight = flights.depart("k", fetch)
        await flight.wait()
        assert flights.find("k") is flight
        gate.set()
        await turns()
        assert flights.find("k") is None
        assert len(flights) == 0

    async def test_a_waiter_that_is_cancelled_leaves_the_others_alone(self, tasks: Tasks) -> None:
        gate = asyncio.Event()
        flights: Flights[str, int] = Flights(tasks)

        async def fetch(flight: Flight[int]) -> None:
            await gate.wait()
            flight.land(1)

        flight = flights.depart("k", fetch)
        first, second = asyncio.ensure_future(flight.wait()), asyncio.ensure_future(flight.wait())
        await turns()
        first.cancel()
        await turns()
        gate.set()
        assert await second == 1
        assert first.cancelled()

    async def test_all_who_wait_get_the_error(self, tasks: Tasks) -> None:
        flights: Flights[str, int] = Flights(tasks)

        async def fetch(flight: Flight[int]) -> None:
            raise UpstreamError("down")

        flight = flights.depart("k", fetch)
        results = await asyncio.gather(*(flight.wait() for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [UpstreamError] * 3

    async def test_an_unforeseen_error_reaches_waiters_as_ours(
        self, tasks: Tasks, caplog: pytest.LogCaptureFixture
    ) -> None:
        flights: Flights[str, int] = Flights(tasks)

        async def fetch(flight: Flight[int]) -> None:
            raise ZeroDivisionError

        flight = flights.depart("k", fetch)
        with pytest.raises(ProxyError) as caught:
            await flight.wait()
        assert caught.value.status_hint == 500
        assert "ZeroDivision" not in caught.value.detail

    async def test_a_flight_that_takes_no_more_is_replaced_and_does_not_remove_its_successor(
        self, tasks: Tasks
    ) -> None:
        gates = [asyncio.Event(), asyncio.Event()]
        flights: Flights[str, int] = Flights(tasks)

        def fetch_number(number: int):  # type: ignore[no-untyped-def] # noqa: ANN202 — a closure's type adds nothing
            async def fetch(flight: Flight[int]) -> None:
                await gates[number].wait()
                flight.land(number)

            return fetch

        first = flights.depart("k", fetch_number(0))
        first.joinable = False
        assert flights.find("k") is None
        second = flights.depart("k", fetch_number(1))
        gates[0].set()
        assert await first.wait() == 0
        await turns()
        assert flights.find("k") is second
        gates[1].set()
        assert await second.wait() == 1

    async def test_shutdown_fails_those_who_wait(self) -> None:
        tasks = Tasks()
        flights: Flights[str, int] = Flights(tasks)

        async def fetch(flight: Flight[int]) -> None:
            await asyncio.Event().wait()

        flight = flights.depart("k", fetch)
        waiter = asyncio.ensure_future(flight.wait())
        await turns()
        await tasks.close()
        with pytest.raises(ProxyError):
            await waiter


class TestSharedBody:
    async def test_a_late_reader_gets_the_whole(self) -> None:
        body = SharedBody(1000)
        await body.feed(b"one ")
        early = asyncio.ensure_future(read(body.reader()))
        await turns()
        await body.feed(b"two")
        late = asyncio.ensure_future(read(body.reader()))
        body.finish()
        assert await early == await late == b"one two" == body.whole()

    async def test_a_slow_reader_of_a_body_that_is_kept_holds_nobody_back(self) -> None:
        body = SharedBody(10 * WINDOW_BYTES)
        slow = body.reader()
        for _ in range(9):
            await asyncio.wait_for(body.feed(b"x" * WINDOW_BYTES), 5)
        body.finish()
        assert len(await read(slow)) == 9 * WINDOW_BYTES

    async def test_the_slowest_reader_of_an_overflown_body_sets_the_pace_and_memory_stays_bounded(self) -> None:
        body = SharedBody(0)
        # The body has no bytes yet, so readers may still join.
        fast, slow = body.reader(), body.reader()
        chunk = b"x" * (WINDOW_BYTES // 4)

        async def produce() -> None:
            for _ in range(16):
                await body.feed(chunk)
            body.finish()

        producer = asyncio.ensure_future(produce())
        fast_reader = asyncio.ensure_future(read(fast))
        await turns(50)
        assert not producer.done()
        assert sum(map(len, body._chunks)) <= WINDOW_BYTES + len(chunk)
        assert len(await read(slow)) == 16 * len(chunk) == len(await fast_reader)
        await producer

    async def test_the_producer_goes_on_when_the_slow_reader_leaves(self) -> None:
        body = SharedBody(0)
        slow = body.reader()
        producer = asyncio.ensure_future(body.feed(b"x" * (WINDOW_BYTES + 1)))
        await turns()
        assert not producer.done()
        await slow.aclose()
        await asyncio.wait_for(producer, 5)
        assert not body.wanted

    async def test_nobody_may_join_an_overflown_body(self) -> None:
        body = SharedBody(2)
        await body.feed(b"abc")
        with pytest.raises(RuntimeError):
            body.reader()

    async def test_a_cut_off_body_raises_after_its_last_bytes(self) -> None:
        body = SharedBody(100)
        reader = body.reader()
        await body.feed(b"half")
        body.finish(UpstreamIncompleteError("cut"))
        assert await reader.__anext__() == b"half"
        with pytest.raises(UpstreamIncompleteError):
            await reader.__anext__()

    @settings(deadline=None)
    @given(
        chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=20),
        keep=st.integers(0, 300),
        pauses=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=10), min_size=1, max_size=5),
    )
    def test_every_reader_gets_the_same_bytes_at_any_pace(
        self, chunks: list[bytes], keep: int, pauses: list[list[int]]
    ) -> None:
        async def main() -> None:
            body = SharedBody(keep)
            readers = [body.reader() for _ in pauses]

            async def take(reader: SharedReader, pace: list[int]) -> bytes:
                taken = []
                count = 0
                async for chunk in reader:
                    taken.append(chunk)
                    await turns(pace[count % len(pace)])
                    count += 1
                await reader.aclose()
                return b"".join(taken)

            async def produce() -> None:
                for chunk in chunks:
                    await body.feed(chunk)
                body.finish()

            producer = asyncio.ensure_future(produce())
            results = await asyncio.gather(*(take(*pair) for pair in zip(readers, pauses, strict=True)))
            await producer
            assert results == [b"".join(chunks)] * len(readers)

        asyncio.run(main())
