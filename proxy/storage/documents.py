"""Values as JSON, by the annotations of the dataclass that they are fields of; what was not written so is not read."""

import json
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

Read: TypeAlias = Callable[[Any], Any]


class UndecodableError(Exception):
    """These bytes are no record of this version: a miss."""


def dump(document: object) -> bytes:
    """`document` as JSON. Unlike orjson this has lone surrogates (bytes of a header that are no UTF-8), infinities and
    integers of any size.
    """
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def load_object(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` is.

    Raises:
        UndecodableError: it is none.
        ValueError, RecursionError: it is no JSON, or nested too deeply.
    """
    document = json.loads(data)
    if type(document) is not dict:
        raise UndecodableError
    return document


def defaults_of(cls: type) -> dict[str, object]:
    """The defaults of the fields of a dataclass that have one.

    Raises:
        TypeError: it does more than keep its fields.
    """
    if hasattr(cls, "__post_init__"):
        raise TypeError(f"what {cls} does after its __init__ may have been done already to what was stored")
    return {field.name: field.default for field in fields(cls) if field.default is not MISSING}


class Document:
    """How some fields are written as a JSON object, and read.

    Args:
        hints: the annotation of each field, by the name under which it is written.
        defaults: of those that are not written when they have this value, and need not be there when it is read.

    Raises:
        TypeError: a field is of a type that cannot be stored.
    """

    def __init__(self, hints: Mapping[str, Any], defaults: Mapping[str, object]) -> None:
        self._readers = {name: reader(hint) for name, hint in hints.items()}
        self._defaults = {name: value for name, value in defaults.items() if name in hints}

    def write(self, values: Iterable[Any]) -> dict[str, Any]:
        """The fields with these values, in the order of the hints, but for those at their defaults."""
        defaults = self._defaults
        return {
            name: value
            for name, value in zip(self._readers, values, strict=True)
            if name not in defaults or value != defaults[name]
        }

    def read(self, written: object) -> dict[str, Any]:
        """All fields that `write` wrote, and the defaults of the others.

        Raises:
            UndecodableError: it was not written by `write`.
        """
        if type(written) is not dict or not self._readers.keys() >= written.keys():  # it may have a later version's
            raise UndecodableError
        values = {**self._defaults, **{name: self._readers[name](value) for name, value in written.items()}}
        if len(values) != len(self._readers):
            raise UndecodableError
        return values


def hints_of(cls: type) -> dict[str, Any]:
    """The annotations of the fields of a dataclass."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


# Reading: one function for each annotation, made at import.


def exactly(kind: type) -> Read:
    """What lets values of type `kind` through, and none of its subtypes: a bool is no int."""

    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise UndecodableError
        return value

    return read


def _read_float(value: Any) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise UndecodableError


def _optional(inner: Read) -> Read:
    return lambda value: None if value is None else inner(value)


def _sequence(inner: Read) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise UndecodableError
        return tuple(map(inner, value))

    return read


def _fixed(inners: tuple[Read, ...]) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not list or len(value) != len(inners):
            raise UndecodableError
        return tuple(inner(item) for inner, item in zip(inners, value, strict=True))

    return read


def reader(annotation: Any) -> Read:
    """What turns JSON into a value of type `annotation`, and raises `UndecodableError` for any other JSON.

    Raises:
        TypeError: values of this type cannot be stored.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is float:
        return _read_float
    if annotation in {str, int, bool}:
        return exactly(annotation)
    if origin in {Union, types.UnionType} and len(arguments) == 2 and arguments[1] is types.NoneType:
        return _optional(reader(arguments[0]))
    if origin is tuple:
        if arguments[1:] == (...,):
            return _sequence(reader(arguments[0]))
        return _fixed(tuple(map(reader, arguments)))
    raise TypeError(f"{annotation} cannot be stored")
