"""Cases judged: what cannot be is refused, what was disturbed is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernelprof.analysis import failures, results
from kernelprof.bench_results import primitive_results
from kernelprof.ceilings import Ceilings
from kernelprof.disturbance import WHOLE
from kernelprof.measured import IMPOSSIBLE, NOT_COLD, known_to, load
from kernelprof.plan import Case, Options, StopRule, alone
from kernelprof.probes.compute_bound import Conv2d, Gemm
from kernelprof.probes.memory_bound import Copy
from kernelprof.probes.network import INFER, Builder, Network
from kernelprof.probes.primitive import FORWARD, Primitive
from kernelprof.reports.verdict import verdict
from kernelprof.runfile import RunFile
from tests.test_roofline import BYTES_PER_S, DRAM, FLOP_PER_S, OF_ONE_THREAD
from tests.test_roofline import planted as planted_ceilings

STOP = StopRule()
OPTIONS = Options(
    networks=(),
    engines=("fake",),
    placements=((0,),),
    modes=(INFER,),
    batches=(),
    quick=False,
    budget_s=1.0,
    stop=STOP,
)
GEMM = Gemm(1000, 1000, 1000)
LEAST_NS = GEMM.flop(FORWARD) / FLOP_PER_S["float32"] * 1e9


def sample(ns: float, waited_ns: int = 0) -> list[int]:
    return [1, 0, round(ns), waited_ns, 0, 0, 0, 0, 0, 0]


def described_kernel(layer: str, primitive: Primitive) -> dict[str, object]:
    """A forward kernel as a worker describes it."""
    flop = primitive.flop(FORWARD)
    return {
        "layer": layer,
        "primitives": [primitive.to_json()],
        "passes": [FORWARD],
        "flop": flop,
        "compute_flop": flop if primitive.compute_bound else 0,
        "least_bytes": primitive.least_bytes(FORWARD),
        "cold_bytes": 0,
        "lukewarm": False,
        "error": 0.0,
        "failure": None,
    }


ON_GPU = Ceilings(
    "f",
    {},
    {"cuda:0": replace(planted_ceilings({**FLOP_PER_S, "tf32": 4e11}, BYTES_PER_S), cpus=())},
)
FAST = [(n, sample(LEAST_NS / 2)) for n in range(6)]  # twice as fast as in float32


class Planted:
    """A run file with the times of one primitive."""

    def __init__(self, path, primitive, ceilings=OF_ONE_THREAD, device="cpu", **kernel) -> None:
        options = {**OPTIONS.to_json(), "primitives": [primitive.to_json()]}
        meta = {"kernelprof": "0", "command": "", "started": "", "machine": {}}
        self.file = RunFile.create(path, {**meta, "options": options})
        network = alone(primitive)
        self.file.add_network(network.to_json())
        case = Case(network.name, "fake", (0,), 1, INFER, False, device)
        self.case_id = self.file.add_case(case, False)
        described = {**described_kernel(primitive.kind, primitive), **kernel}
        self.file.describe_case(self.case_id, None, [described])
        if ceilings is not None:
            self.file.record("ceilings", ceilings.to_json())

    def add(self, *samples: list[int]) -> None:
        """A process that takes one round for each sample."""
        worker = self.file.add_worker("fake", (0,), {})
        begun = len(self.file.rounds(self.case_id))
        rounds = [
            {"round": begun + n, "whole": None, "kernels": {"0": own}}
            for n, own in enumerate(samples)
        ]
        self.file.add_turn(self.case_id, worker, {"turn_ns": 1, "rounds": rounds})


@pytest.fixture
def planted(tmp_path):
    made = []

    def _planted(primitive=GEMM, **changes) -> Planted:
        made.append(Planted(tmp_path / "a.kprof", primitive, **changes))
        return made[-1]

    yield _planted
    for one in made:
        one.file.close()


class TestCeiling:
    """Rule 8: a result above the machine's measured ceiling is a bug of the measurement."""

    def test_what_is_too_fast_is_refused(self, planted):
        run = planted()
        run.add(*[sample(0.95 * LEAST_NS)] * 6)
        assert list(primitive_results(run.file)) == []
        (failure,) = failures(run.file)
        assert (failure.kind, failure.passes) == (IMPOSSIBLE, (FORWARD,))
        assert "19.0 ms is less than the 20.0 ms" in failure.reason

    @pytest.mark.parametrize("factor", [0.985, 1.0, 1.4])
    def test_what_can_be_is_a_result(self, planted, factor):
        run = planted()
        run.add(*[sample(factor * LEAST_NS)] * 6)
        (found,) = primitive_results(run.file)
        assert found.attained == pytest.approx(1 / factor, rel=1e-3)
        assert list(failures(run.file)) == []

    def test_an_interval_that_reaches_the_ceiling_is_no_proof(self, planted):
        run = planted()
        run.add(*[sample(factor * LEAST_NS) for factor in (0.9, 0.9, 0.9, 0.9, 1.1, 1.1)])
        assert len(list(primitive_results(run.file))) == 1

    def test_without_ceilings_nothing_is_refused(self, planted):
        run = planted(ceilings=None)
        run.add(*[sample(0.1 * LEAST_NS)] * 6)
        assert len(list(primitive_results(run.file))) == 1

    def test_winograd_is_faster_than_the_direct_algorithm_may_be(self, planted):
        tiled = Conv2d(1, 64, 56, 56, 64, (3, 3))
        run = planted(tiled)
        run.add(*[sample(0.5 * tiled.flop(FORWARD) / FLOP_PER_S["float32"] * 1e9)] * 6)
        assert len(list(primitive_results(run.file))) == 1

    @pytest.mark.parametrize(
        ("facts", "possible"),
        [({}, False), ({"KERNELPROF_TF32": "0"}, False), ({"KERNELPROF_TF32": "1"}, True)],
    )
    def test_an_engine_that_may_round_to_tf32_is_bound_by_its_rate(self, tmp_path, facts, possible):
        run = Planted(tmp_path / "a.kprof", GEMM, ON_GPU, device="cuda:0")
        worker = run.file.add_worker("fake", (0,), {"variables": facts})
        run.file.add_worker("other", (0,), {"variables": {"KERNELPROF_TF32": "1"}})
        turn = [{"round": n, "whole": None, "kernels": {"0": s}} for n, s in FAST]
        run.file.add_turn(run.case_id, worker, {"turn_ns": 1, "rounds": turn})
        found = list(primitive_results(run.file))
        assert len(found) == possible
        if possible:
            assert found[0].attained == pytest.approx(0.5)  # of what TF32 allows
        else:
            (failure,) = failures(run.file)
            assert "if `kernelprof machine --device cuda:0 --again` finds" in failure.reason
        run.file.close()

    def test_a_layer_that_is_too_fast_is_not_covered(self, tmp_path):
        """In a network it fails alone, and is not part of the prediction."""
        net = Builder()
        x = net.relu("relu1", net.fully_connected("fc1", net.input(1000), 1000))
        net.softmax_loss(x)
        network = Network("small", "tests", tuple(net.layers), batch=1000, quick_batch=1000)
        run = small_run(tmp_path, network, fast="fc1")
        found = results(run)
        (case,) = found.cases
        assert case.uncovered == ("fc1",)
        assert case.coverage == 0
        refused = [(f.kind, f.passes, f.reason[:5]) for f in found.failures]
        assert refused == [(IMPOSSIBLE, (FORWARD,), "fc1: ")] * 2  # the product and its bias
        assert verdict(found)[0] == "1 of 1 case measured."
        run.close()


