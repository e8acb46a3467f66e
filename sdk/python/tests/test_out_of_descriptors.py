"""Servers whose process runs out of descriptors serve on: they keep fewer idle connections, and say so once."""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

import sidecars
from conftest import eventually, handoff
from servers import Client

FOLDER = pathlib.Path(__file__).parents[1]
CLIENTS = 90
FEW = 64
"""Descriptors: more than a server needs for itself, fewer than there are clients."""


@contextlib.contextmanager
def serving(program, path, log):
    """The conformance app with few descriptors."""
    environment = {**os.environ, "PYTHON": sys.executable, "ANTEROOM_HANDOFF": path, "ANTEROOM_CAPACITY": "4"}
    with open(log, "wb") as output:
        process = subprocess.Popen([FOLDER / program], env=environment, stdout=output, stderr=output)
    try:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (FEW, FEW))
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("kind", sidecars.kinds())
@pytest.mark.parametrize("program, needed, keeps", [
    ("conformance", "cheroot", True),
    ("conformance-asgi", "uvicorn", True),
    ("conformance-wsgi", "anteroom", False),
    ("conformance-gunicorn", "gunicorn", False),
])  # fmt: skip
def test_more_clients_than_descriptors(kind, program, needed, keeps, tmp_path):
    pytest.importorskip(needed)
    sidecar = sidecars.start_listening(kind, handoff(tmp_path))
    log = tmp_path / "log"
    with contextlib.closing(contextlib.ExitStack()) as clients, serving(program, sidecar.path, log):
        connections = []
        for _ in range(CLIENTS):
            connections.append(clients.enter_context(Client(None, address=sidecar.address)))
            assert connections[-1].get().text == b"hello from python\n"
        for client in connections:
            assert client.get().text == b"hello from python\n"
        if keeps:
            eventually(lambda: "out of descriptors" in log.read_text())
    assert log.read_text().count("out of descriptors") == (1 if keeps else 0), log.read_text()
    sidecar.stop()
