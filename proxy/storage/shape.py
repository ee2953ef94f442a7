"""What alike stored responses have in common, apart from what is each one's own.

Responses of one origin look alike: the same status, field names and most values; times, validators and ids differ. An
entry but for its URL and its bodies is therefore split into its *shape*, bytes that are equal for alike entries, and
its *own* bytes (`shapes.py` does it). A shape is worked out once; from then on reading an entry is one look-up by the
shape's bytes and filling in, without a look at each field.

Own bytes: flags (1), numbers (8 each, little-endian doubles: `discard_at` first), and a JSON array: `purge_id`,
`body_length`, the values of header fields that are the entry's own, then, as the shape says, the entity tag, the tags
and the content range. The shape is JSON, see `_MEMBERS`.

Every field of `Stored` and `Entry` that is not named here is a number if it is a float, and part of the shape if it is
anything else: none can be forgotten.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from operator import call, itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
from multidict import CIMultiDict, CIMultiDictProxy, istr

from proxy.http.dates import format_date
from proxy.http.etag import EntityTag
from proxy.http.message import MAX_SHARED, Headers, make_headers
from proxy.policy.model import Stored
from proxy.storage.base import Entry
from proxy.storage.documents import (
    Document,
    UndecodableError,
    defaults_of,
    dump,
    exactly,
    hints_of,
    load_object,
    reader,
)

PLAIN_JSON: Final = 1
"""Flag: the array is as the json module writes it. orjson has neither lone surrogates nor integers beyond 64 bits."""

_OF_STORED: Final = {f"stored.{name}": hint for name, hint in hints_of(Stored).items()}
_OF_ENTRY: Final = hints_of(Entry)
_HINTS: Final = {**_OF_STORED, **_OF_ENTRY}
_DEFAULTS: Final = {**{f"stored.{name}": value for name, value in defaults_of(Stored).items()}, **defaults_of(Entry)}

# How each field is kept, by its path from the entry.
STEPPED: Final = ("stored.stale_while_revalidate_until", "stored.stale_if_error_until")
"""Mostly so many whole seconds after `fresh_until`, and that many is the same in alike responses."""
NUMBERS: Final = (
    "discard_at",
    *(path for path, hint in _HINTS.items() if hint is float and path not in {"discard_at", *STEPPED}),
)
OPTIONAL: Final = tuple(path for path, hint in _HINTS.items() if hint == float | None)
"""Numbers, too, unless they are None; the shape says which are."""
INTEGERS: Final = ("purge_id", "stored.body_length")
_ETAG, _TAGS, _RANGE, _HEADERS = "stored.etag", "tags", "stored.content_range", "stored.headers"
_BESIDE: Final = ("stored", "url", "body", "forms")
_NAMED: Final = {*STEPPED, *NUMBERS, *OPTIONAL, *INTEGERS, _ETAG, _TAGS, _RANGE, _HEADERS, *_BESIDE}
CONSTANTS: Final = tuple(path for path in _HINTS if path not in _NAMED)
CONSTANTS_DOCUMENT: Final = Document({path: _HINTS[path] for path in CONSTANTS}, _DEFAULTS)

# The numbers that every entry has come first in a row, behind the flags.
MOMENTS: Final = struct.Struct(f"<x{len(NUMBERS)}d")
"""Of an entry's own bytes: `discard_at`, `request_time`, `response_time`, `initial_age`, `fresh_until`."""
if [path.removeprefix("stored.") for path in NUMBERS] != [
    "discard_at", "request_time", "response_time", "initial_age", "fresh_until",
]:  # fmt: skip
    raise TypeError(f"the numbers of an entry are others than those that are read: {NUMBERS}")
FRESH_UNTIL: Final = 1 + NUMBERS.index("stored.fresh_until")

_read_tags: Final = reader(_HINTS[_TAGS])
_read_range: Final = reader(_HINTS[_RANGE])
_date_text: Final = lru_cache(MAX_SHARED)(format_date)  # without a step through Python, which would double its time

ECHOES: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "content-length": ("stored.body_length", str),
    "date": ("stored.date", _date_text),
    "etag": (_ETAG, str),
    "last-modified": ("stored.last_modified", _date_text),
}
"""Header fields that mostly say what another field of the entry says, and how: they are written anew from that."""

OWN_VALUE: Final = None
ECHO: Final = True

# The members of a shape, and how each is read. `fields` are pairs: a name, and the value, or `OWN_VALUE`, or `ECHO`.
# `steps` are the seconds of `STEPPED`, null where it is a number of its own; `absent` are the places in `OPTIONAL` of
# what is None; `weak` is null where there is no entity tag.
_MEMBERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "fields": exactly(list),
    "steps": reader(tuple[float | None, ...]),
    "absent": reader(tuple[int, ...]),
    "weak": reader(bool | None),
    "tagged": exactly(bool),
    "ranged": exactly(bool),
    "constants": CONSTANTS_DOCUMENT.read,
}


