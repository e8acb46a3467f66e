"""gunicorn behind the sidecar: ``gunicorn -k anteroom.gunicorn.Worker app:app``.

Each worker process is a host with as many leases at once as it has threads. The workers share a pool, ANTEROOM_POOL, else one named after the app
and what gunicorn is bound to; the sidecar accepts on that, for this pool. So the clients' connections outlive each worker.
"""

import concurrent.futures as futures
import contextlib
import functools
import os
import re
import socket
import sys
import time
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, Optional, Set, Tuple

from gunicorn import http
from gunicorn.workers.gthread import ThreadWorker

from .address import client_address
from .client import CAPACITY_VARIABLE, NAME_VARIABLE, POOL_VARIABLE, READY_VARIABLE, Client, check_capacity, check_pool, parse_capacity
from .complaints import Complaints
from .events import Detached, Forgotten
from .frame import MAX_CAPACITY, MAX_NAME, CloseReason, NackReason
from .host_socket import HostSocket, sever
from .lease import Lease
from .sendfile import ROOT_VARIABLE, SendFile, check_root, content_length, wants_close
from .spill import Room

READY = ("bytes", "head", "request")
"""What ANTEROOM_READY may be."""

TURN = 1.0
"""Seconds after which a worker tells gunicorn that it is alive, at the latest."""


