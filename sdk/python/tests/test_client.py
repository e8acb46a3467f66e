"""The client against the sidecar's double: attaching, leases and their answers, leaving, coming back."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

import anteroom
from anteroom import errors
from anteroom.backoff import Backoff
from anteroom.events import Welcome
from anteroom.frame import Flag, ForgetReason, Frame, Type
from anteroom.link import Link
from anteroom.session import Hello, Session
from conftest import eventually, no_descriptor_left
from sidecar import Sidecar, reset


def serve(lease):
    """Answer one request, whatever it is, with its number among the connection's leases."""
    with lease.socket() as sock:
        sock.settimeout(5)
        sock.recv(1000)
        sock.sendall(b"%d" % lease.seq)
        lease.put(keep_alive=30)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@contextlib.contextmanager
def serving(client, handle=serve):
    """A thread that serves the client's leases until it has left."""
    threads = []

    def run():
        for lease in client.leases():
            threads.append(threading.Thread(target=handle, args=(lease,)))
            threads[-1].start()

    runner = threading.Thread(target=run)
    runner.start()
    try:
        yield
    finally:
        client.drain()
        for thread in [runner, *threads]:
            thread.join(10)
            assert not thread.is_alive()


def connect(listener):
    sock = socket.create_connection(listener.getsockname())
    sock.settimeout(10)
    return sock


def ask(sock):
    sock.sendall(b"?")
    return sock.recv(100)


def events_until(client, kind, timeout=10.0):
    """Turn the client until it tells of an event of that kind; returns all, that one last."""
    seen, deadline = [], time.monotonic() + timeout
    while time.monotonic() < deadline:
        for event in client.wait(0.1):
            seen.append(event)
            if isinstance(event, kind):
                return seen
    raise AssertionError(f"no {kind} came, only {seen}")


def next_event(client, kind):
    return events_until(client, kind)[-1]


# Where the sidecar is, and what is wrong if it cannot be reached.


def test_the_argument_wins_over_the_environment(fake, monkeypatch, tmp_path):
    monkeypatch.setenv("ANTEROOM_HANDOFF", fake.path)
    monkeypatch.setenv("ANTEROOM_POOL", "blue")
    monkeypatch.setenv("ANTEROOM_NAME", "web-7")
    with anteroom.Client() as client:
        assert client.attached
    with anteroom.Client(name="web-8", pool=""):
        pass
    assert [(hello["name"], hello["pool"]) for hello in fake.hellos] == [("web-7", "blue"), ("web-8", "")]
    with pytest.raises(errors.SocketMissing, match="Start the sidecar"):
        with anteroom.Client(str(tmp_path / "none.sock")):
            pass


def test_an_address_as_the_sidecar_writes_it(fake, monkeypatch):
    with anteroom.Client(f"unix://{fake.path}") as client:
        assert client.path == fake.path and client.attached
    monkeypatch.setenv("ANTEROOM_HANDOFF", f"unix://{fake.path}")
    with anteroom.Client() as client:
        assert client.path == fake.path and client.attached


@pytest.mark.parametrize("path", ["relative.sock", "unix://relative.sock", "/unix:///a.sock"])
def test_all_else_is_a_path_as_it_stands(path):
    with contextlib.closing(anteroom.Client(path)) as client:
        assert client.path == path


def test_without_either_the_default_path_is_used(monkeypatch):
    monkeypatch.delenv("ANTEROOM_HANDOFF", raising=False)
    client = anteroom.Client()
    assert client.path == "/run/anteroom/handoff.sock"
    client.close()


def test_a_socket_that_nobody_serves(path):
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(path)
    with pytest.raises(errors.NobodyListens, match="Is the sidecar running"):
        anteroom.Client(path).connect()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not")
