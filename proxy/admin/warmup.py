"""Warm-ups: requests of the sidecar's own through its pipeline, so that the cache has the answers before clients ask.

A warm-up is a job: some workers share one queue of URLs and variants. Requests go where every request goes, to the
configured upstream; the URL only says which `Host` and target a client would send.
"""

import asyncio
import re
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, Literal

import structlog
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationInfo,
)

from proxy.admin.health import VERSION, moment
from proxy.admin.operations import (
    Answer,
    AnyOperation,
    Call,
    Empty,
    Input,
    Operation,
    Printable,
    Problem,
    RefusedError,
    Reply,
    Some,
)
from proxy.admin.settings import AdminSettings
from proxy.admin.target import AdminTarget
from proxy.admin.urls import Location, parse_host, parse_target, parse_url
from proxy.errors import ProxyError
from proxy.http.body import close_body
from proxy.http.message import Request, make_headers
from proxy.pipeline.exchange import NO_REPORT, CacheReport, Outcome
from proxy.tasks import Tasks

CLIENT: Final = "127.0.0.1"
RETRY_AFTER_SECONDS: Final = 5

_log = structlog.get_logger("admin")

# What says where a request comes from and how it is framed is not for a variant to say.
_OWN_FIELDS: Final = frozenset({
    "connection", "content-length", "expect", "forwarded", "host", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id",
})  # fmt: skip
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_FIELD_VALUE: Final = re.compile(r"[!-~]([\t -~]*[!-~])?")

State = Literal["running", "done", "cancelled"]


def _variant(fields: dict[str, str]) -> dict[str, str]:
    for name, value in fields.items():
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no field name")
        if name.lower() in _OWN_FIELDS:
            raise ValueError(f"{name!r} is set by the sidecar itself")
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(f"the value of {name!r} is no field value: visible ASCII, with spaces inside at most")
    return fields


def _host(text: str, info: ValidationInfo) -> str:
    return parse_host(text, info.data.get("scheme", "http"))


def _locatable(text: str, info: ValidationInfo) -> str:
    if not text.startswith("/"):
        parse_url(text)
        return text
    if info.data.get("host", "") is None:  # a host that is wrong is a mistake of its own
        raise ValueError("a path needs 'host', the Host that clients send")
    return parse_target(text)


Url = Annotated[str, StringConstraints(min_length=1, max_length=16_384), AfterValidator(_locatable)]


Variant = Annotated[dict[str, str], AfterValidator(_variant)]


class WarmupOrder(Input):
    """What is to be fetched: every URL, once for each variant."""

    scheme: Literal["http", "https"] = Field(default="http", description="The scheme that clients use, for paths.")
    host: Annotated[str, AfterValidator(_host)] | None = Field(
        default=None, description="The Host that clients send, for paths."
    )
    urls: Some[Url] = Field(description="Absolute URLs as clients see them, or paths, which need `host`.")
    variants: Some[Variant] = Field(
        default=({},), description='Header fields; `[{}, {"Accept-Encoding": "br"}]` fetches each URL twice.'
    )
    concurrency: PositiveInt | None = Field(
        default=None, description="Requests under way at a time; the settings have an upper limit."
    )

    def locations(self) -> Iterator[Location]:
        """Where each item of `urls` is."""
        for text in self.urls:
            yield Location(self.scheme, self.host or "", text) if text.startswith("/") else parse_url(text)


class WarmupQuery(Input):
    """How to answer."""

    wait: bool = Field(default=False, description="Answer when the warm-up is over, with its results.")


class JobQuery(Input):
    """What to tell of a warm-up."""

    results: bool = Field(
        default=True, description="With the results. Whoever asks often does without: 10,000 of them take 20 ms."
    )


class WarmupResult(BaseModel):
    """What became of one request."""

    url: str
    variant: NonNegativeInt = Field(description="The place in `variants` of the fields that were sent.")
    status: int | None = Field(description="Null when there was no answer.")
    cache: str = Field(description="What the cache did: `miss` fetched it, `hit` had it already.")
    reason: str | None = Field(description="Why.")
    stored: bool = Field(description="The cache has the answer now.")
    bytes: NonNegativeInt = Field(description="Of the body.")
    milliseconds: NonNegativeFloat
    error: Printable | None


