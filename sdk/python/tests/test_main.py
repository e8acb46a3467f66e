"""``python -m anteroom`` as a process: a master, its workers, and what they do at signals."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest
from conftest import eventually
from servers import Client

import sidecars
from anteroom import __main__ as main
from anteroom import prefork

HERE = pathlib.Path(__file__).parents[1]
APPS = ["wsgi", "asgi"] if importlib.util.find_spec("uvicorn") else ["wsgi"]

HELLO = """
import os
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%s"]
"""


SIGNALS = """
import signal
import threading
def app(environ, start_response):
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    start_response("200 OK", [])
    return [b"bye"]
"""

SENDFILE = """
def app(environ, start_response):
    start_response("200 OK", [("X-Sendfile", "hello.txt")])
    return []
"""


class Master:
    """A process under test, and clients for it."""

    def __init__(self, sidecar, tmp_path, arguments):
        self.sidecar = sidecar
        self._log = open(tmp_path / "log", "w+b")
        path = os.pathsep.join([str(HERE), str(tmp_path)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "anteroom", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "ANTEROOM_HANDOFF": sidecar.path},
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def client(self):
        return Client(None, address=self.sidecar.address)

    def get(self, path="/"):
        with self.client() as client:
            return client.get(path).text

    def pid(self):
        """A worker's."""
        return int(self.get("/pid"))

    def signal(self, number):
        self.process.send_signal(number)

    def log(self):
        self._log.seek(0)
        return self._log.read().decode()

    def wait(self):
        """The exit status. Nothing was said on stdout."""
        out, _ = self.process.communicate(timeout=20)
        assert out == b""
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            assert self.wait() == 0, self.log()
        self.process.stdout.close()
        self._log.close()


@pytest.fixture(params=sidecars.kinds())
def start(request, path, tmp_path):
    """Starts a master behind a sidecar."""
    started = []

    def start(*arguments):
        if not started:
            started.append(sidecars.start_listening(request.param, path))
        master = Master(started[0], tmp_path, arguments)
        started.append(master)
        return master

    yield start
    for master in started[1:]:
        master.close()
    for sidecar in started[:1]:
        sidecar.stop()


@pytest.fixture(params=APPS)
def app(request):
    return f"conformance_app.{request.param}:application"


def test_the_kind_of_the_app_is_found(start, app):
    master = start(app)
    with master.client() as client:
        assert [client.get().text for _ in range(3)] == [b"hello from python\n"] * 3
    assert master.pid() != master.process.pid
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


def test_without_a_master(start, app):
    master = start(app, "--workers", "0")
    assert master.pid() == master.process.pid
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


def test_a_signal_is_heard_though_it_interrupts_no_wait(start, tmp_path):
    """As one that comes just before the main thread begins to wait."""
    (tmp_path / "signals.py").write_text(SIGNALS)
    master = start("wsgi", "signals:app", "--workers", "0")
    with master.client() as client:
        assert client.get().text == b"bye"
        assert master.wait() == 0


def test_a_killed_worker_is_replaced_and_its_idle_connections_stay(start, app, monkeypatch):
    monkeypatch.setenv("ANTEROOM_CAPACITY", "1")
    master = start(app)
    with master.client() as client:
        client.get()
        first = master.pid()  # on a connection of its own; the thread that answers has put the other one back
        os.kill(first, signal.SIGKILL)
        eventually(lambda: f"worker {first} has ended with SIGKILL" in master.log())
        second = int(client.get("/pid").text)
    assert second != first


@pytest.mark.parametrize("start", sidecars.real(), indirect=True)  # the double leases the request again, to the next worker
def test_a_crash_costs_one_request(start):
    master = start("wsgi", "conformance_app.wsgi:application")
    with master.client() as client:
        client.send("/crash")
        assert client.sock.recv(1000)[:12] in (b"", b"HTTP/1.1 502")
    assert master.get() == b"hello from python\n"


def test_a_rolling_restart_loses_no_request(start, app):
    master = start(app, "--workers", "2")
    before, stop, answers = master.pid(), threading.Event(), []

    def load():
        with master.client() as client:
            while not stop.is_set():
                answers.append(client.get("/pid").status)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            master.signal(signal.SIGHUP)
            eventually(lambda: gone(before))
            before = master.pid()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {200}
    assert "ERROR" not in master.log()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_rolling_restart_takes_the_app_as_it_is_now(start, tmp_path):
    (tmp_path / "hello.py").write_text(HELLO % "old")
    master = start("hello:app", "--workers", "2")
    assert master.get() == b"old"
    (tmp_path / "hello.py").write_text(HELLO % "new")
    master.signal(signal.SIGHUP)
    eventually(lambda: {master.get() for _ in range(5)} == {b"new"})


def test_an_app_that_does_not_load_any_more_leaves_the_old_workers(start, tmp_path):
    (tmp_path / "hello.py").write_text(HELLO % "old")
    master = start("hello:app")
    assert master.get() == b"old"
    (tmp_path / "hello.py").write_text("syntax error")
    master.signal(signal.SIGHUP)
    eventually(lambda: "stays, for its successor could not attach" in master.log())
    assert master.get() == b"old"
    (tmp_path / "hello.py").write_text(HELLO % "new")
    master.signal(signal.SIGHUP)
    eventually(lambda: master.get() == b"new")


def test_what_is_held_is_served_at_sigterm(start, app):
    master = start(app)
    master.get()
    with master.client() as client:
        client.send("/sleep?ms=300")
        eventually(lambda: leased(master))
        master.signal(signal.SIGTERM)
        assert client.receive().text == b"slept\n"
    assert master.wait() == 0


