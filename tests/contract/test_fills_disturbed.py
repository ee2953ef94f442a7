"""Whatever happens to clocks and to what is stored while the cache is filled: past the pipeline it comes to the same.

Each walk is gone twice, with the ways past the pipeline and without; every answer is to be the same to the letter.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import pytest
from hypothesis import Phase, event, example, given, settings
from hypothesis import strategies as st

from proxy.http.dates import format_date
from proxy.storage.invalidation_log import PurgeScope
from tests.support.clock import FakeClock
from tests.support.passing import Call, PassingSite, passing_site, silent_plugins
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.sidecar import eventually
from tests.support.site import LANE_BYTES
from tests.support.stores import RedisServers, backends

SITE: Final = "http://example.com"
TARGETS: Final = ("/a", "/b", "/c/d", "/c/e?q=1", "/f.css")
PLUGINS: Final = partial(silent_plugins, cache={"early_refresh_beta": 0.0})  # which would draw lots


class Elapse(NamedTuple):
    """Time passes."""

    seconds: float


class Jump(NamedTuple):
    """The wall clock is set."""

    seconds: float


class Purge(NamedTuple):
    scope: PurgeScope
    value: str
    soft: bool


class Turn(NamedTuple):
    """The origin answers otherwise from now on: so many seconds off the time, and with these lines."""

    skew: int
    lines: tuple[str, ...]


Disturbance: TypeAlias = Elapse | Jump | Purge | Turn


class Ask(NamedTuple):
    """A request; what happens while the origin has it, if it gets it; and how many more ask for the same then."""

    target: str
    line: str = ""
    meanwhile: tuple[Disturbance, ...] = ()
    others: int = 0


SECONDS: Final = st.sampled_from([0.5, 1.0, 30.0, 61.0])
CHANGES: Final = st.one_of(
    st.builds(
        lambda what, soft: Purge(what[0], what[1], soft),
        st.sampled_from([
            (PurgeScope.ALL, ""), (PurgeScope.TAG, "t"), (PurgeScope.TAG, "other"), (PurgeScope.PREFIX, f"{SITE}/c/"),
            *((PurgeScope.URL, SITE + target) for target in TARGETS),
        ]),
        st.booleans(),
    ),
    st.builds(
        Turn,
        st.sampled_from([0, 0, 0, -20, 20, -100]),
        st.sampled_from([
            (), (), ("Vary: Accept-Language",), ("cache-tag: t",), ("Cache-Tag: t", "X-Other: 1"), ("Age: 5",),
            ("Last-Modified: Tue, 14 Nov 2023 00:00:00 GMT",), ("Cache-Control: no-store",),
        ]),
    ),
)  # fmt: skip
BACK: Final = st.builds(Jump, SECONDS.map(float.__neg__))
# Where the wall clock is set and time passes while the origin has a request, what is handed over to the pipeline knows
# by the other clock how long it took, and the rest does not.
MEANWHILE: Final = BACK.map(lambda jump: (jump,)) | st.lists(
    st.builds(Elapse, st.sampled_from([0.5, 1.0, 30.0])) | CHANGES, max_size=2
).map(tuple)
DISTURBANCES: Final = st.builds(Elapse, SECONDS) | st.builds(Jump, SECONDS) | BACK | CHANGES
ASKS: Final = st.builds(
    Ask,
    st.sampled_from(TARGETS),
    st.sampled_from(["", "", "", "", "Accept-Encoding: gzip", "Accept-Language: de"]),
    MEANWHILE,
    st.sampled_from([0, 0, 0, 2]),
)
WALKS: Final = st.lists(ASKS | ASKS | ASKS | DISTURBANCES, min_size=4, max_size=25)


class Origin:
    """Answers when it may, each time with another body; it says what time it is, as far as it knows."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.may = asyncio.Event()
        self.asked = 0
        self.turn = Turn(0, ())

    async def __call__(self, call: Call) -> None:
        self.asked += 1
        body = f"{call.target} {call.number} ".encode() * 200
        await self.may.wait()
        lines = [
            "HTTP/1.1 200 OK", f"Date: {format_date(self.clock.wall() + self.turn.skew)}", f'ETag: "{call.number}"',
            "Content-Type: text/plain", "Cache-Control: max-age=60", "Cache-Tag: t", *self.turn.lines,
            f"Content-Length: {len(body)}", "", "",
        ]  # fmt: skip
        await call.send("\r\n".join(lines).encode() + body)


