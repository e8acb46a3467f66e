"""The programs of the README work as they stand (but for the port, which the kernel picks)."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import anteroom
from servers import Client
from conftest import eventually

README = pathlib.Path(__file__).parents[1] / "README.md"
HELLO, OWN_HOST = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_the_first_program(sidecar):
    program = HELLO.replace("8080", "0").replace("Server((", "server = Server((").replace(".safe_start()", "")
    program += "serve, server.serve = server.serve, lambda: (print(server.bind_addr[1], flush=True), serve())\nserver.safe_start()\n"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "ANTEROOM_HANDOFF": sidecar.path, "PYTHONPATH": str(README.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        port = int(child.stdout.readline())
        with Client(None, address=("127.0.0.1", port)) as client:
            assert [client.get().text, client.get().text] == [b"hello\n", b"hello\n"]
        child.send_signal(signal.SIGINT)


def test_a_host_of_your_own(fake, monkeypatch):
    monkeypatch.setenv("ANTEROOM_HANDOFF", fake.path)
    clients = []

    class Observed(anteroom.Client):
        def __init__(self, *args, **how):
            super().__init__(*args, **how)
            clients.append(self)

        def leases(self):
            for number, lease in enumerate(super().leases(), 1):
                yield lease
                if number == 2:
                    self.drain()

    monkeypatch.setattr(anteroom, "Client", Observed)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fake.listen(sock, pool="default")
        with Client(None, address=sock.getsockname()) as client:
            client.send()
            client.sock.settimeout(10)
            host = threading.Thread(target=exec, args=(OWN_HOST, {"__name__": "readme"}))
            host.start()
            assert client.receive().text == b"hello\n"
            assert client.get().text == b"hello\n"
            host.join(10)
            assert not host.is_alive()
    eventually(lambda: not clients[0].attached)
