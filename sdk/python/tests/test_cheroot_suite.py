"""cheroot's own tests, where they are installed (Debian ships them), with every server behind a sidecar.

What fails is run once more with cheroot's own manager: what fails there as well is not ours. Many of those tests have clocks of a tenth
of a second; so what passes when it is run alone is not counted either.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys

import pytest

import sidecars

HERE = pathlib.Path(__file__).parent
for needed in ("jaraco.text", "OpenSSL", "portend", "pytest_mock", "requests_toolbelt", "requests_unixsocket", "trustme"):
    pytest.importorskip(needed)
FOLDER = pathlib.Path(pytest.importorskip("cheroot.test").__file__).parent
GROUPS = [["test_conn.py"], ["test_ssl.py"], ["."]]  # at the same time: most of these tests wait
LIMIT = 400


def run(kind, tests, report):
    """Runs tests in a process of their own, behind a sidecar of that kind ("stock": behind none). Returns those that failed, and the output."""
    environment = {
        **os.environ,
        "ANTEROOM_TEST_KIND": kind,
        "ANTEROOM_TEST_REPORT": str(report),
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "cheroot_suite_plugin"]
    # Plugins that happen to be installed (cheroot's tests name some) must not change what runs.
    command += ["-c", os.devnull, f"--rootdir={FOLDER}", *tests]
    if tests == ["."]:
        command += [f"--ignore={name}" for group in GROUPS for name in group if name != "."]
    ran = subprocess.run(command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    assert ran.returncode in (0, 1), ran.stdout
    return (report.read_text().splitlines() if report.exists() else []), ran.stdout


def failures_of_ours(kind, failed, folder):
    """Of tests that failed, those that fail again alone, and pass without us."""
    ours = []
    for number, test in enumerate(failed):
        again, output = run(kind, [test], folder / f"again-{number}")
        if again and not run("stock", [test], folder / f"stock-{number}")[0]:
            ours.append(f"{test}\n{output}")
    return ours


@pytest.mark.parametrize("kind", sidecars.kinds())
def test_cheroots_own_tests(kind, tmp_path):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = [pool.submit(run, kind, tests, tmp_path / str(number)) for number, tests in enumerate(GROUPS)]
        failed = [test for each in runs for test in each.result()[0]]
        outputs = [each.result()[1] for each in runs]
    print(*(output.splitlines()[-1] for output in outputs), sep="\n")
    assert all(" passed" in output for output in outputs)
    if kind == "fake":  # cheroot's own loop would pass, too: the double's counters say that it was not that
        assert all("'leases': " in output for output in outputs)
    ours = failures_of_ours(kind, failed, tmp_path)
    assert ours == [], "\n\n".join(ours)
