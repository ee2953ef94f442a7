from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.storage import url_index
from proxy.storage.node import NodeKey
from proxy.storage.url_index import MAX_DEPTH, UrlIndex

urls = st.lists(st.sampled_from(["a", "b", "ab", "", "?q=1", "http:"]), max_size=MAX_DEPTH + 4).map("/".join)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str | int, NodeKey]:
    """A URL, how the index may be told of it, and a key of it."""
    url = draw(urls)
    primary = draw(st.sampled_from([f"GET {url}", f"PUT {url}", f"GET {url}\nname:value", "GET ab", "another", url]))
    key: NodeKey = (primary, "variant") if draw(st.booleans()) else primary
    within = primary.endswith(url) and draw(st.booleans())
    return url, len(primary) - len(url) if within else url, key


def by_repr(keys: Iterable[NodeKey]) -> list[NodeKey]:
    return sorted(keys, key=repr)


def check(index: UrlIndex, left: set[tuple[str, NodeKey]], sought: str) -> None:
    """See that the index finds what a look at each URL would find, for `sought` and each of its beginnings."""
    assert by_repr(index.find(sought)) == by_repr(key for url, key in left if url == sought)
    for length in range(len(sought) + 1):
        prefix = sought[:length]
        assert by_repr(index.find_prefix(prefix)) == by_repr(key for url, key in left if url.startswith(prefix))


@given(st.lists(addresses()), st.lists(addresses()), st.data())
@settings(deadline=None)
def test_the_index_finds_what_a_scan_would_find(
    added: list[tuple[str, str | int, NodeKey]], removed: list[tuple[str, str | int, NodeKey]], data: st.DataObject
) -> None:
    index = UrlIndex()
    left = {(url, key) for url, _, key in added} - {(url, key) for url, _, key in removed}
    for _, where, key in added:
        index.add(where, key)
    for _, where, key in removed:
        index.discard(where, key)
    check(index, left, data.draw(st.sampled_from([url for url, _, _ in added]) | urls if added else urls))


@pytest.mark.parametrize("near", [1, 3, url_index.MAX_NEAR])
def test_it_is_so_whatever_comes_and_goes_by_turns(near: int) -> None:
    @given(st.lists(st.tuples(st.booleans(), addresses()), max_size=40))
    @settings(deadline=None)
    def by_turns(steps: list[tuple[bool, tuple[str, str | int, NodeKey]]]) -> None:
        index = UrlIndex()
        left: set[tuple[str, NodeKey]] = set()
        for comes, (url, where, key) in steps:
            if comes:
                index.add(where, key)
                left.add((url, key))
            else:
                index.discard(where, key)
                left.discard((url, key))
            check(index, left, url)
        for url, key in left:
            index.discard(url, key)
        assert index._root.is_empty

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(url_index, "MAX_NEAR", near)
        by_turns()


@given(st.lists(addresses()))
@settings(deadline=None)
def test_an_emptied_index_keeps_nothing(added: list[tuple[str, str | int, NodeKey]]) -> None:
    index = UrlIndex()
    for _, where, key in added:
        index.add(where, key)
    for url, _, key in added:
        index.discard(url, key)
    assert index._root.is_empty
    assert not index._near


def test_a_url_of_a_thousand_parts_makes_few_nodes() -> None:
    index = UrlIndex()
    url = "http://example.test" + "/a" * 1000
    key = f"GET {url}"
    index.add(url, key)
    nodes, pending = 0, [index._root]
    while pending:
        nodes += 1
        pending += pending.pop().below.values()
    assert nodes <= MAX_DEPTH + 1
    assert index.find(url) == [key]
    assert index.find_prefix(url[:-1]) == [key]
    assert index.find_prefix(url[:500]) == [key]
    assert index.find_prefix(url[:500] + "b") == []