Own: TypeAlias = tuple[Any, ...]
"""What an entry's own bytes say: flags, numbers, and what the array has."""


class _Fields(NamedTuple):
    """The header fields of a shape, see `Shape`.

    Attributes:
        own, echoes: places of the fields whose values are the entry's own, and of those that are written anew.
        prototype: all of them, if the values of those can be set by name: none of these names is there twice.
    """

    names: tuple[istr, ...]
    values: tuple[str | None, ...]
    own: tuple[int, ...]
    echoes: tuple[int, ...]
    prototype: CIMultiDict[str] | None

    @classmethod
    def read(cls, pairs: list[Any]) -> "_Fields":
        """See `_MEMBERS`."""
        if not all(type(pair) is list and len(pair) == 2 and type(pair[0]) is str for pair in pairs):
            raise UndecodableError
        kinds = [value if value is OWN_VALUE or value is ECHO else exactly(str)(value) for _, value in pairs]
        names = tuple(istr(name) for name, _ in pairs)  # of one that is no istr a multidict keeps two more strings
        values = tuple(value if type(value) is str else None for value in kinds)
        own = tuple(place for place, value in enumerate(kinds) if value is OWN_VALUE)
        echoes = tuple(place for place, value in enumerate(kinds) if value is ECHO)
        prototype = CIMultiDict([(name, value or "") for name, value in zip(names, values, strict=True)])
        single = all(len(prototype.getall(names[place])) == 1 for place in own + echoes)
        return cls(names, values, own, echoes, prototype if single else None)


