"""Who may call."""

from pathlib import Path

import pytest

from proxy.admin.auth import names_loopback
from tests.support.admin import TOKEN, AdminBench, bench

ANYWHERE = "/admin/config"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


async def challenge(admin: AdminBench, path: str = ANYWHERE, **headers: str) -> str | None:
    """What a call without the right token is answered with; None if it was let in."""
    answer = await admin.get(path, headers=headers)
    if answer.status == 200:
        return None
    assert answer.status == 401 and answer.is_problem
    assert TOKEN not in answer.raw.decode()
    return answer.headers["WWW-Authenticate"]


async def test_the_right_token_is_let_in_whatever_the_case_of_its_scheme() -> None:
    async with bench(token=TOKEN) as admin:
        assert await challenge(admin, Authorization=f"Bearer {TOKEN}") is None
        assert await challenge(admin, Authorization=f"bEARER   {TOKEN}") is None


@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "Bearer x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xe9\xff"],
)
async def test_anything_else_is_not(authorization: str) -> None:
    async with bench(token=TOKEN) as admin:
        assert await challenge(admin) == 'Bearer realm="sidecache"'
        assert await challenge(admin, Authorization=authorization) == 'Bearer realm="sidecache", error="invalid_token"'


async def test_two_authorizations_are_one_too_many() -> None:
    async with bench(token=TOKEN) as admin:
        fields = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
        async with admin.session.get(admin.url + ANYWHERE, headers=fields) as answer:
            assert answer.status == 401


async def test_nobody_without_a_token_learns_which_paths_there_are() -> None:
    async with bench(token=TOKEN) as admin:
        assert (await admin.get("/nothing")).status == 401
        assert (await admin.call("PUT", ANYWHERE)).status == 401
        assert (await admin.get("/nothing", headers=RIGHT)).status == 404


async def test_probes_are_open_unless_the_settings_close_them() -> None:
    async with bench(token=TOKEN) as admin:
        assert await challenge(admin, "/health") is None
        assert await challenge(admin, "/ready") is None
        assert await challenge(admin, "/health/detailed") is not None
        assert await challenge(admin, "/metrics") is not None
    async with bench(token=TOKEN, open_health=False) as admin:
        assert await challenge(admin, "/health") is not None
        assert await challenge(admin, "/health", **RIGHT) is None


async def test_a_path_that_only_looks_like_a_probe_is_not_open() -> None:
    async with bench(token=TOKEN) as admin:
        for path in ("/health/", "//health", "/ready/../admin/config", "/%68ealth/detailed", "/health/../metrics"):
            assert (await admin.get(path)).status == 401, path


async def test_without_a_token_a_foreign_host_is_misdirected() -> None:
    async with bench() as admin:
        answer = await admin.get("/health", headers={"Host": "rebound.example"})
        assert answer.status == 421 and answer.is_problem
        assert (await admin.get("/health", headers={"Host": "sidecar.localhost:9090"})).status == 200


async def test_with_a_token_any_host_will_do() -> None:
    async with bench(token=TOKEN) as admin:
        assert (await admin.get(ANYWHERE, headers={"Host": "sidecar.internal", **RIGHT})).status == 200


async def test_on_a_unix_socket_any_host_will_do(tmp_path: Path) -> None:
    async with bench(listen=f"unix:{tmp_path / 'admin'}") as admin:
        assert (await admin.get(ANYWHERE, headers={"Host": "anything"})).status == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_web_page_may_post_across_origins_is_refused(content_type: str) -> None:
    async with bench() as admin:
        for path in ("/admin/cache/invalidate", "/admin/config/reload"):
            answer = await admin.post(path, {"all": True}, headers={"Content-Type": content_type})
            assert answer.status == 415 and answer.is_problem
        assert (await admin.call("OPTIONS", "/admin/cache/invalidate", headers={"Origin": "http://x"})).status == 405
        assert "Access-Control-Allow-Origin" not in (await admin.get("/health", headers={"Origin": "http://x"})).headers


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("LocalHost:9090", True), ("localhost.", True), ("a.localhost", True), ("127.0.0.1", True),
     ("127.9.8.7:1", True), ("[::1]:9090", True), ("[::1]", True), ("", False), ("localhost.example", False),
     ("127.0.0.1.example", False), ("notlocalhost", False), ("10.0.0.1", False), ("[::2]", False), ("[", False)],
)  # fmt: skip
def test_loopback_names(host: str, loopback: bool) -> None:
    assert names_loopback(host) is loopback
