"""gunicorn behind the sidecar: real gunicorn processes."""

import contextlib
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from conftest import eventually
import sidecars
from servers import Client
from sidecar import Sidecar
from test_finish import BODY, Slow

pytest.importorskip("gunicorn")
HERE = pathlib.Path(__file__).parent
APP = "conformance_app.wsgi:application"
_numbers = itertools.count()


class Gunicorn:
    """A gunicorn, its log, and where it listens."""

    def __init__(self, sidecar_path, tmp_path, app, *arguments, **environment):
        self.path = str(tmp_path / f"gunicorn-{next(_numbers)}.log")
        command = [sys.executable, "-m", "gunicorn", "-k", "anteroom.gunicorn.Worker", "--keep-alive", "30", "--graceful-timeout", "10"]
        command += [] if "--bind" in arguments else ["--bind", "127.0.0.1:0"]
        command += ["--access-logfile", "-", "--log-level", "debug", *arguments, app]
        self._log = open(self.path, "w+b")
        self._process = subprocess.Popen(
            command,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("ANTEROOM_")},
                "ANTEROOM_HANDOFF": sidecar_path,
                "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "TEST_FOLDER": str(tmp_path),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        try:
            if self._process.poll() is None:
                assert self.stop() == 0, self.log()
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait(10)
            self._log.close()

    @property
    def bind_addr(self):
        found = eventually(lambda: re.search(r"Listening at: http://([0-9.]+):([0-9]+)", self.log()))
        return found[1], int(found[2])

    def log(self):
        return pathlib.Path(self.path).read_text("utf-8", "replace")

    def signal(self, number):
        self._process.send_signal(number)

    def stop(self):
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self):
        return self._process.wait(30)

    def booted(self, count=1):
        eventually(lambda: self.log().count("Booting worker") >= count)


