"""An operation of the admin port: one row of the table that both serves it and describes it in OpenAPI.

Rule: how a call's body and query are read and checked, and how an answer is written, is decided here and nowhere else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Final, Generic, TypeAlias, TypeVar

import orjson
from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from proxy.admin.settings import AdminSettings
from proxy.http.problem import MEDIA_TYPE as PROBLEM
from proxy.http.problem import problem

JSON: Final = "application/json"


def _printable(text: object) -> object:
    # Text from the wire may hold lone surrogates, which JSON has no room for.
    return text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else text


Printable: TypeAlias = Annotated[str, BeforeValidator(_printable)]
"""Text that may quote what came from the wire."""


class Mistake(BaseModel):
    """One thing that is wrong with what was sent, or with the configuration."""

    path: str = Field(description="Where it is, for example `tags[2]` or `routes[0].match.path`.")
    message: str = Field(description="What is wrong and what was expected.")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str = Field(default="", description="What happened this time.")
    errors: list[Mistake] = Field(default=[], description="Every mistake in the request or in the configuration.")
    reasons: list[str] = Field(default=[], description="Why the sidecar is not ready.")


class RefusedError(Exception):
    """A call is answered with a problem document.

    Args:
        headers: fields added to the answer.
        members: extension members of the document.
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: object
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.members = members


T = TypeVar("T")


class Input(BaseModel):
    """Base of bodies and queries: unknown members are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _some(items: tuple[T, ...]) -> tuple[T, ...]:
    # pydantic's own `min_length` also counts items that are wrong as missing: two mistakes told for one.
    if not items:
        raise ValueError("expected at least one item")
    return items


Some: TypeAlias = Annotated[tuple[T, ...], AfterValidator(_some), Field(json_schema_extra={"minItems": 1})]
"""A list that is not empty."""


class Empty(Input):
    """No members: an empty body, or `{}`; no query."""


class Anything(BaseModel):
    """A query that is not looked at: probes and scrapers add parameters of their own."""

    model_config = ConfigDict(extra="ignore")


B = TypeVar("B", bound=BaseModel)
Q = TypeVar("Q", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[B, Q]):
    """A call that has been checked.

    Attributes:
        names: what stands for the placeholders of the path.
        accept: the `Accept` field.
    """

    body: B
    query: Q
    names: Mapping[str, str]
    accept: str


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is no JSON document of a model."""

    data: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a call; its status and the type of its content stand in the operation's `answers`."""

    content: BaseModel | Raw
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation may answer with one status.

    Attributes:
        content: the model of the document, or the media types of a `Raw`.
    """

    description: str
    content: type[BaseModel] | tuple[str, ...]

    @property
    def media_types(self) -> tuple[str, ...]:
        """Without parameters."""
        if isinstance(self.content, tuple):
            return self.content
        return (PROBLEM if self.content is Problem else JSON,)


@dataclass(frozen=True, slots=True)
class Operation(Generic[B, Q]):
    """One method on one path.

    Attributes:
        path: `{name}` stands for one segment.
        name: unique; the OpenAPI operation id.
        body: what is sent; only a POST has one.
        parameters: descriptions of the placeholders of the path.
        probe: for `/health` and `/ready`: open without a token if the settings say so.
    """

    reads_body: ClassVar[frozenset[str]] = frozenset({"POST"})

    method: str
    path: str
    name: str
    summary: str
    handle: Callable[[Call[B, Q]], Awaitable[Reply]]
    answers: Mapping[int, Answer]
    body: type[B]
    query: type[Q]
    parameters: Mapping[str, str] = field(default_factory=dict)
    probe: bool = False

    @property
    def takes_body(self) -> bool:
        """Whether the method has a body."""
        return self.method in self.reads_body

    def open(self, settings: AdminSettings) -> bool:
        """Whether it answers without a token."""
        return settings.token is None or (self.probe and settings.open_health)

    def problems(self, settings: AdminSettings) -> Iterator[tuple[int, str]]:
        """What any call can end with, beside the operation's own answers."""
        if not self.open(settings):
            yield 401, "The bearer token is missing or wrong."
        if settings.token is None and not settings.listen.path:
            yield 421, "The Host field names no loopback address: the call may come from a web page."
        if self.takes_body:
            yield 400, "The body is no JSON, or incomplete."
            yield 408, "The body did not arrive in time."
            yield 413, "The body is too long."
            yield 415, "The Content-Type is not application/json."
        if self.takes_body or issubclass(self.query, Input):
            yield 422, "A member or parameter is missing, unknown or wrong."
        yield 500, "The sidecar failed; its log says how."