def test_no_permission(fake, tmp_path):
    os.chmod(fake.path, stat.S_IRUSR | stat.S_IWUSR)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for parent in tmp_path.parents:
                if os.stat(parent).st_uid == 0 and parent != parent.parent and str(parent) != "/tmp":
                    os.chmod(parent, 0o755)
            os.chmod(tmp_path, 0o755)
            os.setuid(65534)
            anteroom.Client(fake.path).connect()
        except errors.NoPermission as why:
            code = 0 if "handoff-allow-uid" in str(why) and "handoff-allow-gid" in str(why) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_refusal_says_why(path):
    """A peer that answers HELLO with REFUSE."""
    with socket.socket(socket.AF_UNIX) as sidecar:
        sidecar.bind(path)
        sidecar.listen()
        client = anteroom.Client(path)
        assert client.turn() == []
        with sidecar.accept()[0] as peer:
            peer.recv(1000)
            peer.sendall(Frame(Type.REFUSE, a=14, payload=b"uid 5 is not allowed").encode())
            with pytest.raises(errors.Refused, match=r"NOT_ALLOWED: uid 5 is not allowed\.$") as caught:
                client.connect()
        assert caught.value.code == anteroom.Code.NOT_ALLOWED
        client.close()


def test_a_refusal_before_hello_is_read_says_why(fake, monkeypatch):
    fake.refusal = "uid 5 is not allowed"
    connect = Link.open

    def connect_and_be_refused(path, on_blocked):
        link = connect(path, on_blocked)
        eventually(lambda: fake.counts["refused"])  # so that sending HELLO fails
        return link

    monkeypatch.setattr(Link, "open", connect_and_be_refused)
    with contextlib.closing(anteroom.Client(fake.path)) as client:
        with pytest.raises(errors.Refused, match="NOT_ALLOWED: uid 5 is not allowed"):
            client.connect()


ERROR = Frame(Type.ERROR, a=13, payload=b"1 MiB waits").encode()


@pytest.mark.parametrize("before", [b"", Frame(Type.PING).encode()], ids=["nothing", "what is to be answered"])
@pytest.mark.parametrize("waits", [False, True], ids=["nothing waits", "frames wait"])
def test_a_sidecar_that_has_hung_up_said_why(path, before, waits):
    ours, theirs = socket.socketpair()
    with contextlib.closing(anteroom.Client(path)) as client, contextlib.closing(Link(ours)) as link:
        client._session = Session(link, Hello("", "", 1, (), ""), client.waker.wake)
        while waits and not link.wants_write:
            link.send(Frame(Type.PUT).encode())
        theirs.sendall(before + ERROR)
        theirs.close()
        detached = next_event(client, anteroom.Detached)
        assert str(detached.error) == "TOO_SLOW: 1 MiB waits."


def test_why_a_sidecar_has_hung_up_is_not_lost_where_a_lease_was_looked_for(path):
    ours, theirs = socket.socketpair()
    with contextlib.closing(anteroom.Client(path)) as client:
        client._session = session = Session(Link(ours), Hello("", "", 1, (), ""), client.waker.wake)
        session.welcome = Welcome()
        theirs.sendall(ERROR)
        theirs.close()
        assert [client.take() for _ in range(2)] == [None, None]  # the header, and the sentence
        detached = next_event(client, anteroom.Detached)
        assert str(detached.error) == "TOO_SLOW: 1 MiB waits."


def test_a_sidecar_that_does_not_answer(path):
    with socket.socket(socket.AF_UNIX) as sidecar:
        sidecar.bind(path)
        sidecar.listen()
        with contextlib.closing(anteroom.Client(path)) as client:
            with pytest.raises(errors.NobodyListens, match="did not answer"):
                client.connect(timeout=0.05)


@pytest.mark.parametrize("wrong", [dict(name="a b"), dict(name="x" * 65), dict(pool="ü"), dict(capacity=0), dict(capacity=4097), dict(features=["cash"])])
def test_what_the_protocol_does_not_allow_is_said_at_once(path, wrong):
    with pytest.raises(ValueError, match="must be"):
        anteroom.Client(path, **wrong)


def test_unknown_options_are_mistakes(path):
    with pytest.raises(TypeError, match="capasity"):
        anteroom.Client(path, capasity=4)


# The pool.


