"""cheroot servers for tests, and clients that talk to them byte by byte."""

import contextlib
import http.client
import io
import socket
import threading

from cheroot.wsgi import Server

import anteroom.cheroot
from conftest import eventually


class Gates:
    """Lets a test hold requests inside the app: ``/hold`` waits until ``open`` is set, and ``inside`` counts who waits."""

    def __init__(self):
        self.open = threading.Event()
        self.inside = threading.Semaphore(0)


def make_app(gates):
    def respond(start_response, body, status="200 OK", headers=()):
        start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers])
        return [body]

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/hold":
            gates.inside.release()
            assert gates.open.wait(20)
        elif path == "/upload":
            return respond(start_response, environ["wsgi.input"].read())
        elif path == "/address":
            return respond(start_response, "{REMOTE_ADDR} {REMOTE_PORT}".format(**{"REMOTE_PORT": "", **environ}).encode())
        elif path == "/scheme":
            return respond(start_response, environ["wsgi.url_scheme"].encode())
        elif path == "/big":
            return respond(start_response, b"x" * 4_000_000)
        elif path == "/interrupt":
            raise KeyboardInterrupt("from a worker")
        return respond(start_response, b"hello")

    return app


@contextlib.contextmanager
def running(bind_addr=("127.0.0.1", 0), options=None, log=None, server_class=Server, configure=None, app=None, **settings):
    """A server behind the sidecar of ``options``, in a thread. Anything in its error log that ``log`` does not expect is a failure."""
    gates = Gates()
    server = server_class(bind_addr, app or make_app(gates), **settings)
    server.gates, server.logged, server.raised = gates, [], []
    server.error_log = lambda msg="", level=20, traceback=False: server.logged.append((level, msg))
    server.shutdown_timeout = 5
    if configure:
        configure(server)
    anteroom.cheroot.attach(server, **(options or {}))
    server.prepare()

    def serve():
        try:
            server.serve()
        except BaseException as why:
            server.raised.append(why)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        gates.open.set()
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
    if log is None:
        assert server.logged == []


def attached(server):
    """Wait until the sidecar accepts for the server."""
    return eventually(lambda: getattr(server._connections._listener, "id", None) is not None)


class _Reader(io.BufferedReader):
    """What several responses are read from; http.client wants to close it after each."""

    def close(self):
        pass

    def makefile(self, mode):
        return self


class Client:
    """One connection."""

    def __init__(self, server, wrap=None, address=None, receive_buffer=0):
        """``receive_buffer``: bytes that the kernel takes for a client that does not read; 0: some megabytes."""
        address = address or server.bind_addr
        if isinstance(address, (str, bytes)):
            self.sock = socket.socket(socket.AF_UNIX)
        else:
            self.sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(10)
        self.sock.connect(address)
        if wrap:
            self.sock = wrap(self.sock)
        self._reader = _Reader(socket.SocketIO(self.sock, "r"))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.sock.close()

    def send(self, path="/", method="GET", headers=(), body=b"", version="1.1"):
        lines = [f"{method} {path} HTTP/{version}", "Host: test", *headers, "", ""]
        self.sock.sendall("\r\n".join(lines).encode() + body)

    def receive(self, method="GET"):
        response = http.client.HTTPResponse(self._reader, method=method)
        response.begin()
        response.text = response.read()
        return response

    def get(self, path="/", headers=(), **how):
        self.send(path, headers=headers, **how)
        return self.receive()

    def at_end(self):
        """Whether the server ends the connection properly, with nothing more said."""
        return self._reader.read(100) == b""
