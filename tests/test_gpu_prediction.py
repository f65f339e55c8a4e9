"""Predictions on a GPU: the planted truth comes back, whichever side is the slower one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kernelprof.analysis import case_results, context_results, contexts, results
from kernelprof.context import ACTIVATION, ChainSamples
from kernelprof.disturbance import WHOLE
from kernelprof.gpu.handover import HandOver, both_sides, hand_overs
from kernelprof.gpu.samples import GpuReading, GpuSample
from kernelprof.gpu.sides import DEVICE as DEVICE_BOUND
from kernelprof.gpu.sides import HOST as HOST_BOUND
from kernelprof.prediction import CallCost
from kernelprof.probes.decompose import Kernel
from kernelprof.probes.device import EVENTS, GRAPH
from kernelprof.probes.network import INFER, TRAIN, Builder, Network
from kernelprof.results import CaseResult
from kernelprof.runfile import RunFile
from tests.planted_gpu import CPUS, DEVICE, Gpu, plant_on_gpu
from tests.planted_run import perceptron

US = 1e-6


def works(kernel: Kernel, rate: float = 1e13) -> float:
    """A kernel that takes the GPU 2 us, and its flop."""
    return 2 * US + kernel.flop / rate


BIG = perceptron("big", width=4096)  # products of a millisecond
SMALL = perceptron("small", width=64)  # which all take but microseconds
Planted = Callable[..., RunFile]


@pytest.fixture
def planted(tmp_path: Path):
    made: list[RunFile] = []

    def _planted(network: Network, gpu: Gpu, **more) -> RunFile:
        made.append(plant_on_gpu(tmp_path / f"{len(made)}.kprof", [network], gpu, **more))
        return made[-1]

    yield _planted
    for run in made:
        run.close()


def only(run: RunFile) -> CaseResult:
    (case,) = case_results(run)
    assert case.predicted is not None
    assert case.gpu is not None
    return case


@pytest.mark.parametrize("calls", [1, 4, 40])
@pytest.mark.parametrize("mode", [INFER, TRAIN])
@pytest.mark.parametrize("network", [BIG, SMALL], ids=["big", "small"])
def test_the_truth_is_foretold(planted: Planted, network: Network, mode: str, calls: int) -> None:
    gpu = Gpu(lambda kernel: works(kernel, 1e12), calls=calls)
    case = only(planted(network, gpu, modes=(mode,)))
    assert case.error == pytest.approx(0, abs=1e-3)
    assert case.gpu.bound == (HOST_BOUND if network is SMALL else DEVICE_BOUND)


def test_the_sides_of_a_network_that_the_cpu_is_too_slow_for(planted: Planted) -> None:
    gpu = Gpu(works)
    case = only(planted(SMALL, gpu))
    kernels = sum(len(layer.kernels) for layer in case.layers)
    own = case.gpu
    assert own.host_s == pytest.approx(gpu.call_s + kernels * gpu.launch_s, rel=1e-3)
    assert own.device_s == pytest.approx(kernels * 2 * US, rel=0.05)
    assert own.gaps_s == pytest.approx(case.measured.value_s - own.device_s)
    assert (own.bound, own.clock) == (HOST_BOUND, GRAPH)
    for layer in case.layers:
        assert layer.sides.bound == HOST_BOUND
        assert layer.host_s == pytest.approx(len(layer.kernels) * gpu.launch_s, rel=1e-3)
        assert layer.device_s == pytest.approx(layer.engine_s, rel=1e-3)
        assert layer.sides.gaps_s == pytest.approx(layer.host_s - layer.device_s, abs=0.3 * US)


def test_the_sides_of_a_network_that_the_gpu_works_for(planted: Planted) -> None:
    case = only(planted(BIG, Gpu(lambda kernel: works(kernel, 1e12))))
    assert case.gpu.gaps_s < 0.05 * case.measured.value_s
    assert {layer.sides.bound for layer in case.layers} == {DEVICE_BOUND}


def test_kernels_calling_and_traits_add_up_to_the_prediction(planted: Planted) -> None:
    for network in (BIG, SMALL):
        case = only(planted(network, Gpu(works)))
        layers_s = sum(layer.engine_s for layer in case.layers)
        assert layers_s + sum(case.beyond_s.values()) == pytest.approx(case.predicted.value_s)


def test_what_a_kernel_costs_the_cpu_by_itself_is_learned_from_the_chains(planted: Planted) -> None:
    gpu = Gpu(works)
    (found,) = context_results(planted(SMALL, gpu))
    assert found.per_call_s == pytest.approx(gpu.call_s, rel=0.01)
    assert found.per_kernel_s == pytest.approx(-gpu.alone_s, rel=0.01)


def test_what_the_cpu_does_beside_its_kernels_is_not_foretold(planted: Planted) -> None:
    plain, late = (only(planted(SMALL, Gpu(works), extra_s=s)) for s in (0.0, 500 * US))
    assert late.predicted == plain.predicted
    assert late.gpu.gaps_s - plain.gpu.gaps_s == pytest.approx(500 * US, rel=0.02)


def images(name: str = "images") -> Network:
    """Convolutions with an activation behind each."""
    net = Builder()
    x = net.input(3, 64, 64)
    for number in range(1, 4):
        x = net.relu(f"relu{number}", net.convolution(f"conv{number}", x, 16, 3, padding=1))
    net.softmax_loss(net.fully_connected("fc", x, 10))
    return Network(name, "tests", tuple(net.layers), batch=8, quick_batch=8)


def test_a_trait_is_learned_from_what_the_gpu_is_busy_with(planted: Planted) -> None:
    """An activation that costs nothing behind a convolution: a chain that waits tells nothing."""

    def for_nothing(kernel: Kernel, before: str) -> float:
        return float((before, kernel.primitives[0].kind) != ("conv2d", "activation"))

    fused = Gpu(lambda kernel: 200 * US, within=for_nothing)
    run = planted(images(), fused, batch=8)
    assert contexts(run)["fake", CPUS].of(INFER).traits[ACTIVATION].share == pytest.approx(-1)
    assert only(run).error == pytest.approx(0, abs=1e-3)
    fast = replace(fused, works_s=lambda kernel: 1 * US)
    assert ACTIVATION not in contexts(planted(images(), fast))["fake", CPUS].of(INFER).traits


def test_an_engine_without_graphs_hides_what_the_gpu_takes_less_than_the_cpu(
    planted: Planted,
) -> None:
    """Kernels of 2 us that come every 19 us one by one come every 5 us within a network."""
    gpu = Gpu(works, alone_s=14 * US, graphs=False)
    case = only(planted(SMALL, gpu))
    assert case.layers[0].engine_s > 15 * US
    assert case.error == pytest.approx(0, abs=0.1)
    assert case.gpu.clock == EVENTS
    big = only(planted(BIG, replace(gpu, works_s=lambda kernel: works(kernel, 1e12))))
    assert big.error == pytest.approx(0, abs=0.02)


def test_the_reference_is_the_gpus_and_waits_for_nothing(planted: Planted) -> None:
    slow = Gpu(lambda kernel: 3 * works(kernel), launch_s=1.0)
    case = only(planted(BIG, Gpu(works), reference=slow))
    engine_s = sum(layer.engine_s for layer in case.layers)
    assert case.reference_s == pytest.approx(3 * engine_s, rel=1e-3)


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_interval_holds_the_measured_time(planted: Planted, noise: float) -> None:
    for network in (BIG, SMALL):
        case = only(planted(network, Gpu(works, noise=noise)))
        assert case.predicted.low_s <= case.measured.value_s <= case.predicted.high_s


def test_throttled_samples_are_counted_with_the_clock_they_had(planted: Planted) -> None:
    slow = [GpuReading(round_ * 10**8 + 50, 1_200_000_000, 80, 690.0, 0x04) for round_ in range(3)]
    fine = [GpuReading(round_ * 10**8 + 50, 1_900_000_000, 60, 500.0, 0) for round_ in range(3, 9)]
    case = only(planted(SMALL, Gpu(works), readings=[*slow, *fine]))
    places = 1 + sum(len(layer.kernels) for layer in case.layers)
    assert case.gpu.throttled >= 3 * places
    assert case.gpu.samples == 9 * places
    assert case.gpu.sm_hz == 1_900_000_000
    assert case.sampling.disturbed >= 3


def test_a_case_on_a_gpu_says_so(planted: Planted) -> None:
    (case,) = results(planted(SMALL, Gpu(works))).cases
    assert case.device == DEVICE


class TestHandOver:
    """The CPU's side, made of samples and of what the chains tell."""

    def test_the_chains_tell_the_sum_and_samples_the_shares(self) -> None:
        found = both_sides(
            ["gemm", "bias"], [7.0, 8.0], HandOver({0: 30.0, 1: 10.0}), CallCost(5.0, -9.0)
        )
        assert found.lead_ns == 5
        assert found.host_ns == pytest.approx([21 * 22 / 22, 1 * 22 / 22])
        assert found.host_sum_ns == pytest.approx(40 + 5 - 18)
        assert list(found.device_ns) == [7, 8]

    def test_no_kernel_costs_less_than_nothing_and_the_sum_stays(self) -> None:
        found = both_sides(
            ["gemm", "bias"], [1.0, 1.0], HandOver({0: 100.0, 1: 2.0}), CallCost(0.0, -20.0)
        )
        assert found.host_ns == pytest.approx([62.0, 0.0])

    def test_a_cost_that_is_larger_than_all_leaves_nothing(self) -> None:
        found = both_sides(["gemm"], [1.0], HandOver({0: 3.0}), CallCost(2.0, -50.0))
        assert (found.lead_ns, list(found.host_ns)) == (0.0, [0.0])

    def test_nothing_known_of_kernels_shares_equally(self) -> None:
        found = both_sides(["gemm", "gemm"], [1.0, 1.0], HandOver({}), CallCost(0.0, 4.0))
        assert list(found.host_ns) == [4, 4]

    def test_a_hidden_kernel_takes_no_longer_than_the_cpu(self) -> None:
        hidden = HandOver({0: 12.0, 1: 12.0}, frozenset({0}))
        found = both_sides(["gemm", "gemm"], [12.0, 12.0], hidden, CallCost(0.0, -9.0))
        assert list(found.device_ns) == pytest.approx([3, 12])

    def test_samples_by_round(self) -> None:
        samples = {
            0: {WHOLE: GpuSample(4, 0, 400, 80, 0), 0: GpuSample(10, 0, 100, 95, 0)},
            1: {0: GpuSample(10, 0, 100, 95, 60)},
            2: {0: GpuSample(10, 0, 100, 50, 0)},
        }
        found = hand_overs(samples)
        assert found[0] == HandOver({WHOLE: 20, 0: 9.5}, frozenset({0}), 4)
        assert found[1] == HandOver({0: 9.5}, frozenset(), 4)
        assert found[2] == HandOver({0: 5}, frozenset(), 4)
        assert hand_overs({0: {0: GpuSample(1, 0, 9, 9, 9)}})[0].calls == 1

    def test_only_samples_that_count_teach_what_calling_costs(self) -> None:
        found = {WHOLE: GpuSample(1, 0, 9, 9, 0), 0: GpuSample(1, 0, 5, 4, 5)}
        own = hand_overs(dict.fromkeys(range(3), found))
        chain = ChainSamples("a chain", (), {0: {WHOLE: 9.0, 0: 5.0}, 1: {0: 5.0}}, own)
        assert chain.calling == {0: {WHOLE: 9, 0: 4}, 1: {0: 4}}
        assert ChainSamples("on a CPU", (), {0: {0: 5.0}}).calling == {0: {0: 5}}
