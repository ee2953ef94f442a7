"""Media types in settings: ranges such as `text/*`, and what they match."""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Annotated, Final, TypeAlias

from pydantic import Field

MediaRange: TypeAlias = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
"""A media type in which `*` stands for any text: `image/*`, `*/*+json`."""

_REMEMBERED: Final = 512


def media_type(content_type: str) -> str:
    """Type and subtype of a Content-Type value, in lower case, without parameters (RFC 9110 §8.3.1)."""
    return content_type.partition(";")[0].strip(" \t").lower()


def media_matcher(ranges: Sequence[str]) -> Callable[[str], bool]:
    """Whether a Content-Type value is in one of `ranges`. What was asked before is remembered: values are few."""
    pattern = re.compile("|".join(translate(media_range.lower()) for media_range in ranges) or r"(?!)")

    @lru_cache(maxsize=_REMEMBERED)
    def matches(content_type: str) -> bool:
        return pattern.match(media_type(content_type)) is not None

    return matches
