"""The header fields of coded forms: entity tags, and what else is true of one form only.

Two forms of a resource that differ in a byte need different strong tags (RFC 9110 §8.8.3.3). A form made here has the
origin's tag with the coding's name appended, and whoever sends such a tag back is understood, so that the cache and the
origin only ever see the origin's tags. Weak tags stay: forms that decode to the same are equivalent.

The mark is one that neither Apache, Jetty nor Caddy appends (`-gzip`, `--gzip`): their tags are not ours to cut.
"""

from collections.abc import Container, Mapping
from typing import Final

from multidict import CIMultiDict

from proxy.http.etag import EntityTag, parse_etag, parse_etags
from proxy.http.headers import split_list
from proxy.http.message import Headers
from proxy.http.names import IF_MATCH, IF_NONE_MATCH, VARY

_MARK: Final = "~"
_CONDITIONS: Final = (IF_NONE_MATCH, IF_MATCH)
# About the bytes of the form they came with, or (Accept-Ranges) of no use with another.
_OF_THE_FORM: Final = ("Accept-Ranges", "Content-Digest", "Content-MD5", "Digest", "Repr-Digest")
_OF_ALL_FORMS: Final = frozenset({"accept-encoding", "*"})
NO_TAGS: Final[Mapping[str, EntityTag]] = {}


def mark_tag(value: str, coding: str) -> str:
    """The entity tag of the form in `coding` of what has the tag `value`; anything but a strong tag stays as it is."""
    tag = parse_etag(value)
    if tag is None or tag.weak:
        return value
    return str(EntityTag(f"{tag.opaque}{_MARK}{coding}"))


def unmark_conditions(
    headers: Headers, acceptable: Container[str]
) -> tuple[CIMultiDict[str] | None, Mapping[str, EntityTag]]:
    """The conditions of a request in the origin's tags.

    Only tags of forms that the request accepts are taken for their origin's: a cache on the way may send the tags of
    all forms that it has, and to confirm one that this client cannot decode would hand it out.

    `If-Range` keeps its tag, which then matches nothing: a range of the stored form is no continuation of a coded one.

    Args:
        acceptable: names of the codings, `identity` among them, that the client accepts.

    Returns:
        Changed header fields, None if nothing changes; and for each opaque tag that was marked, the tag as sent.
    """
    changed: CIMultiDict[str] | None = None
    sent: dict[str, EntityTag] = {}
    for name in _CONDITIONS:
        if (lines := headers.getall(name, None)) is None or not any(_MARK in line for line in lines):
            continue
        tags: dict[str, None] = {}
        marked = False
        for tag in parse_etags(lines) or ():
            opaque, mark, coding = tag.opaque.rpartition(_MARK)
            if mark and coding in acceptable:
                marked = True
                sent.setdefault(opaque, tag)
                tags[str(EntityTag(opaque, tag.weak))] = None
            else:
                tags[str(tag)] = None
        if marked:
            changed = headers.copy() if changed is None else changed
            changed[name] = ", ".join(tags)
    return changed, sent or NO_TAGS


def tag_as_sent(value: str, sent: Mapping[str, EntityTag]) -> str:
    """The tag that a client knows what has the tag `value` by, of a response that confirms what it has."""
    tag = parse_etag(value)
    return value if tag is None else str(sent.get(tag.opaque, value))


def varies(headers: Headers) -> bool:
    """Whether Vary names Accept-Encoding, or says that anything may matter."""
    lines = headers.getall(VARY, None)
    if lines is None:
        return False
    return any(name.lower() in _OF_ALL_FORMS for line in lines for name in split_list(line))


def varying(headers: Headers) -> CIMultiDict[str]:
    """A copy of `headers` with Accept-Encoding in Vary."""
    changed = headers.copy()
    if not varies(headers):
        changed.add(VARY, "Accept-Encoding")
    return changed


def reformed(headers: CIMultiDict[str], coding: str) -> CIMultiDict[str]:
    """`headers`, changed, without what is true of one form only, and with the tag of the form in `coding`."""
    for name in (*_OF_THE_FORM, "Content-Length"):
        headers.popall(name, None)
    if (tag := headers.get("ETag")) is not None:
        headers["ETag"] = mark_tag(tag, coding)
    return headers
