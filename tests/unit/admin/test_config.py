"""The effective configuration, and its renewal."""

from proxy.admin.target import ReloadError, ReloadReport
from proxy.errors import ConfigError, ConfigMistake
from tests.support.admin import bench

RELOAD = "/admin/config/reload"


async def test_the_configuration_is_shown_as_the_program_masks_it() -> None:
    async with bench() as admin:
        assert (await admin.get("/admin/config")).document == {"admin": {"token": "**********"}}


async def test_a_reload_tells_what_changed() -> None:
    async def reload() -> ReloadReport:
        return ReloadReport(changed=["plugins", "server"], restart_needed=["server"])

    async with bench() as admin:
        admin.target.reloading = reload
        bodies: tuple[object, ...] = (None, {})
        for body in bodies:
            answer = await admin.post(RELOAD, body)
            assert answer.status == 200
            assert answer.document == {"changed": ["plugins", "server"], "restart_needed": ["server"]}
        assert (await admin.post(RELOAD, {"force": True})).status == 422


async def test_a_bad_configuration_is_refused_with_every_mistake() -> None:
    async def reload() -> ReloadReport:
        mistakes = [ConfigMistake("routes[0].match.path", "no slash"), ConfigMistake("cach", "unknown setting")]
        raise ConfigError("config.toml", mistakes)

    async with bench() as admin:
        admin.target.reloading = reload
        answer = await admin.post(RELOAD)
        assert answer.status == 422 and answer.is_problem
        assert "old configuration stays" in answer.document["detail"]
        assert answer.document["errors"] == [
            {"path": "routes[0].match.path", "message": "no slash"},
            {"path": "cach", "message": "unknown setting"},
        ]


async def test_a_configuration_that_cannot_be_put_into_use_is_refused_too() -> None:
    async def reload() -> ReloadReport:
        raise ReloadError("a plugin does not start: no such file")

    async with bench() as admin:
        admin.target.reloading = reload
        answer = await admin.post(RELOAD)
        assert answer.status == 422 and answer.is_problem
        assert "no such file" in answer.document["detail"]
