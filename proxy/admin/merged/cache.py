"""What the cache holds and did in all workers, why a request is or is not answered from it, and purges."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import Field

from proxy.admin.cache import CacheStats, PurgeOrder, PurgesDone
from proxy.admin.explain import Question
from proxy.admin.merged.asking import NONE_ANSWERS, ask_each, ask_one, fit, none_answers
from proxy.admin.operations import Answer, AnyOperation, Call, Empty, Operation, Problem, RefusedError, Reply
from proxy.admin.peers import ASK_SECONDS, GoneError, Peer, Peers, SilentError, ask, ask_all
from proxy.admin.worker import Touched
from proxy.pipeline.explanation import Explanation
from proxy.pipeline.merging import add
from proxy.storage.breaker import TierState

SECONDS_PER_PURGE: Final = 0.02
"""How much longer a worker may take for each record: a log on a disk waits for the disk."""

# What all workers see of the one thing that they share, and each counts whole.
_SHARED_L2: Final = frozenset({"records", "bytes", "max_bytes"})
_SHARED_LOG: Final = frozenset({"purges", "last_seen", "floor", "applied"})
_NEWEST: Final = ("last_error", "last_error_at")


class QuestionToWorker(Question):
    """The request to explain, and where."""

    worker: str | None = Field(default=None, description="Which worker to ask; by default any that is ready.")


class WorkerExplanation(Explanation):
    """What is stored for a request, and what a request now would do, in one worker."""

    worker: str = Field(description="Whose memory was looked at. The second tier is the same for all.")


class MergedCache:
    """Stats of the cache, explanations, and purges."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def operations(self) -> Iterable[AnyOperation]:
        """The rows of the table."""
        return (
            Operation(
                "GET", "/admin/cache/stats", "cacheStats",
                "What the cache holds and did in all workers, per tier and per route.", self.stats,
                {200: Answer("The figures.", CacheStats), **NONE_ANSWERS}, Empty, Empty,
            ),
            Operation(
                "POST", "/admin/cache/invalidate", "cacheInvalidate",
                "Purge by key, URL, prefix, tag, or everything, in all workers.", self.invalidate,
                {
                    200: Answer("It holds in every worker; see `status`.", PurgesDone),
                    504: Answer("Workers are alive and have not acknowledged it; `workers` names them.", Problem),
                    **NONE_ANSWERS,
                }, PurgeOrder, Empty,
            ),
            Operation(
                "GET", "/admin/cache/explain", "cacheExplain",
                "What is stored for a request, and what the cache would do with it. Changes nothing.", self.explain,
                {
                    200: Answer("The explanation.", WorkerExplanation),
                    404: Answer("The request's route has no cache.", Problem),
                    **NONE_ANSWERS,
                }, Empty, QuestionToWorker,
            ),
        )  # fmt: skip

    async def stats(self, _: Call[Empty, Empty]) -> Reply:
        """`GET /admin/cache/stats`."""
        documents, _silent = await ask_each(self._peers, "/admin/cache/stats")
        return Reply(CacheStats.model_validate(added_stats(documents)))

    async def explain(self, call: Call[Empty, QuestionToWorker]) -> Reply:
        """`GET /admin/cache/explain`."""
        question = call.query
        query = [("url", question.url), ("method", question.method), *(("header", one) for one in question.header)]
        peer, told = await ask_one(self._peers, "GET", "/admin/cache/explain", query=query, worker=question.worker)
        return Reply(WorkerExplanation.model_validate({**told.document, "worker": peer.name}))

    async def invalidate(self, call: Call[PurgeOrder, Empty]) -> Reply:
        """`POST /admin/cache/invalidate`.

        One worker appends the purge to its log, then all others apply it. A worker that opens meanwhile is asked too:
        it may have read from the second tier before the purge stood there. One that opens later cannot have anything
        from before, since it opens before it serves.
        """
        order = call.body.model_dump(mode="json", exclude_none=True)
        seconds = ASK_SECONDS + SECONDS_PER_PURGE * sum(1 for _ in call.body.purges())
        silent: list[str] = []
        done: PurgesDone | None = None
        holding = set[asyncio.Event]()  # processes, by what marks their end
        for peer in sorted(self._peers.all, key=lambda peer: peer.state != "ready"):
            process = peer.gone
            try:
                done = PurgesDone.model_validate_json(
                    fit(await ask(peer, "POST", "/admin/cache/invalidate", order, seconds=seconds)).data
                )
            except SilentError:
                silent.append(peer.name)
            except GoneError:
                continue
            else:
                holding.add(process)
                break
        if done is None:
            if silent:
                raise _unacknowledged(silent, somewhere=False)
            raise none_answers(self._peers.all)
        known = {"purges": [_known(purge) for purge in done.model_dump(mode="python")["purges"]]}
        while others := [peer for peer in self._open() if peer.gone not in holding and peer.name not in silent]:
            holding.update(peer.gone for peer in others)
            told, mute = await ask_all(others, lambda peer: ask(peer, "POST", "/worker/adopt", known, seconds=seconds))
            silent += mute
            for name, one in told.items():
                if one.status == 200:
                    _count(done, Touched.model_validate_json(one.data))
                else:
                    silent.append(name)
        if silent:
            raise _unacknowledged(silent, somewhere=True)
        return Reply(done)

    def _open(self) -> list[Peer]:
        return [peer for peer in self._peers.all if peer.reachable]


