"""What a supervisor asks of a worker beside what every caller may ask: operations that no description lists.

They are reached through a Unix socket that only the user of the sidecar can open.
"""

from collections.abc import Iterable
from typing import Final, Literal, Protocol

import orjson
from pydantic import BaseModel, JsonValue, RootModel

from proxy.admin.cache import Tally
from proxy.admin.config import refused
from proxy.admin.operations import (
    Answer,
    AnyOperation,
    Call,
    Empty,
    Input,
    Operation,
    Problem,
    Raw,
    Reply,
)
from proxy.admin.target import AdminTarget, ReloadError, ReloadReport
from proxy.errors import ConfigError
from proxy.metrics.exposition import process_families
from proxy.metrics.snapshot import take_snapshot
from proxy.storage.invalidation_log import Appended, Purge, PurgeScope

JSON_TYPE: Final = "application/json"
REMEMBERED_PURGES: Final = 1024
"""Of how many it is known what they dropped, when they come through the shared log before they are adopted."""


class WorkerTarget(AdminTarget, Protocol):
    """A worker: a program whose reload has two parts, so that several reload together or not at all."""

    async def prepare_reload(self, text: str | None = None) -> None:
        """See `proxy.app.Sidecar.prepare_reload`."""
        ...

    def finish_reload(self) -> ReloadReport:
        """See `proxy.app.Sidecar.finish_reload`."""
        ...

    async def abandon_reload(self) -> None:
        """See `proxy.app.Sidecar.abandon_reload`."""
        ...


class NewText(Input):
    """A configuration to prepare."""

    text: str | None


class KnownPurge(Input):
    """A purge that another worker has appended.

    Attributes:
        id: in the log of that worker.
        shared: it stands in the log that all workers share.
    """

    id: str
    scope: Literal["key", "url", "prefix", "tag", "all"]
    value: str
    soft: bool
    at: float
    shared: bool

    def appended(self) -> Appended:
        """As a log takes it."""
        purge = Purge(int(self.id), PurgeScope(self.scope), self.value, self.soft, self.at)
        return Appended(purge, self.shared)


class KnownPurges(Input):
    """Several."""

    purges: tuple[KnownPurge, ...]


class Touched(BaseModel):
    """How many records in memory each purge dropped and made stale, in their order."""

    dropped: list[int]
    softened: list[int]


class Done(RootModel[dict[str, JsonValue]]):
    """There is nothing to tell."""


class WorkerOperations:
    """The operations under `/worker`."""

    def __init__(self, target: WorkerTarget) -> None:
        self._target = target
        self._tally = Tally(target.store, remembered=REMEMBERED_PURGES)

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        refusal = Answer("It cannot be put into use.", Problem)
        return (
            Operation(
                "GET", "/worker/metrics", "workerMetrics", "Every metric as data.", self.metrics,
                {200: Answer("A snapshot.", (JSON_TYPE,))}, Empty, Empty,
            ),
            Operation(
                "POST", "/worker/adopt", "workerAdopt", "Apply purges that another worker has appended.", self.adopt,
                {200: Answer("They hold here.", Touched)}, KnownPurges, Empty,
            ),
            Operation(
                "POST", "/worker/reload/prepare", "workerPrepare", "The part of a reload that can fail.", self.prepare,
                {200: Answer("It can be finished.", Done), 422: refusal}, NewText, Empty,
            ),
            Operation(
                "POST", "/worker/reload/finish", "workerFinish", "Put what was prepared into use.", self.finish,
                {200: Answer("It is in use.", ReloadReport), 422: refusal}, Empty, Empty,
            ),
            Operation(
                "POST", "/worker/reload/abandon", "workerAbandon", "Forget what was prepared.", self.abandon,
                {200: Answer("It is forgotten.", Done)}, Empty, Empty,
            ),
        )  # fmt: skip

    async def metrics(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /worker/metrics`."""
        return Reply(Raw(orjson.dumps((*take_snapshot(self._target.metrics), *process_families())), JSON_TYPE))

    async def adopt(self, call: Call[KnownPurges, Empty]) -> Reply:
        """`POST /worker/adopt`."""
        touched = [await self._tally.adopt(known.appended()) for known in call.body.purges]
        return Reply(Touched(dropped=[one[0] for one in touched], softened=[one[1] for one in touched]))

    async def prepare(self, call: Call[NewText, Empty]) -> Reply:
        """`POST /worker/reload/prepare`."""
        try:
            await self._target.prepare_reload(call.body.text)
        except (ConfigError, ReloadError) as error:
            raise refused(error) from error
        return Reply(Done({}))

    async def finish(self, _: Call[Empty, Empty]) -> Reply:
        """`POST /worker/reload/finish`."""
        try:
            return Reply(self._target.finish_reload())
        except ReloadError as error:
            raise refused(error) from error

    async def abandon(self, _: Call[Empty, Empty]) -> Reply:
        """`POST /worker/reload/abandon`."""
        await self._target.abandon_reload()
        return Reply(Done({}))
