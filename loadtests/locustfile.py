"""Users of the demo shop, as they come through a browser, an application or a script.

Reads follow Zipf's law: a few items are asked for by everybody, most by hardly anybody. Users remember what they were
given, ask whether it is still good, write now and then, and accept different codings. Responses are checked, not only
counted: an item has to be the one that was asked for, and never older than what this user has written.

    locust -f loadtests/locustfile.py --headless --users 1000 --spawn-rate 50 --run-time 80s --host http://127.0.0.1:8080

`--tally FILE` has the figures written as JSON when the test ends; `make load` makes a report of it.
"""

import collections
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from locust import FastHttpUser, between, events, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.event import EventHook
from typing_extensions import override

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # locust finds this file by its path, from anywhere
from loadtests.tally import Tally  # it can be found from here on

ITEMS: Final = 2000
PAGES: Final = 40
SLOW_JOBS: Final = 20
REMEMBERED: Final = 60
CATEGORIES: Final = ("books", "garden", "kitchen", "music", "tools")
LANGUAGES: Final = ("en-GB,en;q=0.9", "de-CH,de;q=0.9,en;q=0.5", "fr", "it-IT,it;q=0.8", "pt-BR")
CODINGS: Final = {  # Accept-Encoding: its share of users; what locust's client can decode
    "gzip, deflate, br": 60,
    "gzip, deflate": 15,
    "br;q=1.0, gzip;q=0.6, *;q=0.1": 10,
    "gzip;q=1.0, identity;q=0.5": 5,
    "identity": 10,
}

_POPULARITY: Final = tuple(itertools.accumulate(1 / rank for rank in range(1, ITEMS + 1)))


def popular_item() -> int:
    """The number of an item, by Zipf's law with exponent 1."""
    return random.choices(range(1, ITEMS + 1), cum_weights=_POPULARITY)[0]


def field_of(response: ResponseContextManager, name: str) -> str:
    """A field of a response; empty if it has none, or if there was no response."""
    value = response.headers.get(name) if response.headers is not None else None
    return value if isinstance(value, str) else ""


def version_of_item(number: int, content: bytes) -> int:
    """The version that the body of an item tells.

    Raises:
        ValueError: it is no item, or another.
    """
    item = json.loads(content)
    if not isinstance(item, dict) or item.get("id") != number or not isinstance(item.get("version"), int):
        raise ValueError(f"item {number} was asked for")
    return int(item["version"])


class Known(NamedTuple):
    """What a user remembers of a response: its entity tag, and the version of the item in it."""

    etag: str
    version: int