def small_run(folder, network: Network, fast: str) -> RunFile:
    """Six rounds of a network in which one layer takes a nanosecond, and the others a second."""
    meta = {"kernelprof": "0", "command": "", "started": "", "machine": {}}
    run = RunFile.create(folder / "b.kprof", {**meta, "options": OPTIONS.to_json()})
    run.record("ceilings", OF_ONE_THREAD.to_json())
    run.add_network(network.to_json())
    case_id = run.add_case(Case("small", "fake", (0,), 1000, INFER), False)
    described, times = [], {}
    for layer in network.layers:
        for primitive in network.primitives(layer, 1000, INFER):
            times[str(len(described))] = sample(1 if layer.name == fast else 1e9)
            described.append(described_kernel(layer.name, primitive))
    run.describe_case(case_id, 1, described)
    rounds = [{"round": n, "whole": sample(3e9), "kernels": times} for n in range(6)]
    run.add_turn(case_id, run.add_worker("fake", (0,), {}), {"turn_ns": 1, "rounds": rounds})
    return run


class TestCold:
    """Cold operands are verified by the bandwidth that they imply."""

    COPY = Copy(4_000_000)
    MEMORY_NS = 16e6 / BYTES_PER_S[DRAM] * 1e9

    def test_what_comes_faster_than_memory_gives_was_not_cold(self, planted):
        run = planted(self.COPY, cold_bytes=16_000_000)
        run.add(*[sample(0.9 * self.MEMORY_NS)] * 6)
        (failure,) = failures(run.file)
        assert failure.kind == NOT_COLD
        assert "11.1 GB/s, but memory gives 10.0 GB/s" in failure.reason

    def test_what_comes_as_memory_gives_it_was(self, planted):
        run = planted(self.COPY, cold_bytes=16_000_000)
        run.add(*[sample(1.1 * self.MEMORY_NS)] * 6)
        (found,) = primitive_results(run.file)
        assert (found.cold_bytes, found.lukewarm) == (16_000_000, False)
        assert found.attained == pytest.approx(1 / 1.1, rel=1e-3)

    def test_what_is_known_to_be_lukewarm_may_be_faster(self, planted):
        run = planted(self.COPY, cold_bytes=16_000_000, lukewarm=True)
        run.add(*[sample(0.9 * self.MEMORY_NS)] * 6)
        (found,) = primitive_results(run.file)
        assert found.lukewarm


