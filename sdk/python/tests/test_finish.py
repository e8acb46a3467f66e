"""FINISH: responses whose rest the sidecar sends, so that a slow reader costs no thread."""

import contextlib
import os
import socket
import threading
import time

import pytest
from cheroot.server import HTTPServer

import anteroom
from anteroom.host_socket import HostSocket
from anteroom.spill import CLOSING, Rest, Room
from conftest import eventually
from servers import Client, running
import sidecars
from sidecar import Sidecar, reset

BODY = bytes(range(256)) * 4096 * 12
"""12 MiB: more than kernels keep for a client that does not read."""


class Slow(Client):
    """Its kernel takes little for it, until it begins to read."""

    def __init__(self, server):
        super().__init__(server, receive_buffer=4096)

    def hurry(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def receive(self, method="GET"):
        self.hurry()
        return super().receive(method)


# The client.


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@contextlib.contextmanager
def leased(sidecar, listener, features=("finish",)):
    """A client's connection and its lease, with the request read."""
    with anteroom.Client(sidecar.path, pool="", features=features) as client:
        client.listen(listener)
        with socket.create_connection(listener.getsockname(), timeout=10) as sock:
            sock.sendall(b"?")
            lease = next(client.leases())
            os.read(lease._fd, 100)
            yield client, sock, lease


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        data += sock.recv(1 << 20)
    return data


def memfd(data):
    file = os.fdopen(os.memfd_create("test"), "w+b", buffering=0)
    file.write(data)
    return file


@pytest.mark.parametrize("close", [False, True])
def test_the_sidecar_sends_a_part_of_a_file(sidecar, listener, close):
    with leased(sidecar, listener) as (client, sock, lease), memfd(b"not this" + BODY + b"nor this") as file:
        assert lease.finish(file, 8, len(BODY), close=close)
        assert not lease.put()
        assert read_exactly(sock, len(BODY)) == BODY
        if close:
            assert sock.recv(1) == b""
        else:
            sock.sendall(b"?")
            assert next(client.leases()).conn == lease.conn


@pytest.mark.parametrize("keep_alive", [0.05, 30 * 24 * 3600])
def test_what_is_finished_is_kept_for_the_time_that_was_said(sidecar, listener, keep_alive):
    with leased(sidecar, listener) as (client, sock, lease), memfd(BODY) as file:
        assert lease.finish(file, 0, len(BODY), keep_alive=keep_alive)
        assert read_exactly(sock, len(BODY)) == BODY
        if keep_alive < 1:
            assert sock.recv(1) == b""
        else:  # more than the protocol has
            sock.sendall(b"?")
            assert next(client.leases()).conn == lease.conn


@pytest.mark.parametrize("sidecar", sidecars.real(), indirect=True)  # the double knows only files
def test_the_sidecar_sends_what_is_in_a_pipe(sidecar, listener):
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    with leased(sidecar, listener) as (_, sock, lease):
        assert lease.finish(reader, 0, 5)
        os.close(reader)
        os.close(writer)
        assert sock.recv(100) == b"hello"


@pytest.mark.parametrize("offset, length, features", [(-1, 1, ["finish"]), (0, 0, ["finish"]), (0, 1, [])])
def test_what_cannot_be_finished_is_said_at_once(fake, listener, offset, length, features):
    with leased(fake, listener, features) as (_, _, lease), memfd(b"hello") as file:
        with pytest.raises(ValueError, match="offset|agreed"):
            lease.finish(file, offset, length)
        assert not lease.over
        lease.close()
    assert fake.counts["FINISH"] == 0


def test_a_descriptor_for_which_there_is_no_room_ends_the_connection(fake, listener, monkeypatch):
    with leased(fake, listener) as (_, sock, lease), memfd(b"hello") as file:

        def full(fd):
            raise OSError("Too many open files")

        monkeypatch.setattr(os, "dup", full)
        assert not lease.finish(file, 0, 5)
        monkeypatch.undo()
        assert sock.recv(1) == b""


# The memory.


def test_room_is_bounded_for_each_response_and_for_all():
    room = Room(response=10, total=15)
    assert room.take(0, 10) and not room.take(10, 1)
    assert not room.take(0, 6) and room.take(0, 5)
    room.give(5)
    assert room.take(0, 4)


class Answer:
    """In the place of a lease of connection 7."""

    conn = 7

    def __init__(self, accepted, meanwhile=lambda: None):
        self.accepted = accepted
        self.meanwhile = meanwhile

    def finish(self, file, offset, length, close, keep_alive):
        self.meanwhile()
        return self.accepted


def test_room_that_is_lent_comes_back_when_it_is_sent():
    room = Room(response=10, total=10)
    assert Rest.in_memory(b"0123456789", room).finish(Answer(True))
    assert room.taken == 10
    room.sent(8)
    assert room.taken == 10
    room.sent(7)
    assert room.taken == 0


def test_room_for_a_connection_that_ends_comes_back_later(monkeypatch):
    room = Room(response=10, total=10)
    assert Rest.in_memory(b"0123456789", room).finish(Answer(True), close=True)
    room.all_sent()
    assert not room.take(0, 1)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + CLOSING)
    assert room.take(0, 10)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_room_is_given_back_once_if_the_answer_comes_too_late(close, told):
    room = Room()
    rest = Rest.in_memory(b"0123456789", room)
    assert not rest.finish(Answer(False, meanwhile=lambda: told and room.sent(7)), close)
    rest.close()
    assert room.taken == 0


