"""A host: a process that borrows connections from a sidecar."""

import collections
import itertools
import json
import os
import re
import select
import socket
import threading
import time
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Sequence, Sized, Tuple

from . import errors
from ._version import __version__
from .backoff import Backoff
from .events import Attached, Detached, Draining, Listening, Turned, Unlistened
from .frame import MAX_AGENT, MAX_CAPACITY, MAX_MILLISECONDS, MAX_NAME, Flag, NackReason, Type
from .lease import Lease
from .link import Link, move
from .session import Hello, Session
from .waker import Waker

DEFAULT_PATH = "/run/anteroom/handoff.sock"
DEFAULT_POOL = "default"
"""The pool of the sidecar's own listeners."""

PATH_VARIABLE = "ANTEROOM_HANDOFF"
POOL_VARIABLE = "ANTEROOM_POOL"
NAME_VARIABLE = "ANTEROOM_NAME"
READY_VARIABLE = "ANTEROOM_READY"
CAPACITY_VARIABLE = "ANTEROOM_CAPACITY"

FEATURES = ("cache", "track", "address", "finish")
"""What a client may ask for."""

WELCOME_TIMEOUT = 5.0
"""Seconds within which the sidecar must answer HELLO; then the link is given up and made anew."""

STABLE = 5.0
"""Seconds a link must have lasted for the next attempt, after its loss, to come without much delay."""

ROOM = 16
"""Idle connections that a process out of descriptors drops at least: each lease that finds no room is delayed."""

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,%d}" % MAX_NAME)


class Listener:
    """A listening socket that the sidecar accepts on, for as long as the client is attached; after a reconnect it is offered again."""

    def __init__(self, client: "Client", sock: socket.socket, payload: bytes) -> None:
        self.sock = sock
        self.id: Optional[int] = None
        """The sidecar's number for it, None while the sidecar does not have it."""
        self._client = client
        self._payload = payload
        self.denied = False
        """Whether the sidecar has denied it, or it could not be sent; it is offered again."""
        self._tag = 0

    def close(self) -> None:
        """Ask the sidecar to close its copy, which it confirms by an Unlistened event. The socket itself stays open. Never raises."""
        self._client._unlisten(self)


