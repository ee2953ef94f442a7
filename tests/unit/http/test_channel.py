"""Channels are made by those who own connections."""

import pytest

from proxy.http.channel import Channel, Tunnel
from proxy.http.message import Response


def test_channel_needs_all_its_verbs() -> None:
    class Half(Channel):
        __slots__ = ()

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]  # that is the point


def test_tunnel_has_no_other_attributes() -> None:
    assert set(Tunnel.__slots__) == {"response", "protocol", "channel"}
    assert Response(101).status == 101
