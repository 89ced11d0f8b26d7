"""What holds for every test: no connection to another machine; tests marked `gpu` only where there is a device.

And what tests of runs and of the command line share: a folder to run in, and a command that is run in it.
"""

import socket

import pytest
import toy

from tinygen.backend import load_cupy
from tinygen.cli import main

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


@pytest.fixture
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Runs the test in a folder that is empty, with the model `toy` in the registry."""
    monkeypatch.chdir(tmp_path)
    toy.register(monkeypatch)


@pytest.fixture
def command(capsys):
    """Runs a command line; returns its exit code and what it wrote on stdout and stderr."""

    def run(line):
        try:
            code = main(line.split())
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return code, written.out, written.err

    return run
