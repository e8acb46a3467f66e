"""What the WSGI server makes of apps and clients, behind the double and behind the real sidecar."""

import contextlib
import io
import logging
import socket
import tempfile
import threading

import pytest

import anteroom
from anteroom import wsgi
from conftest import eventually
from servers import Client
from sidecar import Sidecar
from test_finish import BODY, Slow


class App:
    """``/NAME`` calls ``self.NAME(environ, start_response)``."""

    def __init__(self):
        self.gate = threading.Event()
        self.closed = threading.Event()
        self.environs = []

    def __call__(self, environ, start_response):
        self.environs.append(environ)
        return getattr(self, environ["PATH_INFO"].strip("/") or "hello")(environ, start_response)

    def hello(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    def echo(self, environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [body]

    def lines(self, environ, start_response):
        start_response("200 OK", [])
        return [b"|".join(environ["wsgi.input"])]

    def unsized(self, environ, start_response):
        start_response("200 OK", [])
        return iter([b"", b"abc", b"", b"def"])

    def written(self, environ, start_response):
        write = start_response("200 OK", [])
        write(b"abc")
        return [b"def"]

    def empty(self, environ, start_response):
        start_response("204 No Content", [("Content-Length", "0")])
        return []

    def unmodified(self, environ, start_response):
        start_response("304 Not Modified", [("ETag", '"x"')])
        return [b"ignored"]

    def hold(self, environ, start_response):
        assert self.gate.wait(20)
        return self.hello(environ, start_response)

    def big(self, environ, start_response):
        start_response("200 OK", [])
        return [b"x" * 8_000_000]

    def file(self, environ, start_response):
        file = tempfile.TemporaryFile()
        file.write(b"skipped" + b"y" * 500_000)
        file.seek(7)
        start_response("200 OK", [("Content-Length", "400000")])
        return environ["wsgi.file_wrapper"](file)

    def slow_list(self, environ, start_response):
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(BODY)))] if environ["QUERY_STRING"] else [])
        return [BODY[: len(BODY) // 2], BODY[len(BODY) // 2 :]]

    def slow_blocks(self, environ, start_response):
        start_response("200 OK", [("Content-Length", str(len(BODY)))] if environ["QUERY_STRING"] else [])
        return (BODY[start : start + 1_000_000] for start in range(0, len(BODY), 1_000_000))

    def slow_file(self, environ, start_response):
        file = tempfile.TemporaryFile()
        file.write(BODY)
        file.seek(0)
        start_response("200 OK", [("Content-Length", str(len(BODY)))])
        return environ["wsgi.file_wrapper"](file)

    def memory_file(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"hello"))

    def detach(self, environ, start_response):
        sock, unread = environ["anteroom.detach"]()
        with sock:
            sock.settimeout(None)
            assert not sock.getblocking() or sock.gettimeout()
            sock.sendall(b"mine: " + unread)
            while data := sock.recv(100):
                sock.sendall(data)
        return []

    # What goes wrong.

    def fails(self, environ, start_response):
        raise RuntimeError("from the app")

    def fails_late(self, environ, start_response):
        start_response("200 OK", [])
        yield b"abc"
        raise RuntimeError("from the app, late")

    def corrected(self, environ, start_response):
        start_response("200 OK", [])
        try:
            raise RuntimeError
        except RuntimeError:
            start_response("503 Later", [], __import__("sys").exc_info())
        return [b"later"]

    def too_long(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        return [b"abcdef"]

    def too_short(self, environ, start_response):
        start_response("200 OK", [("Content-Length", "10")])
        return [b"abc"]

    def twice(self, environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])

    def splits(self, environ, start_response):
        start_response("200 OK", [("Location", "/x\r\nSet-Cookie: evil")])
        return []

    def text(self, environ, start_response):
        start_response("200 OK", [])
        return ["text"]

    def silent(self, environ, start_response):
        return [b"abc"]

    def odd_status(self, environ, start_response):
        start_response("99", [])
        return []

    def interrupts(self, environ, start_response):
        raise SystemExit

    def database(self, environ, start_response):
        raise ConnectionResetError("the app's own connection to somewhere")

    def closes(self, environ, start_response):
        start_response("200 OK", [])

        class Body(list):
            def close(body):
                self.closed.set()

        return Body([b"abc"])

    def slow_closed_late(self, environ, start_response):
        """Nothing is left to send, but the app is not done with it."""
        start_response("200 OK", [])

        class Body(list):
            def close(body):
                self.closed.set()
                assert self.gate.wait(20)

        return Body([BODY])


class Running:
    def __init__(self, app, address, server):
        self.app = app
        self.bind_addr = address
        self.server = server


@contextlib.contextmanager
def running(sidecar, threads=2, **settings):
    app = App()
    client = anteroom.Client(sidecar.path, pool="", capacity=threads, features=wsgi.FEATURES)
    server = wsgi.Server(app, client, wsgi.Settings(threads=threads, timeout=10, **settings))
    with socket.create_server(("127.0.0.1", 0)) as sock, contextlib.closing(client):
        listener = client.listen(sock)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            eventually(lambda: listener.id)
            yield Running(app, sock.getsockname(), server)
        finally:
            app.gate.set()
            server.stop()
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def served(sidecar):
    with running(sidecar) as server:
        yield server


def test_a_connection_goes_on(served):
    with Client(served) as client:
        for _ in range(3):
            response = client.get()
            assert (response.status, response.text, response.getheader("Connection")) == (200, b"hello", None)
            assert response.getheader("Date")


def test_it_goes_back_after_each_response(fake):
    with running(fake) as served, Client(served) as client:
        for number in range(1, 4):
            client.get()
            eventually(lambda: fake.counts["PUT"] == number)
        assert fake.counts["leases"] == 3
        assert fake.violations == 0


def test_pipelined_requests_are_answered_in_order_under_one_lease(fake):
    with running(fake) as served, Client(served) as client:
        request = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\n"
        client.sock.sendall(b"".join(request + b"ab%d" % number for number in range(5)) + b"\r\n")
        assert [client.receive().text for _ in range(5)] == [b"ab%d" % number for number in range(5)]
        eventually(lambda: fake.counts["requests"] == 5)
        assert client.get().text == b"hello"


@pytest.mark.parametrize("target", ["/unsized", "/written"])
def test_a_body_of_unknown_length(served, target):
    with Client(served) as client:
        response = client.get(target)
        assert (response.getheader("Transfer-Encoding"), response.text) == ("chunked", b"abcdef")
        assert client.get().text == b"hello"
        client.send(target, version="1.0", headers=["Connection: keep-alive"])
        response = client.receive()
        assert (response.getheader("Transfer-Encoding"), response.getheader("Connection"), response.text) == (None, "close", b"abcdef")
        assert client.at_end()


def test_one_piece_has_a_length(served):
    with Client(served) as client:
        client.send("/echo", "POST", ["Content-Length: 3"], b"abc")
        response = client.receive()
        assert (response.getheader("Content-Length"), response.text) == ("3", b"abc")


def test_responses_without_a_body(served):
    with Client(served) as client:
        for path, status in (("/empty", 204), ("/unmodified", 304)):
            response = client.get(path)
            assert (response.status, response.text) == (status, b"")
            assert response.getheader("Content-Length") is None and response.getheader("Transfer-Encoding") is None
        for path, length in (("/", "5"), ("/unsized", None), ("/file", "400000")):
            client.send(path, "HEAD")
            response = client.receive("HEAD")
            assert (response.status, response.getheader("Content-Length")) == (200, length)
        assert client.get().text == b"hello"


def test_http_1_0(served):
    with Client(served) as client:
        client.send(version="1.0", headers=["Connection: keep-alive"])
        assert client.receive().getheader("Connection") == "keep-alive"
        client.send(version="1.0")
        assert client.receive().getheader("Connection") == "close"
        assert client.at_end()


def test_connection_close(served):
    with Client(served) as client:
        assert client.get(headers=["Connection: close"]).getheader("Connection") == "close"
        assert client.at_end()


def test_a_chunked_request(served):
    with Client(served) as client:
        for path, body in (("/echo", b"abc\ndef\n"), ("/lines", b"abc\n|def\n")):
            client.send(path, "POST", ["Transfer-Encoding: chunked"], b"6\r\nabc\nde\r\n2\r\nf\n\r\n0\r\n\r\n")
            assert client.receive().text == body
    environ = served.app.environs[0]
    assert "CONTENT_LENGTH" not in environ and environ["wsgi.input_terminated"] is True


def test_the_body_an_app_does_not_read_is_skipped_if_it_is_short(served):
    with Client(served) as client:
        client.send("/", "POST", ["Content-Length: 3"], b"abc")
        assert client.receive().getheader("Connection") is None
        assert client.get().text == b"hello"
        client.send("/", "POST", ["Content-Length: 1000000"], b"x" * 1000)
        assert client.receive().getheader("Connection") == "close"


def test_a_body_that_nobody_asked_for_is_not_waited_for(served):
    with Client(served) as client:
        client.send("/", "POST", ["Content-Length: 3", "Expect: 100-continue"])
        assert client.receive().getheader("Connection") == "close"
        assert client.at_end()


def test_what_the_app_is_told(served):
    with Client(served) as client:
        fields = ["A-B: 1", "a-b: 2", "A_B: forged", "Cookie: x", "Cookie: y", "Content-Type: text/x", "Content_Length: 7"]
        client.get("/hello?a=b%20c", headers=fields)
        address, port = client.sock.getsockname()
    environ = served.app.environs[0]
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/hello",
        "QUERY_STRING": "a=b%20c",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(served.bind_addr[1]),
        "REMOTE_ADDR": address,
        "REMOTE_PORT": str(port),
        "HTTP_A_B": "1,2",
        "HTTP_COOKIE": "x; y",
        "CONTENT_TYPE": "text/x",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
    }
    assert {name: environ.get(name) for name in expected} == expected
    assert "CONTENT_LENGTH" not in environ and "HTTP_CONTENT_LENGTH" not in environ