@pytest.mark.parametrize(
    "variable, argument, brings, pool",
    [
        (None, None, False, "default"),
        ("", None, False, "default"),
        ("web", None, False, "web"),
        ("web", "api", False, "api"),
        ("web", "", False, ""),
        (None, None, True, ""),
        ("", None, True, ""),
        ("web", None, True, "web"),
        ("web", "api", True, "api"),
        (None, "default", True, "default"),
    ],
)
def test_who_serves_what_the_sidecar_listens_on_is_in_the_default_pool(fake, listener, monkeypatch, variable, argument, brings, pool):
    monkeypatch.delenv("ANTEROOM_POOL", raising=False)
    if variable is not None:
        monkeypatch.setenv("ANTEROOM_POOL", variable)
    client = anteroom.Client(fake.path, pool=argument)
    if brings:
        client.listen(listener)
    with client:
        assert client.pool == pool
        if brings:
            next_event(client, anteroom.Listening)
    assert fake.hellos[0]["pool"] == pool


def test_a_private_pool_stays_private_over_a_reconnect(path, listener):
    double = Sidecar(path)
    with contextlib.closing(anteroom.Client(path)) as client:
        client.listen(listener)
        client.connect()
        double.stop()
        double = Sidecar(path)
        try:
            next_event(client, anteroom.Attached)
            assert double.hellos[0]["pool"] == ""
        finally:
            double.stop()


def test_what_a_program_brings_does_not_go_to_the_default_pool_unnoticed(fake, listener, monkeypatch):
    monkeypatch.delenv("ANTEROOM_POOL", raising=False)
    with anteroom.Client(fake.path) as client:
        with pytest.raises(ValueError, match='pool="web"'):
            client.listen(listener)
        with pytest.raises(ValueError, match='pool=""'):
            client.adopt(listener)
    assert fake.listeners() == 0
    with anteroom.Client(fake.path, pool="default") as client:
        client.listen(listener)
        next_event(client, anteroom.Listening)


# Leases.


def test_a_connection_is_leased_again_and_again(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="", capacity=2) as client:
        client.listen(listener, name="test")
        with serving(client), connect(listener) as sock:
            assert [ask(sock) for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]


def test_leases_say_what_they_are(fake, listener):
    with anteroom.Client(fake.path, pool="") as client:
        client.listen(listener)
        next_event(client, anteroom.Listening)
        with connect(listener) as sock:
            sock.sendall(b"?")
            first = next_event(client, anteroom.Lease)
            assert (first.fresh, first.last, first.silent, first.peer) == (True, False, False, None)
            first.put()
            second = next_event(client, anteroom.Lease)
            assert second.conn == first.conn and second.seq == first.seq + 1 and not second.fresh
            assert second.close()


def test_a_lease_that_comes_together_with_the_welcome_is_not_lost(fake, listener):
    fake.listen(listener, pool="default")
    with connect(listener) as sock:
        sock.sendall(b"?")
        eventually(lambda: fake.states()["ready"])
        with anteroom.Client(fake.path, pool="default") as client, serving(client):
            assert sock.recv(10) == b"1"


def test_the_lengths_and_the_clients_address_are_read_off_the_lease(path):
    with socket.socket(socket.AF_UNIX) as sidecar:
        sidecar.bind(path)
        sidecar.listen()
        client = anteroom.Client(path, pool="")
        client.turn()
        with sidecar.accept()[0] as peer:
            peer.sendall(Frame(Type.WELCOME, a=1, payload=b'{"capacity":3,"new":"x"}').encode())
            assert next_event(client, anteroom.Attached).welcome.capacity == 3
            peer.sendall(Frame(Type.LEASE, Flag.LAST, 1, 9, 1234 << 32 | 234, 1500000, b'{"peer":"[2001:db8::1]:40000"}').encode())
            lease = next_event(client, anteroom.Lease)
            assert (lease.head_length, lease.request_length, lease.waited, lease.last) == (234, 1234, 1.5, True)
            assert lease.peer == "[2001:db8::1]:40000"
            lease.nack()
        client.close()


def leased(client, listener):
    client.listen(listener)
    next_event(client, anteroom.Listening)
    sock = connect(listener)
    sock.sendall(b"?")
    return sock, next_event(client, anteroom.Lease)


