"""``pip install ./sdk/python``."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

missing = [module for module in ("pip", "setuptools", "wheel") if importlib.util.find_spec(module) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"there is no {missing}")

FOLDER = pathlib.Path(__file__).parents[1]
INSTALL = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.fixture
def source(tmp_path):
    """A copy of what is built."""
    copy = tmp_path / "source"
    shutil.copytree(FOLDER / "anteroom", copy / "anteroom", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "setup.py"):
        shutil.copy(FOLDER / name, copy)
    return copy


@pytest.fixture
def install(source, tmp_path):
    """Installs into a folder of its own, which it returns."""
    temporary, target = tmp_path / "temporary", tmp_path / "target"
    temporary.mkdir()
    done = subprocess.run(
        [*INSTALL, "--target", target, source],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert list(temporary.iterdir()) == []
    return target


@pytest.fixture
def stale(source):
    """What an earlier build has left behind."""
    module = source / "build" / "lib" / "anteroom" / "stale.py"
    module.parent.mkdir(parents=True)
    module.write_text("")


@pytest.fixture
def before(source):
    return files(source)


def test_a_build_leaves_nothing_in_the_tree_and_takes_nothing_old_from_it(stale, before, source, install):
    assert files(source) == before
    assert files(install / "anteroom") == files(source / "anteroom")
