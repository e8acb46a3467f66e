"""uvicorn behind the sidecar: its HTTP and WebSocket protocols, its settings and its log, with connections that are lent for each request::

    server = anteroom.asgi.Server(uvicorn.Config("module:app", lifespan="on"), pool="default")
    server.run()

or ``await anteroom.asgi.serve(app)``, or ``python -m anteroom asgi module:app``. Nothing of uvicorn is changed for others.
"""

import asyncio
import collections
import contextlib
import logging
import os
from typing import Any, Callable, Dict, List, Optional, OrderedDict, Set, Tuple, Type

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as why:
    raise ImportError("anteroom.asgi needs uvicorn: install anteroom[uvicorn], or your system's package of it (python3-uvicorn)") from why

import h11

from .address import client_address
from .aio import Driver
from .client import NAME_VARIABLE, Client
from .complaints import Complaints
from .events import Attached, Detached, Forgotten
from .frame import CloseReason, NackReason
from .host_socket import HostSocket
from .lease import Lease
from .prefork import Supervision, Unusable

__all__ = ["Server", "serve", "work"]

CAPACITY = 100
"""Leases at once by default. More requests wait in the sidecar, where the pool's other hosts can take them."""

CACHE = 256
"""Idle connections whose descriptor and protocol are kept by default, which saves making them for each request."""

FAREWELL = 2.0
"""Seconds that a server which stops waits for the sidecar to confirm that no lease comes any more."""

_CLOSE = (b"connection", b"close")

logger = logging.getLogger("uvicorn.error")


