"""Sockets for connections whose open file description is shared with the sidecar."""

import contextlib
import os
import select
import socket
from typing import IO, Any, Optional

from . import keeping
from .spill import Rest, Room

_NEVER = 604800.0  # seconds, a week


class HostSocket(socket.socket):
    """A client's socket that does not do to the sidecar's copy what must not be done to it.

    With ``room``, no send waits for a slow client: what it does not take at once is put aside in ``rest``, for whoever ends the lease to
    leave to the sidecar. What comes behind a rest goes behind it, and nothing is read before it is sent.
    """

    room: Optional[Room] = None
    """Where to put aside what the client does not take. None: sends wait for the client, as ever."""

    more = False
    """Whether the response is still being made, and may be for long: then ``room`` sees to it that its rest goes on its way meanwhile."""

    rest: Optional[Rest] = None
    """What the client has not taken. It outlives ``close``. Only the thread that serves the client may set it."""

    leased = False
    """Whether the lease will be answered with more than DETACH, so that ending the connection is the sidecar's."""

    was_shut = False
    """Whether ``shutdown`` was called."""

    keeps_lock = False
    """Whether short sends and receives keep the interpreter's lock (keeping.py). Other threads cannot work meanwhile, but need not be waited for afterwards."""

    def __del__(self) -> None:
        # Some of the ways in which servers end a connection are to forget it. The sidecar ends it then; no need for a ResourceWarning.
        self.close()
        if self.rest is not None:
            self.rest.close()

    def close(self) -> None:
        if self.rest is None:
            super().close()
        else:
            with self.rest.lock:  # not while push uses the descriptor
                super().close()

    def settimeout(self, value: Optional[float]) -> None:
        """As ever, but None, which would clear the shared O_NONBLOCK, is a week."""
        super().settimeout(_NEVER if value is None else value)

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def shutdown(self, how: int) -> None:
        """While the connection is ``leased``, it is only noted: the sidecar ends it when it is told CLOSE. Else as ever, but shutting down both ways leaves
        reading open: were it shut, too, whatever the client still sends would be answered with a reset, and that can destroy the response before the client reads it.
        """
        self.was_shut = True
        if self.leased:
            self.getpeername()  # raises what shutdown would, for a client that is gone
        else:
            super().shutdown(socket.SHUT_WR if how == socket.SHUT_RDWR else how)

    def send(self, data: Any, flags: int = 0) -> int:
        if self.rest is not None:
            return self._send_behind(data, flags)
        if self.room is None or flags:
            return super().send(data, flags)
        try:  # unlike send, neither waits first
            return keeping.send(self.fileno(), data) if self.keeps_lock and keeping.can_send(data) else os.write(self.fileno(), data)
        except BlockingIOError:
            pass
        self.rest = Rest.in_memory(data, self.room)
        if self.rest is None:
            return super().send(data)
        return self._put_aside(len(data))

    def sendall(self, data: Any, flags: int = 0) -> None:
        if self.room is None and self.rest is None:
            return super().sendall(data, flags)
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view, flags) :]
        return None

    def sendfile(self, file: IO[bytes], offset: int = 0, count: Optional[int] = None) -> int:
        """As ever; of a regular file the client need not take anything at once."""
        self.flush()
        rest = _part_of(file, offset, count) if self.room is not None else None
        if rest is None:
            return super().sendfile(file, offset, count)
        length, self.rest = rest.length, rest
        if self._send_rest(rest):
            self._drop_rest()
        file.seek(offset + length)
        return length

    def recv(self, *args: Any) -> bytes:
        if self.rest is not None:
            self.flush()
        return super().recv(*args)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self.rest is not None:
            self.flush()
        if self.keeps_lock and keeping.KEEPS and len(args) == 1 and not kwargs:
            with contextlib.suppress(BlockingIOError):
                return keeping.recv_into(self.fileno(), args[0])
        return super().recv_into(*args, **kwargs)

    def flush(self) -> None:
        """Send what was put aside, waiting for the client as a send does. Raises OSError; the rest is lost then."""
        try:
            while self.rest is not None and not self._send_rest(self.rest):
                self._await_room()
        finally:
            self._drop_rest()

    def push(self) -> bool:
        """Send of the rest what the client takes now, for ``room``, in whatever thread. Returns whether it was not all."""
        rest = self.rest
        try:
            return rest is not None and not self._send_rest(rest)
        except OSError:
            return False  # who sends next will see it

    def take_rest(self) -> Optional[Rest]:
        """The rest, from now on the caller's; None if there is none."""
        rest = self.rest
        if rest is not None:
            with rest.lock:
                self.rest = None
            if rest.length == 0:
                rest.close()
                return None
        return rest

    def _send_rest(self, rest: Rest) -> bool:
        with rest.lock:
            return rest is not self.rest or rest.send(self.fileno())

    def _send_behind(self, data: Any, flags: int) -> int:
        rest = self.rest
        if self.room is not None and rest is not None and rest.length:
            with rest.lock:
                added = rest.add(data)
            if added:
                return self._put_aside(len(data))
        self.flush()
        return super().send(data, flags)

    def _put_aside(self, count: int) -> int:
        if self.more and self.room is not None:
            self.room.watch(self)
        return count

    def _await_room(self) -> None:
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        timeout = self.gettimeout()
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise socket.timeout("timed out")

    def _drop_rest(self) -> None:
        rest = self.take_rest()
        if rest is not None:
            rest.close()


def _part_of(file: IO[bytes], offset: int, count: Optional[int]) -> Optional[Rest]:
    """None if that is no part of a regular file."""
    try:
        fd = file.fileno()
        return Rest.of_file(fd, offset, os.fstat(fd).st_size - offset if count is None else count)
    except (AttributeError, OSError):
        return None


class SilentSocket(HostSocket):
    """The socket of a client that has already used up its time: the first read times out at once if nothing has come since."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.__class__ = HostSocket
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if not poll.poll(0):
            raise socket.timeout("timed out")
        return self.recv_into(*args, **kwargs)


def _make_severed() -> int:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.detach()


_severed = _make_severed()
"""The descriptor of a connection whose peer has hung up. It is made beforehand, for a process that is out of descriptors could make none."""


def sever(sock: socket.socket) -> None:
    """Replace what is behind the socket's descriptor by a connection whose peer has hung up.

    For a connection that was taken back while a thread still works on it: closing the descriptor under that thread would let it write to
    whoever gets the number next.
    """
    if sock.fileno() >= 0:
        os.dup2(_severed, sock.fileno(), inheritable=False)
