"""What requests ask for, as far as codings go."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from plugins.compression.codecs import Coding
from plugins.compression.fields import NO_TAGS
from proxy.http.coding import preferences, weights
from proxy.http.etag import EntityTag
from proxy.http.message import NO_HEADERS, make_headers
from proxy.http.names import ACCEPT_ENCODING
from proxy.values import value

IDENTITY: Final = "identity"
_REMEMBERED: Final = 1024  # browsers send a dozen different values
_REMEMBERED_LENGTH: Final = 128


@value
class Wish:
    """What a request asks for.

    Attributes:
        accepted: codings, `identity` among them if it is acceptable.
        coding: the one to use, if the response allows.
        as_is: the content is to be left alone: a range is asked for, or no transformation.
        tags: see `unmark_conditions`.
    """

    accepted: Sequence[str]
    coding: Coding | None
    as_is: bool
    head: bool
    tags: Mapping[str, EntityTag]


class Wishes:
    """Reads Accept-Encoding.

    Args:
        offered: the codings to choose from; where a client likes several as much, it gets the first.
    """

    __slots__ = ("_offered", "_remembered")

    def __init__(self, offered: tuple[Coding, ...]) -> None:
        self._offered = offered
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._read)

    def of_get(self, accept: str | None) -> Wish:
        """What a GET with this Accept-Encoding value asks for, if no other field matters."""
        if accept is not None and len(accept) > _REMEMBERED_LENGTH:
            return self._read(accept)
        return self._remembered(accept)

    def _read(self, accept: str | None) -> Wish:
        accepted = preferences(NO_HEADERS if accept is None else make_headers([(ACCEPT_ENCODING, accept)]))
        named = weights(accept or "")
        liked = accepted[: accepted.index(IDENTITY)] if IDENTITY in accepted else accepted
        coding = max(
            (coding for coding in self._offered if coding in liked),
            key=lambda coding: named.get(coding, named.get("*", 0.0)),
            default=None,
        )
        return Wish(accepted, coding, as_is=False, head=False, tags=NO_TAGS)
