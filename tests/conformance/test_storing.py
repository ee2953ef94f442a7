"""Storing: which responses are kept (RFC 9111 §3)."""

import pytest

from tests.conformance.behaviours import Group, behaviours_of
from tests.conformance.cache import CacheUnderTest
from tests.conformance.scripted_origin import reply

behaviour = behaviours_of(Group.STORING)


@behaviour("RFC 9111 §3", "A response to GET with an explicit lifetime is stored and answers the next request")
async def test_a_response_with_a_lifetime_is_stored(cache: CacheUnderTest) -> None:
    page = cache.resource(reply("Cache-Control: max-age=60"))
    first = await page.ask()
    second = await page.ask()
    assert (first.came_from_store, second.came_from_store) == (False, True)
    assert first.body == second.body


@pytest.mark.parametrize(
    "directive",
    [
        pytest.param("no-store", marks=behaviour("RFC 9111 §5.2.2.5", "A response with no-store is not stored")),
        pytest.param("private", marks=behaviour("RFC 9111 §5.2.2.7", "A response with private is not stored")),
    ],
)
async def test_a_response_that_forbids_it_is_not_stored(cache: CacheUnderTest, directive: str) -> None:
    page = cache.resource(reply(f"Cache-Control: {directive}, max-age=60"))
    await page.ask()
    assert not (await page.ask()).came_from_store