def test_close_ends_the_connection_properly(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="") as client:
        sock, lease = leased(client, listener)
        with sock, lease.socket() as ours:
            ours.send(b"bye")  # with a byte unread: closing without care would reset
            assert lease.close(anteroom.CloseReason.APP)
            assert sock.recv(10) == b"bye" and sock.recv(10) == b""


def test_detach_leaves_the_connection_to_the_host(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="", capacity=1) as client:
        sock, lease = leased(client, listener)
        with sock, lease.socket() as ours, connect(listener) as other:
            assert lease.detach()
            other.sendall(b"?")
            next_event(client, anteroom.Lease).close()  # the capacity is free
            assert ours.recv(10) == b"?"
            ours.send(b"still here")
            assert sock.recv(10) == b"still here"
            ours.close()  # the sidecar has no copy: this alone ends it
            assert sock.recv(10) == b""


def test_nack_leases_it_again(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="") as client:
        sock, lease = leased(client, listener)
        with sock:
            assert lease.nack()
            again = next_event(client, anteroom.Lease)
            assert (again.conn, again.seq) == (lease.conn, lease.seq + 1)
            again.close()


def test_only_the_first_answer_counts(fake, listener):
    with anteroom.Client(fake.path, pool="") as client:
        sock, lease = leased(client, listener)
        with sock:
            assert lease.put()
            assert lease.over
            assert not lease.put() and not lease.close() and not lease.detach() and not lease.nack()
            next_event(client, anteroom.Lease).close()
            eventually(lambda: fake.counts["CLOSE"])
        assert (fake.counts["PUT"], fake.counts["CLOSE"], fake.counts["late answers"]) == (1, 1, 0)


def test_a_lease_that_is_dropped_is_closed(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="") as client:
        sock, lease = leased(client, listener)
        with sock:
            del lease
            client.wait(1)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(10) == b""


def test_the_capacity_is_kept_to_and_can_change(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="", capacity=1) as client, contextlib.ExitStack() as clients:
        client.listen(listener)
        next_event(client, anteroom.Listening)
        for _ in range(3):
            clients.enter_context(connect(listener)).sendall(b"?")
        first = next_event(client, anteroom.Lease)
        assert client.wait(0.05) == []
        client.set_capacity(2)
        second = next_event(client, anteroom.Lease)
        client.set_capacity(0)
        first.close()
        second.close()
        assert client.wait(0.05) == []
        client.set_capacity(1)
        next_event(client, anteroom.Lease).close()


def test_a_lease_is_taken_back(fake, listener):
    with anteroom.Client(fake.path, pool="") as client:
        sock, lease = leased(client, listener)
        with sock:
            fake.take_back()
            forgotten = next_event(client, anteroom.Forgotten)
            assert forgotten.lease is lease and forgotten.reason == ForgetReason.OPERATOR
            assert not lease.put()


def test_tracked_connections_are_told_of(fake, listener):
    with anteroom.Client(fake.path, pool="", features=["track"]) as client:
        assert client.has("track") and not client.has("cache")
        sock, lease = leased(client, listener)
        with lease.socket() as ours:
            ours.recv(1)
            lease.put(keep_alive=0.01)
        forgotten = next_event(client, anteroom.Forgotten)
        assert (forgotten.conn, forgotten.reason, forgotten.lease) == (lease.conn, ForgetReason.EXPIRED, None)
        assert sock.recv(1) == b""
        sock.close()


def test_cached_connections_come_without_descriptor(fake, listener):
    with anteroom.Client(fake.path, pool="", features=["cache"]) as client:
        sock, lease = leased(client, listener)
        with sock, lease.socket() as ours:
            ours.recv(1)
            lease.put()
            sock.sendall(b"!")
            again = next_event(client, anteroom.Lease)
            assert not again.has_descriptor
            assert ours.recv(1) == b"!"
            again.put()
            client.drop(again.conn)
            sock.sendall(b"!")
            third = next_event(client, anteroom.Lease)
            assert third.has_descriptor
            third.close()