class Worker(ThreadWorker):
    """gunicorn's worker with threads, to which the sidecar lends connections. It accepts and keeps none itself.

    The main thread waits for the sidecar and tells gunicorn that the worker is alive; the threads serve the requests, with gunicorn's own code.
    """

    _leaving = False
    """Set instead of clearing ``alive``, for gunicorn ends the connections of a worker that is not. Here others go on with them."""

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called by gunicorn before there are workers. Raises ValueError, which ends it."""
        if cfg.is_ssl:
            raise ValueError("anteroom.gunicorn.Worker does not do TLS: the sidecar could not give the connection to another worker. Do it in front of it.")
        if getattr(cfg, "proxy_protocol", None) not in (None, False, "off"):
            raise ValueError(
                "anteroom.gunicorn.Worker does not take --proxy-protocol: a worker sees a connection only for one request, and would take that for a "
                "PROXY header, or believe one that a client sends later. Have the sidecar read it: listen there with proxy=, the load balancer's address "
                "(anteroom serve --listen 'tcp://0.0.0.0:8080?proxy=10.0.0.0/8&pool=web'), and serve that pool (ANTEROOM_POOL=web, --bind 127.0.0.1:0)."
            )
        _capacity(cfg)
        check_pool(_setting(cfg, POOL_VARIABLE) or "")
        _ready(cfg)
        root = _setting(cfg, ROOT_VARIABLE)
        if root:
            check_root(root)

    def run(self) -> None:
        # gunicorn would end the connection of the request with which the worker's limit is reached; the sidecar can keep it.
        self._limit, self.max_requests = self.max_requests, sys.maxsize
        self._busy: Set[_Conn] = set()
        self._inbox: Deque[Any] = deque()
        self._names = [listener.getsockname() for listener in self.sockets]
        self._complaints = Complaints(self.log)
        self._client = Client(
            name=os.environ.get(NAME_VARIABLE) or f"gunicorn-{os.getpid()}",
            pool=_setting(self.cfg, POOL_VARIABLE) or _pool_of(self.cfg.proc_name, _name_of(self.sockets[0])),
            capacity=_capacity(self.cfg),
            features=["track", "address", "finish"],
        )
        self._room = Room(wake=self._client.waker.wake)
        self.wsgi = _App(self.wsgi, self._room, self._client, _setting(self.cfg, ROOT_VARIABLE))
        for listener in self.sockets:
            self._client.listen(listener, name=_name_of(listener), ready=_ready(self.cfg))
        try:
            while self.alive and not self._leaving and self.is_parent_alive():
                self._turn(TURN)
            self._leave()
        finally:
            self._client.close()
            self.tpool.shutdown(False)
            for listener in self.sockets:
                listener.close()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._begin_to_leave()

    def _begin_to_leave(self) -> None:
        self._leaving = True
        client = getattr(self, "_client", None)  # a signal may come before there is one
        if client is not None:
            client.waker.wake()

    def get_thread_pool(self) -> futures.ThreadPoolExecutor:
        """As many threads as it takes: it is the capacity that bounds them, and what was detached does not count."""
        return futures.ThreadPoolExecutor(max_workers=MAX_CAPACITY)

    # The main thread.

    def _turn(self, timeout: float) -> None:
        self.notify()
        due = self._room.due
        self._client.wait(timeout if due is None else min(timeout, due), self._inbox)
        self._room.push()
        while self._inbox:
            self._attend(self._inbox.popleft())

    def _attend(self, event: Any) -> None:
        if isinstance(event, Lease):
            self._room.sent(event.conn)
            self._on_lease(event)
        elif isinstance(event, Forgotten):
            self._room.sent(event.conn)
            conn = event.lease.tag() if event.lease is not None and event.lease.tag is not None else None
            if conn is not None:
                sever(conn.sock)
        else:
            if isinstance(event, Detached):
                self._room.all_sent()  # or never
            self._complaints.hear(event)

    def _on_lease(self, lease: Lease) -> None:
        if self._leaving:
            lease.nack()  # to the next worker
            return
        conn = self._connection_of(lease)
        if conn is not None:
            lease.tag = weakref.ref(conn)
            self._busy.add(conn)
            self.tpool.submit(self._serve, conn)

    def _connection_of(self, lease: Lease) -> "Optional[_Conn]":
        if not lease.has_descriptor:
            lease.nack(NackReason.UNKNOWN)
            return None
        sock = _Socket(fileno=lease.take())
        sock.settimeout(None)
        try:
            address = client_address(lease, sock)
        except OSError:  # reset by the client meanwhile
            sock.close()
            lease.close(CloseReason.CLIENT)
            return None
        return _Conn(self.cfg, sock, address, self._server_of(sock), lease)

    def _server_of(self, sock: socket.socket) -> Any:
        """The address that gunicorn was told to listen on, as it tells its apps; the connection's own, if the sidecar listens."""
        own = sock.getsockname()
        for name in self._names:
            if name == own or isinstance(name, tuple) and isinstance(own, tuple) and name[1] == own[1]:
                return name
        return own

    def _leave(self) -> None:
        self._leaving = True
        self._client.drain()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while (self._busy or not self._client.left) and time.monotonic() < deadline:
            self._turn(min(TURN, max(0.0, deadline - time.monotonic())))

    # The threads.

    def _serve(self, conn: "_Conn") -> None:
        try:
            conn.end(keep=self._serve_requests(conn), keep_alive=self.cfg.keepalive)
        except BaseException:
            self.log.exception("Error on a connection")
            conn.lease.close(CloseReason.APP)
        finally:
            conn.sock.close()
            self._busy.discard(conn)
            if self._leaving:
                self._client.waker.wake()

    def _serve_requests(self, conn: "_Conn") -> bool:
        """Those that have come already. Returns whether the connection is kept."""
        while True:
            conn.sock.room = None  # until the response is at hand
            result = self.handle(conn)
            keep = result[0] if isinstance(result, tuple) else result
            if self.nr >= self._limit and not self._leaving:
                self.log.info("Autorestarting worker after %d requests.", self.nr)
                self._begin_to_leave()
            if keep is not True or not conn.has_unread():
                return keep is True
            conn.requests += 1


class _Socket(HostSocket):
    """What gunicorn and its apps have of a connection."""

    conn: Any
    """The _Conn whose socket it is; a weak reference."""

    deaf = False
    """Whether ``recv`` is to say that there is nothing more, without looking: to find out what a parser has already."""

    begun = False
    """Whether a byte of the lease's first request was received."""

    def recv(self, *args: Any) -> bytes:
        if self.deaf:
            return b""
        data = super().recv(*args)
        if not self.begun:
            data = self._begin(data, *args)
        return data

    def _begin(self, data: bytes, *args: Any) -> bytes:
        """Skip empty lines before the request, as RFC 9112, section 2.2, asks for. gunicorn's parser answers them with 400."""
        while data and not data.lstrip(b"\r\n"):
            data = super().recv(*args)
        self.begun = True
        return data.lstrip(b"\r\n")


