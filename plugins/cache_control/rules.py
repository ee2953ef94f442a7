"""Rules ready for use: which responses they are about, and the changes they make, each by itself."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from multidict import CIMultiDict

from plugins.cache_control.fields import add_members, is_freshness, says_nothing, weakens
from plugins.cache_control.settings import FINGERPRINTS, STATIC_FILE, Fingerprints, Rule
from plugins.media_types import media_matcher, media_type
from proxy.http.dates import format_date
from proxy.http.message import Headers, Request, Response
from proxy.metrics.registry import Counter

Change: TypeAlias = Callable[[CIMultiDict[str]], None]

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})


@dataclass(slots=True, eq=False)
class CompiledRule:
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

    def changes(self, headers: CIMultiDict[str], *, confirming: bool, now: float) -> list[tuple[str, Change]]:
        """Each change with the field that it is about.

        Args:
            confirming: `headers` are those of a 304.
            now: wall seconds.
        """
        rule = self.rule
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
            date = format_date(now + rule.expires_seconds)
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


def keep_stored(compiled: CompiledRule, origin: Headers, headers: CIMultiDict[str]) -> None:
    """Let the stored fields stand that the rule may have changed, unless the origin now restricts them."""
    trial = headers.copy()
    for name in compiled.touched():
        trial.popall(name, None)
    if not weakens(origin, trial):
        for name in compiled.touched():
            headers.popall(name, None)


def compile_rule(rule: Rule) -> CompiledRule:
    """`rule` with its ranges as sets and expressions."""
    statuses: set[int] = set()
    for text in rule.status:
        statuses |= set(range(int(text[0]) * 100, int(text[0]) * 100 + 100)) if text.endswith("xx") else {int(text)}
    return CompiledRule(rule, frozenset(statuses), media_matcher(rule.content_types) if rule.content_types else None)


def compile_fingerprints(settings: Fingerprints) -> CompiledRule:
    """The settings as a rule about static files."""
    expressions = [re.compile(pattern) for pattern in settings.patterns]
    parameters = frozenset(settings.query)

    def fits(request: Request) -> bool:
        if any(expression.search(request.path) is not None for expression in expressions):
            return True
        return (
            bool(parameters and request.query)
            and STATIC_FILE.search(request.path) is not None
            and any(name in parameters for name, _ in parse_qsl(request.query))
        )

    change = (("Cache-Control", settings.cache_control),)
    rule = Rule(name=FINGERPRINTS, set=change) if settings.replace else Rule(name=FINGERPRINTS, default=change)
    return CompiledRule(rule, frozenset({200}), lambda text: media_type(text) not in _HTML, fits)
