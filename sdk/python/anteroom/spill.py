"""What of a response its client has not taken yet, and how much of that a process may have in memory."""

import os
import stat
import threading
import time
import weakref
from typing import Any, Callable, Dict, List, Optional, Tuple

from .lease import Lease

RESPONSE = 64 << 20
"""Bytes of one response that may be put into memory, by default."""

TOTAL = 512 << 20
"""Bytes of all responses together that may be, by default."""

PUSH = 0.05
"""Seconds between attempts to send more of a response that is still being made."""

CLOSING = 60.0
"""Seconds for which the rest of a response counts that ends its connection: the sidecar does not tell when it is sent."""


class Room:
    """Counts the memory in which responses wait for their clients, and has more of those sent that are still being made. From any thread."""

    def __init__(self, response: int = RESPONSE, total: int = TOTAL, wake: Callable[[], None] = lambda: None) -> None:
        """``wake`` is called when ``due`` is no longer None."""
        self.response = response
        self._total = total
        self._wake = wake
        self._lock = threading.RLock()  # reentrant for signal handlers
        self._taken = 0
        self._lent: Dict[int, int] = {}  # bytes by connection: with the sidecar, which tells by a lease or a FORGET when they are sent
        self._closing: List[Tuple[float, int]] = []  # when they count no more, and bytes
        self._slow: "weakref.WeakSet[Any]" = weakref.WeakSet()  # sockets whose responses are still being made

    @property
    def taken(self) -> int:
        return self._taken

    def take(self, has: int, more: int) -> bool:
        """Whether a response that has put aside ``has`` bytes may put aside ``more``; they count until they are given back."""
        with self._lock:
            self._expire()
            if has + more > self.response or self._taken + more > self._total:
                return False
            self._taken += more
            return True

    def give(self, count: int) -> None:
        with self._lock:
            self._taken -= count

    def lend(self, conn: int, count: int) -> None:
        """They are the sidecar's to send."""
        with self._lock:
            self._lent[conn] = self._lent.get(conn, 0) + count

    def unlend(self, conn: int) -> bool:
        """They are not. Returns False if they have been given back already."""
        with self._lock:
            return self._lent.pop(conn, None) is not None

    def lend_last(self, count: int) -> None:
        """They are the sidecar's to send, and then the connection ends."""
        with self._lock:
            self._closing.append((time.monotonic() + CLOSING, count))

    def sent(self, conn: int) -> None:
        """Nothing of that connection waits any more."""
        if conn in self._lent:
            with self._lock:
                self._taken -= self._lent.pop(conn, 0)

    def all_sent(self) -> None:
        with self._lock:
            for conn in list(self._lent):
                self.sent(conn)

    @property
    def due(self) -> Optional[float]:
        """Seconds until ``push`` is to be called; None: not before ``wake``."""
        return PUSH if self._slow else None

    def watch(self, sock: Any) -> None:
        """Have more of the socket's rest sent while its response is being made."""
        with self._lock:
            first = not self._slow
            self._slow.add(sock)
        if first:
            self._wake()

    def push(self) -> None:
        """Send what clients take now. Never raises."""
        if self._slow:
            for sock in list(self._slow):
                if not sock.push():
                    with self._lock:
                        self._slow.discard(sock)

    def _expire(self) -> None:
        while self._closing and self._closing[0][0] <= time.monotonic():
            self._taken -= self._closing.pop(0)[1]


class Rest:
    """A part of a file that is still to be sent. It owns the descriptor. For one thread at a time, which holds ``lock``."""

    __slots__ = ("file", "offset", "length", "lock", "_room", "_counted")

    def __init__(self, file: int, offset: int, length: int, room: Optional[Room] = None) -> None:
        """With ``room`` the file is memory of ours, to which more may be added."""
        self.file = file
        self.offset = offset
        self.length = length
        self.lock = threading.RLock()
        self._room = room
        self._counted = 0

    @classmethod
    def in_memory(cls, data: Any, room: Room) -> Optional["Rest"]:
        """None if there is no room."""
        try:
            rest = cls(os.memfd_create("anteroom-response", os.MFD_CLOEXEC), 0, 0, room)
        except OSError:
            return None
        if rest.add(data):
            return rest
        rest.close()
        return None

    @classmethod
    def of_file(cls, file: int, offset: int, length: int) -> Optional["Rest"]:
        """A part of a regular file, whose descriptor is duplicated. None if it is none, or has not those bytes."""
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or length < 1 or status.st_size < offset + length:
            return None
        try:
            return cls(os.dup(file), offset, length)
        except OSError:
            return None

    def add(self, data: Any) -> bool:
        """Put ``data`` behind the rest. Returns False, and has changed nothing, if there is no room."""
        if self._room is None or not self._room.take(self._counted, len(data)):
            return False
        end, view = self.offset + self.length, memoryview(data)
        try:
            while view:
                written = os.pwrite(self.file, view, end)
                end, view = end + written, view[written:]
        except OSError:
            self._room.give(len(data))
            return False
        self._counted += len(data)
        self.length += len(data)
        return True

    def send(self, sock: int) -> bool:
        """Send what the client takes now. Returns whether that was all. Raises OSError."""
        while self.length:
            try:
                sent = os.sendfile(sock, self.file, self.offset, self.length)
            except BlockingIOError:
                return False
            if sent == 0:
                raise OSError("The file that is being sent has become shorter.")
            self.offset += sent
            self.length -= sent
        return True

    def finish(self, lease: Lease, close: bool = False, keep_alive: float = 0) -> bool:
        """Leave it to the sidecar, as the answer to the lease (see ``Lease.finish``); from then on the connection's next lease may come at any time. Returns False, and nothing has
        changed, if the sidecar no longer waits for an answer.
        """
        room = self._room
        if room is not None and not close:
            room.lend(lease.conn, self._counted)  # before the sidecar can tell that they are sent
        finished = lease.finish(self.file, self.offset, self.length, close, keep_alive)
        if room is not None:
            if finished and close:
                room.lend_last(self._counted)
            if finished or not close and not room.unlend(lease.conn):
                self._counted = 0
        if finished:
            self.close()
        return finished

    def close(self) -> None:
        """May be called more than once."""
        if self._room is not None:
            self._room.give(self._counted)
            self._room = None
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)
