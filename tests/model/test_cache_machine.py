"""The cache against the model: any mixture of requests, changes at the origin, purges, failures and time.

Each response that the origin gives has a number, which comes back in each response made of it. So the model need not
know how the cache works: of each answer it asks whether RFC 9111 lets what the origin gave under that number answer
this request now. And where a response is said to be stored, and may answer, it must: the origin is not asked.
"""

import asyncio
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from structlog.testing import capture_logs
from typing_extensions import override

from proxy.pipeline.exchange import CacheResult
from proxy.storage import write_behind
from proxy.storage.invalidation_log import PurgeScope
from tests.model.origin import Delivery, Origin, Resource, fields_of
from tests.model.reference import (
    BODY_BYTES,
    MEANINGS,
    Asked,
    Directives,
    Given,
    Purge,
    date_of,
    is_not_modified,
    is_useful,
    meanings,
    ranges_of,
    why_not_reused,
    why_not_stored,
)
from tests.model.sidecars import Site
from tests.support.clock import FakeClock
from tests.support.plugin_harness import Answered, request

pytestmark = pytest.mark.timeout(300)  # tens of runs of some fifty steps each, beside other work

BASE = "http://example.test"
PATHS = ("/a", "/a/b", "/w")
SETTLED_SECONDS = 10
"""uncacheable_seconds: so long a key is known for not being stored."""
SPARED_SECONDS = 2
"""retry_seconds: so long after a failure the origin is not asked again where a stale response will do."""

seconds = st.sampled_from([0, 1, 5, 30, 60, 300])
maybe_seconds = st.none() | seconds
some = st.sampled_from([False, False, False, True])
directives = st.builds(
    Directives,
    max_age=maybe_seconds | st.just(60),
    s_maxage=st.none() | st.none() | seconds,
    public=some,
    private=some,
    no_store=some,
    no_cache=some,
    must_revalidate=some,
    stale_while_revalidate=st.none() | st.sampled_from([10, 100]),
    stale_if_error=st.none() | st.sampled_from([10, 100]),
)
lasting = st.builds(
    Directives,
    max_age=st.sampled_from([5, 60, 300]),
    public=some,
    stale_while_revalidate=st.none() | st.just(100),
    stale_if_error=st.none() | st.just(100),
)
selecting = st.fixed_dictionaries({}, optional={name: st.sampled_from(list(known)) for name, known in MEANINGS.items()})
demands = st.sampled_from([
    None, None, None, None, None, "no-cache", "no-store", "max-age=0", "max-age=5", "min-fresh=30", "max-stale",
    "max-stale=20", "only-if-cached",
])  # fmt: skip
conditions = st.sampled_from(["none", "none", "none", "none", "etag", "weak", "any", "other", "since", "long ago"])
ranges = st.sampled_from([
    None, None, None, None, "bytes=0-9", "bytes=5-19", "bytes=10-39", "bytes=-8", "bytes=30-", "bytes=90-",
    "bytes=0-4,20-24",
])  # fmt: skip


@dataclass
class Pending:
    """A request that waits for the origin."""

    asked: Asked
    task: "asyncio.Task[Answered]"
    sidecar: int
    given_before: int  # how much the origin had given when it began
    open_before: frozenset[int]  # of it, what had not left the origin yet


@dataclass
class Kept:
    """What must be in the tiers of one sidecar, unless the time for it is over."""

    given: Given
    selects: tuple[str, ...]
    in_l2: bool = False


@dataclass
class Held:
    """By sidecar and URL."""

    kept: dict[tuple[int, str], list[Kept]] = field(default_factory=dict)

    def of(self, sidecar: int, url: str) -> list[Kept]:
        return self.kept.setdefault((sidecar, url), [])


