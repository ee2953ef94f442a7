"""Event loops that tests run on."""

import asyncio
from collections.abc import Callable, Mapping

import uvloop

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
"""Both loops that the server runs on: their transports close, pause and half-close in different ways."""
