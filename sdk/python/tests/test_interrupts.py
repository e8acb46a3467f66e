"""Exceptions from signal handlers: at whatever point of a turn one comes, no lease and no descriptor is lost, and none is there twice."""

import array
import collections
import gc
import os
import socket
import sys


from anteroom.client import Client
from anteroom.frame import MAGIC, Flag, Frame, Type
from anteroom.lease import Lease
from anteroom.link import Link


class Interrupt(BaseException):
    pass


class Interrupter:
    """Raises Interrupt at the ``number``-th bytecode of this package that is run within ``with``, at any of which a signal handler might."""

    def __init__(self, number):
        self.left = number

    def __enter__(self):
        sys.settrace(self._trace)

    def __exit__(self, *exc_info):
        sys.settrace(None)

    def _trace(self, frame, event, arg):
        if f"{os.sep}anteroom{os.sep}" not in frame.f_code.co_filename or frame.f_code.co_name == "__del__":
            return None  # what a finalizer raises goes nowhere
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise Interrupt
        return self._trace


def attached_client(path, monkeypatch):
    """A client, and the sidecar's end of its link."""
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(Link, "open", classmethod(lambda cls, path, on_blocked: cls(ours, on_blocked)))
    client = Client(path)
    theirs.send(Frame(Type.WELCOME, a=MAGIC, payload=b"{}").encode())
    while not client.attached:
        client.turn()
    return client, theirs


def send_leases(sock, file, count):
    for conn in range(1, count + 1):
        data = Frame(Type.PING).encode() + Frame(Type.LEASE, Flag.FD, 1, conn).encode()
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))])


def test_an_interrupt_at_any_point_of_a_turn_loses_no_lease(path, monkeypatch):
    number, interrupted = 0, True
    with open("/dev/null") as file:
        while interrupted:
            client, theirs = attached_client(path, monkeypatch)
            with theirs:
                send_leases(theirs, file.fileno(), 2)
                events, interrupted = collections.deque(), False
                try:
                    with Interrupter(number):
                        client.turn(events)
                        client.turn(events)
                except Interrupt:
                    interrupted = True
                client.turn(events)
                client.turn(events)
                check(events, file)
                client.close()
            number += 1
    assert number > 1000


def check(events, file):
    leases = [event for event in events if isinstance(event, Lease)]
    assert [lease.conn for lease in leases] == [1, 2]
    for lease in leases:
        assert not lease.over
        fd = lease.take()
        assert os.path.samestat(os.fstat(fd), os.fstat(file.fileno()))
        os.close(fd)
        assert lease.put()


def test_a_client_that_is_closed_after_an_interrupt_leaves_no_descriptor(path, monkeypatch):
    number, interrupted = 0, True
    with open("/dev/null") as file:
        while interrupted:
            client, theirs = attached_client(path, monkeypatch)
            with theirs:
                before = len(os.listdir("/proc/self/fd"))
                send_leases(theirs, file.fileno(), 2)
                events, interrupted = collections.deque(), False
                try:
                    with Interrupter(number):
                        client.turn(events)
                        client.turn(events)
                except Interrupt:
                    interrupted = True
                client.close()
                events.clear()
                gc.collect()
                assert len(os.listdir("/proc/self/fd")) <= before - 3, number  # the link and its waker
            number += 11
