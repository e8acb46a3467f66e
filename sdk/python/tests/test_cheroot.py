"""cheroot behind the sidecar: what a ConnectionManager must do. ``CHEROOT.md`` maps requirements to these tests."""

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from cheroot.server import Gateway, HTTPServer
from cheroot.workers.threadpool import ThreadPool

import anteroom.cheroot
import cheroot.connections
import sidecars
from anteroom import client as anteroom_client
from conftest import eventually
from servers import Client, attached, running
from sidecar import Sidecar, reset

KEEP = ("Connection: Keep-Alive",)


@pytest.fixture
def options(sidecar):
    return {"path": sidecar.path}


@pytest.fixture
def fake_options(fake):
    return {"path": fake.path}


def idle_count(server):
    return server._connections._num_connections


def has_idle(server, count):
    return eventually(lambda: idle_count(server) == count)


def gone(client):
    """Whether the server has ended the connection."""
    return select.select([client.sock], [], [], 0.01)[0] != [] and client.sock.recv(10, socket.MSG_PEEK) == b""


# Serving.


@pytest.mark.parametrize("cache", [0, 1, 256])
def test_many_requests_on_one_connection(options, cache):
    with running(options=dict(options, cache=cache)) as server, Client(server) as client, Client(server) as other:
        for _ in range(20):
            assert client.get().text == b"hello"
            assert other.get().text == b"hello"
        has_idle(server, 2)


def test_the_sidecar_does_the_work(fake, fake_options):
    """Falling back to cheroot's own loop would look right, too."""
    with running(options=fake_options) as server, Client(server) as client:
        for _ in range(3):
            client.get()
        has_idle(server, 1)
        eventually(lambda: fake.counts["requests"] == 3)
        assert (fake.counts["accepted"], fake.counts["leases"], fake.counts["PUT"]) == (1, 3, 3)
        assert fake.counts["leases with descriptor"] == 1
        assert fake.hellos[0]["name"] == f"cheroot-{os.getpid()}" and fake.hellos[0]["pool"] == ""
    assert fake.violations == 0


@pytest.mark.parametrize(("variable", "option", "pool"), [(None, None, ""), ("web", None, "web"), ("web", "", ""), ("web", "api", "api")])
def test_a_server_has_a_pool_of_its_own_unless_one_is_named(fake, fake_options, monkeypatch, variable, option, pool):
    monkeypatch.delenv("ANTEROOM_POOL", raising=False)
    if variable is not None:
        monkeypatch.setenv("ANTEROOM_POOL", variable)
    with running(options=dict(fake_options, pool=option)) as server:
        attached(server)
    assert fake.hellos[0]["pool"] == pool


def test_without_cache_each_lease_brings_a_descriptor(fake, fake_options):
    with running(options=dict(fake_options, cache=0)) as server, Client(server) as client:
        for _ in range(3):
            client.get()
        has_idle(server, 1)
        assert fake.counts["leases with descriptor"] == 3


def test_the_least_recently_used_descriptor_leaves_a_full_cache(fake, fake_options):
    with running(options=dict(fake_options, cache=2)) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(3)]
        for number, client in enumerate(clients, 1):
            client.get()
            has_idle(server, number)
        eventually(lambda: fake.counts["DROPPED"] == 1)
        assert len(server._connections._held) == 2
        assert clients[1].get().text == b"hello"
        assert eventually(lambda: fake.counts["leases with descriptor"] == 3)
        has_idle(server, 3)
        assert clients[0].get().text == b"hello"
        assert fake.counts["leases with descriptor"] == 4


