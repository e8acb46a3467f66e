"""cheroot and CherryPy behind the sidecar, without a change to the app::

    import anteroom.cheroot
    anteroom.cheroot.install()

Every cheroot server that is started from then on keeps its threads for requests only: the sidecar accepts on the server's own listening
socket, keeps idle and silent clients, and lends each connection for as long as a request takes.
"""

import contextlib
import functools
import logging
import os
import selectors
import socket
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, Iterable, List, Mapping, Optional, Set, Tuple, Type

import cheroot.connections
from cheroot.makefile import MakeFile
from cheroot.server import HTTPServer
from cheroot.workers.threadpool import ThreadPool

from . import cheroot_request
from .address import client_address
from .cheroot_gateway import extend
from .client import NAME_VARIABLE, READY_VARIABLE, Client, Listener, check_capacity, check_name, environment_capacity, environment_pool, to_drop
from .errors import AnteroomError
from .events import Attached, Detached, Forgotten, OutOfDescriptors, Turned
from .frame import MAX_CAPACITY, CloseReason, NackReason
from .host_socket import HostSocket, SilentSocket, sever
from .lease import Lease
from .link import Link
from .sendfile import ROOT_VARIABLE, check_root
from .spill import RESPONSE, TOTAL, Room
from .waker import Waker

__all__ = ["ConnectionManager", "Options", "attach", "install", "uninstall"]

BACKLOG = 1024
"""The backlog asked for the listening socket; cheroot's own 5 loses clients when many arrive at once, or while no sidecar is there."""

FOREVER = 604800.0
"""Seconds an idle connection is kept if ``server.timeout`` is None: as long as the protocol can say."""

TRANSIT = 0.2
"""Seconds for which an idle connection is kept beyond ``server.timeout`` if its client was told that (``Keep-Alive: timeout=``): its request may be on
its way. cheroot alone ends it up to ``expiration_interval`` (0.5) late, and its tests and users expect the end by then."""

AHEAD = 4
"""Leases per thread for a server with a private pool. Nobody else could serve what waits in its queue, and threads that never find the queue
empty cost less: a tenth of the processor time per request and fewer switches between threads, seen with ten threads and 64 clients."""

LENIENCE = 0.001
"""Seconds that workers which read leases themselves are given to come back for the next one, before another worker is woken for it."""

STOP_TIMEOUT = 2.0
"""Seconds that ``stop`` waits for the sidecar to confirm that it has closed the listening socket."""

PAUSE = 0.05
"""Seconds between attempts when waiting itself fails."""

READY = ("bytes", "head", "request")
"""What ``Options.ready`` may be."""

_STOCK = cheroot.connections.ConnectionManager


@dataclass(frozen=True)
class Options:
    """How a server attaches. What is None comes from the environment, or from the server."""

    path: Optional[str] = None
    """The handoff socket; else ANTEROOM_HANDOFF, else /run/anteroom/handoff.sock."""

    pool: Optional[str] = None
    """The pool to serve; else ANTEROOM_POOL, else a private one, which ends with the server. The connections of a named pool are shared
    with its other hosts and outlive the server."""

    name: Optional[str] = None
    """What operators see; else ANTEROOM_NAME, else cheroot- and the process id."""

    capacity: Optional[int] = field(default_factory=environment_capacity)
    """Leases at once; else ANTEROOM_CAPACITY, else as many as there are threads in a named pool, so that requests wait in the sidecar, where the pool's other
    hosts can take them; four times that in a private pool; for a server with a bounded queue (``accepted_queue_size``) its places and one
    more than threads, so that the overload it shall answer with 503 can reach it."""

    cache: int = 256
    """Idle connections whose descriptor and HTTPConnection are kept here, which saves making them for each request."""

    spill: int = RESPONSE
    """Bytes of one response that may be put into memory (a memfd), to be sent by the sidecar, if its client does not take them at once. Beyond that
    the thread waits for the client, as for cheroot alone. 0: it always does."""

    spill_total: int = TOTAL
    """The same for all responses of the server that are still on their way."""

    sendfile_root: Optional[str] = field(default_factory=lambda: os.environ.get(ROOT_VARIABLE))
    """The directory whose files the app may send by answering with the header X-Sendfile; else ANTEROOM_SENDFILE_ROOT, else that header means nothing."""

    fallback: str = "wait"
    """What to do if the sidecar cannot be reached when the server starts: "wait" for it, with clients waiting in the backlog, or serve as
    cheroot does without it ("local"). A sidecar that is lost later is always waited for."""

    ready: str = field(default_factory=lambda: os.environ.get(READY_VARIABLE) or "bytes")
    """What must have arrived before a thread gets a connection; by default ANTEROOM_READY, else "bytes": anything, as for cheroot alone.
    "head": the head of a request. "request": its body, too, unless that is long. With these two no slow client costs a thread, and the
    sidecar answers, in its own words, what never becomes a request. TLS servers have "bytes": only they can read their clients."""

    def __post_init__(self) -> None:
        if self.ready not in READY:
            raise ValueError(f"ready is {self.ready!r}; it must be one of {', '.join(READY)}")
        if self.fallback not in ("wait", "local"):
            raise ValueError(f'fallback is {self.fallback!r}; it must be "wait" or "local"')
        for value, what in ((self.pool, "pool"), (self.name, "name")):
            if value:
                check_name(value, what)
        if self.capacity is not None:
            check_capacity(self.capacity)
        if self.cache < 0:
            raise ValueError(f"cache is {self.cache}; it must be 0 or more")
        if self.spill < 0 or self.spill_total < 0:
            raise ValueError(f"spill is {self.spill}, spill_total {self.spill_total}; they must be 0 or more")
        if self.sendfile_root is not None:
            check_root(self.sendfile_root)


