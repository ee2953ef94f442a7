"""The effective configuration, and its renewal."""

from collections.abc import Iterable

from pydantic import JsonValue, RootModel

from proxy.admin.operations import Answer, AnyOperation, Call, Empty, Operation, Problem, RefusedError, Reply
from proxy.admin.target import AdminTarget, ReloadError, ReloadReport
from proxy.errors import ConfigError


class ConfigView(RootModel[dict[str, JsonValue]]):
    """Every setting in effect, defaults filled in, secrets masked."""


class Configuration:
    """The operations under `/admin/config`."""

    def __init__(self, target: AdminTarget) -> None:
        self._target = target

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/admin/config", "config", "The effective configuration, secrets masked.", self.view,
                {200: Answer("The configuration.", ConfigView)}, Empty, Empty,
            ),
            Operation(
                "POST", "/admin/config/reload", "configReload",
                "Read the configuration again and put it into use, whole or not at all.", self.reload,
                {
                    200: Answer("The new configuration is in use.", ReloadReport),
                    422: Answer("It is refused with every mistake in it; the old one stays.", Problem),
                }, Empty, Empty,
            ),
        )  # fmt: skip

    async def view(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/config`."""
        return Reply(ConfigView(dict(self._target.config_view())))

    async def reload(self, _: Call[Empty, Empty]) -> Reply:
        """`POST /admin/config/reload`."""
        try:
            return Reply(await self._target.reload())
        except (ConfigError, ReloadError) as error:
            raise refused(error) from error


def refused(error: ConfigError | ReloadError) -> RefusedError:
    """What is answered when a configuration is not put into use."""
    if isinstance(error, ReloadError):
        return RefusedError(422, f"{error}; the old configuration stays", errors=[])
    mistakes = [{"path": mistake.path, "message": mistake.message} for mistake in error.mistakes]
    return RefusedError(422, f"{error.source} is refused; the old configuration stays", errors=mistakes)
