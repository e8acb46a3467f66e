"""One connection to the sidecar: frames and descriptors in both directions, without blocking."""

import array
import collections
import contextlib
import itertools
import os
import socket
import threading
import time
import weakref
from typing import Any, Callable, Deque, Iterable, List, NamedTuple, Optional, Tuple

from . import errors, keeping
from .events import OutOfDescriptors
from .frame import HEADER, BadFrame, Flag, Frame, NackReason, Type, decode

MAX_UNSENT = 1 << 20
"""Bytes that may wait for a sidecar that does not read. Beyond it the link is given up."""

_RECEIVE = 65536
# The protocol allows one descriptor per message. Room for more, so that a surplus is seen and closed.
_CONTROL = socket.CMSG_SPACE(16 * array.array("i").itemsize)
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_RECEIVE_ONCE = ((_RECEIVE, _CONTROL, _RECEIVE_FLAGS),)
_RECEIVE_ONE = ((HEADER.size, _CONTROL, _RECEIVE_FLAGS),)
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_FD = int(Flag.FD)

_LOST = -1  # in the place of a descriptor that found no room: the next one may be here before its frame is complete

Received = Tuple[Frame, Optional[int]]


class _Inflow(NamedTuple):
    """What has arrived. It is replaced as a whole, so that an interrupt (an exception from a signal handler) comes before a step or behind it."""

    message: Any = None  # the last one that is part of it
    partial: bytes = b""
    descriptors: Tuple[int, ...] = ()  # not yet claimed by a frame
    frames: Deque[Received] = collections.deque()

    def after(self, message: Any) -> "_Inflow":
        """With one more result of recvmsg. Raises ProtocolError."""
        data, control, flags, _ = message
        fds = _descriptors_in(control)
        if len(fds) > 1:
            raise errors.ProtocolError("The sidecar sent two descriptors in one message.")
        if flags & socket.MSG_CTRUNC and not fds:
            fds = [_LOST]
        descriptors = collections.deque((*self.descriptors, *fds))
        data = self.partial + data
        frames = self.frames.copy()
        try:
            frame, start = decode(data)
            while frame is not None:
                fd = None
                if frame.flags & _FD:
                    if not descriptors:
                        raise errors.ProtocolError("The sidecar announced a descriptor that did not come.")
                    fd = descriptors.popleft()
                frames.append((frame, fd))
                frame, start = decode(data, start)
        except BadFrame as why:
            raise errors.ProtocolError(f"The sidecar sent {why}.") from why
        return _Inflow(message, data[start:], tuple(descriptors), frames)


