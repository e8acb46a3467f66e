"""A Flask application under cheroot, behind Anteroom.

All that Anteroom needs is the call of install(): every cheroot server made after it takes its connections from the
sidecar, which ANTEROOM_HANDOFF and ANTEROOM_POOL name.
"""

import os
import signal
import socket
import sys
import time

import anteroom.cheroot
import cheroot.wsgi
import flask

app = flask.Flask(__name__)


@app.get("/")
def greet():
    """Say which container answers, and whom it sees: the client itself, not the sidecar."""
    request = flask.request
    return flask.jsonify(
        message="hello from behind the anteroom",
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
    """Answer after ?seconds=, ten at most: something to stop, drain or kill in the middle of."""
    seconds = min(flask.request.args.get("seconds", default=1.0, type=float), 10.0)
    time.sleep(seconds)
    return f"waited {seconds} s\n"


def leave(*_):
    """End safe_start(), which stops the server first: what it holds is answered and given back."""
    sys.exit(0)


def main():
    """Serve until SIGTERM or Ctrl-C."""
    anteroom.cheroot.install()
    # cheroot must bind something. In a container without a network, a free loopback port is out of everybody's reach.
    server = cheroot.wsgi.Server(("127.0.0.1", 0), app, server_name="anteroom-example")
    signal.signal(signal.SIGTERM, leave)
    server.safe_start()


if __name__ == "__main__":
    main()