@contextlib.contextmanager
def connection(room):
    """A socket of ours with a small buffer, and its client."""
    ours, theirs = socket.socketpair()
    with HostSocket(fileno=ours.detach()) as ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        ours.room = room
        yield ours, theirs


def test_what_the_client_takes_at_once_is_not_put_aside():
    with connection(Room()) as (ours, theirs):
        ours.sendall(b"hello")
        assert ours.rest is None and theirs.recv(100) == b"hello"


def test_sends_behind_a_rest_go_behind_it():
    room = Room()
    with connection(room) as (ours, theirs):
        ours.sendall(BODY[:4_000_000])
        ours.sendall(b"next")
        assert ours.rest.length == room.taken > 0
        received = []
        reader = threading.Thread(target=lambda: received.append(read_exactly(theirs, 4_000_004)))
        reader.start()
        ours.flush()
        reader.join(10)
        assert received == [BODY[:4_000_000] + b"next"]
        assert ours.rest is None and room.taken == 0


def send_behind(sock, tmp_path):
    sock.room = None
    sock.sendall(b"more")


def send_too_much(sock, tmp_path):
    sock.sendall(b"m" * 9_000_000)


def send_a_file(sock, tmp_path):
    (tmp_path / "file").write_bytes(b"more")
    with open(tmp_path / "file", "rb") as file:
        assert sock.sendfile(file) == 4
        assert file.tell() == 4


def receive(sock, tmp_path):
    assert sock.recv(100) == b"?"


@pytest.mark.parametrize("then", [send_behind, send_too_much, send_a_file, receive])
def test_what_was_put_aside_is_sent_before_anything_else_is_done(then, tmp_path):
    with connection(Room(response=8_000_000)) as (ours, theirs):
        ours.sendall(BODY[:4_000_000])
        received = []

        def read():
            received.append(read_exactly(theirs, 4_000_000))
            if then is receive:
                theirs.sendall(b"?")
            while received[-1]:
                received.append(theirs.recv(1 << 20))

        reader = threading.Thread(target=read)
        reader.start()
        then(ours, tmp_path)
        ours.flush()
        ours.close()
        reader.join(10)
        more = {send_behind: b"more", send_too_much: b"m" * 9_000_000, send_a_file: b"more", receive: b""}
        assert b"".join(received) == BODY[:4_000_000] + more[then]