class Link:
    """A stream of frames over a connected Unix socket, which it owns.

    ``send`` may be called from any thread. ``receive`` and ``flush`` are for the one thread that waits for ``fileno``. After a
    LinkLost from any of them the link is of no use but to be closed.

    What a signal handler raises may leave any method at any point. Nothing that was received is lost by that: the next ``receive`` goes on.
    """

    def __init__(self, sock: socket.socket, on_blocked: Callable[[], None] = lambda: None) -> None:
        """``on_blocked`` is called, from any thread, when ``wants_write`` becomes true."""
        sock.setblocking(False)
        self._sock = sock
        self._on_blocked = on_blocked
        # Reentrant, because a signal handler may send while the thread it interrupts does.
        self._lock = threading.RLock()  # all below changes under it, and no system call is made
        self._sender: Optional[int] = None  # the thread that is sending
        self._blocked = False  # the socket is full
        self._closed = False
        self._unsent: Deque[Tuple[bytes, Optional[int]]] = collections.deque()  # with descriptors of our own
        self._unsent_bytes = 0
        self._messages: Deque[Any] = collections.deque()  # results of recvmsg
        self._inflow = _Inflow(frames=collections.deque())
        self._take = keeping.Receiver(HEADER.size, _CONTROL).receive if keeping.KEEPS else None
        self.frames: Deque[Any] = collections.deque()
        """The frames received, each with its descriptor, which belongs to whoever takes it, or puts something else in its place. ``close`` empties it."""
        self.opened = time.monotonic()
        self.make_room: Callable[[], int] = lambda: 0
        """Called when the process is out of descriptors, before the lease that lost its descriptor is given back; returns how many it has closed."""
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

        While another thread is sending, that one sends these, too. Raises LinkLost; HungUp, if the reason may still be read.
        """
        mine = False
        try:
            with self._lock:
                self._keep(data, fd)
                if self._sender is not None or self._blocked:
                    return
                mine = True
                self._sender = threading.get_ident()
            self._send_kept()
        except BaseException:
            if mine:
                self._stop_sending()
            raise
        if self._blocked:
            self._on_blocked()

    def flush(self) -> None:
        """Send what ``send`` could not. Raises as ``send`` does."""
        mine = False
        try:
            with self._lock:
                if self._sender is not None:
                    return
                mine = True
                self._sender, self._blocked = threading.get_ident(), False
            self._send_kept()
        except BaseException:
            if mine:
                self._stop_sending()
            raise

    def receive(self, one: bool = False) -> None:
        """Read once, and put the frames that are complete into ``frames``; with ``one``, no more than one: the others stay in the socket, which stays
        readable.

        PING is answered here and not passed on. A LEASE whose descriptor was lost is answered here, too; OutOfDescriptors takes its place. Raises
        LinkLost when the sidecar has hung up.
        """
        messages = self._messages
        if not messages:
            try:
                if one and self._take is not None and not _may_be_interrupted():
                    messages.append(self._take(self._sock.fileno()))
                else:
                    messages.extend(itertools.starmap(self._sock.recvmsg, _RECEIVE_ONE if one else _RECEIVE_ONCE))  # in one step, for an interrupt
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as why:
                raise errors.LinkLost(f"The link to the sidecar broke: {why}") from why
        while messages:
            if not messages[0][0]:
                raise errors.LinkLost("The sidecar hung up.")
            if messages[0] is not self._inflow.message:
                self._inflow = self._inflow.after(messages[0])
            messages.popleft()
        self._sort(self._inflow.frames)

    def close(self) -> None:
        """Hang up, once a thread that is sending has done so. Descriptors that nobody has claimed are closed. May be called more than once."""
        with self._lock:
            self._closed = True
            if self._sender is None:
                self._close()

    def _close(self) -> None:
        _open_links.discard(self)
        self._sock.close()
        for _, fd in self._unsent:
            _close(fd)
        self._unsent.clear()
        self._close_received()

    def _close_received(self) -> None:
        """Close the descriptors that have arrived and that nobody has taken."""
        inflow, self._inflow = self._inflow, _Inflow(frames=collections.deque())
        while self._messages:
            message = self._messages.popleft()
            if message is not inflow.message:
                _close_all(_descriptors_in(message[1]))
        _close_all(inflow.descriptors)
        _close_all(fd for _, fd in inflow.frames)
        while self.frames:
            what = self.frames.popleft()
            if type(what) is tuple and type(what[0]) is Frame:
                _close(what[1])

    def _send_kept(self) -> None:
        """Send what waits, and what others add to it meanwhile. For the ``_sender``.

        No lock is held during a system call: whoever made it may have to wait for the interpreter's lock afterwards, and everybody who has
        something to send would wait with it.
        """
        batch = self._take_unsent()
        while batch is not None:
            self._write_batch(*batch)
            batch = self._take_unsent()

    def _take_unsent(self) -> Optional[Tuple[bytes, Optional[int]]]:
        """What can go with one write: plain frames, or one frame with its descriptor. None, after which nobody is sending, if there is nothing."""
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
        """Does nothing if this thread has stopped already, and another one is sending."""
        with self._lock:
            if self._sender == threading.get_ident():
                self._sender = None
            if self._closed and self._sender is None:
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
                return self._send_now(data)
            return self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))], _SEND_FLAGS)
        except (BlockingIOError, InterruptedError):
            return 0
        except (BrokenPipeError, ConnectionResetError) as why:
            raise errors.HungUp("The sidecar hung up.") from why
        except OSError as why:
            raise errors.LinkLost(f"The link to the sidecar broke: {why}") from why

    def _send_now(self, data: bytes) -> int:
        if keeping.can_send(data) and not _may_be_interrupted():
            return keeping.send(self._sock.fileno(), data)
        return self._sock.send(data, _SEND_FLAGS)

    def _keep(self, data: bytes, fd: Optional[int]) -> None:
        if self._unsent_bytes + len(data) > MAX_UNSENT:
            raise errors.LinkLost(f"The sidecar does not read: {self._unsent_bytes} bytes wait for it.")
        self._unsent.append((data, None if fd is None else self._duplicate(fd)))
        self._unsent_bytes += len(data)

    def _duplicate(self, fd: int) -> int:
        """Raises LinkLost if the process is out of descriptors, also when room was made."""
        with contextlib.suppress(OSError):
            return os.dup(fd)
        self.make_room()
        try:
            return os.dup(fd)
        except OSError as why:
            raise errors.LinkLost(f"No room to keep a descriptor until the sidecar reads: {why}") from why

    def _reply(self, frame: Frame) -> None:
        """Send an answer to what was received; to a sidecar that has hung up, none: more that it said may follow."""
        with contextlib.suppress(errors.HungUp):
            self.send(frame.encode())

    def _sort(self, frames: Deque[Received]) -> None:
        while frames:
            frame, fd = frames[0]
            if frame.type in _SIDECAR_SAYS and (fd is None or frame.type == Type.LEASE and fd != _LOST):
                move(frames, self.frames, 1)
                continue
            if frame.type == Type.PING:
                self._reply(Frame(Type.PONG, a=frame.a))
            elif frame.type == Type.LEASE:
                self._refuse(frame)
            frames.popleft()
            _close(fd)  # a word, or a use of it, of a later version, which may be ignored


    def _refuse(self, lease: Frame) -> None:
        """Give a lease back whose descriptor was lost. The sidecar sends it again at once, so room is made first."""
        dropped = self.make_room()
        self._reply(Frame(Type.NACK, seq=lease.seq, conn=lease.conn, a=NackReason.NO_DESCRIPTOR))
        self.frames.append(OutOfDescriptors(lease.conn, dropped))


def _may_be_interrupted() -> bool:
    """Whether a signal handler may raise an exception in this thread."""
    return threading.current_thread() is threading.main_thread()


def move(source: Deque[Any], target: Any, count: int) -> None:
    """Move that many from the beginning of ``source`` to the end of ``target``, a list or deque; for an interrupt, in one step."""
    target.extend(map(collections.deque.popleft, itertools.repeat(source, count)))


_SIDECAR_SAYS = frozenset(int(t) for t in Type if t >= Type.WELCOME and t != Type.PING)


def _descriptors_in(control: Iterable[Tuple[int, int, bytes]]) -> List[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _close(fd: Optional[int]) -> None:
    if fd is not None and fd != _LOST:
        os.close(fd)


def _close_all(fds: Iterable[Optional[int]]) -> None:
    for fd in fds:
        _close(fd)


# A forked child shares the link's socket: the sidecar would not see its parent die, and both would read the same stream.
_open_links: "weakref.WeakSet[Link]" = weakref.WeakSet()


def _close_inherited() -> None:
    for link in list(_open_links):
        with contextlib.suppress(OSError):
            link._sock.close()


os.register_at_fork(after_in_child=_close_inherited)
