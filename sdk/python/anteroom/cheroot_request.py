"""cheroot's requests, which learn here what their clients are told of their connections, also by a server that stops."""

import functools
from typing import Any

from cheroot.server import HTTPRequest


@functools.lru_cache(maxsize=None)
def extend(request_class: Any) -> Any:
    """The class to use instead. One that is not cheroot's stays as it is."""
    if not (isinstance(request_class, type) and issubclass(request_class, HTTPRequest)):
        return request_class
    return type(request_class.__name__, (_Request, request_class), {})


class _Request(HTTPRequest):
    def send_headers(self) -> None:
        server = self.server
        manager = server._connections
        if not server.ready and manager.outlives_server(self.conn):
            self.server = _Stopping(server)
        try:
            super().send_headers()
        finally:
            self.server = server
        manager.note_told(self.conn, (b"Connection", b"Keep-Alive") in self.outheaders)  # cheroot adds the time to that


class _Stopping:
    """A server as its last requests see it. It has no place for connections any more, but the sidecar has; ``Connection: close`` would be said for nothing."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    @property
    def can_add_keepalive_connection(self) -> bool:
        return self._server._connections.can_add_keepalive_connection
