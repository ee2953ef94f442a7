"""What a handler returns to aiohttp when it has written the response itself."""

from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override


class Written(web.StreamResponse):
    """Tells aiohttp that a response has been written already, and whether the connection goes on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._goes_on = keep_alive

    @property
    @override
    def keep_alive(self) -> bool:
        return self._goes_on

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        return


GOES_ON: Final = Written(keep_alive=True)
CLOSES: Final = Written(keep_alive=False)