def leased(master):
    """Whether the sidecar has lent something; the real one is not asked, but given the time."""
    if isinstance(master.sidecar, sidecars.RealSidecar):
        return not threading.Event().wait(0.1)
    return master.sidecar.states()["leased"]


def test_a_worker_that_does_not_leave_is_killed(start):
    master = start("wsgi", "conformance_app.wsgi:application", "--grace", "0.1")
    master.get()
    with master.client() as client:
        client.send("/sleep?ms=60000")
        eventually(lambda: leased(master))
        master.signal(signal.SIGTERM)
        assert master.wait() == 0
    assert "did not leave within 0.1 s and is killed" in master.log()


def test_a_second_signal_ends_it_at_once(start):
    master = start("wsgi", "conformance_app.wsgi:application")
    master.get()
    with master.client() as client:
        client.send("/sleep?ms=60000")
        eventually(lambda: leased(master))
        master.signal(signal.SIGTERM)
        master.signal(signal.SIGINT)  # the same as a second SIGTERM, which could be merged with the first
        assert master.wait() == 0


def test_workers_do_not_outlive_their_master(start, app):
    master = start(app)
    worker = master.pid()
    master.signal(signal.SIGKILL)
    master.process.wait()
    eventually(lambda: gone(worker))


def test_one_worker_more_and_one_less(start):
    master = start("wsgi", "conformance_app.wsgi:application")
    master.get()
    for number, expected in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1), (signal.SIGTTOU, 1)):
        master.signal(number)
        eventually(lambda: len(workers(master)) == expected)
    assert master.get() == b"hello from python\n"


def workers(master):
    pid = master.process.pid
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nosuch:app"], 3, "The app nosuch:app cannot be loaded: No module named 'nosuch'"),
        (["wsgi", "json:nosuch"], 3, "cannot be loaded: module 'json' has no attribute 'nosuch'"),
        (["json"], 3, "write module:attribute"),
        (["json:__doc__"], 3, "which cannot be called"),
        (["json:JSONEncoder"], 3, "looks neither like WSGI nor like ASGI"),
        (["nosuch:app", "--workers", "0"], 3, "No module named 'nosuch'"),
        (["conformance_app.wsgi:application", "--cache", "5"], 3, "is WSGI, which has no option --cache."),
        (["conformance_app.asgi:application", "--keep-alive", "5"], 3, "is ASGI, which has no option --keep-alive."),
        (["wsgi", "conformance_app.wsgi:application", "--cache", "5"], 2, "unrecognized arguments: --cache 5"),
        ([], 2, "required"),
        (["wsgi", "json:x", "--workers", "-1"], 2, "--workers"),
        (["wsgi", "json:x", "--threads", "0"], 2, "The capacity 0 must be 1 to 4096"),
        (["wsgi", "json:x", "--threads", "some"], 2, "the capacity is 'some'; it must be a number from 1 to 4096"),
        (["json:x", "--pool", "a b"], 2, "The pool 'a b' must be 1 to 64 of"),
        (["json:x", "--pool", ""], 2, "The pool '' must be 1 to 64 of"),
        (["json:x", "--grace", "x"], 2, "--grace"),
    ],
)
def test_what_cannot_be_served(arguments, status, message):
    done = attempt(arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr


def test_an_app_may_answer_with_x_sendfile(start, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTEROOM_SENDFILE_ROOT", str(tmp_path))
    (tmp_path / "sendfile.py").write_text(SENDFILE)
    (tmp_path / "hello.txt").write_text("from a file")
    assert start("wsgi", "sendfile:app", "--workers", "0").get() == b"from a file"


def test_files_must_have_a_directory():
    done = attempt(["wsgi", "conformance_app.wsgi:application", "--workers", "0"], ANTEROOM_SENDFILE_ROOT=__file__)
    assert done.returncode == 3
    assert "ANTEROOM_SENDFILE_ROOT: sendfile_root is" in done.stderr


def test_a_capacity_in_the_environment_is_checked():
    done = attempt(["wsgi", "json:x"], ANTEROOM_CAPACITY="many")
    assert done.returncode == 2
    assert "ANTEROOM_CAPACITY is 'many'; it must be a number from 1 to 4096" in done.stderr


def attempt(arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "anteroom", *arguments], cwd=HERE, capture_output=True, text=True, timeout=30, env={**os.environ, **environment}
    )


class Callable:
    async def __call__(self, scope, receive, send):
        """As Starlette and Django have it."""


async def coroutine(scope, receive, send):
    """ASGI."""


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (coroutine, "asgi"),
        (Callable(), "asgi"),
        (lambda scope, receive, send: coroutine(scope, receive, send), "asgi"),
        (lambda environ, start_response: [], "wsgi"),
        (lambda environ, start_response, more=None: [], "wsgi"),
    ],
)
def test_kinds(app, kind):
    assert main.kind_of(app) == kind


def test_a_factory(tmp_path, monkeypatch):
    (tmp_path / "made.py").write_text("def make():\n    return lambda environ, start_response: []\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main.kind_of(main.load("made:make()")) == "wsgi"


def test_workers_that_die_at_once_are_replaced_ever_more_slowly(caplog):
    """Forks without a sidecar: each worker lives for an instant."""
    starts, times = [], []

    class Impatient(prefork.Master):
        def _start(self, replaces=None):
            super()._start(replaces)
            starts.append(None)
            if len(starts) == 5:
                self._leave()

        def _delay_next(self, worker):
            super()._delay_next(worker)
            times.append(self._start_at)

    master = Impatient(lambda supervision: os._exit(1), wanted=1)
    assert master.run() == 0
    assert len(starts) == 5
    assert times[3] - times[2] > 2 * prefork.Backoff()._first * 0.5
    assert caplog.text.count("has ended with status 1") == 4
