"""Plugins that fail in what they gave for answers past the pipeline: they are named and counted, and nobody notices.

Each test runs with the ways past the pipeline and with everything through it: what clients get is the same.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from plugins.cache.passing import Gate
from plugins.cache.recalling import HitRecall
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.passage import PassagePart, Passed
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from proxy.pipeline.replay import MOST_NOTES, Arrival, Journal, Note, ReplayPart
from proxy.upstream.pool import UpstreamPool
from tests.support.clock import FakeClock
from tests.support.passing import PassingSite, Script, always, fresh, ok, passing_site, silent_plugins
from tests.support.raw_client import RawClient, RawResponse, request
from tests.support.site import LANE_BYTES
from tests.support.stores import Backends, RedisServers, backends, redis_servers

__all__ = ["redis_servers"]

PAST = pytest.mark.parametrize("lane_bytes", [LANE_BYTES, 0], ids=["past", "through"])
FAILURES = "sidecache_plugin_failures_total"
ROUNDS = 12


class OddError(Exception):
    """What nobody expects."""


class Faulty(Plugin[PluginSettings]):
    """Takes part in everything, and fails in what the test says.

    Attributes:
        fails_in: names of parts.
        calls: how often each of them was called.
    """

    name: ClassVar[str] = "faulty"
    settings_type = PluginSettings
    replay: ClassVar[Replay] = Replay.CHECKED

    def __init__(self, settings: PluginSettings, services: Services) -> None:
        super().__init__(settings, services)
        self.fails_in: frozenset[str] = frozenset()
        self.calls: dict[str, int] = {"check": 0, "note": 0, "tally": 0, "journal": 0}
        self._journal = Journal[str](self._take)

    def _called(self, part: str) -> None:
        self.calls[part] += 1
        if part in self.fails_in:
            raise OddError(part)

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return frozenset()

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart:
        def check(arrival: Arrival) -> str | None:
            self._called("check")
            return ""

        return ReplayPart(check=check, tally=self._tally, journal=(self._journal, "subject"))

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart:
        def check() -> bool:
            self._called("check")
            return True

        # Hits in the second tier are for those without a check.
        asks = "recall" not in self.fails_in
        return PassagePart(check=check if asks else None, tally=self._tally, note=self._note, any_target=True)

    def _tally(self, durations: Sequence[float], bytes_sent: int) -> None:
        self._called("tally")

    def _note(self, passed: Passed) -> None:
        self._called("note")

    def _take(self, notes: Sequence[Note[str]]) -> None:
        self._called("journal")


class Witness(Faulty):
    """Stands behind the other, and fails in nothing."""

    name: ClassVar[str] = "witness"


@dataclass
class Stage:
    """A site, a client, and the two plugins."""

    site: PassingSite
    client: RawClient
    faulty: Faulty
    witness: Witness
    lines: list[Any]

    async def ask(self, times: int = ROUNDS, target: str = "/a") -> set[tuple[int, bytes]]:
        """What comes of asking so often on one connection."""
        answers: list[RawResponse] = [await self.client.ask(request(target)) for _ in range(times)]
        return {(answer.status, answer.body) for answer in answers}

    def failures(self, hook: str) -> float:
        """How many are counted."""
        return self.site.sample(FAILURES, plugin="faulty", hook=hook)

    def told(self) -> list[tuple[str, str, str]]:
        """Plugin, hook and part of each line of the log that tells of a failure."""
        return [
            (line["plugin"], line["hook"], line.get("part", ""))
            for line in self.lines
            if line["event"] == "plugin failed"
        ]


@asynccontextmanager
async def staged(
    script: Script, lane_bytes: int, *fails_in: str, place: int = 0, **options: Any
) -> AsyncIterator[Stage]:
    """Both plugins stand among the built-in ones at `place`."""
    made: list[Faulty] = []

    def plugins(services: Services) -> list[Plugin[Any]]:
        made[:] = [Faulty(PluginSettings(), services), Witness(PluginSettings(), services)]
        for one in made:
            one.fails_in = frozenset({*fails_in} & {"recall"})
        made[0].fails_in = frozenset(fails_in)
        members = silent_plugins(services)
        return [*members[:place], *made, *members[place:]]

    async with AsyncExitStack() as stack:
        lines = stack.enter_context(capture_logs())
        site = await stack.enter_async_context(passing_site(script, plugins=plugins, lane_bytes=lane_bytes, **options))
        client = await stack.enter_async_context(await site.client())
        faulty, witness = made
        assert isinstance(witness, Witness)
        yield Stage(site, client, faulty, witness, lines)


def hits(stage: Stage) -> float:
    return stage.site.sample("sidecache_fast_lane_hits_total")


# Answers given again.

STORED = always(fresh(b"kept", "Cache-Control: max-age=600"))


@PAST
async def test_a_check_of_a_replay_that_fails_leaves_the_request_to_the_pipeline(lane_bytes: int) -> None:
    async with staged(STORED, lane_bytes, "check") as stage:
        assert await stage.ask() == {(200, b"kept")}
        assert stage.site.sample("sidecache_cache_requests_total", result="hit") == ROUNDS - 1
        assert hits(stage) == 0
        assert stage.failures("on_replay") == stage.faulty.calls["check"]
        if lane_bytes:
            assert stage.faulty.calls["check"] > 2
            assert stage.told() == [("faulty", "on_replay", "check")]


@PAST
@pytest.mark.parametrize("part", ["tally", "journal"])
async def test_an_account_of_replays_that_fails_costs_neither_the_answer_nor_the_others_theirs(
    lane_bytes: int, part: str
) -> None:
    async with staged(STORED, lane_bytes, part) as stage:
        assert await stage.ask(MOST_NOTES + ROUNDS) == {(200, b"kept")}
        assert hits(stage) == (MOST_NOTES + ROUNDS - 2 if lane_bytes else 0)
        assert stage.site.sample("sidecache_cache_requests_total", result="hit") == MOST_NOTES + ROUNDS - 1
        assert stage.failures("on_replay") == stage.faulty.calls[part]
        assert stage.witness.calls[part] == stage.faulty.calls[part]
        if lane_bytes:
            assert stage.faulty.calls[part] > 0
            assert stage.told() == [("faulty", "on_replay", part)]


# To the upstream and back.


@PAST
@pytest.mark.parametrize("place", [0, 4, 5])
async def test_a_check_of_a_passage_that_fails_leaves_the_request_to_the_pipeline(lane_bytes: int, place: int) -> None:
    async with staged(always(ok()), lane_bytes, "check", place=place) as stage:
        assert await stage.ask() == {(200, b"ok")}
        assert stage.site.crossed == 0
        assert len(stage.site.origin.heads) == ROUNDS
        assert stage.failures("on_passage") == stage.faulty.calls["check"]
        if lane_bytes:
            assert stage.faulty.calls["check"] > 2
            assert stage.told() == [("faulty", "on_passage", "check")]


@PAST
@pytest.mark.parametrize("part", ["note", "tally"])
@pytest.mark.parametrize("place", [0, 5])
async def test_an_account_of_passages_that_fails_costs_neither_the_answer_nor_the_others_theirs(
    lane_bytes: int, part: str, place: int
) -> None:
    async with staged(always(ok()), lane_bytes, part, place=place) as stage:
        assert await stage.ask() == {(200, b"ok")}
        assert stage.site.crossed == (ROUNDS - 2 if lane_bytes else 0)
        assert stage.site.sample("sidecache_request_duration_seconds_count") == ROUNDS
        assert stage.site.sample("sidecache_server_requests_in_flight") == 0
        assert stage.failures("on_passage") == stage.faulty.calls[part]
        assert stage.witness.calls[part] == stage.faulty.calls[part]
        if lane_bytes:
            assert stage.faulty.calls[part] > 0
            assert stage.told() == [("faulty", "on_passage", part)]


# From the second tier.


@pytest.fixture
async def made(tmp_path: Path, redis_servers: RedisServers) -> AsyncIterator[Backends]:
    async with backends(FakeClock(), redis_servers, tmp_path) as made:
        yield made


@PAST
@pytest.mark.parametrize("kind", ["lmdb", "redis"])
@pytest.mark.parametrize("part", ["note", "tally"])
async def test_an_account_of_recalls_that_fails_costs_neither_the_answer_nor_the_others_theirs(
    made: Backends, lane_bytes: int, kind: str, part: str
) -> None:
    l2 = await made.second_tier(kind)
    async with staged(STORED, lane_bytes, part, "recall", l2=l2, l1_bytes=1, clock=made.clock) as stage:
        await stage.ask(1)
        await stage.site.services.store.flush()
        assert await stage.ask() == {(200, b"kept")}
        assert len(stage.site.origin.heads) == 1
        assert (stage.site.recalled > 0) == bool(lane_bytes)
        assert stage.failures("on_passage") == stage.faulty.calls[part]
        assert stage.witness.calls[part] == stage.faulty.calls[part]
        if lane_bytes:
            assert stage.faulty.calls[part] > 0
            assert stage.told() == [("faulty", "on_passage", part)]


# The cache's own terms.


def _fail(*_: object) -> None:
    raise OddError


@PAST
async def test_terms_of_a_passage_that_fail_leave_the_request_to_the_pipeline(
    lane_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "enter", _fail)
    async with staged(always(ok()), lane_bytes) as stage:
        assert await stage.ask() == {(200, b"ok")}
        assert stage.site.crossed == 0
        told = [line for line in stage.lines if line["event"] == "a request could not be answered past the pipeline"]
        assert len(told) == (ROUNDS - 2 if lane_bytes else 0)


async def test_leave_to_fill_the_cache_is_given_back_by_a_request_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(always(fresh(b"new", "Cache-Control: max-age=600")), LANE_BYTES) as stage:
        for number in range(ROUNDS):
            assert await stage.ask(1, f"/{number}") == {(200, b"new")}
        crossed = stage.site.crossed
        assert crossed > 0
        with monkeypatch.context() as broken:
            broken.setattr(UpstreamPool, "begin", _fail)
            assert await stage.ask(1, "/another") == {(200, b"new")}
        assert stage.site.crossed == crossed


@PAST
@pytest.mark.parametrize("kind", ["lmdb", "redis"])
async def test_terms_of_a_recall_that_fail_leave_the_request_to_the_pipeline(
    made: Backends, lane_bytes: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HitRecall, "find", _fail)
    l2 = await made.second_tier(kind)
    async with staged(STORED, lane_bytes, "recall", l2=l2, l1_bytes=1, clock=made.clock) as stage:
        await stage.ask(1)
        await stage.site.services.store.flush()
        assert await stage.ask() == {(200, b"kept")}
        assert (stage.site.recalled, len(stage.site.origin.heads)) == (0, 1)


# What is told.


async def test_a_part_that_goes_on_failing_is_told_of_now_and_then() -> None:
    async with staged(always(ok()), LANE_BYTES, "note") as stage:
        await stage.ask()
        stage.site.clock.advance(9.0)
        await stage.ask()
        assert len(stage.told()) == 1
        stage.site.clock.advance(1.1)
        before = stage.faulty.calls["note"]
        while stage.faulty.calls["note"] == before:
            await stage.ask(1)
        first, second = (line for line in stage.lines if line["event"] == "plugin failed")
        assert isinstance(first["exc_info"], OddError)
        assert first["failures"] == 1
        assert second["failures"] == before > 10
        assert stage.failures("on_passage") == before + 1


class Strange(Faulty):
    """Gives what is no part."""

    gives: Callable[[], Any]

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart:
        part: ReplayPart = self.gives()
        return part

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart:
        part: PassagePart = self.gives()
        return part


class _Unhashable:
    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __call__(self, durations: Sequence[float], bytes_sent: int) -> None:
        """Would take note."""


@PAST
@pytest.mark.parametrize("given", ["a text", ReplayPart(tally=_Unhashable())], ids=["no part", "unhashable tally"])
@pytest.mark.parametrize("script", [STORED, always(ok())], ids=["stored", "not stored"])
async def test_a_part_that_is_none_is_the_same_as_a_hook_that_fails(
    lane_bytes: int, given: object, script: Script
) -> None:
    def plugins(services: Services) -> list[Plugin[Any]]:
        strange = Strange(PluginSettings(), services)
        strange.gives = lambda: given
        return [strange, *silent_plugins(services)]

    async with passing_site(script, plugins=plugins, lane_bytes=lane_bytes) as site, await site.client() as client:
        for _ in range(ROUNDS):
            assert (await client.ask(request("/a"))).status == 200
        assert site.crossed == 0
        assert (site.sample(FAILURES, plugin="faulty") > 0) == bool(lane_bytes)
