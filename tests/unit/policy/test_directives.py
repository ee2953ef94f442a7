"""Which field governs (RFC 9213 §2.2)."""

import pytest

from proxy.http.message import make_headers
from proxy.policy.directives import governing

CDN = ("CDN-Cache-Control", "max-age=1")
OURS = ("Our-Cache-Control", "max-age=2")
COMMON = ("Cache-Control", "max-age=7")


@pytest.mark.parametrize(
    ("fields", "targets", "field", "max_age"),
    [
        ([], ("CDN-Cache-Control",), "", None),
        ([COMMON], ("CDN-Cache-Control",), "", 7),
        ([COMMON, CDN], ("CDN-Cache-Control",), "CDN-Cache-Control", 1),
        ([COMMON, CDN], (), "", 7),
        ([COMMON, CDN, OURS], ("Our-Cache-Control", "CDN-Cache-Control"), "Our-Cache-Control", 2),
        ([COMMON, CDN, OURS], ("CDN-Cache-Control", "Our-Cache-Control"), "CDN-Cache-Control", 1),
        ([COMMON, OURS], ("CDN-Cache-Control",), "", 7),
        # What is empty or malformed is as good as absent.
        ([COMMON, CDN, ("Our-Cache-Control", "max-age=2,")], ("Our-Cache-Control", "CDN-Cache-Control"), CDN[0], 1),
        ([COMMON, ("CDN-Cache-Control", "")], ("CDN-Cache-Control",), "", 7),
        # Valid, and of no known directive: Cache-Control is not heard all the same.
        ([("Cache-Control", "no-store"), ("CDN-Cache-Control", "none")], ("CDN-Cache-Control",), CDN[0], None),
    ],
)
def test_first_valid_targeted_field_governs(
    fields: list[tuple[str, str]], targets: tuple[str, ...], field: str, max_age: int | None
) -> None:
    found = governing(make_headers(fields), targets)
    assert (found.field, found.directives.max_age) == (field, max_age)
    assert not found.directives.no_store
