"""uvicorn behind the sidecar: its HTTP and WebSocket protocols, its settings and its log, with connections that are lent for each request::

    server = anteroom.asgi.Server(uvicorn.Config("module:app", lifespan="on"))
    server.run()

or ``await anteroom.asgi.serve(app)``, or ``python -m anteroom asgi module:app``. Nothing of uvicorn is changed for others.
"""

import asyncio
import collections
import contextlib
import logging
import os
import time
from typing import Any, Callable, Dict, List, Optional, OrderedDict, Tuple, Type

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as why:
    raise ImportError("anteroom.asgi needs uvicorn: install anteroom[uvicorn], or your system's package of it (python3-uvicorn)") from why

import h11

from .address import client_address
from .aio import Driver
from .client import NAME_VARIABLE, Client, to_drop
from .complaints import Complaints
from .events import Attached, Detached, Forgotten
from .frame import CloseReason, NackReason
from .lease import Lease, put_all
from .prefork import Supervision, Unusable
from .transport import Transport

__all__ = ["Server", "serve", "work"]

CAPACITY = 100
"""Leases at once by default. More requests wait in the sidecar, where the pool's other hosts can take them."""

CACHE = 256
"""Idle connections whose descriptor and protocol are kept by default, which saves making them for each request."""

FAREWELL = 2.0
"""Seconds that a server which stops waits for the sidecar to confirm that no lease comes any more."""

_PUT_WITHIN = 0.005  # seconds, while other requests of the same turn of the loop are still being served

_WATCHED_AFTER = 0.05  # seconds; the client of a request that has arrived whole, and that is not answered by then

_CLOSE = (b"connection", b"close")

_UVICORNS_OWN = ("127.0.0.1", 8000)

_WHO_LISTENS = "the sidecar listens (anteroom serve --listen), or takes listening sockets from Server.run(sockets=...)"

logger = logging.getLogger("uvicorn.error")


class _Leased:
    """What makes one of uvicorn's HTTP protocols give its connection back between requests. A base class in front of that protocol.

    A connection is leased (``lease`` is set), or kept: idle, not read from, and no concern of uvicorn's.
    """

    lease: Optional[Lease] = None
    leased_conn = 0  # the connection's id
    owner: "_Connections"
    _requests = 0

    def lend(self, lease: Lease) -> None:
        """A request has arrived."""
        self.lease, self.leased_conn = lease, lease.conn
        self._requests = 0
        self.default_headers = self.server_state.default_headers
        if lease.last:
            self.default_headers = [*self.default_headers, _CLOSE]
        self.connections.add(self)
        self.flow.read_paused = False  # uvicorn notes that, but not at each place where it pauses the transport or lets it go on
        if not self.transport.read():
            self._await_client()

    def connection_made(self, transport: Transport) -> None:
        super().connection_made(transport)
        transport.on_flushed = self._settle
        transport.gather()

    def forget(self) -> None:
        """The connection is no longer this host's: close the descriptor, without shutdown."""
        self.lease = None
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.transport.get_protocol() is not self:
            self._settle()

    def on_response_complete(self) -> None:
        self._requests += 1
        self.transport.gather()
        super().on_response_complete()
        self._settle()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.owner.lost(self)
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.close(CloseReason.CLIENT if exc else CloseReason.DONE, self._requests)

    def shutdown(self) -> None:
        """The server stops: what is leased is served, and then put, for others to go on with. uvicorn would close it."""

    def between_requests(self) -> bool:
        """Whether all that was read is answered."""
        raise NotImplementedError

    def has_request(self) -> bool:
        """Whether the present request has been read to its end."""
        raise NotImplementedError

    def _await_client(self) -> None:
        """Let uvicorn's keep-alive timer bound the wait for the rest of a head, or of a body that the app did not read."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.owner.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _settle(self) -> None:
        """After anything that may have made the connection idle: put it, if it is."""
        if self.lease is None or self.transport.is_closing():
            return
        if self.transport.get_protocol() is not self:
            self._detach()
        elif self._requests and self.between_requests():
            self._put_when_flushed()
        elif self.cycle is None or self.cycle.response_complete:
            self._await_client()

    def _put_when_flushed(self) -> None:
        self.flow.read_paused = True
        self.transport.pause_reading()
        self._unset_keepalive_if_required()
        if self.transport.get_write_buffer_size():
            return  # on_flushed tells when nothing is left
        if self.lease.last:
            self.transport.close()
        else:
            lease, self.lease = self.lease, None
            self.connections.discard(self)
            self.owner.put(self, lease, self._requests)

    def _detach(self) -> None:
        """A WebSocket: it is this process's for good."""
        lease, self.lease = self.lease, None
        self._unset_keepalive_if_required()
        self.owner.lost(self)
        self.transport.flush()
        self.transport.on_flushed = None
        if lease.detach():
            self.transport.get_protocol().client = self.client
        else:
            self.transport.abort()


