"""The interface of a plugin.

A plugin sees a request on its way to the upstream (`on_request`, in the order of the pipeline) and the response on its
way back (`on_response`, in reverse). Its place relative to the cache is its meaning: what a plugin right of the cache
does to a response is done once and stored; what one left of it does is done for each client.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from typing_extensions import override

from proxy.clock import Clock
from proxy.errors import UpstreamError
from proxy.http.message import Response
from proxy.metrics.registry import Registry
from proxy.pipeline.exchange import Exchange, Outcome, Stats
from proxy.pipeline.passage import PassagePart
from proxy.pipeline.replay import ReplayPart
from proxy.tasks import Tasks

if TYPE_CHECKING:
    from proxy.storage.invalidation_log import InvalidationLog
    from proxy.storage.tiered import TieredStore

HOOKS: Final = ("on_request", "on_response", "on_error", "on_complete", "on_replay", "on_passage")


class PluginSettings(BaseModel):
    """Base of every plugin's settings: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    enabled: bool = True


S = TypeVar("S", bound=PluginSettings)


class Replay(Enum):
    """How a plugin left of the cache stands to an answer replayed without it."""

    NEVER = "never"  # it must see each exchange
    PURE = "pure"  # its effect depends only on the request head and the stored response
    CHECKED = "checked"  # it is asked each time


@dataclass(frozen=True, slots=True)
class Services:
    """What the program offers its plugins.

    Attributes:
        tasks: background work that ends at shutdown.
        store, invalidations: the cache's tiers and the purge log.
    """

    clock: Clock
    tasks: Tasks
    metrics: Registry
    store: "TieredStore"
    invalidations: "InvalidationLog"


class Plugin(Generic[S]):
    """A step of the pipeline. Subclasses define the hooks they need; those they do not define cost nothing.

    One instance serves all routes with the same settings.

    Attributes:
        name: as in `[pipeline] order` and `[plugins.<name>]`.
        settings_type: the model of its table in config.toml.
        replay: see `Replay`. What it says of the plugin that answers itself is nothing: that one sets the terms.
        answers_by_replay: it may set `Exchange.replay`.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[PluginSettings]]
    replay: ClassVar[Replay] = Replay.NEVER
    answers_by_replay: ClassVar[bool] = False

    def __init__(self, settings: S, services: Services) -> None:
        """Keep the arguments. No side effects: a plugin may be built only to see whether its settings are good."""
        self.settings = settings
        self.services = services

    @override
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for attribute in vars(cls):
            if attribute.startswith("on_") and attribute not in HOOKS:
                raise TypeError(f"{cls.__qualname__}.{attribute} is no hook; hooks are {', '.join(HOOKS)}")
        if cls.replay is Replay.CHECKED and cls.on_replay is Plugin.on_replay:
            raise TypeError(f"{cls.__qualname__} wants to be asked at each replay, but defines no on_replay")

    async def start(self) -> None:
        """Begin work that outlives a request. Called once, before the first request."""

    async def close(self) -> None:
        """Undo `start`. Safe after a failed or missing `start`, and to call twice."""

    async def on_request(self, exchange: Exchange) -> Response | None:
        """See the request; answer it, or return None to let it go on. `exchange.tail` is what stands right of here.

        Raises:
            ProxyError: the request ends here.
        """
        raise NotImplementedError

    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        """See the response from further right; return it, or another in its place."""
        raise NotImplementedError

    async def on_error(self, exchange: Exchange, error: UpstreamError) -> Response | None:
        """See an error from further right; return a response to rescue the exchange, or None."""
        raise NotImplementedError

    def on_complete(self, exchange: Exchange, outcome: Outcome) -> None:
        """The exchange is over. Always called, once, for each plugin whose turn came; never awaits."""
        raise NotImplementedError

    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart | None:
        """The answer to `exchange`, which is over, is to be kept and given again: say what is to be done each time.

        Args:
            outcome: how it ended; each replay ends so, but for its duration.

        Returns:
            None when nothing is to be done, or asked.
        """
        raise NotImplementedError

    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        """Requests like that of `exchange`, which is over, are to go to the upstream and back without this plugin: say
        what is to be done each time. A plugin without this hook lets none go.

        Such requests are equal but for fields that no plugin heeds, and such responses but for the values of
        `proxy.pipeline.passage.OWN_FIELDS` and for their bodies.

        Args:
            outcome: how it ended; each of them ends so, but for its duration.

        Returns:
            None: this plugin must see each of them.
        """
        raise NotImplementedError

    @property
    def heeded_fields(self) -> frozenset[str] | None:
        """The lower-case names of the request fields that this plugin's effect on an answer depends on.

        None, the default: any of them. Then requests must be equal in all their fields to get a kept answer, as far as
        this plugin's routes and all others are concerned.
        """
        return None

    def stats(self) -> Stats:
        """What the admin port shows of this plugin; values that orjson can write."""
        return {}
