"""The OpenAPI 3.1 document, made from the table that serves: it cannot say what the code does not do."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, JsonValue, RootModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from proxy.admin.operations import JSON, Answer, AnyOperation, Call, Empty, Operation, Problem, Reply
from proxy.admin.settings import AdminSettings

REFERENCE: Final = "#/components/schemas/{model}"
TOKEN: Final = "bearerToken"  # noqa: S105 — the name of a scheme

_Model: TypeAlias = tuple[type[BaseModel], JsonSchemaMode]
_Document: TypeAlias = dict[str, Any]
_References: TypeAlias = Mapping[_Model, Mapping[str, Any]]


class OpenApiDocument(RootModel[dict[str, JsonValue]]):
    """An OpenAPI 3.1 document."""


class Description:
    """`GET /openapi.json`: describes every operation, itself among them.

    Args:
        operations: the others.
    """

    def __init__(self, operations: Sequence[AnyOperation], settings: AdminSettings, version: str) -> None:
        self._document = OpenApiDocument(describe([*operations, *self.operations()], settings, version))

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/openapi.json", "openapi", "This description.", self.show,
                {200: Answer("OpenAPI 3.1.", OpenApiDocument)}, Empty, Empty,
            ),
        )  # fmt: skip

    async def show(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /openapi.json`."""
        return Reply(self._document)


def describe(operations: Sequence[AnyOperation], settings: AdminSettings, version: str) -> _Document:
    """The document.

    Args:
        settings: which problems a call can end with depends on them.
        version: of the program.
    """
    models = dict.fromkeys(_models(operations))
    made, definitions = models_json_schema(list(models), ref_template=REFERENCE)
    references: _References = {model: made[model] for model in models}
    schemas = definitions.get("$defs", {})
    paths: dict[str, _Document] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, settings, references)
    components: _Document = {"schemas": schemas}
    if settings.token is not None:
        components["securitySchemes"] = {TOKEN: {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sidecache admin port",
            "version": version,
            "summary": "Health, metrics, cache and configuration of a sidecar.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }


def _models(operations: Iterable[AnyOperation]) -> Iterator[_Model]:
    yield Problem, "serialization"
    for operation in operations:
        if operation.takes_body:
            yield operation.body, "validation"
        for answer in operation.answers.values():
            if not isinstance(answer.content, tuple):
                yield answer.content, "serialization"


def _operation(operation: AnyOperation, settings: AdminSettings, references: _References) -> _Document:
    responses: dict[str, _Document] = {}
    for status, description in operation.problems(settings):
        responses[str(status)] = _response(Answer(description, Problem), references)
    for status, answer in operation.answers.items():
        common = responses.get(str(status))
        responses[str(status)] = _response(answer, references)
        if common is not None:
            responses[str(status)]["description"] += f" Or: {common['description']}"
    described: _Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.path.strip("/").partition("/")[0].partition(".")[0]],
        "security": [] if operation.open(settings) else [{TOKEN: []}],
        "responses": dict(sorted(responses.items())),
    }
    if parameters := [*_path_parameters(operation), *_query_parameters(operation)]:
        described["parameters"] = parameters
    if operation.takes_body:
        described["requestBody"] = {
            "required": operation.body is not Empty,
            "content": {JSON: {"schema": references[operation.body, "validation"]}},
        }
    return described


def _response(answer: Answer, references: _References) -> _Document:
    schema: Mapping[str, Any] = {"type": "string"}
    if not isinstance(answer.content, tuple):
        schema = references[answer.content, "serialization"]
    return {
        "description": answer.description,
        "content": {media_type: {"schema": schema} for media_type in answer.media_types},
    }


def _path_parameters(operation: AnyOperation) -> Iterator[_Document]:
    for name in re.findall(r"\{(\w+)\}", operation.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "description": operation.parameters[name],
            "schema": {"type": "string"},
        }


def _query_parameters(operation: AnyOperation) -> Iterator[_Document]:
    schema = operation.query.model_json_schema()
    required = schema.get("required", ())
    for name, described in schema.get("properties", {}).items():
        parameter: _Document = {"name": name, "in": "query", "required": name in required}
        if "description" in described:
            parameter["description"] = described.pop("description")
        yield {**parameter, "schema": described}