def test_1000_requests_over_50_connections_without_an_error(options):
    """With the default limit of 10, so that most of them are answered with "Connection: close"."""
    errors = []

    def visit(server):
        try:
            client = Client(server)
            for _ in range(20):
                if client.get().will_close:
                    client.sock.close()
                    client = Client(server)
            client.sock.close()
        except Exception as why:
            errors.append(why)

    with running(options=options) as server:
        threads = [threading.Thread(target=visit, args=(server,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert errors == []


def test_a_large_response_to_a_slow_reader(options):
    with running(options=options) as server, Client(server) as client:
        client.send("/big")
        time.sleep(0.1)
        assert len(client.receive().text) == 4_000_000
        assert client.get().text == b"hello"


def test_http_1_0_keep_alive(options):
    with running(options=options) as server, Client(server) as client:
        for _ in range(2):
            response = client.get(headers=KEEP, version="1.0")
            assert (response.headers["Connection"], response.headers["Keep-Alive"]) == ("Keep-Alive", "timeout=10")
        assert client.get(version="1.0").headers["Connection"] is None
        assert client.at_end()


def test_connection_close(options):
    with running(options=options) as server, Client(server) as client:
        assert client.get(headers=("Connection: close",)).text == b"hello"
        assert client.at_end()


def test_a_refused_body_does_not_cost_the_answer(options):
    """The client still sends when the server has answered and closed: a reset must not overtake the answer."""
    with running(options=options) as server, Client(server) as client:
        server.max_request_body_size = 10
        client.send("/upload", "POST", ("Content-Length: 1000000",))
        with contextlib.suppress(ConnectionError):
            client.sock.sendall(b"x" * 1000000)
        assert client.receive().status == 413


# Pipelining, and what is left in buffers.


def test_pipelined_requests_are_served_under_one_lease(fake, fake_options):
    with running(options=fake_options) as server, Client(server) as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        assert [client.receive().text for _ in range(5)] == [b"hello"] * 5
        has_idle(server, 1)
        eventually(lambda: fake.counts["requests"] == 5)
        assert (fake.counts["leases"], fake.counts["PUT"]) == (1, 1)


def test_a_pipelined_half_of_a_request(options):
    with running(options=options) as server, Client(server) as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTT")
        assert client.receive().text == b"hello"
        client.sock.sendall(b"P/1.1\r\nHost: a\r\n\r\n")
        assert client.receive().text == b"hello"
        has_idle(server, 1)


def test_the_empty_line_behind_a_chunked_body_keeps_no_thread(options):
    with running(options=options, numthreads=1) as server, Client(server) as client, Client(server) as other:
        for _ in range(2):
            client.send("/upload", "POST", ("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n")
            assert client.receive().text == b"hello"
            has_idle(server, 1)
        assert other.get().text == b"hello"  # by the only thread


CHUNKED = ("Transfer-Encoding: chunked",)


def test_a_trailer_is_not_taken_for_the_next_request(options):
    with running(options=options) as server, Client(server) as client:
        for _ in range(2):
            client.send("/upload", "POST", CHUNKED, b"5\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n")
            assert client.receive().text == b"hello"
        assert client.get().text == b"hello"


def test_an_app_may_read_the_trailer_itself(options):
    def app(environ, start_response):
        environ["wsgi.input"].read()
        body = b"".join(environ["wsgi.input"].read_trailer_lines())
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    with running(options=options, app=app) as server, Client(server) as client:
        for _ in range(2):
            client.send("/", "POST", CHUNKED, b"5\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n")
            assert client.receive().text == b"X-Trailer: yes\r\n"


def test_a_trailer_that_is_none_ends_the_connection(options):
    with running(options=options) as server, Client(server) as client:
        client.send("/upload", "POST", CHUNKED, b"5\r\nhello\r\n0\r\nX-Trailer: yes\n")
        assert client.receive().text == b"hello"
        assert client.at_end()


def test_an_app_may_end_the_connection(options):
    """cheroot sends that header, and keeps the connection."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "5"), ("Connection", "close")])
        return [b"hello"]

    with running(options=options, app=app) as server, Client(server) as client:
        assert client.get().text == b"hello"
        assert client.at_end()


# Newcomers.


def test_silent_clients_occupy_no_thread(options):
    with running(options=options, numthreads=3) as server, contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(Client(server))
        with Client(server) as client:
            assert client.get().text == b"hello"
            has_idle(server, 1)  # newcomers do not count
        eventually(lambda: server.requests.idle == 3)


@pytest.mark.parametrize("said", [b"", b"GET / HT"])
def test_a_client_that_does_not_ask_in_time_gets_408(options, said):
    with running(options=options, timeout=0.3) as server, Client(server) as client:
        client.sock.sendall(said)
        assert client.receive().status == 408
        assert client.at_end()


def test_a_timeout_changed_while_running_holds_for_newcomers(options):
    with running(options=options) as server:
        attached(server)
        first = server._connections._listener
        server.timeout = 0.2
        eventually(lambda: server._connections._listener is not first and attached(server))
        with Client(server) as client:
            assert client.receive().status == 408


def test_a_reset_newcomer_disturbs_nobody(options):
    with running(options=options) as server:
        reset(Client(server).sock)
        with Client(server) as client:
            assert client.get().text == b"hello"


def test_a_half_closed_client_is_answered(options):
    with running(options=options) as server, Client(server) as client:
        client.send()
        client.sock.shutdown(socket.SHUT_WR)
        assert client.receive().text == b"hello"


def test_the_clients_address(options):
    with running(options=options) as server, Client(server) as client:
        wanted = "{} {}".format(*client.sock.getsockname()).encode()
        assert [client.get("/address").text for _ in range(2)] == [wanted, wanted]


def test_a_mapped_ipv4_address_is_spelt_as_ever(options):
    with running(("::", 0), options=options) as server:
        with Client(server, address=("127.0.0.1", server.bind_addr[1])) as client:
            assert client.get("/address").text.startswith(b"::ffff:127.0.0.1 ")


@pytest.mark.parametrize("bind_addr", ["{tmp}/app.sock", "\0anteroom-test-{pid}"])
def test_unix_sockets_and_their_peer_credentials(options, tmp_path, bind_addr):
    class Creds(Gateway):
        def respond(self):
            conn = self.req.conn
            self.req.status = b"200 OK"
            body = f"{conn.peer_pid} {conn.peer_uid} {conn.peer_gid}".encode()
            self.req.outheaders.append((b"Content-Length", str(len(body)).encode()))
            self.req.ensure_headers_sent()
            self.req.write(body)

    def configure(server):
        server.gateway = Creds

    bind_addr = bind_addr.format(tmp=tmp_path, pid=os.getpid())
    with running(bind_addr, options=options, configure=configure, peercreds_enabled=True) as server:
        with Client(server) as client:
            for _ in range(2):
                assert client.get().text == f"{os.getpid()} {os.getuid()} {os.getgid()}".encode()
        name = server.bind_addr
    with socket.socket(socket.AF_UNIX) as sock:  # the name is free, nobody listens
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            sock.connect(name)
    if bind_addr.startswith("\0"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(bind_addr)


def test_the_class_and_the_method_of_the_moment_are_used(options):
    class Special(HTTPServer.ConnectionClass):
        pass

    delivered = []
    with running(options=options) as server, Client(server) as client, Client(server) as other:
        assert client.get().text == b"hello"
        server.ConnectionClass = Special
        process_conn = server.process_conn
        server.process_conn = lambda conn: (delivered.append(conn), process_conn(conn))
        assert other.get().text == b"hello"
        assert isinstance(delivered[0], Special)
        delivered.clear()


def test_the_shared_description_stays_non_blocking(fake, fake_options):
    class Rude(HTTPServer.ConnectionClass):
        def communicate(self):
            self.socket.setblocking(True)
            return super().communicate()

    def configure(server):
        server.timeout = None
        server.ConnectionClass = Rude

    with running(options=fake_options, configure=configure) as server, Client(server) as client:
        for _ in range(3):
            assert client.get().text == b"hello"
        has_idle(server, 1)
    assert fake.violations == 0


# Idle connections: counting, the limit, expiry.


def test_the_count_is_right_at_once(options):
    with running(options=options) as server, contextlib.ExitStack() as stack:
        for number in range(1, 6):
            stack.enter_context(Client(server)).get()
            has_idle(server, number)
    assert idle_count(server) == 0


@pytest.mark.parametrize("limit, kept", [(0, 0), (2, 2), (None, 5)])
def test_the_limit_is_read_for_each_answer(options, limit, kept):
    with running(options=options) as server, contextlib.ExitStack() as stack:
        server.keep_alive_conn_limit = limit
        clients = [stack.enter_context(Client(server)) for _ in range(5)]
        answers = []
        for client in clients:
            answers.append(client.get(headers=KEEP, version="1.0").headers["Connection"])
            has_idle(server, min(len(answers), kept))
        assert answers == ["Keep-Alive"] * kept + [None] * (5 - kept)


def test_the_limit_can_change(options):
    with running(options=options) as server, Client(server) as client, Client(server) as other, Client(server) as third:
        server.keep_alive_conn_limit = 1
        assert not client.get().will_close
        has_idle(server, 1)
        server.keep_alive_conn_limit = 0
        assert other.get().will_close and other.at_end()
        server.keep_alive_conn_limit = None
        assert not third.get().will_close
        has_idle(server, 2)
        server.keep_alive_conn_limit = 0
        assert client.get().will_close


def test_those_who_ask_at_once_do_not_all_get_the_last_place(options):
    with running(options=options, numthreads=8) as server, contextlib.ExitStack() as stack:
        server.keep_alive_conn_limit = 2
        clients = [stack.enter_context(Client(server)) for _ in range(8)]
        for client in clients:
            client.send("/hold", headers=KEEP, version="1.0")
        for _ in clients:
            assert server.gates.inside.acquire(timeout=10)
        server.gates.open.set()
        kept = [client.receive().headers["Connection"] for client in clients]
        assert sorted(map(str, kept)) == ["Keep-Alive"] * 2 + ["None"] * 6
        has_idle(server, 2)


def test_a_promised_place_is_given_back(options):
    with running(options=options) as server, Client(server) as client, Client(server) as other:
        server.keep_alive_conn_limit = 1
        client.send("/big")
        reset(client.sock)  # the answer, which promised to keep the connection, fails
        eventually(lambda: server.requests.idle == 10)
        assert not other.get().will_close
        has_idle(server, 1)


def test_no_place_is_left_when_the_sidecar_says_so(fake, fake_options):
    fake.last = True
    with running(options=fake_options) as server, Client(server) as client:
        server.keep_alive_conn_limit = None
        assert client.get().will_close
        assert client.at_end()


@pytest.mark.parametrize("cache", [0, 256])
def test_expiry_is_a_plain_end(options, cache):
    with running(options=dict(options, cache=cache), timeout=0.3) as server, Client(server) as client, Client(server) as other:
        client.get()
        other.get()
        has_idle(server, 2)
        other.get()
        assert client.at_end() and other.at_end()
        has_idle(server, 0)


def test_a_connection_is_kept_longer_than_its_client_is_told(fake):
    with running(options={"path": fake.path}, timeout=2) as server, Client(server) as client:
        assert client.get(version="1.0", headers=["Connection: Keep-Alive"]).headers["Keep-Alive"] == "timeout=2"
        eventually(lambda: fake.counts["kept 2200 ms"] == 1)
        assert "Keep-Alive" not in client.get().headers
        eventually(lambda: fake.counts["kept 2000 ms"] == 1)


def test_each_put_starts_the_clock_anew(options):
    with running(options=options, timeout=0.6) as server, Client(server) as client, Client(server) as other:
        client.get()
        other.get()
        for _ in range(5):
            time.sleep(0.2)
            assert other.get().text == b"hello"
        assert client.at_end()
        has_idle(server, 1)


@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_an_idle_client_that_goes_leaves_the_count(options, end):
    with running(options=options) as server:
        client = Client(server)
        client.get()
        has_idle(server, 1)
        end(client.sock)
        has_idle(server, 0)


def test_statistics_count_each_request_and_each_client_once(options):
    with running(options=options, numthreads=1) as server, Client(server) as client:
        server.stats["Enabled"] = True
        for _ in range(5):
            client.get()
        has_idle(server, 1)
        (worker,) = server.stats["Worker Threads"].values()
        assert eventually(lambda: worker["Requests"](worker) == 5)
        assert server.stats["Accepts"] == 1


# Overload.


def test_requests_wait_in_the_sidecar_while_all_threads_are_busy(fake, fake_options):
    """In a named pool, whose other hosts could take them."""
    with running(options=dict(fake_options, pool="shared"), numthreads=2) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(5)]
        for client in clients:
            client.send("/hold")
        for _ in range(2):
            assert server.gates.inside.acquire(timeout=10)
        eventually(lambda: fake.states()["ready"] == 3)
        assert server.requests.qsize == 0
        server.gates.open.set()
        assert [client.receive().text for client in clients] == [b"hello"] * 5


def test_a_private_pool_is_asked_for_more_than_there_are_threads(fake, fake_options):
    with running(options=fake_options, numthreads=2) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(11)]
        for client in clients:
            client.send("/hold")
        eventually(lambda: fake.states() == {"leased": 8, "ready": 3})
        server.gates.open.set()
        assert [client.receive().text for client in clients] == [b"hello"] * 11


def test_the_capacity_follows_the_thread_pool(fake, fake_options):
    options = dict(fake_options, pool="shared")
    with running(options=options, numthreads=1) as server, Client(server) as client, Client(server) as other:
        client.send("/hold")
        assert server.gates.inside.acquire(timeout=10)
        server.requests.grow(1)
        assert other.get().text == b"hello"
        server.gates.open.set()
        client.receive()


def test_a_full_bounded_queue_refuses_at_once(options):
    def configure(server):
        server.requests = ThreadPool(server, min=1, max=1, accepted_queue_size=1, accepted_queue_timeout=0)

    with running(options=options, configure=configure) as server, contextlib.ExitStack() as stack:
        first, second, third = [stack.enter_context(Client(server)) for _ in range(3)]
        first.send("/hold")
        assert server.gates.inside.acquire(timeout=10)
        second.send()
        eventually(lambda: server.requests.qsize == 1)
        third.send()
        answer = third.sock.recv(1000)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")  # cheroot 9.0.0 closes, later versions answer
        server.gates.open.set()
        assert first.receive().text == second.receive().text == b"hello"


# The ways a connection ends.


def test_a_connection_that_is_dropped_without_close_ends(options):
    with running(options=options) as server, Client(server) as client, Client(server) as other:
        server.process_conn = lambda conn: None
        client.send()
        eventually(lambda: gc.collect() is not None and gone(client))
        del server.process_conn
        assert other.get().text == b"hello"


def test_a_lingering_connection_ends_without_waiting_for_the_garbage_collector(options):
    class Lingering(HTTPServer.ConnectionClass):
        linger = True

    def configure(server):
        server.ConnectionClass = Lingering

    gc.disable()
    try:
        with running(options=options, configure=configure) as server, Client(server) as client:
            assert client.get(headers=("Connection: close",)).text == b"hello"
            assert client.at_end()
    finally:
        gc.enable()


def test_a_socket_that_somebody_keeps_is_detached(fake, fake_options):
    """How WebSocket tools take a connection over: they keep the socket and set ``linger``."""
    taken = []

    class Hijacked(HTTPServer.ConnectionClass):
        def communicate(self):
            keep = super().communicate()
            self.linger = True
            taken.append(self.socket)
            return keep and False

    def configure(server):
        server.ConnectionClass = Hijacked

    with running(options=dict(fake_options), configure=configure) as server, Client(server) as client:
        assert client.get().text == b"hello"
        eventually(lambda: fake.counts["DETACH"] == 1)
        with taken.pop() as sock:
            client.sock.sendall(b"ping")
            assert sock.recv(10) == b"ping"
            sock.sendall(b"pong")
            assert client.sock.recv(10) == b"pong"
        assert client.at_end()
        assert fake.states() == {}


def test_a_failing_shutdown_still_ends_the_connection(options):
    class Broken(HTTPServer.ConnectionClass):
        def _close_kernel_socket(self):
            raise OSError(5, "Input/output error")

    def configure(server):
        server.ConnectionClass = Broken

    seen = []
    with raising_threads(seen), running(options=options, configure=configure) as server, Client(server) as client:
        client.send(headers=("Connection: close",))
        assert client.receive().text == b"hello"
        assert client.at_end()


@contextlib.contextmanager
def raising_threads(seen):
    """cheroot 9.0.0 lets a worker die of an exception in close()."""
    hook, threading.excepthook = threading.excepthook, seen.append
    try:
        yield
    finally:
        threading.excepthook = hook
        seen.clear()


def test_a_lease_that_is_taken_back_does_not_reach_the_client(fake, fake_options):
    with running(options=fake_options) as server, Client(server) as client, Client(server) as other:
        client.send("/hold")
        assert server.gates.inside.acquire(timeout=10)
        fake.take_back()
        assert client.at_end()
        server.gates.open.set()
        assert other.get().text == b"hello"
        has_idle(server, 1)


def test_put_never_raises(options):
    """An exception from put would end the server."""
    with running(options=options) as server, Client(server) as client, Client(server) as other:
        process_conn, calls = server.process_conn, []

        def fail_for_the_pipelined_request(conn):
            calls.append(conn.anteroom_ticket.requests)
            if calls[-1] == 2:
                raise RuntimeError("no")
            process_conn(conn)

        server.process_conn = fail_for_the_pipelined_request
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        assert client.receive().text == b"hello"
        assert client.at_end()
        assert calls == [1, 2]
        assert other.get().text == b"hello"


def test_an_exception_in_the_loop_is_logged_and_the_loop_goes_on(options):
    with running(options=options, log=[]) as server, Client(server) as client, Client(server) as other:
        process_conn, calls = server.process_conn, []

        def fail_once(conn):
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("no")
            process_conn(conn)

        server.process_conn = fail_once
        client.send()
        eventually(lambda: server.logged)
        assert server.logged == [(logging.ERROR, "Error in HTTPServer.serve")]
        assert other.get().text == b"hello"
        eventually(lambda: gc.collect() is not None and gone(client))


@pytest.mark.parametrize("pool", ["", "shared"])
def test_a_connection_that_the_client_was_told_to_keep_outlives_a_server_that_stops(options, pool):
    """cheroot closes what it has answered once it is not ready any more, though the answer has gone out as one that keeps the connection."""
    with running(options=dict(options, pool=pool)) as server, Client(server) as client:
        server.put_conn = lambda conn: conn.close()
        for _ in range(3):
            assert not client.get().will_close
            assert client.sock.getpeername() == server.bind_addr
        client.get(headers=("Connection: close",))
        assert client.at_end()


def test_a_lease_that_nobody_has_begun_is_given_back_by_a_server_that_stops(options):
    """The pool's next host answers it."""
    options = dict(options, pool="shared")
    with contextlib.ExitStack() as stack:
        with running(options=options) as server:
            attached(server)
            client = server._connections._client
            turn = client.turn

            def turn_and_leave(into, **kwargs):
                turn(into, **kwargs)
                if any(isinstance(event, anteroom.Lease) for event in into):
                    client.turn = turn
                    raise SystemExit

            client.turn = turn_and_leave
            user = stack.enter_context(Client(server))
            user.send()
            eventually(lambda: server.raised)
        with running(options=options) as successor:
            attached(successor)
            assert user.receive().text == b"hello"
            assert user.get().text == b"hello"


def test_what_a_lease_waits_for_is_told_to_the_sidecar(fake_options, monkeypatch):
    monkeypatch.setenv("ANTEROOM_READY", "head")
    for options, wanted in (({}, "head"), ({"ready": "request"}, "request")):
        with running(options=dict(fake_options, **options)) as server:
            attached(server)
            assert f'"ready": "{wanted}"'.encode() in server._connections._listener._payload
    with pytest.raises(ValueError, match="must be one of bytes, head, request"):
        anteroom.cheroot.Options(ready="soon")


@pytest.mark.parametrize("sidecar", sidecars.real(), indirect=True)  # the double leases for any byte
def test_a_slow_request_occupies_no_thread_if_leases_wait_for_whole_ones(sidecar, options):
    with running(options=dict(options, ready="request"), numthreads=1) as server, Client(server) as slow, Client(server) as other:
        slow.send("/upload", "POST", ("Content-Length: 5",), b"he")
        assert other.get().text == b"hello"  # by the only thread
        slow.sock.sendall(b"llo")
        assert slow.receive().text == b"hello"
        slow.sock.sendall(b"NONSENSE\r\n\r\n")
        assert slow.receive().status == 400
        assert slow.at_end()


def test_put_after_close_closes(options):
    with running(options=options) as server, Client(server) as client:
        client.send("/hold")
        assert server.gates.inside.acquire(timeout=10)
        conn = server.requests._threads[0].conn or next(t.conn for t in server.requests._threads if t.conn)
        manager = server._connections
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        eventually(lambda: manager._closed)
        server.gates.open.set()
        assert client.receive().text == b"hello"
        stopper.join(10)
        manager.put(conn)
        assert client.at_end()


def test_a_broken_idle_connection_is_cleaned_up(options):
    """What cheroot does when waiting fails: it looks for dead connections in its selector, and goes on."""
    with running(options=options) as server, Client(server) as client, Client(server) as other:
        client.get()
        has_idle(server, 1)
        manager = server._connections
        ((fd, conn),) = manager._selector.connections
        assert conn.socket.fileno() == fd
        conn.close()
        select, calls = manager._selector.select, []

        def fail_twice(timeout=None):
            calls.append(time.monotonic())
            if len(calls) < 3:
                raise OSError(9, "Bad file descriptor")
            return select(timeout=timeout)

        manager._selector.select = fail_twice
        assert other.get().text == b"hello"
        assert client.at_end()
        has_idle(server, 1)
        eventually(lambda: len(calls) > 1)
        assert calls[1] - calls[0] >= anteroom.cheroot.PAUSE  # no spinning


# Starting and stopping.


def test_stop_frees_the_port_at_once(options):
    for _ in range(5):
        with running(options=options) as server:
            attached(server)
            address = server.bind_addr
            server.stop()
            assert server.socket is None
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            with socket.socket() as again:
                again.bind(address)
                again.listen()


def test_stop_ends_idle_connections(options):
    with running(options=options) as server, Client(server) as client:
        client.get()
        has_idle(server, 1)
        server.stop()
        assert client.at_end()


def test_stop_lets_responses_finish(options):
    with running(options=options) as server, Client(server) as client:
        client.send("/hold")
        assert server.gates.inside.acquire(timeout=10)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        eventually(lambda: server._connections._closed)
        server.gates.open.set()
        response = client.receive()
        assert response.text == b"hello" and response.will_close
        assert client.at_end()
        stopper.join(10)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stop_keeps_the_connections_of_a_named_pool(options, version):
    """Another server goes on with them."""
    options = dict(options, pool="shared")
    how = {"version": version, "headers": ["Connection: Keep-Alive"]}
    with running(options=options) as server, Client(server) as client:
        finish_while_it_stops(server, client, **how)
        assert not client.receive().will_close
        with running(options=options):
            assert client.get(**how).text == b"hello"


def test_stop_ends_connections_that_no_other_server_could_go_on_with(options):
    with running(options=dict(options, pool="shared")) as server, Client(server) as client:
        finish_while_it_stops(server, client, headers=["Connection: close"])
        assert client.receive().will_close and client.at_end()
    with running(options=dict(options, pool="shared")) as server, Client(server) as pipelining:
        finish_while_it_stops(server, pipelining, body=b"GET / HTTP/1.1\r\n")
        assert pipelining.receive().will_close


def finish_while_it_stops(server, client, **how):
    client.send("/hold", **how)
    assert server.gates.inside.acquire(timeout=10)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    eventually(lambda: server._connections._closed)
    server.gates.open.set()
    stopper.join(10)


def test_stop_does_not_wait_for_the_expiration_interval(options):
    def configure(server):
        server.expiration_interval = 60

    with running(options=options, configure=configure) as server:
        attached(server)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 30


def test_stop_may_precede_run(options):
    server = HTTPServer(("127.0.0.1", 0), Gateway)
    anteroom.cheroot.attach(server, **options)
    server.prepare()
    manager = server._connections
    server.stop()
    manager.run(0.5)  # returns at once
    assert not manager._serving


def test_stop_while_run_is_connecting(path):
    """To a socket that is there, and answers nothing."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen(5)
        with running(options={"path": path}) as server:
            eventually(lambda: server._connections._client.fileno() >= 0)
            server.stop()


def test_an_interrupt_from_a_worker_stops_the_server(options):
    with running(options=options, log=[]) as server, Client(server) as client:
        client.send("/interrupt")
        assert client.at_end()
        eventually(lambda: server.raised)
        assert isinstance(server.raised[0], (KeyboardInterrupt, SystemExit))
        assert not server._connections._serving and server.socket is None


def test_ctrl_c_leaves_run(options):
    with running(options=options, log=[]) as server:
        attached(server)

        def interrupt(timeout=None):
            raise KeyboardInterrupt

        server._connections._selector.select = interrupt
        eventually(lambda: server.raised)
        assert not server._connections._serving


# Where the process sends itself a signal, while its only worker is busy with a request for /slow, which holds no such lock, but needs one.
MOMENTS = {
    "nowhere": "",
    "in the queue": """
        from cheroot.server import HTTPServer
        process_conn = HTTPServer.process_conn

        def process_and_signal(server, conn):
            with server.requests._queue.mutex:
                signal_once()
            process_conn(server, conn)

        HTTPServer.process_conn = process_and_signal
    """,
    "in a session": """
        from anteroom.session import Session
        hand_on = Session._hand_on

        def hand_on_and_signal(session, what):
            hand_on(session, what)
            if session._leases:
                with session._lock:
                    signal_once()

        Session._hand_on = hand_on_and_signal
    """,
}


@pytest.mark.parametrize("handler", ["server.stop()", "sys.exit()"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_handler_may_stop_the_server(sidecar, tmp_path, handler, moment):
    """It runs in the thread of ``serve``, at whatever point that is: cheroot alone would wait for itself for ever."""
    program = """
        import os, signal, sys, time
        import anteroom.cheroot
        from cheroot.wsgi import Server

        def app(environ, start_response):
            if environ["PATH_INFO"] == "/slow":
                open("begun", "w").close()
                time.sleep(0.5)
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]

        signals = []

        def signal_once():
            if os.path.exists("begun") and not signals:
                signals.append(os.kill(os.getpid(), signal.SIGTERM))
                time.sleep(0.1)

        anteroom.cheroot.install()
        server = Server(("127.0.0.1", 0), app, numthreads=1)
        server.error_log = lambda *args, **kwargs: None
        server.prepare()
        print(server.bind_addr[1], flush=True)
    """
    program = textwrap.dedent(program) + textwrap.dedent(MOMENTS[moment])
    program += f"signal.signal(signal.SIGTERM, lambda *_: {handler})\ntry:\n    server.serve()\nfinally:\n    server.stop()\n    print('left', flush=True)"
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "ANTEROOM_HANDOFF": sidecar.path, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            port = int(child.stdout.readline())
            with dialled(port) as first, dialled(port) as second:
                ask(first, "/slow")
                eventually((tmp_path / "begun").exists)
                if moment == "nowhere":
                    child.send_signal(signal.SIGTERM)
                else:
                    ask(second)
                    assert ends_with_ok(second)
                assert ends_with_ok(first)
                out, err = child.communicate(timeout=20)
                assert (out, err, child.returncode) == ("left\n", "", 0)
            with pytest.raises(ConnectionRefusedError):
                dialled(port)
        finally:
            child.kill()


def dialled(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def ask(sock, path="/"):
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())


def ends_with_ok(sock):
    answer = b""
    while part := sock.recv(1000):
        answer += part
    return answer.endswith(b"ok")


def test_install_and_uninstall(sidecar):
    stock = cheroot.connections.ConnectionManager
    anteroom.cheroot.install(path=sidecar.path, name="mine")
    try:
        assert issubclass(cheroot.connections.ConnectionManager, stock)
        server = HTTPServer(("127.0.0.1", 0), Gateway)
        server.prepare()
        assert isinstance(server._connections, anteroom.cheroot.ConnectionManager)
        assert server._connections._client.name == "mine"
        server.stop()
    finally:
        anteroom.cheroot.uninstall()
    assert cheroot.connections.ConnectionManager is stock


@pytest.mark.parametrize("wrong", [dict(fallback="maybe"), dict(cache=-1), dict(capacity=0), dict(pool="a b"), dict(name="ü")])
def test_wrong_options_are_said_at_once(wrong):
    with pytest.raises(ValueError, match="must be"):
        anteroom.cheroot.install(**wrong)


def test_unknown_options_are_mistakes():
    with pytest.raises(TypeError, match="no option 'spil'; there are path, pool, name"):
        anteroom.cheroot.install(spil=0)
    with pytest.raises(TypeError, match="no option 'spil'"):
        anteroom.cheroot.attach(HTTPServer(("127.0.0.1", 0), Gateway), spil=0)


# Without a sidecar, or with one that comes and goes.


def test_the_server_waits_for_a_sidecar_and_clients_wait_in_the_backlog(path, monkeypatch):
    attempts = []
    open_link = anteroom_client.Link.open
    monkeypatch.setattr(anteroom_client.Link, "open", lambda *args, **how: (attempts.append(1), open_link(*args, **how))[1])
    with running(options={"path": path}, log=[]) as server, Client(server) as client:
        client.send()
        eventually(lambda: len(attempts) >= 4)
        assert [level for level, _ in server.logged] == [logging.WARNING]  # once, not per attempt
        assert "There is no handoff socket" in server.logged[0][1] and "trying again" in server.logged[0][1]
        late = sidecars.start("fake", path)
        try:
            assert client.receive().text == b"hello"
            eventually(lambda: len(server.logged) == 2)
            assert server.logged[1] == (logging.INFO, "Anteroom: attached to the sidecar.")
            server.stop()
        finally:
            late.stop()
    assert len(attempts) < 50


@pytest.mark.parametrize("kind", sidecars.kinds())
def test_a_sidecar_that_dies_is_waited_for(path, kind):
    first = sidecars.start(kind, path)
    with running(options={"path": path}, log=[]) as server, Client(server) as idle, Client(server) as busy:
        idle.get()
        has_idle(server, 1)
        busy.send("/hold")
        assert server.gates.inside.acquire(timeout=10)
        first.stop()
        assert idle.at_end()  # nobody keeps it any more
        has_idle(server, 0)
        second = sidecars.start(kind, path)
        try:
            with Client(server) as newcomer:
                assert newcomer.get().text == b"hello"
            server.gates.open.set()
            assert busy.receive().text == b"hello"  # what is under way is finished
            assert busy.at_end()
            levels = [level for level, _ in server.logged]
            assert levels[0] == logging.WARNING and levels[-1] == logging.INFO
            server.stop()
        finally:
            second.stop()


def test_a_sidecar_that_takes_no_listener_is_complained_of(path):
    fake = Sidecar(path, deny_listen=True)
    try:
        with running(options={"path": path}, log=[]) as server, Client(server) as client:
            client.send()
            eventually(lambda: server.logged)
            assert "AT_LIMIT" in server.logged[0][1]
            fake.deny_listen = False
            assert client.receive().text == b"hello"
            assert len(server.logged) == 1
    finally:
        fake.stop()


def test_the_sidecar_asks_the_server_to_leave_and_the_server_comes_back(fake, fake_options):
    with running(options=fake_options, log=[]) as server, Client(server) as client:
        client.send("/hold")
        assert server.gates.inside.acquire(timeout=10)
        fake.ask_to_leave()
        eventually(lambda: fake.listeners() == 0)
        server.gates.open.set()
        assert client.receive().text == b"hello"
        with Client(server) as newcomer:
            assert newcomer.get().text == b"hello"
        assert fake.counts["HELLO"] == 2


def test_stopping_a_server_whose_sidecar_hangs_shuts_the_socket(path, monkeypatch):
    monkeypatch.setattr(anteroom.cheroot, "STOP_TIMEOUT", 0.05)
    fake = Sidecar(path)
    release = threading.Event()
    try:
        with running(options={"path": path}) as server:
            attached(server)
            hang = threading.Thread(target=lambda: fake._call(lambda: release.wait(10)))
            hang.start()
            address = server.bind_addr
            server.stop()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            release.set()
            hang.join()
    finally:
        release.set()
        fake.stop()


def test_local_fallback_serves_without_a_sidecar_and_says_so(path):
    with running(options={"path": path, "fallback": "local"}, log=[]) as server, Client(server) as client:
        for _ in range(3):
            assert client.get().text == b"hello"
        has_idle(server, 1)
        ((level, message),) = server.logged
        assert level == logging.WARNING and "works without the sidecar" in message


def test_local_fallback_is_not_taken_where_a_sidecar_is(fake, fake_options):
    with running(options=dict(fake_options, fallback="local")) as server, Client(server) as client:
        assert client.get().text == b"hello"
        assert fake.counts["leases"] == 1


# Hosts that share a pool.


@pytest.mark.parametrize("sidecar", ["fake"], indirect=True)  # which can listen when it is told to
def test_a_named_pool_outlives_its_servers(sidecar):
    """Two servers of one pool take turns on the same connection."""
    options = {"path": sidecar.path, "pool": "shared"}
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sidecar.listen(sock, pool="shared")
        with running(options=options) as first, Client(None, address=sock.getsockname()) as client:
            assert client.get().text == b"hello"
            has_idle(first, 1)
            with running(options=options) as second:
                first.stop()
                for _ in range(3):
                    assert client.get().text == b"hello"
                has_idle(second, 1)
        assert sidecar.counts["accepted"] == 1


def test_a_connection_that_moves_to_another_server_leaves_the_count(fake):
    options = {"path": fake.path, "pool": "shared"}
    with socket.create_server(("127.0.0.1", 0)) as sock:
        fake.listen(sock, pool="shared")
        with running(options=options, numthreads=1) as first, running(options=options, numthreads=1) as second:
            eventually(lambda: fake.hosts() == 2)
            with Client(None, address=sock.getsockname()) as client, Client(None, address=sock.getsockname()) as blocker:
                client.get()
                owner, other = (first, second) if eventually(lambda: idle_count(first) + idle_count(second)) and idle_count(first) else (second, first)
                blocker.send("/hold")
                eventually(lambda: fake.states()["leased"] == 1)
                busy = owner if owner.gates.inside.acquire(blocking=False) or owner.gates.inside.acquire(timeout=0.5) else other
                client.get()
                moved_to = second if busy is first else first
                has_idle(moved_to, 1)
                has_idle(busy, 0)
                busy.gates.open.set()
                blocker.receive()