AnyOperation: TypeAlias = Operation[Any, Any]


class Endpoint:
    """Serves one operation."""

    __slots__ = ("_settings", "operation")

    def __init__(self, operation: AnyOperation, settings: AdminSettings) -> None:
        self.operation = operation
        self._settings = settings

    async def serve(self, request: web.Request) -> web.Response:
        """Check the call, make it, and write its answer.

        Raises:
            RefusedError: the call is not as it should be, or the operation refused it.
        """
        operation = self.operation
        body = await self._body(request) if operation.takes_body else operation.body()
        names = {name: request.match_info[name] for name in operation.parameters}
        call = Call(body, self._query(request), names, ", ".join(request.headers.getall("Accept", ())))
        reply = await operation.handle(call)
        answer = operation.answers.get(reply.status)
        assert answer is not None, f"{operation.name} documents no status {reply.status}"
        return write(reply, answer)

    async def _body(self, request: web.Request) -> BaseModel:
        # Also on a call without a body: a web page cannot send this type to another origin without being asked first.
        if request.content_type != JSON or "Content-Type" not in request.headers:
            raise RefusedError(415, f"send the body as Content-Type: {JSON}", headers={"Accept": JSON})
        try:
            async with asyncio.timeout(self._settings.body_timeout_seconds):
                raw = await request.read()
        except TimeoutError:
            raise RefusedError(408, "the body did not arrive in time") from None
        except web.HTTPException:
            raise
        except Exception as error:  # the caller left: aiohttp sets whatever it got, its own errors or OSError
            raise RefusedError(400, "the body is malformed or incomplete") from error
        model: type[BaseModel] = self.operation.body
        if not raw and model is Empty:
            return Empty()
        try:
            return model.model_validate_json(raw, strict=True)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            if details[0]["type"] == "json_invalid":
                raise RefusedError(400, details[0]["msg"]) from error
            raise unfit("the body", details) from error

    def _query(self, request: web.Request) -> BaseModel:
        model: type[BaseModel] = self.operation.query
        given: dict[str, object] = {}
        for name in request.query:
            values = request.query.getall(name)
            given[name] = values[0] if len(values) == 1 else values
        try:
            return model.model_validate(given)
        except ValidationError as error:
            raise unfit("the query", error.errors(include_url=False, include_input=False)) from error


def unfit(what: str, details: list[ErrorDetails]) -> RefusedError:
    """The refusal of a body or query that does not fit its model, with every mistake."""
    mistakes = [{"path": dotted(part["loc"]), "message": _message(part)} for part in details]
    return RefusedError(422, f"{what} is not as it should be", errors=mistakes)


def _message(details: ErrorDetails) -> str:
    if details["type"] == "extra_forbidden":
        return "is unknown here"
    return details["msg"].removeprefix("Value error, ")


def dotted(location: tuple[int | str, ...]) -> str:
    """A place in a document as text: `urls[2]`; empty for the whole."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def write(reply: Reply, answer: Answer) -> web.Response:
    """`reply` as a response; what `answer` does not describe is a mistake of ours."""
    content = reply.content
    if isinstance(content, Raw):
        media_type = content.content_type.partition(";")[0].strip()
        assert media_type in answer.media_types, media_type
        return web.Response(
            status=reply.status, body=content.data, headers={"Content-Type": content.content_type, **reply.headers}
        )
    assert type(content) is answer.content, type(content)
    document = content.model_dump(mode="json", by_alias=True, fallback=str)  # a plugin may count in any type
    data = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
    return web.Response(status=reply.status, body=data, headers={"Content-Type": JSON, **reply.headers})


def refusal(error: RefusedError) -> web.Response:
    """A problem document as a response."""
    response = problem(error.status, detail=error.detail, headers=error.headers, members=error.members)
    assert isinstance(response.body, bytes)
    fields = response.headers.copy()
    fields.popall("Content-Length")  # aiohttp counts itself
    return web.Response(status=error.status, reason=HTTPStatus(error.status).phrase, headers=fields, body=response.body)
