"""Who the client of a lease is."""

import socket
from typing import Any

from .lease import Lease


def client_address(lease: Lease, sock: socket.socket) -> Any:
    """What accept(2) would have said of the client, or what the lease says. Raises OSError if the client is gone."""
    if lease.peer is None:
        return sock.getpeername()
    host, _, port = lease.peer.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0
