"""Who gets which form, with which fields, and what is left alone."""

import asyncio
import gzip
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typing_extensions import override

from plugins.compression import Compression
from plugins.compression.codecs import CODINGS, Coding, compress, decoder
from plugins.compression.settings import CompressionSettings
from proxy.http.message import Request, Response
from proxy.pipeline.exchange import Exchange, Outcome
from proxy.pipeline.plugin import Plugin, PluginSettings, Replay
from tests.support.plugin_harness import (
    Answered,
    ChunkStream,
    PluginHarness,
    Script,
    harness,
    request,
    response,
)

TEXT = b"It was the best of times, it was the worst of times. " * 100
JSON = {"Content-Type": "application/json; charset=utf-8"}
BR = {"Accept-Encoding": "br"}
EVERYTHING = {"Accept-Encoding": "gzip, deflate, br, zstd"}


def compressing(script: Script, **chosen: Any) -> AbstractAsyncContextManager[PluginHarness]:
    """Compression before `script`."""
    settings = CompressionSettings.model_validate(chosen)
    return harness(lambda services: [Compression(settings, services)], script)


def answering(
    body: Any = TEXT, headers: Mapping[str, str] = JSON, status: int = 200, **chosen: Any
) -> AbstractAsyncContextManager[PluginHarness]:
    """Compression before an upstream that always answers the same."""
    return compressing(lambda _: response(status, body() if callable(body) else body, headers), **chosen)


def decoded(answer: Answered) -> bytes:
    coding = answer.header("Content-Encoding")
    if coding is None:
        return answer.body
    reader = decoder(cast("Coding", coding))
    body = b"".join(reader.pieces(answer.body))
    reader.finish()
    return body


# Choosing.


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("zstd, gzip", "zstd"),
        ("br;q=0.5, gzip;q=0.9", "gzip"),
        ("br;q=0, *", "zstd"),
        ("*", "br"),
        ("*;q=0", None),
        ("identity", None),
        ("deflate", None),
        ("br;q=0", None),
        ("identity, br;q=0.5", None),
        ("gzip;q=0.5, identity;q=0.5", "gzip"),
        ("identity;q=0, br", "br"),
        ("", None),
        (None, None),
    ],
)
async def test_the_client_gets_the_coding_it_likes_best(accept: str | None, coding: str | None) -> None:
    async with answering() as sidecar:
        answer = await sidecar.get(headers={} if accept is None else {"Accept-Encoding": accept})
    assert answer.header("Content-Encoding") == coding
    assert answer.header("Content-Length") == str(len(answer.body))
    assert answer.header("Vary") == "Accept-Encoding"
    assert decoded(answer) == TEXT
    assert (len(answer.body) < len(TEXT)) == (coding is not None)


@pytest.mark.parametrize(
    ("codings", "accept", "chosen"),
    [
        (["gzip", "br"], "br, gzip", "gzip"),
        (["gzip", "br"], "br, gzip;q=0.9", "br"),
        (["zstd"], "br, gzip", None),
        (["zstd", "gzip"], "*", "zstd"),
        (["gzip", "zstd"], "*;q=0.5, zstd;q=0.7", "zstd"),
        ([], "br", None),
    ],
)
async def test_the_order_of_the_settings_decides_between_equals(
    codings: list[str], accept: str, chosen: str | None
) -> None:
    async with answering(codings=codings) as sidecar:
        answer = await sidecar.get(headers={"Accept-Encoding": accept})
    assert answer.header("Content-Encoding") == chosen


qualities = st.sampled_from(["", ";q=0", ";q=0.0", ";q=0.001", ";q=0.5", ";q=1", ";q=1.000", "; Q=0.3"])
members = st.tuples(st.sampled_from([*CODINGS, "*", "identity", "deflate"]), qualities)


@given(st.lists(members, unique_by=lambda member: member[0]), st.permutations(CODINGS))
@settings(deadline=None)
async def test_no_coding_is_used_that_the_client_did_not_name_or_ruled_out(
    named: list[tuple[str, str]], codings: list[str]
) -> None:
    weights = {coding: float(quality.lower().partition("q=")[2] or 1) if quality else 1.0 for coding, quality in named}
    async with answering(codings=codings) as sidecar:
        answer = await sidecar.get(headers={"Accept-Encoding": ", ".join(map("".join, named))})
    chosen = answer.header("Content-Encoding") or "identity"
    weight: dict[str, float] = {coding: weights.get(coding, weights.get("*", 0.0)) for coding in CODINGS}
    if chosen == "identity":
        assert not any(weight[coding] > weights.get("identity", 0.0) for coding in CODINGS)
    else:
        assert weight[chosen] == max(weight.values()) > 0
        assert codings.index(chosen) == min(codings.index(c) for c in CODINGS if weight[c] == weight[chosen])


