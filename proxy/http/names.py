"""Names of fields that are looked up for each message.

A multidict folds the name that it is asked for, unless that is an `istr`: a look-up takes 0.05 µs instead of 0.14.
"""

from typing import Final

from multidict import istr

ACCEPT_ENCODING: Final = istr("Accept-Encoding")
AUTHORIZATION: Final = istr("Authorization")
CACHE_CONTROL: Final = istr("Cache-Control")
CACHE_GROUP_INVALIDATION: Final = istr("Cache-Group-Invalidation")
CONTENT_ENCODING: Final = istr("Content-Encoding")
CONTENT_LENGTH: Final = istr("Content-Length")
CONTENT_LOCATION: Final = istr("Content-Location")
CONTENT_TYPE: Final = istr("Content-Type")
CONNECTION: Final = istr("Connection")
DATE: Final = istr("Date")
EXPECT: Final = istr("Expect")
HOST: Final = istr("Host")
IF_MATCH: Final = istr("If-Match")
IF_MODIFIED_SINCE: Final = istr("If-Modified-Since")
IF_NONE_MATCH: Final = istr("If-None-Match")
LOCATION: Final = istr("Location")
PRAGMA: Final = istr("Pragma")
RANGE: Final = istr("Range")
TRANSFER_ENCODING: Final = istr("Transfer-Encoding")
UPGRADE: Final = istr("Upgrade")
VARY: Final = istr("Vary")
VIA: Final = istr("Via")
X_REQUEST_ID: Final = istr("X-Request-ID")

ANSWERED_BY_304: Final = (IF_NONE_MATCH, IF_MODIFIED_SINCE)
"""The conditions that a client gets a 304 for (RFC 9110 §15.4.5)."""