def test_files_are_sent_from_where_they_stand(served):
    with Client(served) as client:
        assert client.get("/file").text == b"y" * 400_000
        assert client.get("/memory_file").text == b"hello"


def test_a_slow_reader_gets_all_of_it(served):
    with Client(served) as client:
        client.send("/big")
        threading.Event().wait(0.05)
        assert client.receive().text == b"x" * 8_000_000
        assert client.get().text == b"hello"


SLOW = ["/slow_list", "/slow_list?sized", "/slow_blocks?sized", "/slow_file"]


@pytest.mark.parametrize("target", SLOW)
@pytest.mark.parametrize("headers", [(), ("Connection: close",)])
def test_a_slow_reader_costs_no_thread(sidecar, target, headers):
    with running(sidecar, threads=1) as served, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Slow(served)) for _ in range(3)]
        for client in slow:
            client.send(target, headers=headers)
        with Client(served) as quick:
            assert quick.get().text == b"hello"
        for client in slow:
            assert client.receive().text == BODY
            if headers:
                assert client.at_end()
            else:
                assert client.get().text == b"hello"


@pytest.mark.parametrize("target", SLOW)
def test_what_the_client_did_not_take_is_finished(fake, target):
    with running(fake, keep_alive=7) as served, Slow(served) as client:
        client.send(target)
        eventually(lambda: fake.counts["FINISH"] == 1)
        assert 0 < fake.counts["finished bytes"] <= len(BODY) + 100
        room = served.server._room
        assert room.taken == (0 if target == "/slow_file" else fake.counts["finished bytes"])
        assert client.receive().text == BODY
        assert client.get().text == b"hello"
        eventually(lambda: fake.counts["kept 7000 ms"] == 2)
        assert room.taken == 0
    assert fake.violations == 0


