"""The demo's application: a small shop catalogue, written as if no cache stood in front of it.

Each endpoint shows one thing that APIs do, and says by its response fields what a cache may make of it. Every response
carries `X-Origin-Request`, a running number: if two responses show the same number, the second came from a cache.

Run it alone, from the root of the tree: `python -m deploy.demo.api --port 9000`.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import formatdate, parsedate_to_datetime
from typing import Final

from aiohttp import web

from deploy.demo.catalogue import CATEGORIES, Item, make_catalogue

ASSET: Final = "app.5b7c1d0e.css"
ASSET_TEXT: Final = (
    "body { font: 16px/1.5 sans-serif; margin: 3rem auto; max-width: 40rem; }\n"
    "table { border-collapse: collapse; width: 100%; } td { border-bottom: 1px solid #ddd; padding: 0.3rem; }\n"
) * 12
GREETINGS: Final = {"en": "Good day", "de": "Guten Tag", "fr": "Bonjour", "it": "Buongiorno"}
MAX_PAGE_LENGTH: Final = 100
MAX_DELAY_SECONDS: Final = 30.0
MAX_NAME_LENGTH: Final = 200
REPORT_ROWS: Final = 12_000
FAILURE_STATUS: Final = 503


@dataclass(slots=True)
class Shop:
    """What the application remembers while it runs."""

    items: dict[int, Item]
    requests: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    failures: Iterator[bool] = field(default_factory=lambda: itertools.cycle((False, True, True)))
    quotes: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    report: bytes | None = None


SHOP: Final = web.AppKey("shop", Shop)
STOPPING: Final = web.AppKey("stopping", asyncio.Event)


def _json(content: object, *, status: int = 200, **fields: str) -> web.Response:
    """A JSON response; `cache_control="..."` becomes the field `Cache-Control`."""
    headers = {name.replace("_", "-").title(): value for name, value in fields.items()}
    body = json.dumps(content, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")


def _mistake(status: int, detail: str) -> web.Response:
    return web.Response(
        text=json.dumps({"status": status, "detail": detail}),
        status=status,
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store"},
    )


def _conditional(request: web.Request, response: web.Response) -> web.Response:
    """The response with an entity tag, or 304 without a body if the client has it already (RFC 9110 §13.2.2)."""
    assert isinstance(response.body, bytes)  # every caller passes a complete body; this narrows the type
    etag = '"' + hashlib.sha256(response.body).hexdigest()[:16] + '"'
    response.headers["ETag"] = etag
    if (known := request.headers.get("If-None-Match")) is not None:
        tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
        unchanged = etag in tags or "*" in tags
    else:
        unchanged = _not_modified_since(request, response)
    if not unchanged:
        return response
    kept = {k: v for k, v in response.headers.items() if k not in ("Content-Type", "Content-Length")}
    return web.Response(status=304, headers=kept)


def _not_modified_since(request: web.Request, response: web.Response) -> bool:
    since, modified = request.headers.get("If-Modified-Since"), response.headers.get("Last-Modified")
    if since is None or modified is None:
        return False
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)
    except (TypeError, ValueError):
        return False  # a date that cannot be read is as good as none (§13.1.3)


def _number(request: web.Request, name: str, default: float, least: float, most: float) -> float:
    """A number from the query, kept within bounds.

    Raises:
        web.HTTPBadRequest: it is no number.
    """
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:  # noqa: PLR0124  # NaN, from the client or from the line above
        raise web.HTTPBadRequest(text=f"{name} has to be a number")
    return min(max(value, least), most)


async def list_items(request: web.Request) -> web.Response:
    """A page of the catalogue. Tagged, so that one purge ends every page; grouped (RFC 9875), so that a write does."""
    shop = request.app[SHOP]
    length = int(_number(request, "per_page", 20, 1, MAX_PAGE_LENGTH))
    page = int(_number(request, "page", 1, 1, 1e9))
    category = request.query.get("category")
    chosen = [item for item in shop.items.values() if category in (None, item.category)]
    shown = chosen[(page - 1) * length : page * length]
    content = {"page": page, "per_page": length, "total": len(chosen), "items": [item.as_json() for item in shown]}
    response = _json(
        content,
        cache_control="public, max-age=60",
        cache_tag="items",
        surrogate_key="items",
        cache_groups='"listings"',
    )
    return _conditional(request, response)


async def show_item(request: web.Request) -> web.Response:
    """One item, with both validators."""
    item = _find(request)
    if item is None:
        return _mistake(404, "there is no such item")
    response = _json(
        item.as_json(),
        cache_control="public, max-age=120, stale-while-revalidate=30, stale-if-error=600",
        cache_tag=f"items, item-{item.id}",
        surrogate_key=f"items item-{item.id}",
        last_modified=formatdate(item.modified, usegmt=True),
    )
    return _conditional(request, response)


def _find(request: web.Request) -> Item | None:
    return request.app[SHOP].items.get(int(request.match_info["id"]))


async def _changes(request: web.Request) -> dict[str, object] | str:
    """The fields of an item that a request's body sets, or what is wrong with it."""
    try:
        content = await request.json()
    except ValueError:
        return "the body has to be JSON"
    if not isinstance(content, dict) or not content:
        return "the body has to be an object with some of: name, category, price_pence, stock"
    checks: dict[str, Callable[[object], bool]] = {
        "name": lambda value: isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH,
        "category": lambda value: value in CATEGORIES,
        "price_pence": lambda value: type(value) is int and value >= 0,
        "stock": lambda value: type(value) is int and value >= 0,
    }
    wrong = sorted(name for name, value in content.items() if name not in checks or not checks[name](value))
    return f"not accepted: {', '.join(wrong)}" if wrong else content


