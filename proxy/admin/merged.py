"""The admin port of a supervisor: the table of one sidecar's, answered from all workers."""

from aiohttp import web

from proxy.admin.app import application_of
from proxy.admin.operations import Answer, Anything, Call, Empty, Operation, Problem, RefusedError, Reply
from proxy.admin.health import Liveness, Readiness
from proxy.admin.peers import Peers
from proxy.admin.settings import AdminSettings


def merged_application(peers: Peers, settings: AdminSettings) -> web.Application:
    async def health(_: Call[Empty, Anything]) -> Reply:
        return Reply(Liveness())

    return application_of(
        [
            Operation(
                "GET",
                "/health",
                "health",
                "x",
                health,
                {200: Answer("It does.", Liveness)},
                Empty,
                Anything,
                probe=True,
            )
        ],
        settings,
        lambda: None,
    )
