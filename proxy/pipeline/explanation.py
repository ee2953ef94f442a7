"""What a plugin can say of a request that it has not seen: what it would do with it, and why."""

from typing import Protocol, runtime_checkable

from pydantic import BaseModel, Field

from proxy.pipeline.exchange import Exchange


class Check(BaseModel):
    """One step of the way, in order."""

    step: str = Field(description="What is looked at.")
    outcome: str = Field(description="What was found, in a plain sentence.")
    reason: str | None = Field(default=None, description="The reason's token, as in Cache-Status and the metrics.")
    clause: str | None = Field(default=None, description="Where the rule stands.")


class StoredVariant(BaseModel):
    """A stored response."""

    tier: str
    variant: str = Field(description="The variant's part of the key; empty for a resource that does not vary.")
    selected: bool = Field(description="It is the one that this request selects.")
    status: int
    age_seconds: float
    fresh_for_seconds: float = Field(description="Negative when stale.")
    usable_stale_for_seconds: float = Field(description="While it is refreshed (stale-while-revalidate).")
    usable_on_error_for_seconds: float = Field(description="While the origin fails (stale-if-error).")
    must_validate: bool
    never_stale: bool
    etag: str | None
    last_modified: str | None
    vary: list[str]
    tags: list[str]
    hits: int | None = Field(description="How often it was found in memory since it came there; null for a lower tier.")
    body_bytes: int
    forms: dict[str, int] = Field(description="Bytes of each derived form.")
    purged: str | None = Field(description="The purge that voids it, if there is one.")


class Explanation(BaseModel):
    """What is stored for a request, and what a request now would do."""

    method: str
    url: str
    route: str
    key: str
    verdict: str = Field(description="hit, stale, revalidate, miss, bypass or unsatisfiable.")
    reason: str
    sentence: str
    steps: list[Check]
    stored: list[StoredVariant]
    advice: list[str] = Field(description="What would make it cacheable, or a hit.")


@runtime_checkable
class Explains(Protocol):
    """A plugin that can explain itself."""

    async def explain(self, exchange: Exchange) -> Explanation:
        """What would become of `exchange`, which is never sent. Changes nothing."""
        ...
