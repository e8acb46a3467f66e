"""Runs the conformance app behind cheroot: ``python -m conformance_app.cheroot``, or, without the sidecar, with a port as argument."""

import os
import signal
import sys

from cheroot.wsgi import Server

import anteroom.cheroot

from .plain import application as plain

THREADS = 10


def application(environ, start_response):
    """cheroot takes HTTP/1.0's keep-alive for none unless it is written so: Keep-Alive. Then it ends the connection and does not say so."""
    if environ["SERVER_PROTOCOL"] != "HTTP/1.0" or environ.get("HTTP_CONNECTION") in (None, "Keep-Alive"):
        return plain(environ, start_response)
    return plain(environ, lambda status, headers, *exc_info: start_response(status, [*headers, ("Connection", "close")], *exc_info))


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = Server(("127.0.0.1", port), application, numthreads=int(os.environ.get("ANTEROOM_CAPACITY") or THREADS), timeout=75)
    server.keep_alive_conn_limit = None
    if not port:
        anteroom.cheroot.attach(server, pool=os.environ.get("ANTEROOM_POOL") or "default", ready="request")
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.prepare()
    server.serve()


if __name__ == "__main__":
    main()