# What is left alone.


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "TEXT/CSS;charset=x", "application/problem+json", "image/svg+xml", "application/wasm", "text/x-any"],
)
async def test_types_that_are_worth_it_are_compressed(content_type: str) -> None:
    async with answering(headers={"Content-Type": content_type}) as sidecar:
        assert (await sidecar.get(headers=BR)).header("Content-Encoding") == "br"


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "application/zip", "", "texthtml"])
async def test_other_types_pass_untouched(content_type: str) -> None:
    async with answering(headers={"Content-Type": content_type, "ETag": '"a"'}) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert answer.body == TEXT
    assert answer.header("Content-Encoding") is None
    assert answer.header("Vary") is None
    assert answer.header("ETag") == '"a"'


async def test_what_names_no_type_passes_untouched() -> None:
    async with answering(headers={}) as sidecar:
        assert (await sidecar.get(headers=BR)).body == TEXT


async def test_the_list_of_types_is_a_setting() -> None:
    async with answering(content_types=["x-app/*"], headers={"Content-Type": "x-app/thing"}) as sidecar:
        assert (await sidecar.get(headers=BR)).header("Content-Encoding") == "br"
    async with answering(content_types=[]) as sidecar:
        assert (await sidecar.get(headers=BR)).header("Content-Encoding") is None


@pytest.mark.parametrize(("size", "coding"), [(1023, None), (1024, "br")])
async def test_short_bodies_pass_untouched(size: int, coding: str | None) -> None:
    async with answering(body=TEXT[:size]) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert answer.header("Content-Encoding") == coding
    assert decoded(answer) == TEXT[:size]
    assert answer.header("Vary") == (coding and "Accept-Encoding")


@pytest.mark.parametrize("declared", ["x", "", "12a", "-5"])
async def test_a_length_that_is_none_is_not_believed(declared: str) -> None:
    async with answering(headers={**JSON, "Content-Length": declared}) as sidecar:
        assert decoded(await sidecar.get(headers=BR)) == TEXT


async def test_a_body_that_would_grow_is_sent_plain() -> None:
    noise = random.Random(1).randbytes(5000)
    async with answering(body=noise) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert answer.body == noise
    assert answer.header("Content-Encoding") is None
    assert answer.header("Content-Length") == "5000"
    assert answer.header("Vary") == "Accept-Encoding"


@pytest.mark.parametrize("line", ["no-transform", "max-age=60, No-Transform", "public,no-transform"])
async def test_no_transform_is_obeyed(line: str) -> None:
    async with answering(headers={**JSON, "Cache-Control": line}) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert answer.body == TEXT
    assert answer.header("Vary") is None


async def test_no_transform_of_the_request_is_obeyed() -> None:
    async with answering() as sidecar:
        answer = await sidecar.get(headers={**BR, "Cache-Control": "no-transform"})
    assert answer.body == TEXT
    assert answer.header("Vary") == "Accept-Encoding"


@pytest.mark.parametrize("status", [204, 205])
async def test_statuses_without_a_body_pass_untouched(status: int) -> None:
    async with answering(b"", status=status, headers={**JSON, "ETag": '"a"'}) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert answer.header("Vary") is None
    assert answer.header("ETag") == '"a"'


async def test_partial_content_is_left_alone_but_varies() -> None:
    headers = {**JSON, "Content-Range": "bytes 0-9/5300", "ETag": '"a"'}
    async with answering(TEXT[:10], status=206, headers=headers) as sidecar:
        answer = await sidecar.get(headers={**BR, "Range": "bytes=0-9"})
    assert answer.body == TEXT[:10]
    assert answer.header("ETag") == '"a"'
    assert answer.header("Vary") == "Accept-Encoding"


async def test_a_range_request_answered_in_full_is_left_alone() -> None:
    async with answering() as sidecar:
        answer = await sidecar.get(headers={**BR, "Range": "bytes=0-9"})
    assert answer.body == TEXT
    assert answer.header("Vary") == "Accept-Encoding"