class Client:
    """Attaches to a sidecar and stays attached: a lost link is made again, with growing delays.

    For a thread, or several::

        with anteroom.Client(capacity=4) as client:
            for lease in client.leases():
                threads.submit(serve, lease)

    For an event loop: call ``turn`` when ``fileno`` is readable, or writable while ``wants_write``, when ``due`` has come, and, after
    ``waker.clear``, when ``waker`` is readable. ``turn`` is for one thread at a time; the answers of leases, ``drain``, ``listen``,
    ``adopt`` and ``set_capacity`` may come from any.
    """

    def __init__(
        self,
        path: Optional[str] = None,
        *,
        name: Optional[str] = None,
        pool: Optional[str] = None,
        capacity: Optional[int] = None,
        features: Sequence[str] = (),
        agent: str = f"anteroom-python/{__version__}",
    ) -> None:
        """Arguments win over the environment: ``path`` over ANTEROOM_HANDOFF, ``name`` over ANTEROOM_NAME, ``pool`` over ANTEROOM_POOL, ``capacity`` over
        ANTEROOM_CAPACITY. The path may begin with unix://, as in the sidecar's options.

        Without a ``pool`` the client serves what the sidecar listens on, the pool "default"; if ``listen`` is called before it attaches, it has a private
        pool, which ends with it. So has one whose ``pool`` is empty. ``capacity`` is how many leases may be out at once, by default 1, at most 4096.
        Raises ValueError for what the protocol does not allow.
        """
        self.path = socket_path(path or os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)
        self.name = check_name(name or os.environ.get(NAME_VARIABLE) or f"python-{os.getpid()}", "name")
        self._pool = check_pool(pool) if pool is not None else environment_pool()
        self._pool_by_default = False  # whether HELLO has said "default" because no pool was named
        self.capacity = check_capacity(capacity if capacity is not None else environment_capacity() or 1)
        self.waker = Waker()
        self._features = check_features(features)
        self._agent = agent[:MAX_AGENT]
        self._session: Optional[Session] = None
        self._listeners: List[Listener] = []
        self._tags = itertools.count(1)
        self._backoff = Backoff()
        self._retry_at = 0.0
        self._offer_at: Optional[float] = None  # when denied listeners are offered again
        self._offer_backoff = Backoff()
        self._leaving = False
        self._early: Deque[Any] = collections.deque()  # what came together with the WELCOME that connect waited for, or was not iterated over
        self._arrived: Deque[Any] = collections.deque()  # by a turn that is not over yet, or was left by an interrupt
        self._lock = threading.RLock()  # the session and the listeners change under it
        self._reading = threading.RLock()  # for whoever reads from the link; reentrant for signal handlers
        self.make_room: Callable[[], int] = lambda: 0
        """For a host that keeps descriptors of idle connections: called when the process is out of descriptors, in the thread that reads from the link
        or sends a descriptor. It closes some of them, says ``drop`` for each, and returns how many. Then a lease that found no room is given back."""
        self.taken = 0
        """How many leases ``take`` has returned."""

    @property
    def pool(self) -> str:
        """The pool to serve; empty: a private one. If none was named, it is decided by the first HELLO."""
        if self._pool is not None:
            return self._pool
        return "" if self._listeners else DEFAULT_POOL

    # What an event loop needs.

    def fileno(self) -> int:
        """The link's descriptor, -1 while there is no link. It changes with each link."""
        session = self._session
        return session.link.fileno() if session else -1

    @property
    def link(self) -> Optional[Link]:
        """The present link; another object for each attempt."""
        session = self._session
        return session.link if session else None

    @property
    def wants_write(self) -> bool:
        session = self._session
        return session is not None and session.link.wants_write

    @property
    def due(self) -> Optional[float]:
        """When ``turn`` is to be called although nothing has happened, by time.monotonic(); None: never."""
        session = self._session
        if session is None:
            return None if self._leaving else self._retry_at
        if session.link.fileno() < 0:
            return 0.0  # closed, by the last answer or by a fork; turn finds out
        if session.welcome is None:
            return session.link.opened + WELCOME_TIMEOUT
        return self._offer_at

    def turn(self, into: Any = None, one: bool = False) -> Any:
        """Connect if it is time to, else read and send what can be without waiting. Returns leases and events, in order. Never raises.

        They are added to ``into``, a list or deque, if given: then nothing is lost if a signal handler raises an exception meanwhile. With ``one``, no
        more than one frame is read: the others are left to who calls ``take``.
        """
        into = [] if into is None else into
        with self._reading:
            events = self._arrived
            try:
                session = self._session or self._connect()
                if session is not None:
                    session.turn(events, one)
                    self._check_welcome(session)
                    self._offer_again()
            except errors.AnteroomError as why:
                self._attend(events)
                events.append(self._lose(why))
            else:
                self._attend(events)
            move(events, into, len(events))
        return into

    def take(self, behind: Sized = ()) -> Optional[Lease]:
        """The next lease, if it has come and nothing else before it. For a thread that is free, beside the one that calls ``turn``: it goes on without
        a switch between threads. Never waits, and never raises.

        ``behind`` is what ``turn`` has returned and nobody has attended to yet: while there is any, no lease overtakes it.
        """
        if not self._reading.acquire(blocking=False):
            return None
        try:
            return None if behind or self._early or self._arrived else self._take()
        finally:
            self._reading.release()

    def _take(self) -> Optional[Lease]:
        session, events = self._session, self._arrived
        if session is None or session.welcome is None or session.over:
            return None
        try:
            session.turn(events, one=True)
        except errors.AnteroomError:
            self.waker.wake()  # turn finds out
            return None
        if events and type(events[0]) is Lease:
            self.taken += 1
            return events.popleft()
        if events:
            self.waker.wake()  # it is for turn
        return None

    # What a thread needs.

    def __enter__(self) -> "Client":
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def connect(self, timeout: float = WELCOME_TIMEOUT) -> None:
        """Attach now, or raise what prevents it."""
        deadline = time.monotonic() + timeout
        self._retry_at = 0.0
        while True:
            events = self.wait(max(0.0, deadline - time.monotonic()))
            for number, event in enumerate(events, 1):
                if isinstance(event, Attached):
                    self._early.extend(events[number:])
                    return
                if isinstance(event, Detached):
                    raise event.error
            if time.monotonic() >= deadline:
                raise errors.NobodyListens(f"The sidecar at {self.path} took our HELLO and did not answer within {timeout:g} s.")

    def wait(self, timeout: Optional[float] = None, into: Any = None) -> Any:
        """Wait until something happens, for at most ``timeout`` seconds, and return it, as ``turn`` does. May return an empty list."""
        if self._early:
            into = [] if into is None else into
            move(self._early, into, len(self._early))
            return into
        poll = select.poll()
        poll.register(self.waker, select.POLLIN)
        if self.fileno() >= 0:
            poll.register(self.fileno(), select.POLLIN | (select.POLLOUT if self.wants_write else 0))
        due = self.due
        if due is not None:
            left = max(0.0, due - time.monotonic())
            timeout = left if timeout is None else min(left, timeout)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        if any(fd == self.waker.fileno() for fd, _ in ready):
            self.waker.clear()
        return self.turn(into)

    def events(self) -> Iterator[Any]:
        """What happens, leases and events as they come, through all reconnects, until ``over``. Who stops to iterate and begins again misses nothing."""
        while self._early or not self.over:
            if not self._early:
                self.wait(into=self._early)
            while self._early:
                yield self._early.popleft()

    def leases(self) -> Iterator[Lease]:
        """The leases as they come, through all reconnects, until ``over``."""
        for event in self.events():
            if not isinstance(event, Lease):
                continue
            if event.has_descriptor:
                yield event
            else:
                event.nack(NackReason.UNKNOWN)  # nothing is held here that it could mean

    # From any thread.

    @property
    def over(self) -> bool:
        """Whether nothing happens any more: ``drain`` was called, and the last lease is answered or the link is lost."""
        return self._leaving and self._session is None

    @property
    def left(self) -> bool:
        """Whether no lease comes any more: the sidecar has confirmed ``drain``, or there is no link."""
        session = self._session
        return self._leaving and (session is None or session.drained or session.over)

    @property
    def attached(self) -> bool:
        session = self._session
        return session is not None and session.welcome is not None and not session.over

    def has(self, feature: str) -> bool:
        """Whether the sidecar has agreed to the feature."""
        session = self._session
        return session is not None and feature in session.features

    def set_capacity(self, capacity: int) -> None:
        """Take up to ``capacity`` leases at once from now on; 0 pauses this host. Never raises for a lost link."""
        self.capacity = check_capacity(capacity, least=0)
        self._tell(Type.CAPACITY, a=capacity)

    def adopt(self, sock: socket.socket, keep_alive: float = 0, sticky: bool = False) -> int:
        """Give the sidecar an idle connection to manage. Returns the tag of the Adopted or Turned event that follows.

        The caller keeps ``sock`` only if it is ``sticky`` or the feature "cache" was agreed, else it closes it. Raises LinkLost, and ValueError if this
        client is in the pool "default" because no pool was named.
        """
        self._check_own_pool()
        tag = next(self._tags)
        flags = int(Flag.STICKY) if sticky else 0
        self._attached_session().send(Type.ADOPT, seq=tag, a=round(keep_alive * 1000), flags=flags, fd=sock.fileno())
        return tag

    def listen(
        self,
        sock: socket.socket,
        *,
        name: str = "",
        silent: str = "close",
        first_byte_timeout: float = 0,
        ready: str = "bytes",
        backlog: int = 0,
    ) -> Listener:
        """Have the sidecar accept on a listening socket, for this host's pool, whenever this client is attached.

        ``silent``: what becomes of a client that sends nothing for ``first_byte_timeout`` seconds: "close", or "lease" to this host.
        ``ready``: what must have arrived before a lease: "bytes", "head" (of a request) or "request" (its body, too, unless that is long).
        A positive ``backlog`` is the socket's new backlog. The outcome is a Listening or Turned event. Never raises for a lost link. Raises ValueError
        if this client is in the pool "default" because no pool was named, and none of its own was asked for by calling this before it attached.
        """
        settings = {
            "name": re.sub(r"[^A-Za-z0-9._:-]", "_", name)[:MAX_NAME],
            "silent": silent,
            "first_byte_timeout_ms": min(round(first_byte_timeout * 1000), MAX_MILLISECONDS),
            "ready": ready,
            "backlog": backlog,
        }
        listener = Listener(self, sock, json.dumps(settings).encode())
        with self._lock:
            self._check_own_pool()
            self._listeners.append(listener)
            if self.attached:
                self._offer(listener)
        return listener

    def drop(self, conn: int) -> None:
        """Say that the descriptor of an idle connection is no longer held here. Never raises."""
        self._tell(Type.DROPPED, conn=conn)

    def drain(self) -> None:
        """Leave: no new leases come, and once all are answered the link ends and ``leases`` too. Never raises. May be called in a
        signal handler; a thread that waits meanwhile hears of it at once within ``with client.waker.rung_by_signals()``.
        """
        self._leaving = True
        self._leave(self._session)
        self.waker.wake()

    def release(self) -> None:
        """After ``drain``, when nobody will call ``turn`` any more: the last answer hangs up (or this call, if none is due). Never raises."""
        session = self._session
        if session is not None:
            session.drained = True
            session.leave()
        self.waker.close()

    def close(self) -> None:
        """Hang up at once. Leases that are out can still be served, not put. Never raises."""
        self._leaving = True
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()
        self._arrived.clear()
        self.waker.close()

    def _connect(self) -> Optional[Session]:
        if self._leaving or time.monotonic() < self._retry_at:
            return None
        hello = Hello(self.name, self._settle_pool(), max(self.capacity, 1), self._features, self._agent)
        link = Link.open(self.path, on_blocked=self.waker.wake)
        link.make_room = lambda: self.make_room()
        try:
            session = Session(link, hello, self.waker.wake)
        except errors.LinkLost:
            link.close()
            raise
        with self._lock:
            self._session = session
        if self._leaving:  # since a signal handler has said so meanwhile
            self._leave(session)
        return session

    def _settle_pool(self) -> str:
        with self._lock:
            if self._pool is None:
                self._pool, self._pool_by_default = self.pool, not self._listeners
            return self._pool

    def _check_own_pool(self) -> None:
        if self._pool_by_default:
            raise ValueError(
                f'This client serves the pool "{DEFAULT_POOL}" because none was named; its other hosts would be lent what this program brings. '
                'Name the pool (pool="web"), or ask for a private one (pool="").'
            )

    def _check_welcome(self, session: Session) -> None:
        if session.welcome is None and time.monotonic() > session.link.opened + WELCOME_TIMEOUT:
            raise errors.LinkLost(f"The sidecar did not answer HELLO within {WELCOME_TIMEOUT:g} s.")

    def _attend(self, events: Iterable[Any]) -> None:
        """Do what events ask of the client itself."""
        for event in events:
            kind = type(event)
            if kind is Attached:
                self._on_attached()
            elif kind is Unlistened:
                self._on_unlistened(event)
            elif kind is Listening or kind is Turned:
                self._on_listen_answer(event)
            elif kind is Draining:
                self._on_draining()

    def _on_attached(self) -> None:
        if self.capacity == 0:
            self.set_capacity(0)  # a HELLO cannot say that
        with self._lock:
            for listener in self._listeners:
                self._offer(listener)

    def _on_unlistened(self, event: Unlistened) -> None:
        with self._lock:
            for listener in self._listeners:
                if listener.id == event.listener:
                    listener.id = None

    def _on_listen_answer(self, event: Any) -> None:
        with self._lock:
            listener = next((each for each in self._listeners if each._tag == event.tag), None)
        if isinstance(event, Turned):
            if listener is not None:
                self._offer_later(listener)
        elif listener is not None:
            listener.id = event.listener
            self._offer_backoff.reset()
        else:
            self._tell(Type.UNLISTEN, seq=next(self._tags), a=event.listener)  # closed here before the sidecar had answered

    def _on_draining(self) -> None:
        """The answer to our own wish; else the sidecar's: agree, finish, and come back later to it or its successor."""
        session = self._session
        if session is not None and session.draining:
            session.drained = True
        else:
            self._leave(session)

    def _leave(self, session: Optional[Session]) -> None:
        if session is None or session.draining:
            return
        session.draining = True
        if session.welcome is None:
            session.close()  # nothing is held, and who knows when the sidecar reads
        else:
            self._tell(Type.DRAIN)

    def _offer(self, listener: Listener) -> None:
        listener._tag = next(self._tags)
        listener.denied = False
        try:
            self._attached_session().send(Type.LISTEN, seq=listener._tag, payload=listener._payload, fd=listener.sock.fileno())
        except errors.LinkLost:  # or the process is out of descriptors, and the link is not lost
            self._offer_later(listener)
            self.waker.wake()  # turn finds out

    def _offer_later(self, listener: Listener) -> None:
        listener.denied = True
        self._offer_at = time.monotonic() + self._offer_backoff.delay()

    def _offer_again(self) -> None:
        """Offer once more the listeners that were denied, all at once."""
        if self._offer_at is not None and time.monotonic() >= self._offer_at:
            self._offer_at = None
            with self._lock:
                for listener in self._listeners:
                    if listener.denied:
                        self._offer(listener)

    def _unlisten(self, listener: Listener) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if listener.id is not None:
                self._tell(Type.UNLISTEN, seq=next(self._tags), a=listener.id)

    def _lose(self, why: errors.AnteroomError) -> Detached:
        with self._lock:
            session, self._session = self._session, None
            for listener in self._listeners:
                listener.id = None
            self._offer_at = None
        if session is not None:
            session.close()
            if session.welcome is not None and time.monotonic() > session.link.opened + STABLE:
                self._backoff.reset()
        if self._leaving:
            return Detached(why, None)
        delay = self._backoff.delay()
        self._retry_at = time.monotonic() + delay
        return Detached(why, delay)

    def _tell(self, type_: Type, **fields: int) -> None:
        session = self._session
        if session is None or session.over:
            return
        try:
            session.send(type_, **fields)
        except errors.LinkLost:
            self.waker.wake()  # turn finds out

    def _attached_session(self) -> Session:
        session = self._session
        if session is None or session.welcome is None or session.over:
            raise errors.LinkLost("There is no link to the sidecar just now.")
        return session


