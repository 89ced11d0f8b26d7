"""What holds for every test: no connection to another machine; tests marked `gpu` only where there is a device."""

import socket

import pytest

from tinygen.backend import load_cupy

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU, with the reason why there is none."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    try:
        load_cupy()
    except RuntimeError as error:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session", autouse=True)
def only_loopback():
    """Make any other address an error, and pass the environment's proxies by."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    def guarded_resolve(host, *args, **kwargs):
        if host not in LOOPBACK:
            raise AssertionError(f"a test tried to resolve {host!r}")
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_resolve)
        patch.setenv("no_proxy", "*")
        yield
