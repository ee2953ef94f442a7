"""What is cast past the pipeline is, in everything, what would have been made of the response."""

from dataclasses import replace
from typing import Final

from hypothesis import event, given, settings
from hypothesis import strategies as st

from plugins.cache.filling import READ_AGAIN_SECONDS, Filled, Filling
from proxy.http.dates import format_date
from proxy.http.message import Request, Response, make_headers
from proxy.pipeline.exchange import CacheReport, CacheResult
from proxy.pipeline.passage import OwnValues
from proxy.policy.admission import admit, admit_alike, pattern_of
from proxy.policy.deception import is_promised_by
from proxy.policy.model import PolicyOptions
from proxy.policy.reuse import discard_at
from proxy.storage.base import Entry
from proxy.storage.packed import unpack, url_of
from tests.support.records import NOW, same

REPORT: Final = CacheReport(CacheResult.MISS)
NAMES: Final = ("Date", "ETag", "Last-Modified", "X-Request-ID")


def value_lists(count: int) -> st.SearchStrategy[list[dict[str, str]]]:
    """The own values of so many responses."""
    dates = st.sampled_from([
        format_date(NOW), format_date(NOW - 5), format_date(NOW - 900), "never", "", "Tue, 14-Nov-23 22:13:20 GMT",
        "Tue, 14 nov 2023 22:13:20 GMT",
    ])  # fmt: skip
    values = st.fixed_dictionaries(
        {
            "Date": dates,
            "ETag": st.sampled_from(['"a"', '"b"', '"\udcff"', 'W/"b"', "bare", "", '"x" "y"']),
            "Last-Modified": dates,
            "X-Request-ID": st.text("ab\udcfe", max_size=3),
        }
    )
    return st.lists(values, min_size=1, max_size=count)


class Responses:
    """Responses that are alike, the first of which the pipeline has stored."""

    def __init__(self, first: dict[str, str], present: list[str], caching: str, options: PolicyOptions) -> None:
        self.present = present
        lines = [("Content-Type", "text/css"), ("Cache-Control", caching), ("Content-Length", "1")]
        response = Response(200, make_headers([*lines, *((name, first[name]) for name in present)]), b"x")
        request = Request("GET", "/a.css", host="h")
        stored = admit(request, response, request_time=NOW, response_time=NOW, body_length=1, options=options)
        self.pattern = pattern_of(response, stored, options)
        self.known = Entry(stored, b"x", "http://h/a.css", 0, discard_at(stored), ("t",), "route")

    def own(self, values: dict[str, str], body: bytes) -> OwnValues:
        return [("Content-Length", str(len(body))), *((name, values[name]) for name in self.present)]

    def expected(self, filling: Filling, own: OwnValues, body: bytes) -> Entry | None:
        assert self.pattern is not None
        stored = admit_alike(
            self.pattern,
            own,
            request_time=filling.began,
            response_time=filling.now,
            body_length=len(body),
            no_default_ttl=not is_promised_by(filling.target, self.known.stored.headers),
        )
        if stored.fresh_until <= filling.now:
            return None
        return replace(
            self.known,
            stored=stored,
            body=body,
            url=url_of(filling.where, filling.primary),
            purge_id=filling.purge_id,
            discard_at=discard_at(stored),
        )


def filling(target: str, purge_id: int, delay: float, now: float) -> Filling:
    return Filling(f"GET http://h{target}", len("GET "), target, purge_id, now - delay, now)


STEPS: Final = st.lists(
    st.tuples(
        st.integers(0, 3),  # which values
        st.sampled_from([b"x", b"yy", b""]),
        st.sampled_from(["/b.css", "/c", "/d.js", "/e%2ecss"]),
        st.sampled_from([0, 0, 0, 9]),  # the purge id
        st.sampled_from([0.0, 0.25, -1.0]),  # the delay
        st.sampled_from([0.0, 0.5, 7.0, READ_AGAIN_SECONDS, -3.0]),  # since the last one
    ),
    max_size=12,
)


@settings(max_examples=300)
@given(
    values=value_lists(4),
    present=st.lists(st.sampled_from(NAMES[1:]), unique=True).map(lambda names: ["Date", *names]),
    caching=st.sampled_from([
        "max-age=600", "max-age=6", "s-maxage=600", "max-age=600, stale-while-revalidate=30",
        "max-age=600, stale-if-error=90", "max-age=600, immutable",
    ]),
    options=st.builds(PolicyOptions, stale_if_error=st.sampled_from([0.0, 7.0, 2.25])),
    steps=STEPS,
)  # fmt: skip
def test_it_is_what_would_have_been_admitted(
    values: list[dict[str, str]],
    present: list[str],
    caching: str,
    options: PolicyOptions,
    steps: list[tuple[int, bytes, str, int, float, float]],
) -> None:
    responses = Responses(values[0], present, caching, options)
    if responses.pattern is None:
        event("no pattern")
        return
    filled = Filled(responses.pattern, responses.known, REPORT, None)
    now = NOW
    heads: dict[tuple[int, bytes], OwnValues] = {}  # equal heads have the same object
    for which, body, target, purge_id, delay, later in steps:
        now += later
        chosen = which % len(values)
        own = heads.setdefault((chosen, body), responses.own(values[chosen], body))
        one = filling(target, purge_id, delay, now)
        kept = filled.packed(one, own, body)
        expected = responses.expected(one, own, body)
        event("kept" if kept is not None else "refused")
        if kept is None or expected is None:
            assert kept is None
            assert expected is None
            continue
        packed, fresh_until = kept
        assert same(unpack(packed, one.primary), expected)
        assert fresh_until == expected.stored.fresh_until
        assert packed.body is body