def install(**options: Any) -> None:
    """Put every cheroot server that is prepared from now on behind the sidecar. Takes the members of ``Options``."""
    chosen = {"options": _options(options)}
    cheroot.connections.ConnectionManager = type("ConnectionManager", (ConnectionManager,), chosen)


def uninstall() -> None:
    """Undo ``install`` for servers that are prepared from now on."""
    cheroot.connections.ConnectionManager = _STOCK


def attach(server: Any, **options: Any) -> None:
    """Put one server behind the sidecar. Call it before the server is started. Takes the members of ``Options``."""
    manager = type("ConnectionManager", (ConnectionManager,), {"options": _options(options)})
    prepare = server.prepare

    def prepare_and_replace() -> None:
        prepare()
        stock, server._connections = server._connections, manager(server)
        stock._selector.close()

    server.prepare = prepare_and_replace


def _options(given: Dict[str, Any]) -> Options:
    """Raises TypeError for an option that does not exist, ValueError for what one may not be."""
    known = Options.__dataclass_fields__
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"There is no option {unknown[0]!r}; there are {', '.join(known)}")
    return Options(**given)


class _Ticket:
    """What the adapter notes on an HTTPConnection about its present lease."""

    __slots__ = ("lease", "requests", "kept", "told", "__weakref__")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.requests = 1  # pipelined ones are served under the same lease
        self.kept = False  # whether the client has been told that its connection is kept
        self.told = False  # and for how long


class _Accepted:
    """Stands in for the listening socket where cheroot accepts: its one connection has been accepted already."""

    def __init__(self, sock: socket.socket, address: Any) -> None:
        self._connection = sock, address

    def accept(self) -> Tuple[socket.socket, Any]:
        return self._connection


class _HandshakeFirst:
    """The writing end of a TLS connection whose handshake is still to come: the first write makes it."""

    bytes_written = 0

    def __init__(self, shake_hands: Callable[[], bool], conn: Any) -> None:
        self._shake_hands = shake_hands
        self._conn = conn

    def write(self, data: bytes) -> int:
        if not self._shake_hands():
            raise ConnectionAbortedError("The TLS handshake failed.")
        return self._conn.wfile.write(data)

    def close(self) -> None:
        """Nothing was written."""


class _Ended:
    """The socket of a connection whose real one belongs to somebody else now."""

    def fileno(self) -> int:
        return -1

    def shutdown(self, how: int) -> None:
        """Not ours to shut down."""

    def close(self) -> None:
        """Not ours to close."""


class _Waiter(selectors.DefaultSelector):
    """Waits for the link. To those who look into it, it shows the idle connections that are held here, as cheroot's own would."""

    def __init__(self, held: Callable[[], Iterable[Any]], hidden: Tuple[type, ...]) -> None:
        super().__init__()
        self._held = held
        self._hidden = hidden

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        shown = {fd: key for fd, key in self._fd_to_key.items() if not isinstance(key.data, self._hidden)}
        for conn in self._held():
            fd = conn.socket.fileno()
            shown[fd] = selectors.SelectorKey(fd, fd, selectors.EVENT_READ, conn)
        return shown


