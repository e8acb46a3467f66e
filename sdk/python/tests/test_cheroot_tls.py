"""TLS behind the sidecar: the session lives in the server's process, so its connections are sticky and always held there."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import threading

import pytest
from cheroot.server import HTTPRequest
from cheroot.ssl.builtin import BuiltinSSLAdapter

from conftest import eventually
from servers import Client, attached, running
from test_cheroot import has_idle


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def tls(certificate):
    """What makes a server speak TLS, and a client."""
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)
    # The tests below time what one process does for several clients: no session ticket must hide a handshake.
    context.options |= ssl.OP_NO_TICKET

    def configure(server):
        server.ssl_adapter = BuiltinSSLAdapter(cert, key)

    return configure, lambda sock: context.wrap_socket(sock, server_hostname="localhost")


@pytest.fixture
def secure(sidecar, tls):
    """Starts a server that speaks TLS; and what wraps a client's socket."""
    configure, wrap = tls

    def start(**settings):
        return running(options={"path": sidecar.path}, configure=configure, **settings)

    return start, wrap


def test_many_requests_on_one_connection(secure):
    start, wrap = secure
    with start() as server, Client(server, wrap) as client, Client(server, wrap) as other:
        for _ in range(5):
            assert client.get("/scheme").text == b"https"
            assert other.get().text == b"hello"
        has_idle(server, 2)


def test_a_server_that_stops_ends_what_only_it_could_go_on_with(secure):
    start, wrap = secure
    with start() as server, Client(server, wrap) as client:
        assert client.get().text == b"hello"
        has_idle(server, 1)
        server.put_conn = lambda conn: conn.close()
        assert client.get().text == b"hello"
        assert client.at_end()


def test_each_connection_is_shaken_hands_with_once(fake, tls):
    configure, wrap = tls
    with running(options={"path": fake.path}, configure=configure) as server, Client(server, wrap) as client:
        wrapped = []
        adapter = server.ssl_adapter
        original, adapter.wrap = adapter.wrap, lambda sock: (wrapped.append(sock), original(sock))[1]
        for _ in range(3):
            client.get()
        has_idle(server, 1)
        assert len(wrapped) <= 1  # 0: before the test looked
        assert eventually(lambda: fake.counts["PUT"] == 3)
        assert fake.counts["leases with descriptor"] == 1


def test_without_cache_tls_connections_are_held_all_the_same(sidecar, tls):
    configure, wrap = tls
    with running(options={"path": sidecar.path, "cache": 0}, configure=configure) as server, Client(server, wrap) as client:
        for _ in range(3):
            assert client.get().text == b"hello"
        has_idle(server, 1)