class _LeasedH11(_Leased):
    def data_received(self, data: bytes) -> None:
        if data.startswith(b"\r\n") and self.between_requests():
            data = _without_empty_lines(data)
        if data:  # h11 takes none for the client's end
            super().data_received(data)

    def on_response_complete(self) -> None:
        unread, _ = self.conn.trailing_data
        if not unread.startswith(b"\r\n") or self.conn.their_state is not h11.DONE:
            return super().on_response_complete()
        self.conn = h11.Connection(h11.SERVER)
        rest = _without_empty_lines(unread)
        if rest:
            self.conn.receive_data(rest)
        super().on_response_complete()
        return self.handle_events()

    def handle_upgrade(self, event: h11.Request) -> None:
        """An upgrade to anything but a WebSocket is not heeded, as RFC 9110 allows and later versions of uvicorn have it, which do not call this."""
        if any(name == b"upgrade" and value.lower() == b"websocket" for name, value in self.headers):
            return super().handle_upgrade(event)
        fields = [b"%s: %s\r\n" % field for field in self.headers if field[0] not in (b"connection", b"upgrade")]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            fields.append(b"connection: close\r\n")
        unread, _ = self.conn.trailing_data
        self.conn = h11.Connection(h11.SERVER)
        self.conn.receive_data(b"%s %s HTTP/%s\r\n%s\r\n%s" % (event.method, event.target, event.http_version, b"".join(fields), unread))
        return self.handle_events()

    def between_requests(self) -> bool:
        return self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def has_request(self) -> bool:
        return self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)


class _LeasedHttpTools(_Leased):
    _within = False  # a request has begun to arrive, and has not yet arrived

    def on_message_begin(self) -> None:
        self._within = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._within = False

    def between_requests(self) -> bool:
        return not self._within and not self.pipeline and self.cycle.response_complete

    def has_request(self) -> bool:
        return self.cycle is not None and not self._within


def _without_empty_lines(data: bytes) -> bytes:
    """What follows the empty lines that may precede a request (RFC 9112, 2.2), which h11 does not take."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    return data


def _leased(protocol: Type[asyncio.Protocol]) -> Type[Any]:
    """The protocol class, made one whose connections are leased. Raises Unusable for one that is not uvicorn's."""
    front = _LeasedH11 if issubclass(protocol, H11Protocol) else _LeasedHttpTools if _is_httptools(protocol) else None
    if front is None:
        raise Unusable(f"The HTTP protocol {protocol.__qualname__} is none of uvicorn's; use http='h11' or http='httptools'.")
    return type(f"Leased{protocol.__name__}", (front, protocol), {})


def _is_httptools(protocol: type) -> bool:
    with contextlib.suppress(ImportError):
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        return issubclass(protocol, HttpToolsProtocol)
    return False


