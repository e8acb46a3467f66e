"""One attachment to a sidecar, from HELLO to the end of its link."""

import collections
import contextlib
import json
import threading
import weakref
from dataclasses import dataclass
from typing import Any, Callable, Deque, Dict, Optional, Sequence, Tuple

from . import errors
from .events import Adopted, Attached, Draining, Forgotten, Listening, Turned, Unlistened, Welcome
from .frame import HEADER, MAGIC, VERSION, CloseReason, Flag, Frame, Type
from .lease import Lease
from .link import Link, move


@dataclass(frozen=True)
class Hello:
    """What a host says of itself."""

    name: str
    pool: str
    capacity: int
    features: Tuple[str, ...]
    agent: str

    def encode(self) -> bytes:
        payload = {
            "name": self.name,
            "pool": self.pool,
            "capacity": self.capacity,
            "features": list(self.features),
            "agent": self.agent,
        }
        return Frame(Type.HELLO, a=MAGIC | VERSION << 32, payload=json.dumps(payload).encode()).encode()


class Session:
    """A link, what is leased over it, and what its frames mean.

    ``turn`` is for the one thread that waits for the link; the rest may be called from any thread.
    """

    def __init__(self, link: Link, hello: Hello, wake: Callable[[], None]) -> None:
        self.link = link
        self.answer = link.send
        self.welcome: Optional[Welcome] = None
        self.over = False
        self.draining = False
        """Whether this host has said that it leaves."""
        self.drained = False
        """Whether the sidecar has confirmed it: no lease comes any more."""
        self._wake = wake
        self._lock = threading.RLock()  # reentrant for signal handlers
        self._leases: Dict[int, "weakref.ref[Lease]"] = {}  # those that are out
        self._answering = 0  # leases between finish and answered: their answers have still to go over the link
        self._dropped: Deque[Tuple[int, int]] = collections.deque()
        with contextlib.suppress(errors.HungUp):  # a sidecar may refuse us before it has read a byte: ``turn`` reads why
            link.send(hello.encode())

    @property
    def features(self) -> Sequence[str]:
        """Those agreed."""
        return self.welcome.features if self.welcome is not None else ()

    def turn(self, events: Any, one: bool = False) -> None:
        """Read once, send what waits, and append what has happened to ``events``; with ``one``, no more than one frame. Raises LinkLost."""
        self._send_waiting()
        try:
            self.link.receive(one)
        except errors.LinkLost:
            self._hand_on_all(events)  # what ``take`` or an interrupt has left may say why
            raise
        self._hand_on_all(events)

    def _send_waiting(self) -> None:
        """Send what waits. That the sidecar has hung up is found out by reading, behind what it said before. Raises LinkLost."""
        with contextlib.suppress(errors.HungUp):
            self.close_dropped()
            if self.link.wants_write:
                self.link.flush()

    def _hand_on_all(self, events: Any) -> None:
        """Append to ``events`` what the frames received mean. Raises LinkLost."""
        try:
            while self.link.frames:
                self._hand_on(self.link.frames[0])
                move(self.link.frames, events, 1)
        except IndexError:
            pass  # the link was closed meanwhile, in another thread or in a signal handler

    def _hand_on(self, what: Any) -> None:
        """Put what it means in the place of the first frame. An exception from a signal handler may come at any point: the next turn goes
        on with what stands there then, and no lease is there twice or loses its descriptor.
        """
        frames: Deque[Any] = self.link.frames
        if type(what) is tuple and type(what[0]) is Frame:
            frame, fd = what
            event = self._handlers[frame.type](self, frame)
            frames[0] = what = (event, fd) if isinstance(event, Lease) else event
        if type(what) is tuple:
            self._lend(*what)
            frames[0] = what[0]

    def _lend(self, lease: Lease, fd: Optional[int]) -> None:
        with self._lock:
            lease._lend(fd)
            self._leases[lease.conn] = weakref.ref(lease)

    def send(self, type_: Type, seq: int = 0, a: int = 0, flags: int = 0, conn: int = 0, payload: bytes = b"", fd: Optional[int] = None) -> None:
        """Send one frame. Raises LinkLost."""
        if fd is not None:
            flags |= Flag.FD
        self.link.send(Frame(type_, flags, seq, conn, a, 0, payload).encode(), fd)

    def finish(self, lease: Lease) -> bool:
        """Whether ``lease`` may still be answered; whoever is told so must, and then call ``answered``."""
        with self._lock:
            if lease._over or self.over:
                lease._over = True
                return False
            lease._over = True
            del self._leases[lease.conn]
            self._answering += 1
            return True

    def answered(self) -> None:
        """Hang up after the last answer, if the host is leaving."""
        with self._lock:
            self._answering -= 1
        self.leave()

    def leave(self) -> None:
        """Hang up, if the host is leaving and no answer is due any more."""
        if self.drained:
            with contextlib.suppress(errors.LinkLost):
                self.close_dropped()
            self.close_if_done()

    def close_if_done(self) -> None:
        """Hang up, if no lease is out and none will come."""
        with self._lock:
            done = self.drained and not self._leases and not self._answering
        if done:
            self.close()
            self._wake()

    def dropped(self, conn: int, seq: int) -> None:
        """A lease was collected without an answer. Takes no lock: this may run at any point of any thread."""
        if not self.over:
            self._dropped.append((conn, seq))
            self._wake()

    def close_dropped(self) -> None:
        """Have the connections of dropped leases closed. Raises LinkLost."""
        while self._dropped:
            conn, seq = self._dropped.popleft()
            with self._lock:
                self._leases.pop(conn, None)
            self.link.send(HEADER.pack(Type.CLOSE, 0, 0, seq, conn, CloseReason.APP, 0))

    def close(self) -> None:
        """Hang up. Leases that are out can still be served, not put."""
        with self._lock:
            self.over = True
            self._leases.clear()
            for what in self.link.frames:
                if type(what) is tuple and type(what[0]) is Lease:
                    what[0]._lend(what[1])  # an interrupt came before
        self.link.close()

    def _on_welcome(self, frame: Frame) -> Any:
        self.welcome = Welcome.of(_object(frame))
        return Attached(self.welcome)

    def _on_lease(self, frame: Frame) -> Any:
        peer = _object(frame).get("peer") if frame.payload else None
        return Lease(self, frame, peer)

    def _on_forget(self, frame: Frame) -> Any:
        with self._lock:
            reference = self._leases.pop(frame.conn, None)
            lease = reference() if reference else None
            if lease is not None:
                lease._over = True
        return Forgotten(frame.conn, frame.a, lease)

    def _on_adopted(self, frame: Frame) -> Any:
        return Adopted(frame.seq, frame.conn)

    def _on_listening(self, frame: Frame) -> Any:
        return Listening(frame.seq, frame.a)

    def _on_unlistened(self, frame: Frame) -> Any:
        return Unlistened(frame.a)

    def _on_denied(self, frame: Frame) -> Any:
        return Turned(frame.seq, errors.Denied(frame.a, _sentence(frame)))

    def _on_draining(self, frame: Frame) -> Any:
        return Draining(frame.a)

    def _on_refuse(self, frame: Frame) -> Any:
        raise errors.refused(frame.a, _sentence(frame))

    def _on_error(self, frame: Frame) -> Any:
        raise errors.Ended(frame.a, _sentence(frame))

    _handlers: Dict[int, Callable[["Session", Frame], Any]] = {
        Type.WELCOME: _on_welcome,
        Type.LEASE: _on_lease,
        Type.FORGET: _on_forget,
        Type.ADOPTED: _on_adopted,
        Type.LISTENING: _on_listening,
        Type.UNLISTENED: _on_unlistened,
        Type.DENIED: _on_denied,
        Type.DRAINING: _on_draining,
        Type.REFUSE: _on_refuse,
        Type.ERROR: _on_error,
    }


def _object(frame: Frame) -> Dict[str, Any]:
    try:
        value = json.loads(frame.payload)
    except ValueError as why:
        raise errors.ProtocolError(f"The sidecar sent JSON that does not parse: {why}") from why
    if not isinstance(value, dict):
        raise errors.ProtocolError("The sidecar sent JSON that is not an object.")
    return value


def _sentence(frame: Frame) -> str:
    return frame.payload.decode("utf-8", "replace")