class WarmupJob(BaseModel):
    """A warm-up."""

    id: str
    state: State
    total: NonNegativeInt
    done: NonNegativeInt
    failed: NonNegativeInt = Field(description="Without an answer, or with an error status.")
    concurrency: PositiveInt
    started: datetime
    finished: datetime | None
    results: list[WarmupResult] = Field(description="Of what is done, in the order in which it was done.")


@dataclass(slots=True, eq=False)
class Job:
    """A warm-up under way, or over.

    Attributes:
        queue: what is left to fetch: where, and which variant.
        workers: how many have not ended.
    """

    id: str
    variants: tuple[Mapping[str, str], ...]
    queue: deque[tuple[Location, int]]
    total: int
    concurrency: int
    started: float
    workers: int = 0
    state: State = "running"
    finished: float | None = None
    results: list[WarmupResult] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def view(self, *, results: bool = True) -> WarmupJob:
        """As it is now, with the `results` or without."""
        return WarmupJob(
            id=self.id,
            state=self.state,
            total=self.total,
            done=len(self.results),
            failed=sum(result.status is None or result.status >= 400 or bool(result.error) for result in self.results),
            concurrency=self.concurrency,
            started=moment(self.started),
            finished=moment(self.finished) if self.finished is not None else None,
            results=list(self.results) if results else [],
        )


