"""What engines' old interpreters must be able to run: Python 3.9 with nothing installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.networks import NETWORKS
from tests.test_rules import ROOT

# The modules that need the standard library only.
PLAIN = (
    "primitive",
    "compute_bound",
    "memory_bound",
    "primitives",
    "layers",
    "network",
    "networks",
    "decompose",
    "wire",
    "clock",
    "circumstances",
    "placement",
    "nvtx_library",
    "ranges",
)
VERSION = "import sys; print(*sys.version_info[:2])"

# Loads the folder as ``probes/boot.py`` does.
LOAD = f"""
import importlib, importlib.util, json, os, sys
folder = {str(ROOT / "probes")!r}
spec = importlib.util.spec_from_file_location(
    "kernelprof_probes", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
)
package = importlib.util.module_from_spec(spec)
sys.modules["kernelprof_probes"] = package
spec.loader.exec_module(package)
load = lambda name: importlib.import_module("kernelprof_probes." + name)
"""


def version(python: str) -> tuple[int, int] | None:
    """The version of an interpreter, or None where the name leads to none."""
    try:
        ran = subprocess.run([python, "-I", "-c", VERSION], capture_output=True, text=True)
    except OSError:
        return None
    if ran.returncode:
        return None
    major, minor = map(int, ran.stdout.split())
    return major, minor


def oldest_interpreter() -> str:
    """A Python 3.9; where there is none, the oldest one above it, this one at the latest."""
    names = [shutil.which(f"python3.{minor}") for minor in range(9, sys.version_info.minor)]
    roots = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python"))
    found = {
        python: number
        for python in [*filter(None, names), *map(str, roots), sys.executable]
        if (number := version(python)) is not None and number >= (3, 9)
    }
    return min(found, key=lambda python: found[python])


def ask(python: str, code: str) -> Any:
    """What the code prints as JSON, run without the user's environment."""
    ran = subprocess.run(
        [python, "-I", "-B", "-W", "error", "-c", LOAD + code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def python() -> str:
    return oldest_interpreter()


@pytest.mark.parametrize("module", PLAIN)
def test_module_needs_the_standard_library_only(python: str, module: str) -> None:
    """It loads, and neither NumPy nor the host comes with it."""
    code = f"""
load({module!r})
outside = [name for name in sys.modules if name.split(".")[0] in ("numpy", "kernelprof")]
print(json.dumps(outside))
"""
    assert ask(python, code) == []


def test_kernels_are_the_same_there(python: str) -> None:
    """AlexNet comes apart into the same kernels, releases and flop, through JSON and back."""
    code = """
networks, network, decompose = load("networks"), load("network"), load("decompose")
alexnet = network.Network.from_json(json.loads(json.dumps(networks.alexnet_s().to_json())))
found = decompose.kernels(alexnet, 16, "train", decompose.Fusion())
print(json.dumps([[k.layer, k.label, k.flop, k.least_bytes, list(k.releases)] for k in found]))
"""
    here = kernels(NETWORKS["alexnet-s"](), 16, "train", Fusion())
    assert ask(python, code) == [
        [k.layer, k.label, k.flop, k.least_bytes, list(k.releases)] for k in here
    ]


def test_primitives_are_refused_there_too(python: str) -> None:
    code = """
read = load("primitives").primitive_from_json
messages = []
for sizes in ({"m": 0}, {"m": 2.0}, {"dtype": "float8"}, {"depth": 1}):
    try:
        read({"kind": "gemm", "m": 2, "n": 3, "k": 5, **sizes})
    except ValueError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""
    messages = ask(python, code)
    assert len(messages) == 4
    assert all(message.startswith("gemm: ") for message in messages)


def test_clock_placement_and_circumstances_work_there(python: str) -> None:
    code = """
facts = load("clock").clock_facts()
cpus = load("placement").thread_cpus()[os.getpid()]
watch = load("circumstances").Watch(tuple(cpus))
watch.follow((os.getpid(),))
before = watch.reading()
held = [None]
ns = load("clock").time_block(lambda: sum(range(1000)), 20, held, 0)
with load("ranges").Ranges().range("network", "layer"):
    pass
print(json.dumps([facts.block_ns > 0, sorted(cpus) == sorted(os.sched_getaffinity(0)),
                  before.since(before) == (0,) * 7, ns > 0, held]))
"""
    assert ask(python, code) == [True, True, True, True, [sum(range(1000))]]


def test_messages_cross_between_versions(python: str) -> None:
    """The host's channel and the old interpreter's speak to each other over pipes."""
    message = {"do": "build", "text": "\u00fc \u2713", "seeds": [1, 2.5, None]}
    code = """
channel = load("wire").Channel(sys.stdin.buffer, sys.stdout.buffer)
channel.send({"ok": channel.receive()})
"""
    ran = subprocess.run(
        [python, "-I", "-B", "-c", LOAD + code],
        input=json.dumps(message) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(ran.stdout) == {"ok": message}, ran.stderr