async def add_item(request: web.Request) -> web.Response:
    """A new item: 201. The request's success makes `/items` itself void in a cache, the group every other page."""
    changes = await _changes(request)
    if isinstance(changes, str):
        return _mistake(422, changes)
    if "name" not in changes:
        return _mistake(422, "a new item needs a name")
    shop = request.app[SHOP]
    blank = Item(max(shop.items, default=0) + 1, "", CATEGORIES[0], 0, 0, "", int(time.time()))
    item = replace(blank, **changes)  # type: ignore[arg-type]  # _changes has checked each value
    shop.items[item.id] = item
    return _json(item.as_json(), status=201, location=f"/items/{item.id}", cache_group_invalidation='"listings"')


async def change_item(request: web.Request) -> web.Response:
    """PUT or PATCH some fields of an item: 200 with the whole of it."""
    item = _find(request)
    if item is None:
        return _mistake(404, "there is no such item")
    changes = await _changes(request)
    if isinstance(changes, str):
        return _mistake(422, changes)
    modified = max(int(time.time()), item.modified + 1)  # two changes within a second still differ by their date
    changed = replace(item, modified=modified, version=item.version + 1, **changes)  # type: ignore[arg-type]  # as above
    request.app[SHOP].items[item.id] = changed
    return _json(changed.as_json(), cache_group_invalidation='"listings"')


async def remove_item(request: web.Request) -> web.Response:
    """204; 404 from then on."""
    if _find(request) is None:
        return _mistake(404, "there is no such item")
    del request.app[SHOP].items[int(request.match_info["id"])]
    return web.Response(status=204, headers={"Cache-Group-Invalidation": '"listings"'})


async def slow(request: web.Request) -> web.Response:
    """Two seconds of work (`?seconds=`), worth keeping for half a minute."""
    seconds = _number(request, "seconds", 2.0, 0.0, MAX_DELAY_SECONDS)
    await asyncio.sleep(seconds)
    return _json({"worked_seconds": seconds}, cache_control="public, max-age=30")


async def flaky(request: web.Request) -> web.Response:
    """Works, then fails twice. May be kept for a second, and for ten minutes if the alternative is an error."""
    if next(request.app[SHOP].failures):
        return _mistake(FAILURE_STATUS, "the database is away")
    return _json({"well": True}, cache_control="public, max-age=1, stale-if-error=600")


async def fail(_: web.Request) -> web.Response:
    """Always 503."""
    return _mistake(FAILURE_STATUS, "the database is away")


async def report(request: web.Request) -> web.Response:
    """A megabyte and a half of JSON that compresses well. Built once: the work is the transfer."""
    shop = request.app[SHOP]
    if shop.report is None:
        chance = random.Random(11)
        rows = [
            {
                "order": f"A{number:06d}",
                "day": f"2026-{chance.randrange(1, 13):02d}-{chance.randrange(1, 29):02d}",
                "category": chance.choice(CATEGORIES),
                "status": chance.choice(("paid", "packed", "sent")),
                "total_pence": chance.randrange(99, 90_000),
            }
            for number in range(REPORT_ROWS)
        ]
        shop.report = json.dumps({"orders": rows}).encode()
    response = web.Response(
        body=shop.report,
        content_type="application/json",
        headers={"Cache-Control": "public, max-age=300", "Cache-Tag": "reports"},
    )
    return _conditional(request, response)


