"""The programs of APPS.md work as they stand."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
import sidecars
from servers import Client

DOC = pathlib.Path(__file__).parents[1] / "APPS.md"
WSGI, ASGI, ASYNCIO = re.findall(r"```python\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)


def run(sidecar, tmp_path, *arguments):
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "ANTEROOM_HANDOFF": sidecar.path, "PYTHONPATH": str(DOC.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(params=sidecars.kinds())
def listening(request, path):
    started = sidecars.start_listening(request.param, path)
    yield started
    started.stop()


@pytest.mark.parametrize("program", ["wsgi", "asgi", "asyncio"])
def test_the_program(listening, tmp_path, program):
    if program == "wsgi":
        (tmp_path / "hello.py").write_text(WSGI)
        child = run(listening, tmp_path, "-m", "anteroom", "hello:app", "--workers", "4")
    elif program == "asgi":
        pytest.importorskip("uvicorn")
        child = run(listening, tmp_path, "-c", ASGI)
    else:
        child = run(listening, tmp_path, "-c", ASYNCIO)
    with child, Client(None, address=listening.address) as client:
        assert [client.get().text for _ in range(3)] == [b"hello\n"] * 3
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