def test_a_client_that_takes_nothing_times_out():
    with connection(Room()) as (ours, _):
        ours.sendall(BODY[:4_000_000])
        ours.settimeout(0.05)
        with pytest.raises(socket.timeout):
            ours.flush()
        assert ours.rest is None


# cheroot.


def as_list(length):
    return [BODY[:length]]


def in_blocks(length):
    return (BODY[start : start + 1_000_000] for start in range(0, length, 1_000_000))


def body_app(make, with_length=True, length=len(BODY), closed=None):
    """An app that answers /body with so many bytes, and anything else with "hello"."""

    def app(environ, start_response):
        wanted = length if environ["PATH_INFO"] == "/body" else 5
        headers = [("Content-Type", "text/plain")]
        start_response("200 OK", headers + ([("Content-Length", str(wanted))] if with_length else []))
        return make(length) if wanted == length else [b"hello"]

    return app


@pytest.fixture
def options(sidecar):
    return {"path": sidecar.path}


@pytest.mark.parametrize(
    "make, with_length, headers",
    [
        (as_list, True, ()),
        (as_list, False, ()),  # chunked
        (in_blocks, True, ()),
        (as_list, True, ("Connection: close",)),
    ],
)
def test_a_slow_reader_costs_no_thread(options, make, with_length, headers):
    with running(options=options, numthreads=1, app=body_app(make, with_length)) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Slow(server)) for _ in range(3)]
        for client in slow:
            client.send("/body", headers=headers)
        with Client(server) as quick:
            assert quick.get().text == b"hello"
        for client in slow:
            assert client.receive().text == BODY
            if headers:
                assert client.at_end()
            else:
                assert client.get().text == b"hello"


def test_what_the_client_did_not_take_is_finished(fake):
    """That no thread waits could have other reasons."""
    with running(options={"path": fake.path}, app=body_app(as_list)) as server, Slow(server) as client:
        client.send("/body")
        eventually(lambda: fake.counts["FINISH"] == 1)
        assert fake.states()["finishing"] == 1
        assert 0 < fake.counts["finished bytes"] < len(BODY) + 1000
        assert server._connections.room.taken == fake.counts["finished bytes"]
        assert client.receive().text == BODY
        assert client.get().text == b"hello"
        eventually(lambda: server._connections.room.taken == 0)
        eventually(lambda: (fake.counts["FINISH"], fake.counts["PUT"]) == (1, 1))
        assert fake.counts["kept 10000 ms"] == 2
    assert fake.violations == 0


@pytest.mark.parametrize("with_length", [True, False])
def test_blocks_reach_the_client_while_the_app_makes_the_next_one(options, with_length):
    """As PEP 3333 wants it. The app goes on only when the client has what came before."""
    has_first = threading.Event()

    def make(length):
        yield BODY[:8_000_000]
        assert has_first.wait(10)
        yield BODY[8_000_000:length]

    with running(options=options, app=body_app(make, with_length)) as server, Slow(server) as client:
        client.send("/body")
        client.hurry()
        read_exactly(client.sock, 8_000_000)
        has_first.set()
        read_exactly(client.sock, len(BODY) - 8_000_000)


def test_a_response_of_unknown_length_waits_for_its_client(fake):
    made = []

    def make(length):
        for block in in_blocks(length):
            made.append(block)
            yield block

    with running(options={"path": fake.path}, app=body_app(make, False), log=[]) as server, Slow(server) as client:
        client.send("/body")
        client.sock.recv(1)
        assert len(made) < 12
        client.hurry()
        read_exactly(client.sock, len(BODY))
        eventually(lambda: fake.counts["PUT"] == 1)
        assert fake.counts["FINISH"] == 0


@pytest.mark.parametrize("limits", [{"spill": 1_000_000}, {"spill_total": 1_000_000}, {"spill": 0}])
def test_beyond_the_limits_a_thread_waits(fake, limits):
    with running(options={"path": fake.path, **limits}, app=body_app(as_list)) as server, Slow(server) as client:
        client.send("/body")
        assert client.receive().text == BODY
        assert client.get().text == b"hello"
        assert fake.counts["finished bytes"] <= min(1_000_000, *limits.values())


