"""What is stored of responses that fill the cache past the pipeline.

Theory of operation. What the pattern of a response says holds for all that are like it: what differs is the values of
their own fields, and when they came. Their entries are cast from a mould (`storage/mould.py`) that one of them left.
Where a head is equal to the last one to the letter, nothing is read from it; where own values differ, these alone are.
Where that is not enough, the entry is made as ever, and leaves another mould.
"""

from collections.abc import Callable
from typing import Final, final

from proxy.pipeline.exchange import CacheReport
from proxy.pipeline.passage import OwnValues
from proxy.policy.admission import Pattern, admit_alike
from proxy.policy.deception import is_promised_by
from proxy.policy.recurring import Recurring
from proxy.policy.reuse import discard_at
from proxy.policy.status import StatusByTtl
from proxy.storage.base import Entry, PurgeId
from proxy.storage.mould import Mould, mould_of
from proxy.storage.packed import PackedEntry, pack, url_of
from proxy.values import value

READ_AGAIN_SECONDS: Final = 60.0
"""How long what was read from a head is taken for what would be read now: a date with a two-digit year means another
one some day."""


@value
class Filling:
    """One response that fills the cache.

    Attributes:
        primary: key of its request.
        where: its URI, see `PackedEntry.url`.
        target: the end of that.
        purge_id: of its entry.
        began, now: wall seconds when its request was sent, and now that it is here.
    """

    primary: str
    where: str | int
    target: str
    purge_id: PurgeId
    began: float
    now: float


@final
class Filled:
    """What such responses have in common.

    Args:
        entry: one of them, as it is stored, but for its body.
        report: the cache's account of it.
        show: makes the Cache-Status field; None: there is none.
    """

    __slots__ = ("_entry", "_last", "_mould", "_pattern", "_read_at", "_recurring", "_status")

    def __init__(
        self, pattern: Pattern, entry: Entry, report: CacheReport, show: Callable[[CacheReport], str] | None
    ) -> None:
        self._pattern = pattern
        self._entry = entry
        self._status = None if show is None else StatusByTtl(show(report.with_ttl(0.0)))
        self._recurring = Recurring(pattern, entry.stored)
        self._mould: Mould | None = None
        # What it was made for, and when that was read.
        self._last: tuple[OwnValues, PurgeId, bool] = (), 0, False
        self._read_at = 0.0

    def packed(self, filling: Filling, own: OwnValues, body: bytes) -> tuple[PackedEntry, float] | None:
        """What is stored of a response with these own values, and until when it is fresh; None: the pipeline has to
        tell.
        """
        path = filling.target.partition("?")[0]
        no_default_ttl = not is_promised_by(path, self._entry.stored.headers)
        last_own, last_purge_id, last_no_default_ttl = self._last
        mould, now = self._mould, filling.now
        if (
            mould is None
            or own is not last_own
            or filling.purge_id != last_purge_id
            or no_default_ttl is not last_no_default_ttl
            or not 0.0 <= now - self._read_at < READ_AGAIN_SECONDS
        ):
            mould = None
            if self._mould is not None and no_default_ttl is last_no_default_ttl:
                mould = self._mould.changed(own, purge_id=filling.purge_id, body_bytes=len(body), now=now)
            if mould is None:
                return self._anew(filling, own, body, no_default_ttl=no_default_ttl)
            self._remember(mould, filling, own, no_default_ttl=no_default_ttl)
        times = self._recurring.times(mould.date, filling.began, now)
        if times is None:
            return None
        return mould.cast(times, filling.where, body), times[-1]

    def _remember(self, mould: Mould, filling: Filling, own: OwnValues, *, no_default_ttl: bool) -> None:
        self._mould = mould
        self._last = own, filling.purge_id, no_default_ttl
        self._read_at = filling.now

    def _anew(
        self, filling: Filling, own: OwnValues, body: bytes, *, no_default_ttl: bool
    ) -> tuple[PackedEntry, float] | None:
        stored = admit_alike(
            self._pattern,
            own,
            request_time=filling.began,
            response_time=filling.now,
            body_length=len(body),
            no_default_ttl=no_default_ttl,
        )
        if stored.fresh_until <= filling.now:
            return None
        known = self._entry
        url = url_of(filling.where, filling.primary)
        entry = Entry(stored, body, url, filling.purge_id, discard_at(stored), known.tags, known.route)
        said = [text for name, text in own if name.lower() == "date"]
        # Where it was no date, it is the time of the response by now, and another one's is another.
        mould = mould_of(entry) if said == stored.headers.getall("Date") else None
        if mould is None:
            self._mould = None
        else:
            self._recurring = Recurring(self._pattern, stored)
            self._remember(mould, filling, own, no_default_ttl=no_default_ttl)
        return pack(entry, filling.primary), stored.fresh_until

    def made(self, ttl: float) -> tuple[str, ...]:
        """See `Ticket.keep`."""
        return () if self._status is None else (self._status.at(ttl),)