def _known(purge: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": purge["id"],
        "scope": purge["scope"],
        "value": purge["value"],
        "soft": purge["soft"],
        "at": purge["at"].timestamp(),
        "shared": purge["shared"],
    }


def _count(done: PurgesDone, touched: Touched) -> None:
    for purge, dropped, softened in zip(done.purges, touched.dropped, touched.softened, strict=True):
        purge.dropped += dropped
        purge.softened += softened


def _unacknowledged(silent: list[str], *, somewhere: bool) -> RefusedError:
    named = ", ".join(silent)
    held = "it holds in the others" if somewhere else "no other worker could take it"
    return RefusedError(
        504, f"not acknowledged in time by worker {named}; {held}: repeat the purge", workers=silent,
    )  # fmt: skip


def added_stats(parts: Mapping[str, Any]) -> dict[str, Any]:
    """One document of the stats of all workers: counts add up; what they share is counted once."""
    tiers = {name: part["tiers"] for name, part in parts.items()}
    l1 = add({name: tier["l1"] for name, tier in tiers.items()})
    looked_up = l1["hits"] + l1["misses"]
    l1["hit_ratio"] = l1["hits"] / looked_up if looked_up else None
    l2s = {name: tier["l2"] for name, tier in tiers.items() if tier["l2"] is not None}
    logs = {name: part["invalidations"] for name, part in parts.items()}
    shared_log = _SHARED_LOG if l2s else frozenset({"last_seen", "floor"})
    routes = add({name: part["routes"] for name, part in parts.items()})
    for route in routes.values():
        route["hit_ratio"] = {
            span: counts["hits"] / counts["requests"] if counts["requests"] else None
            for span, counts in route["recent"].items()
        }
        route["reasons"] = dict(sorted(route["reasons"].items(), key=lambda reason: -reason[1]))
    return {
        "tiers": {"l1": l1, "l2": _added_l2(l2s) if l2s else None},
        "invalidations": {**add(logs), **_greatest(logs, shared_log)},
        "routes": routes,
    }


def _added_l2(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """How it is, as the worker sees it that sees it worst; the error that came last; what all did to it."""
    worst = max(parts.values(), key=lambda part: (part["state"] == TierState.DOWN.value, part["since"]))
    newest = max(parts.values(), key=lambda part: part["last_error_at"] or 0)
    latencies = [part["last_latency_seconds"] for part in parts.values() if part["last_latency_seconds"] is not None]
    return {
        **add(parts),
        **_greatest(parts, _SHARED_L2),
        "state": worst["state"],
        "since": worst["since"],
        "last_latency_seconds": max(latencies, default=None),
        **{name: newest[name] for name in _NEWEST},
    }


def _greatest(parts: Mapping[str, dict[str, Any]], names: frozenset[str]) -> dict[str, Any]:
    return {
        name: max(part[name] for part in parts.values())
        for name in names
        if all(name in part for part in parts.values())
    }