class _Timerless:
    """The loop as uvicorn's protocols see it. Their one timer is set after each response, for an idle client. That is the sidecar's business, and
    cancelled timers stay in the loop until their time has come, thousands of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_later(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Connections:
    """The connections of a server: those that are leased, and the idle ones that are kept."""

    def __init__(self, client: Client, cache: int, make: Callable[[], Any], on_attached: Callable[[], None]) -> None:
        self._client = client
        self._cache = cache
        self._make = make
        self._on_attached = on_attached
        self._complaints = Complaints(logger)
        self.loop = asyncio.get_running_loop()
        self._timerless = _Timerless(self.loop)
        self._leased: Dict[int, Any] = {}
        self._kept: "OrderedDict[int, Any]" = collections.OrderedDict()  # least recently used first
        self._to_attend: List[Transport] = []
        self._to_watch: List[Transport] = []
        self._to_put: List[Tuple[Any, Lease, int]] = []
        self._put_by = 0.0
        self._attending = False  # whether _attend is on its way
        self._driver = Driver(client, self._hear)
        client.make_room = self._make_room

    def start(self) -> None:
        self._driver.start()

    async def drain(self) -> None:
        """Leave, and return when no lease comes any more, or the sidecar does not say so in time. What is leased is still to be served."""
        self._client.drain()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._driver.until(lambda: self._client.left), FAREWELL)
        self._drop_kept()

    async def close(self) -> None:
        """Hang up."""
        self._put_all()
        self._driver.close()
        self._drop_kept()
        for protocol in list(self._leased.values()):
            protocol.forget()
        await asyncio.sleep(0)  # aborted transports close their descriptors in the loop's next turn

    def put(self, protocol: Any, lease: Lease, requests: int) -> None:
        """The connection of ``protocol`` is idle. The sidecar is told at once, or, of several in one turn, with few writes."""
        now = time.monotonic()
        if not self._to_put:
            self._put_by = now + _PUT_WITHIN
        self._to_put.append((protocol, lease, requests))
        if now >= self._put_by or not self._attending:
            self._put_all()

    def attend(self, transport: Transport) -> None:
        """Have the transport attended to when all have had their turn who run before the loop polls again."""
        self._to_attend.append(transport)
        self._attend_soon()

    def _attend_soon(self) -> None:
        if not self._attending:
            self._attending = True
            self.loop.call_soon(self._attend)

    def _attend(self) -> None:
        self._attending = False
        self._put_all()
        transports, self._to_attend = self._to_attend, []
        for transport in transports:
            transport.attend()
            if transport.is_reading():
                self._watch(transport)

    def _watch(self, transport: Transport) -> None:
        """Most requests are answered before it matters that nobody would notice their clients' going."""
        protocol = transport.get_protocol()
        if not isinstance(protocol, _Leased) or not protocol.has_request():
            return transport.watch()
        if not self._to_watch:
            self.loop.call_later(_WATCHED_AFTER, self._watch_all)
        self._to_watch.append(transport)

    def _watch_all(self) -> None:
        transports, self._to_watch = self._to_watch, []
        for transport in transports:
            transport.watch()

    def _put_all(self) -> None:
        puts, self._to_put = self._to_put, []
        cached = self._client.has("cache")
        keep = cached and self._cache > 0 and not self._client.left
        taken = put_all((lease, requests) for _, lease, requests in puts)
        for protocol, lease, _ in puts:
            self.lost(protocol)
            if keep and lease in taken:
                self._kept[lease.conn] = protocol
                continue
            protocol.forget()
            if cached and lease in taken:
                self._client.drop(lease.conn)
        while len(self._kept) > self._cache:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        conn, oldest = self._kept.popitem(last=False)
        oldest.forget()
        self._client.drop(conn)

    def _make_room(self) -> int:
        """What is dropped is closed in the loop's next turn, before it reads from the link again."""
        dropped = to_drop(len(self._kept))
        for _ in range(dropped):
            self._drop_oldest()
        return dropped

    def lost(self, protocol: Any) -> None:
        """The connection of ``protocol`` is no longer among these."""
        for those in (self._leased, self._kept):
            if those.get(protocol.leased_conn) is protocol:
                del those[protocol.leased_conn]

    def _hear(self, events: List[Any]) -> None:
        attending, self._attending = self._attending, True
        try:
            for event in events:
                if type(event) is Lease:
                    self._on_lease(event)
                else:
                    self._on_event(event)
        finally:
            self._attending = attending
            if self._to_attend or self._to_put:
                self._attend_soon()  # behind the tasks of these leases

    def _on_event(self, event: Any) -> None:
        if isinstance(event, Forgotten):
            protocol = self._kept.pop(event.conn, None) or self._leased.get(event.conn)
            if protocol is not None and (protocol.lease is None or protocol.lease is event.lease):
                protocol.forget()
        else:
            if isinstance(event, Detached):
                self._drop_kept()
            elif isinstance(event, Attached):
                self._on_attached()
            self._complaints.hear(event)

    def _on_lease(self, lease: Lease) -> None:
        if lease.has_descriptor:
            return self._start(lease)
        protocol = self._kept.pop(lease.conn, None)
        if protocol is None:
            lease.nack(NackReason.UNKNOWN)
        else:
            self._leased[lease.conn] = protocol
            protocol.lend(lease)

    def _start(self, lease: Lease) -> None:
        protocol = self._leased[lease.conn] = self._make()
        protocol.owner, protocol.loop = self, self._timerless
        transport = Transport(self.loop, lease.socket(), protocol, self.attend)
        protocol.connection_made(transport)
        if lease.peer is not None:
            protocol.client = client_address(lease, transport.get_extra_info("socket"))
        protocol.lend(lease)

    def _drop_kept(self) -> None:
        while self._kept:
            self._kept.popitem()[1].forget()