class CacheMachine(RuleBasedStateMachine):
    l2: ClassVar[Literal["none", "dict", "lmdb"]] = "none"

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="sidecache-model-")
        self.clock = FakeClock()
        self.purges: list[Purge] = []
        resources = {
            BASE + path: Resource(BASE + path, weak=path == "/w", modified=int(self.clock.wall()) - 1000, tags=("t",))
            for path in PATHS
        }
        resources[BASE + "/a/b"] = replace(resources[BASE + "/a/b"], vary=("accept-language", "x-plan"))
        self.origin = Origin(self.clock, resources, lambda: len(self.purges))
        self.origin.open.set()
        self.site = Site(self.l2, Path(self.directory.name), self.clock, self._script)
        self.pending: list[Pending] = []
        self.held = Held()
        self.seen = 0  # how much of what the origin gave is taken into account
        self.l2_down = False

    def _script(self, number: int) -> Any:
        return lambda asked: self.origin.answer(asked, number)

    @override
    def teardown(self) -> None:
        try:
            self.origin.open.set()
            self._finish_pending()
        finally:
            self.site.close()
            self.directory.cleanup()

    # Clients.

    @rule(
        path=st.sampled_from(PATHS),
        method=st.sampled_from(["GET", "GET", "GET", "HEAD"]),
        fields=selecting,
        sidecar=st.integers(0, 1),
        credentials=some,
        demand=demands,
        condition=conditions,
        part=ranges,
        if_range=st.sampled_from(["", "", "now", "once"]),
    )
    def ask(
        self,
        path: str,
        method: str,
        fields: dict[str, str],
        sidecar: int,
        credentials: bool,
        demand: str | None,
        condition: str,
        part: str | None,
        if_range: str,
    ) -> None:
        url = BASE + path
        headers = {**fields, **self._conditions(url, fields, condition)}
        if credentials:
            headers["authorization"] = "Basic eDp5"
        if demand is not None:
            headers["cache-control"] = demand
        if part is not None:
            headers["range"] = part
            etag = self._etag(url, fields)
            if if_range and etag is not None:
                headers["if-range"] = etag if if_range == "now" else '"0"'
        self._send(request(method, path, headers), sidecar)

    @rule(path=st.sampled_from(PATHS), fields=selecting, sidecar=st.integers(0, 1), times=st.integers(2, 3))
    def ask_again_and_again(self, path: str, fields: dict[str, str], sidecar: int, times: int) -> None:
        for _ in range(times):
            self._send(request("GET", path, fields), sidecar)

    @precondition(lambda self: self.origin.open.is_set())
    @rule(
        path=st.sampled_from(PATHS),
        crowd=st.lists(st.tuples(selecting, some, st.integers(0, 1)), min_size=2, max_size=4),
        seconds=st.sampled_from([0, 61, 301]),
        elapsed=st.sampled_from([0, 0, 3]),
        scope=st.sampled_from(["none", "none", "key", "url", "tag", "all"]),
        tag=st.sampled_from(["t", "u"]),
        soft=some,
        changes=st.sampled_from(["nothing", "version", "tags"]),
    )
    def crowd_arrives_while_the_origin_is_slow(
        self,
        path: str,
        crowd: list[tuple[dict[str, str], bool, int]],
        seconds: int,
        elapsed: int,
        scope: str,
        tag: str,
        soft: bool,
        changes: str,
    ) -> None:
        """One asks; the resource changes, and is purged perhaps; the others ask; the origin answers; all ask again."""
        made = [
            (request("GET", path, fields | ({"authorization": "Basic eDp5"} if credentials else {})), sidecar)
            for fields, credentials, sidecar in crowd
        ]
        self.clock.advance(seconds)
        if changes == "tags":
            self.origin.change(BASE + path, tags=("u",))
        self.origin.open.clear()
        self._send(*made[0])
        if changes == "version":
            self.origin.new_version(BASE + path)
        self.clock.advance(elapsed)
        if scope != "none":
            self._purge(scope, path, tag, soft=soft)
        for one in made[1:]:
            self._send(*one)
        self.origin.open.set()
        self._finish_pending()
        for one in made:
            self._send(*one)

    def _etag(self, url: str, fields: dict[str, str]) -> str | None:
        resource = self.origin.resources[url]
        return resource.etag(meanings(fields, resource.vary))

    def _conditions(self, url: str, fields: dict[str, str], condition: str) -> dict[str, str]:
        resource, etag = self.origin.resources[url], self._etag(url, fields) or '"0"'
        match condition:
            case "etag":
                return {"if-none-match": etag}
            case "weak":
                return {"if-none-match": f'"0", W/{etag.removeprefix("W/")}'}
            case "any":
                return {"if-none-match": "*"}
            case "other":
                return {"if-none-match": '"0"'}
            case "since":
                return {"if-modified-since": date_of(resource.modified)}
            case "long ago":
                return {"if-modified-since": date_of(1_000_000_000)}
            case _:
                return {}

    def _send(self, made: Any, sidecar: int) -> None:
        sidecar %= len(self.site.sidecars)
        asked = Asked(made.method, made.url, fields_of(made), len(self.purges), self.clock.wall())
        given = self.origin.given
        must = self._must_answer(asked, sidecar)
        before = len(given)
        still_open = frozenset(one.serial for one in given if not one.over)
        task = self.site.send(sidecar, made)
        one = Pending(asked, task, sidecar, before, still_open)
        if must is not None:
            assert task.done(), f"{asked} waits, and {must} answers it"
        if task.done():
            self._check(one, task.result(), must)
            self._account()
        else:
            assert not self.origin.open.is_set(), f"{asked} waits for nothing"
            self.pending.append(one)

    # The origin.

    @rule(path=st.sampled_from(PATHS), said=directives | lasting)
    def origin_says_otherwise(self, path: str, said: Directives) -> None:
        self.origin.change(BASE + path, directives=said)

    @rule(path=st.sampled_from(PATHS), names=st.lists(st.sampled_from(list(MEANINGS)), max_size=2, unique=True))
    def origin_varies_otherwise(self, path: str, names: list[str]) -> None:
        self.origin.new_version(BASE + path)  # what it has depends on other fields now
        self.origin.change(BASE + path, vary=tuple(names))

    @rule(
        path=st.sampled_from(PATHS),
        has_etag=st.booleans(),
        has_modified=st.booleans(),
        ranges=st.booleans(),
        age=st.sampled_from([0, 0, 7]),
        tags=st.sampled_from([(), ("t",), ("t", "u"), ("u",)]),
        delivery=st.sampled_from(["whole", "stream", "stream", "cut"]),
        status=st.sampled_from([200, 200, 200, 404]),
    )
    def origin_shows_itself_otherwise(self, path: str, delivery: Delivery, **changes: Any) -> None:
        self.origin.change(BASE + path, delivery=delivery, **changes)

    @rule(path=st.sampled_from(PATHS))
    def new_version(self, path: str) -> None:
        self.origin.new_version(BASE + path)

    @rule(trouble=st.sampled_from([0, 0, 1, 500, 503]))
    def trouble(self, trouble: int) -> None:
        self.origin.trouble = trouble

    @rule()
    def origin_becomes_slow(self) -> None:
        self.origin.open.clear()

    @precondition(lambda self: not self.origin.open.is_set())
    @rule()
    def origin_answers(self) -> None:
        self.origin.open.set()
        self._finish_pending()

    def _finish_pending(self) -> None:
        self.site.settle()
        pending, self.pending = self.pending, []
        for one in pending:
            assert one.task.done(), f"{one.asked} waits for nothing"
            self._check(one, one.task.result(), None)
        self._account()

    @rule(seconds=st.sampled_from([1, 2, 4, 11, 29, 61, 301]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    # What makes stored responses void.

    @rule(
        scope=st.sampled_from(["key", "url", "prefix", "tag", "all"]),
        path=st.sampled_from(PATHS),
        tag=st.sampled_from(["t", "u"]),
        soft=st.booleans(),
    )
    def purge(self, scope: str, path: str, tag: str, soft: bool) -> None:
        self._purge(scope, path, tag, soft=soft)

    def _purge(self, scope: str, path: str, tag: str, *, soft: bool) -> None:
        names = {"key": f"GET {BASE}{path}", "url": BASE + path, "prefix": BASE + path, "tag": tag, "all": ""}[scope]
        self.site.run(self.site.log.append(PurgeScope(scope), names, soft=soft))
        self.purges.append(Purge(scope, names, soft, self.clock.wall()))

    @precondition(lambda self: self.origin.open.is_set())
    @rule(path=st.sampled_from(PATHS), sidecar=st.integers(0, 1))
    def post(self, path: str, sidecar: int) -> None:
        sidecar %= len(self.site.sidecars)
        task = self.site.send(sidecar, request("POST", path, body=b"x"))
        if task.result().status < 400:
            self.purges.append(Purge("url", BASE + path, soft=False, at=self.clock.wall()))

    # The tiers.

    @rule(sidecar=st.integers(0, 1), place=st.none() | st.integers(0, 20))
    def l1_loses(self, sidecar: int, place: int | None) -> None:
        """All of it, or one record."""
        sidecar %= len(self.site.sidecars)
        l1 = self.site.sidecars[sidecar].store.l1
        if place is None:
            l1.clear()
        elif l1.all_keys():
            l1.delete(l1.all_keys()[place % len(l1)])
        for (owner, _), kept in self.held.kept.items():
            if owner == sidecar:
                kept[:] = [one for one in kept if one.in_l2 and not self.l2_down]

    @precondition(lambda self: self.l2 != "none" and not self.l2_down)
    @rule(sidecar=st.integers(0, 1))
    def l2_is_written(self, sidecar: int) -> None:
        sidecar %= len(self.site.sidecars)
        self.site.flush(sidecar)
        behind = self.site.sidecars[sidecar].store._behind
        assert behind is not None
        if behind.stats()["waiting_writes"]:
            return
        for (owner, _), kept in self.held.kept.items():
            for one in kept:
                one.in_l2 = one.in_l2 or owner == sidecar

    @precondition(lambda self: self.l2 != "none")
    @rule(down=st.booleans())
    def l2_goes_or_comes(self, down: bool) -> None:
        self.l2_down = down
        self.site.set_l2(down=down)
        for kept in self.held.kept.values():
            for one in kept:
                one.in_l2 = False

    # What must be.

    def _failed_lately(self, one: Pending, now: float) -> bool:
        """Whether the origin failed for `one`, or so shortly before that it is spared."""
        return any(
            given.failed
            and given.url == one.asked.url
            and (
                given.serial >= one.given_before
                or given.serial in one.open_before
                or given.asked.at > now - SPARED_SECONDS
            )
            for given in self.origin.given
        )

    def _must_answer(self, asked: Asked, sidecar: int) -> Given | None:
        """What must answer `asked` without the origin."""
        if asked.fields.keys() & {"range", "if-range"}:
            return None
        for kept in self.held.of(sidecar, asked.url):
            reusable = not why_not_reused(asked, kept.given, self.clock.wall(), self.purges, failed=False)
            if reusable and kept.selects == meanings(asked.fields, tuple(MEANINGS)):
                return kept.given
        return None

    def _account(self) -> None:
        """Give up what may have been displaced by what the origin gave since."""
        for given in self.origin.given[self.seen :]:
            if not given.over:
                break
            self.seen += 1
            if given.failed:
                continue
            for (owner, url), kept in self.held.kept.items():
                if url != given.url:
                    continue
                if owner != given.sidecar:
                    for one in kept:
                        one.in_l2 = False
                    continue
                selects = meanings(given.asked.fields, tuple(MEANINGS))
                kept[:] = [
                    one
                    for one in kept
                    if one.given.serial > given.serial
                    or one.given is given
                    or (one.given.vary == given.vary and one.selects != selects and not why_not_stored(given))
                ]

    def _check(self, one: Pending, answered: Answered, must: Given | None) -> None:
        asked, now = one.asked, self.clock.wall()
        given = self.origin.given
        was_asked = [other for other in given[one.given_before :] if other.url == asked.url]
        status = answered.status
        refreshing = answered.exchange.cache.result is CacheResult.STALE  # for those who come later
        if asked.directive("only-if-cached") is not None and not refreshing:
            assert len(given) == one.given_before, "the client forbids to ask the origin"
        if must is not None:
            assert refreshing or not was_asked, f"{asked}: the origin was asked, though {must} is stored"
            assert status < 500, f"{asked}: an error, though {must} is stored"
        if status in {502, 504} or (status >= 500 and answered.body == b"trouble"):
            self._check_error(one, answered, now)
            return
        if status == 416:
            assert answered.header("Content-Range") == f"bytes */{BODY_BYTES}"
            assert "range" in asked.fields
            return
        serial = answered.header("X-Serial")
        assert serial is not None
        source = given[int(serial)]
        self._check_source(one, source, now)
        self._check_content(asked, answered, source)
        if source.serial < one.given_before and source.serial not in one.open_before:
            assert answered.header("Age") == str(int(source.age_at(now))), "the age of what is stored"
        self._note(one, answered, source)

    def _check_error(self, one: Pending, answered: Answered, now: float) -> None:
        asked = one.asked
        if answered.status == 504 and asked.directive("only-if-cached") is not None:
            return
        assert self._failed_lately(one, now), f"{asked}: an error from nowhere"
        for kept in self.held.of(one.sidecar, asked.url):
            if kept.selects == meanings(asked.fields, tuple(MEANINGS)) and "range" not in asked.fields:
                reason = why_not_reused(asked, kept.given, now, self.purges, failed=True)
                assert reason, f"{asked}: an error, though {kept.given} may be used stale"

    def _check_source(self, one: Pending, source: Given, now: float) -> None:
        """Whether what the origin gave under this number may answer at all."""
        asked = one.asked
        assert source.url == asked.url
        if source.serial >= one.given_before:
            if source.asked.fields.get("authorization") != asked.fields.get("authorization"):
                assert not why_not_stored(source)
            variant = meanings(asked.fields, source.vary)
            assert variant == meanings(source.asked.fields, source.vary), "another client's variant"
            return
        if source.serial in one.open_before:  # it was on its way when this request came: shared
            assert not why_not_stored(source) or not source.complete
            assert meanings(asked.fields, source.vary) == meanings(source.asked.fields, source.vary)
            since = self.purges[source.asked.purges : asked.purges]
            assert not any(purge.voids(source) and not purge.soft for purge in since), "older than a purge"
            return
        failed = self._failed_lately(one, now)
        reason = why_not_reused(asked, source, now, self.purges, failed=failed)
        assert not reason, f"{asked} got {source} at {now}, which is {reason}"

    def _check_content(self, asked: Asked, answered: Answered, source: Given) -> None:
        status, body = answered.status, answered.body
        modified = source.modified if source.modified is not None else source.asked.at
        if status == 304:
            assert is_not_modified(asked.fields, source.etag, modified), "304 to a client that has another"
            assert body == b""
            return
        alone = source.status == 206 or "range" in asked.fields  # sent on as it was: the origin judged
        if source.status != 404 and not alone and source.serial < len(self.origin.given) and asked.method == "GET":
            fulfilled = is_not_modified(asked.fields, source.etag, source.modified)
            assert not fulfilled or answered.exchange.cache.fwd, "a client that has it gets it again"
        if asked.method == "HEAD":
            assert status in {200, 404}
            return
        if status == 206:
            wanted = ranges_of(asked.fields, source.etag)
            assert wanted, "a part that was not asked for"
            if len(wanted) > 1:
                assert all(source.body[first : last + 1] in body for first, last in wanted)
                return
            ((first, last),) = wanted
            assert answered.header("Content-Range") == f"bytes {first}-{last}/{BODY_BYTES}"
            expected = source.body[first : last + 1]
        else:
            assert status in {200, 404}
            expected = source.body
        if answered.error is not None:
            assert not source.complete, "cut off by nobody"
            assert expected.startswith(body)
        else:
            assert body == expected, f"{asked} got {body!r}, which {source} is not: {answered.exchange.cache}"

    def _note(self, one: Pending, answered: Answered, source: Given) -> None:
        """Take the cache at its word: what it says it stored must answer from now on."""
        report, asked = answered.exchange.cache, one.asked
        if source.serial < one.given_before or source is not self.origin.given[-1]:
            return
        plain = asked.method == "GET" and "range" not in asked.fields and source.status in {200, 304, 404}
        if report.stored and plain and answered.error is None:
            kept = self.held.of(one.sidecar, asked.url)
            selects = meanings(asked.fields, tuple(MEANINGS))
            kept[:] = [other for other in kept if other.given.vary == source.vary and other.selects != selects]
            kept.append(Kept(source, selects))
        lately = [
            other
            for other in self.origin.given
            if other.url == asked.url
            and other is not source
            and other.answered_at > self.clock.wall() - SETTLED_SECONDS
        ]
        if plain and not lately and not report.stored:
            assert why_not_stored(source) or not is_useful(source), f"{source} is not stored: {report}"


class NoL2(CacheMachine):
    pass


class DictL2(CacheMachine):
    l2 = "dict"


class LmdbL2(CacheMachine):
    l2 = "lmdb"


@pytest.fixture(autouse=True, scope="module")
def _quick_retries() -> Any:
    with pytest.MonkeyPatch.context() as patch, capture_logs():  # L2 goes a thousand times
        patch.setattr(write_behind, "RETRY_SECONDS", 0.001)
        yield


def _tried(max_examples: int) -> settings:
    if settings.get_current_profile_name() != "default":
        return settings(suppress_health_check=list(HealthCheck))
    return settings(
        max_examples=max_examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )


TestWithoutL2 = NoL2.TestCase
TestWithoutL2.settings = _tried(40)
TestTwoSidecarsOverOneL2 = DictL2.TestCase
TestTwoSidecarsOverOneL2.settings = _tried(40)
TestWithLmdb = LmdbL2.TestCase
TestWithLmdb.settings = _tried(15)