def test_pipelined_requests_are_answered_in_order(options):
    with running(options=options, app=body_app(as_list)) as server, Slow(server) as client:
        client.sock.sendall(b"GET /body HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET / HT")
        for _ in range(2):
            assert client.receive().text == BODY
            assert client.receive().text == b"hello"
        client.sock.sendall(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive().text == b"hello"


def test_a_client_that_goes_disturbs_nobody(options):
    with running(options=options, numthreads=1, app=body_app(as_list)) as server:
        for end in (reset, socket.socket.close):
            slow = Slow(server)
            slow.send("/body")
            slow.sock.recv(100)
            end(slow.sock)
        with Client(server) as quick:
            assert quick.get().text == b"hello"


def test_a_server_that_stops_lets_the_sidecar_finish(options):
    with Slow.__new__(Slow) as client:
        with running(options=options, app=body_app(as_list)) as server:
            client.__init__(server)
            client.send("/body")
            client.sock.recv(1, socket.MSG_PEEK)
            with Client(server) as other:
                other.get()
        assert client.receive().text == BODY


class Gated:
    """A response of which nothing is left to send, but whose ``close`` waits."""

    def __init__(self):
        self.closing, self.open = threading.Event(), threading.Event()

    def make(self, length):
        self.blocks = [BODY[:length]]
        return self

    def __iter__(self):
        return iter(self.blocks)

    def close(self):
        self.closing.set()
        assert self.open.wait(10)


def test_a_thread_waits_itself_if_the_sidecar_has_died(path):
    gated, double = Gated(), Sidecar(path)
    with running(options={"path": path}, app=body_app(gated.make), log=[]) as server, Slow(server) as client:
        client.send("/body")
        assert gated.closing.wait(10)
        double.stop()
        eventually(lambda: not server._connections._client.attached)
        gated.open.set()
        assert client.receive().text == BODY
        assert client.at_end()


def test_a_lease_that_is_taken_back_meanwhile_does_not_reach_the_client(fake):
    gated = Gated()
    with running(options={"path": fake.path}, app=body_app(gated.make)) as server, Slow(server) as client:
        client.send("/body")
        assert gated.closing.wait(10)
        fake.take_back()
        gated.open.set()
        with Client(server) as other:
            assert other.get().text == b"hello"
        eventually(lambda: server._connections.room.taken == 0)


def test_statistics_count_what_the_sidecar_sends(options):
    with running(options=options, app=body_app(as_list)) as server, Slow(server) as client:
        server.stats["Enabled"] = True
        client.send("/body")
        assert client.receive().text == BODY

        def written():
            return sum(worker["Bytes Written"](worker) for worker in server.stats["Worker Threads"].values())

        eventually(lambda: written() > len(BODY))
        assert written() < len(BODY) + 1000


def test_the_server_gets_its_gateway_back(options):
    with running(options=options) as server, Client(server) as client:
        stock = type(server)(("127.0.0.1", 0), None).gateway
        client.get()
        assert server.gateway is not stock
    assert server.gateway is stock


def test_what_was_put_aside_is_sent_before_a_socket_is_detached(fake):
    taken = []

    class Hijacked(HTTPServer.ConnectionClass):
        def communicate(self):
            super().communicate()
            self.linger = True
            taken.append(self.socket)
            return False

    def configure(server):
        server.ConnectionClass = Hijacked

    with running(options={"path": fake.path}, configure=configure, app=body_app(as_list)) as server, Slow(server) as client:
        client.send("/body")
        assert client.receive().text == BODY
        eventually(lambda: fake.counts["DETACH"] == 1)
        with taken.pop() as sock:
            assert sock.room is None
            sock.sendall(b"pong")
            assert client.sock.recv(10) == b"pong"
