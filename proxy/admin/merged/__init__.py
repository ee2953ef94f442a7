"""The admin port of a supervisor: the table of one sidecar's, answered from all its workers.

What a caller asks of one sidecar it may ask of several workers in the same words, and gets an answer of the same shape;
what only makes sense for one worker says which. Three rules hold throughout. Counts are of the present processes: a
worker that was replaced begins at zero, as after a restart. A worker that has ended is no part of an answer. One that
is alive and does not answer is named: what changes something fails for it, what only tells leaves it out.
"""

from aiohttp import web

from proxy.admin.app import application_of
from proxy.admin.health import VERSION
from proxy.admin.merged.cache import MergedCache
from proxy.admin.merged.config import MergedConfig
from proxy.admin.merged.health import MergedHealth
from proxy.admin.merged.reports import MergedReports
from proxy.admin.merged.warmup import MergedWarmups
from proxy.admin.openapi import Description
from proxy.admin.operations import AnyOperation
from proxy.admin.peers import Peers
from proxy.admin.settings import AdminSettings


def merged_application(peers: Peers, settings: AdminSettings) -> web.Application:
    """The admin port of a supervisor as an application."""
    subjects = (
        MergedHealth(peers),
        MergedReports(peers),
        MergedCache(peers),
        MergedWarmups(peers),
        MergedConfig(peers),
    )
    operations: list[AnyOperation] = [operation for subject in subjects for operation in subject.operations()]
    operations += Description(operations, settings, VERSION).operations()
    return application_of(operations, settings, lambda: None)