def test_a_request_in_the_same_record_behind_the_buffers_end_is_served(secure):
    """cheroot alone looks only into its own buffer of 8192 bytes; the rest stays in the TLS library and is never answered."""
    start, wrap = secure
    with start() as server, Client(server, wrap) as client:
        first = b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: %s\r\n\r\n"
        first %= b"x" * (8192 - len(first) + 2)
        assert len(first) == 8192
        client.sock.sendall(first + b"GET /scheme HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [client.receive().text, client.receive().text] == [b"hello", b"https"]
        has_idle(server, 1)


def test_pipelining(secure):
    start, wrap = secure
    with start() as server, Client(server, wrap) as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        assert [client.receive().text for _ in range(5)] == [b"hello"] * 5
        has_idle(server, 1)


def test_expiry(secure):
    start, wrap = secure
    with start(timeout=0.3) as server, Client(server, wrap) as client:
        client.get()
        assert ends(client)
        has_idle(server, 0)


def test_a_client_that_goes_leaves_the_count(secure):
    start, wrap = secure
    with start() as server, Client(server, wrap) as client:
        client.get()
        has_idle(server, 1)
        client.sock.close()
        has_idle(server, 0)


def test_connection_close(secure):
    start, wrap = secure
    with start() as server, Client(server, wrap) as client:
        assert client.get(headers=("Connection: close",)).text == b"hello"
        assert ends(client)


def ends(client):
    """cheroot says no close_notify; OpenSSL may call that an error."""
    with contextlib.suppress(ssl.SSLEOFError):
        return client.at_end()
    return True


def test_a_slow_handshake_delays_nobody(secure):
    """cheroot alone makes it in the thread that accepts."""
    start, wrap = secure
    with start(numthreads=2, log=[]) as server, Client(server) as slow:  # cheroot 9.0.0 logs that it goes away in the middle
        attached(server)
        slow.sock.sendall(b"\x16\x03\x01")  # the beginning of a ClientHello
        eventually(lambda: server.requests.idle == 1)
        with Client(server, wrap) as client:
            assert client.get().text == b"hello"
            has_idle(server, 1)
        eventually(lambda: server.requests.idle == 1)  # the other is still at it


def test_an_overload_is_answered_after_the_handshake(secure):
    """As later versions of cheroot do it, in a thread for such answers."""
    start, wrap = secure
    answerers = []

    def refuse(conn):
        def answer():
            HTTPRequest(conn.server, conn).simple_response("503 Service Unavailable")
            conn.linger = True
            conn.close()

        answerers.append(threading.Thread(target=answer))
        answerers[-1].start()

    with start() as server:
        server.process_conn = refuse
        with Client(server, wrap) as client:
            assert client.get().status == 503
            assert ends(client)
        answerers[0].join(10)


def test_a_client_that_says_nothing_is_ended_without_a_word(secure):
    start, _ = secure
    with start(timeout=0.2) as server, Client(server) as silent:
        assert silent.at_end()
        assert server.requests.idle == 10


def test_plain_http_is_ended(secure):
    start, wrap = secure
    with start(log=[]) as server, Client(server) as client, Client(server, wrap) as other:
        client.send()
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected, http.client.BadStatusLine)):
            assert client.receive().status == 400  # cheroot 9.0.0 resets; later versions say 400
            raise ConnectionResetError
        assert other.get().text == b"hello"
        eventually(lambda: server.requests.idle == 10)


def test_garbage_is_ended(secure):
    start, wrap = secure
    with start(log=[]) as server, Client(server) as client, Client(server, wrap) as other:
        client.sock.sendall(b"\x16\x03\x01\x00\x05hello" + b"\0" * 100)
        with contextlib.suppress(ConnectionResetError):
            while client.sock.recv(100):
                pass
        assert other.get().text == b"hello"


def test_stop_ends_idle_connections_and_lets_responses_finish(secure):
    start, wrap = secure
    with start() as server, Client(server, wrap) as idle:
        idle.get()
        has_idle(server, 1)
        server.stop()
        assert ends(idle)


def test_a_host_that_goes_takes_its_sticky_connections_along(fake, tls):
    configure, wrap = tls
    options = {"path": fake.path, "pool": "shared"}
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with running(options=options, configure=configure) as server, Client(server, wrap) as client:
            assert client.get().text == b"hello"
            has_idle(server, 1)
            server.stop()
            assert ends(client)
        assert sock.fileno() >= 0


def test_pyopenssl_stays_with_cheroots_own_loop_where_it_wraps_the_listener(sidecar, certificate):
    pyopenssl = pytest.importorskip("cheroot.ssl.pyopenssl")
    def configure(server):
        server.ssl_adapter = pyopenssl.pyOpenSSLAdapter(*certificate)

    context = ssl.create_default_context(cafile=certificate[0])
    with running(options={"path": sidecar.path}, configure=configure, log=[]) as server:
        if hasattr(server.socket, "detach"):
            pytest.skip("this version of cheroot does not wrap it")
        with Client(server, lambda sock: context.wrap_socket(sock, server_hostname="localhost")) as client:
            for _ in range(2):
                assert client.get().text == b"hello"
        eventually(lambda: server.logged)
        assert "wraps the listening socket" in server.logged[0][1]
