"""A WSGI application under cheroot: by itself, as a proxy's upstream, or behind Anteroom.

    app.py PORT [KEPT]

Where ANTEROOM_HANDOFF is set, connections come from the sidecar, and clients do not use the port. By itself, cheroot keeps KEPT
connections open between requests; without the argument ten, its own default, and closes the others after each response.
"""

import os
import signal
import sys

import cheroot.wsgi

SMALL = b"x" * 100
LARGE = b"x" * (1 << 20)


def app(environ, start_response):
    """Read what is posted; answer /1m with 1 MB, everything else with 100 bytes."""
    if environ["REQUEST_METHOD"] == "POST":
        while environ["wsgi.input"].read(64 << 10):
            pass
    body = LARGE if environ["PATH_INFO"] == "/1m" else SMALL
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def leave(*_):
    """End serve()."""
    sys.exit(0)


def main():
    """Serve until SIGTERM."""
    if "ANTEROOM_HANDOFF" in os.environ:
        import anteroom.cheroot

        anteroom.cheroot.install()
    server = cheroot.wsgi.Server(("127.0.0.1", int(sys.argv[1])), app, request_queue_size=1024, timeout=75)
    if len(sys.argv) > 2:
        server.keep_alive_conn_limit = int(sys.argv[2])
    signal.signal(signal.SIGTERM, leave)
    server.prepare()
    print("ready", flush=True)
    try:
        server.serve()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
