"""uvicorn behind the double and behind the real sidecar, with each of its HTTP protocols that is installed."""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import socket
import threading

import pytest

pytest.importorskip("uvicorn")

import uvicorn
from conftest import eventually
from servers import Client

import anteroom.asgi
from anteroom.frame import Flag, ForgetReason, Frame, Type

HTTP = [name for name in ("h11", "httptools") if importlib.util.find_spec(name)]


class App:
    """``/NAME`` calls ``self.NAME(scope, receive, send)``."""

    def __init__(self):
        self.gate = threading.Event()
        self.inside = threading.Semaphore(0)
        self.messages = []
        self.scopes = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                self.messages.append(message["type"])
                await send({"type": message["type"] + ".complete"})
            return
        self.scopes.append(scope)
        await getattr(self, scope["path"].strip("/") or "hello")(scope, receive, send)

    async def respond(self, send, body, *headers):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body)), *headers]})
        await send({"type": "http.response.body", "body": body})

    async def hello(self, scope, receive, send):
        await self.respond(send, b"hello")

    async def echo(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        await self.respond(send, body)

    async def unread(self, scope, receive, send):
        await self.respond(send, b"hello")

    async def big(self, scope, receive, send):
        await self.respond(send, b"x" * 8_000_000)

    async def stream(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def hold(self, scope, receive, send):
        self.inside.release()
        await asyncio.get_running_loop().run_in_executor(None, self.gate.wait, 20)
        await self.respond(send, b"hello")

    async def disconnect(self, scope, receive, send):
        self.inside.release()
        message = {"type": "http.request"}
        while message["type"] == "http.request":
            message = await receive()
        self.messages.append(message["type"])

    async def fails(self, scope, receive, send):
        raise RuntimeError("from the app")

    async def socket(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        while message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
            message = await receive()
        self.messages.append(message["type"])


class Running:
    def __init__(self, app, server, address):
        self.app = app
        self.server = server
        self.bind_addr = address

    def stop(self):
        self.server.should_exit = True


@contextlib.contextmanager
def running(sidecar, http=HTTP[0], settings=None, sockets=True, **options):
    """A server in a thread of its own; it brings a listening socket, or serves the pool "default"."""
    app = App()
    config = uvicorn.Config(app, http=http, lifespan="on", loop="asyncio", log_config=None, **(settings or {}))
    attached = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = anteroom.asgi.Server(config, path=sidecar.path, on_attached=attached.set, **options)
        address = sock.getsockname()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock] if sockets else None}, daemon=True)
        if not sockets:
            sidecar.listen(sock)
        thread.start()
        try:
            assert attached.wait(10)
            yield Running(app, server, address)
        finally:
            app.gate.set()
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()
    assert app.messages[0] == "lifespan.startup" and app.messages[-1] == "lifespan.shutdown"


@pytest.fixture(params=HTTP)
def http(request):
    return request.param


@pytest.fixture
def served(sidecar, http):
    with running(sidecar, http) as server:
        yield server


def test_many_requests_on_one_connection(served):
    with Client(served) as client:
        assert [client.get().text for _ in range(20)] == [b"hello"] * 20


@pytest.mark.parametrize(("cache", "descriptors"), [(0, 20), (4, 1)])
def test_it_goes_back_after_each_response(fake, http, cache, descriptors):
    with running(fake, http, cache=cache) as served, Client(served) as client:
        for number in range(1, 21):
            client.get()
            eventually(lambda: fake.counts["PUT"] == number)
        assert (fake.counts["leases"], fake.counts["leases with descriptor"]) == (20, descriptors)
        assert fake.violations == 0
        assert not served.server.server_state.connections


def test_what_is_put_is_not_read(fake, http):
    with running(fake, http) as served, Client(served) as client:
        client.get()
        eventually(lambda: fake.counts["PUT"])
        served.server._client.set_capacity(0)  # nothing is leased, so nobody may read
        eventually(lambda: fake.counts["CAPACITY"])
        client.send()
        eventually(lambda: fake.states()["ready"])
        eventually(lambda: b"GET" in peek(fake))
        served.server._client.set_capacity(1)
        assert client.receive().text == b"hello"


def peek(fake):
    return fake._call(lambda: b"".join(conn.sock.recv(100, socket.MSG_PEEK) for conn in fake._connections.values()))


def test_pipelined_requests_are_answered_in_order_under_one_lease(fake, http):
    with running(fake, http) as served, Client(served) as client:
        request = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\n"
        client.sock.sendall(b"".join(request + b"ab%d" % number for number in range(5)) + b"\r\n")
        assert [client.receive().text for _ in range(5)] == [b"ab%d" % number for number in range(5)]
        eventually(lambda: fake.counts["requests"] == 5)
        assert client.get().text == b"hello"
        assert fake.counts["leases"] in (2, 3)  # the empty line may come as a lease of its own


