"""The settings of the cache plugin."""

from ipaddress import ip_address
from typing import Annotated, Literal, TypeAlias

from pydantic import ByteSize, Field, IPvAnyNetwork

from plugins.cache.asking import FieldRule
from proxy.pipeline.plugin import PluginSettings
from proxy.policy.keys import KeyRules
from proxy.policy.model import PolicyOptions

Seconds: TypeAlias = Annotated[float, Field(ge=0, le=366 * 86_400)]
FieldName: TypeAlias = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
RequestDirective: TypeAlias = Literal[
    "no-cache", "no-store", "max-age", "min-fresh", "max-stale", "only-if-cached", "pragma"
]


class CacheSettings(PluginSettings):
    """`[plugins.cache]`: which responses are kept, under which key, and how they are reused.

    Attributes:
        bypass: nothing is stored or reused; unsafe methods still invalidate.
        ttl_seconds: freshness where the origin says nothing; never makes a private response shared.
        max_ttl_seconds: upper limit of any freshness lifetime.
        stale_while_revalidate_seconds, stale_if_error_seconds: where the response has no such directive (RFC 5861).
        heuristic_fraction, heuristic_max_seconds: heuristic freshness from Last-Modified (RFC 9111 §4.2.2); 0: none.
        ignore_request_directives: request directives that clients may not use to get round the cache.
        targets: targeted cache-control fields, most specific first (RFC 9213).
        store_set_cookie: keep and replay `Set-Cookie`.
        max_variants: how many variants of a resource are kept; while there are as many, others pass without being kept.
        store_parts: ask for, keep and combine the parts that clients ask for; otherwise a Range request that nothing
            stored answers goes to the origin by itself.
        body_methods: of POST and QUERY, those whose responses are kept, by the request's body. RFC 9110 §9.3.3 lets no
            POST be answered from a stored response, for a POST may change something: a route that lists it says that
            here it does not. Its response is kept only with an explicit lifetime, and one that is kept invalidates
            nothing; all others do.
        max_request_body_bytes: such requests with longer bodies bypass the cache.
        early_refresh_beta: how eagerly a fresh response is refreshed ahead of its expiry (XFetch); 1 is usual, 0: not.
        unkeyed_fields: what is done about a request field by which the origin may choose its answer: "drop", "bypass"
            or "pass"; by name, beyond and before the rules in `plugins.cache.asking`.
        ignore_query: query parameters that are no part of the key; `*` is a wildcard.
        sort_query: the order of query parameters does not matter.
        key_headers: request fields that are part of the key.
        tag_headers: response fields that hold tags for purges, separated by commas or spaces.
        max_object_bytes: longer responses pass without being kept.
        uncacheable_seconds: how long a key that gave an uncacheable response is remembered, so that its requests go
            side by side.
        retry_seconds: how long after a failed refresh a stale response is served before the origin is tried again.
        cache_status: say in `Cache-Status` what was done (RFC 9211).
        cache_status_clients: networks of the clients that are told; None: all are. Where it is set, each client has its
            answer made anew, for what one is told is not for another.
        cache_status_key: tell the key there.
    """

    bypass: bool = False
    ttl_seconds: Seconds | None = None
    max_ttl_seconds: Seconds | None = None
    stale_while_revalidate_seconds: Seconds = 0.0
    stale_if_error_seconds: Seconds = 0.0
    heuristic_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    heuristic_max_seconds: Seconds = 86_400.0
    ignore_request_directives: tuple[RequestDirective, ...] = ()
    targets: tuple[FieldName, ...] = ("CDN-Cache-Control",)
    store_set_cookie: bool = False
    max_variants: Annotated[int, Field(ge=1, le=10_000)] = 64
    store_parts: bool = True
    body_methods: tuple[Literal["POST", "QUERY"], ...] = ()
    max_request_body_bytes: Annotated[ByteSize, Field(ge=0, le=16 << 20)] = ByteSize(64 << 10)
    early_refresh_beta: Annotated[float, Field(ge=0, le=100)] = 0.0
    unkeyed_fields: dict[FieldName, FieldRule] = Field(default_factory=dict)
    ignore_query: tuple[str, ...] = ()
    sort_query: bool = False
    key_headers: tuple[FieldName, ...] = ()
    tag_headers: tuple[FieldName, ...] = ("Cache-Tag", "Surrogate-Key")
    max_object_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(8 << 20)
    uncacheable_seconds: Seconds = 10.0
    retry_seconds: Seconds = 2.0
    cache_status: bool = True
    cache_status_clients: tuple[IPvAnyNetwork, ...] | None = None
    cache_status_key: bool = False

    def tells(self, client: str) -> bool:
        """Whether Cache-Status is for the client with this address; one without an address is in no network."""
        if not self.cache_status or self.cache_status_clients is None:
            return self.cache_status
        try:
            address = ip_address(client.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self.cache_status_clients)

    def policy_options(self) -> PolicyOptions:
        """What the policy is to know of these."""
        ignored = self.ignore_request_directives
        return PolicyOptions(
            honour_no_cache="no-cache" not in ignored,
            honour_no_store="no-store" not in ignored,
            honour_max_age="max-age" not in ignored,
            honour_min_fresh="min-fresh" not in ignored,
            honour_max_stale="max-stale" not in ignored,
            honour_only_if_cached="only-if-cached" not in ignored,
            honour_pragma="pragma" not in ignored,
            targets=self.targets,
            default_ttl=self.ttl_seconds,
            heuristic_fraction=self.heuristic_fraction,
            heuristic_max=self.heuristic_max_seconds,
            max_ttl=self.max_ttl_seconds,
            stale_while_revalidate=self.stale_while_revalidate_seconds,
            stale_if_error=self.stale_if_error_seconds,
            store_set_cookie=self.store_set_cookie,
            max_variants=self.max_variants,
            methods=("GET", "HEAD", *self.body_methods),
            store_parts=self.store_parts,
        )

    def key_rules(self) -> KeyRules:
        """How keys are made."""
        return KeyRules(
            ignored_parameters=self.ignore_query,
            sorted_query=self.sort_query,
            fields=tuple(sorted(name.lower() for name in self.key_headers)),
            body_methods=self.body_methods,
        )
