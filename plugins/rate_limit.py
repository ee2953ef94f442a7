"""Rate limit: so many requests of a client, of an API key or on a route, in so much time.

Stands left of the cache, so that a request over the limit costs nothing but its refusal, and cached answers count like
others. Without rules it limits nobody.

Each rule keeps its own account by GCRA (`plugins.gcra`), in this process: with several workers or sidecars each counts
what it sees. All rules must agree before a request is put on any account, so a refused one costs the client nothing.
Routes with the same settings share accounts; a route with settings of its own has its own.

A rule by header counts a request without that header by its address. Nobody has checked that the header's value is a
true key: whoever invents values has a fresh account for each, so a rule by header wants a (wider) one by address beside
it. Values are kept only as keyed digests: they are secrets, and their length is the client's choice.
"""

import secrets
from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from math import floor
from typing import Annotated, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import override

from plugins.gcra import NANOSECONDS, Key, Limit, Meter
from proxy.http.message import Request, Response
from proxy.http.problem import problem
from proxy.metrics.registry import Counter
from proxy.pipeline.exchange import Exchange, Outcome, Stats
from proxy.pipeline.passage import PassagePart
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services
from proxy.pipeline.replay import SERVER_MADE, Arrival, ReplayPart

Network: TypeAlias = IPv4Network | IPv6Network

_NANOSECONDS: Final = float(NANOSECONDS)  # two floats are multiplied in less time, and `floor` takes half of `int`'s
_REMEMBERED_ADDRESSES: Final = 4096
_REMEMBERED_DEBTS: Final = 64
_LONGEST_ADDRESS: Final = 64


class HeaderKey(BaseModel):
    """`key = { header = "X-API-Key" }`: requests with the same value of that field share an account."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    header: Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]


class Rule(BaseModel):
    """One limit.

    Attributes:
        name: in metrics, the log and the `RateLimit` fields; unique.
        rate: requests in `period_seconds`, over time.
        burst: requests at once by a client that was quiet; default: `rate`. The most a client gets in any time is
            `burst` and what `rate` gives for that time.
        key: whose requests count together: those of an `address`, of a header's value, or all of a `route`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    rate: Annotated[int, Field(ge=1, le=10**9)]
    period_seconds: Annotated[float, Field(ge=0.001, le=366 * 86_400)]
    burst: Annotated[int, Field(ge=1, le=10**9)] | None = None
    key: Literal["address", "route"] | HeaderKey = "address"

    @model_validator(mode="after")
    def _check_rate(self) -> Self:
        if self.rate > self.period_seconds * NANOSECONDS:
            raise ValueError("the rate is above one request in a nanosecond")
        return self

    def limit(self) -> Limit:
        """What a meter is told."""
        return Limit.per_period(self.rate, self.period_seconds, self.burst)