def test_a_pipelined_request_may_take_longer_than_a_client_may(fake, http):
    with running(fake, http, settings={"timeout_keep_alive": 0.05}) as served, Client(served) as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /hold HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive().text == b"hello"
        assert served.app.inside.acquire(timeout=10)
        threading.Event().wait(0.2)
        served.app.gate.set()
        assert client.receive().text == b"hello"


def test_half_of_a_pipelined_request(fake, http):
    with running(fake, http) as served, Client(served) as client:
        client.sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\nGET / HT")
        assert client.receive().text == b"hello"
        client.sock.sendall(b"TP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive().text == b"hello"
        eventually(lambda: fake.counts["PUT"] == fake.counts["leases"])
        assert fake.counts["requests"] == 2


def test_a_body_that_the_app_does_not_read(served):
    with Client(served) as client:
        client.send("/unread", "POST", ["Content-Length: 6"], b"abc")
        assert client.receive().text == b"hello"
        client.sock.sendall(b"def")
        assert client.get().text == b"hello"


def test_a_chunked_request(served):
    with Client(served) as client:
        client.send("/echo", "POST", ["Transfer-Encoding: chunked"], b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
        assert client.receive().text == b"abcdef"
        assert client.get("/stream").text == b"abcabcabc"


def test_a_big_response_is_in_the_kernel_before_the_connection_is_put(fake, http):
    with running(fake, http) as served, Client(served) as client:
        client.send("/big")
        eventually(lambda: fake.states()["leased"])
        eventually(lambda: served.app.scopes)
        assert fake.counts["PUT"] == 0
        assert client.receive().text == b"x" * 8_000_000
        eventually(lambda: fake.counts["PUT"] == 1)
        assert client.get().text == b"hello"


def test_connection_close(served):
    with Client(served) as client:
        assert client.get(headers=["Connection: close"]).getheader("Connection") == "close"
        assert client.at_end()


def test_no_room_to_keep_a_connection(fake, http):
    fake.last = True
    with running(fake, http) as served, Client(served) as client:
        assert client.get().getheader("Connection") == "close"
        assert client.at_end()


def test_an_app_that_fails(served):
    with Client(served) as client:
        assert client.get("/fails").status == 500
        assert client.at_end()


def test_a_client_that_goes_ends_its_request(served):
    with Client(served) as client:
        client.send("/disconnect")
        assert served.app.inside.acquire(timeout=10)
    eventually(lambda: "http.disconnect" in served.app.messages)


def test_the_clients_address(served):
    with Client(served) as client:
        client.get()
        assert tuple(served.app.scopes[0]["client"]) == client.sock.getsockname()


def test_a_client_that_stops_is_given_up(sidecar, http):
    with running(sidecar, http, settings={"timeout_keep_alive": 0.05}) as served, Client(served) as client:
        client.send("/unread", "POST", ["Content-Length: 6"], b"abc")
        assert client.receive().text == b"hello"
        assert client.at_end()


def test_an_idle_connection_is_not_uvicorns_to_end(fake, http):
    with running(fake, http, settings={"timeout_keep_alive": 0.02}) as served, Client(served) as client:
        for _ in range(3):
            assert client.get().text == b"hello"
            eventually(lambda: fake.states() == {"idle": 1})
            threading.Event().wait(0.1)  # five times what uvicorn would wait
        assert client.get().text == b"hello"


def test_the_least_recently_used_leaves_a_full_cache(fake, http):
    with running(fake, http, cache=1) as served, Client(served) as first, Client(served) as second:
        first.get()
        eventually(lambda: fake.counts["PUT"] == 1)
        second.get()
        eventually(lambda: fake.counts["DROPPED"] == 1)
        assert first.get().text == second.get().text == b"hello"
        assert fake.counts["leases with descriptor"] == 4


def test_a_connection_that_moves_to_another_host(fake, http):
    with running(fake, http, sockets=False) as served, Client(served) as client:
        client.get()
        with running(fake, http, sockets=False):
            served.stop()
            eventually(lambda: fake.hosts() == 1)
            assert client.get().text == b"hello"


def test_what_is_taken_back_ends(fake, http):
    with running(fake, http) as served, Client(served) as client:
        client.send("/disconnect")
        assert served.app.inside.acquire(timeout=10)
        fake.take_back(ForgetReason.OPERATOR)
        eventually(lambda: "http.disconnect" in served.app.messages)
        assert client.at_end()


def test_a_lease_of_nothing_that_is_held(fake, http):
    with running(fake, http):
        fake.tell_hosts(Frame(Type.LEASE, Flag.FRESH, seq=1, conn=77))
        eventually(lambda: fake.counts["NACK"])


def test_what_is_held_is_served_when_the_server_stops(fake, http):
    with running(fake, http, sockets=False) as served, Client(served) as idle, Client(served) as client:
        idle.get()
        client.send("/hold")
        assert served.app.inside.acquire(timeout=10)
        served.stop()
        eventually(lambda: fake.counts["DRAIN"])
        served.app.gate.set()
        assert client.receive().text == b"hello"
        eventually(lambda: fake.hosts() == 0)
        assert fake.states() == {"idle": 2}  # for the pool's next host


def test_a_sidecar_that_dies_is_waited_for(path, http):
    import sidecars

    first = sidecars.start("fake", path)
    with running(first, http) as served:
        with Client(served) as idle, Client(served) as client:
            idle.get()
            client.send("/hold")
            assert served.app.inside.acquire(timeout=10)
            first.stop()
            served.app.gate.set()
            assert client.receive().text == b"hello"
            assert client.at_end() and idle.at_end()
        second = sidecars.start("fake", path)
        with Client(served) as client:
            assert client.get().text == b"hello"
    second.stop()


def test_upgrades_to_something_else_are_not_heeded(sidecar):
    with running(sidecar, "h11") as served, Client(served) as client:
        for fields in (["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"], ["Connection: Upgrade", "Upgrade: echo"]):
            client.send("/echo", "POST", [*fields, "Content-Length: 3"], b"abc")
            assert client.receive().text == b"abc"
        assert "connection" not in dict(served.app.scopes[0]["headers"])


@pytest.mark.parametrize("ws", [name for name in ("websockets", "wsproto") if importlib.util.find_spec(name)])
def test_a_websocket_is_the_servers_for_good(fake, http, ws):
    with running(fake, http, {"ws": ws}) as served, Client(served) as client:
        fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="]
        client.send("/socket", headers=fields)
        assert b" 101 " in client.sock.recv(1000)
        eventually(lambda: fake.counts["DETACH"])
        client.sock.sendall(b"\x81\x83\0\0\0\0abc")
        assert client.sock.recv(100) == b"\x81\x03ABC"
        assert tuple(served.app.scopes[0]["client"]) == client.sock.getsockname()
        assert not fake.states()
        client.sock.sendall(b"\x88\x82\0\0\0\0\x03\xe8")  # without it, uvicorn with wsproto waits for ever when it stops
        assert client.sock.recv(100) == b"\x88\x02\x03\xe8"
    assert "websocket.disconnect" in served.app.messages


def test_a_failing_lifespan_is_said(sidecar):
    async def app(scope, receive, send):
        raise RuntimeError("no database")

    server = anteroom.asgi.Server(uvicorn.Config(app, lifespan="on", loop="asyncio", log_config=None), path=sidecar.path)
    server.run()
    assert not server.started


def test_serve(sidecar):
    app = App()

    async def main():
        serving = asyncio.create_task(anteroom.asgi.serve(app, path=sidecar.path, pool="default", log_config=None))
        while not app.messages:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await serving

    asyncio.run(main())
    assert app.messages == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("sockets, pool", [(True, ""), (False, "default")])
def test_the_pool_of_a_server_that_names_none(fake, monkeypatch, sockets, pool):
    monkeypatch.delenv("ANTEROOM_POOL", raising=False)
    with running(fake, sockets=sockets) as served, Client(served) as client:
        assert client.get().status == 200
    assert fake.hellos[0]["pool"] == pool


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"ssl_certfile": __file__, "ssl_keyfile": __file__}, "does not do TLS"),
        ({"uds": "/tmp/x"}, "uds is '/tmp/x', but the sidecar listens"),
        ({"fd": 0}, "fd is 0, but the sidecar listens"),
        ({"port": 8080}, "port is 8080, but the sidecar listens"),
        ({"host": "0.0.0.0"}, "host is '0.0.0.0', but the sidecar listens"),
    ],
)
def test_settings_that_cannot_be_had_are_mistakes(path, settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        asyncio.run(anteroom.asgi.serve(App(), path=path, log_config=None, **settings))


@pytest.mark.parametrize("options", [{"cash": 1}, {"ssl_certfil": "x"}])
def test_unknown_options_are_mistakes(path, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        asyncio.run(anteroom.asgi.serve(App(), path=path, **options))


def test_a_port_that_means_nothing_is_said(fake, caplog):
    with caplog.at_level("WARNING"), running(fake, settings={"port": 8080}, sockets=False) as served, Client(served) as client:
        assert client.get().status == 200
    assert "host 127.0.0.1 and port 8080 mean nothing here" in caplog.text


def test_a_strange_protocol_is_refused(sidecar):
    config = uvicorn.Config(App(), http=asyncio.Protocol, loop="asyncio", log_config=None)
    with pytest.raises(anteroom.prefork.Unusable, match="none of uvicorn's"):
        anteroom.asgi.Server(config, path=sidecar.path).run()
