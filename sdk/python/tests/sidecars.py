"""Starts a sidecar for tests: the double of ``sidecar.py``, or the real one where ANTEROOM_TEST_BINARY names it."""

import contextlib
import os
import socket
import subprocess
import time

from sidecar import Sidecar

BINARY_VARIABLE = "ANTEROOM_TEST_BINARY"


def kinds():
    """The kinds of sidecar that tests can run against here."""
    return ["fake", *real()]


def real():
    """The real one, where there is one: for what the double cannot show."""
    return ["real"] if os.environ.get(BINARY_VARIABLE) else []


class RealSidecar:
    """The binary, as a process. It has what of the double's surface works from outside."""

    def __init__(self, path, *arguments):
        self.path = path
        self._log = open(f"{path}.log", "w+b")
        self._process = subprocess.Popen(
            [os.environ[BINARY_VARIABLE], "serve", "--handoff", path, "--control", f"unix://{path}.control", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self.wait_for(socket.AF_UNIX, path)
        except BaseException:
            self.stop()
            raise

    def wait_for(self, family, address):
        """Until it accepts there."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self.log()
            with contextlib.suppress(OSError), socket.socket(family) as probe:
                return probe.connect(address)
            time.sleep(0.01)
        raise AssertionError(f"the sidecar does not listen on {address}: {self.log()}")

    def log(self):
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")

    def stop(self, remove=True):
        """Die, as by kill -9."""
        self._process.kill()
        self._process.wait(10)
        self._log.close()
        if remove:
            for name in (self.path, f"{self.path}.control"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)


def start(kind, path):
    return RealSidecar(path) if kind == "real" else Sidecar(path)


def start_listening(kind, path, options=""):
    """As ``start``, and the sidecar accepts for the pool "default" at its ``address``, a TCP port; the real one with more ``options`` of a listener."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
        address = sock.getsockname()
        if kind == "fake":
            started = Sidecar(path)
            started.listen(sock)
    if kind == "real":
        started = RealSidecar(path, "--listen", "tcp://{}:{}?pool=default&ready=head{}".format(*address, options))
        started.wait_for(socket.AF_INET, address)
    started.address = address
    return started