async def test_an_upgrade_is_none_of_its_business() -> None:
    headers = {**EVERYTHING, "Upgrade": "websocket", "If-None-Match": '"a~br"'}
    async with answering() as sidecar:
        answer = await sidecar.get(headers=headers)
        (sent,) = sidecar.upstream.requests
    assert dict(sent.headers) == headers
    assert answer.body == TEXT
    assert answer.header("Vary") is None


async def test_a_switch_of_protocols_is_none_of_its_business() -> None:
    async with answering(status=426) as sidecar:
        asking = request(headers=EVERYTHING)
        exchange, got = await sidecar.pipeline.open_tunnel(asking, protocol="websocket", request_id="x")
        sidecar.pipeline.complete(exchange, Outcome(status=426, bytes_sent=0, duration=0.0))
    assert exchange.request is asking
    assert isinstance(got, Response)
    assert got.body == TEXT


async def test_errors_are_compressed_like_others() -> None:
    async with answering(status=500) as sidecar:
        assert (await sidecar.get(headers=BR)).header("Content-Encoding") == "br"


# Fields.


async def test_fields_of_the_plain_form_do_not_stand_on_a_coded_one() -> None:
    headers = {**JSON, "Accept-Ranges": "bytes", "Content-MD5": "x", "Repr-Digest": "y", "X-Other": "z"}
    async with answering(headers=headers) as sidecar:
        coded = await sidecar.get(headers=BR)
        plain = await sidecar.get()
    assert coded.header("X-Other") == "z"
    for name in ("Accept-Ranges", "Content-MD5", "Repr-Digest"):
        assert coded.header(name) is None
        assert plain.header(name) == headers[name]


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        ("Origin", "Origin, Accept-Encoding"),
        ("accept-encoding", "accept-encoding"),
        ("Origin, Accept-Encoding", "Origin, Accept-Encoding"),
        ("*", "*"),
    ],
)
async def test_vary_names_the_field_once(vary: str, expected: str) -> None:
    async with answering(headers={**JSON, "Vary": vary}) as sidecar:
        assert (await sidecar.get(headers=BR)).header("Vary") == expected
        assert (await sidecar.get()).header("Vary") == expected


async def test_each_form_has_a_strong_tag_of_its_own() -> None:
    async with answering(headers={**JSON, "ETag": '"abc"'}) as sidecar:
        tags = [(await sidecar.get(headers={"Accept-Encoding": name})).header("ETag") for name in (*CODINGS, "x")]
    assert tags == ['"abc~br"', '"abc~zstd"', '"abc~gzip"', '"abc"']


async def test_a_weak_tag_stays() -> None:
    async with answering(headers={**JSON, "ETag": 'W/"abc"'}) as sidecar:
        assert (await sidecar.get(headers=BR)).header("ETag") == 'W/"abc"'


# What the upstream is asked.


async def test_the_upstream_is_asked_for_the_plain_form() -> None:
    async with answering() as sidecar:
        await sidecar.get(headers=EVERYTHING)
        await sidecar.get()
        assert [sent.headers.getall("Accept-Encoding") for sent in sidecar.upstream.requests] == [["identity"]] * 2


async def test_the_upstream_is_told_what_the_client_says_if_so_wished() -> None:
    async with answering(upstream_encoding="pass") as sidecar:
        await sidecar.get(headers=EVERYTHING)
        await sidecar.get()
        first, second = sidecar.upstream.requests
    assert first.headers["Accept-Encoding"] == EVERYTHING["Accept-Encoding"]
    assert "Accept-Encoding" not in second.headers


def revalidating(sent: Request) -> Response:
    """An origin with the tag `"abc"` and no knowledge of forms."""
    headers = {**JSON, "ETag": '"abc"'}
    if sent.headers.get("If-None-Match") == '"abc"':
        return response(304, b"", {"ETag": '"abc"', "Vary": "Origin"})
    if sent.headers.get("If-Match", '"abc"') != '"abc"':
        return response(412, b"", headers)
    return response(200, TEXT, headers)