class Shape:
    """What alike entries have in common.

    Args:
        data: the shape's bytes, or any others.

    Attributes:
        data: the same.
        names, values: of all header fields, in their order; a value is None where it is each entry's own.
        own_names, own_places: which fields those are, in the order of `own_values`.
        purge_id_at, body_length_at: the places of `purge_id` and `body_length` in `Own`.
        tagged: whether entries of this shape have tags.
        uses: how many entries were found to have this shape.

    Raises:
        UndecodableError, ValueError, RecursionError: they are no shape of this version.
    """

    __slots__ = (
        "_array_at", "_constants", "_echoes", "_kinds", "_numbers", "_own_strings", "_pick_echoed", "_pick_entry",
        "_pick_stored", "_prototype", "_ranged", "_steps", "_strings", "_weak", "body_length_at", "data", "names",
        "own_names", "own_places", "purge_id_at", "tagged", "uses", "values",
    )  # fmt: skip

    def __init__(self, data: bytes) -> None:
        document = load_object(data)
        if document.keys() != _MEMBERS.keys():
            raise UndecodableError
        read = {name: _MEMBERS[name](value) for name, value in document.items()}
        fields = _Fields.read(read["fields"])
        self.data = data
        self.uses = 0
        self.names, self.values = fields.names, fields.values
        self.own_places = fields.own + fields.echoes
        self.own_names = tuple(fields.names[place] for place in self.own_places)
        self._own_strings = len(fields.own)
        self._prototype = fields.prototype
        self._weak: bool | None = read["weak"]
        self.tagged: bool = read["tagged"]
        self._ranged: bool = read["ranged"]
        echoes = [fields.names[place] for place in fields.echoes]
        self._lay_out(read["steps"], read["absent"], read["constants"], echoes)

    def _lay_out(
        self,
        steps: tuple[float | None, ...],
        absent: tuple[int, ...],
        constants: dict[str, Any],
        echoes: list[istr],
    ) -> None:
        """Decide where in the row of `read_own`, and in what `fill` makes of it, each field stands."""
        if len(steps) != len(STEPPED) or not {*absent} <= {*range(len(OPTIONAL))}:
            raise UndecodableError
        stepped = [path for path, step in zip(STEPPED, steps, strict=True) if step is not None]
        none = [path for place, path in enumerate(OPTIONAL) if place in absent]
        numbers = [path for path in (*NUMBERS, *OPTIONAL, *STEPPED) if path not in {*stepped, *none}]
        self._numbers = struct.Struct(f"<B{len(numbers)}d")
        self._array_at = self._numbers.size
        self.purge_id_at = 1 + len(numbers)
        self.body_length_at = self.purge_id_at + INTEGERS.index("stored.body_length")
        self._strings = slice(self.purge_id_at + len(INTEGERS), self.purge_id_at + len(INTEGERS) + self._own_strings)
        self._steps = tuple(step for step in steps if step is not None)
        strings, lists = self._own_strings + (self._weak is not None), self.tagged + self._ranged
        self._kinds = [int] * len(INTEGERS) + [str] * strings + [list] * lists
        own = ["flags", *numbers, *INTEGERS, *(f"array {place}" for place in range(strings + lists))]
        row = [*own, _ETAG, *stepped, _HEADERS, _TAGS, _RANGE, *constants, *none]
        place = {path: place for place, path in enumerate([*row, *_BESIDE])}
        self._constants = (*constants.values(), *(None for _ in none))
        self._pick_stored = itemgetter(*[place[path] for path in _OF_STORED])
        self._pick_entry = itemgetter(*[place[path] for path in _OF_ENTRY])
        self._echoes: list[Callable[[Any], str]] = []
        echoed: list[int] = []
        for name in echoes:
            path, text = ECHOES.get(name.lower(), ("", str))
            if path == _ETAG and self._weak is not None:
                self._echoes.append(EntityTag.WRITTEN[self._weak])
                echoed.append(self._strings.stop)
            elif path in own:
                self._echoes.append(text)
                echoed.append(own.index(path))
            else:
                raise UndecodableError
        self._pick_echoed = itemgetter(*echoed, 0, 0)  # of less than two it would make no tuple

    def own_slots(self) -> Iterator[tuple[str, int, Callable[[Any], str] | None]]:
        """The names of the header fields that are an entry's own, in the order of `own_names`, where in `Own` stands
        what they say, and how they say it; None: as it stands there.
        """
        places = range(self.purge_id_at + len(self._kinds))
        writers = (*(None for _ in places[self._strings]), *self._echoes)
        return zip(self.own_names, (*places[self._strings], *self._pick_echoed(places)), writers, strict=False)

    def constant(self, name: str) -> str | None:
        """The value of the header field `name` of all entries; None: they differ in it, or have it not once."""
        found = [value for known, value in zip(self.names, self.values, strict=True) if known == name]
        return found[0] if len(found) == 1 else None

    @property
    def is_stepped(self) -> bool:
        """Whether the moments of `STEPPED` are all told by `fresh_until`."""
        return len(self._steps) == len(STEPPED)

    def read_own(self, data: bytes, start: int = 0, end: int | None = None) -> Own:
        """Read the own bytes of an entry of this shape, which are `data[start:end]`.

        Raises:
            UndecodableError, ValueError, OverflowError, RecursionError, struct.error: they are none.
        """
        numbers = self._numbers.unpack_from(data, start)
        text = data[start + self._array_at : end]
        flags = numbers[0]
        array: Any = json.loads(text) if flags else orjson.loads(text)
        # Lists are looked into when they are needed.
        if type(array) is not list or [*map(type, array)] != self._kinds or flags > PLAIN_JSON:
            raise UndecodableError
        return (*numbers, *array)

    def own_values(self, own: Own) -> list[str]:
        """The values of the header fields that are the entry's own, as `own_names` names them."""
        return [*own[self._strings], *map(call, self._echoes, self._pick_echoed(own))]

    def write_own(self, numbers: tuple[float, ...], array: list[object]) -> bytes:
        """The own bytes of an entry of this shape. Order and presence are `Shapes.split`'s business."""
        try:
            flags, text = 0, orjson.dumps(array)
        except TypeError:  # a lone surrogate, or an integer beyond 64 bits
            flags, text = PLAIN_JSON, dump(array)
        return self._numbers.pack(flags, *numbers) + text

    def tags(self, own: Own) -> tuple[str, ...]:
        """The tags of an entry of this shape.

        Raises:
            UndecodableError: they are none.
        """
        if not self.tagged:
            return ()
        tags: tuple[str, ...] = _read_tags(own[-2 if self._ranged else -1])
        return tags

    def fill(self, own: Own, url: str, body: bytes, forms: Mapping[str, bytes]) -> Entry:
        """The entry of this shape that has these parts.

        Raises:
            UndecodableError: its own bytes are none of this shape's.
        """
        fresh_until = own[FRESH_UNTIL]
        weak = self._weak
        row = (
            *own,
            None if weak is None else EntityTag(own[self._strings.stop], weak),
            *[fresh_until + step for step in self._steps],
            self._headers(self.own_values(own)),
            self.tags(own) if self.tagged else (),
            _read_range(own[-1]) if self._ranged else None,
            *self._constants,
        )
        stored = Stored(*self._pick_stored(row))
        return Entry(*self._pick_entry((*row, stored, url, body, forms)))

    def _headers(self, values: list[str]) -> Headers:
        if self._prototype is None:
            texts = {**dict(enumerate(self.values)), **dict(zip(self.own_places, values, strict=True))}
            return make_headers([(name, texts[place] or "") for place, name in enumerate(self.names)])
        # To copy a multidict and set half of its values takes half the time of making one.
        headers = self._prototype.copy()
        for name, value in zip(self.own_names, values):  # noqa: B905  # takes a quarter longer if it is to be strict
            headers[name] = value
        return CIMultiDictProxy(headers)
