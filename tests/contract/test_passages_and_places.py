"""Past the pipeline and through it everything is the same, wherever the origin is and whatever is believed of clients.

The origin is behind TLS, or on a Unix socket; proxies in front write `Forwarded`, not `X-Forwarded-For`.
"""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.contract.test_lanes import Chunk
from tests.contract.test_passages import (
    FORWARDED,
    PEERS,
    PLAIN,
    PROXY,
    TARGETS,
    UNTRUSTED,
    Answer,
    answering,
    compared,
    several,
    streams,
)
from tests.support.passing import LOOPBACK, Place, fresh, ok
from tests.support.raw_client import request

NAMES: Final = ("tls", "unix")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Place]:
    """By name."""
    authority = trustme.CA()
    directory: Path = tmp_path_factory.mktemp("places")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return {
        "tcp": LOOPBACK,
        "tls": Place(tls=context, ca_file=directory / "ca.pem"),
        "unix": Place(path=str(directory / "origin.sock")),
    }


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answers=st.fixed_dictionaries({target: several() for target in TARGETS}),
    connections=st.lists(st.tuples(PEERS, streams()), min_size=1, max_size=2),
)
def test_whatever_is_answered_and_asked(
    places: Mapping[str, Place], name: str, answers: dict[str, list[Answer]], connections: list[tuple[str, list[Chunk]]]
) -> None:
    crossed = asyncio.run(compared(answers, connections, place=places[name]))
    event("went past the pipeline: " + ("none" if not crossed else "some" if crossed < 6 else "many"))


@pytest.mark.parametrize("name", ["tcp", *NAMES])
@pytest.mark.parametrize("preserve_host", [True, False])
async def test_the_origin_is_asked_for_the_same_host(
    places: Mapping[str, Place], name: str, preserve_host: bool
) -> None:
    options: dict[str, Any] = {"place": places[name], "upstream": {"preserve_host": preserve_host}}
    chunks = [Chunk(PLAIN)] * 4 + [Chunk(PLAIN.replace(b"example.com", b"other.example:81"))] * 4
    for peer in (UNTRUSTED, PROXY):
        assert await compared(answering(ok()), [(peer, chunks)], **options) == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [0, 1, 16_000, 16_385, 40_000, 65_536, 65_537])
async def test_a_body_comes_in_pieces_of_any_size(places: Mapping[str, Place], name: str, length: int) -> None:
    whole = ok(b"x" * length)
    cut = len(whole) - length // 2
    split = Answer((whole[:cut], whole[cut:]))
    crossed = await compared({"/a": [Answer((whole,)), split]}, [(UNTRUSTED, [Chunk(PLAIN)] * 8)], place=places[name])
    assert crossed >= 5 if length <= 65_536 else crossed == 0


@pytest.mark.parametrize("name", NAMES)
async def test_what_may_be_stored_is_stored(places: Mapping[str, Place], name: str) -> None:
    answers = {f"/{number}": [Answer((fresh(b"new", "Cache-Control: max-age=60"),))] for number in range(8)}
    chunks = [Chunk(request(f"/{number}")) for number in [*range(8), *range(8)]]
    assert await compared(answers, [(UNTRUSTED, chunks)], place=places[name]) > 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [0, 20, 150])
async def test_an_origin_that_breaks_off_is_asked_again_or_not(
    places: Mapping[str, Place], name: str, cut: int
) -> None:
    broken = Answer((ok(b"x" * 100)[:cut],), close=True)
    plain = Answer((ok(b"x" * 100),))
    answers = {"/a": [plain, plain, plain, broken, plain]}
    await compared(answers, [(UNTRUSTED, [Chunk(PLAIN)] * 5), (UNTRUSTED, [Chunk(PLAIN)] * 5)], place=places[name])


# What proxies say of their clients.

SAID: Final = [
    *FORWARDED,
    "Forwarded: for=192.0.2.7", "Forwarded: for=192.0.2.8;proto=https;host=other.example", "forwarded:for=192.0.2.7",
    "Forwarded: for=192.0.2.7, for=10.0.0.9", "Forwarded: for=192.0.2.7\r\nForwarded: for=192.0.2.8;proto=https",
    'Forwarded: for="192.0.2.7:4711";host="a\\"b"', "Forwarded: for=unknown", "Forwarded: for=_hidden;proto=https",
    "Forwarded: for=192.0.2.7;;", "Forwarded: nonsense", 'Forwarded: for="', "Forwarded: proto=https",
    "Forwarded: host=other.example", "Forwarded: by=10.0.0.1;for=192.0.2.7;proto=gopher",
    "Forwarded: for=192.0.2.7\r\nX-Forwarded-For: 192.0.2.8", "Forwarded: for=192.0.2.7\r\nX-Forwarded-Proto: https",
    "Forwarded: for=192.0.2.7\r\nX-Forwarded-Host: a, b", "Forwarded: for=192.0.2.7;for=192.0.2.8",
    "Forwarded: " + ", ".join(f"for=192.0.2.{number}" for number in range(40)), "Forwarded: for=192.0.2.7;host=\xe9",
]  # fmt: skip


@pytest.mark.parametrize("peer", [UNTRUSTED, PROXY, ""])
@pytest.mark.parametrize("lines", SAID)
@pytest.mark.parametrize("learnt", [True, False])
async def test_who_believes_forwarded_tells_the_origin_the_same(peer: str, lines: str, learnt: bool) -> None:
    given = PLAIN.replace(b"\r\n\r\n", b"\r\n" + lines.encode("latin-1") + b"\r\n\r\n")
    before = [Chunk(given if learnt else PLAIN)] * 3
    chunks = [*before, Chunk(given), Chunk(given), Chunk(given.replace(b"192.0.2.7", b"192.0.2.77")), Chunk(PLAIN)]
    await compared({}, [(peer, chunks)], trusted_fields="forwarded")


@pytest.mark.parametrize("believed", ["forwarded", "x-forwarded"])
async def test_ways_are_known_whatever_is_believed(believed: str) -> None:
    lines = "Forwarded: for=192.0.2.7;proto=https\r\nX-Forwarded-For: 192.0.2.7"
    given = PLAIN.replace(b"\r\n\r\n", b"\r\n" + lines.encode() + b"\r\n\r\n")
    for peer in (UNTRUSTED, PROXY, ""):
        assert await compared(answering(ok()), [(peer, [Chunk(given)] * 8)], trusted_fields=believed) >= 5
