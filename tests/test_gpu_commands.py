"""Commands that look at a card: ``machine`` and ``doctor``, with NVML's stand-in and without it."""

from __future__ import annotations

import json
from pathlib import Path

import pynvml
import pytest

from kernelprof.gpu import ceilings as gpu_ceilings
from kernelprof.gpu import devices, driver

from .fake_nvml import Card, FakeNvml, refusal
from .test_cli import here, home  # noqa: F401  a fixture
from .test_gpu_ceilings import RATES, Truth, Workers

NO_DRIVER = (
    "kernelprof: cuda:0 cannot be used: no NVIDIA driver is loaded on this machine "
    "(libnvidia-ml.so.1 is not there); run on a machine with a GPU, or with --device cpu\n"
)
ASKS_FOR_A_GPU = [
    *(("machine",), ("doctor", "--engine", "fake")),
    ("run", "alexnet-r", "--batch", "1", "--engine", "fake"),
    ("bench", "gemm", "8x8x8", "--engine", "fake"),
]


@pytest.fixture(autouse=True)
def _shell(monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(driver, "FILE", "libcuda-of-no-machine.so")


@pytest.fixture
def workers(home, monkeypatch) -> Workers:  # noqa: F811
    """A card, and the engines that measure it."""
    monkeypatch.setattr(devices, "pynvml", FakeNvml(Card(), Card(name="NVIDIA A100")))
    known = Workers(cupy=Truth())
    monkeypatch.setattr(gpu_ceilings, "ask_worker", known)
    return known


@pytest.mark.parametrize("words", ASKS_FOR_A_GPU, ids=lambda words: words[0])
def test_without_a_driver_one_line_says_so(words, home, monkeypatch, capsys):  # noqa: F811
    nothing = FakeNvml(refusal=refusal(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    monkeypatch.setattr(devices, "pynvml", nothing)
    monkeypatch.chdir(home)
    ended, printed, said = here(monkeypatch, capsys, *words, "--device", "cuda:0")
    assert (ended, printed, said) == (1, "", NO_DRIVER)
    assert not list(Path().glob("*.kprof"))


@pytest.mark.parametrize("words", ASKS_FOR_A_GPU, ids=lambda words: words[0])
def test_a_word_that_is_no_device(words, home, monkeypatch, capsys):  # noqa: F811
    ended, printed, said = here(monkeypatch, capsys, *words, "--device", "gpu0")
    assert (ended, printed) == (2, "")
    assert said == "kernelprof: device 'gpu0': cpu or cuda:N is needed, such as cuda:0\n"


def test_a_machine_without_a_gpu_says_nothing_of_one(home, monkeypatch, capsys):  # noqa: F811
    nothing = FakeNvml(refusal=refusal(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    monkeypatch.setattr(devices, "pynvml", nothing)
    ended, printed, said = here(monkeypatch, capsys, "machine", "--threads", "1")
    assert (ended, said) == (0, "")
    assert "cuda" not in printed.lower()
    assert "gpu" not in printed.lower()


def test_cards_are_listed_beside_the_machine(workers, monkeypatch, capsys):
    ended, printed, _ = here(monkeypatch, capsys, "machine", "--threads", "1")
    assert ended == 0
    assert "NVIDIA H100 80GB HBM3" in printed
    assert "NVIDIA A100" in printed
    assert "cuBLAS" not in printed  # nobody asked for what they can do
    assert workers.asked == []


def test_the_ceilings_of_a_card_are_measured_once(workers, monkeypatch, capsys):
    words = ("machine", "--device", "cuda:0", "--json")
    ended, printed, _ = here(monkeypatch, capsys, *words)
    found = json.loads(printed)
    assert ended == 0
    assert set(found["gpus"]) == {"cuda:0", "cuda:1"}
    (rates,) = found["ceilings"]["devices"].values()
    best = {one["dtype"]: one["rate"]["best_per_s"] for one in rates["arithmetic"]}
    assert best == pytest.approx(RATES, rel=1e-3)
    assert found["ceilings"]["placements"] == {}  # the CPU's take their own time
    again = json.loads(here(monkeypatch, capsys, *words)[1])
    assert again == found
    assert workers.asked == ["cupy", "torch"]
    here(monkeypatch, capsys, *words, "--again")
    assert workers.asked == ["cupy", "torch"] * 2


def test_what_is_known_of_cards_is_shown_with_the_cpu(workers, monkeypatch, capsys):
    here(monkeypatch, capsys, "machine", "--device", "cuda:0")
    _, printed, _ = here(monkeypatch, capsys, "machine", "--threads", "1")
    assert "800,000" in printed  # of the card
    assert "1 thread" in printed


def test_threads_are_not_of_a_gpu(workers, monkeypatch, capsys):
    words = ("machine", "--device", "cuda:0", "--threads", "2")
    ended, _, said = here(monkeypatch, capsys, *words)
    assert ended == 2
    assert "--threads 2: of the CPU's ceilings; leave out --device cuda:0" in said


def test_no_engine_to_measure_with(workers, monkeypatch, capsys):
    workers.truths.clear()
    ended, printed, said = here(monkeypatch, capsys, "machine", "--device", "cuda:0")
    assert (ended, printed) == (1, "")
    assert said.startswith("kernelprof: the ceilings of cuda:0 cannot be measured: cupy: not inst")
    assert len(said.splitlines()) == 1


def test_the_doctor_looks_at_the_card(workers, monkeypatch, capsys):
    devices.pynvml.cards[0].processes.append(4711)
    words = ("doctor", "--device", "cuda:0", "--engine", "fake", "--threads", "1", "--json")
    _, printed, _ = here(monkeypatch, capsys, *words)
    found = {check["name"]: check for check in json.loads(printed)["checks"]}
    assert found["GPU"]["outcome"] == "pass"
    assert found["GPU processes"]["outcome"] == "warn"
    assert "process 4711" in found["GPU processes"]["reason"]
    assert "GPU memory" in found
    engine = json.loads(printed)["engines"]["fake"]
    assert not engine["works"]  # it computes on the CPU alone, and says so
    assert "cuda:0" in engine["reason"]