class Shopper(FastHttpUser):
    """Somebody who looks at things, and buys now and then."""

    wait_time = between(1.0, 3.0)
    connection_timeout = 10.0
    network_timeout = 10.0

    @override
    def on_start(self) -> None:
        self.coding = random.choices(tuple(CODINGS), tuple(CODINGS.values()))[0]
        self.language = random.choice(LANGUAGES)
        self.known: collections.OrderedDict[str, Known] = collections.OrderedDict()
        self.written: dict[int, int] = {}
        # Locust lets all users of a second begin in one instant: such a volley measures its own queue.
        time.sleep(random.random())

    def read(
        self,
        path: str,
        name: str,
        *,
        remember: bool = True,
        fields: Mapping[str, str] = MappingProxyType({}),
        version_in: Callable[[bytes], int] = lambda _: 0,
        least_version: int = 0,
    ) -> None:
        """GET, on the condition that it has changed if this user has it already.

        Args:
            path: what is asked for.
            name: what it is counted as.
            remember: ask on that condition the next time.
            fields: of the request, beside the codings.
            version_in: finds the version in a body, and raises ValueError if it is not what was asked for.
            least_version: an older one is a failure.
        """
        headers = {"Accept-Encoding": self.coding, **fields}
        known = self.known.get(path)
        if known is not None:
            headers["If-None-Match"] = known.etag
        with self.client.get(path, name=name, headers=headers, catch_response=True) as response:
            if response.status_code == 200:
                try:
                    version = version_in(response.content or b"")
                except ValueError as error:
                    response.failure(f"not what was asked for: {error}")
                    return
                if remember:
                    self.remember(path, Known(field_of(response, "ETag"), version))
            elif response.status_code == 304 and known is not None:
                version = known.version
            else:
                response.failure(f"status {response.status_code}")
                return
            if version < least_version:
                response.failure("older than what this user has written")

    def remember(self, path: str, known: Known) -> None:
        """Keep what a response was, and let go of the oldest one."""
        if known.etag:
            self.known[path] = known
            self.known.move_to_end(path)
            if len(self.known) > REMEMBERED:
                self.known.popitem(last=False)

    @task(60)
    def look_at_item(self) -> None:
        number = popular_item()
        self.read(
            f"/items/{number}",
            "/items/{id}",
            version_in=partial(version_of_item, number),
            least_version=self.written.get(number, 0),
        )

    @task(14)
    def turn_pages(self) -> None:
        page = min(PAGES, int(random.paretovariate(1.2)))
        if random.random() < 0.3:
            self.read(f"/items?category={random.choice(CATEGORIES)}&page={page}", "/items")
        else:
            self.read(f"/items?page={page}", "/items")

    @task(5)
    def open_front_page(self) -> None:
        self.read("/", "/")
        self.read("/assets/app.5b7c1d0e.css", "/assets")

    @task(4)
    def be_greeted(self) -> None:
        self.read("/greeting", "/greeting", fields={"Accept-Language": self.language})

    @task(4)
    def see_quote(self) -> None:
        self.read("/stale", "/stale", remember=False)

    @task(3)
    def open_basket(self) -> None:
        self.read("/private", "/private", remember=False)

    @task(2)
    def wait_for_slow_work(self) -> None:
        self.read(f"/slow?seconds=0.5&job={random.randrange(SLOW_JOBS)}", "/slow")

    @task(1)
    def fetch_report(self) -> None:
        self.read("/report", "/report")

    @task(3)
    def change_item(self) -> None:
        number = popular_item()
        body = json.dumps({"stock": random.randrange(500)})
        with self.client.put(
            f"/items/{number}",
            data=body,
            headers={"Content-Type": "application/json"},
            name="/items/{id}",
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            self.written[number] = json.loads(response.content or b"{}")["version"]

    @task(1)
    def add_item(self) -> None:
        body = json.dumps({"name": "one more spoon", "category": "kitchen", "price_pence": random.randrange(1, 5000)})
        headers = {"Content-Type": "application/json"}
        with self.client.post("/items", data=body, headers=headers, catch_response=True) as response:
            if response.status_code != 201:
                response.failure(f"status {response.status_code}")


def add_option(parser: LocustArgumentParser, **_: Any) -> None:
    parser.add_argument("--tally", metavar="FILE", default="", help="write the figures to this file as JSON")


def start_counting(environment: Environment, **_: Any) -> None:
    tally = Tally()

    def count(response_time: float, response: ResponseContextManager | None = None, **_: Any) -> None:
        if response is None or response.headers is None:
            tally.add(response_time, 0)
        else:
            status = response.status_code or 0
            tally.add(response_time, status, field_of(response, "Cache-Status"), field_of(response, "Content-Encoding"))

    def write(**_: Any) -> None:
        path = getattr(environment.parsed_options, "tally", "")
        if path:
            total = environment.stats.total
            figures = {
                **tally.summary(),
                "requests_per_second": round(total.total_rps, 1),
                "failures": total.num_failures,
                "mistakes": [
                    {"method": error.method, "name": error.name, "error": str(error.error), "count": error.occurrences}
                    for error in environment.stats.errors.values()
                ],
            }
            Path(path).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    listen(environment.events.request, count)
    listen(environment.events.quitting, write)


def listen(hook: EventHook, listener: Callable[..., None]) -> None:
    hook.add_listener(listener)  # type: ignore[no-untyped-call]  # locust leaves this method untyped


listen(events.init_command_line_parser, add_option)
listen(events.init, start_counting)
