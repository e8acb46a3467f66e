"""A pytest plugin: runs cheroot's own tests with every server behind a sidecar.

``test_cheroot_suite.py`` runs it on the tests that Debian ships. For a checkout of cheroot, with this folder's parent and this folder on
PYTHONPATH, and the checkout first::

    python -m pytest -c /dev/null --rootdir=CHECKOUT -p cheroot.test._pytest_plugin -p cheroot_suite_plugin CHECKOUT/cheroot/test

ANTEROOM_TEST_KIND says what to run behind: "fake" (the double, the default), "real" (the binary that ANTEROOM_TEST_BINARY names), or
"stock", cheroot's own manager, for comparison.
"""

import os
import shutil
import tempfile

import anteroom.cheroot
import sidecars

_folder = None
_sidecar = None


def pytest_configure(config):
    global _folder, _sidecar
    kind = os.environ.get("ANTEROOM_TEST_KIND", "fake")
    if kind == "stock":
        return
    _folder = tempfile.mkdtemp(prefix="anteroom-")
    _sidecar = sidecars.start(kind, os.path.join(_folder, "handoff.sock"))
    os.environ["ANTEROOM_HANDOFF"] = _sidecar.path
    anteroom.cheroot.install()


def pytest_runtest_logreport(report):
    """Note down what failed, for test_cheroot_suite.py."""
    if report.failed and "ANTEROOM_TEST_REPORT" in os.environ:
        with open(os.environ["ANTEROOM_TEST_REPORT"], "a", encoding="utf-8") as file:
            print(report.nodeid, file=file)


def pytest_terminal_summary(terminalreporter):
    counts = getattr(_sidecar, "counts", None)
    if counts is not None:
        terminalreporter.write_line(f"sidecar: {dict(counts)}")


def pytest_unconfigure(config):
    anteroom.cheroot.uninstall()
    if _sidecar is not None:
        _sidecar.stop()
        shutil.rmtree(_folder, ignore_errors=True)
