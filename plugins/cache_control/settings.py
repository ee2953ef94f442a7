"""The settings of the cache_control plugin.

[[plugins.cache_control.rules]]
name = "images"
content_types = ["image/*"]
default = { Cache-Control = "public, max-age=3600" }
add = { Surrogate-Key = "images" }

[plugins.cache_control.fingerprints]        # app.3f9a1c2b.js
replace = true
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from plugins.cache_control.fields import is_caching_field, mistake_in
from plugins.media_types import MediaRange
from proxy.pipeline.plugin import PluginSettings


def _caching_field(name: str) -> str:
    if not is_caching_field(name):
        raise ValueError(
            f"{name!r} is no caching field: expected Cache-Control, …-Cache-Control, Surrogate-Control, Surrogate-Key, "
            "Cache-Tag, Cache-Groups, Vary, Expires or Pragma"
        )
    return name


def _pairs(table: object) -> object:
    return tuple(table.items()) if isinstance(table, Mapping) else table


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


FieldName: TypeAlias = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"), AfterValidator(_caching_field)]
FieldValue: TypeAlias = Annotated[str, Field(pattern=r"^[\t\x20-\x7e]*$")]
# A table in config.toml; pairs here, because settings are compared and hashed.
Fields: TypeAlias = Annotated[
    tuple[tuple[FieldName, FieldValue], ...],
    BeforeValidator(_pairs),
    PlainSerializer(dict, return_type=dict[str, str]),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]
StatusRange: TypeAlias = Annotated[str, Field(pattern=r"^[2-5](?:xx|[0-9][0-9])$")]
Expression: TypeAlias = Annotated[str, AfterValidator(_pattern)]

_EXTENSIONS: Final = (
    "avif|bmp|css|eot|gif|ico|jpe?g|js|jxl|map|mjs|mp3|mp4|ogg|otf|png|svg|ttf|wasm|webm|webmanifest|webp|woff2?"
)
STATIC_FILE: Final = re.compile(rf"\.(?:{_EXTENSIONS})$", re.IGNORECASE)
# At least eight hexadecimal digits, letters and figures among them: `-20260131.` is a date, `-document.` a word.
_HASHED: Final = (
    rf"[.-](?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{{8,64}}(?:\.[a-z0-9]{{1,10}}){{0,2}}\.(?:{_EXTENSIONS})$"
)


class Rule(BaseModel):
    """What is done to the responses that fit. In this order: remove, set, default, add, Expires.

    Attributes:
        name: in metrics and the log; unique.
        status: responses with one of these statuses: `"200"`, or a class such as `"2xx"`. A 304 stands for the 200 that
            it confirms.
        content_types: responses of one of these media types, `*` for any text; empty: of any.
        remove: fields taken away.
        set: fields put in place of the origin's.
        default: fields put where the origin says nothing: Cache-Control and its like where it has none of
            Cache-Control, Expires, Pragma and targeted fields, others where that field is absent.
        add: members added to a field: directives that it has not, names in Vary, tags.
        expires_seconds: `Expires` is put that far from now.
        override: may take `private` and `no-store` from a response, or make one shared that has a cookie or answers a
            request with credentials. The log says so at start, and a counter each time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    status: tuple[StatusRange, ...] = ("2xx",)
    content_types: tuple[MediaRange, ...] = ()
    remove: tuple[FieldName, ...] = ()
    set: Fields = ()
    default: Fields = ()
    add: Fields = ()
    expires_seconds: Annotated[int, Field(ge=0, le=366 * 86_400)] | None = None
    override: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        for fields in (self.set, self.default, self.add):
            for name, value in fields:
                if name.lower() == "expires":
                    raise ValueError("Expires is a date: use expires_seconds")
                if (mistake := mistake_in(name, value)) is not None:
                    raise ValueError(f"{name}: {value!r} {mistake}")
        if not (self.remove or self.set or self.default or self.add or self.expires_seconds is not None):
            raise ValueError(
                f"the rule {self.name!r} does nothing: give it remove, set, default, add or expires_seconds"
            )
        return self


class Fingerprints(BaseModel):
    r"""`[plugins.cache_control.fingerprints]`: files whose name changes with their content are kept for ever.

    Off unless the table is there: a client that was told `immutable` does not ask again for a year, so the promise
    that such a name never means other content has to be yours. Applies to 200 responses with a type other than HTML:
    servers of single-page applications answer for a file that is gone with their index page.

    Attributes:
        patterns: regular expressions, searched for in the path. By default a name such as `app.3f9a1c2b.js` or
            `app-3f9a1c2b.min.css`; for Vite's base64 hashes: `'^/assets/.*-[A-Za-z0-9_-]{8}\.(js|css)$'`.
        query: names of query parameters whose presence marks a static file as fingerprinted: `["v"]` for `?v=…`. Not
            where the cache ignores that parameter.
        cache_control: what such a response gets.
        replace: put it in place of what the origin says, unless that is `private` or `no-store`, and not only where it
            says nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: tuple[Expression, ...] = (_HASHED,)
    query: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    cache_control: FieldValue = "public, max-age=31536000, immutable"
    replace: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (mistake := mistake_in("Cache-Control", self.cache_control)) is not None:
            raise ValueError(f"cache_control: {self.cache_control!r} {mistake}")
        return self


class CacheControlSettings(PluginSettings):
    """Settings of `[plugins.cache_control]`.

    Attributes:
        rules: tried in order; each that fits is applied to what those before it left.
        fingerprints: applied before the rules.
    """

    rules: tuple[Rule, ...] = ()
    fingerprints: Fingerprints | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rule names are taken twice: {', '.join(twice)}")
        if FINGERPRINTS in names:
            raise ValueError(f"the rule name {FINGERPRINTS!r} is taken")
        return self


FINGERPRINTS: Final = "fingerprints"
