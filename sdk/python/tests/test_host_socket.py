"""Sockets whose open file description is shared with the sidecar."""

import socket

import pytest

from anteroom.host_socket import HostSocket, sever
from conftest import no_descriptor_left


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with HostSocket(fileno=ours.detach()) as host_socket, theirs:
        yield host_socket, theirs


def test_a_severed_socket_reaches_its_client_no_more(ends):
    ours, theirs = ends
    sever(ours)
    with pytest.raises(BrokenPipeError):
        ours.sendall(b"for somebody else")
    assert ours.recv(100) == b""
    theirs.setblocking(False)
    assert theirs.recv(100) == b""  # the one descriptor of the connection is closed


def test_a_socket_is_severed_without_a_descriptor_left(ends):
    ours, _ = ends
    with no_descriptor_left():
        sever(ours)
    with pytest.raises(BrokenPipeError):
        ours.sendall(b"for somebody else")
