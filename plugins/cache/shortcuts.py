"""On which terms answers like one that the cache has just given may be given past the pipeline."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from plugins.cache.account import Account
from plugins.cache.asking import FieldGuard
from plugins.cache.fetch import ERROR_STATUSES, Fetcher
from plugins.cache.landing import Kept, Place, Voyage
from plugins.cache.passing import CachePassages
from plugins.cache.recalling import HitRecall, SecondSight, is_plain
from plugins.cache.replaying import EARLY_REFRESHES, HitTallies, HitTerms, may_replay
from plugins.cache.settings import CacheSettings
from proxy.http.message import Request
from proxy.pipeline.exchange import CacheReport, Exchange, Outcome
from proxy.pipeline.passage import OWN_FIELDS, PassagePart
from proxy.pipeline.plugin import Services
from proxy.pipeline.replay import ReplayPart
from proxy.policy import reuse
from proxy.policy.admission import pattern_of
from proxy.policy.model import PolicyOptions
from proxy.storage.base import CacheKey, Entry
from proxy.storage.codec import encode, look


class Shortcuts:
    """Those of one cache.

    Args:
        show: makes the Cache-Status field; None: there is none.

    Attributes:
        passages: the ways past the cache to the upstream.
    """

    def __init__(
        self,
        settings: CacheSettings,
        options: PolicyOptions,
        services: Services,
        fetcher: Fetcher,
        account: Account,
        guard: FieldGuard,
        show: Callable[[CacheReport], str] | None,
    ) -> None:
        self._settings: Final = settings
        self._options = options
        self._rules = settings.key_rules()
        self._clock = services.clock
        self._store = services.store
        self._fetcher = fetcher
        self._guard = guard
        self._show = show
        self._tallies = HitTallies(account, services.store.count_hits)
        self._sight = SecondSight(services.store.l1)
        self.passages = CachePassages(
            fetcher,
            services.store,
            services.clock,
            account,
            self._rules,
            show,
            max_object_bytes=settings.max_object_bytes,
        )

    def replay(self, request: Request, place: Place, entry: Entry, report: CacheReport) -> HitTerms | None:
        """The terms under which a hit may be given again; None: it may not."""
        alike = self._settings.cache_status_clients is None
        if not alike or not may_replay(request, entry, place.marker, self._rules.fields):
            return None
        stored = entry.stored
        origin_seconds = max(0.0, stored.response_time - stored.request_time)
        early = self._settings.early_refresh_beta * origin_seconds * EARLY_REFRESHES
        terms = HitTerms(entry, report, self._show, early)
        keys = (place.key,) if place.marker is None else (CacheKey(place.key.primary), place.key)
        return terms if terms.watch(self._store, *keys) else None

    def replay_part(self, exchange: Exchange) -> ReplayPart:
        """What is to be done about such a hit."""
        return self._tallies.part(exchange.route.name, exchange.cache)

    def recall(self, request: Request, place: Place, entry: Entry, report: CacheReport) -> HitRecall | None:
        """The terms under which hits in L2 like this one may be answered; None: they may not."""
        settings, stored = self._settings, entry.stored
        alike = settings.cache_status_clients is None and not settings.cache_status_key
        if not alike or place.marker is not None or not may_replay(request, entry, None, self._rules.fields):
            return None
        known = look(encode(entry)) if is_plain(request) and reuse.answers_plainly(stored) else None
        if known is None or not OWN_FIELDS.issuperset(map(str.lower, known.shape.own_names)):
            return None
        return HitRecall(
            request,
            known,
            report,
            self._show,
            store=self._store,
            clock=self._clock,
            rules=self._rules,
            beta=settings.early_refresh_beta,
            sight=self._sight,
            nowhere=self._fetcher.nowhere,
        )

    def learn_filling(
        self, exchange: Exchange, voyage: Voyage, place: Place, landed: Kept, report: CacheReport
    ) -> None:
        """Say on which terms requests like this one, which has filled the cache, may go past it."""
        request, entry = exchange.request, landed.entry
        if entry is None or landed.confirmed or landed.names or not landed.shared:
            return
        if not is_plain(request) or self._settings.cache_status_key or self._guard.found(request):
            return
        if not OWN_FIELDS.isdisjoint(map(str.lower, self._settings.tag_headers)):
            return  # each response has tags of its own
        pattern = pattern_of(landed.response, landed.stored, self._options)
        exchange.beyond = voyage.exchange, voyage.tail
        exchange.passage = self.passages.filling(exchange, place, pattern, replace(entry, body=b""), report)

    def passage_part(self, exchange: Exchange, outcome: Outcome) -> PassagePart | None:
        """What is to be done about a request that goes past the cache; None: none may."""
        if outcome.status in ERROR_STATUSES or self._settings.cache_status_clients is not None:
            return None
        return self.passages.part(exchange.route.name, exchange.cache)
