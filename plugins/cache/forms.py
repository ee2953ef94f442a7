"""The derived forms of stored entries: computed once, kept beside the entry."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from proxy.storage.base import CacheKey, Entry
from proxy.storage.tiered import TieredStore
from proxy.tasks import Tasks
from proxy.upstream.collapse import Flight, Flights

Compute: TypeAlias = Callable[[bytes], Awaitable[bytes]]


class FormMaker:
    """Computes forms, each once for all who ask at the same time."""

    __slots__ = ("_flights", "_store")

    def __init__(self, store: TieredStore, tasks: Tasks) -> None:
        self._store = store
        self._flights: Flights[tuple[Entry, str], bytes] = Flights(tasks)

    async def derive(self, key: CacheKey, entry: Entry, name: str, compute: Compute) -> bytes:
        """The form `name` of `entry`, attached to what is stored under `key` if that is still `entry`."""
        flight = self._flights.find((entry, name))
        if flight is None:

            async def make(flight: Flight[bytes]) -> None:
                form = await compute(entry.body)
                self._store.attach_form(key, entry, name, form)
                flight.land(form)

            flight = self._flights.depart((entry, name), make, name=f"derive {name}")
        return await flight.wait()


class EntryForms:
    """The forms of one entry. A `DerivedForms`."""

    __slots__ = ("_entry", "_key", "_maker")

    def __init__(self, maker: FormMaker, key: CacheKey, entry: Entry) -> None:
        self._maker = maker
        self._key = key
        self._entry = entry

    def get(self, name: str) -> bytes | None:
        """See `DerivedForms.get`."""
        return self._entry.forms.get(name)

    async def derive(self, name: str, compute: Compute) -> bytes:
        """See `DerivedForms.derive`."""
        form = self._entry.forms.get(name)
        if form is not None:
            return form
        return await self._maker.derive(self._key, self._entry, name, compute)
