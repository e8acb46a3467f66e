"""System calls that keep the interpreter's lock, against what Python's own do."""

import array
import os
import socket
import subprocess
import sys

import pytest

from anteroom import keeping

ROOM = socket.CMSG_SPACE(4)


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_what_is_sent_is_received(pair):
    near, far = pair
    assert keeping.can_send(b"hello")
    assert keeping.send(near.fileno(), b"a\0b") == 3
    buffer = bytearray(8)
    assert keeping.recv_into(far.fileno(), buffer) == 3
    assert buffer[:3] == b"a\0b"
    near.close()
    assert keeping.recv_into(far.fileno(), buffer) == 0


@pytest.mark.parametrize("data", [bytearray(b"x"), memoryview(b"x"), b"x" * (keeping.LONG + 1)], ids=["bytearray", "memoryview", "long"])
def test_what_it_is_not_for(data):
    assert not keeping.can_send(data)


def test_nothing_waits(pair):
    near, far = pair
    with pytest.raises(BlockingIOError):
        keeping.recv_into(far.fileno(), bytearray(1))
    with pytest.raises(BlockingIOError):
        keeping.Receiver(32, ROOM).receive(far.fileno())
    block = b"x" * keeping.LONG
    with pytest.raises(BlockingIOError):
        while True:
            assert 0 < keeping.send(near.fileno(), block) <= len(block)


def test_errors_are_python_s(pair):
    near, far = pair
    far.close()
    with pytest.raises(BrokenPipeError):  # and no SIGPIPE, which would end this
        keeping.send(near.fileno(), b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        keeping.send(-1, b"x")


@pytest.mark.parametrize("with_descriptor", [False, True])
def test_a_message_is_what_recvmsg_makes_of_it(pair, with_descriptor):
    near, far = pair
    with open(os.devnull) as file:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))] if with_descriptor else []
        for _ in range(2):
            near.sendmsg([b"frame"], rights)
            far.setblocking(False)
    wanted = far.recvmsg(5, ROOM, socket.MSG_CMSG_CLOEXEC)
    got = keeping.Receiver(5, ROOM).receive(far.fileno())
    assert (got[0], got[2]) == (wanted[0], wanted[2])
    assert len(got[1]) == len(wanted[1]) == len(rights)
    for (level, kind, ours), theirs in zip(got[1], wanted[1]):
        assert (level, kind, len(ours)) == (theirs[0], theirs[1], len(theirs[2]))
        for data in ours, theirs[2]:
            fd = array.array("i", data)[0]
            assert os.path.samestat(os.fstat(fd), os.stat(os.devnull)) and not os.get_inheritable(fd)
            os.close(fd)


def test_a_receiver_is_used_again(pair):
    near, far = pair
    receiver = keeping.Receiver(4, ROOM)
    near.sendmsg([b"long"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [near.fileno()]))])
    near.send(b"s")
    os.close(array.array("i", receiver.receive(far.fileno())[1][0][2])[0])
    assert receiver.receive(far.fileno())[:2] == (b"s", ())


def test_without_ctypes_nothing_is_kept():
    code = "import sys; sys.modules['ctypes'] = None; from anteroom import keeping, link, host_socket; assert not keeping.can_send(b'x')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(os.path.dirname(keeping.__file__)))
