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

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache
from typing import ClassVar, Final, TypeAlias
from urllib.parse import parse_qsl

import structlog
from multidict import CIMultiDict
from typing_extensions import override

from plugins.cache_control.fields import add_members, is_freshness, says_nothing, weakens
from plugins.cache_control.settings import FINGERPRINTS, STATIC_FILE, CacheControlSettings, Fingerprints, Rule
from proxy.http.dates import format_date
from proxy.http.message import Headers, Request, Response, make_headers
from proxy.metrics.registry import Counter
from proxy.pipeline.exchange import Exchange, Stats
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay, Services

_log = structlog.get_logger("cache_control")

Change: TypeAlias = Callable[[CIMultiDict[str]], None]

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})


@dataclass(slots=True, eq=False)
class _Compiled:
    """A rule ready for use.

    Attributes:
        fits_type: whether a Content-Type value fits; None: no condition.
        fits_request: as above, of the request.
    """

    rule: Rule
    statuses: frozenset[int]
    fits_type: Callable[[str], bool] | None = None
    fits_request: Callable[[Request], bool] | None = None
    applied: Counter = field(default_factory=Counter)
    withheld: Counter = field(default_factory=Counter)
    overridden: Counter = field(default_factory=Counter)

    def fits(self, request: Request, response: Response) -> bool | None:
        """Whether the rule is about this response; None: it is a 304 that does not say."""
        confirming = response.status == 304
        status = 200 if confirming and 304 not in self.statuses else response.status
        if status not in self.statuses or (self.fits_request is not None and not self.fits_request(request)):
            return False
        if self.fits_type is None:
            return True
        content_type = response.headers.get("Content-Type")
        if content_type is None:
            return None if confirming else False
        return self.fits_type(content_type)

    def touched(self) -> Sequence[str]:
        """The fields of a response that the rule may have replaced."""
        rule = self.rule
        expires = ("Expires",) if rule.expires_seconds is not None else ()
        return (*rule.remove, *(name for name, _ in (*rule.set, *rule.add)), *expires)


class CacheControl(Plugin[CacheControlSettings]):
    """See the module."""

    name: ClassVar[str] = "cache_control"
    settings_type: ClassVar[type[PluginSettings]] = CacheControlSettings
    replay: ClassVar[Replay] = Replay.PURE

    def __init__(self, settings: CacheControlSettings, services: Services) -> None:
        super().__init__(settings, services)
        self._rules = [_compile(rule) for rule in settings.rules]
        if settings.fingerprints is not None:
            self._rules.insert(0, _compile_fingerprints(settings.fingerprints))
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
            headers = origin.copy() if headers is None else headers
            if fits is None:
                _keep_stored(compiled, origin, headers)
            elif self._apply(compiled, exchange, origin, headers, confirming=response.status == 304):
                origin = make_headers(headers.items())
        return response if headers is None else response.with_headers(headers)

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
        compiled: _Compiled,
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
        for name, change in self._changes(rule, headers, confirming=confirming):
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

    def _changes(self, rule: Rule, headers: CIMultiDict[str], *, confirming: bool) -> list[tuple[str, Change]]:
        """Each change with the field that it is about.

        Args:
            confirming: `headers` are those of a 304.
        """
        silent = says_nothing(headers)
        changes: list[tuple[str, Change]] = [(name, _Remove(name)) for name in rule.remove]
        changes += [
            (name, _Set(name, value))
            for name, value in rule.set
            if not (confirming and (silent if is_freshness(name) else name not in headers))
        ]
        changes += [
            (name, _Set(name, value))
            for name, value in rule.default
            if not confirming and (silent if is_freshness(name) else name not in headers)
        ]
        changes += [(name, _Add(name, value)) for name, value in rule.add if not confirming or name in headers]
        if rule.expires_seconds is not None:
            date = format_date(self.services.clock.wall() + rule.expires_seconds)
            changes.append(("Expires", _Set("Expires", date)))
        return changes


@dataclass(frozen=True, slots=True)
class _Remove:
    name: str

    def __call__(self, headers: CIMultiDict[str]) -> None:
        headers.popall(self.name, None)


@dataclass(frozen=True, slots=True)
class _Set:
    name: str
    value: str

    def __call__(self, headers: CIMultiDict[str]) -> None:
        headers[self.name] = self.value


@dataclass(frozen=True, slots=True)
class _Add:
    name: str
    value: str

    def __call__(self, headers: CIMultiDict[str]) -> None:
        add_members(headers, self.name, self.value)


def _keep_stored(compiled: _Compiled, origin: Headers, headers: CIMultiDict[str]) -> None:
    """Let the stored fields stand that the rule may have changed, unless the origin now restricts them."""
    trial = headers.copy()
    for name in compiled.touched():
        trial.popall(name, None)
    if not weakens(origin, trial):
        for name in compiled.touched():
            headers.popall(name, None)


def _compile(rule: Rule) -> _Compiled:
    statuses: set[int] = set()
    for text in rule.status:
        statuses |= set(range(int(text[0]) * 100, int(text[0]) * 100 + 100)) if text.endswith("xx") else {int(text)}
    return _Compiled(rule, frozenset(statuses), _types(rule.content_types) if rule.content_types else None)


def _types(patterns: Sequence[str]) -> Callable[[str], bool]:
    expression = re.compile("|".join(translate(pattern.lower()) for pattern in patterns))

    @lru_cache(maxsize=512)
    def fits(content_type: str) -> bool:
        return expression.match(_media_type(content_type)) is not None

    return fits


def _compile_fingerprints(settings: Fingerprints) -> _Compiled:
    expression = re.compile("|".join(f"(?:{pattern})" for pattern in settings.patterns) or r"(?!)")
    parameters = frozenset(settings.query)

    def fits(request: Request) -> bool:
        if expression.search(request.path) is not None:
            return True
        return (
            bool(parameters and request.query)
            and STATIC_FILE.search(request.path) is not None
            and any(name in parameters for name, _ in parse_qsl(request.query))
        )

    change = (("Cache-Control", settings.cache_control),)
    rule = Rule(name=FINGERPRINTS, set=change) if settings.replace else Rule(name=FINGERPRINTS, default=change)
    return _Compiled(rule, frozenset({200}), lambda text: _media_type(text) not in _HTML, fits)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
