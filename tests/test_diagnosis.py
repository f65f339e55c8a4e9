"""Diagnosing runs of a fake engine, in which causes of slowness are planted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelprof.analysis import case_results, results
from kernelprof.chains import CALLS
from kernelprof.diagnosis import stacks
from kernelprof.diagnosis.diagnose import Diagnosing
from kernelprof.diagnosis.gather import PROFILE, STACKS, VERBOSE
from kernelprof.diagnosis.ledger import CALLING, COPIES, FEEDING, KERNELS, RESIDUAL, UPDATING
from kernelprof.engines import Environment
from kernelprof.errors import KernelprofError
from kernelprof.measure import Patience
from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.network import INFER, TRAIN
from kernelprof.probes.primitive import UPDATE
from kernelprof.results import CaseResult, Finding
from tests.test_measure import FAKE, Run, options, small

FLOP_PER_NS, KERNEL_NS, DISPATCH_NS, CALL_NS = 1, 4_000, 3_000, 20_000
HEALTHY = {
    "FAKE_FLOP_PER_NS": FLOP_PER_NS,
    "FAKE_KERNEL_NS": KERNEL_NS,
    "FAKE_DISPATCH_NS": DISPATCH_NS,
    "FAKE_CALL_NS": CALL_NS,
}
NEAR = 0.25
BATCH = 32  # at which kernels outweigh calling

Diagnosed = Callable[..., CaseResult]


@pytest.fixture
def diagnosed(tmp_path: Path) -> Iterator[Diagnosed]:
    """Measures the small network with planted variables, and diagnoses it."""
    runs: list[Run] = []

    def diagnose(mode: str = INFER, keep: Path | None = None, **planted: str | int) -> CaseResult:
        folder = tmp_path / str(len(runs))
        folder.mkdir()
        set_ = {**HEALTHY, **planted}
        variables = tuple(("fake", name, str(value)) for name, value in set_.items())
        chosen = options(modes=(mode,), batches=(BATCH,), variables=variables)
        runs.append(run := Run(folder, chosen, Patience(), calibrate=True, chains=CALLS))
        cases = [case for case in case_results(run.file) if case.engine == "fake"]
        own = {"fake": Environment("fake", sys.executable, FAKE)}
        Diagnosing(run.file, keep=keep, own=own).diagnose(cases, cases)
        (found,) = (case for case in results(run.file).cases if case.engine == "fake")
        return found

    yield diagnose
    for run in runs:
        run.file.close()


def parts_ns(case: CaseResult) -> dict[str, float]:
    assert case.diagnosis is not None
    found: dict[str, float] = {}
    for part in case.diagnosis.ledger:
        found[part.part] = found.get(part.part, 0.0) + part.seconds * 1e9
    return found


def causes(case: CaseResult) -> list[Finding]:
    """What was found, but that the fake engine's kernels are slow: on purpose, all of them."""
    assert case.diagnosis is not None
    return [one for one in case.diagnosis.findings if "the reference" not in one.cause]


def planned_ns(mode: str) -> dict[str, float]:
    """What the fake engine does in a call, by part of the ledger.

    It passes its time by the clock on the wall: on a busy machine all of it takes longer, and the
    shares stay.
    """
    found = {KERNELS: 0.0, UPDATING: 0.0, CALLING: float(CALL_NS)}
    for kernel in kernels(small(), BATCH, mode, Fusion()):
        part = UPDATING if kernel.passes == (UPDATE,) else KERNELS
        found[part] += kernel.flop / FLOP_PER_NS + (KERNEL_NS if part == UPDATING else 0)
        found[CALLING] += DISPATCH_NS + (0 if part == UPDATING else KERNEL_NS)
    return found


@pytest.mark.parametrize("mode", [INFER, TRAIN])
@pytest.mark.parametrize("profiler_ns", [0, 20_000])
def test_the_ledger_is_what_the_engine_did(
    diagnosed: Diagnosed, mode: str, profiler_ns: int
) -> None:
    case = diagnosed(mode, FAKE_PROFILER_NS=profiler_ns)
    found, planned = parts_ns(case), planned_ns(mode)
    measured_ns, total_ns = case.measured.value_s * 1e9, sum(planned.values())
    assert sum(found.values()) == pytest.approx(measured_ns)
    for part, ns in planned.items():
        share = found.get(part, 0.0) / measured_ns
        assert share == pytest.approx(ns / total_ns, abs=0.05), part
    assert abs(found[RESIDUAL]) < 0.05 * measured_ns
    heavy = {one.cause for one in causes(case) if one.at_most_s > 0.05 * case.measured.value_s}
    assert heavy <= {"CPUs taken away"}  # which is true where others had them meanwhile