def test_adopt(fake, listener):
    with anteroom.Client(fake.path, pool="") as client, connect(listener) as sock:
        ours, _ = listener.accept()
        with ours:
            tag = client.adopt(ours, keep_alive=5)
        adopted = next_event(client, anteroom.Adopted)
        assert adopted.tag == tag
        sock.sendall(b"?")
        lease = next_event(client, anteroom.Lease)
        assert lease.conn == adopted.conn
        lease.close()


def test_many_threads_answer_at_once(sidecar, listener):
    def client_thread(results):
        with connect(listener) as sock:
            results.append([ask(sock) for _ in range(50)])

    results = []
    with anteroom.Client(sidecar.path, pool="", capacity=8) as client:
        client.listen(listener)
        with serving(client):
            threads = [threading.Thread(target=client_thread, args=(results,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
    assert results == [[b"%d" % n for n in range(1, 51)]] * 8


# Listening sockets.


def test_a_silent_client_is_leased_if_asked_for(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="") as client:
        client.listen(listener, silent="lease", first_byte_timeout=0.05)
        next_event(client, anteroom.Listening)
        with connect(listener):
            lease = next_event(client, anteroom.Lease)
            assert lease.silent and lease.fresh
            lease.close(anteroom.CloseReason.TOO_SLOW)


def test_closing_the_listener_closes_the_sidecars_copy(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="") as client:
        ours = client.listen(listener)
        next_event(client, anteroom.Listening)
        number = ours.id
        ours.close()
        assert next_event(client, anteroom.Unlistened).listener == number
        address = listener.getsockname()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_a_listener_closed_before_the_sidecar_answered(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="") as client:
        client.listen(listener).close()
        assert isinstance(events_until(client, anteroom.Unlistened)[0], anteroom.Listening)


def test_what_came_together_outlives_the_loop_that_took_the_first(path):
    ours, theirs = socket.socketpair()
    with theirs, contextlib.closing(anteroom.Client(path)) as client:
        client._session = Session(Link(ours), Hello("", "", 1, (), ""), client.waker.wake)
        theirs.send(b"".join(Frame(Type.FORGET, conn=conn).encode() for conn in (1, 2)))
        assert [next(client.events()).conn for _ in range(2)] == [1, 2]


def test_a_denied_listener_is_offered_again(path, listener):
    fake = Sidecar(path, deny_listen=True)
    try:
        with anteroom.Client(path, pool="") as client:
            ours = client.listen(listener)
            denied = next_event(client, anteroom.Turned)
            assert denied.error.code == anteroom.Code.AT_LIMIT and "no listener more" in str(denied.error)
            assert ours.id is None
            fake.deny_listen = False
            next_event(client, anteroom.Listening)
    finally:
        fake.stop()


def test_a_listener_for_which_no_descriptor_was_left_is_offered_again(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="") as client:
        with no_descriptor_left():
            ours = client.listen(listener)
        next_event(client, anteroom.Listening)
        assert ours.id is not None


# Leaving and coming back.


def test_the_last_answer_of_several_hangs_up(sidecar, listener):
    """An answer that is still to be sent keeps the link, though no lease is out any more."""
    with anteroom.Client(sidecar.path, pool="", capacity=2) as client, contextlib.ExitStack() as stack:
        client.listen(listener)
        for _ in range(2):
            stack.enter_context(connect(listener)).sendall(b"?")
        leases = []
        while len(leases) < 2:
            leases += [event for event in client.wait(1) if isinstance(event, anteroom.Lease)]
        session = client._session
        client.drain()
        while not client.left:
            client.wait(1)
        assert session.finish(leases[0])
        assert leases[1].close()
        assert not session.over
        session.answered()
        assert session.over


def test_drain_finishes_what_is_out(sidecar, listener):
    release = threading.Event()

    def slow(lease):
        release.wait(10)
        serve(lease)

    with anteroom.Client(sidecar.path, pool="") as client:
        client.listen(listener)
        with connect(listener) as sock:
            with serving(client, slow):
                sock.sendall(b"?")
                eventually(lambda: not client.left and client._session._leases)
                client.drain()
                eventually(lambda: client.left)
                release.set()
                assert sock.recv(10) == b"1"
            assert sock.recv(10) == b""  # its pool was private and ended with it
        assert not client.attached


def test_the_sidecar_asks_the_host_to_leave(fake, listener):
    with anteroom.Client(fake.path, pool="") as client:
        client.listen(listener)
        next_event(client, anteroom.Listening)
        fake.ask_to_leave()
        seen = events_until(client, anteroom.Listening)
        assert [type(event).__name__ for event in seen] == ["Draining", "Unlistened", "Draining", "Detached", "Attached", "Listening"]
    assert fake.counts["HELLO"] == 2


def test_a_lost_sidecar_is_found_again_and_gets_the_listener_again(path, listener):
    first = Sidecar(path)
    with anteroom.Client(path, pool="") as client:
        client.listen(listener)
        sock, lease = leased(client, listener)
        with sock:
            first.stop()
            lost = next_event(client, anteroom.Detached)
            assert isinstance(lost.error, errors.LinkLost) and lost.retry_in <= 0.05
            assert lease.over and not lease.put()
        assert isinstance(next_event(client, anteroom.Detached).error, errors.SocketMissing)
        second = Sidecar(path)
        try:
            next_event(client, anteroom.Listening)
            with serving(client), connect(listener) as sock:
                assert ask(sock) == b"1"
        finally:
            client.close()
            second.stop()


def test_delays_double_up_to_a_limit_and_differ():
    backoff = Backoff(first=0.05, most=2)
    delays = [backoff.delay() for _ in range(20)]
    for number, delay in enumerate(delays):
        wanted = min(0.05 * 2**number, 2)
        assert wanted / 2 <= delay <= wanted
    assert len(set(delays)) > 10
    backoff.reset()
    assert backoff.delay() <= 0.05


def test_nothing_is_inherited_by_a_program_that_is_executed(fake, listener):
    with anteroom.Client(fake.path, pool="") as client:
        sock, lease = leased(client, listener)
        with sock:
            listed = subprocess.run(
                [sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))"],
                close_fds=False,
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
            inherited = {int(fd) for fd in listed.split()}
            assert inherited & {client.fileno(), lease._fd, *open_pipe(client)} == set()
            lease.close()


def open_pipe(client):
    return client.waker._read, client.waker._write


def test_a_forked_child_attaches_for_itself(fake):
    with anteroom.Client(fake.path, pool="") as client:
        child = os.fork()
        if child == 0:
            seen = [type(event).__name__ for event in events_until(client, anteroom.Attached)]
            os._exit(0 if seen == ["Detached", "Attached"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.turn() == [] and client.attached


def test_a_reset_client_does_not_disturb(sidecar, listener):
    with anteroom.Client(sidecar.path, pool="", capacity=2) as client:
        client.listen(listener)
        with serving(client):
            reset(connect(listener))
            with connect(listener) as sock:
                assert ask(sock) == b"1"


def test_a_drain_in_the_midst_of_connecting_is_not_lost(fake, monkeypatch):
    """As a signal handler may say it."""
    client = anteroom.Client(fake.path, pool="default")
    connect = Link.open

    def interrupted(*args, **how):
        link = connect(*args, **how)
        client.drain()
        return link

    monkeypatch.setattr(Link, "open", interrupted)
    assert list(client.leases()) == []
    client.close()


def test_a_free_thread_takes_what_has_come_and_no_more(fake, listener):
    """A second thread may take leases one by one; what is no lease, and what is behind it, is left to ``turn``."""
    with anteroom.Client(fake.path, pool="", capacity=2) as client:
        client.listen(listener)
        while not any(isinstance(event, anteroom.Listening) for event in client.wait(5)):
            pass
        with connect(listener) as one, connect(listener) as other:
            for sock in (one, other):
                sock.sendall(b"x")
            taken = []

            def take():
                lease = client.take()
                if lease is not None:
                    taken.append(lease)
                return len(taken) == 2

            thread = threading.Thread(target=lambda: eventually(take))
            thread.start()
            thread.join()
            assert client.taken == 2
            assert client.take(behind=["something"]) is None
            for lease in taken:
                with lease.socket() as sock:
                    assert sock.recv(10) == b"x"
                    assert lease.put()
