"""Fixtures: a sidecar, and the proof that nothing is left behind."""

import contextlib
import gc
import os
import resource
import threading
import time

import pytest

import sidecars
from sidecar import Sidecar


def eventually(condition, timeout=10.0):
    """Wait for something that must come. Returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {condition}"
        time.sleep(0.002)


def open_descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # the one that listed them
    return found


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Every test ends with the descriptors and threads it began with."""
    gc.collect()
    before, threads = open_descriptors(), set(threading.enumerate())
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.005)  # threads that have done their work, but not ended yet
    assert not set(threading.enumerate()) - threads
    after = open_descriptors()
    assert len(after) <= len(before), {fd: what for fd, what in after.items() if before.get(fd) != what}


@contextlib.contextmanager
def no_descriptor_left():
    """This process can have no more descriptors than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def handoff(tmp_path):
    return str(tmp_path / "handoff.sock")


@pytest.fixture
def path(tmp_path):
    """The handoff socket's."""
    return handoff(tmp_path)


@pytest.fixture
def fake(tmp_path):
    """The test double, for what only it can show or do."""
    double = Sidecar(handoff(tmp_path))
    yield double
    double.stop()


@pytest.fixture(params=sidecars.kinds())
def sidecar(request, tmp_path):
    """The double, and the real one where there is one."""
    started = sidecars.start(request.param, handoff(tmp_path))
    yield started
    started.stop()
