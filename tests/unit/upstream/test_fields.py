"""Heads on the upstream's side: what goes out, what comes in, and that remembering shapes changes neither."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from proxy.errors import ClientError
from proxy.http.body import BodyStream
from proxy.http.headers import end_to_end
from proxy.http.message import Request, from_wire, make_headers, to_wire
from proxy.upstream import fields
from proxy.upstream.fields import request_head, response_fields

Lines = list[tuple[str, str]]


class Nothing(BodyStream):
    """A body that is not read here."""

    @override
    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    @override
    async def aclose(self) -> None:
        pass


def written(lines: Lines, *, protocol: str = "", **request: Any) -> bytes:
    """The head of a request with these fields."""
    made: dict[str, Any] = {"method": "GET", "target": "/t", **request}
    return request_head(Request(headers=make_headers(lines), **made), "a.test", protocol)


class TestRequestHead:
    def test_fields_go_out_in_their_order_with_their_spelling_and_every_line(self) -> None:
        lines = [("X-B", "1"), ("x-a", "two"), ("X-B", "3"), ("Empty", "")]
        head = b"GET /t HTTP/1.1\r\nHost: a.test\r\nX-B: 1\r\nx-a: two\r\nX-B: 3\r\nEmpty: \r\n\r\n"
        assert written(lines) == head
        assert written(lines) == head, "the second time the shape is remembered"

    def test_what_this_hop_decides_is_not_copied(self) -> None:
        lines = [
            ("host", "evil"), ("Content-Length", "7"), ("TRANSFER-ENCODING", "chunked"), ("Connection", "close"),
            ("Upgrade", "x"), ("Keep-Alive", "5"), ("Kept", "1"),
        ]  # fmt: skip
        assert written(lines) == b"GET /t HTTP/1.1\r\nHost: a.test\r\nKept: 1\r\n\r\n"

    @pytest.mark.parametrize("text", ["%", "%s", "%(x)s", "100%%", "{}", "{0}"])
    def test_nothing_in_a_request_is_taken_for_a_place_in_a_template(self, text: str) -> None:
        name = text if text in ("%", "%s", "100%%") else "X"
        head = written([(name, text)], target=f"/{text}")
        assert head == f"GET /{text} HTTP/1.1\r\nHost: a.test\r\n{name}: {text}\r\n\r\n".encode()

    @pytest.mark.parametrize(
        ("request_", "end"),
        [
            ({}, b""),
            ({"method": "DELETE"}, b""),
            ({"method": "POST"}, b"Content-Length: 0\r\n"),
            ({"method": "POST", "body": b"four"}, b"Content-Length: 4\r\n"),
            ({"body": b"four"}, b"Content-Length: 4\r\n"),
            ({"method": "POST", "body": Nothing()}, b"Transfer-Encoding: chunked\r\n"),
        ],
        ids=["none", "none with DELETE", "none with POST", "POST", "GET", "stream"],
    )
    def test_the_framing_is_that_of_the_body(self, request_: dict[str, Any], end: bytes) -> None:
        assert written([], **request_).endswith(b"Host: a.test\r\n" + end + b"\r\n")

    @pytest.mark.parametrize(
        ("said", "end"),
        [
            ("12", b"Content-Length: 12"),
            ("1" * 19, b"Transfer-Encoding: chunked"),
            ("x", b"Transfer-Encoding: chunked"),
        ],
    )
    def test_a_stream_is_as_long_as_its_client_said_if_that_is_a_length(self, said: str, end: bytes) -> None:
        head = written([("Content-Length", said)], method="POST", body=Nothing())
        assert head.endswith(b"\r\n" + end + b"\r\n\r\n")
        assert head.lower().count(b"content-length") + head.lower().count(b"transfer-encoding") == 1

    @pytest.mark.parametrize("bad", ["a\r\nX: 1", "a\rb", "a\nb", "a\0b"])
    @pytest.mark.parametrize("place", ["value", "last value", "protocol", "name", "method", "target"])
    def test_what_would_be_another_line_is_refused_wherever_it_stands(self, place: str, bad: str) -> None:
        lines = {
            "value": [("X", bad), ("Y", "1")], "last value": [("Y", "1"), ("X", bad)], "name": [(bad, "1")],
        }  # fmt: skip
        changed: dict[str, dict[str, Any]] = {
            "method": {"method": bad},
            "target": {"target": f"/{bad}"},
            "protocol": {"protocol": bad},
        }
        with pytest.raises(ClientError):
            written(lines.get(place, []), **changed.get(place, {}))

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "ä", "a\t"])
    def test_a_name_that_is_no_token_is_refused_each_time(self, name: str) -> None:
        for _ in range(2):
            with pytest.raises(ClientError):
                written([(name, "1")])

    @pytest.mark.parametrize("method", ["", "GET ", "G(T", "GÉT"])
    def test_a_method_that_is_no_token_is_refused(self, method: str) -> None:
        with pytest.raises(ClientError):
            written([], method=method)

    def test_any_bytes_come_out_as_they_went_in(self) -> None:
        raw = bytes(range(0x80, 0x100)) + "é€😀".encode()
        head = written([("X", from_wire(raw))], target="/" + from_wire(raw))
        assert head == b"GET /" + raw + b" HTTP/1.1\r\nHost: a.test\r\nX: " + raw + b"\r\n\r\n"

    def test_a_switch_of_protocols_is_asked_for(self) -> None:
        assert written([], protocol="chat").endswith(b"\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")


NAMES = st.sampled_from([
    "Connection", "connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection",
    "ETag", "Set-Cookie", "X-One", "x-one", "Content-Length", "Date",
])  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(["keep-alive", "Keep-Alive", "close", "X-One", "x-one, close", "ETag,,Date", 'a="x, y"', ""]),
    st.binary(max_size=8).map(lambda raw: from_wire(bytes(byte for byte in raw if byte not in b"\r\n\0"))),
)


class TestResponseFields:
    @given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
    def test_they_are_what_end_to_end_leaves_of_all(self, lines: Lines) -> None:
        names, values = tuple(to_wire(name) for name, _ in lines), [to_wire(value) for _, value in lines]
        for _ in range(2):
            assert list(response_fields(names, values).items()) == list(end_to_end(make_headers(lines)).items())

    def test_names_compare_without_regard_to_case(self) -> None:
        headers = response_fields((b"eTaG", b"SET-cookie", b"Set-Cookie"), [b'"x"', b"a", b"b"])
        assert (headers["ETag"], headers.getall("set-cookie")) == ('"x"', ["a", "b"])


class TestWhatIsRemembered:
    def test_it_has_an_end(self) -> None:
        for number in range(3 * fields._MOST_SHAPES):
            written([(f"X-{number}", "1")])
            response_fields((b"X-%d" % number,), [b"1"])
        assert len(fields._request_shapes) <= fields._MOST_SHAPES
        assert len(fields._response_shapes) <= fields._MOST_SHAPES
        assert written([("X-1", "2")]).endswith(b"\r\nX-1: 2\r\n\r\n")

    @pytest.mark.parametrize("lines", [[("X", "1")] * 65, [("x" * 3000, "1")]], ids=["many fields", "a long name"])
    def test_what_is_odd_is_written_and_read_and_forgotten(self, lines: Lines) -> None:
        names = tuple(name for name, _ in lines)
        raw = tuple(name.encode() for name in names)
        assert written(lines).count(b": 1\r\n") == len(lines)
        assert len(response_fields(raw, [b"1"] * len(raw))) == len(lines)
        assert names not in fields._request_shapes
        assert raw not in fields._response_shapes