async def test_a_client_that_has_a_coded_form_is_told_that_it_is_still_good() -> None:
    async with compressing(revalidating) as sidecar:
        first = await sidecar.get(headers=BR)
        tag = first.header("ETag")
        assert tag is not None
        second = await sidecar.get(headers={**BR, "If-None-Match": tag})
    assert second.status == 304
    assert second.header("ETag") == tag
    assert second.header("Vary") == "Origin, Accept-Encoding"
    assert second.body == b""


async def test_a_client_that_has_the_plain_form_is_told_so_in_its_tag() -> None:
    async with compressing(revalidating) as sidecar:
        answer = await sidecar.get(headers={**BR, "If-None-Match": '"abc"'})
    assert (answer.status, answer.header("ETag")) == (304, '"abc"')


async def test_a_form_that_the_client_no_longer_accepts_is_not_confirmed() -> None:
    async with compressing(revalidating) as sidecar:
        answer = await sidecar.get(headers={"Accept-Encoding": "gzip", "If-None-Match": '"abc~br"'})
    assert (answer.status, answer.header("ETag")) == (200, '"abc~gzip"')


async def test_a_write_under_the_condition_of_a_coded_form_goes_through() -> None:
    async with compressing(revalidating) as sidecar:
        answer = await sidecar.send(request("PUT", headers={**BR, "If-Match": '"abc~br"'}, body=b"new"))
        (sent,) = sidecar.upstream.requests
    assert answer.status == 200
    assert sent.body == b"new"


async def test_a_confirmation_of_another_type_does_not_vary() -> None:
    async with answering(b"", status=304, headers={"Content-Type": "image/png", "ETag": '"a"'}) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert answer.header("Vary") is None
    assert answer.header("ETag") == '"a"'


async def test_a_confirmation_without_a_tag_gets_none() -> None:
    async with answering(b"", status=304, headers={}) as sidecar:
        assert (await sidecar.get(headers=BR)).header("ETag") is None


# HEAD.


async def test_head_gets_the_fields_of_get_without_a_length_that_nobody_knows() -> None:
    headers = {**JSON, "ETag": '"a"', "Content-Length": str(len(TEXT))}
    async with compressing(lambda sent: response(200, b"" if sent.method == "HEAD" else TEXT, headers)) as sidecar:
        head = await sidecar.send(request("HEAD", headers=BR))
        got = await sidecar.get(headers=BR)
        plain = await sidecar.send(request("HEAD"))
    different = set(got.response.headers.items()) ^ set(head.response.headers.items())
    assert {name for name, _ in different} == {"Content-Length"}
    assert head.header("Content-Length") is None
    assert head.header("ETag") == '"a~br"'
    assert plain.header("Content-Length") == str(len(TEXT))
    assert plain.header("Vary") == "Accept-Encoding"


# Stored responses.