@pytest.mark.parametrize("target", ["/slow_list", "/slow_blocks?sized"])
def test_beyond_the_limit_a_thread_waits(fake, target):
    with running(fake) as served, Slow(served) as client:
        served.server._room.response = 1_000_000
        client.send(target)
        assert client.receive().text == BODY
        assert client.get().text == b"hello"
        assert fake.counts["finished bytes"] <= 1_000_000
        assert served.server._room.taken <= 1_000_000


def test_what_is_of_unknown_length_waits_for_its_client(fake):
    with running(fake) as served, Slow(served) as client:
        client.send("/slow_blocks")
        assert client.receive().text == BODY
        eventually(lambda: fake.counts["PUT"] == 1)
        assert fake.counts["FINISH"] == 0


def test_pipelined_requests_of_a_slow_reader_are_answered_in_order(served):
    with Slow(served) as client:
        client.sock.sendall(b"GET /slow_list HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET / HT")
        for _ in range(2):
            assert client.receive().text == BODY
            assert client.receive().text == b"hello"
        client.sock.sendall(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive().text == b"hello"


def test_a_response_to_an_unread_body_waits_for_its_client(fake):
    """What the app may still read comes after what it sends."""
    with running(fake) as served, Slow(served) as client:
        client.send("/slow_blocks?sized", "POST", ["Content-Length: 3"], b"abc")
        assert client.receive().text == BODY
        assert client.get().text == b"hello"
        assert fake.counts["FINISH"] == 0
        client.send("/slow_list", "POST", ["Content-Length: 3"], b"abc")
        eventually(lambda: fake.counts["FINISH"] == 1)
        assert client.receive().text == BODY


def test_a_thread_sends_itself_what_no_sidecar_will(path):
    double = Sidecar(path)
    with running(double) as served, Slow(served) as client:
        client.send("/slow_closed_late")
        assert served.app.closed.wait(10)
        double.stop()
        eventually(lambda: not served.server._client.attached)
        served.app.gate.set()
        assert client.receive().text == BODY
        assert client.at_end()


def test_the_iterable_is_closed(served):
    with Client(served) as client:
        assert client.get("/closes").text == b"abc"
        assert served.app.closed.wait(10)


def test_a_detached_connection_is_the_apps(sidecar):
    with running(sidecar, threads=1) as served:
        with Client(served) as client:
            client.send("/detach", body=b"early")
            assert client.sock.recv(100) == b"mine: early"
            with Client(served) as other:  # though there is but one thread
                assert other.get().text == b"hello"
            client.sock.sendall(b"more")
            assert client.sock.recv(100) == b"more"
        eventually(lambda: not any(thread.name == "anteroom wsgi" for thread in threading.enumerate() if thread not in served.server._threads))


@pytest.mark.parametrize("target", ["/fails", "/twice", "/splits", "/text", "/silent", "/odd_status", "/database"])
def test_an_app_that_fails(served, target, caplog):
    with Client(served) as client:
        response = client.get(target)
        assert (response.status, response.getheader("Connection")) == (500, "close")
        assert client.at_end()
    assert f"GET {target} failed." in caplog.text and "Traceback" in caplog.text


def test_an_app_may_change_its_mind_before_the_body(served):
    with Client(served) as client:
        response = client.get("/corrected")
        assert (response.status, response.text) == (503, b"later")


@pytest.mark.parametrize(("target", "begins"), [("/fails_late", b"3\r\nabc\r\n"), ("/too_short", b"abc"), ("/too_long", b"abc")])
def test_a_response_that_breaks_off_ends_the_connection(served, target, begins, caplog):
    with Client(served) as client:
        client.send(target)
        data = b"".join(iter(lambda: client.sock.recv(1000), b""))
        assert data.split(b"\r\n\r\n", 1)[1] == begins
    eventually(lambda: caplog.records)


def test_an_app_that_exits_costs_no_thread(sidecar, caplog):
    with running(sidecar, threads=1) as served:
        for _ in range(3):
            with Client(served) as client:
                client.send("/interrupts")
                assert client.at_end()
        with Client(served) as client:
            assert client.get().text == b"hello"


def test_no_request_is_answered(served):
    with Client(served) as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nA : b\r\n\r\n")
        assert client.receive().status == 400
        assert client.at_end()


def test_a_body_that_makes_no_sense_is_answered(served):
    with Client(served) as client:
        client.send("/echo", "POST", ["Transfer-Encoding: chunked"], b"nonsense\r\n")
        assert client.receive().status == 400
        assert client.at_end()


def test_a_head_that_stops_is_answered(sidecar):
    app = App()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"GET / HT")
        lease = _Lease(ours)
        wsgi.serve(lease, app, wsgi.Settings(timeout=0.01))
        assert theirs.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert lease.answers == ["close"]


