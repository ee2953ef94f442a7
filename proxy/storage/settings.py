"""`[cache]`: the tiers of the cache and their sizes. What is cached, and how, is the cache plugin's business."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from proxy.storage.redis_url import RedisAddress, parse_redis_url

MIB: Final = 1024 * 1024
DEFAULT_FILE: Final = "sidecache/cache.mdb"


def default_lmdb_path() -> Path:
    """`$XDG_CACHE_HOME/sidecache/cache.mdb`, else `~/.cache/sidecache/cache.mdb`, else below `/var/cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / DEFAULT_FILE
    try:
        return Path.home() / ".cache" / DEFAULT_FILE
    except RuntimeError:  # a user without a home directory, as in many containers
        return Path("/var/cache") / DEFAULT_FILE


def _redis_url(value: SecretStr) -> SecretStr:
    try:
        parse_redis_url(value.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError("redis_url", "{reason}", {"reason": str(error)}) from None
    return value


def _size(value: object) -> object:
    # pydantic reads "1.5" as one and a half bytes, and True as one.
    if isinstance(value, bool):
        raise ValueError("expected a size: a number of bytes, or a text such as '64MiB'")
    return value


Size = Annotated[ByteSize, BeforeValidator(_size)]


class CacheTiers(BaseModel):
    """`[cache]`. Sizes are numbers of bytes, or texts such as `64MiB`.

    Attributes:
        l1_max_bytes: memory for records in each worker, their overhead counted.
        l1_max_object_share: a record that takes more than this share of `l1_max_bytes` is not kept in memory.
        max_object_bytes: a response body longer than this is not stored in any tier.
        l2: `lmdb`, a file shared by the workers of one machine; `redis`; `none`. Without it: `redis` if there is a
            `redis_url`, else `lmdb`.
        lmdb_path: the file; its directory is made. See `default_lmdb_path`.
        lmdb_max_bytes: the size the file never exceeds.
        redis_url: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service/db` or
            `redis+cluster://host:port,host:port`; may hold a user and a password, and is shown masked.
        redis_prefix: begins every key that this cache writes; sidecars with the same prefix share entries and purges.
        l2_timeout_ms: the time budget of one call to Redis; after it, the call counts as a miss.
        l2_breaker_failures: so many failures in a row take L2 out of the path.
        l2_breaker_retry_seconds: and so long after, one call tries it again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    l1_max_bytes: Annotated[Size, Field(ge=64 * 1024)] = ByteSize(64 * MIB)
    l1_max_object_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    max_object_bytes: Annotated[Size, Field(ge=1024)] = ByteSize(16 * MIB)
    l2: Literal["lmdb", "redis", "none"] | None = None
    lmdb_path: Path = Field(default_factory=default_lmdb_path)
    lmdb_max_bytes: Annotated[Size, Field(ge=16 * MIB)] = ByteSize(512 * MIB)
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    redis_prefix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7a|~]+$")] = "sidecache"
    l2_timeout_ms: Annotated[int, Field(ge=1, le=60_000)] = 50
    l2_breaker_failures: Annotated[int, Field(ge=1)] = 5
    l2_breaker_retry_seconds: Annotated[float, Field(gt=0)] = 2.0

    @property
    def second_tier(self) -> Literal["lmdb", "redis", "none"]:
        """Which L2 is in use."""
        return self.l2 or ("redis" if self.redis_url is not None else "lmdb")

    @property
    def redis_address(self) -> RedisAddress:
        """Where Redis is. There is a `redis_url`."""
        assert self.redis_url is not None
        return parse_redis_url(self.redis_url.get_secret_value())

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.l2 == "redis" and self.redis_url is None:
            raise PydanticCustomError("l2", 'l2 = "redis" needs a redis_url')
        if self.l2 in {"lmdb", "none"} and self.redis_url is not None:
            raise PydanticCustomError(
                "l2", 'there is a redis_url, but l2 = "{l2}" does not use it: remove one of them', {"l2": self.l2}
            )
        if self.second_tier == "lmdb" and self.max_object_bytes > self.lmdb_max_bytes // 8:
            raise PydanticCustomError("l2", "max_object_bytes must be at most an eighth of lmdb_max_bytes")
        return self