class Forms:
    """The forms of a stored body, in memory."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.made: dict[str, bytes] = {}
        self.computed = 0

    def get(self, name: str) -> bytes | None:
        return self.made.get(name)

    async def derive(self, name: str, compute: Callable[[bytes], Awaitable[bytes]]) -> bytes:
        if name not in self.made:
            self.computed += 1
            self.made[name] = await compute(self.body)
        return self.made[name]


class Storage(Plugin[PluginSettings]):
    """Stands where the cache does and answers with a stored response."""

    name: ClassVar[str] = "storage"
    settings_type: ClassVar[type[PluginSettings]] = PluginSettings
    forms: Forms
    answer: Response

    @override
    async def on_request(self, exchange: Exchange) -> Response:
        exchange.forms = self.forms
        return self.answer


def stored(
    body: bytes, answer: Response | None = None, **chosen: Any
) -> tuple[Forms, AbstractAsyncContextManager[PluginHarness]]:
    forms = Forms(body)

    def make(services: Any) -> list[Plugin[Any]]:
        storage = Storage(PluginSettings(), services)
        storage.forms = forms
        storage.answer = answer or response(200, body, {**JSON, "ETag": '"a"'})
        return [Compression(CompressionSettings.model_validate(chosen), services), storage]

    return forms, harness(make, lambda _: response(500))


async def test_the_form_of_a_stored_response_is_made_once_and_better() -> None:
    forms, opened = stored(TEXT, levels={"br": 0}, stored_levels={"br": 11})
    async with opened as sidecar:
        answers = [await sidecar.get(headers=BR) for _ in range(5)]
    assert forms.computed == 1
    assert forms.made == {"br": compress("br", 11, TEXT)}
    assert {answer.body for answer in answers} == {forms.made["br"]}
    assert answers[0].header("Content-Length") == str(len(forms.made["br"]))


async def test_head_of_a_stored_response_knows_the_length() -> None:
    forms, opened = stored(TEXT)
    async with opened as sidecar:
        head = await sidecar.send(request("HEAD", headers=BR))
        got = await sidecar.get(headers=BR)
    assert list(head.response.headers.items()) == list(got.response.headers.items())
    assert head.body == b""
    assert forms.computed == 1


async def test_a_stored_body_that_would_grow_is_tried_once() -> None:
    noise = random.Random(1).randbytes(5000)
    forms, opened = stored(noise)
    async with opened as sidecar:
        answers = [await sidecar.get(headers=BR) for _ in range(3)]
    assert forms.computed == 1
    assert forms.made == {"br": b""}
    assert {answer.body for answer in answers} == {noise}
    assert answers[2].header("Content-Encoding") is None


@pytest.mark.parametrize("status", [412, 416])
async def test_a_failed_condition_is_not_answered_with_the_stored_body(status: int) -> None:
    explanation = b'{"detail": "no"}' * 100
    forms, opened = stored(TEXT, response(status, explanation, JSON))
    async with opened as sidecar:
        answer = await sidecar.get(headers=BR)
    assert decoded(answer) == explanation
    assert forms.computed == 0


async def test_a_long_stored_body_is_compressed_off_the_loop() -> None:
    body = random.Random(3).randbytes(3000).hex().encode() * 500  # 3 MB
    _, opened = stored(body, stored_levels={"br": 9})
    async with opened as sidecar:
        ticks = 0
        answering = asyncio.ensure_future(sidecar.get(headers=BR))
        while not answering.done():
            await asyncio.sleep(0)
            ticks += 1
        assert decoded(await answering) == body
    assert ticks > 20


# Already coded by the upstream.


async def test_what_is_coded_already_is_not_coded_again() -> None:
    packed = gzip.compress(TEXT)
    async with answering(packed, {**JSON, "Content-Encoding": "gzip", "ETag": '"a"'}) as sidecar:
        answer = await sidecar.get(headers=EVERYTHING)
    assert answer.body == packed
    assert answer.header("ETag") == '"a"'
    assert answer.header("Vary") == "Accept-Encoding"


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_coded_is_decoded_for_a_client_that_does_not_accept_it(coding: Coding, streamed: bool) -> None:
    packed = compress(coding, 5, TEXT)
    headers = {**JSON, "Content-Encoding": coding, "ETag": '"a"', "Accept-Ranges": "bytes"}
    stream = ChunkStream([packed[:50], packed[50:]])
    async with answering(stream if streamed else packed, headers) as sidecar:
        answer = await sidecar.get()
    assert answer.body == TEXT
    assert answer.header("Content-Encoding") is None
    assert answer.header("Content-Length") is None
    assert answer.header("Accept-Ranges") is None
    assert answer.header("ETag") == '"a~identity"'
    assert answer.header("Vary") == "Accept-Encoding"
    assert stream.closed == streamed


async def test_the_tag_of_a_decoded_form_is_understood() -> None:
    def script(sent: Request) -> Response:
        if sent.headers.get("If-None-Match") == '"a"':
            return response(304, b"", {"ETag": '"a"'})
        return response(200, gzip.compress(TEXT), {**JSON, "Content-Encoding": "x-gzip", "ETag": '"a"'})

    async with compressing(script) as sidecar:
        tag = (await sidecar.get()).header("ETag")
        assert tag is not None
        again = await sidecar.get(headers={"If-None-Match": tag})
    assert (again.status, again.header("ETag")) == (304, tag)


async def test_head_of_what_would_be_decoded_names_no_coding() -> None:
    async with answering(b"", {**JSON, "Content-Encoding": "gzip", "Content-Length": "99"}) as sidecar:
        answer = await sidecar.send(request("HEAD"))
    assert answer.header("Content-Encoding") is None
    assert answer.header("Content-Length") is None
    assert answer.header("Vary") == "Accept-Encoding"


@pytest.mark.parametrize("coding", ["deflate", "compress", "gzip, br", "dcb"])
async def test_codings_it_does_not_know_pass_untouched(coding: str) -> None:
    async with answering(b"whatever", {**JSON, "Content-Encoding": coding}) as sidecar:
        answer = await sidecar.get()
    assert answer.body == b"whatever"
    assert answer.header("Content-Encoding") == coding
    assert answer.header("Vary") is None


@pytest.mark.parametrize("headers", [{"Cache-Control": "no-transform"}, {"Range": "bytes=0-"}])
async def test_what_is_to_be_left_alone_is_not_decoded_either(headers: dict[str, str]) -> None:
    packed = gzip.compress(TEXT)
    async with answering(packed, {**JSON, "Content-Encoding": "gzip"}) as sidecar:
        assert (await sidecar.get(headers=headers)).body == packed


async def test_a_body_that_is_not_in_its_coding_is_the_upstreams_error() -> None:
    async with answering(b"not gzip at all", {**JSON, "Content-Encoding": "gzip"}) as sidecar:
        answer = await sidecar.get()
    assert answer.error is not None
    assert answer.error.error_type == "http_response_content_coding"


async def test_a_coded_body_that_ends_early_is_the_upstreams_error() -> None:
    async with answering(gzip.compress(TEXT)[:-9], {**JSON, "Content-Encoding": "gzip"}) as sidecar:
        answer = await sidecar.get()
    assert answer.error is not None
    assert "ends early" in answer.error.detail


async def test_an_explicit_identity_is_no_coding() -> None:
    async with answering(headers={**JSON, "Content-Encoding": "identity"}) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert answer.header("Content-Encoding") == "br"
    assert decoded(answer) == TEXT


# Streams, and what is counted.


async def test_a_stream_is_compressed_as_it_goes_and_its_source_closed() -> None:
    stream = ChunkStream([TEXT] * 20)
    async with answering(stream, {**JSON, "ETag": '"a"', "Content-Length": str(20 * len(TEXT))}) as sidecar:
        answer = await sidecar.get(headers=BR)
    assert decoded(answer) == TEXT * 20
    assert answer.header("Content-Length") is None
    assert answer.header("ETag") == '"a~br"'
    assert stream.closed


async def test_a_stream_whose_client_leaves_is_closed() -> None:
    stream = ChunkStream([TEXT] * 20)
    async with answering(stream) as sidecar:
        await sidecar.finish(*await sidecar.begin(request(headers=BR)), abort=True)
    assert stream.closed
    assert stream.delivered == 0


async def test_a_stream_that_is_known_to_be_short_passes_untouched() -> None:
    async with answering(lambda: ChunkStream([b"short"]), {**JSON, "Content-Length": "5"}) as sidecar:
        assert (await sidecar.get(headers=BR)).body == b"short"


async def test_bytes_and_responses_are_counted_by_coding() -> None:
    async with answering(lambda: ChunkStream([TEXT])) as streams:
        streamed = await streams.get(headers={"Accept-Encoding": "zstd"})
        stats = streams.pipeline.plugins[0].stats()
    assert stats["bytes"] == {
        "br": {"in": 0, "out": 0},
        "zstd": {"in": len(TEXT), "out": len(streamed.body)},
        "gzip": {"in": 0, "out": 0},
    }
    assert stats["responses"] == {"br": 0, "zstd": 1, "gzip": 0, "identity": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"codings": ["br", "br"]},
        {"codings": ["deflate"]},
        {"levels": {"br": 12}},
        {"stored_levels": {"zstd": 20}},
        {"content_types": ["json"]},
        {"min_bytes": -1},
        {"threads": 0},
        {"upstream_encoding": "gzip"},
        {"flush_after_seconds": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        CompressionSettings.model_validate(wrong)


def test_levels_that_are_not_set_keep_their_own_defaults() -> None:
    chosen = CompressionSettings.model_validate({"stored_levels": {"br": 11}})
    assert (chosen.stored_levels.br, chosen.stored_levels.zstd, chosen.levels.br) == (11, 9, 4)


def test_its_answers_may_be_replayed() -> None:
    assert Compression.replay is Replay.PURE


def test_settings_are_hashed_dumped_and_read_back() -> None:
    chosen = CompressionSettings.model_validate({"levels": {"br": 5}, "min_bytes": "2KiB"})
    assert hash(chosen) == hash(CompressionSettings.model_validate({"levels": {"br": 5}, "min_bytes": "2KiB"}))
    assert CompressionSettings.model_validate_json(chosen.model_dump_json()) == chosen
    assert CompressionSettings.model_json_schema()["type"] == "object"
