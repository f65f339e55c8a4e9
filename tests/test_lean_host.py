"""Nodes with a GPU often have no network: measuring there needs few libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .test_cli import LITTLE, ROOT, make_home, shell_environment

# What draws, reads networks of others, or takes ranges: not needed to measure and report.  (The
# ceilings of CPUs, and they alone, need a compiler.)
NOT_NEEDED = (
    *("altair", "jinja2", "nvtx", "onnx", "onnx_ir", "onnxscript"),
    *("pandas", "py_spy", "pyarrow", "torch", "vl_convert"),
)
WITHOUT = f"""
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_NEEDED!r}:
            raise ImportError("no " + name)


sys.meta_path.insert(0, Missing())
from kernelprof.cli import main
sys.argv[0] = "kernelprof"
main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Engines and ceilings of this test only."""
    return make_home(tmp_path_factory.mktemp("lean"))


def lean(home, *words):
    """A command where those libraries are missing."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        cwd=ROOT,
        env=shell_environment(home),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_and_its_reports(home):
    path = str(home / "a.kprof")
    ended = lean(home, *LITTLE, "--engine", "fake", "-o", path)
    assert ended.returncode == 0, ended.stderr
    for format_ in ("text", "json"):
        ended = lean(home, "report", path, "--format", format_)
        assert ended.returncode == 0, ended.stderr
        assert "alexnet-r" in ended.stdout


def test_the_selfcheck_of_a_gpu_loads(home):
    ended = lean(home, "selfcheck", "--device", "gpu", "-o", str(home / "new"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("kernelprof: device 'gpu': cpu or cuda:N is needed")