class _Leased:
    """What makes one of uvicorn's HTTP protocols give its connection back between requests. A base class in front of that protocol.

    A connection is leased (``lease`` is set), or kept: idle, not read from, and no concern of uvicorn's.
    """

    lease: Optional[Lease] = None
    leased_conn = 0  # the connection's id
    owner: "_Connections"
    _requests = 0
    _flushing = False  # the response is complete, and not yet all in the kernel

    def lend(self, lease: Lease) -> None:
        """A request has arrived. For a new connection this comes before ``connection_made``."""
        self.lease, self.leased_conn = lease, lease.conn
        self._requests = 0
        close = [_CLOSE] if lease.last else []
        self.default_headers = self.server_state.default_headers + close
        if self.transport is not None:
            self._begin()

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self.lease is None:  # taken back meanwhile
            transport.abort()
        else:
            if self.lease.peer is not None:
                self.client = client_address(self.lease, transport.get_extra_info("socket"))
            self._begin()

    def forget(self) -> None:
        """The connection is no longer this host's: close the descriptor, without shutdown."""
        self.lease = None
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        self._requests += 1
        super().on_response_complete()
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._flushing:
            self._flushing = False
            self.transport.set_write_buffer_limits()
            self.loop.call_soon(self._settle)  # the transport is not done with this write, and may not be aborted in the midst of it

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

    def _begin(self) -> None:
        self.connections.add(self)
        self._read(True)
        self._await_client()

    def _read(self, on: bool) -> None:
        """uvicorn notes whether it has paused the transport, but not at each place where it does."""
        self.flow.read_paused = not on
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _await_client(self) -> None:
        """Let uvicorn's keep-alive timer bound the wait for the rest of a head, or of a body that the app did not read."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _settle(self) -> None:
        """After anything that may have made the connection idle: put it, if it is."""
        if self.lease is None or self._flushing or self.transport.is_closing():
            return
        if self.transport.get_protocol() is not self:
            self._detach()
        elif self._requests and self.between_requests():
            self._put_when_flushed()
        elif self.cycle is None or self.cycle.response_complete:
            self._await_client()

    def _put_when_flushed(self) -> None:
        self._read(False)
        self._unset_keepalive_if_required()
        if self.transport.get_write_buffer_size():
            self._flushing = True
            self.transport.set_write_buffer_limits(0)  # resume_writing tells when nothing is left
        elif self.lease.last:
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
        if lease.detach():
            self.transport.get_protocol().client = self.client
        else:
            self.transport.abort()


class _LeasedH11(_Leased):
    def data_received(self, data: bytes) -> None:
        if self.between_requests():
            data = _without_empty_lines(data)
        if data:  # h11 takes none for the client's end
            super().data_received(data)

    def on_response_complete(self) -> None:
        unread, _ = self.conn.trailing_data
        rest = _without_empty_lines(unread)
        if rest == unread or self.conn.their_state is not h11.DONE:
            return super().on_response_complete()
        self.conn = h11.Connection(h11.SERVER)
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


class _Connections:
    """The connections of a server: those that are leased, and the idle ones that are kept."""

    def __init__(self, client: Client, cache: int, make: Callable[[], Any], on_attached: Callable[[], None]) -> None:
        self._client = client
        self._cache = cache
        self._make = make
        self._on_attached = on_attached
        self._complaints = Complaints(logger)
        self._loop = asyncio.get_running_loop()
        self._leased: Dict[int, Any] = {}
        self._kept: "OrderedDict[int, Any]" = collections.OrderedDict()  # least recently used first
        self._starting: Set["asyncio.Task[Any]"] = set()
        self._driver = Driver(client, self._hear)

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
        self._driver.close()
        self._drop_kept()
        for protocol in list(self._leased.values()):
            protocol.forget()
        await asyncio.sleep(0)  # aborted transports close their descriptors in the loop's next turn

    def put(self, protocol: Any, lease: Lease, requests: int) -> None:
        """The connection of ``protocol`` is idle."""
        del self._leased[lease.conn]
        keep = self._cache > 0 and self._client.has("cache") and not self._client.left
        if keep:
            self._kept[lease.conn] = protocol
        taken = lease.put(requests=requests)
        if not taken:
            self._kept.pop(lease.conn, None)
        if not taken or not keep:
            protocol.forget()
        if taken and not keep and self._client.has("cache"):
            self._client.drop(lease.conn)
        if len(self._kept) > self._cache:
            conn, oldest = self._kept.popitem(last=False)
            oldest.forget()
            self._client.drop(conn)

    def lost(self, protocol: Any) -> None:
        """The connection of ``protocol`` is no longer among these."""
        for those in (self._leased, self._kept):
            if those.get(protocol.leased_conn) is protocol:
                del those[protocol.leased_conn]

    def _hear(self, event: Any) -> None:
        if isinstance(event, Lease):
            self._on_lease(event)
        elif isinstance(event, Forgotten):
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
            self._start(lease)
        elif lease.conn in self._kept:
            protocol = self._leased[lease.conn] = self._kept.pop(lease.conn)
            protocol.lend(lease)
        else:
            lease.nack(NackReason.UNKNOWN)

    def _start(self, lease: Lease) -> None:
        protocol = self._leased[lease.conn] = self._make()
        protocol.owner = self
        protocol.lend(lease)
        sock = HostSocket(fileno=lease.take())
        sock.settimeout(0)
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, sock))
        self._starting.add(task)
        task.add_done_callback(lambda _: self._started(task, lease))

    def _started(self, task: "asyncio.Task[Any]", lease: Lease) -> None:
        self._starting.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._leased.pop(lease.conn, None)
            lease.close(CloseReason.CLIENT)

    def _drop_kept(self) -> None:
        while self._kept:
            self._kept.popitem()[1].forget()


class Server(uvicorn.Server):
    """A ``uvicorn.Server`` that serves what the sidecar lends it. It binds no port: ``host``, ``port``, ``uds`` and ``fd`` of its config
    mean nothing.

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
        """``path``, ``pool`` and ``name`` are those of ``anteroom.Client``. Raises ValueError for what the protocol does not allow.

        ``capacity``: requests at once, 1 to 4096. ``cache``: idle connections that are kept, 0 or more.
        """
        super().__init__(config)
        if cache < 0:
            raise ValueError(f"cache is {cache}; it must be 0 or more")
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
    """Serve an ASGI app until SIGTERM or SIGINT. ``settings`` are those of ``uvicorn.Config``, the others those of ``Server``."""
    await Server(uvicorn.Config(app, **settings), path=path, pool=pool, name=name, capacity=capacity, cache=cache).serve()


def work(app: Any, options: Dict[str, Any], settings: Dict[str, Any], supervision: Supervision) -> None:
    """What a worker process does: attach, and serve until SIGTERM or SIGINT. Raises Unusable if the app's lifespan fails."""
    config = uvicorn.Config(app, log_config=None, interface="asgi3", **settings)
    server = Server(config, on_attached=supervision.attached, **options)
    server.run()
    if not server.started:
        raise Unusable("The app's lifespan startup failed.")
