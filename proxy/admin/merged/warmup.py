"""Warm-ups by workers.

Where there is a second tier one worker warms it for all, and its own memory. Without one each has to fetch for itself.
A warm-up that several do is told of as one; its id holds theirs: `1.4f2a,2.90bc`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from proxy.admin.merged.asking import NONE_ANSWERS, ask_one, fit, none_answers
from proxy.admin.operations import Answer, AnyOperation, Call, Empty, Operation, Problem, RefusedError, Reply
from proxy.admin.peers import ASK_SECONDS, Peer, Peers, Told, ask, ask_all
from proxy.admin.warmup import JobQuery, WarmupJob, WarmupOrder, WarmupQuery

PATH = "/admin/cache/warmup"


class WorkersWarmupQuery(WarmupQuery):
    """How to answer, and who is to fetch."""

    workers: Literal["one", "all"] | None = Field(
        default=None, description="By default `one` if there is a second tier, which all share, else `all`."
    )


class MergedWarmups:
    """The operations under `/admin/cache/warmup`."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "POST", PATH, "cacheWarmup", "Fetch URLs into the cache, in the background.", self.start,
                {
                    200: Answer("With `wait`: it is over.", WarmupJob),
                    202: Answer("It is under way; `Location` tells where to look.", WarmupJob),
                    429: Answer("Too many warm-ups are under way.", Problem),
                    **NONE_ANSWERS,
                }, WarmupOrder, WorkersWarmupQuery,
            ),
            Operation(
                "GET", PATH + "/{id}", "cacheWarmupJob", "Progress of a warm-up, and its results so far.", self.show,
                {
                    200: Answer("How far it is.", WarmupJob),
                    404: Answer("It is not known, or forgotten, or its worker has ended.", Problem),
                    **NONE_ANSWERS,
                }, Empty, JobQuery, {"id": "As the answer to the POST told."},
            ),
        )  # fmt: skip

    async def start(self, call: Call[WarmupOrder, WorkersWarmupQuery]) -> Reply:
        """`POST /admin/cache/warmup`."""
        who = call.query.workers or ("one" if self._peers.shares_cache else "all")
        order = call.body.model_dump(mode="json", exclude_none=True)
        query = [("wait", "true")] if call.query.wait else []
        # Who waits for the end of it waits as long as that takes.
        seconds = None if call.query.wait else ASK_SECONDS

        async def begin(peer: Peer) -> Told:
            return await ask(peer, "POST", PATH, order, query=query, seconds=seconds)

        ready = [peer for peer in self._peers.all if peer.state == "ready"]
        told, _ = await ask_all(ready[:1] if who == "one" else ready, begin)
        if not told:
            raise none_answers(self._peers.all)
        job = _merged({name: fit(one).document for name, one in told.items()})
        return Reply(job, 200 if call.query.wait else 202, {"Location": f"{PATH}/{job.id}"})

    async def show(self, call: Call[Empty, JobQuery]) -> Reply:
        """`GET /admin/cache/warmup/{id}`."""
        jobs: dict[str, Any] = {}
        known = {peer.name for peer in self._peers.all}
        for part in call.names["id"].split(","):
            worker, _, job = part.partition(".")
            if worker not in known or not job.isalnum() or worker in jobs:
                raise RefusedError(404, f"there is no warm-up {call.names['id']!r}; only the last ones are remembered")
            query = [("results", "true" if call.query.results else "false")]
            _peer, told = await ask_one(self._peers, "GET", f"{PATH}/{job}", query=query, worker=worker)
            jobs[worker] = told.document
        return Reply(_merged(jobs))


def _merged(jobs: Mapping[str, dict[str, Any]]) -> WarmupJob:
    each = [WarmupJob.model_validate(job) for job in jobs.values()]
    states = {job.state for job in each}
    finished = [job.finished for job in each if job.finished is not None]
    return WarmupJob(
        id=",".join(f"{name}.{job.id}" for name, job in zip(jobs, each, strict=True)),
        state="running" if "running" in states else "cancelled" if "cancelled" in states else "done",
        total=sum(job.total for job in each),
        done=sum(job.done for job in each),
        failed=sum(job.failed for job in each),
        concurrency=sum(job.concurrency for job in each),
        started=min(job.started for job in each),
        finished=max(finished) if len(finished) == len(each) else None,
        results=[result for job in each for result in job.results],
    )
