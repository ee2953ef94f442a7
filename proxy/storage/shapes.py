"""The shapes that are known, and how an entry is split by them.

Which header fields differ from one response to the next is learned, not listed. Responses with the same field names
are a *family*; whenever a family has made some more shapes, that field becomes each entry's own which was seen with
most values. So a family makes few shapes, whatever an origin sends, and a table of a bounded size is enough.
"""

from collections.abc import Callable
from operator import attrgetter, itemgetter
from threading import Lock
from typing import Any, Final, TypeVar

from proxy.policy.model import Stored
from proxy.storage.base import Entry
from proxy.storage.documents import dump
from proxy.storage.shape import (
    CONSTANTS,
    CONSTANTS_DOCUMENT,
    ECHO,
    ECHOES,
    NUMBERS,
    OPTIONAL,
    OWN_VALUE,
    STEPPED,
    Shape,
)

MAX_SHAPES: Final = 1024
MAX_SHAPE_BYTES: Final = 4096
"""So many shapes, of at most so many bytes, are remembered. Others are worked out each time."""

SHAPES_OF_A_FAMILY: Final = 16
"""After so many more, one more field is each entry's own."""

_K = TypeVar("_K")
_V = TypeVar("_V")

_NO_STEPS: Final = (None,) * len(STEPPED)

_numbers_of: Final[Callable[[Entry], tuple[float, ...]]] = attrgetter(*NUMBERS)
_optional_of: Final[Callable[[Entry], tuple[float | None, ...]]] = attrgetter(*OPTIONAL)
_stepped_of: Final[Callable[[Entry], tuple[float, ...]]] = attrgetter(*STEPPED)
_constants_of: Final[Callable[[Entry], tuple[Any, ...]]] = attrgetter(*CONSTANTS)


class _Picks:
    """What is to be done with the values of a family's fields, when some are echoes.

    Attributes:
        own, shared: pick the values that are each entry's own, and those that are the shape's.
        echoes, shared_places: of which fields, by their places.
    """

    __slots__ = ("echoes", "own", "shared", "shared_places")

    def __init__(self, count: int, own: frozenset[int], echoes: frozenset[int]) -> None:
        self.echoes = echoes
        self.shared_places = tuple(place for place in range(count) if place not in own | echoes)
        self.own = _picker(*sorted(own - echoes))
        self.shared = _picker(*self.shared_places)


class _Family:
    """Responses with the same field names.

    Args:
        own: places of the fields whose values are each entry's own.
        stepped: whether times may be kept as seconds after another, which is then part of the shape.
    """

    __slots__ = ("_echoes", "_made", "_names", "_own", "_picks", "_seen", "stepped")

    def __init__(self, names: tuple[str, ...], own: frozenset[int] = frozenset(), *, stepped: bool = True) -> None:
        folded = [name.lower() for name in names]
        self.stepped = stepped
        self._names = names
        self._echoes = tuple(
            (1 << place, place, attrgetter(ECHOES[name][0].removeprefix("stored.")), ECHOES[name][1])
            for place, name in enumerate(folded)
            if name in ECHOES and folded.count(name) == 1
        )
        # What could be an echo, and is none, is the entry's own: its values would differ as much.
        self._own = own.union(place for _, place, _, _ in self._echoes)
        self._picks: dict[int, _Picks] = {}
        self._seen: dict[int, set[int]] = {}
        self._made = 0

    def picks(self, stored: Stored, values: tuple[str, ...]) -> _Picks:
        """What is to be done with these values: always the same object for the same."""
        echoed = 0
        try:
            for bit, place, known_of, text in self._echoes:
                known = known_of(stored)
                if known is not None and text(known) == values[place]:
                    echoed |= bit
        except (OverflowError, ValueError):  # a time that is no date
            echoed = 0
        picks = self._picks.get(echoed)
        if picks is None:
            echoes = frozenset(place for bit, place, _, _ in self._echoes if bit & echoed)
            picks = self._picks.setdefault(echoed, _Picks(len(self._names), self._own, echoes))
        return picks

    def learn(self, picks: _Picks, values: tuple[str, ...]) -> "_Family":
        """Note the values of another shape; what the family is from now on."""
        for place in picks.shared_places:
            self._seen.setdefault(place, set()).add(hash(values[place]))
        self._made += 1
        if self._made < SHAPES_OF_A_FAMILY:
            return self
        most = max(self._seen, key=lambda place: len(self._seen[place]), default=None)
        if most is not None and len(self._seen[most]) > 1:
            return _Family(self._names, self._own | {most}, stepped=self.stepped)
        # They differ in something else. Of that, status, route and the like have few values; seconds may have any.
        return _Family(self._names, self._own, stepped=False) if self.stepped else self


