"""A lease: one client's connection, lent to this host for one request."""

import contextlib
import itertools
import json
import os
import socket
from typing import Any, Iterable, Optional, Protocol, Sequence, Set, Tuple

from .errors import LinkLost
from .frame import HEADER, MAX_MILLISECONDS, CloseReason, Flag, Frame, NackReason, Type

_LAST = int(Flag.LAST)
_FRESH = int(Flag.FRESH)
_SILENT = int(Flag.SILENT)
_STICKY = int(Flag.STICKY)
_FD = int(Flag.FD)
_CLOSE = int(Flag.CLOSE)


class Borrower(Protocol):
    """What a lease needs of the attachment it came over."""

    over: bool

    @property
    def features(self) -> Sequence[str]:
        """Those agreed."""

    def finish(self, lease: "Lease") -> bool:
        """Whether ``lease`` may still be answered; whoever is told so must, and then call ``answered``."""

    def answer(self, data: bytes, fd: Optional[int]) -> None:
        """Send an answer. Raises LinkLost."""

    def answered(self) -> None:
        """An answer was given."""

    def dropped(self, conn: int, seq: int) -> None:
        """A lease was collected without an answer. At any point of any thread."""


class Lease:
    """A connection with a request on it. Answer it exactly once: ``put``, ``close``, ``finish``, ``detach`` or ``nack``.

    The answers may be given from any thread and never raise. They return False if the sidecar no longer waits for one: the lease was
    answered before, or taken back, or the link is gone. A lease that is dropped without an answer is closed.

    The descriptor belongs to the lease until ``take`` or ``socket``; what those return is the caller's to close.
    """

    __slots__ = ("conn", "seq", "flags", "head_length", "request_length", "waited", "peer", "tag", "_session", "_fd", "_over", "__weakref__")

    def __init__(self, session: Borrower, frame: Frame, peer: Optional[str]) -> None:
        self.conn = frame.conn
        """The connection's id, the same for all of its leases."""
        self.seq = frame.seq
        self.flags = frame.flags
        self.head_length = frame.a & 0xFFFFFFFF
        """Bytes of the request's head, 0 if not known."""
        self.request_length = frame.a >> 32
        """Bytes of the whole request, 0 if not all of it has arrived."""
        self.waited = frame.b / 1e6
        """Seconds the request waited for this host."""
        self.peer = peer
        """The client's address if it is not the socket's, as ``host:port``."""
        self.tag: Any = None
        """For the caller's own use."""
        self._session = session
        self._fd: Optional[int] = None
        self._over = True  # until it is lent

    def _lend(self, fd: Optional[int]) -> None:
        """From now on it must be answered. May be called again with the same descriptor."""
        self._fd = fd
        self._over = False

    @property
    def fresh(self) -> bool:
        """Whether this is the connection's first request."""
        return bool(self.flags & _FRESH)

    @property
    def last(self) -> bool:
        """Whether the answer must say ``Connection: close``: there is no room to keep one more connection."""
        return bool(self.flags & _LAST)

    @property
    def silent(self) -> bool:
        """Whether the client has sent nothing within its time: answer 408 and close."""
        return bool(self.flags & _SILENT)

    @property
    def over(self) -> bool:
        """Whether the lease was answered or taken back, or its link is gone."""
        return self._over or self._session.over

    @property
    def has_descriptor(self) -> bool:
        return self._fd is not None

    def take(self) -> int:
        """The descriptor, from now on the caller's. Raises ValueError if it is not here."""
        if self._fd is None:
            raise ValueError("This lease came without a descriptor, or it was taken before.")
        fd, self._fd = self._fd, None
        return fd

    def socket(self) -> socket.socket:
        """The connection as a socket, from now on the caller's. Give it a timeout, but never ``setblocking(True)``, which the
        sidecar's copy would share.
        """
        return socket.socket(fileno=self.take())

    def put(self, keep_alive: float = 0, requests: int = 1, sticky: bool = False) -> bool:
        """The response is sent and nothing is left unread: the connection is idle for up to ``keep_alive`` seconds (0: the pool's time).

        ``sticky``: only this process can go on with it, and keeps the descriptor.
        """
        return self._answer(Type.PUT, _STICKY if sticky else 0, _milliseconds(keep_alive), requests)

    def close(self, reason: int = CloseReason.DONE, requests: int = 1) -> bool:
        """End the connection; the sidecar sees to it that the client gets all that was sent. (Closing the descriptor alone ends nothing.)"""
        return self._answer(Type.CLOSE, 0, reason, requests)

    def detach(self) -> bool:
        """Keep the connection for good, as for a WebSocket: the sidecar lets go of it."""
        return self._answer(Type.DETACH)

    def nack(self, reason: int = NackReason.OVERLOAD) -> bool:
        """Not now, or not here: the sidecar leases the connection again, to another host where there is one."""
        return self._answer(Type.NACK, 0, reason)

    def finish(self, file: Any, offset: int, length: int, close: bool = False, keep_alive: float = 0) -> bool:
        """The rest of the response is in ``file`` (a descriptor, or what has one): ``length`` bytes from ``offset``. The sidecar sends them as the
        client takes them, and then puts the connection for up to ``keep_alive`` seconds (0: the pool's time), or, with ``close``, ends it.

        ``file`` stays the caller's. It must be a regular file or memfd that has those bytes, and keep them, or a pipe that holds them
        already (whose ``offset`` is ignored). Needs the feature "finish". Raises ValueError, and has answered nothing, if that was not agreed,
        or for an ``offset`` below 0 or a ``length`` below 1.
        """
        if "finish" not in self._session.features:
            raise ValueError('The feature "finish" was not agreed: ask for it with Client(features=["finish"]), and see Client.has().')
        if offset < 0 or length < 1:
            raise ValueError(f"offset {offset}, length {length}: the offset must be 0 or more, the length 1 or more")
        fd = file if isinstance(file, int) else file.fileno()
        payload = json.dumps({"keep_alive_timeout_ms": _milliseconds(keep_alive)}).encode() if keep_alive and not close else b""
        return self._answer(Type.FINISH, _FD | (_CLOSE if close else 0), offset, length, payload, fd)

    def _answer(self, type_: Type, flags: int = 0, a: int = 0, b: int = 0, payload: bytes = b"", fd: Optional[int] = None) -> bool:
        session = self._session
        if not session.finish(self):
            self._close_descriptor()
            return False
        try:
            session.answer(HEADER.pack(type_, flags, len(payload), self.seq, self.conn, a, b) + payload, fd)
        except LinkLost:
            if fd is not None:
                self._say_lost()
            return False
        finally:
            self._close_descriptor()
            session.answered()
        return True

    def _say_lost(self) -> None:
        """Perhaps there was only no room to duplicate a descriptor: the client learns it from the connection's end."""
        with contextlib.suppress(LinkLost):
            self._session.answer(HEADER.pack(Type.CLOSE, 0, 0, self.seq, self.conn, CloseReason.APP, 0), None)

    def _close_descriptor(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __del__(self) -> None:
        # Collected in whatever thread, perhaps one that holds a lock of ours: only note it down here. An interrupt may have left it half made.
        if not getattr(self, "_over", True):
            self._session.dropped(self.conn, self.seq)
        if getattr(self, "_fd", None) is not None:
            self._close_descriptor()


def put_all(puts: Iterable[Tuple[Lease, int]]) -> Set[Lease]:
    """``put`` leases, each with the number of its requests, by one write. Returns those that the sidecar still waited for. Never raises."""
    taken: Set[Lease] = set()
    for session, those in itertools.groupby(puts, lambda put: put[0]._session):
        waited = [put for put in those if session.finish(put[0])]
        frames = [HEADER.pack(Type.PUT, 0, 0, lease.seq, lease.conn, 0, requests) for lease, requests in waited]
        try:
            if frames:
                session.answer(b"".join(frames), None)
            taken.update(lease for lease, _ in waited)
        except LinkLost:
            pass
        finally:
            for _ in waited:
                session.answered()
    return taken


def _milliseconds(seconds: float) -> int:
    """As the protocol has a keep-alive time: at most a week."""
    return min(round(seconds * 1000), MAX_MILLISECONDS)
