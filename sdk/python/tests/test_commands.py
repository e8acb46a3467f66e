"""The commands of README.md and APPS.md work as they stand, but for the address and the folder of the sockets."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

import sidecars
from conftest import eventually
from servers import Client

pytestmark = pytest.mark.skipif(not sidecars.real(), reason="the commands start the real sidecar")

FOLDER = pathlib.Path(__file__).parents[1]
README, APPS = ((FOLDER / name).read_text("utf-8") for name in ("README.md", "APPS.md"))
CHEROOT_PROGRAM, WSGI_APP = (re.search(r"```python\n(.*?)```", page, re.DOTALL)[1] for page in (README, APPS))
SERVE = "anteroom serve --handoff /tmp/handoff.sock --control unix:///tmp/control.sock &"
LISTEN = SERVE.replace("serve", "serve --listen tcp://127.0.0.1:8080", 1)


def blocks(page):
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
        yield [command for command in commands if not command.startswith("pip ") and "test" not in command]


def in_text(page):
    yield from re.findall(r"`((?:ANTEROOM_POOL=\S+ )?(?:gunicorn|python) -[^`]*:app)`", page)


CASES = [block for page in (README, APPS) for block in blocks(page) if block]
CASES = [block if block[0].startswith("anteroom") else [SERVE, *block] for block in CASES]
CASES += [[LISTEN, f"ANTEROOM_HANDOFF=/tmp/handoff.sock {command}"] for command in in_text(README)]


class Shell:
    """Runs commands in a folder of its own."""

    def __init__(self, folder):
        self._folder = folder
        self._running = []
        self.host = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.2"  # where no other program takes the port meanwhile
        with socket.create_server((self.host, 0)) as sock:
            self.port = sock.getsockname()[1]
        (folder / "bin").mkdir()
        (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / "bin" / "anteroom").symlink_to(os.path.abspath(os.environ[sidecars.BINARY_VARIABLE]))
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ANTEROOM_")}
        self._environment.update(PATH=f"{folder}/bin:{os.environ['PATH']}", PYTHONPATH=str(FOLDER), PYTHONDONTWRITEBYTECODE="1")

    def write(self, name, program):
        (self._folder / name).write_text(self._here(program))

    def start(self, command):
        with open(self._folder / "log", "ab") as log:
            how = dict(cwd=self._folder, env=self._environment, stdout=log, stderr=log, start_new_session=True)
            self._running.append(subprocess.Popen(["sh", "-c", "exec env " + self._here(command).rstrip("& ")], **how))

    def output(self, command):
        return subprocess.check_output(["sh", "-c", self._here(command)], stderr=subprocess.DEVNULL, timeout=30).decode()

    def stop(self):
        """Kill them and what they have started."""
        for process in self._running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def log(self):
        return (self._folder / "log").read_text("utf-8", "replace")

    def _here(self, text):
        for there, here in {"0.0.0.0": self.host, "127.0.0.1": self.host, "8080": str(self.port), "/tmp/": f"{self._folder}/"}.items():
            text = text.replace(there, here)
        return text


@pytest.fixture
def shell(tmp_path):
    started = Shell(tmp_path)
    yield started
    started.stop()


def accepts(address):
    try:
        socket.create_connection(address).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("commands", CASES, ids=lambda commands: commands[-1])
def test_they_serve(shell, commands):
    for name in ("app", "module", "hello"):
        shell.write(f"{name}.py", CHEROOT_PROGRAM if any(f"python {name}.py" in command for command in commands) else WSGI_APP)
    for command in commands:
        if not command.startswith("curl"):
            shell.start(command)
    eventually(lambda: accepts((shell.host, shell.port)), 30)
    with Client(None, address=(shell.host, shell.port)) as client:
        assert [client.get().text, client.get().text] == [b"hello\n", b"hello\n"], shell.log()
    if commands[-1].startswith("curl"):
        assert shell.output(commands[-1]) == "hello\nhello\n"
