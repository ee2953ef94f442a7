"""Why a request is, or is not, answered from the cache."""

from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from proxy.admin.operations import Answer, AnyOperation, Call, Empty, Input, Operation, Problem, RefusedError, Reply
from proxy.admin.pipeline import CACHE
from proxy.admin.target import AdminTarget
from proxy.admin.urls import parse_url
from proxy.http.message import Request, make_headers
from proxy.pipeline.exchange import Exchange
from proxy.pipeline.explanation import Explains, Explanation
from proxy.pipeline.pipeline import Chain
from proxy.pipeline.plugin import Replay

MAX_FIELDS: Final = 64


def _field(text: object) -> object:
    if not isinstance(text, str):
        return text
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or any(character in text for character in "\r\n\0"):
        raise PydanticCustomError("field", "expected a header field such as 'Accept-Language: de'")
    return f"{name.strip()}:{value.strip()}"


def _url(text: str) -> str:
    try:
        return parse_url(text).url
    except ValueError as error:
        raise PydanticCustomError("url", "{reason}", {"reason": str(error)}) from error


def _many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Question(Input):
    """The request to explain."""

    url: Annotated[str, AfterValidator(_url), Field(description="Absolute URL, as the client asks for it.")]
    method: Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$", description="GET by default.")] = "GET"
    header: Annotated[
        tuple[Annotated[str, BeforeValidator(_field)], ...],
        BeforeValidator(_many),
        Field(max_length=MAX_FIELDS, description="A field of the request, `Name: value`; may be repeated."),
    ] = ()


class Explanations:
    """The operation `GET /admin/cache/explain`."""

    def __init__(self, target: AdminTarget) -> None:
        self._target = target

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/admin/cache/explain", "cacheExplain",
                "What is stored for a request, and what the cache would do with it. Changes nothing.",
                self.explain,
                {
                    200: Answer("The explanation.", Explanation),
                    404: Answer("The request's route has no cache.", Problem),
                },
                Empty, Question,
            ),
        )  # fmt: skip

    async def explain(self, call: Call[Empty, Question]) -> Reply:
        """See `operations`."""
        question, location = call.query, parse_url(call.query.url)
        request = Request(
            method=question.method,
            target=location.target,
            scheme=location.scheme,
            host=location.host,
            headers=make_headers((name, value) for name, _, value in (each.partition(":") for each in question.header)),
        )
        pipeline = self._target.pipeline
        exchange = Exchange(
            request=request,
            route=pipeline.table.find(request),
            id="explain",
            started=self._target.clock.monotonic(),
        )
        return Reply(await self._ask(exchange, pipeline.chains[exchange.route.name]))

    @staticmethod
    async def _ask(exchange: Exchange, chain: Chain) -> Explanation:
        """Take the request through the plugins left of the cache, as far as that changes nothing but the request."""
        for step in chain.steps:
            if isinstance(step.plugin, Explains):
                return await step.plugin.explain(exchange)
            if step.plugin.replay is Replay.PURE and step.on_request is not None:
                exchange.tail = step.tail
                await step.on_request(exchange)
        raise RefusedError(404, f"the route {exchange.route.name!r} has no {CACHE} plugin")