class _Conn:
    """A leased connection, with what gunicorn's ``handle`` wants of one."""

    initialized = data_ready = True
    is_http2 = False

    def __init__(self, cfg: Any, sock: _Socket, client: Any, server: Any, lease: Lease) -> None:
        self.cfg = cfg
        self.sock = sock
        self.client = client
        self.server = server
        self.lease = lease
        self.requests = 1
        sock.leased = True
        sock.conn = weakref.proxy(self)
        self.parser = getattr(http, "get_parser", http.RequestParser)(cfg, sock, client)

    def init(self) -> None:
        """Called by gunicorn, to whom it says that there is nothing to do."""

    def has_unread(self) -> bool:
        """Read the request's body to its end. Returns whether more has been read than that; empty lines between requests do not count."""
        more = self._read_ahead().lstrip(b"\r\n")
        if more:
            self.parser.unreader.unread(more)
        return bool(more)

    def detach(self) -> Tuple[socket.socket, bytes]:
        """What an app calls as ``environ["anteroom.detach"]()`` to go on with the connection by itself, in its thread or another. Returns its socket,
        which is then the app's to close, and what the client has sent beyond its request. The app's response goes nowhere. Raises RuntimeError if there
        is no lease any more.
        """
        unread = self._read_ahead()
        self.sock.flush()
        own = HostSocket(fileno=os.dup(self.sock.fileno()))
        if not self.lease.detach():
            own.close()
            raise RuntimeError("The connection is not leased to this process any more.")
        own.settimeout(None)
        sever(self.sock)
        return own, unread

    def _read_ahead(self) -> bytes:
        """Read the request's body to its end. Returns what was read beyond it."""
        while self.parser.mesg.body.read(8192):
            pass
        self.sock.deaf = True
        try:
            return self.parser.unreader.read()
        finally:
            self.sock.deaf = False

    def end(self, keep: bool, keep_alive: float) -> None:
        """Answer the lease."""
        if self.lease.over:
            with contextlib.suppress(OSError):
                self.sock.flush()  # the sidecar will not send it
        rest = self.sock.take_rest()
        if rest is not None:
            rest.finish(self.lease, not keep, keep_alive)
        elif keep:
            self.lease.put(keep_alive, self.requests)
        else:
            self.lease.close(requests=self.requests)


class _App:
    """The app, as seen by gunicorn. It says when the whole of a response is at hand, so that a slow client can be left to the sidecar.

    PEP 3333 wants each block with the client, or on its way there, while the app makes the next one: blocks of a response whose length is not
    known wait for the client.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], room: Room, client: Client, sendfile_root: Optional[str]) -> None:
        self._app = SendFile(app, sendfile_root) if sendfile_root else app
        self._room = room
        self._client = client

    def __call__(self, environ: Dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sock = environ["gunicorn.socket"]
        environ["anteroom.detach"] = sock.conn.detach
        response = self._app(environ, functools.partial(self._start, sock, start_response))
        if isinstance(response, (list, tuple)):
            self._put_aside(sock)
        return response

    def _start(self, sock: _Socket, start_response: Callable[..., Any], status: str, headers: Any, *exc_info: Any) -> Any:
        write = start_response(status, headers, *exc_info)
        length = content_length(headers)
        if length is not None and length <= self._room.response:
            self._put_aside(sock, more=True)
        if sock.conn.lease.last or wants_close(headers):
            start_response.__self__.force_close()  # gunicorn drops the app's header, and would keep the connection
        return write

    def _put_aside(self, sock: HostSocket, more: bool = False) -> None:
        if self._client.has("finish"):
            sock.room, sock.more = self._room, more


def _setting(cfg: Any, variable: str) -> Optional[str]:
    """From ``--env``, which gunicorn puts into the workers' environment only, else from the environment."""
    return cfg.env.get(variable) or os.environ.get(variable) or None


def _pool_of(app: str, address: str) -> str:
    """A pool of its own for each gunicorn, which its successor has, too. An app's name (or ``--name``) alone could be that of two."""
    app, address = (re.sub(r"[^A-Za-z0-9._:-]", "_", each) for each in (app, address[-MAX_NAME // 2 :]))
    return f"{app[: MAX_NAME - len(address) - 1]}-{address}"


def _capacity(cfg: Any) -> int:
    value = _setting(cfg, CAPACITY_VARIABLE)
    return parse_capacity(value) if value else check_capacity(cfg.threads)


def _ready(cfg: Any) -> str:
    ready = _setting(cfg, READY_VARIABLE) or "request"
    if ready not in READY:
        raise ValueError(f"{READY_VARIABLE} is {ready!r}; it must be one of {', '.join(READY)}")
    return ready


def _name_of(listener: Any) -> str:
    name = listener.getsockname()
    return ":".join(str(part) for part in name[:2]) if isinstance(name, tuple) else str(name)
