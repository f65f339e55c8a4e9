"""The causes on a GPU: each from its own evidence, and none from a healthy network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.analysis import case_results, results
from kernelprof.diagnosis.causes import CAUSES_ON_GPU, OF_KERNELS_ON_GPU
from kernelprof.diagnosis.evidence import Evidence, OnGpu
from kernelprof.diagnosis.examination import findings, stored_case, trial_kind
from kernelprof.diagnosis.gather import FACTS, PROFILE
from kernelprof.diagnosis.ledger import KERNELS, RESIDUAL, Ledger
from kernelprof.diagnosis.ledger_on_gpu import ALLOCATING, FROM_GPU, LAUNCHING, TO_GPU
from kernelprof.diagnosis.rules_on_gpu import (
    allocation,
    copies,
    host_bound,
    launch_bound,
    no_search,
    slowed_down,
    tf32_off,
    turned_images,
    unfilled_card,
)
from kernelprof.diagnosis.trial import Trial
from kernelprof.gpu.samples import GpuReading, GpuSample
from kernelprof.gpu.sides import DEVICE as DEVICE_BOUND
from kernelprof.gpu.sides import HOST as HOST_BOUND
from kernelprof.gpu.slowdown import Slowdown, slowdown
from kernelprof.gpu.tiles import TILES, Output, filling, output
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.decompose import Kernel
from kernelprof.probes.network import Network
from kernelprof.probes.primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD
from kernelprof.probes.spans import COPY, DEVICE_THREAD, DISPATCH, KERNEL, Span
from kernelprof.results import CaseResult, Finding, LedgerPart, Saving
from kernelprof.runfile import RunFile
from tests.planted_gpu import CARD, Gpu, plant_on_gpu
from tests.planted_run import perceptron
from tests.test_gpu_prediction import images, works

US = 1e-6
WIDE = perceptron("wide", width=4096)
Case = Callable[..., CaseResult]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    made: list[RunFile] = []

    def _case(network: Network, gpu: Gpu, **more: Any) -> CaseResult:
        path = tmp_path_factory.mktemp("runs") / "a.kprof"
        made.append(plant_on_gpu(path, [network], gpu, **more))
        (found,) = case_results(made[-1])
        return found

    yield _case
    for run in made:
        run.close()


def evidence(case: CaseResult, network: Network, **more: Any) -> Evidence:
    """What is known of a case whose GPU does nothing but kernels, or waits for the CPU."""
    parts = [LedgerPart(KERNELS, layer.engine_s or 0.0, layer.name) for layer in case.layers]
    rest = case.measured.value_s - sum(part.seconds for part in parts)
    within = {layer.name: layer.engine_s or 0.0 for layer in case.layers}
    healthy = Evidence(
        case=case,
        network=network,
        machine={},
        facts={"variables": {"KERNELPROF_TF32": "1"}, "algorithm_search": "cudnn.benchmark"},
        ledger=Ledger((*parts, LedgerPart(LAUNCHING, rest)), within, 0.01),
        gpu=OnGpu(CARD, tf32_speed=8.0),
    )
    return replace(healthy, **more)


@pytest.fixture(scope="module")
def healthy(case: Case) -> Evidence:
    """Large products that keep the card busy: 8,192 samples are 64 x 32 tiles for 100 SMs."""
    found = case(WIDE, Gpu(lambda kernel: works(kernel, 1e12)), batch=8192)
    return evidence(found, WIDE)


def busy_with_convolutions(kernel: Kernel) -> float:
    is_convolution = kernel.primitives[0].kind == "conv2d"
    return works(kernel, 1e12) if is_convolution else 5 * US


@pytest.fixture(scope="module")
def convolving(case: Case) -> Evidence:
    """The same of convolutions in torch."""
    network = images()
    found = case(network, Gpu(busy_with_convolutions), batch=512)
    facts = {
        "variables": {"KERNELPROF_TF32": "1"},
        "layout": "NCHW",
        "algorithm_search": "cudnn.benchmark",
    }
    return evidence(replace(found, engine="torch"), network, facts=facts)


@pytest.fixture(scope="module")
def waiting(case: Case) -> Evidence:
    """Kernels of two microseconds, which the CPU hands over every five."""
    network = perceptron("tiny", width=64)
    return evidence(case(network, Gpu(works)), network)


def only(found: Iterator[Finding]) -> Finding:
    (one,) = found
    assert one.evidence
    assert one.remedy
    return one


def with_card(e: Evidence, **changes: Any) -> Evidence:
    assert e.gpu is not None
    return replace(e, gpu=replace(e.gpu, **changes))


def with_variables(e: Evidence, **variables: str) -> Evidence:
    return replace(e, facts={**e.facts, "variables": variables})


def with_part(e: Evidence, part: str, seconds: float) -> Evidence:
    assert e.ledger is not None
    rest = [one for one in e.ledger.parts if one.part != part]
    return replace(e, ledger=replace(e.ledger, parts=(*rest, LedgerPart(part, seconds))))


def test_nothing_is_found_in_healthy_cases(healthy: Evidence, convolving: Evidence) -> None:
    assert healthy.case.gpu.bound == convolving.case.gpu.bound == DEVICE_BOUND
    assert findings(healthy, {}) == ()
    assert findings(convolving, {}) == ()


def test_nothing_is_found_where_nothing_could_be_looked_at(healthy: Evidence) -> None:
    assert findings(replace(healthy, ledger=None, facts={}, gpu=OnGpu()), {}) == ()


def test_rules_of_the_cpu_do_not_judge_a_gpu(healthy: Evidence) -> None:
    few = with_variables(healthy, OMP_NUM_THREADS="1", KERNELPROF_TF32="1")
    assert findings(few, {}) == ()
    assert set(OF_KERNELS_ON_GPU) <= set(CAUSES_ON_GPU)


class TestWaiting:
    """A GPU that waits for the CPU: for the next kernel, or for something else."""

    def test_launch_bound(self, waiting: Evidence) -> None:
        found = only(launch_bound(waiting))
        gpu = waiting.case.gpu
        assert gpu.bound == HOST_BOUND
        assert found.seconds == pytest.approx(gpu.gaps_s, rel=0.01)
        assert "CUDA graph" in found.remedy
        assert findings(waiting, {})[0].cause == "launch-bound"
        assert not [one for one in findings(waiting, {}) if one.cause == "host-bound"]

    def test_host_bound(self, case: Case) -> None:
        network = perceptron("tiny", width=64)
        late = evidence(case(network, Gpu(works), extra_s=1e-3), network)
        found = only(host_bound(late))
        assert found.seconds == pytest.approx(1e-3, rel=0.05)
        assert findings(late, {})[0].cause == "host-bound"

    def test_a_cpu_that_is_idle_too_is_not_the_cause(self, waiting: Evidence) -> None:
        idle = replace(waiting.case.gpu, host_s=0.2 * waiting.measured_s)
        assert not list(host_bound(replace(waiting, case=replace(waiting.case, gpu=idle))))

    @pytest.mark.parametrize("rule", [launch_bound, host_bound])
    def test_a_gpu_that_works_waits_for_nothing(self, rule: Any, healthy: Evidence) -> None:
        assert not list(rule(healthy))

    def test_layers_without_a_kernel_may_be_what_it_does(self, waiting: Evidence) -> None:
        partly = replace(waiting.case, uncovered=("x",))
        assert not list(launch_bound(replace(waiting, case=partly)))

    @pytest.mark.parametrize("rule", [tf32_off, no_search, unfilled_card])
    def test_faster_kernels_would_not_help(self, rule: Any, waiting: Evidence) -> None:
        slow = with_variables(waiting, KERNELPROF_ALGORITHM_SEARCH="off")
        assert not list(rule(slow))


class TestTf32:
    """Products of float32 on a card with units for TF32."""

    def test_it_is_off(self, healthy: Evidence) -> None:
        off = with_variables(healthy)
        found = only(tf32_off(off))
        products_s = sum(x.engine_s for x in healthy.case.layers if x.kind == "fully_connected")
        assert found.seconds is None
        assert found.at_most_s == pytest.approx(products_s * 7 / 8, rel=0.02)
        assert found.change == (("KERNELPROF_TF32", "1"),)
        assert "4th digit" in found.remedy
        assert "8.00x" in found.evidence[0]
        assert [one.cause for one in findings(off, {})] == ["TF32 off"]

    def test_a_trial_tells_the_seconds_or_refutes_it(self, healthy: Evidence) -> None:
        off = with_variables(healthy)
        kind = trial_kind((("KERNELPROF_TF32", "1"),))
        saved_s = 0.5 * healthy.measured_s
        gain = Trial(Saving(saved_s, 0.9 * saved_s, 1.1 * saved_s), None).to_json()
        assert findings(off, {kind: gain})[0].seconds == pytest.approx(saved_s)
        none = Trial(Saving(0.0, -1e-4, 1e-4), None).to_json()
        assert findings(off, {kind: none}) == ()

    def test_it_is_on(self, healthy: Evidence) -> None:
        assert not list(tf32_off(healthy))

    @pytest.mark.parametrize(
        ("capability", "speed", "found"),
        [("9.0", None, 1), ("7.5", None, 0), ("8.0", 1.0, 0), ("7.0", 4.0, 1), (None, None, 0)],
    )
    def test_the_card_has_it(
        self, capability: str | None, speed: float | None, found: int, healthy: Evidence
    ) -> None:
        card = {} if capability is None else {"capability": capability}
        other = with_card(with_variables(healthy), card=card, tf32_speed=speed)
        assert len(list(tf32_off(other))) == found


class TestConvolutions:
    """Layout and algorithms of cuDNN."""

    def test_images_that_are_turned(self, convolving: Evidence) -> None:
        turning = {"void cudnn::nchwToNhwcKernel<float, ...>": 40 * US, "sgemm": 1.0}
        found = only(turned_images(with_card(convolving, operations_s=turning)))
        assert found.change == (("KERNELPROF_LAYOUT", "channels_last"),)
        assert "40.0 µs" in found.evidence[0]

    def test_images_that_stay(self, convolving: Evidence) -> None:
        assert not list(turned_images(with_card(convolving, operations_s={"sgemm": 1.0})))
        turning = with_card(convolving, operations_s={"nhwcToNchwKernel": 1.0})
        last = replace(turning, facts={**turning.facts, "layout": "NHWC"})
        assert not list(turned_images(last))
        other = replace(turning, case=replace(turning.case, engine="jax"))
        assert not list(turned_images(other))

    def test_a_search_that_is_off(self, convolving: Evidence) -> None:
        off = with_variables(convolving, KERNELPROF_ALGORITHM_SEARCH="off", KERNELPROF_TF32="1")
        found = only(no_search(off))
        assert found.change == (("KERNELPROF_ALGORITHM_SEARCH", None),)
        convolutions_s = sum(x.engine_s for x in off.case.layers if x.kind == "convolution")
        assert 0 < found.at_most_s <= convolutions_s
        said = replace(convolving, facts={**convolving.facts, "algorithm_search": "off"})
        assert only(no_search(said)).change == ()

    def test_a_search_that_is_on_or_finds_nothing_to_search(
        self, convolving: Evidence, healthy: Evidence
    ) -> None:
        assert not list(no_search(convolving))
        off = with_variables(healthy, KERNELPROF_ALGORITHM_SEARCH="off", KERNELPROF_TF32="1")
        assert not list(no_search(off))


class TestSlowedDown:
    """A card whose clock was lowered."""

    SLOW = Slowdown(share=0.8, sm_hz=1.5e9, reasons=("power cap",))

    def unavoidable(self, e: Evidence) -> Evidence:
        sampling = replace(e.case.sampling, unavoidable=True)
        return replace(e, case=replace(e.case, sampling=sampling))

    def test_the_clock_tells_the_seconds(self, healthy: Evidence) -> None:
        slow = with_card(self.unavoidable(healthy), slowdown=self.SLOW)
        found = only(slowed_down(slow))
        assert found.seconds == pytest.approx(0.8 * healthy.case.gpu.device_s * 0.25)
        assert "power cap: 1500 of 2000 MHz" in found.evidence[0]

    def test_samples_that_were_left_out_cost_nothing(self, healthy: Evidence) -> None:
        assert not list(slowed_down(with_card(healthy, slowdown=self.SLOW)))

    def test_a_card_at_full_clock(self, healthy: Evidence) -> None:
        fast = replace(self.SLOW, sm_hz=2e9)
        assert not list(slowed_down(with_card(self.unavoidable(healthy), slowdown=fast)))
        unknown = with_card(self.unavoidable(healthy), slowdown=self.SLOW, card={})
        assert not list(slowed_down(unknown))

    def test_readings_near_a_sample_count(self) -> None:
        samples = [GpuSample(1, start, 10_000_000, 1, 0) for start in (0, 10**9, 2 * 10**9)]
        readings = [
            GpuReading(5_000_000, 1_000, None, None, 0x04),
            GpuReading(10**9 + 20_000_000, 2_000, None, None, 0x44),
            GpuReading(15 * 10**8, 500, None, None, 0x40),  # between samples, and far from both
            GpuReading(2 * 10**9, 9_000, None, None, 0x01),  # idle, which is no reason
        ]
        found = slowdown(samples, readings)
        assert found == Slowdown(2 / 3, 1_500, ("power cap", "temperature, by hardware"))
        assert slowdown(samples, []) is None
        assert slowdown([], readings) is None


class TestUnfilledCard:
    """Tiles of products on multiprocessors."""

    def test_few_tiles(self, case: Case) -> None:
        narrow = perceptron("narrow", width=512)
        small = case(narrow, Gpu(lambda kernel: works(kernel, 1e10)), batch=64)
        found = only(unfilled_card(evidence(small, narrow)))
        assert found.cause == "products too small for the card"
        assert "has 8 tiles for 100 multiprocessors, in 1 wave" in found.evidence[0]
        products_s = sum(x.engine_s for x in small.layers if x.kind == "fully_connected")
        assert found.at_most_s == pytest.approx(0.92 * products_s, rel=0.02)
        limited = replace(
            small, layers=tuple(replace(x, ceiling_s=0.5 * x.engine_s) for x in small.layers)
        )
        bounded = only(unfilled_card(evidence(limited, narrow)))
        assert bounded.at_most_s == pytest.approx(0.5 * products_s, rel=0.02)

    def test_a_last_wave(self, case: Case) -> None:
        """10 x 23 = 230 tiles of the smallest size for 100 multiprocessors."""
        network = perceptron("tail", width=23 * 64)
        found = case(network, Gpu(lambda kernel: works(kernel, 1e10)), batch=10 * 64)
        tail = only(unfilled_card(evidence(found, network)))
        assert tail.cause == "tail effect"
        assert "230 tiles for 100 multiprocessors, in 3 waves" in tail.evidence[0]

    def test_many_waves_and_unknown_cards(self, healthy: Evidence) -> None:
        assert not list(unfilled_card(healthy))
        assert not list(unfilled_card(with_card(healthy, card={})))

    @given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 8), st.integers(1, 200))
    def test_against_dealing_the_tiles_out(
        self, rows: int, columns: int, matrices: int, multiprocessors: int
    ) -> None:
        """One tile after another goes to the multiprocessor that has had the fewest so far."""
        found = filling(Output(rows, columns, matrices), multiprocessors)
        dealt = {}
        for height, width in TILES:
            tiles = len(range(0, rows, height)) * len(range(0, columns, width)) * matrices
            hands = Counter(tile % multiprocessors for tile in range(tiles))
            waves = max(hands.values())
            share = tiles / sum(waves for _ in range(multiprocessors))
            dealt.setdefault(waves * height * width, (share, tiles, waves))
        assert found == pytest.approx(dealt[min(dealt)])

    def test_outputs_of_products(self) -> None:
        gemm = Gemm(3, 5, 7)
        passes = FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS
        assert [output(gemm, pass_) for pass_ in passes] == [(3, 5, 1), (3, 7, 1), (7, 5, 1)]
        assert output(BatchedGemm(2, 3, 5, 7), FORWARD) == (3, 5, 2)
        assert output(LstmCell(4, 8, 16), FORWARD) == (4, 64, 1)
        assert output(LstmCell(4, 8, 16), BACKWARD_DATA) is None
        conv = Conv2d(2, 8, 10, 12, 6, (3, 3), groups=2)
        assert output(conv, FORWARD) == (2 * 8 * 10, 3, 2)
        assert output(conv, BACKWARD_DATA) == (2 * 10 * 12, 4, 2)
        assert output(conv, BACKWARD_WEIGHTS) is None


PAGEABLE = {
    "to": "Memcpy HtoD (Pageable -> Device)",
    "from": "Memcpy DtoH (Device -> Pageable)",
}


class TestCopies:
    """What goes to the card and comes back, and memory that is asked for."""

    @pytest.mark.parametrize(("part", "way"), [(TO_GPU, "to"), (FROM_GPU, "from")])
    def test_pageable_memory(self, part: str, way: str, healthy: Evidence) -> None:
        seconds = 0.1 * healthy.measured_s
        copied = with_part(healthy, part, seconds)
        slow = only(copies(with_card(copied, operations_s={PAGEABLE[way]: seconds})))
        assert (slow.cause, slow.seconds) == (f"copies {way} the card", seconds)
        assert "pageable" in slow.evidence[1]
        assert "pin" in slow.remedy
        pinned = {"Memcpy HtoD (Pinned -> Device)": seconds}
        fast = only(copies(with_card(copied, operations_s=pinned)))
        assert "pin" not in fast.remedy

    def test_small_copies(self, healthy: Evidence) -> None:
        assert not list(copies(with_part(healthy, TO_GPU, 0.01 * healthy.measured_s)))
        assert not list(copies(healthy))

    def test_memory_that_is_asked_for(self, healthy: Evidence) -> None:
        seconds = 0.2 * healthy.measured_s
        asked = with_part(healthy, ALLOCATING, seconds)
        assert only(allocation(asked)).seconds == seconds
        assert "allocation on the card" in [one.cause for one in findings(asked, {})]
        assert "allocation on the card" not in [one.cause for one in findings(healthy, {})]


def spans_of(network: Network, kernel_ns: int) -> tuple[int, list[list[Any]]]:
    """A call whose layers take so long on the GPU each, after a copy, and its duration."""
    spans = [Span(PAGEABLE["to"], "", COPY, 1000, 1000 + kernel_ns, DEVICE_THREAD)]
    now = 1000 + kernel_ns
    for layer in network.layers[1:]:
        spans.append(Span("sgemm", layer.name, KERNEL, now, now + kernel_ns, DEVICE_THREAD))
        now += kernel_ns
    spans.append(Span("aten::linear", "", DISPATCH, 0, 1000))
    return now, [list(span) for span in spans]


def test_a_run_that_was_looked_at_has_its_ledger_and_findings(tmp_path: Path) -> None:
    """From a profile in a run file: copies of a tenth of the time, and a card that is named."""
    network = perceptron("wide", width=4096)
    run = plant_on_gpu(tmp_path / "a.kprof", [network], Gpu(lambda k: works(k, 1e12)), batch=8192)
    (case,) = case_results(run)
    stored = stored_case(run, case)
    each_ns = round(case.measured.value_s * 1e9 / len(network.layers))
    duration_ns, spans = spans_of(network, each_ns)
    profile = {"plain_ns": [duration_ns], "calls": [{"duration_ns": duration_ns, "spans": spans}]}
    run.add_evidence(stored.id, PROFILE, profile)
    run.add_evidence(stored.id, FACTS, {"variables": {"KERNELPROF_TF32": "1"}})
    (found,) = results(run).cases
    assert found.diagnosis is not None
    ledger = found.diagnosis.ledger
    assert sum(part.seconds for part in ledger) == pytest.approx(found.measured.value_s)
    by_part = {part.part: part.seconds for part in ledger if not part.layer}
    share = 1 / len(network.layers)
    assert by_part[TO_GPU] == pytest.approx(share * found.measured.value_s, rel=0.01)
    assert by_part[RESIDUAL] == pytest.approx(0, abs=1e-9)
    assert {part.layer for part in ledger if part.part == KERNELS} == {
        layer.name for layer in network.layers[1:]
    }
    (copied,) = [one for one in found.diagnosis.findings if one.cause == "copies to the card"]
    assert "pageable" in copied.evidence[1]
    run.close()


def test_a_profiler_that_sees_the_cpu_alone_is_missing_evidence(tmp_path: Path) -> None:
    network = perceptron("tiny", width=64)
    run = plant_on_gpu(tmp_path / "a.kprof", [network], Gpu(works))
    (case,) = case_results(run)
    stored = stored_case(run, case)
    span = list(Span("aten::linear", "fc1", DISPATCH, 0, 900))
    profile = {"plain_ns": [1000], "calls": [{"duration_ns": 1000, "spans": [span]}]}
    run.add_evidence(stored.id, PROFILE, profile)
    (found,) = results(run).cases
    assert found.diagnosis is not None
    assert found.diagnosis.ledger == ()
    assert found.diagnosis.missing == {PROFILE: "it shows nothing of what the GPU does"}
    assert [one.cause for one in found.diagnosis.findings] == ["launch-bound"]
    run.close()
