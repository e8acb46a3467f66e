"""Requests are read as RFC 9112 has them; what could be understood in two ways is refused."""

import io
import socket
import threading

import pytest

from anteroom import http1

HOST = b"Host: test\r\n"


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield ours, theirs


@pytest.fixture
def read(pair):
    """Returns what reads the next request out of some bytes, after which the client has ended."""
    ours, theirs = pair

    def read(data):
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        return http1.read_request(http1.Stream(ours, timeout=10))

    return read


def post(fields, body):
    return b"POST / HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


@pytest.mark.parametrize(
    ("head", "path", "query", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST, "/", "", True),
        (b"GET /a%20b%C3%A9?c=d%20e&? HTTP/1.1\r\n" + HOST, "/a b\xc3\xa9", "c=d%20e&?", True),
        (b"GET //x HTTP/1.1\r\n" + HOST, "//x", "", True),
        (b"GET http://other/x?y HTTP/1.1\r\n" + HOST, "/x", "y", True),
        (b"GET http://other?y HTTP/1.1\r\n" + HOST, "/", "y", True),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST, "*", "", True),
        (b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST, "/", "", True),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Close\r\n", "/", "", False),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: x\r\nconnection: y , close\r\n", "/", "", False),
        (b"GET / HTTP/1.0\r\n", "/", "", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", "/", "", True),
        (b"GET / HTTP/1.9\r\n" + HOST, "/", "", True),
    ],
)
def test_a_head(read, head, path, query, keep_alive):
    request = read(head + b"\r\n")
    assert (request.path, request.query, request.keep_alive) == (path, query, keep_alive)
    assert request.body.read() == b""


def test_fields_are_stripped_and_keep_their_order(read):
    request = read(b"GET / HTTP/1.1\r\n" + HOST + b"A:\t b c \t\r\na:\r\nA: \xe9\r\n\r\n")
    assert request.fields == [("Host", "test"), ("A", "b c"), ("a", ""), ("A", "\xe9")]
    assert request.values("a") == ["b c", "", "\xe9"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n" + HOST, 400),
        (b"GET / HTTP/1.1 \r\n" + HOST, 400),
        (b"GET /\x01 HTTP/1.1\r\n" + HOST, 400),
        (b"G(T / HTTP/1.1\r\n" + HOST, 400),
        (b"GET / http/1.1\r\n" + HOST, 400),
        (b"GET x HTTP/1.1\r\n" + HOST, 400),
        (b"GET * HTTP/1.1\r\n" + HOST, 400),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"CONNECT test:80 HTTP/1.1\r\n" + HOST, 501),
        (b"GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST, 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A : b\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\x00\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\rc\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\nc: d\r\n", 400),
        (b"GET / HTTP/1.1\n" + HOST, 400),
        (b"GET / HTTP/1.1\nHost: test\n\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: \r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: \x0bchunked\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n", 501),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Expect: 200-ok\r\n", 417),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * http1.MAX_FIELDS, 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * http1.MAX_HEAD + b"\r\n", 431),
    ],
)
def test_what_is_refused(read, data, status):
    with pytest.raises(http1.BadRequest) as caught:
        read(data + b"\r\n")
    assert caught.value.status == status


