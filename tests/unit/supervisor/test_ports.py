"""The port that workers share, claimed before they start."""

import socket
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.server.settings import ServerSettings
from proxy.supervisor.ports import claimed


def listening(port: int) -> socket.socket:
    """As a worker does it."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", port))
    one.listen()
    return one


def test_all_workers_may_listen_and_the_claim_takes_no_connection() -> None:
    with claimed(ServerSettings(listen=Address("127.0.0.1", 0))) as (address, shared):
        assert shared is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", address.port), 1)
        with listening(address.port) as first, listening(address.port):
            first.setblocking(True)
            for _ in range(20):
                socket.create_connection(("127.0.0.1", address.port), 1).close()


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_where_somebody_listens_is_only_shared_if_that_is_wanted(*, reuse: bool) -> None:
    with listening(0) as taken:
        settings = ServerSettings(listen=Address("127.0.0.1", taken.getsockname()[1]), reuse_port=reuse)
        if reuse:
            with claimed(settings) as (address, _):
                assert address == settings.listen
        else:
            with pytest.raises(OSError, match="in use"), claimed(settings):
                pass


def test_every_interface_is_claimed_of_both_kinds() -> None:
    with claimed(ServerSettings(listen=Address("", 0))) as (address, _):
        assert address.host == ""
        assert address.port > 0
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as rival, pytest.raises(OSError, match="in use"):
                rival.bind((host, address.port))


def test_a_unix_socket_listens_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    with claimed(ServerSettings(listen=Address(path=str(path)))) as (_, shared):
        assert shared is not None
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        with pytest.raises(OSError, match="in use"), claimed(ServerSettings(listen=Address(path=str(path)))):
            pass
        assert path.exists()
    assert not path.exists()
