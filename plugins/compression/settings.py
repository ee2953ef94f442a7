"""The settings of the compression plugin."""

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

from plugins.compression.codecs import CODINGS, Coding
from plugins.media_types import MediaRange
from proxy.pipeline.plugin import PluginSettings

BrotliLevel: TypeAlias = Annotated[int, Field(ge=0, le=11)]
# Levels from 20 on may use windows that decoders need not support (RFC 8878 §3.1.1.1.2).
ZstdLevel: TypeAlias = Annotated[int, Field(ge=1, le=19)]
GzipLevel: TypeAlias = Annotated[int, Field(ge=1, le=9)]


class Levels(BaseModel):
    """How hard each coder tries on what is sent once.

    64 KiB of JSON, in ms of one core and KiB of result. brotli 1: 0.4, 24.7; 4: 1.5, 22.3; 5: 2.3, 21.7. zstd 1: 0.3,
    24.1; 3: 0.4, 22.9; 6: 1.2, 22.4. gzip 1: 0.9, 25.6; 5: 1.9, 22.8; 6: 2.6, 22.5.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    br: BrotliLevel = 4
    zstd: ZstdLevel = 3
    gzip: GzipLevel = 5

    def of(self, coding: Coding) -> int:
        """The level of `coding`."""
        level: int = getattr(self, coding)
        return level


class StoredLevels(Levels):
    """How hard each coder tries on what is kept.

    In the same measure: brotli 6: 2.8, 21.5; 9: 21, 21.2; 11: 118, 18.1. zstd 9: 2.2, 22.0; 15: 10, 20.9; 19: 26, 20.7.
    gzip 6: 2.6, 22.5; 9: 8.7, 22.1. The last tenth costs tens of times the work: for what lives for hours.
    """

    br: BrotliLevel = 6
    zstd: ZstdLevel = 9
    gzip: GzipLevel = 6


class CompressionSettings(PluginSettings):
    """`[plugins.compression]`: what is compressed, and how.

    Attributes:
        codings: those offered, the preferred ones first; the order decides where the client has no preference.
        content_types: media types that are worth it; `*` stands for any text, as in `text/*` or `*/*+json`.
        min_bytes: shorter bodies are left as they are.
        levels: for bodies that are sent once.
        stored_levels: for stored bodies, whose coded forms are kept beside them.
        flush_types: media types read event by event: every chunk is flushed.
        flush_after_seconds: of other streams, how long the upstream may pause before what is held back is flushed.
        upstream_encoding: what the cache and the upstream are told the client accepts. `identity`: nothing, so that the
            upstream is asked once per resource and spends no time on compressing, ranges and validators are those
            of one form, and every form is made from it here. `pass`: what the client says, for upstreams that have
            compressed files ready; each answer they vary is then fetched and stored on its own.
        threads: how many bodies are compressed at once, beside those short enough for the event loop.
    """

    codings: tuple[Coding, ...] = CODINGS
    content_types: tuple[MediaRange, ...] = (
        "text/*", "*/*+json", "*/*+xml", "application/json", "application/xml", "application/javascript",
        "application/x-javascript", "application/ecmascript", "application/x-ndjson", "application/jsonl",
        "application/json-seq", "application/graphql", "application/yaml", "application/x-yaml", "application/toml",
        "application/sql", "application/rtf", "application/wasm", "application/vnd.ms-fontobject", "font/ttf",
        "font/otf", "image/bmp", "image/x-icon", "image/vnd.microsoft.icon",
    )  # fmt: skip
    min_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(1024)
    levels: Levels = Levels()
    stored_levels: StoredLevels = StoredLevels()
    flush_types: tuple[MediaRange, ...] = (
        "text/event-stream", "application/x-ndjson", "application/jsonl", "application/json-seq",
    )  # fmt: skip
    flush_after_seconds: Annotated[float, Field(gt=0, le=10)] = 0.02
    upstream_encoding: Literal["identity", "pass"] = "identity"
    threads: Annotated[int, Field(ge=1, le=64)] = 2

    @model_validator(mode="after")
    def _check_codings(self) -> Self:
        if len(set(self.codings)) != len(self.codings):
            raise ValueError("a coding is named twice")
        return self
