"""The OpenAPI document is valid, complete, and true."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from proxy.admin.target import ReloadError, ReloadReport
from proxy.storage.breaker import TierHealth, TierState
from tests.support.admin import TOKEN, AdminBench, Answered, bench

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}

PATHS = {
    "/health": {"get"},
    "/ready": {"get"},
    "/health/detailed": {"get"},
    "/health/dependencies": {"get"},
    "/metrics": {"get"},
    "/admin/cache/stats": {"get"},
    "/admin/cache/explain": {"get"},
    "/admin/cache/invalidate": {"post"},
    "/admin/cache/warmup": {"post"},
    "/admin/cache/warmup/{id}": {"get"},
    "/admin/pipeline": {"get"},
    "/admin/pipeline/stats": {"get"},
    "/admin/config": {"get"},
    "/admin/config/reload": {"post"},
    "/openapi.json": {"get"},
}

BODIES: dict[str, dict[str, Any]] = {
    "cacheInvalidate": {"tags": ["a", "greetings"], "soft": True},
    "cacheWarmup": {"urls": ["http://example.test/items/1"], "variants": [{}, {"Accept-Encoding": "br"}]},
    "configReload": {},
}


async def description(admin: AdminBench) -> dict[str, Any]:
    answer = await admin.get("/openapi.json", headers=AUTHORIZED)
    assert answer.status == 200
    document: dict[str, Any] = answer.document
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def check(document: dict[str, Any], operation: dict[str, Any], answer: Answered) -> None:
    """`answer` is one that `operation` documents, and its body is what the document says."""
    name = operation["operationId"]
    assert str(answer.status) in operation["responses"], (name, answer.status, answer.raw)
    media_type = answer.headers["Content-Type"].partition(";")[0]
    content = operation["responses"][str(answer.status)]["content"]
    assert media_type in content, (name, media_type)
    if "json" in media_type:
        schema = {**content[media_type]["schema"], "components": document["components"]}
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(answer.document)


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_the_document_is_openapi_3_1(token: str | None) -> None:
    async with bench(token=token) as admin:
        document = await description(admin)
        assert document["openapi"].startswith("3.1.")
        OpenAPIV31SpecValidator(document).validate()
        assert {path: set(methods) for path, methods in document["paths"].items()} == PATHS
        names = [operation["operationId"] for _, _, operation in operations(document)]
        assert len(names) == len(set(names))


async def test_security_is_described_as_the_settings_have_it() -> None:
    async with bench(token=TOKEN) as admin:
        needed = {path: bool(operation["security"]) for _, path, operation in operations(await description(admin))}
        assert {path for path, token in needed.items() if not token} == {"/health", "/ready"}
        for path, methods in PATHS.items():
            if "get" in methods:
                assert ((await admin.get(path)).status == 401) is needed[path], path
    async with bench() as admin:
        assert not any(operation["security"] for _, _, operation in operations(await description(admin)))


async def walk(admin: AdminBench) -> set[tuple[str, int]]:
    """Call every operation as it should be called; what each answered."""
    document = await description(admin)
    seen = set()
    for method, path, operation in operations(document):
        body = BODIES.get(operation["operationId"])
        answer = await admin.call(method, path, body, headers=AUTHORIZED)
        check(document, operation, answer)
        seen.add((operation["operationId"], answer.status))
    return seen


async def test_every_operation_answers_as_documented() -> None:
    async with bench(token=TOKEN) as admin:
        for target in ("/items/1", "/items/1", "/other"):
            await admin.driven.get(target)
        seen = await walk(admin)
        document = await description(admin)
        assert {name for name, status in seen if status >= 400} == {
            "cacheWarmupJob",
            "cacheExplain",
        }  # each needs a name
        answer = await admin.get("/admin/cache/explain?url=http://example.test/items/1", headers=AUTHORIZED)
        check(document, document["paths"]["/admin/cache/explain"]["get"], answer)
        warmup = document["paths"]["/admin/cache/warmup"]["post"]
        for query in ("", "?wait=true"):
            answer = await admin.post(f"/admin/cache/warmup{query}", BODIES["cacheWarmup"], headers=AUTHORIZED)
            check(document, warmup, answer)
            shown = await admin.get(answer.headers["Location"], headers=AUTHORIZED)
            assert shown.status == 200
            check(document, document["paths"]["/admin/cache/warmup/{id}"]["get"], shown)
        stats = await admin.get("/admin/cache/stats", headers=AUTHORIZED)
        assert stats.document["routes"]["items"]["hits"]


async def test_every_operation_answers_as_documented_in_bad_times() -> None:
    async def refuse() -> ReloadReport:
        raise ReloadError("a plugin does not start")

    async with bench(token=TOKEN, warmup_max_running=1) as admin:
        admin.target.reasons = ("starting",)
        admin.target.reloading = refuse
        at = admin.driven.clock.wall()
        admin.target.upstream_health = TierHealth(TierState.DOWN, at, "refused", at, 0.1)
        seen = await walk(admin)
        assert {("ready", 503), ("configReload", 422), ("cacheWarmupJob", 404)} <= seen


async def test_every_documented_problem_of_a_call_can_be_had() -> None:
    wrong: dict[int, dict[str, Any]] = {
        401: {"headers": {}},
        400: {"headers": AUTHORIZED, "data": b"{"},
        408: {"headers": AUTHORIZED},
        413: {"headers": AUTHORIZED, "data": b" " * 5000},
        415: {"headers": {**AUTHORIZED, "Content-Type": "text/plain"}},
        422: {"headers": AUTHORIZED, "data": b'{"unknown": 1}'},
    }

    async def stuck() -> Any:
        yield b" "
        await asyncio.Event().wait()

    async with bench(token=TOKEN, max_body_bytes=4096, body_timeout_seconds=0.05) as admin:
        document = await description(admin)
        for method, path, operation in operations(document):
            documented = {int(status) for status in operation["responses"]}
            assert (method == "POST") == (wrong.keys() - {401, 422} <= documented)
            for status in wrong.keys() & documented if method == "POST" else {401} & documented:
                arguments = wrong[status] if status != 408 else {**wrong[status], "data": stuck()}
                answer = await admin.call(method, path, **arguments)
                assert answer.status == status, (path, status, answer.raw)
                check(document, operation, answer)
    async with bench() as admin:
        document = await description(admin)
        for method, path, operation in operations(document):
            answer = await admin.call(method, path, headers={"Host": "rebound.example"})
            assert answer.status == 421
            check(document, operation, answer)


async def test_what_the_schema_of_an_order_allows_is_what_the_port_takes() -> None:
    async with bench() as admin:
        document = await description(admin)
        content = document["paths"]["/admin/cache/invalidate"]["post"]["requestBody"]["content"]
        schema = {**content["application/json"]["schema"], "components": document["components"]}
        wrong: list[Any] = [{"all": False}, {"unknown": 1}, {"tags": []}, {"tag": ""}, {"all": True, "soft": 1}]
        right: list[Any] = [{"all": True}, {"tags": ["a"]}, {"url": "http://a/", "soft": True}]
        for order in wrong:
            assert not Draft202012Validator(schema).is_valid(order), order
            assert (await admin.post("/admin/cache/invalidate", order)).status == 422
        for order in right:
            assert Draft202012Validator(schema).is_valid(order), order
            assert (await admin.post("/admin/cache/invalidate", order)).status == 200