class _Lease:
    """A lease without a sidecar."""

    has_descriptor, silent, last, peer = True, False, False, None

    def __init__(self, sock):
        self._sock = sock
        self.answers = []

    def take(self):
        return self._sock.dup().detach()

    def close(self, reason, requests):
        self.answers.append("close")
        return True


def test_no_room_to_keep_a_connection(fake):
    fake.last = True
    with running(fake) as served, Client(served) as client:
        assert client.get().getheader("Connection") == "close"
        assert client.at_end()


def test_what_is_held_is_served_when_the_server_stops(served):
    with Client(served) as client:
        client.send("/hold")
        eventually(lambda: served.app.environs)
        served.server.stop()
        served.app.gate.set()
        assert client.receive().text == b"hello"


def test_the_access_log(served, caplog):
    caplog.set_level(logging.INFO, "anteroom.access")
    with Client(served) as client:
        client.get("/hello?x")
        eventually(lambda: caplog.messages)
    assert '127.0.0.1 - "GET /hello?x HTTP/1.1" 200 5' in caplog.messages


def test_a_sidecar_that_comes_late_is_waited_for(path, caplog):
    import sidecars

    client = anteroom.Client(path, pool="default", capacity=1)
    server = wsgi.Server(App(), client, wsgi.Settings(threads=1))
    attached = threading.Event()
    thread = threading.Thread(target=server.run, args=(attached.set,))
    with contextlib.closing(client):
        thread.start()
        eventually(lambda: caplog.messages)
        double = sidecars.start("fake", path)
        assert attached.wait(10)
        server.stop()
        thread.join(10)
        double.stop()
    assert len([message for message in caplog.messages if "handoff socket" in message]) == 1
