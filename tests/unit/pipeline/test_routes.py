"""Which route a request belongs to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.http.message import Request
from proxy.pipeline.routes import DEFAULT_ROUTE_NAME, Route, RouteTable, compile_path, normal_path


def get(target: str, *, method: str = "GET", host: str = "api.example.com") -> Request:
    return Request(method=method, target=target, host=host)


@pytest.mark.parametrize(
    ("template", "target", "expected"),
    [
        ("/items", "/items", True),
        ("/items", "/items?page=2", True),
        ("/items", "/items/", False),
        ("/items", "/items/1", False),
        ("/items", "/Items", False),
        ("/items/{id}", "/items/1", True),
        ("/items/{id}", "/items/a%2Fb", True),
        ("/items/{id}", "/items/", False),
        ("/items/{id}", "/items/1/parts", False),
        ("/items/{id}/parts/{part}", "/items/1/parts/2", True),
        ("/items/{id}.json", "/items/7.json", True),
        ("/items/{id}.json", "/items/7xjson", False),
        ("/static/*", "/static/", True),
        ("/static/*", "/static/js/app.js", True),
        ("/static/*", "/static", False),
        ("/static*", "/static", True),
        ("/a.b+c", "/a.b+c", True),
        ("/a.b+c", "/aXbbc", False),
        ("/*", "/", True),
        ("/*", "*", False),
        ("/.well-known/*", "/.well-known/acme", True),
        ("/x/.*", "/x/.git", True),
    ],
)
def test_path_template_matches_segments_to_the_letter(template: str, target: str, expected: bool) -> None:
    assert Route("r", path=template).matches(get(target)) is expected


@pytest.mark.parametrize(
    "template",
    ["", "items", "*", "/a*b", "/*/x", "/{", "/}", "/{1}", "/{a-b}", "/{}", "/{a}}", "/a/../b", "/./a", "/%61", "/%2f"],
)
def test_bad_path_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        compile_path(template)


@pytest.mark.parametrize(
    ("sent", "normal"),
    [
        ("/a", "/a"),
        ("/%61dmin", "/admin"),
        ("/%7Euser", "/~user"),
        ("/a%2fb", "/a%2Fb"),
        ("/100%", "/100%"),
        ("/%zz", "/%zz"),
        ("/static/../admin", "/admin"),
        ("/static/%2e%2E/admin", "/admin"),
        ("/a/./b", "/a/b"),
        ("/a/b/.", "/a/b/"),
        ("/a/b/..", "/a/"),
        ("/../../a", "/a"),
        ("/..", "/"),
        ("/.", "/"),
        ("/a//b", "/a//b"),
        ("/a//../b", "/a/b"),
        ("/a/b/c/./../../g", "/a/g"),  # the example of RFC 3986 §5.2.4
        ("/.hidden/..x/x..", "/.hidden/..x/x.."),
        ("/%2561", "/%2561"),
        ("*", "*"),
    ],
)
def test_path_is_brought_to_normal_form(sent: str, normal: str) -> None:
    assert normal_path(sent) == normal


def test_odd_spelling_of_a_path_does_not_slip_past_its_route() -> None:
    table = RouteTable([Route("admin", path="/admin/*")])
    for target in ("/admin/x", "/%61dmin/x", "/public/../admin/x", "/public/%2e%2e/%61dmin/x?y=/../z"):
        assert table.find(get(target)).name == "admin"


SEGMENTS = st.lists(st.sampled_from(["", ".", "..", "a", "b.c", "%2e", "%2E%2e", "%61", "%2F", "%", "..."]), max_size=8)


@given(SEGMENTS)
@settings(deadline=None)
def test_normal_form_is_reached_at_once_and_has_no_dot_segments(segments: list[str]) -> None:
    normal = normal_path("/" + "/".join(segments))
    assert normal_path(normal) == normal
    assert normal.startswith("/")
    assert not {".", ".."} & set(normal.split("/"))


@given(st.text(alphabet="ab{}*/.%-_", max_size=12))
@settings(deadline=None)
def test_template_is_refused_or_matches_what_it_spells(text: str) -> None:
    template = "/" + text
    try:
        pattern = compile_path(template)
    except ValueError:
        return
    spelt = template.replace("{a}", "x").replace("{b}", "x").rstrip("*")
    if "{" not in spelt:
        assert pattern.fullmatch(spelt)


@pytest.mark.parametrize(
    ("methods", "method", "expected"),
    [
        (frozenset(), "PURGE", True),
        (frozenset({"GET"}), "GET", True),
        (frozenset({"GET"}), "HEAD", True),
        (frozenset({"GET"}), "POST", False),
        (frozenset({"GET"}), "get", False),
        (frozenset({"HEAD"}), "GET", False),
        (frozenset({"POST"}), "HEAD", False),
    ],
)
def test_route_takes_its_methods_and_head_with_get(methods: frozenset[str], method: str, expected: bool) -> None:
    assert Route("r", methods=methods).matches(get("/", method=method)) is expected


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("api.example.com", "api.example.com", True),
        ("API.example.com", "api.example.com", True),
        ("api.example.com", "api.example.com:8080", True),
        ("api.example.com", "api.example.com.", True),
        ("api.example.com", "evil-api.example.com", False),
        ("api.example.com", "api.example.com.evil.test", False),
        ("api.example.com:8080", "api.example.com:8080", True),
        ("api.example.com:8080", "api.example.com", False),
        ("api.example.com:8080", "api.example.com:80", False),
        ("*.example.com", "api.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "notexample.com", False),
        ("*.example.com", "api.example.com:8443", True),
        ("*.example.com:8443", "api.example.com", False),
        ("[::1]", "[::1]", True),
        ("[::1]", "[::1]:8080", True),
        ("[::1]:8080", "[::1]:8080", True),
        ("[::1]:8080", "[::1]", False),
        ("api.example.com", "", False),
    ],
)
def test_route_takes_its_hosts(pattern: str, host: str, expected: bool) -> None:
    assert Route("r", hosts=(pattern,)).matches(get("/", host=host)) is expected


def test_first_matching_route_wins_and_the_default_takes_the_rest() -> None:
    table = RouteTable(
        [
            Route("item", path="/items/{id}"),
            Route("writes", methods=frozenset({"POST", "PUT"})),
            Route("items", path="/items/*"),
        ]
    )
    assert table.find(get("/items/1")).name == "item"
    assert table.find(get("/items/1", method="PUT")).name == "item"
    assert table.find(get("/items/1/parts")).name == "items"
    assert table.find(get("/items/1/parts", method="POST")).name == "writes"
    assert table.find(get("/other")).name == DEFAULT_ROUTE_NAME
    assert table.find(get("*", method="OPTIONS")).name == DEFAULT_ROUTE_NAME


def test_table_without_routes_finds_the_default() -> None:
    table = RouteTable([])
    assert table.find(get("/x")) is table.routes[-1]
    assert table.find(get("/x")).name == DEFAULT_ROUTE_NAME


@pytest.mark.parametrize("names", [["a", "a"], [DEFAULT_ROUTE_NAME]])
def test_route_names_are_unique(names: list[str]) -> None:
    with pytest.raises(ValueError, match="taken twice"):
        RouteTable([Route(name) for name in names])


def test_routes_are_values() -> None:
    assert Route("a", path="/x") == Route("a", path="/x")
    assert len({Route("a", path="/x"), Route("a", path="/x")}) == 1


TEMPLATES = st.sampled_from(["/a", "/a/*", "/a*", "/{x}", "/a/{x}", "/a/{x}/b", "/ab", "/*", None])
TABLE_ROUTES = st.lists(
    st.tuples(TEMPLATES, st.sampled_from([frozenset(), frozenset({"GET"}), frozenset({"POST"})])), max_size=6
)


@given(TABLE_ROUTES, st.sampled_from(["/", "/a", "/a/", "/ab", "/a/c", "/a/c/b", "/x/../a/c", "*"]))
@settings(deadline=None)
def test_table_finds_the_first_route_that_matches(shapes: list[tuple[str | None, frozenset[str]]], target: str) -> None:
    routes = [Route(f"r{place}", path=path, methods=methods) for place, (path, methods) in enumerate(shapes)]
    first = next((route.name for route in routes if route.matches(get(target))), DEFAULT_ROUTE_NAME)
    assert RouteTable(routes).find(get(target)).name == first
