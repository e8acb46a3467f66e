"""The conformance app for WSGI servers: ``application``."""

import http
import os
import tempfile
import time

from .content import letters, number

_BLOCK = 65536


def application(environ, start_response):
    return _Exchange(environ, start_response).respond()


class _Exchange:
    """One request and its response."""

    def __init__(self, environ, start_response):
        self.environ = environ
        self.start_response = start_response

    def respond(self):
        method, path = self.environ["REQUEST_METHOD"], self.environ.get("PATH_INFO", "")
        if path == "/echo" and method in ("POST", "PUT"):
            return self.echo()
        page = self.pages.get(path) if method in ("GET", "HEAD") else None
        return page(self) if page else self.text(404, "not found\n")

    def start(self, status, *headers):
        if "HTTP_X_ECHO" in self.environ:
            headers += (("X-Echo", self.environ["HTTP_X_ECHO"]),)
        return self.start_response(f"{status} {_phrase(status)}", list(headers))

    def text(self, status, text, *headers):
        body = text.encode()
        self.start(status, ("Content-Type", "text/plain"), ("Content-Length", str(len(body))), *headers)
        return [body]

    def number(self, name):
        return number(self.environ.get("QUERY_STRING", ""), name)

    def missing(self, name):
        return self.text(400, f"{name} must be a number from 0 to 100000000\n")

    def hello(self):
        return self.text(200, "hello from python\n")

    def echo(self):
        """The whole request first: the two sides of a client that sends all before it reads must not wait for each other."""
        with tempfile.SpooledTemporaryFile(1 << 20) as body:
            for block in iter(lambda: self.environ["wsgi.input"].read(_BLOCK), b""):
                body.write(block)
            self.start(200, ("Content-Type", "application/octet-stream"), ("Content-Length", str(body.tell())))
            body.seek(0)
            yield from iter(lambda: body.read(_BLOCK), b"")

    def bytes(self):
        count = self.number("n")
        if count is None:
            return self.missing("n")
        self.start(200, ("Content-Type", "text/plain"), ("Content-Length", str(count)))
        return letters(count)

    def stream(self):
        count = self.number("n")
        if count is None:
            return self.missing("n")
        self.start(200, ("Content-Type", "text/plain"))
        return letters(count)

    def file(self):
        wrapper, count = self.environ.get("wsgi.file_wrapper"), self.number("n")
        if wrapper is None or count is None:
            return self.bytes()
        file = tempfile.TemporaryFile()
        file.writelines(letters(count))
        file.seek(0)
        self.start(200, ("Content-Type", "text/plain"), ("Content-Length", str(count)))
        return wrapper(file, _BLOCK)

    def status(self):
        code = self.number("code")
        if code is None or not 200 <= code <= 599:
            return self.text(400, "code must be a number from 200 to 599\n")
        if code in (204, 304):
            self.start(code)
            return []
        return self.text(code, f"{code}\n")

    def sleep(self):
        milliseconds = self.number("ms")
        if milliseconds is None:
            return self.missing("ms")
        time.sleep(milliseconds / 1000)
        return self.text(200, "slept\n")

    def close(self):
        return self.text(200, "bye\n", ("Connection", "close"))

    def peer(self):
        return self.text(200, self.environ.get("REMOTE_ADDR", "") + "\n")

    def pid(self):
        return self.text(200, f"{os.getpid()}\n")

    def crash(self):
        os._exit(1)

    def upgrade(self):
        """``anteroom.detach`` is what ``python -m anteroom wsgi`` gives its apps; other servers have no such thing."""
        detach = self.environ.get("anteroom.detach")
        if detach is None or self.environ.get("HTTP_UPGRADE", "").lower() != "echo":
            return self.text(501, "there is no upgrade here\n")
        sock, unread = detach()
        with sock:
            sock.settimeout(None)
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n" + unread)
            for block in iter(lambda: sock.recv(_BLOCK), b""):
                sock.sendall(block)
        return []

    pages = {
        "/": hello,
        "/bytes": bytes,
        "/stream": stream,
        "/file": file,
        "/status": status,
        "/sleep": sleep,
        "/close": close,
        "/peer": peer,
        "/pid": pid,
        "/crash": crash,
        "/upgrade": upgrade,
    }


def _phrase(status):
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Status"