def socket_path(address: str) -> str:
    """Returns the path of a Unix socket's address such as unix:///run/anteroom/handoff.sock; anything else is a path already."""
    return address[len("unix://") :] if address.startswith("unix:///") else address


def check_features(features: Sequence[str]) -> Tuple[str, ...]:
    """Raises ValueError for one that does not exist."""
    if isinstance(features, str):
        features = [features]
    unknown = [feature for feature in features if feature not in FEATURES]
    if unknown:
        raise ValueError(f"The feature {unknown[0]!r} must be one of {', '.join(FEATURES)}")
    return tuple(features)


def to_drop(kept: int) -> int:
    """How many of ``kept`` idle connections a process that is out of descriptors drops: a quarter, at least ROOM."""
    return min(kept, max(kept // 4, ROOM))


def check_name(name: str, what: str) -> str:
    """Returns ``name``. Raises ValueError if it cannot name a host or a pool."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"The {what} {name!r} must be 1 to {MAX_NAME} of A-Z a-z 0-9 . _ : -")
    return name


def check_pool(pool: str) -> str:
    return check_name(pool, "pool") if pool else ""


def environment_pool() -> Optional[str]:
    """What ANTEROOM_POOL says, None if it is not set or empty. Raises ValueError."""
    value = os.environ.get(POOL_VARIABLE)
    return check_pool(value) if value else None


def environment_capacity() -> Optional[int]:
    """What ANTEROOM_CAPACITY says, None if it is not set. Raises ValueError."""
    value = os.environ.get(CAPACITY_VARIABLE)
    return parse_capacity(value) if value else None


def parse_capacity(value: str, what: str = CAPACITY_VARIABLE) -> int:
    """Raises ValueError; ``what`` is where the value comes from."""
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"{what} is {value!r}; it must be a number from 1 to {MAX_CAPACITY}")
    return check_capacity(int(value))


def check_capacity(capacity: int, least: int = 1) -> int:
    if not least <= capacity <= MAX_CAPACITY:
        raise ValueError(f"The capacity {capacity} must be {least} to {MAX_CAPACITY}")
    return capacity