async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events: a price each second (`?interval=` seconds, `?count=` of them; without, until you leave)."""
    interval = _number(request, "interval", 1.0, 0.01, MAX_DELAY_SECONDS)
    count = int(_number(request, "count", 0, 0, 1e6))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    stopping = request.app[STOPPING]
    with contextlib.suppress(ConnectionResetError):  # the client may leave at any moment
        for number in range(1, count + 1) if count else itertools.count(1):
            price = request.app[SHOP].items[1].price_pence + number if 1 in request.app[SHOP].items else number
            await response.write(f'id: {number}\nevent: price\ndata: {{"item":1,"price_pence":{price}}}\n\n'.encode())
            if number == count:
                break
            try:
                await asyncio.wait_for(stopping.wait(), interval)
            except TimeoutError:
                continue
            break
        await response.write_eof()
    return response


async def private(_: web.Request) -> web.Response:
    """For one person: a browser may keep it, a shared cache may not."""
    response = _json({"name": "A. Customer", "basket": [3, 14]}, cache_control="private, max-age=60")
    response.set_cookie("session", "demo", httponly=True, samesite="Lax")
    return response


async def stale(request: web.Request) -> web.Response:
    """Fresh for two seconds; for thirty more it may be used while the next one is fetched."""
    await asyncio.sleep(0.3)
    return _json(
        {"quote": next(request.app[SHOP].quotes)}, cache_control="public, max-age=2, stale-while-revalidate=30"
    )


async def greeting(request: web.Request) -> web.Response:
    """One resource in several languages: `Vary: Accept-Language`."""
    wanted = [part.split(";")[0].strip().lower()[:2] for part in request.headers.get("Accept-Language", "").split(",")]
    language = next((code for code in wanted if code in GREETINGS), "en")
    return _json(
        {"greeting": GREETINGS[language]},
        cache_control="public, max-age=60",
        vary="Accept-Language",
        content_language=language,
    )


async def receive(request: web.Request) -> web.Response:
    """Reads a body of any length and says how long it was, and its SHA-256."""
    digest, length = hashlib.sha256(), 0
    async for part in request.content.iter_any():
        digest.update(part)
        length += len(part)
    return _json({"bytes": length, "sha256": digest.hexdigest()})


async def front_page(request: web.Request) -> web.Response:
    """A page for a browser. `no-cache`: kept, and asked about each time."""
    rows = "".join(
        f"<tr><td><a href='/items/{item.id}'>{item.name}</a><td>{item.category}<td>{item.price_pence / 100:.2f}"
        for item in itertools.islice(request.app[SHOP].items.values(), 20)
    )
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Demo shop</title>"
        f"<link rel=stylesheet href=/assets/{ASSET}><h1>Demo shop</h1><table>{rows}</table>"
    )
    response = web.Response(text=page, content_type="text/html", headers={"Cache-Control": "no-cache"})
    return _conditional(request, response)


async def asset(request: web.Request) -> web.Response:
    """A static file whose name changes with its content: kept for a year, never asked about."""
    response = web.Response(
        text=ASSET_TEXT,
        content_type="text/css",
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )
    return _conditional(request, response)


async def health(_: web.Request) -> web.Response:
    """For whoever watches over this process."""
    return _json({"status": "ok"}, cache_control="no-store")


async def _number_response(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Origin-Request"] = str(next(request.app[SHOP].requests))


async def _stop_streams(app: web.Application) -> None:
    app[STOPPING].set()


def make_app(item_count: int = 2000) -> web.Application:
    """The application, with its own memory: two of them share nothing."""
    app = web.Application()
    app[SHOP] = Shop(make_catalogue(item_count, int(time.time()) - 3600))
    app[STOPPING] = asyncio.Event()
    app.on_response_prepare.append(_number_response)
    app.on_shutdown.append(_stop_streams)
    app.add_routes(
        [
            web.get("/", front_page),
            web.get("/items", list_items),
            web.post("/items", add_item),
            web.get(r"/items/{id:\d{1,9}}", show_item),
            web.put(r"/items/{id:\d{1,9}}", change_item),
            web.patch(r"/items/{id:\d{1,9}}", change_item),
            web.delete(r"/items/{id:\d{1,9}}", remove_item),
            web.get("/slow", slow),
            web.get("/flaky", flaky),
            web.get("/fail", fail),
            web.get("/report", report),
            web.get("/events", events, allow_head=False),
            web.get("/private", private),
            web.get("/stale", stale),
            web.get("/greeting", greeting),
            web.post("/receive", receive),
            web.get(f"/assets/{ASSET}", asset),
            web.get("/health", health),
        ]
    )
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="A small shop catalogue for trying Sidecache.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9000, help="port to listen on (default: %(default)s)")
    options = parser.parse_args()
    # `print=None`: whoever started this says where it is. A second is enough for the streams to see that they end.
    web.run_app(make_app(), host=options.host, port=options.port, print=None, access_log=None, shutdown_timeout=1.0)


if __name__ == "__main__":
    main()
