"""Web cache deception: a lifetime that a route gives is not for a response that is not what its path says.

The attack: `/account/x.css` is answered by an origin that ignores the last segment with the visitor's account page, and
a cache that gives style sheets a lifetime by their path keeps it for everybody. An origin that states a lifetime itself
is believed: the guard is about lifetimes that it did not give.
"""

from typing import Final
from urllib.parse import unquote

from proxy.http.message import Headers, Request, Response

_FONTS: Final = frozenset({"application/font-woff", "application/octet-stream", "application/vnd.ms-fontobject"})
_SCRIPT: Final = frozenset({"application/javascript", "application/x-javascript", "text/javascript"})
_XML: Final = frozenset({"application/atom+xml", "application/rss+xml", "application/xml", "text/xml"})

_TYPES: Final[dict[str, frozenset[str]]] = {
    "avif": frozenset({"image/"}),
    "bmp": frozenset({"image/"}),
    "css": frozenset({"text/css"}),
    "csv": frozenset({"text/csv", "text/plain"}),
    "eot": _FONTS | {"font/"},
    "gif": frozenset({"image/"}),
    "ico": frozenset({"image/"}),
    "jpeg": frozenset({"image/"}),
    "jpg": frozenset({"image/"}),
    "js": _SCRIPT,
    "json": frozenset({"application/json", "application/manifest+json", "text/json"}),
    "map": frozenset({"application/json", "application/octet-stream", "text/plain"}),
    "mjs": _SCRIPT,
    "mp3": frozenset({"audio/"}),
    "mp4": frozenset({"audio/", "video/"}),
    "ogg": frozenset({"application/ogg", "audio/", "video/"}),
    "otf": _FONTS | {"font/"},
    "pdf": frozenset({"application/pdf"}),
    "png": frozenset({"image/"}),
    "svg": frozenset({"image/"}),
    "ttf": _FONTS | {"font/"},
    "txt": frozenset({"text/plain"}),
    "wasm": frozenset({"application/wasm"}),
    "webm": frozenset({"audio/", "video/"}),
    "webmanifest": frozenset({"application/json", "application/manifest+json"}),
    "webp": frozenset({"image/"}),
    "woff": _FONTS | {"font/"},
    "woff2": _FONTS | {"font/"},
    "xml": _XML,
    "zip": frozenset({"application/octet-stream", "application/x-zip-compressed", "application/zip"}),
}
"""Extensions of static files and the media types they go with; one that ends with a slash stands for all below it."""


def agrees_with_path(request: Request, response: Response) -> bool:
    """Whether the Content-Type is one that the path's extension promises. True without an extension known here."""
    return is_promised_by(request.path, response.headers)


def is_promised_by(path: str, headers: Headers) -> bool:
    """The same by the path and a response's fields."""
    if "." not in path and "%" not in path:
        return True  # most paths: it has no extension for anyone
    types = _TYPES.get(_extension(path))
    if types is None:
        return True
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return media_type in types or media_type.partition("/")[0] + "/" in types


def _extension(path: str) -> str:
    """What the path seems to end with for anyone who decodes it: `/a%2Fx.css`, `/a;x.css` and `/a%00.css` too."""
    return unquote(path, errors="replace").rpartition(".")[2].lower()