class Server(uvicorn.Server):
    """A ``uvicorn.Server`` that serves what the sidecar lends it. It binds no port: ``host`` and ``port`` of its config mean nothing.

    ``run`` and ``serve`` take ``sockets``, as uvicorn's do: listening sockets, on which then the sidecar accepts, for as long as the server runs.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        path: Optional[str] = None,
        pool: Optional[str] = None,
        name: Optional[str] = None,
        capacity: int = CAPACITY,
        cache: int = CACHE,
        on_attached: Callable[[], None] = lambda: None,
    ) -> None:
        """``path``, ``pool`` and ``name`` are those of ``anteroom.Client``: without ``pool``, ``sockets`` given to ``run`` make it a private one. Raises ValueError for what the protocol does not allow, and for settings that cannot be had here:
        TLS, ``uds``, ``fd``.

        ``capacity``: requests at once, 1 to 4096. ``cache``: idle connections that are kept, 0 or more.
        """
        super().__init__(config)
        if cache < 0:
            raise ValueError(f"cache is {cache}; it must be 0 or more")
        _check(config)
        self._cache = cache
        self._on_attached = on_attached
        features: Tuple[str, ...] = ("address", "cache") if cache else ("address",)
        name = name or os.environ.get(NAME_VARIABLE) or f"asgi-{os.getpid()}"
        self._client = Client(path, name=name, pool=pool, capacity=capacity, features=features)
        self._connections: Optional[_Connections] = None

    async def startup(self, sockets: Optional[List[Any]] = None) -> None:
        await super().startup(sockets=[])
        if self.should_exit:
            return
        protocol = _leased(self.config.http_protocol_class)

        def make() -> Any:
            return protocol(config=self.config, server_state=self.server_state, **self._state())

        if not sockets and (self.config.host, self.config.port) != _UVICORNS_OWN:
            logger.warning("host %s and port %d mean nothing here: %s", self.config.host, self.config.port, _WHO_LISTENS)
        for sock in sockets or ():
            self._client.listen(sock, ready="head", backlog=self.config.backlog)
        self._connections = _Connections(self._client, self._cache, make, self._on_attached)
        self._connections.start()

    async def shutdown(self, sockets: Optional[List[Any]] = None) -> None:
        try:
            if self._connections is not None:
                await self._connections.drain()
            await super().shutdown(sockets=sockets)
        finally:
            if self._connections is not None:
                await self._connections.close()

    def _state(self) -> Dict[str, Any]:
        """What later versions of uvicorn hand from the lifespan to each protocol."""
        state = getattr(self.lifespan, "state", None)
        return {} if state is None else {"app_state": state}


def _check(config: uvicorn.Config) -> None:
    """Raises ValueError for settings of uvicorn that would be ignored, with clients that nothing serves or that are served without TLS."""
    if config.is_ssl:
        raise ValueError("anteroom.asgi does not do TLS: the sidecar could not give the connection to another process. Do it in front of it.")
    for name in ("uds", "fd"):
        if getattr(config, name) is not None:
            raise ValueError(f"{name} is {getattr(config, name)!r}, but {_WHO_LISTENS}")


async def serve(
    app: Any,
    *,
    path: Optional[str] = None,
    pool: Optional[str] = None,
    name: Optional[str] = None,
    capacity: int = CAPACITY,
    cache: int = CACHE,
    **settings: Any,
) -> None:
    """Serve an ASGI app until SIGTERM or SIGINT. ``settings`` are those of ``uvicorn.Config``, the others those of ``Server``. Raises ValueError as
    ``Server`` does, and for a ``host`` or ``port``.
    """
    for name in ("host", "port"):
        if name in settings:
            raise ValueError(f"{name} is {settings[name]!r}, but {_WHO_LISTENS}")
    await Server(uvicorn.Config(app, **settings), path=path, pool=pool, name=name, capacity=capacity, cache=cache).serve()


def work(app: Any, options: Dict[str, Any], settings: Dict[str, Any], supervision: Supervision) -> None:
    """What a worker process does: attach, and serve until SIGTERM or SIGINT. Raises Unusable if the app's lifespan fails."""
    config = uvicorn.Config(app, log_config=None, log_level="info", interface="asgi3", **settings)
    server = Server(config, on_attached=supervision.attached, **options)
    server.run()
    if not server.started:
        raise Unusable("The app's lifespan startup failed.")