class Shapes:
    """Shapes by their bytes, and by what entries of one shape have equal. Several threads may use it."""

    __slots__ = ("_by_data", "_by_key", "_families", "_lock")

    def __init__(self) -> None:
        self._by_data: dict[bytes, Shape] = {}
        self._by_key: dict[tuple[object, ...], Shape] = {}
        self._families: dict[tuple[str, ...], _Family] = {}
        self._lock = Lock()

    def find(self, data: bytes) -> Shape:
        """The shape that these bytes are.

        Raises:
            UndecodableError, ValueError, RecursionError: they are none.
        """
        shape = self._by_data.get(data)
        if shape is None:
            shape = Shape(data)
            if len(data) <= MAX_SHAPE_BYTES:
                _remember(self._by_data, data, shape)
        return shape

    def split(self, entry: Entry) -> tuple[Shape, bytes]:
        """The shape of `entry` and its own bytes: all of it but its URL and its bodies."""
        stored = entry.stored
        headers = stored.headers
        names, values = tuple(headers.keys()), tuple(headers.values())
        if len(names) < len(values):  # keys come once each
            names = tuple([name for name, _ in headers.items()])
        family = self._families.get(names) or _Family(names)
        picks = family.picks(stored, values)
        optional = _optional_of(entry)
        stepped = _stepped_of(entry)
        steps = _steps(stored.fresh_until, stepped) if family.stepped else _NO_STEPS
        present = [number for number in optional if number is not None]
        numbers = (*_numbers_of(entry), *present)
        if None in steps:
            numbers += tuple([number for number, step in zip(stepped, steps, strict=True) if step is None])
        array = [entry.purge_id, stored.body_length, *picks.own(values)]
        etag, tags, content_range = stored.etag, entry.tags, stored.content_range
        if etag is not None:
            array.append(etag.opaque)
        if tags:
            array.append(tags)
        if content_range is not None:
            array.append(content_range)
        key = (
            picks,
            picks.shared(values),
            steps,
            len(present) < len(optional) and tuple([number is None for number in optional]),
            None if etag is None else etag.weak,
            not tags,
            content_range is None,
            _constants_of(entry),
        )
        shape = self._by_key.get(key)
        if shape is None:
            shape = self.find(_write_shape(entry, names, values, picks, steps))
            if len(shape.data) <= MAX_SHAPE_BYTES:
                with self._lock:
                    _remember(self._by_key, key, shape)
                    family = self._families.get(names, family)
                    _remember(self._families, names, family.learn(picks, values) if shape.uses == 0 else family)
        shape.uses += 1
        return shape, shape.write_own(numbers, array)


def _write_shape(
    entry: Entry, names: tuple[str, ...], values: tuple[str, ...], picks: _Picks, steps: tuple[float | None, ...]
) -> bytes:
    fields: list[tuple[str, str | bool | None]] = [(name, OWN_VALUE) for name in names]
    for place in picks.shared_places:
        fields[place] = (names[place], values[place])
    for place in picks.echoes:
        fields[place] = (names[place], ECHO)
    etag = entry.stored.etag
    return dump(
        {
            "fields": fields,
            "steps": steps,
            "absent": [place for place, path in enumerate(OPTIONAL) if attrgetter(path)(entry) is None],
            "weak": None if etag is None else etag.weak,
            "tagged": bool(entry.tags),
            "ranged": entry.stored.content_range is not None,
            "constants": CONSTANTS_DOCUMENT.write(_constants_of(entry)),
        }
    )


def _steps(start: float, moments: tuple[float, ...]) -> tuple[float | None, ...]:
    """How many whole seconds after `start` each of `moments` is; None: not exactly so many."""
    steps: list[float | None] = []
    for moment in moments:
        step = (moment - start + 0.5) // 1
        # A sum of zero has no sign, and the moment may have one.
        steps.append(step if start + step == moment != 0 else None)
    return tuple(steps)


def _picker(*places: int) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    """What picks the values at `places`. `itemgetter` itself gives a tuple for two and more only."""
    if len(places) > 1:
        return itemgetter(*places)
    if not places:
        return lambda _: ()
    return lambda values: (values[places[0]],)


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    # What is in use comes back one by one; to know what that is would cost each look-up.
    if len(known) >= MAX_SHAPES and key not in known:
        known.clear()
    known[key] = value


SHAPES: Final = Shapes()
"""Those of this process."""
