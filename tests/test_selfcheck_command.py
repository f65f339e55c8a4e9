"""``kernelprof selfcheck``: on a GPU of known truth, on this CPU, and where there is no GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pynvml
import pytest

from kernelprof import cli_selfcheck
from kernelprof.gpu import ceilings as gpu_ceilings
from kernelprof.gpu import devices, driver
from kernelprof.probes.network import MODES

from .fake_nvml import Card, FakeNvml, refusal
from .test_cli import here, home  # noqa: F401  a fixture
from .test_gpu_ceilings import Truth, Workers
from .test_gpu_commands import NO_DRIVER

FAKE = Path(__file__).with_name("fake_gpu.py")
LITTLE = ("--network", "fcn-r", "--quick", "--budget", "30s")
# Time enough for the networks, however slow this machine is and however busy.
SHARES = {cli_selfcheck.NETWORKS: 4.0, cli_selfcheck.PRODUCTS: 0.1, cli_selfcheck.DEEPBENCH: 0.1}


@pytest.fixture
def card(home, monkeypatch):  # noqa: F811
    """A card, and engines that compute on it."""
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(driver, "FILE", "libcuda-of-no-machine.so")
    monkeypatch.setattr(devices, "pynvml", FakeNvml(Card()))
    monkeypatch.setattr(gpu_ceilings, "ask_worker", Workers(cupy=Truth()))
    monkeypatch.setattr(cli_selfcheck, "SIZES", ("64x64x64",))
    monkeypatch.setattr(cli_selfcheck, "SHARES", SHARES)
    entry = '[{}]\npython = "{}"\nadapter = "{}"\nvariables = {{ FAKE_LAUNCH_NS = 4000 }}\n'
    engines = "".join(entry.format(name, sys.executable, FAKE) for name in ("cupy", "torch"))
    (home / "engines.toml").write_text(engines)


def report(folder: Path):
    return json.loads((folder / cli_selfcheck.REPORT).read_text())


def test_on_a_gpu_every_step_is_taken(card, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a" / "b"
    words = ("selfcheck", "--device", "cuda:0", *LITTLE, "-o", str(folder))
    ended, printed, said = here(monkeypatch, capsys, *words)
    found = report(folder)
    goals = {goal["name"]: goal for goal in found["goals"]}
    assert goals["cupy: results"]["met"]
    assert goals["torch: results"]["met"]
    assert goals["clocks: torch's own profiler"]["met"] is not None
    assert goals["cupy: products as torch's"]["met"] is not None
    assert goals["torch: gemm 64x64x64"]["met"] is False  # such a small one is no large product
    assert ended == 1
    assert "missed" in printed
    assert "wrote" in said
    assert {case["device"] for case in found["networks"]["cases"]} == {"cuda:0"}
    assert {case["mode"] for case in found["networks"]["cases"]} == set(MODES)
    assert found["machine"]["gpus"]["cuda:0"]["name"] == Card().name
    names = {path.name for path in folder.iterdir()}
    assert {"networks.kprof", "products.kprof", "deepbench.kprof", "report.json"} <= names
    log = (folder / cli_selfcheck.LOG).read_text()
    assert "selfcheck: networks took" in log
    assert "torch: results" in log
    here(monkeypatch, capsys, *words)  # it goes on: nothing is measured anew
    assert report(folder)["networks"]["cases"] == found["networks"]["cases"]


def test_on_this_cpu(home, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(cli_selfcheck, "SIZES_OF_CPU", ("64x64x64",))
    words = ("selfcheck", "--device", "cpu", "--engine", "fake", *LITTLE, "--budget", "8s")
    here(monkeypatch, capsys, *words, "-o", str(tmp_path))
    goals = {goal["name"]: goal["met"] for goal in report(tmp_path)["goals"]}
    assert goals["fake: results"]
    assert set(goals) == {"fake: results", "networks: predictions"}


def test_without_a_driver_one_line_says_so(home, tmp_path, monkeypatch, capsys):  # noqa: F811
    nothing = FakeNvml(refusal=refusal(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    monkeypatch.setattr(devices, "pynvml", nothing)
    ended, printed, said = here(monkeypatch, capsys, "selfcheck", "-o", str(tmp_path / "new"))
    assert (ended, printed, said) == (1, "", NO_DRIVER)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made(home, tmp_path, monkeypatch, capsys):  # noqa: F811
    taken = tmp_path / "taken"
    taken.write_text("")
    words = ("selfcheck", "--device", "cpu", "--engine", "fake", "-o", str(taken))
    ended, _, said = here(monkeypatch, capsys, *words)
    assert ended == 2
    assert said.startswith(f"kernelprof: cannot write into {taken}: ")


def test_an_engine_that_is_not_installed(home, tmp_path, monkeypatch, capsys):  # noqa: F811
    words = ("selfcheck", "--device", "cpu", "--engine", "mxnet", "-o", str(tmp_path))
    ended, _, said = here(monkeypatch, capsys, *words)
    assert ended == 2
    assert "not installed: mxnet; run `kernelprof engines install mxnet`" in said