async def disturb(site: PassingSite, origin: Origin, what: Disturbance) -> None:
    match what:
        case Elapse():
            site.clock.advance(what.seconds)
        case Jump():
            site.clock.jump(what.seconds)
        case Purge():
            await site.services.invalidations.append(what.scope, what.value, soft=what.soft)
        case Turn():
            origin.turn = what


async def ask(site: PassingSite, origin: Origin, client: RawClient, others: list[RawClient], one: Ask) -> list[object]:
    asked = origin.asked
    lines = [one.line] if one.line else []
    origin.may.clear()
    await client.send(request(one.target, *lines))
    answer = asyncio.ensure_future(client.response())
    await eventually(lambda: origin.asked > asked or answer.done())
    waiting = others[: one.others] if not answer.done() else []
    for other in waiting:
        await other.send(request(one.target, *lines))
    await eventually(lambda: site.under_way == (0 if answer.done() else 1) + len(waiting))
    for what in one.meanwhile:
        await disturb(site, origin, what)
    origin.may.set()
    # Those who waited in vain ask side by side, in any order.
    return [shown(await answer), *sorted([shown(await other.response()) for other in waiting])]


def shown(answer: RawResponse) -> tuple[int, list[tuple[str, str]], bytes]:
    return answer.status, sorted(answer.fields), answer.body


async def walked(
    walk: Sequence[Ask | Disturbance], lane_bytes: int, directory: Path | None = None
) -> tuple[list[object], int]:
    """What came of each step, and how many requests went past the pipeline.

    Args:
        directory: of a second tier, which has everything; None: memory has.
    """
    clock = FakeClock()
    origin = Origin(clock)
    seen: list[object] = []
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {}
        if directory is not None:
            made = await stack.enter_async_context(backends(clock, RedisServers(), directory))
            options = {"l2": await made.lmdb(), "l1_bytes": 1}
        site = await stack.enter_async_context(
            passing_site(origin, lane_bytes=lane_bytes, clock=clock, plugins=PLUGINS, **options)
        )
        client = await site.client()
        others = [await site.client() for _ in range(2)]
        for number in range(4):  # what is alike goes past the pipeline from the third on
            seen += await ask(site, origin, client, others, Ask(f"/first/{number}"))
        for step in walk:
            if isinstance(step, Ask):
                seen += [*await ask(site, origin, client, others, step), origin.asked]
            else:
                await disturb(site, origin, step)
        for target in TARGETS:
            seen += [*await ask(site, origin, client, others, Ask(target)), origin.asked]
        l1 = site.services.store.l1
        seen.append(sorted((str(key), getattr(l1.peek(key), "discard_at", None)) for key in l1.all_keys()))
        for one in (client, *others):
            await one.close()
        return seen, site.crossed + site.recalled


@pytest.mark.timeout(300)
@pytest.mark.parametrize("in_l2", [False, True], ids=["in memory", "in the second tier"])
def test_disturbances_come_to_the_same_past_the_pipeline(
    tmp_path_factory: pytest.TempPathFactory, *, in_l2: bool
) -> None:
    def directory() -> Path | None:
        return tmp_path_factory.mktemp("tier") if in_l2 else None

    @settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])
    @given(WALKS)
    @example([Ask(target, meanwhile=(Jump(-30.0),)) for target in TARGETS])
    @example([Ask("/a", meanwhile=(Purge(PurgeScope.TAG, "t", soft=True),)), Ask("/a", "Accept-Encoding: gzip")])
    @example([Ask("/a"), Purge(PurgeScope.URL, f"{SITE}/a", soft=True), Jump(30.0), Ask("/a"), Ask("/a")])
    @example([Ask(target) for target in TARGETS * 3])
    def disturbed(walk: list[Ask | Disturbance]) -> None:
        past, crossed = asyncio.run(walked(walk, LANE_BYTES, directory()))
        through, none = asyncio.run(walked(walk, 0, directory()))
        assert past == through
        assert none == 0 < crossed
        event(f"past the pipeline: {min(crossed // 4 * 4, 12)} and more")

    disturbed()