@pytest.mark.parametrize("data", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: te"])
def test_a_client_that_ends_has_asked_nothing(read, data):
    assert read(data) is None


def test_a_head_in_drops(pair):
    ours, theirs = pair

    def drip():
        for byte in post(b"Transfer-Encoding: chunked\r\n", b"3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\nGET"):
            theirs.send(bytes([byte]))

    thread = threading.Thread(target=drip)
    thread.start()
    stream = http1.Stream(ours, timeout=10)
    request = http1.read_request(stream)
    assert request.body.read() == b"abc"
    thread.join()
    while len(stream.unread) < 3:
        stream.fill()
    assert stream.unread == b"GET"


def test_a_head_that_does_not_come_in_time(pair):
    ours, theirs = pair
    theirs.sendall(b"GET / HT")
    with pytest.raises(socket.timeout):
        http1.read_request(http1.Stream(ours, timeout=0.01))


CHUNKED = b"Transfer-Encoding: Chunked\r\n"


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        (b"Content-Length: 3\r\n", b"abc", b"abc"),
        (b"Content-Length: 000\r\n", b"", b""),
        (CHUNKED, b"0\r\n\r\n", b""),
        (CHUNKED, b"3\r\nabc\r\n00A;ext=\"1\"\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
        (CHUNKED, b"1\r\na\r\n0\r\nTrailer: x\r\nAnother: y\r\n\r\n", b"a"),
        (CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (200_000, b"x" * 200_000), b"x" * 200_000),
    ],
)
def test_a_body_ends_where_it_ends(pair, fields, body, expected):
    ours, theirs = pair
    sender = threading.Thread(target=theirs.sendall, args=(post(fields, body) + b"NEXT",))
    sender.start()
    stream = http1.Stream(ours, timeout=10)
    request = http1.read_request(stream)
    assert io.BufferedReader(request.body).read() == expected
    sender.join()
    assert stream.unread.endswith(b"NEXT") and len(stream.unread) == 4
    assert request.body.skip()


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (b"Content-Length: 3\r\n", b"ab"),
        (CHUNKED, b"\r\n"),
        (CHUNKED, b"g\r\n"),
        (CHUNKED, b"-1\r\na\r\n"),
        (CHUNKED, b"0x1\r\na\r\n0\r\n\r\n"),
        (CHUNKED, b"1 \r\na\r\n0\r\n\r\n"),
        (CHUNKED, b"1\na\r\n0\r\n\r\n"),
        (CHUNKED, b"1;\na\r\n0\r\n\r\n"),
        (CHUNKED, b"1\r\nab\r\n0\r\n\r\n"),
        (CHUNKED, b"1\r\na0\r\n\r\n"),
        (CHUNKED, b"1111111111111111\r\na\r\n"),
        (CHUNKED, b"1;" + b"x" * http1.MAX_CHUNK_LINE + b"\r\na\r\n0\r\n\r\n"),
        (CHUNKED, b"0\r\nno field\r\n\r\n"),
        (CHUNKED, b"0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"),
        (CHUNKED, b"3\r\nab"),
    ],
)
def test_a_broken_body(read, fields, body):
    request = read(post(fields, body))
    with pytest.raises(http1.BadBody):
        request.body.read()
    assert not request.body.may_be_skipped
    assert not request.body.skip()
    with pytest.raises(http1.BadBody):
        request.body.read(1)


def test_continue_is_said_when_the_body_is_wanted(pair):
    ours, theirs = pair
    theirs.sendall(post(b"Expect: 100-continue\r\nContent-Length: 3\r\n", b""))
    request = http1.read_request(http1.Stream(ours, timeout=10))
    assert not request.body.may_be_skipped  # who knows whether the client will send it
    answer = []

    def client():
        answer.append(theirs.recv(100))
        theirs.sendall(b"abc")

    thread = threading.Thread(target=client)
    thread.start()
    assert request.body.read() == b"abc"
    thread.join()
    assert answer == [b"HTTP/1.1 100 Continue\r\n\r\n"]


def test_continue_is_not_said_after_the_response_has_begun(pair):
    ours, theirs = pair
    theirs.sendall(post(b"Expect: 100-continue\r\nContent-Length: 3\r\n", b"abc"))
    request = http1.read_request(http1.Stream(ours, timeout=10))
    request.body.give_up_continue()
    assert request.body.read() == b"abc"
    ours.shutdown(socket.SHUT_WR)
    assert theirs.recv(100) == b""


def test_what_is_skipped_is_bounded(pair):
    ours, theirs = pair
    theirs.sendall(post(b"Content-Length: 50000\r\n", b"x" * 50_000) + post(b"Content-Length: 70000\r\n", b""))
    stream = http1.Stream(ours, timeout=10)
    assert http1.read_request(stream).body.skip()
    assert not http1.read_request(stream).body.skip()


def test_chunks_without_end_are_not_skipped(pair):
    ours, theirs = pair
    sender = threading.Thread(target=lambda: [theirs.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n") for _ in range(20)])
    theirs.sendall(post(CHUNKED, b""))
    sender.start()
    stream = http1.Stream(ours, timeout=10)
    assert not http1.read_request(stream).body.skip()
    while sender.is_alive():
        stream.unread = b""
        ours.setblocking(False)
        try:
            ours.recv(65536)
        except BlockingIOError:
            pass
    sender.join()