class RateLimitSettings(PluginSettings):
    """Settings of `[plugins.rate_limit]`.

    Attributes:
        rules: all of them must agree to a request.
        allow: networks whose clients are never limited, nor counted.
        ipv6_prefix: length in bits of what counts as one IPv6 client: a customer is given a whole /64 or more.
        announce: tell clients what they have left in `RateLimit` and `RateLimit-Policy`
            (draft-ietf-httpapi-ratelimit-headers); a refused one is told in any case.
        dry_run: count and log what would be refused, and refuse nothing.
        max_keys: how many clients a rule holds accounts of at once; some 150 bytes each. Beyond it, who owes least
            is forgotten.
    """

    rules: tuple[Rule, ...] = ()
    allow: tuple[Network, ...] = ()
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    announce: bool = True
    dry_run: bool = False
    max_keys: Annotated[int, Field(ge=1, le=10**8)] = 100_000

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [rule.name for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rule names are taken twice: {', '.join(twice)}")
        return self


class _Account:
    """A rule at work.

    Attributes:
        said: by what they owe, what clients were told lately: most come when they owe nothing, and then owe the same.
    """

    __slots__ = ("admitted", "forgotten", "header", "meter", "name", "per_route", "refused", "said")

    def __init__(self, rule: Rule, max_keys: int) -> None:
        self.name = rule.name
        self.meter = Meter(rule.limit(), max_keys)
        self.header = rule.key.header if isinstance(rule.key, HeaderKey) else None
        self.per_route = rule.key == "route"
        self.admitted = Counter()
        self.refused = Counter()
        self.said: dict[int, str] = {}

    def left(self, owed_ns: int) -> str:
        """What a client that owes so much is told of this rule."""
        text = self.said.get(owed_ns)
        if text is None:
            if len(self.said) >= _REMEMBERED_DEBTS:
                self.said.clear()
            text = self.said[owed_ns] = f'"{self.name}";r={self.meter.remaining(owed_ns)};t={_seconds(owed_ns)}'
        return text


class _Clients(dict[str, str | None]):
    """By address, what stands for the client there: as `identify` says it, and remembered, for to parse an address
    takes 3 µs, and the same clients come again. A look-up takes half of what one by `lru_cache` does.
    """

    def __init__(self, identify: Callable[[str], str | None]) -> None:
        super().__init__()
        self._identify = identify

    def __missing__(self, address: str) -> str | None:
        client = self._identify(address)
        if len(self) >= _REMEMBERED_ADDRESSES:
            self.clear()
        self[address] = client
        return client


class RateLimit(Plugin[RateLimitSettings]):
    """Asks each rule before a request goes on, and answers 429 where one says no."""

    name: ClassVar[str] = "rate_limit"
    settings_type: ClassVar[type[PluginSettings]] = RateLimitSettings
    replay: ClassVar[Replay] = Replay.CHECKED

    def __init__(self, settings: RateLimitSettings, services: Services) -> None:
        super().__init__(settings, services)
        self._clock = services.clock
        self._announced = settings.announce and not settings.dry_run
        self._secret = secrets.token_bytes(16)
        self._accounts = tuple(_Account(rule, settings.max_keys) for rule in settings.rules)
        decisions = services.metrics.counter(
            "sidecache_rate_limit_decisions", "Requests by rule and what it said.", ("rule", "decision")
        )
        for account in self._accounts:
            account.admitted = decisions.labels(account.name, "admitted")
            account.refused = decisions.labels(account.name, "would_refuse" if settings.dry_run else "refused")
        self._policy = ", ".join(
            f'"{account.name}";q={account.meter.limit.burst};w={_seconds(account.meter.limit.horizon_ns)}'
            for account in self._accounts
        )
        self._clients = _Clients(self._identify)

    @override
    async def on_request(self, exchange: Exchange) -> Response | None:
        if not self._accounts:
            return None
        client = self._clients[exchange.request.client]
        if client is None:
            return None
        now_ns = floor(self._clock.monotonic() * _NANOSECONDS)
        keys = [self._key(account, exchange, client) for account in self._accounts]
        owed = self._take(keys, now_ns)
        if owed is None:
            waits = [account.meter.wait_ns(key, now_ns) for account, key in zip(self._accounts, keys, strict=True)]
            return self._refuse(exchange, waits)
        self._count_admitted(1)
        if self._announced:
            self._announce(exchange, self._left(owed))
        return None

    @override
    def on_replay(self, exchange: Exchange, outcome: Outcome) -> ReplayPart | None:
        if not self._accounts:
            return None
        clients = self._clients
        if clients[exchange.request.client] is None:
            return ReplayPart(check=lambda arrival: "" if clients[arrival.client] is None else None)
        if not SERVER_MADE.isdisjoint(self.heeded_fields):
            return ReplayPart(check=lambda _: None)  # the head does not tell what the field says
        # The kept answer may have the fields that announce limits: a client that has none needs another.
        route, announced = exchange.route.name, self._announced
        headers = tuple(account.header.lower().encode() if account.header else None for account in self._accounts)
        first = self._accounts[0]
        take, left, said, per_route = first.meter.take, first.left, first.said, first.per_route

        def check(arrival: Arrival) -> str | None:
            client = clients[arrival.client]
            if client is None:
                return None
            keys = [
                self._key_of(account, route, None if header is None else arrival.field(header), client)
                for account, header in zip(self._accounts, headers, strict=True)
            ]
            owed = self._take(keys, floor(arrival.began * _NANOSECONDS))
            if owed is None:
                return None  # nothing was charged: the pipeline asks again, and refuses with all that belongs to it
            return self._left(owed) if announced else ""

        def check_alone(arrival: Arrival) -> str | None:
            """As `check`, where one rule goes by address or route: the usual thing, in a fifth of the time."""
            client = clients[arrival.client]
            if client is None:
                return None
            owed_ns = take(route if per_route else client, floor(arrival.began * _NANOSECONDS))
            if not owed_ns:
                return None
            return (said.get(owed_ns) or left(owed_ns)) if announced else ""

        return ReplayPart(
            check=check_alone if headers == (None,) else check,
            field="RateLimit" if announced else "",
            tally=self._tally,
        )

    def _tally(self, durations: Sequence[float], _bytes_sent: int) -> None:
        self._count_admitted(len(durations))

    def _count_admitted(self, requests: int) -> None:
        for account in self._accounts:
            account.admitted.value += requests

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        return None if self._accounts else PassagePart(any_target=True)

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return frozenset(account.header.lower() for account in self._accounts if account.header is not None)

    def _take(self, keys: Sequence[Key], now_ns: int) -> list[int] | None:
        """Ask every rule, and charge every account if all agree: what each is owed then, in nanoseconds. Else None."""
        owed: list[int] = []
        for account, key in zip(self._accounts, keys, strict=True):
            owed_ns = account.meter.ask(key, now_ns)
            if not owed_ns:
                return None
            owed.append(owed_ns)
        for account, key, owed_ns in zip(self._accounts, keys, owed, strict=True):
            account.meter.charge(key, now_ns, owed_ns)
        return owed

    @override
    def stats(self) -> Stats:
        return {
            "dry_run": self.settings.dry_run,
            "rules": {
                account.name: {
                    "admitted": int(account.admitted.value),
                    "refused": int(account.refused.value),
                    "keys": len(account.meter),
                    "max_keys": account.meter.max_keys,
                    "forgotten_early": account.meter.forgotten,
                }
                for account in self._accounts
            },
        }

    def _refuse(self, exchange: Exchange, waits_ns: Sequence[int]) -> Response | None:
        """The answer to a request that rules refuse.

        Args:
            waits_ns: for each rule, the time until it would agree.
        """
        refusals = [(account, wait_ns) for account, wait_ns in zip(self._accounts, waits_ns, strict=True) if wait_ns]
        for account, _ in refusals:
            account.refused.value += 1
        longest, wait_ns = max(refusals, key=lambda refusal: refusal[1])
        exchange.notes["rate_limit"] = f"{longest.name} (dry run)" if self.settings.dry_run else longest.name
        if self.settings.dry_run:
            return None
        # When one would be granted, as in `Retry-After`.
        self._announce(exchange, ", ".join([f'"{account.name}";r=0;t={_seconds(ns)}' for account, ns in refusals]))
        seconds = _seconds(wait_ns)
        return problem(
            429,
            detail=f"over the limit {longest.name!r}; try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
            members={"violated-policies": [account.name for account, _ in refusals]},
        )

    def _announce(self, exchange: Exchange, left: str) -> None:
        """Structured fields (RFC 9651): what the rules leave, and in how many seconds there is more."""
        exchange.response_fields += [("RateLimit-Policy", self._policy), ("RateLimit", left)]

    def _left(self, owed: Sequence[int]) -> str:
        """`RateLimit` of a request that was admitted; its time is that in which the burst is whole again.

        Args:
            owed: nanoseconds, by rule.
        """
        return ", ".join([account.left(owed_ns) for account, owed_ns in zip(self._accounts, owed, strict=True)])

    def _key(self, account: _Account, exchange: Exchange, client: str) -> Key:
        value = None if account.header is None else _field(exchange.request, account.header)
        return self._key_of(account, exchange.route.name, value, client)

    def _key_of(self, account: _Account, route: str, value: str | None, client: str) -> Key:
        """Whose account it is.

        Args:
            value: of the account's header, if it goes by one and the request has it.
        """
        if account.per_route:
            return route
        if value:
            return blake2b(value.encode("utf-8", "surrogateescape"), digest_size=16, key=self._secret).digest()
        return client

    def _identify(self, address: str) -> str | None:
        """What stands for the client at `address`: its network prefix; None if it is never limited."""
        try:
            ip = ip_address(address.partition("%")[0])
        except ValueError:
            return address[:_LONGEST_ADDRESS]  # a Unix socket's peer, or what a trusted proxy calls an unknown one
        if ip.version == 6 and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if any(ip in network for network in self.settings.allow):
            return None
        if ip.version == 6:
            return str(ip_network((int(ip), self.settings.ipv6_prefix), strict=False))
        return str(ip)


def _field(request: Request, name: str) -> str | None:
    """All lines of field `name`; None without a value."""
    return ", ".join(request.headers.getall(name, ())) or None


def _seconds(nanoseconds: int) -> int:
    """Whole seconds, rounded up: sooner would be refused."""
    return -(-nanoseconds // NANOSECONDS)