@pytest.mark.parametrize(
    ("planted", "cause", "truth_ns"),
    [
        ({"FAKE_SLOW_LAYER": "fc2", "FAKE_SLOW_NS": 900_000}, "fc2 is slower", 2 * 900_000),
        ({"FAKE_FEED_NS": 2_000_000}, "input feeding", 2_000_000),
        ({"FAKE_COPY_NS": 1_500_000}, "layout reorders", 1_500_000),
        ({"FAKE_DISPATCH_NS": 300_000}, "dispatch-bound", 8 * 300_000),
    ],
)
def test_what_is_planted_is_named_first_with_its_time(
    diagnosed: Diagnosed, planted: dict[str, str | int], cause: str, truth_ns: int
) -> None:
    case = diagnosed(**planted)
    first = causes(case)[0]
    assert first.cause.startswith(cause)
    assert first.seconds is not None
    share = truth_ns / (sum(planned_ns(INFER).values()) + truth_ns)
    assert first.seconds / case.measured.value_s == pytest.approx(share, rel=NEAR)
    assert first.evidence
    assert first.remedy


def test_time_of_feeding_and_copies_is_theirs_in_the_ledger(diagnosed: Diagnosed) -> None:
    case = diagnosed(FAKE_FEED_NS=2_000_000, FAKE_COPY_NS=1_000_000)
    found, measured_ns = parts_ns(case), case.measured.value_s * 1e9
    total_ns = sum(planned_ns(INFER).values()) + 3_000_000
    assert found[FEEDING] / measured_ns == pytest.approx(2_000_000 / total_ns, rel=0.1)
    assert found[COPIES] / measured_ns == pytest.approx(1_000_000 / total_ns, rel=0.1)


def test_layers_within_the_network_have_their_time(diagnosed: Diagnosed) -> None:
    case = diagnosed(FAKE_SLOW_LAYER="fc2", FAKE_SLOW_NS=900_000)
    total_ns = sum(planned_ns(INFER).values()) + 2 * 900_000
    layers = {layer.name: layer for layer in case.layers}
    for name, slow_ns in (("conv1", 0), ("fc2", 2 * 900_000)):
        own = [k for k in kernels(small(), BATCH, INFER, Fusion()) if k.layer == name]
        planned = sum(KERNEL_NS + kernel.flop / FLOP_PER_NS for kernel in own) + slow_ns
        share = (layers[name].in_network_s or 0.0) / case.measured.value_s
        assert share == pytest.approx(planned / total_ns, rel=0.1)


def test_without_a_profiler_the_rest_is_found(diagnosed: Diagnosed) -> None:
    case = diagnosed(FAKE_PROFILER="none")
    assert case.diagnosis is not None
    assert case.diagnosis.ledger == ()
    assert case.diagnosis.missing[PROFILE] == "fake's profiler is gone"


def test_a_sampler_that_may_not_look_is_missing_evidence(
    diagnosed: Diagnosed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int, seconds: float) -> stacks.Stacks:
        raise KernelprofError("Permission Denied: ask for CAP_SYS_PTRACE")

    monkeypatch.setattr(stacks, "sample", refused)
    case = diagnosed()
    assert case.diagnosis is not None
    assert case.diagnosis.missing[STACKS] == "Permission Denied: ask for CAP_SYS_PTRACE"
    assert parts_ns(case)[KERNELS] > 0


def test_a_profiler_that_kills_its_worker_costs_that_evidence_alone(diagnosed: Diagnosed) -> None:
    case = diagnosed(FAKE_PROFILER="crash")
    assert case.diagnosis is not None
    assert "SIGKILL" in case.diagnosis.missing[PROFILE]
    assert VERBOSE not in case.diagnosis.missing


def test_lines_that_cannot_be_read_are_missing_evidence(diagnosed: Diagnosed) -> None:
    case = diagnosed(FAKE_PRINTS="onednn_verbose,v9,primitive,done,of,a,later,version")
    assert case.diagnosis is not None
    assert case.diagnosis.missing[VERBOSE] == "1 line of an unknown form"


def test_flame_graphs_are_kept_by_the_name_of_the_case(
    diagnosed: Diagnosed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Path, str]] = []

    def keep(pid: int, seconds: float, folder: Path, name: str) -> list[Path]:
        kept.append((folder, name))
        return []

    monkeypatch.setattr(stacks, "keep", keep)
    diagnosed(keep=tmp_path / "flames")
    assert kept == [(tmp_path / "flames", f"small-infer-fake-batch{BATCH}-threads1")]
