"""Responses that are files: ``wsgi.file_wrapper`` and X-Sendfile."""

import io
import os

import pytest

from anteroom.sendfile import SendFile
from conftest import eventually
from servers import Client, running
from test_finish import BODY, Slow


@pytest.fixture
def options(sidecar):
    return {"path": sidecar.path}


@pytest.fixture
def root(tmp_path):
    """A directory with files, and a secret beside it."""
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "body").write_bytes(BODY)
    (folder / "sub" / "small").write_bytes(b"small file")
    (folder / "empty").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "escape").symlink_to(tmp_path / "secret")
    (folder / "within").symlink_to(folder / "sub" / "small")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "fifo")
    return folder


# wsgi.file_wrapper.


def wrapper_app(open_file, headers=(), status="200 OK"):
    def app(environ, start_response):
        if environ["PATH_INFO"] != "/body":
            start_response("200 OK", [("Content-Length", "5")])
            return [b"hello"]
        start_response(status, list(headers))
        return environ["wsgi.file_wrapper"](open_file())

    return app


def from_byte_10(path):
    file = open(path, "rb")
    file.seek(10)
    return file


def test_a_file_is_sent_by_the_sidecar(options, root):
    app = wrapper_app(lambda: open(root / "body", "rb"))
    with running(options=options, numthreads=1, app=app) as server, Slow(server) as slow, Client(server) as quick:
        slow.send("/body")
        assert quick.get().text == b"hello"
        response = slow.receive()
        assert (response.text, response.headers["Content-Length"]) == (BODY, str(len(BODY)))
        assert slow.get().text == b"hello"


def test_a_file_costs_no_memory(fake, root):
    app = wrapper_app(lambda: open(root / "body", "rb"))
    with running(options={"path": fake.path}, app=app) as server, Slow(server) as slow:
        slow.send("/body")
        assert eventually(lambda: fake.counts["finished bytes"]) <= len(BODY)
        assert server._connections.room.taken == 0
        slow.receive()


@pytest.mark.parametrize("length", [None, 1_000_000])
def test_a_part_of_a_file(options, root, length):
    wanted = BODY[10:][:length]
    headers = [] if length is None else [("Content-Length", str(length)), ("Content-Range", "bytes 10-1000009/99")]
    with running(options=options, app=wrapper_app(lambda: from_byte_10(root / "body"), headers)) as server, Client(server) as client:
        for _ in range(2):
            assert client.get("/body").text == wanted


@pytest.mark.parametrize("what", ["no real file", "an empty file", "a file that is too short", "HEAD", "304"])
def test_what_is_sent_block_by_block_or_not_at_all(options, root, what):
    headers = {"no real file": [], "an empty file": [], "a file that is too short": [("Content-Length", "11")]}.get(what, [])
    opener = {"no real file": lambda: io.BytesIO(b"small file"), "an empty file": lambda: open(root / "empty", "rb")}
    status = "304 Not Modified" if what == "304" else "200 OK"
    app = wrapper_app(opener.get(what, lambda: open(root / "sub" / "small", "rb")), headers, status)
    with running(options=options, app=app) as server, Client(server) as client:
        if what == "a file that is too short":
            client.send("/body")
            assert client.sock.recv(1000).endswith((b"\r\n\r\n", b"small file"))
            return
        method = "HEAD" if what == "HEAD" else "GET"
        client.send("/body", method)
        assert client.receive(method).text == (b"small file" if what == "no real file" else b"")
        assert client.get().text == b"hello"


def test_a_middleware_sees_the_blocks(options, root):
    inner = wrapper_app(lambda: open(root / "sub" / "small", "rb"))

    def shout(environ, start_response):
        blocks = inner(environ, start_response)
        yield from (block.upper() for block in blocks)
        blocks.close()

    with running(options=options, app=shout) as server, Client(server) as client:
        assert client.get("/body").text == b"SMALL FILE"


# X-Sendfile.


def sendfile_app(path, headers=(), late=False):
    """Says X-Sendfile in the response to /body; ``late``: only when it is iterated over."""

    def answer(environ, start_response):
        if environ["PATH_INFO"] != "/body":
            start_response("200 OK", [("Content-Length", "5")])
            yield b"hello"
        else:
            start_response("200 OK", [("Content-Type", "image/png"), ("X-Sendfile", str(path)), ("Content-Length", "6"), *headers])
            yield b"unused"

    return answer if late else lambda *request: list(answer(*request))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["{root}/sub/small", "sub/small", "within", "{root}/sub/../sub/small"])
def test_x_sendfile(options, root, name, late):
    app = sendfile_app(name.format(root=root), [("X-Other", "kept")], late)
    with running(options=dict(options, sendfile_root=str(root)), app=app) as server, Client(server) as client:
        for _ in range(2):
            response = client.get("/body")
            assert (response.text, response.headers["Content-Type"], response.headers["X-Other"]) == (b"small file", "image/png", "kept")
            assert response.headers["X-Sendfile"] is None
        client.send("/body", "HEAD")
        assert client.receive("HEAD").headers["Content-Length"] == "10"
        assert client.get().text == b"hello"


def test_a_large_file_by_x_sendfile_costs_no_thread(options, root):
    options = dict(options, sendfile_root=str(root))
    with running(options=options, numthreads=1, app=sendfile_app("body")) as server, Slow(server) as slow, Client(server) as quick:
        slow.send("/body")
        assert quick.get().text == b"hello"
        assert slow.receive().text == BODY


@pytest.mark.parametrize(
    "name, status",
    [
        ("missing", 404),
        ("sub/small/below", 404),
        ("../secret", 500),
        ("{root}/../secret", 500),
        ("{root}beside", 500),
        ("escape", 500),
        ("/etc/passwd", 500),
        ("loop", 500),
        ("fifo", 500),
        ("sub", 500),
        ("nul\0", 500),
        ("", 500),
    ],
)
def test_what_is_not_sent(options, root, name, status, capfd):
    name = name.format(root=root)
    with running(options=dict(options, sendfile_root=str(root)), app=sendfile_app(name)) as server, Client(server) as client:
        response = client.get("/body")
        assert (response.status, response.headers["X-Sendfile"]) == (status, None)
        assert b"secret" not in response.text and b"unused" not in response.text
        assert client.get().text == b"hello"
    assert "X-Sendfile" in capfd.readouterr().err


def test_it_is_off_unless_asked_for(options, root):
    with running(options=options, app=sendfile_app("body")) as server, Client(server) as client:
        assert client.get("/body").text == b"unused"


def test_the_root_may_come_from_the_environment(options, root, monkeypatch):
    monkeypatch.setenv("ANTEROOM_SENDFILE_ROOT", str(root))
    with running(options=options, app=sendfile_app("sub/small")) as server, Client(server) as client:
        assert client.get("/body").text == b"small file"


def test_a_root_that_is_no_directory_is_said_at_once(root):
    with pytest.raises(ValueError, match="no directory"):
        SendFile(None, str(root / "body"))
