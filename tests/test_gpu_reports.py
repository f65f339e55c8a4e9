"""How reports show a run on a GPU, and that they show nothing new of one on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kernelprof.analysis import case_results, results
from kernelprof.diagnosis.examination import stored_case
from kernelprof.diagnosis.gather import FACTS, PROFILE
from kernelprof.diagnosis.ledger_on_gpu import GPU_PARTS
from kernelprof.gpu.samples import GpuReading
from kernelprof.probes.network import INFER, TRAIN
from kernelprof.reports.contract import case_json
from kernelprof.reports.diagnosis import diagnosis_lines
from kernelprof.reports.findings import causes, command
from kernelprof.reports.ladder import beyond_layers, layer_rungs, steps
from kernelprof.reports.ledger import parts_shown
from kernelprof.reports.lines import case_line
from kernelprof.reports.text import render, to_text
from kernelprof.reports.verdict import verdict
from kernelprof.results import CaseResult, Results
from tests.planted_gpu import Gpu, plant_on_gpu
from tests.planted_run import perceptron, plant
from tests.test_gpu_causes import spans_of
from tests.test_gpu_prediction import works

WIDE, TINY = perceptron("wide", width=2048), perceptron("tiny", width=64)
NETWORKS = {network.name: network for network in (WIDE, TINY)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """Two networks, of which one waits for the CPU; all were diagnosed."""
    gpu = Gpu(lambda kernel: works(kernel, 1e12), noise=0.01)
    slow = [GpuReading(50, 1_500_000_000, 80, 690.0, 0x04)]
    run = plant_on_gpu(
        tmp_path_factory.mktemp("runs") / "a.kprof",
        NETWORKS.values(),
        gpu,
        modes=(INFER, TRAIN),
        reference=gpu,
        readings=slow,
    )
    for case in list(case_results(run)):
        network = NETWORKS[case.network]
        each_ns = round(case.measured.value_s * 1e9 / len(network.layers))
        duration_ns, spans = spans_of(network, each_ns)
        calls = [{"duration_ns": duration_ns, "spans": spans}]
        stored = stored_case(run, case)
        run.add_evidence(stored.id, PROFILE, {"plain_ns": [duration_ns], "calls": calls})
        run.add_evidence(stored.id, FACTS, {"variables": {}})
    yield results(run)
    run.close()


@pytest.fixture
def waiting(found: Results) -> CaseResult:
    return next(case for case in found.cases if case.network == TINY.name)


def shown(found: Results, width: int, layers: bool = False) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    render(found, console, layers)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


class TestText:
    """Tables and sentences."""

    @pytest.mark.parametrize("width", [80, 100])
    def test_a_case_is_a_row_of_the_summary(self, found: Results, width: int) -> None:
        lines = shown(found, width)
        assert all(len(line) <= width for line in lines)
        assert sum(line.startswith("  fake         4 cuda:0 ") for line in lines) == 4
        heads = lines[0] + lines[1]
        assert "GPU" in heads
        assert ("bound" in heads) == (width == 100)

    def test_both_sides_are_there(self, found: Results) -> None:
        rows = [line for line in shown(found, 100) if line.startswith("  fake")]
        assert [row.split()[-2] for row in rows] == ["device", "device", "host", "host"]

    def test_layers_have_what_they_take_the_cpu(self, found: Results) -> None:
        text = to_text(found)
        assert text.count("waits") >= 4
        assert all(len(line) <= 100 for line in text.splitlines())
        assert all(len(line) <= 80 for line in shown(found, 80, layers=True))

    def test_the_verdict_says_what_waits_and_what_was_slow(self, found: Results) -> None:
        said = verdict(found)
        (waits,) = [sentence for sentence in said if "waits for the CPU" in sentence]
        assert waits.startswith("In 2 of 4 cases")
        assert "cuda:0" in waits
        assert any(sentence.startswith("The card was slowed down in ") for sentence in said)

    def test_the_line_of_a_case_names_the_device(self, waiting: CaseResult) -> None:
        assert case_line(waiting).plain.endswith("  cuda:0, host-bound")


class TestDiagnosis:
    """Ledger, ladder and findings."""

    @pytest.mark.parametrize("width", [80, 100])
    def test_the_parts_of_a_gpu(self, found: Results, width: int) -> None:
        console = Console(file=StringIO(), width=width, color_system=None)
        for line in diagnosis_lines(found.cases, "fake", Path("a.kprof"), width):
            console.print(line)
        assert isinstance(console.file, StringIO)
        said = console.file.getvalue()
        assert "launch" in said
        assert all(len(line) <= width for line in said.splitlines())
        assert sum(line.startswith(("wide ", "tiny ")) for line in said.splitlines()) == 4
        assert parts_shown(found.cases) == list(GPU_PARTS)

    def test_one_case_in_full(self, waiting: CaseResult) -> None:
        console = Console(file=StringIO(), width=80, color_system=None)
        for line in diagnosis_lines([waiting], "fake", Path("a.kprof"), 80):
            console.print(line)
        assert isinstance(console.file, StringIO)
        assert "copies to the GPU" in console.file.getvalue()

    def test_the_ladder_adds_up(self, found: Results) -> None:
        for case in found.cases:
            within_s = sum(rungs.in_network_s or 0.0 for rungs in layer_rungs(case))
            beyond_s = sum(beyond_layers(case).values())
            assert within_s + beyond_s == pytest.approx(case.measured.value_s)
            total_s = sum(seconds for _, seconds in steps(case))
            assert total_s == pytest.approx(case.measured.value_s, rel=1e-3)

    def test_what_to_type_names_the_device(self, found: Results) -> None:
        (tf32,) = [cause for cause in causes(found.cases) if cause.name == "TF32 off"]
        assert "--device cuda:0" in command(tf32.worst)


class TestJson:
    """The contract: new keys on a GPU, and none on the CPU."""

    def test_both_sides(self, waiting: CaseResult) -> None:
        written = case_json(waiting)
        gpu = waiting.gpu
        assert gpu is not None
        assert written["gpu"]["bound"] == "host"
        assert written["gpu"]["device_s"] == gpu.device_s
        layer = written["layers"][1]
        assert (layer["bound"], layer["device_s"]) == ("host", waiting.layers[1].device_s)
        assert {part["part"] for part in written["ledger"]} <= set(GPU_PARTS)

    def test_the_cpu_has_no_sides(self, tmp_path: Path) -> None:
        run = plant(tmp_path / "cpu.kprof", [TINY], lambda kernel, threads: 1e-4)
        (case,) = case_results(run)
        written = case_json(case)
        assert not {"gpu", "device_s"} & set(written)
        assert not {"device_s", "host_s", "gaps_s", "bound"} & set(written["layers"][0])
        assert (case.gpu, case.layers[0].device_s, case.layers[0].host_s) == (None, None, None)
        assert case_line(case).plain.split()[-1].endswith(("x", "-"))
        run.close()
