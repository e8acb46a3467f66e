"""A Flask application under cheroot, behind Anteroom.

All that Anteroom needs is the call of install(): every cheroot server made after it takes its connections from the
sidecar, which ANTEROOM_HANDOFF and ANTEROOM_POOL name.
"""

import os
import signal
import socket
import threading

import anteroom.cheroot
import cheroot.wsgi
import flask

KEEP_ALIVE = 75
"""Seconds that a client may be silent, between requests or within one."""

app = flask.Flask(__name__)


@app.get("/")
def greet():
    """Say which container answers, and whom it sees: the client itself, not the sidecar."""
    request = flask.request
    return flask.jsonify(
        message="hello from python",
        host=socket.gethostname(),
        process=os.getpid(),
        client=f"{request.environ['REMOTE_ADDR']}:{request.environ['REMOTE_PORT']}",
    )


@app.post("/echo")
def echo():
    """Send the request's body back."""
    return flask.request.get_data(), {"Content-Type": "application/octet-stream"}


@app.get("/slow")
def wait():
    """Answer after ?seconds=, sixty at most, or when SIGUSR1 comes: something to stop, drain or kill in the middle of."""
    seconds = min(flask.request.args.get("seconds", default=1.0, type=float), 60.0)
    with no_more_waiting:
        no_more_waiting.wait(seconds)
    return "waited\n"


no_more_waiting = threading.Condition()


def hurry(*_):
    """Have everything that waits answered now."""
    with no_more_waiting:
        no_more_waiting.notify_all()


def main():
    """Serve until SIGTERM or Ctrl-C."""
    # By its container: every container's application is process 1.
    anteroom.cheroot.install(name=socket.gethostname())
    # cheroot must bind something. In a container without a network, a free loopback port is out of everybody's reach.
    threads = int(os.environ.get("ANTEROOM_CAPACITY") or 10)
    server = cheroot.wsgi.Server(("127.0.0.1", 0), app, numthreads=threads, server_name="anteroom-example", timeout=KEEP_ALIVE)
    # How many clients are kept between requests is up to the sidecar; cheroot's own limit is ten.
    server.keep_alive_conn_limit = None

    def leave(*_):
        """Stop the server, in a thread: an exception raised here would hit the main thread in the middle of taking a connection."""
        threading.Thread(target=server.stop).start()

    signal.signal(signal.SIGUSR1, hurry)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    server.start()


if __name__ == "__main__":
    main()