@pytest.fixture
def gunicorn(sidecar, tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **environment: stack.enter_context(Gunicorn(sidecar.path, tmp_path, *(arguments or (APP,)), **environment))


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_frameworks(gunicorn, framework, tmp_path):
    pytest.importorskip(framework)
    (tmp_path / "file").write_bytes(BODY)
    server = gunicorn(f"frameworks:{framework}_app()", "--workers", "2", "--threads", "2")
    with Client(server) as client:
        for _ in range(3):
            assert client.get().text == f"{framework} GET 0".encode()
        client.send(method="POST", headers=["Content-Length: 100000"], body=b"x" * 100_000)
        assert client.receive().text == f"{framework} POST 100000".encode()
        client.send(method="POST", headers=["Transfer-Encoding: chunked"], body=b"5\r\nhello\r\n0\r\n\r\n")
        assert client.receive().text.startswith(f"{framework} POST".encode())
        assert client.get("/file").text == BODY
        client.send("/ignore", "POST", headers=["Content-Length: 100000"], body=b"x" * 100_000)
        assert client.receive().text == f"{framework} ignores the body".encode()
        assert client.get().text == f"{framework} GET 0".encode()


def test_the_access_log_and_the_addresses_are_as_ever(gunicorn):
    server = gunicorn("frameworks:plain_app")
    with Client(server) as client:
        assert client.get("/where").text == "127.0.0.1 127.0.0.1 {}".format(server.bind_addr[1]).encode()
    eventually(lambda: re.search(r'127\.0\.0\.1 .* "GET /where HTTP/1\.1" 200 [0-9]+ ', server.log()))


def test_pipelined_requests_and_empty_lines_between_requests(gunicorn):
    with Client(gunicorn(APP, "--threads", "1")) as client:
        client.sock.sendall(b"GET /bytes?n=3 HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET /bytes?n=4 HTTP/1.1\r\n")
        assert [client.receive().text for _ in range(3)] == [b"abc"] * 3
        client.sock.sendall(b"Host: a\r\n\r\n\r\n")
        assert client.receive().text == b"abcd"
        assert client.get().text == b"hello from python\n"


def test_empty_lines_before_a_request(gunicorn):
    with Client(gunicorn()) as client:
        for empty in (b"", b"\r\n", b"\r\n\r\n"):
            client.sock.sendall(empty)
            assert client.get().text == b"hello from python\n"


def test_connection_close_http_1_0_and_no_keep_alive(gunicorn):
    server = gunicorn()
    for how in ({"headers": ["Connection: close"]}, {"version": "1.0"}, {"path": "/close"}):
        with Client(server) as client:
            assert client.get(**how).status == 200
            assert client.at_end()
    with Client(server) as client:
        for _ in range(2):
            assert client.get(version="1.0", headers=["Connection: keep-alive"]).status == 200
    with Client(gunicorn(APP, "--keep-alive", "0")) as client:
        assert client.get().will_close and client.at_end()


def test_apps_that_fail(gunicorn):
    server = gunicorn("frameworks:plain_app")
    with Client(server) as client:
        assert client.get("/error").status == 500
    with Client(server) as client:
        client.send("/late")
        with client.sock.makefile("rb") as answer:
            assert answer.read().endswith(b"begun")
    with Client(server) as client:
        assert client.get().text == b"plain"


@pytest.mark.parametrize("target", [f"/bytes?n={len(BODY)}", f"/file?n={len(BODY)}"])
def test_a_slow_reader_costs_no_thread(gunicorn, target):
    server = gunicorn(APP, "--threads", "1")
    with Slow(server) as slow, Client(server) as quick:
        slow.send(target)
        assert quick.get().text == b"hello from python\n"
        assert len(slow.receive().text) == len(BODY)
        assert slow.get().text == b"hello from python\n"


def test_a_slow_reader_is_kept_as_long_as_any_client(gunicorn):
    with Slow(gunicorn(APP, "--keep-alive", "1")) as slow:
        slow.send(f"/bytes?n={len(BODY)}")
        assert len(slow.receive().text) == len(BODY)
        assert slow.at_end()


@pytest.mark.parametrize("how", ["environment", "argument"])
def test_x_sendfile(gunicorn, tmp_path, how):
    (tmp_path / "file").write_bytes(BODY)
    if how == "environment":
        server = gunicorn("frameworks:plain_app", ANTEROOM_SENDFILE_ROOT=str(tmp_path))
    else:
        server = gunicorn("frameworks:plain_app", "--env", f"ANTEROOM_SENDFILE_ROOT={tmp_path}")
    with Client(server) as client:
        assert client.get("/sendfile").text == BODY
        assert client.get("/unreal").text == b"unreal"
        (tmp_path / "file").unlink()
        assert client.get("/sendfile").status == 404
        assert "X-Sendfile" in server.log()


def test_an_app_may_take_its_connection_over(gunicorn):
    server = gunicorn(APP, "--threads", "1")
    with Client(server) as client:
        client.send("/upgrade", headers=["Upgrade: echo", "Connection: Upgrade"], body=b"behind")
        with client.sock.makefile("rb") as stream:
            assert stream.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
            while stream.readline() != b"\r\n":
                pass
            assert stream.read(6) == b"behind"
            client.sock.sendall(b"ping")
            assert stream.read(4) == b"ping"
            with Client(server) as other:  # it counts for nothing
                assert other.get().text == b"hello from python\n"
            client.sock.shutdown(socket.SHUT_WR)
            assert stream.read() == b""


def test_no_place_is_left_when_the_sidecar_says_so(fake, tmp_path):
    fake.last = True
    with Gunicorn(fake.path, tmp_path, APP) as server, Client(server) as client:
        assert client.get().headers["Connection"] == "close"
        assert client.at_end()


# Workers come and go; connections stay.


def test_a_reload_closes_no_connection_and_fails_no_request(gunicorn):
    server = gunicorn(APP, "--workers", "2", "--threads", "2")
    with Client(server) as idle, Client(server) as busy:
        first = idle.get("/pid").text
        pids, over, failures = set(), threading.Event(), []

        def ask():
            try:
                while not over.is_set():
                    pids.add(busy.get("/pid").text)
            except Exception as why:
                failures.append(why)

        asker = threading.Thread(target=ask)
        asker.start()
        server.signal(signal.SIGHUP)
        eventually(lambda: server.log().count("Worker exiting") == 2)
        over.set()
        asker.join(10)
        assert failures == []
        assert idle.get("/pid").text != first
        assert not busy.get("/pid").will_close


def test_a_worker_that_has_served_its_requests_is_replaced_and_the_connection_stays(gunicorn):
    with Client(gunicorn(APP, "--max-requests", "3")) as client:
        pids = [client.get("/pid").text for _ in range(7)]
        assert [len(set(each)) for each in (pids[:3], pids[3:6], pids)] == [1, 1, 3]


def test_a_worker_that_dies_takes_no_idle_connection_with_it(gunicorn):
    server = gunicorn()
    with Client(server) as idle, Client(server) as fatal:
        first = idle.get("/pid").text
        fatal.send("/crash")
        fatal.sock.recv(1000)
        assert idle.get("/pid").text != first


def test_a_worker_that_leaves_finishes_its_requests(gunicorn):
    server = gunicorn("frameworks:plain_app")
    with Client(server) as client:
        client.send("/hold")
        eventually(lambda: "holding" in server.log())
        server.signal(signal.SIGTERM)
        assert client.receive().text == b"plain"
    assert server.wait() == 0


def test_idle_and_busy_workers_are_alive_to_gunicorn(gunicorn):
    server = gunicorn(APP, "--timeout", "2", "--threads", "1")
    with Client(server) as client:
        before = client.get("/pid").text
        assert client.get("/sleep?ms=3500").text == b"slept\n"
        assert client.get("/pid").text == before
    assert "WORKER TIMEOUT" not in server.log()


def test_the_next_gunicorn_goes_on_with_the_connections(gunicorn):
    """The pool is named after the app and the port, and outlives the gunicorn."""
    first = gunicorn()
    with Client(first) as client:
        pid = client.get("/pid").text
        first.stop()
        gunicorn(APP, "--bind", "{}:{}".format(*first.bind_addr))
        assert client.get("/pid").text not in (pid, b"")


def test_two_of_the_same_name_are_not_mixed_up(gunicorn):
    first, second = gunicorn(), gunicorn()
    for _ in range(4):
        with Client(first) as one, Client(second) as two:
            assert one.get("/pid").text != two.get("/pid").text


def test_a_unix_socket(gunicorn, tmp_path):
    server = gunicorn(APP, "--bind", f"unix:{tmp_path}/app.sock")
    server.booted()  # by then the socket listens
    with Client(None, address=f"{tmp_path}/app.sock") as client:
        for _ in range(2):
            assert client.get().text == b"hello from python\n"


# The sidecar.


def test_the_sidecar_may_own_the_port(fake, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fake.listen(sock, pool="web")
        with Gunicorn(fake.path, tmp_path, APP, ANTEROOM_POOL="web", ANTEROOM_NAME="web-1", ANTEROOM_CAPACITY="3") as server:
            server.booted()
            with Client(None, address=sock.getsockname()) as client:
                assert client.get().text == b"hello from python\n"
    assert fake.hellos[0]["name"] == "web-1" and fake.hellos[0]["capacity"] == 3


def test_clients_wait_for_the_sidecar(path, tmp_path):
    with Gunicorn(path, tmp_path, APP) as server, Client(server) as client:
        client.send()
        eventually(lambda: "There is no handoff socket" in server.log())
        double = Sidecar(path)
        try:
            assert client.receive().text == b"hello from python\n"
            eventually(lambda: "Attached to the sidecar" in server.log())
        finally:
            server.stop()
            double.stop()
        assert server.log().count("There is no handoff socket") == 1
    assert double.hellos[0]["pool"] == "{}-{}:{}".format(APP, *server.bind_addr)


@pytest.mark.skipif(not sidecars.real(), reason="only the real sidecar reads PROXY headers")
def test_behind_a_load_balancer_the_sidecar_reads_the_proxy_header(path, tmp_path):
    sidecar = sidecars.start_listening("real", path, "&proxy=127.0.0.1")
    with Gunicorn(path, tmp_path, APP, ANTEROOM_POOL="default"), Client(None, address=sidecar.address) as client:
        client.sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4321 80\r\n")
        assert [client.get("/peer").text for _ in range(2)] == [b"192.0.2.7\n"] * 2
    sidecar.stop()


@pytest.mark.parametrize(
    "arguments, environment, said",
    [
        (["--certfile", __file__, "--keyfile", __file__], {}, "does not do TLS"),
        (["--proxy-protocol"], {}, "Have the sidecar read it: listen there with proxy="),
        ([], {"ANTEROOM_CAPACITY": "many"}, "ANTEROOM_CAPACITY is 'many'"),
        ([], {"ANTEROOM_READY": "soon"}, "ANTEROOM_READY is 'soon'"),
        ([], {"ANTEROOM_POOL": "a b"}, "The pool 'a b'"),
        ([], {"ANTEROOM_SENDFILE_ROOT": __file__}, "no directory"),
    ],
)
def test_what_cannot_be_is_said_at_once(path, tmp_path, arguments, environment, said):
    with Gunicorn(path, tmp_path, APP, *arguments, **environment) as server:
        assert server.wait() != 0
        assert said in server.log()
