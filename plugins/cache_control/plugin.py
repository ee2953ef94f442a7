"""Cache control: rules about what responses tell caches, this one and those behind it.

Stands right of the cache, so what a rule does is done once per upstream response, obeyed by the cache, and stored.

A rule never makes shared what its origin did not: a change by which `private` or `no-store` would be lost, or a
response with a cookie or to credentials become shared, is withheld, and the other changes of the rule are made. With
`override = true` it is made; the log says so at start, and a counter each time.

A 304 updates the stored response that it confirms (RFC 9111 §3.2), so rules are for 304s too. What it does not say
stays as it is stored, the rule's work included; so only fields that it has are changed. A rule with a condition on the
type cannot be decided on a 304, which seldom names one: there the fields are dropped that the rule may have changed,
and the stored ones stay.
"""

from typing import ClassVar, Final

import structlog
from multidict import CIMultiDict
from typing_extensions import override

from plugins.cache_control.fields import is_freshness, weakens
from plugins.cache_control.rules import CompiledRule, compile_fingerprints, compile_rule, keep_stored
from plugins.cache_control.settings import CacheControlSettings
from proxy.http.message import Headers, Response, make_headers
from proxy.pipeline.exchange import Exchange, ExchangeKey, Outcome, Stats
from proxy.pipeline.passage import PassagePart
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services

_log = structlog.get_logger("cache_control")


_HEEDED: Final = frozenset({"authorization"})
_CHANGED: Final = ExchangeKey[bool]("cache_control.changed")


class CacheControl(Plugin[CacheControlSettings]):
    """See the module."""

    name: ClassVar[str] = "cache_control"
    settings_type: ClassVar[type[PluginSettings]] = CacheControlSettings
    replay: ClassVar[Replay] = Replay.PURE

    def __init__(self, settings: CacheControlSettings, services: Services) -> None:
        super().__init__(settings, services)
        self._rules = [compile_rule(rule) for rule in settings.rules]
        if settings.fingerprints is not None:
            self._rules.insert(0, compile_fingerprints(settings.fingerprints))
        results = services.metrics.counter(
            "sidecache_cache_control_responses",
            "Responses that a rule was applied to, had a change withheld from, or took a restriction from.",
            ("rule", "result"),
        )
        for compiled in self._rules:
            compiled.applied = results.labels(compiled.rule.name, "applied")
            compiled.withheld = results.labels(compiled.rule.name, "withheld")
            compiled.overridden = results.labels(compiled.rule.name, "overridden")

    @override
    async def start(self) -> None:
        for rule in self.settings.rules:
            if rule.override:
                _log.warning("a rule may make private responses shared", rule=rule.name)

    @override
    async def on_response(self, exchange: Exchange, response: Response) -> Response:
        request = exchange.request
        origin = response.headers  # what must not be weakened
        headers: CIMultiDict[str] | None = None
        for compiled in self._rules:
            fits = compiled.fits(request, response)
            if fits is False:
                continue
            exchange.put(_CHANGED, True)
            headers = origin.copy() if headers is None else headers
            if fits is None:
                keep_stored(compiled, origin, headers)
            elif self._apply(compiled, exchange, origin, headers, confirming=response.status == 304):
                origin = make_headers(headers.items())
        return response if headers is None else response.with_headers(headers)

    @override
    def on_passage(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        if exchange.take(_CHANGED):
            return None
        by_target = any(compiled.fits_request is not None for compiled in self._rules)
        return PassagePart(any_target=not by_target)

    @property
    @override
    def heeded_fields(self) -> frozenset[str]:
        return _HEEDED

    @override
    def stats(self) -> Stats:
        return {
            "rules": {
                compiled.rule.name: {
                    "applied": int(compiled.applied.value),
                    "withheld": int(compiled.withheld.value),
                    "overridden": int(compiled.overridden.value),
                }
                for compiled in self._rules
            }
        }

    def _apply(
        self,
        compiled: CompiledRule,
        exchange: Exchange,
        origin: Headers,
        headers: CIMultiDict[str],
        *,
        confirming: bool,
    ) -> bool:
        """Make those of the rule's changes that may be made. Returns whether a restriction was overridden."""
        rule = compiled.rule
        cookie, credentials = "Set-Cookie" in origin, "Authorization" in exchange.request.headers
        withheld = False
        for name, change in compiled.changes(headers, confirming=confirming, now=self.services.clock.wall()):
            if rule.override or not is_freshness(name):
                change(headers)
                continue
            trial = headers.copy()
            change(trial)
            if weakens(origin, trial, cookie=cookie, credentials=credentials):
                withheld = True
            else:
                change(headers)
        compiled.applied.value += 1
        if withheld:
            compiled.withheld.value += 1
            exchange.notes["cache_control"] = f"{rule.name}: restriction kept"
        if not rule.override or not weakens(origin, headers, cookie=cookie, credentials=credentials):
            return False
        compiled.overridden.value += 1
        exchange.notes["cache_control"] = f"{rule.name}: restriction overridden"
        return True
