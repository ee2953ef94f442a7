"""The effective configuration of all workers, and its renewal."""

from collections.abc import Iterable

from proxy.admin.config import ConfigView, refused
from proxy.admin.merged.asking import NONE_ANSWERS, ask_one
from proxy.admin.operations import Answer, AnyOperation, Call, Empty, Operation, Problem, RefusedError, Reply
from proxy.admin.peers import Peers, SilentError
from proxy.admin.target import ReloadError, ReloadReport
from proxy.errors import ConfigError


class MergedConfig:
    """The operations under `/admin/config`."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/admin/config", "config", "The effective configuration, secrets masked.", self.view,
                {200: Answer("The configuration.", ConfigView), **NONE_ANSWERS}, Empty, Empty,
            ),
            Operation(
                "POST", "/admin/config/reload", "configReload",
                "Read the configuration again and put it into use in all workers, or in none.", self.reload,
                {
                    200: Answer("The new configuration is in use.", ReloadReport),
                    422: Answer("It is refused with every mistake in it; the old one stays.", Problem),
                    504: Answer("Workers do not answer; `workers` names them. The old one stays.", Problem),
                }, Empty, Empty,
            ),
        )  # fmt: skip

    async def view(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/config`."""
        _peer, told = await ask_one(self._peers, "GET", "/admin/config")
        return Reply(ConfigView.model_validate_json(told.data))

    async def reload(self, _: Call[Empty, Empty]) -> Reply:
        """`POST /admin/config/reload`."""
        try:
            return Reply(await self._peers.reload())
        except (ConfigError, ReloadError) as error:
            raise refused(error) from error
        except SilentError as error:
            raise RefusedError(504, f"{error}; the old configuration stays", workers=list(error.names)) from error
