"""The programs that ``anteroom conformance`` starts."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from servers import Client

FOLDER = pathlib.Path(__file__).parents[1]
PROGRAMS = [("conformance", "cheroot"), ("conformance-gunicorn", "gunicorn"), ("conformance-wsgi", "anteroom"), ("conformance-asgi", "uvicorn")]


@pytest.mark.parametrize("program, needed", PROGRAMS)
def test_it_serves_and_leaves(fake, program, needed):
    pytest.importorskip(needed)
    environment = {**os.environ, "PYTHON": sys.executable, "ANTEROOM_HANDOFF": fake.path, "ANTEROOM_POOL": "judged", "ANTEROOM_CAPACITY": "2"}
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fake.listen(sock, pool="judged")
        with subprocess.Popen([FOLDER / program], env=environment, stdout=subprocess.PIPE) as running:
            with Client(None, address=sock.getsockname()) as client:
                assert client.get().text == b"hello from python\n"
                assert client.get("/bytes?n=30").text == b"abcdefghijklmnopqrstuvwxyzabcd"
                client.send("/stream?n=30", "HEAD")
                assert client.receive("HEAD").text == b""
                assert client.get("/status?code=404", headers=["X-Echo: yes"]).headers["X-Echo"] == "yes"
            running.send_signal(signal.SIGTERM)
            assert running.wait(10) == 0
            assert running.stdout.read() == b""
    assert fake.hellos[0]["capacity"] == 2
