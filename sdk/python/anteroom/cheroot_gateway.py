"""cheroot's WSGI gateway, which learns here when the whole of a response is at hand, and that a response may be a file."""

from typing import Any, Iterable, List, Optional

from cheroot.wsgi import Gateway

from .host_socket import HostSocket
from .sendfile import FileWrapper, SendFile, content_length, has_body, wants_close
from .spill import Room

TOGETHER = 65536
"""Bytes of a first block that is sent together with the head of the response, in one system call."""


def extend(gateway: Any, manager: Any, sendfile_root: Optional[str]) -> Any:
    """The gateway class to use instead. One that is not cheroot's, or responds in its own way, stays as it is."""
    if not (isinstance(gateway, type) and issubclass(gateway, Gateway) and gateway.respond is Gateway.respond):
        return gateway
    return type(gateway.__name__, (_Gateway, gateway), {"manager": manager, "sendfile_root": sendfile_root})


class _Gateway(Gateway):
    """For one request.

    PEP 3333 wants each block with the client, or on its way there, while the app makes the next one. So blocks of a response whose length is not known
    wait for a slow client, as ever: nobody knows how long, and how much, the app goes on. A list, and what has a Content-Length, is put aside.
    """

    manager: Any
    sendfile_root: Optional[str]
    _length: Optional[int] = None
    _sent = 0
    _trailer: Any = None

    def get_environ(self) -> Any:
        environ = super().get_environ()
        environ["wsgi.file_wrapper"] = FileWrapper
        return environ

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        write = super().start_response(status, headers, exc_info)
        self._length = content_length(headers)
        if wants_close(headers):
            self.req.close_connection = True  # cheroot sends that header, and keeps the connection all the same
        return write

    def respond(self) -> None:
        self._note_trailer_reading()
        app = self.req.server.wsgi_app
        if self.sendfile_root is not None:
            app = SendFile(app, self.sendfile_root)
        response = app(self.env, self.start_response)
        try:
            if not (isinstance(response, FileWrapper) and self._send_file(response)):
                self._send_blocks(response)
        finally:
            self.req.ensure_headers_sent()
            if hasattr(response, "close"):
                response.close()
        self._put_aside()
        self._skip_trailer()
        if getattr(self.req.rfile, "remaining", 0) > 0:
            self.req.close_connection = True  # the client has gone before its request was all there

    def write(self, chunk: bytes) -> None:
        self._sent += len(chunk)
        if self._length is not None:
            self._put_aside(self._length, self._sent < self._length)
        if self.req.sent_headers or not 0 < len(chunk) <= TOGETHER:
            super().write(chunk)
            return
        conn = self.req.conn
        together = conn.wfile = _Together(conn.wfile)
        try:
            super().write(chunk)
        finally:
            together.send(conn)

    def _note_trailer_reading(self) -> None:
        """What is behind a chunked body is the app's to read, or to leave."""
        rfile = self.req.rfile
        self._trailer = read = getattr(rfile, "read_trailer_lines", None)
        if read is not None:

            def read_and_note() -> Any:
                self._trailer = None
                return read()

            rfile.read_trailer_lines = read_and_note

    def _skip_trailer(self) -> None:
        """Else it would be taken for the next request."""
        if self._trailer is not None and self.req.rfile.closed and not self.req.close_connection:
            try:
                for _ in self._trailer():
                    pass
            except (OSError, ValueError):
                self.req.close_connection = True

    def _send_blocks(self, response: Iterable[bytes]) -> None:
        if isinstance(response, (list, tuple)):
            self._put_aside()
        for chunk in filter(None, response):
            if not isinstance(chunk, bytes):
                raise ValueError("WSGI Applications must yield bytes")
            self.write(chunk)

    def _send_file(self, response: FileWrapper) -> bool:
        """Returns False if it is to be sent block by block."""
        req, sock = self.req, self.req.conn.socket
        if not isinstance(sock, HostSocket) or not self.started_response or req.sent_headers:
            return False
        part = response.part(self._length)
        if part is None:
            return False
        offset, length = part
        if self._length is None:
            req.outheaders.append((b"Content-Length", str(length).encode()))
        req.ensure_headers_sent()
        if length and has_body(req.method.decode("latin-1"), req.status.decode("latin-1")):
            self._put_aside()
            req.conn.wfile.bytes_written += sock.sendfile(response.file, offset, length)
        return True

    def _put_aside(self, length: int = 0, more: bool = False) -> None:
        """Have put aside from now on what the client does not take; not if all that comes is more than there may be."""
        room: Optional[Room] = self.manager.room
        sock = self.req.conn.socket
        if room is not None and length <= room.response and isinstance(sock, HostSocket):
            sock.room, sock.more = room, more


class _Together:
    """Stands in for ``conn.wfile`` while the head and the first block of a response are written."""

    def __init__(self, wfile: Any) -> None:
        self._wfile = wfile
        self._parts: List[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        return len(data)

    def send(self, conn: Any) -> None:
        conn.wfile = self._wfile
        if self._parts:
            self._wfile.write(b"".join(self._parts))