class Warmups:
    """Runs warm-ups, and remembers the last ones.

    Args:
        tasks: where they run.
    """

    def __init__(self, target: AdminTarget, settings: AdminSettings, tasks: Tasks) -> None:
        self._target = target
        self._settings = settings
        self._tasks = tasks
        self._jobs: dict[str, Job] = {}

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "POST", "/admin/cache/warmup", "cacheWarmup", "Fetch URLs into the cache, in the background.",
                self.start,
                {
                    200: Answer("With `wait`: it is over.", WarmupJob),
                    202: Answer("It is under way; `Location` tells where to look.", WarmupJob),
                    429: Answer("Too many warm-ups are under way.", Problem),
                }, WarmupOrder, WarmupQuery,
            ),
            Operation(
                "GET", "/admin/cache/warmup/{id}", "cacheWarmupJob", "Progress of a warm-up, and its results so far.",
                self.show,
                {200: Answer("How far it is.", WarmupJob), 404: Answer("It is not known, or forgotten.", Problem)},
                Empty, JobQuery, {"id": "As the answer to the POST told."},
            ),
        )  # fmt: skip

    async def show(self, call: Call[Empty, JobQuery]) -> Reply:
        """`GET /admin/cache/warmup/{id}`."""
        job = self._jobs.get(call.names["id"])
        if job is None:
            raise RefusedError(404, f"there is no warm-up {call.names['id']!r}; only the last ones are remembered")
        return Reply(job.view(results=call.query.results))

    async def start(self, call: Call[WarmupOrder, WarmupQuery]) -> Reply:
        """`POST /admin/cache/warmup`."""
        job = self._begin(call.body)
        if call.query.wait:
            await job.over.wait()
        status = 200 if call.query.wait else 202
        return Reply(job.view(), status, {"Location": f"/admin/cache/warmup/{job.id}"})

    def _begin(self, order: WarmupOrder) -> Job:
        settings = self._settings
        total = len(order.urls) * len(order.variants)
        if total > settings.warmup_max_requests:
            message = f"{total} requests (URLs times variants) are more than {settings.warmup_max_requests}"
            raise RefusedError(422, message, errors=[{"path": "urls", "message": message}])
        running = sum(job.state == "running" for job in self._jobs.values())
        if running >= settings.warmup_max_running:
            detail = f"{running} warm-ups are under way; wait until one is over"
            raise RefusedError(429, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        queue = deque((location, place) for location in order.locations() for place in range(len(order.variants)))
        concurrency = min(order.concurrency or settings.warmup_max_concurrency, settings.warmup_max_concurrency, total)
        job = Job(secrets.token_hex(8), order.variants, queue, total, concurrency, self._target.clock.wall())
        self._jobs[job.id] = job
        self._forget()
        for number in range(concurrency):
            job.workers += 1
            _ = self._tasks.start(f"warm-up {job.id}/{number}", self._work(job))
        _log.info("warm-up started", id=job.id, requests=total, concurrency=concurrency)
        return job

    def _forget(self) -> None:
        over = [job for job in self._jobs.values() if job.state != "running"]
        for job in over[: max(0, len(self._jobs) - self._settings.warmup_max_kept)]:
            del self._jobs[job.id]

    async def _work(self, job: Job) -> None:
        try:
            while job.queue:
                location, variant = job.queue.popleft()
                job.results.append(await self._fetch(job, location, variant))
        finally:
            job.workers -= 1
            if not job.workers:
                job.state = "done" if len(job.results) == job.total else "cancelled"
                job.finished = self._target.clock.wall()
                job.over.set()
                _log.info("warm-up over", id=job.id, state=job.state, done=len(job.results))

    async def _fetch(self, job: Job, location: Location, variant: int) -> WarmupResult:
        """Fetch one, within its time. Whatever goes wrong is its result."""
        clock, limit = self._target.clock, self._settings.warmup_timeout_seconds
        fetch = Fetch(self._target, f"warmup-{job.id}")
        began = clock.monotonic()
        error: str | None
        try:
            async with asyncio.timeout(limit):
                error = await fetch.run(location, job.variants[variant])
        except TimeoutError:
            error = f"there was no complete answer within {limit:g} s"
        except Exception as failure:  # noqa: BLE001 — logged, and the others are fetched all the same
            _log.error("a request of a warm-up failed", url=location.url, exc_info=failure)
            error = f"internal error: {type(failure).__name__}"
        report = fetch.report
        return WarmupResult(
            url=location.url,
            variant=variant,
            status=fetch.status,
            cache=report.result.value,
            reason=report.reason.token if report.reason is not None else None,
            stored=error is None and (report.stored or report.result.from_cache),
            bytes=fetch.bytes,
            milliseconds=round((clock.monotonic() - began) * 1000, 3),
            error=error,
        )


class Fetch:
    """One request, sent as a client would send it, its body read and dropped.

    Attributes:
        status: of the answer; None: there is none yet.
        bytes: of its body, so far.
        report: what the cache did.
    """

    __slots__ = ("_id", "_target", "bytes", "report", "status")

    def __init__(self, target: AdminTarget, request_id: str) -> None:
        self._target = target
        self._id = request_id
        self.status: int | None = None
        self.bytes = 0
        self.report: CacheReport = NO_REPORT

    async def run(self, location: Location, variant: Mapping[str, str]) -> str | None:
        """Send the request and read the answer. Returns what went wrong, if anything."""
        clock = self._target.clock
        began = clock.monotonic()
        exchange, response = await self._target.handle(self._request(location, variant), request_id=self._id)
        first_byte = clock.monotonic() - began
        self.status, self.report = response.status, exchange.cache
        error, complete = exchange.error, False
        try:
            if isinstance(response.body, bytes):
                self.bytes = len(response.body)
            else:
                async for chunk in response.body:
                    self.bytes += len(chunk)
            complete = True
        except ProxyError as broken:
            error = broken
        finally:
            try:
                await close_body(response.body)
            finally:
                elapsed = clock.monotonic() - began
                self.report = exchange.cache
                outcome = Outcome(response.status, self.bytes, elapsed, first_byte, error, aborted=not complete)
                self._target.complete(exchange, outcome)
        return error.detail if error is not None else None

    def _request(self, location: Location, variant: Mapping[str, str]) -> Request:
        fields = {
            "Host": location.host,
            "User-Agent": f"sidecache-warmup/{VERSION}",
            "Accept": "*/*",
            # What a client on this machine would bring: an upstream may build links from these.
            "X-Forwarded-For": CLIENT,
            "X-Forwarded-Proto": location.scheme,
            "X-Forwarded-Host": location.host,
            "Forwarded": f'for={CLIENT};host="{location.host}";proto={location.scheme}',
            "X-Request-ID": self._id,
        }
        replaced = {name.lower() for name in variant}
        pairs = [pair for pair in fields.items() if pair[0].lower() not in replaced]
        return Request(
            method="GET",
            target=location.target,
            scheme=location.scheme,
            host=location.host,
            headers=make_headers([*pairs, *variant.items()]),
            client=CLIENT,
        )
