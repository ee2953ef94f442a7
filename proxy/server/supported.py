"""Which aiohttp this version works with."""

from typing import Final

import aiohttp
from aiohttp.http import HttpRequestParser

SUPPORTED_AIOHTTP: Final = (3, 14)


def require_supported_aiohttp() -> None:
    """Check that the aiohttp in use is one that this file knows.

    Raises:
        RuntimeError: it is another minor version, or its C parser is missing. The pure-Python parser reads some
            requests differently: a proxy must not disagree with itself about where a request ends.
    """
    version = tuple(int(part) for part in aiohttp.__version__.split(".")[:2])
    if version != SUPPORTED_AIOHTTP:
        expected = ".".join(map(str, SUPPORTED_AIOHTTP))
        raise RuntimeError(f"aiohttp {aiohttp.__version__} is installed, but this version needs aiohttp {expected}")
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError(
            "aiohttp runs on its pure-Python parser: its C extension is missing or switched off "
            "(AIOHTTP_NO_EXTENSIONS); install a wheel of aiohttp for this platform"
        )
