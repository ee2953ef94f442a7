"""Who is counted, what is refused, and what clients are told."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import http_sf
import orjson
import pytest
from pydantic import ValidationError

from plugins.rate_limit import RateLimit, RateLimitSettings
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.plugin import Replay
from proxy.pipeline.replay import ReplayPart
from proxy.pipeline.routes import Route
from proxy.server.heads import DirectCaller
from tests.support.clock import FakeClock
from tests.support.plugin_harness import PluginHarness, harness, request, response

PER_ADDRESS: Mapping[str, object] = {"name": "per-address", "rate": 3, "period_seconds": 60}


def settings(*rules: Mapping[str, object], **more: Any) -> RateLimitSettings:
    return RateLimitSettings.model_validate({"rules": rules, **more})


def limited(chosen: RateLimitSettings, **more: Any) -> AbstractAsyncContextManager[PluginHarness]:
    return harness(lambda services: [RateLimit(chosen, services)], lambda _: response(200, b"fine"), **more)


def figures(sidecar: PluginHarness) -> Mapping[str, int]:
    """What the stats say of the rule by address."""
    rules = sidecar.pipeline.plugins[0].stats()["rules"]
    assert isinstance(rules, dict)
    return cast("Mapping[str, int]", rules["per-address"])


async def statuses(sidecar: PluginHarness, count: int, **more: Any) -> list[int]:
    return [(await sidecar.get(**more)).status for _ in range(count)]


async def test_without_rules_nobody_is_limited_and_nothing_is_said() -> None:
    async with limited(settings()) as sidecar:
        answers = [await sidecar.get() for _ in range(200)]
    assert {answer.status for answer in answers} == {200}
    assert answers[-1].header("RateLimit") is None


async def test_a_client_over_its_limit_is_refused_and_told_when_to_come_back() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        assert await statuses(sidecar, 3) == [200, 200, 200]
        refused = await sidecar.get()
        assert len(sidecar.upstream.requests) == 3
    assert refused.status == 429
    assert refused.header("Retry-After") == "20"
    assert refused.header("Content-Type") == "application/problem+json"
    assert refused.header("Cache-Control") == "no-store"
    document = orjson.loads(refused.body)
    assert document["status"] == 429
    assert document["violated-policies"] == ["per-address"]
    assert "20 s" in document["detail"]
    assert refused.exchange.answered_by == "rate_limit"
    assert refused.exchange.notes == {"rate_limit": "per-address"}


async def test_who_waits_as_told_is_served_and_who_comes_sooner_is_not() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        await statuses(sidecar, 4)
        sidecar.clock.advance(19)
        assert await statuses(sidecar, 1) == [429]
        sidecar.clock.advance(1)
        assert await statuses(sidecar, 2) == [200, 429]


async def test_being_refused_does_not_lengthen_the_wait() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        await statuses(sidecar, 500)
        sidecar.clock.advance(20)
        assert await statuses(sidecar, 1) == [200]


async def test_a_burst_smaller_than_the_rate_spreads_requests() -> None:
    async with limited(settings({**PER_ADDRESS, "burst": 1})) as sidecar:
        assert await statuses(sidecar, 2) == [200, 429]
        sidecar.clock.advance(20)
        assert await statuses(sidecar, 2) == [200, 429]


async def test_the_wall_clock_has_no_say() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        await statuses(sidecar, 3)
        sidecar.clock.jump(86_400)
        assert await statuses(sidecar, 1) == [429]


async def test_fields_on_every_answer_are_structured_and_count_down() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        answers = [await sidecar.get() for _ in range(4)]
    assert [answer.header("RateLimit") for answer in answers] == [
        '"per-address";r=2;t=20',
        '"per-address";r=1;t=40',
        '"per-address";r=0;t=60',
        '"per-address";r=0;t=20',
    ]
    assert {answer.header("RateLimit-Policy") for answer in answers} == {'"per-address";q=3;w=60'}
    policy = answers[0].header("RateLimit-Policy")
    assert policy is not None
    assert http_sf.parse(policy.encode(), tltype="list") == [("per-address", {"q": 3, "w": 60})]


async def test_fields_stand_on_answers_of_others_too() -> None:
    def script(_: Request) -> Response:
        return response(503)

    async with harness(lambda services: [RateLimit(settings(PER_ADDRESS), services)], script) as sidecar:
        assert (await sidecar.get()).header("RateLimit") == '"per-address";r=2;t=20'


async def test_admitted_clients_are_told_nothing_if_so_wished_but_refused_ones_are() -> None:
    async with limited(settings(PER_ADDRESS, announce=False)) as sidecar:
        answers = [await sidecar.get() for _ in range(4)]
    assert answers[0].header("RateLimit") is None
    assert answers[3].header("RateLimit") == '"per-address";r=0;t=20'


async def test_each_address_has_an_account() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        assert await statuses(sidecar, 4, client="192.0.2.1") == [200, 200, 200, 429]
        assert await statuses(sidecar, 4, client="192.0.2.2") == [200, 200, 200, 429]


async def test_clients_are_limited_that_come_again_after_more_others_than_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plugins.rate_limit._REMEMBERED_ADDRESSES", 2)
    clients = [f"192.0.2.{number}" for number in range(7)]
    async with limited(settings(PER_ADDRESS, allow=["192.0.2.6"])) as sidecar:
        answers = [[status for one in clients for status in await statuses(sidecar, 1, client=one)] for _ in range(4)]
    assert answers == [[200] * 7] * 3 + [[429] * 6 + [200]]


async def test_an_ipv6_network_is_one_client() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        await statuses(sidecar, 3, client="2001:db8:0:1::1")
        assert await statuses(sidecar, 1, client="2001:db8:0:1:ffff::2") == [429]
        assert await statuses(sidecar, 1, client="2001:db8:0:2::1") == [200]


async def test_the_size_of_an_ipv6_client_is_a_setting() -> None:
    async with limited(settings(PER_ADDRESS, ipv6_prefix=48)) as sidecar:
        await statuses(sidecar, 3, client="2001:db8:0:1::1")
        assert await statuses(sidecar, 1, client="2001:db8:0:2::1") == [429]


async def test_an_ipv4_address_in_ipv6_is_that_ipv4_address() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        await statuses(sidecar, 3, client="::ffff:192.0.2.1")
        assert await statuses(sidecar, 1, client="192.0.2.1") == [429]
        assert await statuses(sidecar, 1, client="::ffff:192.0.2.2") == [200]


async def test_a_zone_does_not_make_another_client() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        await statuses(sidecar, 3, client="fe80::1%eth0")
        assert await statuses(sidecar, 1, client="fe80::1%eth1") == [429]


@pytest.mark.parametrize("client", ["", "unknown", "_hidden"])
async def test_clients_without_an_ip_address_share_an_account_by_what_they_are_called(client: str) -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        assert await statuses(sidecar, 4, client=client) == [200, 200, 200, 429]
        assert await statuses(sidecar, 1, client="another") == [200]


async def test_allowed_networks_are_neither_limited_nor_counted() -> None:
    async with limited(settings(PER_ADDRESS, allow=["10.0.0.0/8", "2001:db8::/32"])) as sidecar:
        assert set(await statuses(sidecar, 20, client="10.1.2.3")) == {200}
        assert set(await statuses(sidecar, 20, client="2001:db8::7")) == {200}
        assert set(await statuses(sidecar, 20, client="::ffff:10.0.0.1")) == {200}
        assert await statuses(sidecar, 4, client="11.0.0.1") == [200, 200, 200, 429]
        assert figures(sidecar)["keys"] == 1


BY_KEY: Mapping[str, object] = {"name": "key", "rate": 2, "period_seconds": 10, "key": {"header": "X-API-Key"}}


async def test_each_api_key_has_an_account_wherever_it_comes_from() -> None:
    async with limited(settings(BY_KEY)) as sidecar:
        assert await statuses(sidecar, 2, headers={"X-API-Key": "a"}, client="192.0.2.1") == [200, 200]
        assert await statuses(sidecar, 1, headers={"x-api-key": "a"}, client="192.0.2.2") == [429]
        assert await statuses(sidecar, 1, headers={"X-API-Key": "b"}, client="192.0.2.1") == [200]


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}])
async def test_without_an_api_key_the_address_counts(headers: dict[str, str]) -> None:
    async with limited(settings(BY_KEY)) as sidecar:
        assert await statuses(sidecar, 3, headers=headers) == [200, 200, 429]
        assert await statuses(sidecar, 1, headers=headers, client="192.0.2.9") == [200]


async def test_api_keys_are_not_held_in_memory() -> None:
    async with limited(settings(BY_KEY)) as sidecar:
        await sidecar.get(headers={"X-API-Key": "hunter2" * 1000})
        (plugin,) = sidecar.pipeline.plugins
        assert isinstance(plugin, RateLimit)
        assert [len(key) for key in plugin._accounts[0].meter._due] == [16]


async def test_a_rule_by_route_counts_all_its_clients_together() -> None:
    rule = {"name": "route", "rate": 2, "period_seconds": 10, "key": "route"}
    async with limited(settings(rule), routes=[Route("a", "/a")]) as sidecar:
        assert await statuses(sidecar, 2, target="/a", client="192.0.2.1") == [200, 200]
        assert await statuses(sidecar, 1, target="/a", client="192.0.2.2") == [429]
        assert await statuses(sidecar, 1, target="/b", client="192.0.2.2") == [200]


async def test_a_request_that_one_rule_refuses_is_on_no_account() -> None:
    wide = {"name": "wide", "rate": 5, "period_seconds": 1000}
    narrow = {"name": "narrow", "rate": 1, "period_seconds": 1}
    async with limited(settings(wide, narrow)) as sidecar:
        refused = 0
        for _ in range(5):
            refused += (await statuses(sidecar, 4)).count(429)
            sidecar.clock.advance(1)
        assert refused == 15
        last = await sidecar.get()
    assert last.status == 429
    assert last.header("RateLimit") == '"wide";r=0;t=195'
    assert last.header("RateLimit-Policy") == '"wide";q=5;w=1000, "narrow";q=1;w=1'


async def test_the_longest_wait_is_the_one_told() -> None:
    short = {"name": "short", "rate": 1, "period_seconds": 5}
    long = {"name": "long", "rate": 1, "period_seconds": 50}
    async with limited(settings(short, long)) as sidecar:
        await sidecar.get()
        refused = await sidecar.get()
    assert refused.header("Retry-After") == "50"
    assert refused.header("RateLimit") == '"short";r=0;t=5, "long";r=0;t=50'
    assert orjson.loads(refused.body)["violated-policies"] == ["short", "long"]


async def test_a_dry_run_refuses_nothing_but_counts_and_notes() -> None:
    async with limited(settings(PER_ADDRESS, dry_run=True)) as sidecar:
        answers = [await sidecar.get() for _ in range(5)]
        rule = figures(sidecar)
    assert [answer.status for answer in answers] == [200] * 5
    assert (rule["admitted"], rule["refused"]) == (3, 2)
    assert answers[3].exchange.notes == {"rate_limit": "per-address (dry run)"}
    assert answers[2].exchange.notes == {}
    assert all(answer.header("RateLimit") is None for answer in answers)


async def test_decisions_are_counted_by_rule() -> None:
    async with limited(settings(PER_ADDRESS)) as sidecar:
        await statuses(sidecar, 5)
        family = sidecar.services.metrics.counter("sidecache_rate_limit_decisions", "", ("rule", "decision"))
        rule = figures(sidecar)
    assert family.labels("per-address", "admitted").value == 3
    assert family.labels("per-address", "refused").value == 2
    assert rule == {"admitted": 3, "refused": 2, "keys": 1, "max_keys": 100_000, "forgotten_early": 0}


async def test_more_clients_than_accounts_are_bounded_and_the_limited_one_stays_limited() -> None:
    async with limited(settings(PER_ADDRESS, max_keys=50), clock=FakeClock()) as sidecar:
        await statuses(sidecar, 4, client="192.0.2.1")
        for number in range(1000):
            await sidecar.get(client=f"198.51.{number >> 8}.{number & 255}")
        assert await statuses(sidecar, 1, client="192.0.2.1") == [429]
        rule = figures(sidecar)
    assert rule["keys"] == 50
    assert rule["forgotten_early"] == 951


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rules": [PER_ADDRESS, PER_ADDRESS]}, "names are taken twice: per-address"),
        ({"rules": [{**PER_ADDRESS, "rate": 0}]}, "greater than or equal to 1"),
        ({"rules": [{**PER_ADDRESS, "rate": 10**9, "period_seconds": 0.5}]}, "above one request in a nanosecond"),
        ({"rules": [{**PER_ADDRESS, "burst": 0}]}, "greater than or equal to 1"),
        ({"rules": [{**PER_ADDRESS, "name": 'a"b'}]}, "pattern"),
        ({"rules": [{**PER_ADDRESS, "key": "cookie"}]}, "'address' or 'route'"),
        ({"rules": [{**PER_ADDRESS, "key": {"header": "X Y"}}]}, "pattern"),
        ({"rules": [{**PER_ADDRESS, "per": 1}]}, "Extra inputs"),
        ({"allow": ["10.0.0.1/8"]}, "not a valid IPv4 network"),
        ({"max_keys": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RateLimitSettings.model_validate(wrong)


@pytest.mark.parametrize("rules", [(PER_ADDRESS,), (PER_ADDRESS, {**PER_ADDRESS, "name": "other", "rate": 5})])
async def test_an_answer_given_again_is_for_clients_that_are_limited_or_for_those_that_are_not(
    rules: tuple[Mapping[str, object], ...],
) -> None:
    anybody, friend = (DirectCaller(address, lambda: "id") for address in ("192.0.2.1", "10.0.0.1"))
    async with limited(settings(*rules, allow=["10.0.0.0/8"])) as sidecar:
        (plugin,) = sidecar.pipeline.plugins
        anybody.began = friend.began = sidecar.clock.monotonic()

        def part(client: str) -> ReplayPart:
            exchange = Exchange(request=request(client=client), route=Route("r"), id="x", started=0.0)
            given = plugin.on_replay(exchange, Outcome(status=200, bytes_sent=5, duration=0.1))
            assert given is not None and given.check is not None
            return given

        free, counted = part("10.0.0.2"), part("192.0.2.2")
        assert free.check is not None and counted.check is not None
        assert (free.field, counted.field) == ("", "RateLimit")
        assert [free.check(one) for one in (friend, anybody)] == ["", None]
        told = counted.check(anybody)
        assert told is not None and told.startswith('"per-address";r=2;t=20')
        assert counted.check(friend) is None
        assert [counted.check(anybody) is None for _ in range(3)] == [False, False, True]
        anybody.began += 20
        assert counted.check(anybody) is not None
        assert (free.tally is None, counted.tally is None) == (True, False)


def test_an_answer_replayed_without_it_needs_its_consent() -> None:
    assert RateLimit.replay is Replay.CHECKED


def test_settings_are_hashed_dumped_and_read_back() -> None:
    chosen = RateLimitSettings.model_validate({"rules": [PER_ADDRESS, BY_KEY], "allow": ["10.0.0.0/8"]})
    assert hash(chosen) == hash(
        RateLimitSettings.model_validate({"rules": [PER_ADDRESS, BY_KEY], "allow": ["10.0.0.0/8"]})
    )
    assert RateLimitSettings.model_validate_json(chosen.model_dump_json()) == chosen
    assert RateLimitSettings.model_json_schema()["type"] == "object"