class _Selector(cheroot.connections._ThreadsafeSelector):
    """cheroot's selector; ``select`` waits for the link and for the bell instead of for connections."""

    def __init__(self, waker: Waker, held: Callable[[], Iterable[Any]], let_go: Callable[[Any], None]) -> None:
        super().__init__()
        self._selector.close()
        self._selector = _Waiter(held, (Link, Waker))
        self._held = held
        self._let_go = let_go
        self._waker: Optional[Waker] = waker  # until it is registered
        self._link: Optional[Link] = None
        self._events = 0
        self._key = -1

    def unregister(self, fileobj: Any) -> Any:
        for conn in self._held():
            if conn.socket.fileno() == fileobj:
                return self._let_go(conn)
        return super().unregister(fileobj)

    def follow(self, client: Client) -> None:
        """From now on wait for the client's present link, what it wants, and its bell."""
        if self._waker is not None:
            self._watch(self._waker.fileno(), selectors.EVENT_READ, self._waker)
            self._waker = None
        link = client.link
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.wants_write else 0)
        if link is self._link and events == self._events:
            return
        self._link, self._events = link, events
        self._forget(self._key)
        if link is not None:
            self._key = link.fileno()
            self._watch(self._key, events, link)

    def _watch(self, fd: int, events: int, data: Any) -> None:
        self._forget(fd)
        self.register(fd, events, data)

    def _forget(self, fd: int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            super().unregister(fd)


class _LoopThread(threading.Thread):
    """Runs the loop where no signal handler interrupts it."""

    def __init__(self, loop: Callable[[], None]) -> None:
        super().__init__(name="anteroom", daemon=True)
        self._loop = loop
        self._error: Optional[BaseException] = None
        self._running = threading.Lock()
        self._running.acquire()

    def run(self) -> None:
        try:
            self._loop()
        except BaseException as why:
            self._error = why
        finally:
            self._running.release()

    @property
    def over(self) -> bool:
        return not self._running.locked()

    def wait(self) -> None:
        """Return, or raise, when the loop has. A signal handler may raise out of this and wait again; not so with ``join``, which takes the thread for
        ended then (Python's issue 45274).
        """
        with self._running:
            error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # it refers to this frame


class ConnectionManager(_STOCK):
    """Takes the place of ``cheroot.connections.ConnectionManager``; the sidecar manages the connections.

    A connection is leased (with a worker, or in the server's queue) or idle. Of an idle one this object knows the id; up to
    ``Options.cache`` HTTPConnections are held with their descriptors, and all of a TLS server, whose sessions live in this process.

    Threads: the loop has its own, and the one that calls ``run`` waits for it: a signal handler may stop the server, and so wait for workers, and
    if it interrupted the loop they might wait for a lock of the loop's, or of ``queue.Queue``. The loop reads from the link, and so do workers that have
    nothing else to do, leases only. Workers call ``put``, ``can_add_keepalive_connection`` and, through ``HTTPConnection.close``, ``_end``.
    """

    options = Options()

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self._selector.close()
        self._client = Client(
            self.options.path,
            name=self.options.name or os.environ.get(NAME_VARIABLE) or f"cheroot-{os.getpid()}",
            pool=self.options.pool if self.options.pool is not None else environment_pool() or "",  # it brings its listening socket
            features=["track", "address", *(["cache"] if self.options.cache else []), *(["finish"] if self.options.spill else [])],
        )
        self._client.make_room = self._make_room
        self._selector = _Selector(self._client.waker, self._held_connections, self._let_go)
        self._listener: Optional[Listener] = None
        self._first_byte_timeout: Optional[float] = None
        self._settings_due = 0.0
        self._caching = False
        self._room = Room(self.options.spill, self.options.spill_total, self._client.waker.wake)
        self.room: Optional[Room] = None
        """Where responses may wait for their clients, if the sidecar sends them; for the gateway."""
        self._gateway: Any = None  # the server's own, while it is extended
        self._inbox: Deque[Any] = deque()
        self._lock = threading.Lock()  # the idle connections and the promised places change under it
        self._idle: Set[int] = set()
        self._held: Dict[int, Any] = {}  # of the idle ones; least recently used first
        self._promised: "weakref.WeakSet[_Ticket]" = weakref.WeakSet()  # places among the idle ones, reserved
        self._local: Optional[bool] = None  # whether cheroot's own loop runs; decided by the first run
        self._loop: Optional[_LoopThread] = None
        self._looping = threading.RLock()  # held by the loop while it runs; reentrant, for what the loop calls may stop the server
        self._closed = False
        self._complaints: Set[Type[AnteroomError]] = set()
        self._short = False  # whether it was said that descriptors have run out
        self._sharing = False  # whether workers read leases, too
        self._pool_get: Any = None  # the thread pool's own, while it is replaced
        self._taken = 0  # by workers, when the loop last looked

    # What HTTPServer and its workers call.

    def put(self, conn: Any) -> None:
        """Take an idle connection back from a worker. Never raises: that would end the server."""
        conn.last_used = time.time()
        try:
            if self._local:
                self._put_locally(conn)
            else:
                self._put(conn)
        except Exception:
            with contextlib.suppress(Exception):
                conn.close()

    def stop(self) -> None:
        """Stop ``run``, and return once the sidecar has closed its copy of the listening socket. It may precede ``run``."""
        self._stop_requested = True
        self._client.waker.wake()
        with self._looping:
            pass
        if not self._local:
            self._client.drain()
            self._await_farewell()

    def close(self) -> None:
        """Let go of the idle connections. Responses that are under way are finished. Never raises."""
        with self._lock:
            self._closed = True
        if self._gateway is not None:
            self.server.gateway = self._gateway
        if self._pool_get is not None:
            self.server.requests.get = self._pool_get
        if self._local:
            self._close_locally()
        else:
            self._drop_idle()
            self._client.release()
        self._selector.close()

    @property
    def _num_connections(self) -> int:
        """How many connections are idle and this server's."""
        return super()._num_connections if self._local else len(self._idle)

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Whether one more connection may be kept. A worker that asks while it serves one is promised a place for it, until it puts or
        closes it, so that several that ask at once do not all get the last place.
        """
        if self._local:
            return super().can_add_keepalive_connection
        ticket = _ticket_of(getattr(threading.current_thread(), "conn", None))
        if ticket is not None and ticket.lease.last:
            return False
        limit = self.server.keep_alive_conn_limit
        with self._lock:
            if limit is None or ticket in self._promised:
                return True
            free = len(self._idle) + len(self._promised) < limit
            if free and ticket is not None:
                self._promised.add(ticket)
            return free

    def note_told(self, conn: Any, told: bool) -> None:
        """Whether the client is told for how long its connection is kept."""
        ticket = _ticket_of(conn)
        if ticket is not None:
            ticket.told = told

    def outlives_server(self, conn: Any) -> bool:
        """Whether another host may go on with the connection once this server has stopped. What has been read already is unknown there."""
        ticket = _ticket_of(conn)
        shared = ticket is not None and bool(self._client.pool) and isinstance(conn.socket, HostSocket)
        return shared and not ticket.lease.over and not conn.rfile.has_data()

    # The loop.

    def _run(self, expiration_interval: float) -> None:
        if self._loop is None or self._loop.over:  # else an interrupt ended the last wait, not the loop
            self._loop = _LoopThread(functools.partial(self._run_loop, expiration_interval))
            self._loop.start()
        self._loop.wait()

    def _run_loop(self, expiration_interval: float) -> None:
        with self._looping:
            if self._stop_requested:
                return
            self._client.set_capacity(self._wanted_capacity())
            if self._is_local():
                super()._run(expiration_interval)
                return
            self._extend_gateway()
            self._share()
            while not self._stop_requested:
                self._turn(self._wait(expiration_interval), expiration_interval)

    def _wait(self, expiration_interval: float) -> Iterable[Tuple[int, Any]]:
        try:
            return self._selector.select(timeout=self._patience(expiration_interval))
        except (OSError, ValueError):
            self._remove_invalid_sockets()
            time.sleep(PAUSE)
            return ()

    def _extend_gateway(self) -> None:
        if self._gateway is None:
            self._gateway = self.server.gateway
            self.server.gateway = extend(self._gateway, self, self.options.sendfile_root)

    def _turn(self, ready: Iterable[Tuple[int, Any]], expiration_interval: float) -> None:
        rung = False
        for _, what in ready:
            if what is self._client.waker:
                what.clear()
                rung = True
        if not rung and self._workers_read():
            time.sleep(LENIENCE)
            return
        self._client.turn(self._inbox, one=self._sharing)
        self._selector.follow(self._client)
        self._room.push()
        if time.monotonic() >= self._settings_due:
            self._settings_due = time.monotonic() + expiration_interval
            self._follow_settings()
        while self._inbox:  # an exception out of here is logged, and the next run goes on with the rest
            self._attend(self._inbox.popleft())

    def _patience(self, expiration_interval: float) -> float:
        """How long to wait. The interval needs no more than to look at the settings; expiry is the sidecar's."""
        due, push = self._client.due, self._room.due
        if push is not None:
            expiration_interval = min(expiration_interval, push)
        return expiration_interval if due is None else min(expiration_interval, max(0.0, due - time.monotonic()))

    def _attend(self, event: Any) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(self, event)

    def _on_lease(self, lease: Lease) -> None:
        conn = self._begin(lease)
        if conn is not None:
            self.server.process_conn(conn)

    def _begin(self, lease: Lease) -> Any:
        """The connection to serve, or None if there is none, and the lease is answered."""
        self._room.sent(lease.conn)
        conn = self._connection_of(lease)
        if conn is not None:
            conn.anteroom_ticket = _Ticket(lease)
            lease.tag = weakref.ref(conn)
            if lease.over:  # taken back while another thread began it
                sever(conn.socket)
        return conn

    # Workers that read the link themselves.

    def _share(self) -> None:
        """Have workers look for their next lease themselves. The switch to and from the loop's thread costs more than a short request."""
        pool = self.server.requests
        stock = isinstance(pool, ThreadPool) and type(self.server).process_conn is HTTPServer.process_conn
        self._sharing = stock and pool._queue.maxsize <= 0  # an overload of a bounded queue would not be seen
        if self._sharing and self._pool_get is None:
            self._pool_get = pool.get
            pool.get = self._get

    def _get(self) -> Any:
        """Takes the place of ``server.requests.get``."""
        while not (self._stop_requested or self.server.requests.qsize or "process_conn" in vars(self.server)):
            lease = self._client.take(self._inbox)
            if lease is None:
                break
            try:
                conn = self._begin(lease)
            except Exception:
                self.server.error_log("Error in HTTPServer.serve", level=logging.ERROR, traceback=True)
                conn = None
            del lease  # while the thread waits, it holds nothing
            if conn is not None:
                return conn
        return self._pool_get()

    def _workers_read(self) -> bool:
        """Whether workers have read leases since this was last asked, so that what the link has is probably theirs to read. If not, they are all busy, or
        asleep: it is for one of those.
        """
        taken, self._taken = self._taken, self._client.taken
        return taken != self._taken and time.monotonic() < self._settings_due

    def _on_forgotten(self, event: Forgotten) -> None:
        self._room.sent(event.conn)
        if event.lease is None:
            self._drop(self._forget(event.conn))
        elif event.lease.tag is not None:
            conn = event.lease.tag()
            if conn is not None:
                sever(conn.socket)

    def _on_attached(self, event: Attached) -> None:
        self._caching = "cache" in event.welcome.features
        self.room = self._room if "finish" in event.welcome.features else None
        if self._complaints:
            self._complaints.clear()
            self.server.error_log("Anteroom: attached to the sidecar.", level=logging.INFO)

    def _on_detached(self, event: Detached) -> None:
        self.room = None
        self._room.all_sent()  # or never
        self._drop_idle()
        if event.retry_in is not None:
            self._complain(event.error, "Clients wait in the backlog; trying again until it works.")

    def _on_turned(self, event: Turned) -> None:
        self._complain(event.error, "The sidecar does not accept on this server's socket; clients wait in the backlog; trying again.")

    def _on_out_of_descriptors(self, event: OutOfDescriptors) -> None:
        if not self._short:
            self._short = True
            self.server.error_log(f"Anteroom: {event}", level=logging.WARNING)

    _handlers: Dict[type, Callable[["ConnectionManager", Any], None]] = {
        Lease: _on_lease,
        Forgotten: _on_forgotten,
        Attached: _on_attached,
        Detached: _on_detached,
        Turned: _on_turned,
        OutOfDescriptors: _on_out_of_descriptors,
    }

    def _complain(self, error: AnteroomError, outcome: str) -> None:
        """Once per trouble and kind of error: this is the abnormal case, in which a silent server would look as if it worked."""
        if type(error) not in self._complaints:
            self._complaints.add(type(error))
            self.server.error_log(f"Anteroom: {error} {outcome}", level=logging.WARNING)

    # What follows the server's settings, which may change while it runs.

    def _follow_settings(self) -> None:
        wanted = self._wanted_capacity()
        if wanted != self._client.capacity:
            self._client.set_capacity(wanted)
        if self._listener is None or self._first_byte_timeout != self.server.timeout:
            self._listen()

    def _wanted_capacity(self) -> int:
        if self.options.capacity is not None:
            return self.options.capacity
        pool = self.server.requests
        threads = len(getattr(pool, "_threads", ())) or getattr(pool, "min", 1)
        places = getattr(getattr(pool, "_queue", None), "maxsize", 0) or 0
        if places > 0:
            wanted = threads + places + 1
        else:
            wanted = threads if self._client.pool else AHEAD * threads
        return max(1, min(wanted, MAX_CAPACITY))

    def _listen(self) -> None:
        """Hand the listening socket over; again if the time for the first byte has changed, which only a new listener can be told."""
        previous = self._listener
        self._first_byte_timeout = self.server.timeout
        self._listener = self._client.listen(
            self.server.socket,
            name=_name_of(self.server.bind_addr),
            silent="close" if self.server.ssl_adapter else "lease",
            first_byte_timeout=self.server.timeout or 0,
            ready=self._ready(),
            backlog=max(BACKLOG, self.server.request_queue_size),
        )
        if previous is not None:
            previous.close()

    def _ready(self) -> str:
        """What a lease waits for."""
        return "bytes" if self.server.ssl_adapter else self.options.ready

    # From a lease to an HTTPConnection.

    def _connection_of(self, lease: Lease) -> Any:
        """The connection to serve, or None if there is none, and the lease is answered."""
        held = self._forget(lease.conn)
        if held is not None:
            if lease.has_descriptor:
                os.close(lease.take())
            return self._renew(held)
        if not lease.has_descriptor:
            lease.nack(NackReason.UNKNOWN)  # it was dropped here while the lease was on its way
            return None
        sock = (SilentSocket if lease.silent else HostSocket)(fileno=lease.take())
        sock.leased = not self.server.ssl_adapter
        sock.keeps_lock = True
        try:
            address = client_address(lease, sock)
        except OSError:  # reset by the client meanwhile
            conn = None
        else:
            conn = self._make_unshaken(sock, address) if self.server.ssl_adapter else self._make(sock, address, lease)
        if conn is None:
            sock.close()
            lease.close(CloseReason.CLIENT)
        return conn

    def _renew(self, conn: Any) -> Any:
        timeout = self._timeout()
        if conn.socket.gettimeout() != timeout:
            conn.socket.settimeout(timeout)
        return conn

    def _timeout(self) -> float:
        """The server's timeout; never None, which would clear the O_NONBLOCK that is shared with the sidecar."""
        return FOREVER if self.server.timeout is None else self.server.timeout

    def _keep_alive(self, ticket: _Ticket) -> float:
        """Seconds that a connection may be idle."""
        return max(self._timeout(), 0.001) + (TRANSIT if ticket.told else 0)

    def _make(self, sock: socket.socket, address: Any, lease: Lease) -> Any:
        try:
            conn = self._from_server_socket(_Accepted(sock, address))
        except BaseException:
            sock.close()
            lease.close(CloseReason.APP, 0)
            raise
        if not lease.fresh and self.server.stats["Enabled"]:
            self.server.stats["Accepts"] -= 1
        return self._own(conn) if conn is not None else None

    def _own(self, conn: Any) -> Any:
        conn.close = functools.partial(self._end, conn)
        conn.communicate = functools.partial(self._communicate, conn)
        conn.RequestHandlerClass = cheroot_request.extend(conn.RequestHandlerClass)
        return conn

    def _communicate(self, conn: Any) -> bool:
        """Takes the place of ``conn.communicate``: notes whether the client was told that its connection is kept."""
        ticket = conn.anteroom_ticket
        if isinstance(conn.socket, HostSocket):
            conn.socket.room = None  # until this response is at hand
        ticket.kept = False
        ticket.kept = kept = type(conn).communicate(conn)
        return kept

    def _make_unshaken(self, sock: socket.socket, address: Any) -> Any:
        """A TLS connection before its handshake, which is left to the worker: a client that is slow at it delays nobody."""
        sock.settimeout(self._timeout())
        conn = self._own(self.server.ConnectionClass(self.server, sock, MakeFile))
        shake_hands = functools.partial(self._shake_hands, conn, address)
        conn.wfile = _HandshakeFirst(shake_hands, conn)
        conn.communicate = lambda: shake_hands() and conn.communicate()
        return conn

    def _shake_hands(self, conn: Any, address: Any) -> bool:
        del conn.communicate
        try:
            shaken = self._from_server_socket(_Accepted(conn.socket, address))
        except Exception:
            self.server.error_log("Error in HTTPServer.serve", level=logging.ERROR, traceback=True)
            shaken = None
        if shaken is None:
            conn.close = functools.partial(self._give_up, conn)
            return False
        for name in ("socket", "rfile", "wfile", "ssl_env", "remote_addr", "remote_port"):
            setattr(conn, name, getattr(shaken, name))
        vars(shaken).clear()  # it refers to itself, and would keep the socket until the garbage collector finds it
        self._renew(conn)
        return True

    # The ways a lease ends.

    def _put(self, conn: Any) -> None:
        ticket = _ticket_of(conn)
        if ticket.lease.over:
            conn.close()
        elif _has_unread(conn):
            self._serve_on(conn, ticket)
        elif not self._put_idle(conn, ticket):
            conn.close()

    def _serve_on(self, conn: Any, ticket: _Ticket) -> None:
        """A pipelined request is here already: it is served under the same lease."""
        self._release(ticket)
        ticket.requests += 1
        self.server.process_conn(conn)

    def _put_idle(self, conn: Any, ticket: _Ticket) -> bool:
        """Returns False if the connection was not taken, and is the caller's to end."""
        lease = ticket.lease
        sticky = not isinstance(conn.socket, HostSocket)
        hold = sticky or self._may_hold()
        with self._lock:
            self._promised.discard(ticket)
            if self._closed:
                return False
            self._idle.add(lease.conn)
            if hold:
                self._held[lease.conn] = conn
        # From here on the next lease of this connection may come at any time.
        taken = self._answer_put(conn, ticket, sticky)
        if not taken:
            return self._forget(lease.conn) is None and hold  # if it has been dropped meanwhile, nothing is left to end
        if not hold:
            self._drop(conn)
            if self._caching:
                self._client.drop(lease.conn)
        elif not sticky and len(self._held) > self.options.cache:
            self._shrink_cache()
        return True

    def _answer_put(self, conn: Any, ticket: _Ticket, sticky: bool = False) -> bool:
        rest = None if sticky else conn.socket.take_rest()
        if rest is not None:
            finished = rest.finish(ticket.lease, keep_alive=self._keep_alive(ticket))
            if not finished:
                conn.socket.rest = rest
            return finished
        return ticket.lease.put(self._keep_alive(ticket), ticket.requests, sticky)

    def _may_hold(self) -> bool:
        # cheroot counts what a connection has served in all once more after each request; a new object for each keeps the sums right.
        return self._caching and not self.server.stats["Enabled"]

    def _shrink_cache(self) -> None:
        with self._lock:
            if len(self._held) <= self.options.cache:
                return
            oldest = next(iter(self._held))
            conn = self._held.pop(oldest)
        self._release_held(oldest, conn)

    def _make_room(self) -> int:
        """Drop idle connections, in whatever thread reads from the link. Not those of TLS, whose sessions are here, nor what is just being put."""
        with self._lock:
            ids = [conn_id for conn_id, conn in self._held.items() if isinstance(conn.socket, HostSocket) and _ticket_of(conn).lease.over]
            dropped = [(conn_id, self._held.pop(conn_id)) for conn_id in ids[: to_drop(len(ids))]]
        for conn_id, conn in dropped:
            self._release_held(conn_id, conn)
        return len(dropped)

    def _release_held(self, conn_id: int, conn: Any) -> None:
        """Keep its descriptor no more. It stays idle, and this server's."""
        self._drop(conn)
        self._client.drop(conn_id)

    def _end(self, conn: Any) -> None:
        """Takes the place of ``conn.close``: the sidecar has a copy of the descriptor, so it must be told."""
        conn.close = _nothing
        ticket = _ticket_of(conn)
        if self._keep(conn, ticket):
            return
        if ticket is None or ticket.lease.over:
            _send_rest(conn)
        if ticket is not None and ticket.lease.conn in self._idle and isinstance(conn.socket, HostSocket):
            conn.socket.leased = False  # somebody wants an idle connection to end
        try:
            type(conn).close(conn)
        finally:
            if ticket is not None:
                self._release(ticket)
                self._tell_end(conn, ticket)

    def _keep(self, conn: Any, ticket: Any) -> bool:
        """A server that stops closes what it has just answered, though the client was told to go on: the sidecar can keep it."""
        if ticket is None or not ticket.kept or conn.linger or not isinstance(conn.socket, HostSocket) or _has_unread(conn):
            return False
        if not self._answer_put(conn, ticket):
            return False
        self._release(ticket)
        self._drop(conn)
        return True

    def _tell_end(self, conn: Any, ticket: _Ticket) -> None:
        if conn.linger:
            _send_rest(conn)
            if isinstance(conn.socket, HostSocket):
                conn.socket.leased = False
            if _close_unless_shared(conn):
                ticket.lease.detach()  # somebody else goes on with the socket, a WebSocket tool for instance
                return
        with contextlib.suppress(Exception):
            conn.socket.close()
        rest = conn.socket.take_rest() if isinstance(conn.socket, HostSocket) else None
        if rest is not None:
            rest.finish(ticket.lease, close=True)
            rest.close()
            return
        # Only an overload ends a connection in the thread of the loop.
        reason = CloseReason.OVERLOAD if threading.current_thread() is self._loop else CloseReason.DONE
        ticket.lease.close(reason, ticket.requests)

    def _give_up(self, conn: Any) -> None:
        """Takes the place of ``conn.close`` after a failed TLS handshake."""
        conn.close = _nothing
        conn.socket.close()
        lease = _ticket_of(conn).lease
        if conn.socket.was_shut:
            lease.close(CloseReason.CLIENT, 0)
        else:
            lease.detach()  # nothing was said that must reach the client: let the kernel end it, as it does for cheroot alone

    def _release(self, ticket: _Ticket) -> None:
        """Give a promised place back."""
        with self._lock:
            self._promised.discard(ticket)

    # The idle connections.

    def _held_connections(self) -> List[Any]:
        with self._lock:
            return list(self._held.values())

    def _forget(self, conn_id: int) -> Any:
        """The connection is not idle any more. Returns it if it is held."""
        with self._lock:
            self._idle.discard(conn_id)
            return self._held.pop(conn_id, None)

    def _let_go(self, conn: Any) -> None:
        """A held connection turned out to be broken."""
        with self._lock:
            found = [conn_id for conn_id, held in self._held.items() if held is conn]
        for conn_id in found:
            self._forget(conn_id)
            self._client.drop(conn_id)

    def _drop(self, conn: Any) -> None:
        """Close the descriptor of an idle connection, without shutdown, which would reach the sidecar's copy."""
        if conn is None:
            return
        conn.close = _nothing
        with contextlib.suppress(Exception):
            conn.rfile.close()
        with contextlib.suppress(Exception):
            conn.socket.close()

    def _drop_idle(self) -> None:
        with self._lock:
            held = list(self._held.values())
            self._held.clear()
            self._idle.clear()
        for conn in held:
            self._drop(conn)

    # Leaving.

    def _await_farewell(self) -> None:
        """Wait until the sidecar has closed the listening socket; if it does not say so in time, shut that down."""
        deadline = time.monotonic() + STOP_TIMEOUT
        self._refuse_leases()
        while not self._client.left:
            left = deadline - time.monotonic()
            if left <= 0:
                self._shut_listener()
                break
            self._client.wait(left, self._inbox)
            self._refuse_leases()

    def _refuse_leases(self) -> None:
        while self._inbox:
            event = self._inbox.popleft()
            if isinstance(event, Lease):
                event.nack(NackReason.OVERLOAD)
            elif isinstance(event, Forgotten):
                self._on_forgotten(event)

    def _shut_listener(self) -> None:
        """Reaches the sidecar's copy: nobody can connect any more."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.sock.shutdown(socket.SHUT_RDWR)

    # Without a sidecar.

    def _is_local(self) -> bool:
        """Whether cheroot's own loop is to run. Decided once: a connection belongs to one world."""
        if self._local is None:
            reason = self._reason_for_local()
            self._local = reason is not None
            if self._local:
                self._selector.register(self.server.socket.fileno(), selectors.EVENT_READ, data=self.server)
                self.server.error_log(f"Anteroom: {reason} This server works without the sidecar.", level=logging.WARNING)
        return self._local

    def _reason_for_local(self) -> Optional[str]:
        if not hasattr(self.server.socket, "detach"):
            return "This version of cheroot wraps the listening socket for pyOpenSSL."
        if self.options.fallback == "wait":
            return None
        while not self._stop_requested:
            events = self._client.wait(PAUSE)
            self._inbox.extend(events)  # a lease may have come together with the welcome
            for event in events:
                if isinstance(event, Attached):
                    return None
                if isinstance(event, Detached):
                    self._inbox.clear()
                    return str(event.error)
        return None

    def _put_locally(self, conn: Any) -> None:
        if self._closed:
            conn.close()
        elif _has_unread(conn):
            self.server.process_conn(conn)
        else:
            super().put(conn)

    def _close_locally(self) -> None:
        self._client.close()
        for _, conn in list(self._selector.connections):
            if conn is not self.server:
                with contextlib.suppress(Exception):
                    conn.close()


def _nothing() -> None:
    """Takes the place of ``conn.close`` once there is nothing left to close."""


def _ticket_of(conn: Any) -> Any:
    return getattr(conn, "anteroom_ticket", None)


def _name_of(bind_addr: Any) -> str:
    if isinstance(bind_addr, tuple):
        return ":".join(str(part) for part in bind_addr[:2])
    return bind_addr if isinstance(bind_addr, str) else bind_addr.decode("utf-8", "replace")


def _skip_empty_lines(rfile: Any) -> None:
    """Drop the empty line that ends a chunked body; else a worker would wait for a request behind it (RFC 9112, 2.2)."""
    while rfile.has_data() and rfile.peek(0)[:2] == b"\r\n":
        rfile.read(2)


def _has_unread(conn: Any) -> bool:
    """Whether bytes of the next request have been read already, by cheroot or by the TLS library."""
    if conn.rfile.has_data():
        _skip_empty_lines(conn.rfile)
        if conn.rfile.has_data():
            return True
    pending = getattr(conn.socket, "pending", None)
    return pending is not None and pending() > 0


def _send_rest(conn: Any) -> None:
    """Send what was put aside, waiting for the client, and put nothing aside any more: the sidecar will not send it."""
    if isinstance(conn.socket, HostSocket):
        conn.socket.room = None
        with contextlib.suppress(OSError):
            conn.socket.flush()


def _close_unless_shared(conn: Any) -> bool:
    """Take a lingering connection's socket away from it. Closes it and returns False if nobody else has it; else returns True."""
    sock, conn.socket = conn.socket, _Ended()
    with contextlib.suppress(Exception):
        conn.wfile.close()
    count = getattr(sys, "getrefcount", lambda _: 99)(sock)
    if count > 2:  # this variable and getrefcount's argument
        return True
    sock.close()
    return False
