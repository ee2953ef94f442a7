"""How the operations of a merged admin port ask workers, and what they answer when none can."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from proxy.admin.operations import Answer, Problem, RefusedError
from proxy.admin.peers import GoneError, Peer, Peers, SilentError, Told, ask, ask_all

RETRY_AFTER_SECONDS: Final = 1
NONE_ANSWERS: Final = {
    503: Answer("No worker can answer: they start, end or are stuck.", Problem),
}
_ENVELOPE: Final = frozenset({"type", "title", "status", "detail"})
_KEPT: Final = ("Retry-After",)


def fit(told: Told) -> Told:
    """What a worker told, if it is no problem.

    Raises:
        RefusedError: it is; the caller gets the same.
    """
    if told.status < 400:
        return told
    try:
        problem: Any = told.document
    except orjson.JSONDecodeError:
        problem = {}
    members = {name: value for name, value in problem.items() if name not in _ENVELOPE}
    headers = {name: told.headers[name] for name in _KEPT if name in told.headers}
    raise RefusedError(
        told.status, problem.get("detail", "a worker failed; its log says how"), headers=headers, **members
    )


async def ask_one(
    peers: Peers,
    method: str,
    path: str,
    document: object = None,
    *,
    query: Iterable[tuple[str, str]] = (),
    worker: str | None = None,
    seconds: float | None = None,
) -> tuple[Peer, Told]:
    """Ask the first worker that answers.

    Args:
        worker: the name of the only one that may be asked.
        seconds: how long it may take; None: a worker's usual time. What may take longer is asked elsewhere.

    Raises:
        RefusedError: none answers, or there is no worker of that name, or it refuses.
    """
    candidates = sorted(peers.all, key=lambda peer: peer.state != "ready")
    if worker is not None:
        candidates = [peer for peer in candidates if peer.name == worker]
        if not candidates:
            known = ", ".join(peer.name for peer in peers.all)
            message = f"there is no worker {worker!r}, only {known}"
            raise RefusedError(422, message, errors=[{"path": "worker", "message": message}])
    more: dict[str, Any] = {} if seconds is None else {"seconds": seconds}
    for peer in candidates:
        try:
            return peer, fit(await ask(peer, method, path, document, query=query, **more))
        except (SilentError, GoneError):
            continue
    raise none_answers(candidates)


async def ask_each(peers: Peers, path: str) -> tuple[dict[str, Any], list[str]]:
    """The documents at `path` of every worker that answers, and the names of those that are silent.

    Raises:
        RefusedError: none answers.
    """
    told, silent = await ask_all(peers.all, lambda peer: ask(peer, "GET", path))
    if not told:
        raise none_answers(peers.all)
    return {name: fit(one).document for name, one in told.items()}, silent


def none_answers(asked: Iterable[Peer]) -> RefusedError:
    """The refusal when no worker answers."""
    states: Mapping[str, str] = {peer.name: peer.state for peer in asked}
    reasons = [f"worker {name} is {'silent' if state == 'ready' else state}" for name, state in states.items()]
    return RefusedError(
        503, "no worker answers: " + ", ".join(reasons), headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        reasons=reasons,
    )  # fmt: skip
