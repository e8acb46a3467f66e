"""Sockets for connections whose open file description is shared with the sidecar."""

import os
import select
import socket
from typing import Any, Optional

_NEVER = 604800.0  # seconds, a week


class HostSocket(socket.socket):
    """A client's socket that does not do to the sidecar's copy what must not be done to it."""

    def __del__(self) -> None:
        # Some of the ways in which servers end a connection are to forget it. The sidecar ends it then; no need for a ResourceWarning.
        self.close()

    was_shut = False
    """Whether ``shutdown`` was called."""

    def settimeout(self, value: Optional[float]) -> None:
        """As ever, but None, which would clear the shared O_NONBLOCK, is a week."""
        super().settimeout(_NEVER if value is None else value)

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def shutdown(self, how: int) -> None:
        """As ever, but shutting down both ways leaves reading to the sidecar: were it shut too, whatever the client still sends (the rest
        of a refused body) would be answered with a reset, and that can destroy the response before the client reads it.
        """
        self.was_shut = True
        super().shutdown(socket.SHUT_WR if how == socket.SHUT_RDWR else how)


class SilentSocket(HostSocket):
    """The socket of a client that has already used up its time: the first read times out at once if nothing has come since."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.__class__ = HostSocket
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if not poll.poll(0):
            raise socket.timeout("timed out")
        return self.recv_into(*args, **kwargs)


def sever(sock: socket.socket) -> None:
    """Replace what is behind the socket's descriptor by a connection whose peer has hung up.

    For a connection that was taken back while a thread still works on it: closing the descriptor under that thread would let it write to
    whoever gets the number next.
    """
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        if sock.fileno() >= 0:
            os.dup2(ours.fileno(), sock.fileno(), inheritable=False)
