"""Whether two heads ask the same, and what is written down of a request on its way."""

import pytest

from proxy.pipeline.passage import MOST_BYTES, Transcript, ask_alike

HEAD = b"GET /a HTTP/1.1\r\nHost: example.com\r\nCookie: a\r\nCookie: b=c:d\r\n\r\n"


@pytest.mark.parametrize(
    "other",
    [
        HEAD,
        b"GET /a HTTP/1.1\r\nCookie: b=c:d\r\nCookie: a\r\nHost: example.com\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost:example.com\r\ncookie: \ta \r\nCOOKIE: b=c:d\r\n\r\n",
    ],
)
def test_order_case_of_names_and_white_space_do_not_matter(other: bytes) -> None:
    assert ask_alike(HEAD, other)
    assert ask_alike(other, HEAD)


@pytest.mark.parametrize(
    "other",
    [
        HEAD.replace(b"/a", b"/A"),
        HEAD.replace(b"GET", b"get"),
        HEAD.replace(b"Cookie: a", b"Cookie: A"),
        HEAD.replace(b"Cookie: a\r\n", b""),
        HEAD.replace(b"Cookie: a\r\n", b"Cookie: a\r\nCookie: a\r\n"),
        HEAD.replace(b"Cookie: a\r\nCookie: b=c:d", b"Cookie: ab=c:d"),
        HEAD.replace(b"b=c:d", b"b=c: d"),
        HEAD + b"x",
    ],
)
def test_anything_else_does(other: bytes) -> None:
    assert not ask_alike(HEAD, other)


def test_of_a_long_response_no_more_is_written_down_than_is_of_use() -> None:
    transcript = Transcript()
    for _ in range(100):
        assert not transcript.arrived(b"x" * 10_000), "the parser is to see it, too"
    assert MOST_BYTES < len(transcript.received) < 2 * MOST_BYTES
