import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.storage import url_index
from proxy.storage.url_index import MAX_DEPTH, UrlIndex

urls = st.lists(st.sampled_from(["a", "b", "ab", "", "?q=1", "http:"]), max_size=MAX_DEPTH + 4).map("/".join)


@given(st.lists(st.tuples(urls, st.integers(0, 3))), st.lists(st.tuples(urls, st.integers(0, 3))), urls)
@settings(deadline=None)
def test_the_index_finds_what_a_scan_would_find(
    added: list[tuple[str, int]], removed: list[tuple[str, int]], sought: str
) -> None:
    index: UrlIndex[int] = UrlIndex()
    left = set(added) - set(removed)
    for url, key in added:
        index.add(url, key)
    for url, key in removed:
        index.discard(url, key)
    assert sorted(index.find(sought)) == sorted(key for url, key in left if url == sought)
    for length in range(len(sought) + 1):
        prefix = sought[:length]
        assert sorted(index.find_prefix(prefix)) == sorted(key for url, key in left if url.startswith(prefix))


@pytest.mark.parametrize("near", [1, 3, url_index.MAX_NEAR])
def test_it_is_so_whatever_comes_and_goes_by_turns(near: int) -> None:
    @given(st.lists(st.tuples(st.booleans(), urls, st.integers(0, 2)), max_size=40))
    @settings(deadline=None)
    def by_turns(steps: list[tuple[bool, str, int]]) -> None:
        index: UrlIndex[int] = UrlIndex()
        left: set[tuple[str, int]] = set()
        for comes, url, key in steps:
            if comes:
                index.add(url, key)
                left.add((url, key))
            else:
                index.discard(url, key)
                left.discard((url, key))
            assert sorted(index.find(url)) == sorted(key for known, key in left if known == url)
            assert sorted(index.find_prefix("")) == sorted(key for _, key in left)
        for url, key in left:
            index.discard(url, key)
        assert not index._root.below
        assert not index._root.leaves

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(url_index, "MAX_NEAR", near)
        by_turns()


@given(st.lists(st.tuples(urls, st.integers(0, 3))))
@settings(deadline=None)
def test_an_emptied_index_keeps_nothing(added: list[tuple[str, int]]) -> None:
    index: UrlIndex[int] = UrlIndex()
    for url, key in added:
        index.add(url, key)
    for url, key in added:
        index.discard(url, key)
    assert not index._root.below
    assert not index._root.leaves


def test_a_url_of_a_thousand_parts_makes_few_nodes() -> None:
    index: UrlIndex[int] = UrlIndex()
    url = "http://example.test" + "/a" * 1000
    index.add(url, 1)
    nodes, pending = 0, [index._root]
    while pending:
        nodes += 1
        pending += pending.pop().below.values()
    assert nodes <= MAX_DEPTH + 1
    assert index.find(url) == [1]
    assert index.find_prefix(url[:-1]) == [1]
    assert index.find_prefix(url[:500]) == [1]
    assert index.find_prefix(url[:500] + "b") == []
