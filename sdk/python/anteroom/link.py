"""One connection to the sidecar: frames and descriptors in both directions, without blocking."""

import array
import collections
import contextlib
import os
import socket
import threading
import time
import weakref
from typing import Callable, Deque, List, Optional, Tuple

from . import errors
from .frame import BadFrame, Flag, Frame, NackReason, Type, decode

MAX_UNSENT = 1 << 20
"""Bytes that may wait for a sidecar that does not read. Beyond it the link is given up."""

_RECEIVE = 65536
# The protocol allows one descriptor per message. Room for more, so that a surplus is seen and closed.
_CONTROL = socket.CMSG_SPACE(16 * array.array("i").itemsize)
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_FD = int(Flag.FD)

Received = Tuple[Frame, Optional[int]]


class Link:
    """A stream of frames over a connected Unix socket, which it owns.

    ``send`` may be called from any thread. ``receive`` and ``flush`` are for the one thread that waits for ``fileno``. After a
    LinkLost from any of them the link is of no use but to be closed.
    """

    def __init__(self, sock: socket.socket, on_blocked: Callable[[], None] = lambda: None) -> None:
        """``on_blocked`` is called, from any thread, when ``wants_write`` becomes true."""
        sock.setblocking(False)
        self._sock = sock
        self._on_blocked = on_blocked
        # Reentrant, because a signal handler may send while the thread it interrupts does.
        self._lock = threading.RLock()  # all below changes under it, and no system call is made
        self._sending = False  # by some thread
        self._blocked = False  # the socket is full
        self._closed = False
        self._unsent: Deque[Tuple[bytes, Optional[int]]] = collections.deque()  # with descriptors of our own
        self._unsent_bytes = 0
        self._partial = b""
        self._descriptors: Deque[int] = collections.deque()  # arrived, not yet claimed by a frame
        self._lost_descriptors = 0
        self.opened = time.monotonic()
        _open_links.add(self)

    @classmethod
    def open(cls, path: str, on_blocked: Callable[[], None] = lambda: None) -> "Link":
        """Connect to the sidecar at ``path``, without waiting. Raises Unreachable."""
        with contextlib.ExitStack() as undo:
            try:
                sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                sock.setblocking(False)
                sock.connect(path)
            except OSError as why:
                raise errors.unreachable(path, why) from why
            undo.pop_all()
        return cls(sock, on_blocked)

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return -1 if self._closed else self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether ``flush`` is to be called when the socket is writable."""
        return self._blocked

    def send(self, data: bytes, fd: Optional[int] = None) -> None:
        """Send encoded frames; with ``fd``, one frame and a descriptor, which stays the caller's. Never blocks.

        While another thread is sending, that one sends these, too. Raises LinkLost.
        """
        with self._lock:
            self._keep(data, fd)
            if self._sending or self._blocked:
                return
            self._sending = True
        self._send_kept()
        if self._blocked:
            self._on_blocked()

    def flush(self) -> None:
        """Send what ``send`` could not. Raises LinkLost."""
        with self._lock:
            if self._sending:
                return
            self._sending, self._blocked = True, False
        self._send_kept()

    def receive(self) -> List[Received]:
        """Read once. Returns the frames that are complete, each with its descriptor, which is then the caller's.

        PING is answered here, and a LEASE whose descriptor was lost; neither is returned. Raises LinkLost when the sidecar has hung up.
        """
        try:
            data, control, flags, _ = self._sock.recvmsg(_RECEIVE, _CONTROL, _RECEIVE_FLAGS)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as why:
            raise errors.LinkLost(f"The link to the sidecar broke: {why}") from why
        self._take_descriptors(control, flags)
        if not data:
            raise errors.LinkLost("The sidecar hung up.")
        return self._parse(self._partial + data if self._partial else data)

    def close(self) -> None:
        """Hang up, once a thread that is sending has done so. Descriptors that nobody has claimed are closed. May be called more than once."""
        with self._lock:
            self._closed = True
            if not self._sending:
                self._close()

    def _close(self) -> None:
        _open_links.discard(self)
        self._sock.close()
        for _, fd in self._unsent:
            _close(fd)
        self._unsent.clear()
        while self._descriptors:
            _close(self._descriptors.popleft())

    def _send_kept(self) -> None:
        """Send what waits, and what others add to it meanwhile. For the one thread that has set ``_sending``.

        No lock is held during a system call: whoever made it may have to wait for the interpreter's lock afterwards, and everybody who has
        something to send would wait with it.
        """
        try:
            batch = self._take_unsent()
            while batch is not None:
                self._write_batch(*batch)
                batch = self._take_unsent()
        except BaseException:
            self._stop_sending()
            raise

    def _take_unsent(self) -> Optional[Tuple[bytes, Optional[int]]]:
        """What can go with one write: plain frames, or one frame with its descriptor. None, after the end of ``_sending``, if there is nothing."""
        with self._lock:
            if not self._unsent or self._blocked:
                self._stop_sending()
                return None
            data, fd = self._unsent.popleft()
            if fd is None and self._unsent:
                parts = [data]
                while self._unsent and self._unsent[0][1] is None:
                    parts.append(self._unsent.popleft()[0])
                data = b"".join(parts)
            self._unsent_bytes -= len(data)
            return data, fd

    def _stop_sending(self) -> None:
        with self._lock:
            self._sending = False
            if self._closed:
                self._close()

    def _write_batch(self, data: bytes, fd: Optional[int]) -> None:
        try:
            sent = self._write(data, fd)
        except BaseException:  # that of a signal handler comes after the write
            _close(fd)
            raise
        if sent:
            _close(fd)  # what is left of a frame follows as plain bytes: its descriptor went with the first ones
        if sent < len(data):
            self._keep_first(data[sent:], None if sent else fd)

    def _keep_first(self, data: bytes, fd: Optional[int]) -> None:
        """It did not fit, and goes first when the socket is writable again."""
        with self._lock:
            self._blocked = True
            self._unsent.appendleft((data, fd))
            self._unsent_bytes += len(data)

    def _write(self, data: bytes, fd: Optional[int]) -> int:
        try:
            if fd is None:
                return self._sock.send(data, _SEND_FLAGS)
            return self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))], _SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as why:
            raise errors.LinkLost(f"The link to the sidecar broke: {why}") from why

    def _keep(self, data: bytes, fd: Optional[int]) -> None:
        if self._unsent_bytes + len(data) > MAX_UNSENT:
            raise errors.LinkLost(f"The sidecar does not read: {self._unsent_bytes} bytes wait for it.")
        self._unsent.append((data, None if fd is None else _duplicate(fd)))
        self._unsent_bytes += len(data)

    def _take_descriptors(self, control: list, flags: int) -> None:
        before = len(self._descriptors)
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._descriptors.extend(fds)
        if len(self._descriptors) > before + 1:
            raise errors.ProtocolError("The sidecar sent two descriptors in one message.")
        if flags & socket.MSG_CTRUNC and len(self._descriptors) == before:
            self._lost_descriptors += 1

    def _parse(self, data: bytes) -> List[Received]:
        received: List[Received] = []
        try:
            frame, start = decode(data)
            while frame is not None:
                self._sort(frame, received)
                frame, start = decode(data, start)
        except (BadFrame, errors.LinkLost) as why:
            _close_all(received)
            if isinstance(why, BadFrame):
                raise errors.ProtocolError(f"The sidecar sent {why}.") from why
            raise
        self._partial = data[start:]
        return received

    def _sort(self, frame: Frame, received: List[Received]) -> None:
        fd, lost = self._descriptor_of(frame) if frame.flags & _FD else (None, False)
        if frame.type == Type.PING:
            self.send(Frame(Type.PONG, a=frame.a).encode())
        elif frame.type == Type.LEASE and lost:
            self.send(Frame(Type.NACK, seq=frame.seq, conn=frame.conn, a=NackReason.NO_DESCRIPTOR).encode())
        elif frame.type in _SIDECAR_SAYS:
            received.append((frame, fd))
        else:
            _close(fd)  # a word of a later version, which may be ignored

    def _descriptor_of(self, frame: Frame) -> Tuple[Optional[int], bool]:
        """The descriptor that is due, and whether it was lost."""
        if self._descriptors:
            return self._descriptors.popleft(), False
        if self._lost_descriptors:
            self._lost_descriptors -= 1
            return None, True
        raise errors.ProtocolError("The sidecar announced a descriptor that did not come.")


_SIDECAR_SAYS = frozenset(int(t) for t in Type if t >= Type.WELCOME)


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError as why:
        raise errors.LinkLost(f"No room to keep a descriptor until the sidecar reads: {why}") from why


def _close(fd: Optional[int]) -> None:
    if fd is not None:
        os.close(fd)


def _close_all(received: List[Received]) -> None:
    for _, fd in received:
        _close(fd)


# A forked child shares the link's socket: the sidecar would not see its parent die, and both would read the same stream.
_open_links: "weakref.WeakSet[Link]" = weakref.WeakSet()


def _close_inherited() -> None:
    for link in list(_open_links):
        with contextlib.suppress(OSError):
            link._sock.close()


os.register_at_fork(after_in_child=_close_inherited)
