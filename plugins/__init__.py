"""The built-in plugins, in their usual order from the client to the upstream. `[pipeline] order` may name others."""

from typing import Any, Final

from plugins.access_log import AccessLog
from plugins.cache import Cache
from plugins.cache_control import CacheControl
from plugins.circuit_breaker import CircuitBreaker
from plugins.compression import Compression
from plugins.latency import Latency
from plugins.rate_limit import RateLimit
from proxy.pipeline.plugin import Plugin

REGISTRY: Final[dict[str, type[Plugin[Any]]]] = {
    plugin.name: plugin
    for plugin in (
        Latency,  # sees all that a client waits for
        AccessLog,
        RateLimit,  # before any work is done for the request
        Compression,  # for each client; what it makes of a stored response is kept beside it
        Cache,
        CacheControl,  # its effect is stored
        CircuitBreaker,  # its refusals are errors that the cache may answer for
    )
}
