"""cheroot's requests, whose connections another host of the pool may go on with while the server that answers them stops."""

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
        """A server that stops has no place for connections, and ``Connection: close`` would say so."""
        server = self.server
        if server.ready or not server._connections.outlives_server(self.conn):
            return super().send_headers()
        self.server = _Stopping(server)
        try:
            return super().send_headers()
        finally:
            self.server = server


class _Stopping:
    """A server as its last requests see it: the place is with the sidecar."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    @property
    def can_add_keepalive_connection(self) -> bool:
        return self._server._connections.can_add_keepalive_connection
