"""A WSGI server behind the sidecar, for ``python -m anteroom wsgi``: threads that hold requests only.

It has its own reader of requests (``http1.py``): those of the standard library (``http.server``) take what is ambiguous and leave chunked
bodies to the app, and wsgiref's handlers cannot keep a connection. Apps that want cheroot or gunicorn have them: ``anteroom.cheroot``,
``anteroom.gunicorn``.
"""

import contextlib
import email.utils
import http
import io
import logging
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from ._version import __version__
from .address import client_address
from .client import Client
from .complaints import Complaints
from .events import Attached, Detached, Forgotten
from .frame import CloseReason, NackReason
from .host_socket import HostSocket
from .http1 import BadRequest, Body, LengthBody, Request, Stream, read_request
from .lease import Lease
from .prefork import Supervision, Unusable
from .sendfile import ROOT_VARIABLE, FileWrapper, SendFile
from .spill import Room

TIMEOUT = 30.0
"""Seconds within which a client must send more of its request, or take more of its response."""

FEATURES = ("track", "address", "finish")
"""What a Server's client asks for."""

_PIECE = 262144  # bytes that must go out within the timeout
_NO_BODY = (204, 304)
_HOP_BY_HOP = frozenset(("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"))
_STATUS = re.compile(r"([2-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

logger = logging.getLogger("anteroom.wsgi")
access = logging.getLogger("anteroom.access")

App = Callable[[Dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Settings:
    """How requests are served."""

    threads: int = 4
    timeout: float = TIMEOUT
    keep_alive: float = 0
    """Seconds an idle connection is kept, 0: the pool's time."""
    multiprocess: bool = False


class Server:
    """Serves an app with a number of threads, each of which takes one lease at a time."""

    def __init__(self, app: App, client: Client, settings: Settings) -> None:
        """``client`` has a capacity of as many leases as there are threads."""
        self._app = app
        self._client = client
        self._settings = settings
        self._room = Room(wake=client.waker.wake)
        self._leases: "queue.SimpleQueue[Optional[Lease]]" = queue.SimpleQueue()
        self._threads: Set[threading.Thread] = set()

    def run(self, on_attached: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` was called and the last lease is answered."""
        complaints = Complaints(logger)
        with self._running_threads():
            while not self._client.over:
                for event in self._client.wait(self._room.due):
                    self._attend(event)
                    complaints.hear(event)
                    if isinstance(event, Attached):
                        on_attached()
                self._room.push()

    def stop(self) -> None:
        """Leave in good order. May be called in a signal handler, and from any thread."""
        self._client.drain()

    def _attend(self, event: Any) -> None:
        if isinstance(event, (Lease, Forgotten)):
            self._room.sent(event.conn)
        if isinstance(event, Lease):
            self._leases.put(event)
        elif isinstance(event, Detached):
            self._room.all_sent()  # or never

    @contextlib.contextmanager
    def _running_threads(self) -> Iterator[None]:
        for _ in range(self._settings.threads):
            self._start_thread()
        try:
            yield
        finally:
            for _ in range(self._settings.threads):
                self._leases.put(None)
            for thread in list(self._threads):
                thread.join()

    def _start_thread(self) -> None:
        # Daemons, for those that have detached a connection may have it for ever.
        thread = threading.Thread(target=self._work, name="anteroom wsgi", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        for lease in iter(self._leases.get, None):
            try:
                serve(lease, self._app, self._settings, self._replace_thread, self._room if self._client.has("finish") else None)
            except BaseException:  # SystemExit, too: it would cost a thread, not the process
                logger.exception("A lease could not be served.")
                lease.close(CloseReason.APP)
            del lease  # while the thread waits, it holds nothing
            if threading.current_thread() not in self._threads:
                return

    def _replace_thread(self) -> None:
        """This thread is busy with a connection that is nobody else's concern any more: another one takes its place."""
        self._threads.discard(threading.current_thread())
        self._start_thread()


def serve(lease: Lease, app: App, settings: Settings, on_detach: Callable[[], None] = lambda: None, room: Optional[Room] = None) -> None:
    """Answer the request of a lease, and those behind it that have been read with it. Raises only what is nobody's fault but ours.

    ``on_detach`` is called when the app takes the connection over, in the same thread. In ``room`` a response may wait for its client, if the sidecar
    sends it.
    """
    if not lease.has_descriptor:
        lease.nack(NackReason.UNKNOWN)
        return
    with HostSocket(fileno=lease.take()) as sock:
        _Connection(lease, sock, app, settings, on_detach, room).serve()


class _Connection:
    """A client's connection, for the length of a lease."""

    def __init__(
        self, lease: Lease, sock: HostSocket, app: App, settings: Settings, on_detach: Callable[[], None], room: Optional[Room]
    ) -> None:
        self.lease = lease
        self.sock = sock
        self.settings = settings
        self.detached = False
        self._app = app
        self._on_detach = on_detach
        self._room = room
        self._requests = 0
        self._stream = Stream(sock, 0.001 if lease.silent else settings.timeout)

    def serve(self) -> None:
        try:
            keep = self._serve_all()
        except BadRequest as why:
            self._refuse(why.status, str(why))
            self._close(CloseReason.CLIENT)
        except _ClientGone as why:
            self._close(why.reason)
        except socket.timeout:
            self._close(CloseReason.TOO_SLOW)
        except OSError:
            self._close(CloseReason.CLIENT)
        else:
            if not self.detached:
                self._end(keep)

    def send(self, *parts: bytes) -> None:
        """Raises _ClientGone."""
        data = memoryview(b"".join(parts))
        with self._sending():
            for start in range(0, len(data), _PIECE):
                self.sock.sendall(data[start : start + _PIECE])

    def send_file(self, file: Any, start: int, most: int) -> int:
        """Send some of a file from ``start`` on. Returns how many bytes, 0 at its end. Raises _ClientGone."""
        with self._sending():
            return self.sock.sendfile(file, start, min(most, _PIECE) if self.sock.room is None else most)

    def put_aside(self, length: int, more: bool) -> None:
        """Put aside what the client does not take at once of this response; not if ``length``, which must be in memory, is more than there may be.
        ``more``: the app is still making it.
        """
        if self._room is not None and length <= self._room.response:
            self.sock.room, self.sock.more = self._room, more

    def _send_rest(self) -> None:
        """Send what was put aside, waiting for the client. Raises _ClientGone."""
        self.sock.room = None
        if self.sock.rest is not None:
            with self._sending():
                self.sock.flush()

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        self.sock.settimeout(self.settings.timeout)
        try:
            yield
        except OSError as why:
            raise _ClientGone(CloseReason.TOO_SLOW if isinstance(why, socket.timeout) else CloseReason.CLIENT) from why

    def detach(self) -> Tuple[socket.socket, bytes]:
        """What an app calls as ``environ["anteroom.detach"]()`` to go on with the connection by itself. Returns its socket, which is then
        the app's to close, and what the client has sent beyond its request. The app returns no response. Raises RuntimeError if there is
        no lease any more.
        """
        self._send_rest()
        if not self.lease.detach():
            raise RuntimeError("The connection is not leased to this process any more.")
        self.detached = True
        self._on_detach()
        unread, self._stream.unread = self._stream.unread, b""
        return HostSocket(fileno=self.sock.detach()), unread

    def _serve_all(self) -> bool:
        """Returns whether the connection can be kept."""
        keep = True
        while keep and (not self._requests or self._stream.skip_empty_lines()):
            self._send_rest()
            request = self._read_request()
            if request is None:
                return False
            self._requests += 1
            keep = _Exchange(self, request).run(self._app) and not self.detached
        return keep

    def _read_request(self) -> Optional[Request]:
        try:
            request = read_request(self._stream)
        except socket.timeout:
            self._refuse(408, "The request did not come in time.")
            raise
        self._stream.timeout = self.settings.timeout
        return request

    def _refuse(self, status: int, reason: str) -> None:
        body = f"{reason}\n".encode()
        fields = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nDate: {_date()}\r\nConnection: close\r\n\r\n"
        with contextlib.suppress(_ClientGone):
            self.send(f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n".encode(), fields.encode(), body)

    def _end(self, keep: bool) -> None:
        """Answer the lease, for a client that is there."""
        if self.lease.over:
            with contextlib.suppress(_ClientGone):
                self._send_rest()  # the sidecar will not
        rest = self.sock.take_rest()
        if rest is not None:
            rest.finish(self.lease, not keep, self.settings.keep_alive)
            rest.close()
        elif keep:
            self.lease.put(self.settings.keep_alive, self._requests)
        else:
            self._close(CloseReason.DONE)

    def _close(self, reason: int) -> None:
        self.lease.close(reason, self._requests)


class _ClientGone(Exception):
    """The client does not take its response. ``reason`` is what the sidecar is told."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason)
        self.reason = reason


class _Broken(Exception):
    """The response cannot be sent as it has begun; the reason is logged already."""


class _Exchange:
    """One request and its response, as PEP 3333 has them."""

    def __init__(self, connection: _Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._status = ""
        self._fields: List[Tuple[str, str]] = []
        self._begun = False  # whether the head is sent
        self._made = False  # whether the app has made all of the response, or none of it has to be in memory
        self._chunked = False
        self._left: Optional[int] = None  # bytes of the body to be sent, where that is known
        self._sent = 0
        self._keep = request.keep_alive and not connection.lease.last

    def run(self, app: App) -> bool:
        """Returns whether the connection can go on. Raises _ClientGone, and BadRequest if the app could not have the request's body."""
        try:
            self._respond(app)
        except _ClientGone:
            raise
        except _Broken:
            return False
        except Exception as why:
            if self._request.body.failed and not self._begun:
                raise BadRequest(408 if isinstance(why, socket.timeout) else 400, str(why)) from why
            return self._fail()
        if access.isEnabledFor(logging.INFO):
            self._log()
        return self._connection.detached or (self._keep and self._request.body.skip())

    def start_response(self, status: str, headers: List[Tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """As PEP 3333. Raises ValueError for what cannot be sent."""
        if exc_info:
            try:
                if self._begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._status:
            raise RuntimeError("start_response was called twice.")
        if not isinstance(status, str) or not _STATUS.fullmatch(status):
            raise ValueError(f"The status {status!r} must be a string such as '200 OK'.")
        self._status, self._fields = status, [_checked(name, value) for name, value in headers]
        return self._write

    def _respond(self, app: App) -> None:
        result = app(_environ(self._connection, self._request, self.start_response), self.start_response)
        try:
            if self._connection.detached:
                return
            if isinstance(result, FileWrapper) and self._send_file(result):
                return
            self._made = isinstance(result, (list, tuple))
            pieces = len(result) if self._made else None
            for piece in result:
                if piece:
                    self._write(piece, whole=pieces == 1)
            if not self._connection.detached:
                self._finish()
        finally:
            if hasattr(result, "close"):
                result.close()

    def _write(self, data: bytes, whole: bool = False) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"The body must be bytes, not {type(data).__name__}.")
        head = b"" if self._begun else self._begin(len(data) if whole else None)
        if not self._has_body():
            data = b""
        elif self._left is not None and len(data) > self._left:
            self._connection.send(head, data[: self._left])
            self._break("The app sends more than its Content-Length says.")
        self._sent += len(data)
        if self._left is not None:
            self._left -= len(data)
        if self._chunked and data:
            self._connection.send(head, b"%x\r\n" % len(data), data, b"\r\n")
        elif head or data:
            self._connection.send(head, data)

    def _finish(self) -> None:
        head = b"" if self._begun else self._begin(0)
        end = b"0\r\n\r\n" if self._chunked else b""
        if head or end:
            self._connection.send(head, end)
        if self._left and self._has_body():
            self._break("The app sends less than its Content-Length says.")

    def _send_file(self, result: FileWrapper) -> bool:
        """Send a file without reading it. Returns False if it is no file of a known length."""
        length = self._declared_length()
        if not self._status or length is None or not self._has_body():
            return False
        try:
            result.file.fileno()
            start = result.file.tell()
        except (AttributeError, OSError):
            return False
        self._made = True
        self._connection.send(self._begin(None))
        while self._left:
            count = self._connection.send_file(result.file, start, self._left)
            if not count:
                self._break("The file is shorter than its Content-Length says.")
            start, self._left, self._sent = start + count, self._left - count, self._sent + count
        return True

    def _has_body(self) -> bool:
        return self._request.method != "HEAD" and self._code() not in _NO_BODY

    def _code(self) -> int:
        return int(self._status[:3])

    def _declared_length(self) -> Optional[int]:
        lengths = [value for name, value in self._fields if name.lower() == "content-length"]
        if not lengths:
            return None
        if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise ValueError(f"The Content-Length {', '.join(lengths)!r} must be one number.")
        return int(lengths[0])

    def _begin(self, whole: Optional[int]) -> bytes:
        """The head of the response. ``whole``: the length of the body, if this is all of it."""
        if not self._status:
            raise RuntimeError("The app sends a body before it has called start_response.")
        fields = [(name, value) for name, value in self._fields if name.lower() not in _HOP_BY_HOP]
        if any(name.lower() == "connection" and "close" in value.lower() for name, value in self._fields):
            self._keep = False
        self._left = self._declared_length()
        if self._code() == 204:
            fields = [(name, value) for name, value in fields if name.lower() != "content-length"]
        elif self._left is None and self._has_body():
            fields += self._frame(whole)
        if not self._request.body.may_be_skipped:
            self._keep = False
        self._request.body.give_up_continue()
        self._put_aside()
        fields += self._connection_fields()
        if not any(name.lower() == "date" for name, _ in fields):
            fields.append(("Date", _date()))
        self._begun = True
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"HTTP/1.1 {self._status}\r\n{lines}\r\n".encode("latin-1")

    def _put_aside(self) -> None:
        """Leave a slow client to the sidecar, if it is known how much is to come. Not while the app may wait for more of its request: reading comes
        after sending."""
        if self._request.body.ended and (self._made or self._left is not None):
            self._connection.put_aside(0 if self._made else self._left or 0, not self._made)

    def _frame(self, whole: Optional[int]) -> List[Tuple[str, str]]:
        """How the client is to know where the body ends, which the app does not say."""
        if whole is not None:
            self._left = whole
            return [("Content-Length", str(whole))]
        if self._request.version == (1, 1):
            self._chunked = True
            return [("Transfer-Encoding", "chunked")]
        self._keep = False
        return []

    def _connection_fields(self) -> List[Tuple[str, str]]:
        if not self._keep:
            return [("Connection", "close")]
        return [("Connection", "keep-alive")] if self._request.version == (1, 0) else []

    def _fail(self) -> bool:
        """The app has raised the exception that is being handled."""
        logger.exception("%s %s failed.", self._request.method, self._request.path)
        if self._connection.detached:
            return True
        if self._begun:
            return False
        body = b"Internal Server Error\n"
        self._status = "500 Internal Server Error"
        self._fields = [("Content-Type", "text/plain"), ("Connection", "close")]
        self._write(body, whole=True)
        return False

    def _break(self, reason: str) -> None:
        logger.error("%s %s: %s The connection ends.", self._request.method, self._request.path, reason)
        raise _Broken

    def _log(self) -> None:
        access.info(
            '%s - "%s %s HTTP/%d.%d" %s %d',
            _remote(self._connection)[0] or "-",
            self._request.method,
            self._request.target,
            *self._request.version,
            self._status[:3] or "101",
            self._sent,
        )


def _checked(name: str, value: str) -> Tuple[str, str]:
    """A field of the app's that can be sent; anything else could become two. Raises ValueError."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ValueError(f"The header name {name!r} must be a token.")
    if not isinstance(value, str) or _NOT_IN_VALUE.search(value):
        raise ValueError(f"The header {name} has a value that cannot be sent: {value!r}")
    return name, value


def _environ(connection: _Connection, request: Request, start_response: Callable[..., Any]) -> Dict[str, Any]:
    settings = connection.settings
    address, port = _remote(connection)
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "RAW_URI": request.target,
        "REQUEST_URI": request.target,
        "REMOTE_ADDR": address,
        "REMOTE_PORT": port,
        "SERVER_PROTOCOL": "HTTP/%d.%d" % request.version,
        "SERVER_SOFTWARE": f"anteroom/{__version__}",
        **_local(connection),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": _input(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": settings.threads > 1,
        "wsgi.multiprocess": settings.multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "anteroom.detach": connection.detach,
    }
    for name, value in request.fields:
        if "_" not in name:  # X_Name and X-Name would be the same variable, and one of them may be trusted
            _add_field(environ, name.upper().replace("-", "_"), value)
    return environ


def _add_field(environ: Dict[str, Any], name: str, value: str) -> None:
    key = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
    separator = "; " if name == "COOKIE" else ","
    environ[key] = environ[key] + separator + value if key in environ else value


def _input(body: Body) -> Any:
    if isinstance(body, LengthBody) and not body.length:
        return io.BytesIO()
    return io.BufferedReader(body)


def _remote(connection: _Connection) -> Tuple[str, str]:
    with contextlib.suppress(OSError):
        address = client_address(connection.lease, connection.sock)
        if isinstance(address, tuple):
            return str(address[0]), str(address[1])
    return "", ""


def _local(connection: _Connection) -> Dict[str, str]:
    with contextlib.suppress(OSError):
        address = connection.sock.getsockname()
        if isinstance(address, tuple):
            return {"SERVER_NAME": address[0], "SERVER_PORT": str(address[1])}
    return {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}


_dates: Tuple[int, str] = (0, "")


def _date() -> str:
    """Now, as HTTP has it; made once a second."""
    global _dates
    now = int(time.time())
    if _dates[0] != now:
        _dates = now, email.utils.formatdate(now, usegmt=True)
    return _dates[1]


def work(app: App, client_options: Dict[str, Any], settings: Settings, supervision: Supervision) -> None:
    """What a worker process does: attach, and serve until SIGTERM or SIGINT. Raises Unusable."""
    root = os.environ.get(ROOT_VARIABLE)
    try:
        app = SendFile(app, root) if root else app
    except ValueError as why:
        raise Unusable(f"{ROOT_VARIABLE}: {why}.") from why
    client = Client(capacity=settings.threads, features=FEATURES, **client_options)
    server = Server(app, client, settings)
    with contextlib.closing(client), client.waker.rung_by_signals():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: server.stop())
        server.run(supervision.attached)