class TestSampling:
    """How a case was sampled is told with its result."""

    def test_disturbed_rounds_are_left_out_and_counted(self, planted):
        run = planted()
        slow = sample(3 * LEAST_NS, waited_ns=round(LEAST_NS))
        run.add(*[sample(1.5 * LEAST_NS)] * 4, slow, slow)
        (found,) = primitive_results(run.file)
        assert found.seconds.high_s == pytest.approx(1.5 * LEAST_NS * 1e-9)
        assert (found.sampling.disturbed, found.sampling.rounds) == (2, 6)
        assert not found.sampling.unavoidable

    def test_too_many_stay_and_it_is_said(self, planted):
        run = planted()
        slow = sample(3 * LEAST_NS, waited_ns=round(LEAST_NS))
        run.add(sample(1.5 * LEAST_NS), *[slow] * 5)
        (found,) = primitive_results(run.file)
        assert found.sampling.unavoidable
        assert found.seconds.value_s == pytest.approx(3 * LEAST_NS * 1e-9)

    def test_processes_widen_the_interval(self, planted):
        run = planted()
        run.add(*[sample(1.5 * LEAST_NS)] * 9)
        run.add(*[sample(1.8 * LEAST_NS)] * 3)
        (found,) = primitive_results(run.file)
        assert found.sampling.processes == 2
        assert found.seconds.value_s == pytest.approx(1.5 * LEAST_NS * 1e-9)
        assert found.seconds.high_s == pytest.approx(1.8 * LEAST_NS * 1e-9)

    def test_an_unmet_criterion_is_named(self, planted):
        run = planted()
        run.add(*[sample(factor * LEAST_NS) for factor in (1.5, 1.6, 1.7, 1.8, 1.9, 2.0)])
        run.file.stop(run.case_id, "budget")
        (found,) = primitive_results(run.file)
        assert found.sampling.unmet
        assert found.sampling.half_width == pytest.approx(0.25 / 1.75)
        assert found.sampling.asked_half_width == STOP.half_width


def test_the_stop_rule_looks_at_the_ratio_of_a_network_and_at_the_worst_kernel():
    rounds = {n: {WHOLE: 10.0 * n, 0: 10.0 * n, 1: 1.0} for n in range(1, 7)}
    assert known_to(rounds, whole=False) == pytest.approx((60 - 10) / 2 / 35)
    assert known_to({n: {WHOLE: 2.0 * n, 0: 1.0 * n} for n in range(1, 7)}, whole=True) == 0
    assert known_to({}, whole=True) == known_to({}, whole=False) == float("inf")


def test_a_case_without_ceilings_of_its_thread_count_is_not_judged(planted):
    run = planted()
    run.add(*[sample(0.1 * LEAST_NS)] * 6)
    (stored,) = run.file.cases()
    assert load(run.file, stored, None).kernels[0].failure is None
    assert load(run.file, stored, OF_ONE_THREAD).kernels[0].failure[0] == IMPOSSIBLE
