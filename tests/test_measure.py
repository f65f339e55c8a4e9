"""Measuring a plan with a fake engine, whose truth is known and whose faults are planted."""

from __future__ import annotations

import dataclasses
import fcntl
import sys
from pathlib import Path
from statistics import median

import pytest

from kernelprof import measure
from kernelprof.analysis import results
from kernelprof.chains import DEPTHS, calls
from kernelprof.context import kinds
from kernelprof.disturbance import WHOLE, quiet
from kernelprof.engines import Environment
from kernelprof.errors import UsageError
from kernelprof.machine import usable_cpus
from kernelprof.measure import Measurement, Patience, Report, sole_measurement
from kernelprof.plan import Options, StopRule, groups
from kernelprof.prediction import call_cost, has_kernels, kernels_ns, predicted_ns
from kernelprof.probes.clock import ClockFacts
from kernelprof.probes.network import INFER, MODES, TRAIN, Builder, Network
from kernelprof.probes.primitive import COLD, WEIGHTS_COLD
from kernelprof.results import CaseResult, Results
from kernelprof.runfile import RunFile

FAKE = str(Path(__file__).resolve().parent / "fake_engine.py")
KERNEL_NS, FLOP_PER_NS, CALL_NS, DISPATCH_NS = 40_000, 50, 200_000, 8_000
SHORT = StopRule(least=3, most=3)


def small() -> Network:
    """A network with a convolution, and with kernels that take different times."""
    net = Builder()
    x = net.relu("relu1", net.convolution("conv1", net.input(3, 8, 8), 16, kernel=3, padding=1))
    x = net.relu("relu2", net.fully_connected("fc2", x, 64))
    net.softmax_loss(net.fully_connected("fc3", x, 10))
    return Network("small", "tests", tuple(net.layers), batch=4, quick_batch=4)


def options(**changed) -> Options:
    standard = Options(
        networks=(small(),),
        engines=("fake",),
        placements=(usable_cpus()[:1],),
        modes=MODES,
        batches=(),
        quick=False,
        budget_s=30.0,
        stop=SHORT,
    )
    return dataclasses.replace(standard, **changed)


class Run:
    """A measurement into a file of its own."""

    def __init__(
        self,
        folder: Path,
        chosen: Options,
        patience: Patience,
        calibrate: bool,
        chains: str = "",  # what the names of chains begin with that are measured
    ) -> None:
        meta = {"kernelprof": "0", "command": "", "started": "", "machine": {}}
        self.file = RunFile.create(folder / "a.kprof", {**meta, "options": chosen.to_json()})
        self.done = []
        self.environments = {
            "fake": Environment("fake", sys.executable, FAKE),
            "numpy": Environment("numpy", sys.executable, "numpy"),
            "absent": None,
        }
        self.planned = [
            group
            for group in groups(chosen)
            if not group.calibration or (calibrate and group.network.name.startswith(chains))
        ]
        self.chosen, self.patience = chosen, patience
        self.again()

    def again(self) -> None:
        """Measure what the file lacks."""
        report = Report(group_done=self.done.append)
        measurement = Measurement(self.file, self.chosen, self.environments, report, self.patience)
        measurement.measure(self.planned)

    @property
    def failures(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Kind and reason by engine and mode."""
        found = self.file.failures()
        return {
            (stored.case.engine, stored.case.mode): found[stored.id]
            for stored in self.file.cases()
            if stored.id in found
        }

    @property
    def complete(self) -> set[tuple[str, str]]:
        """Engine and mode of the cases with all their rounds."""
        return {
            (stored.case.engine, stored.case.mode)
            for stored in self.file.cases()
            if stored.stopped_by and self.file.rounds(stored.id)
        }

    def results(self) -> Results:
        return results(self.file)

    def case(self, mode: str) -> CaseResult:
        """The fake engine's case."""
        return next(c for c in self.results().cases if (c.engine, c.mode) == ("fake", mode))


@pytest.fixture
def measured(tmp_path):
    runs = []

    def _measured(patience=Patience(), calibrate=False, changes=None, **variables) -> Run:  # noqa: B008
        planted = tuple(("fake", f"FAKE_{name}", str(value)) for name, value in variables.items())
        chosen = options(variables=planted, **(changes or {}))
        runs.append(Run(tmp_path, chosen, patience, calibrate))
        return runs[-1]

    yield _measured
    for run in runs:
        run.file.close()


REFERENCE_CASES = {("numpy", INFER), ("numpy", TRAIN)}
FAKE_CASES = {("fake", INFER), ("fake", TRAIN)}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A run with call costs, in which all durations are planned."""
    planted = {
        "FAKE_KERNEL_NS": KERNEL_NS,
        "FAKE_FLOP_PER_NS": FLOP_PER_NS,
        "FAKE_CALL_NS": CALL_NS,
        "FAKE_DISPATCH_NS": DISPATCH_NS,
    }
    variables = tuple(("fake", name, str(value)) for name, value in planted.items())
    stop = StopRule(half_width=0.0, least=15, most=30)
    chosen = options(variables=variables, stop=stop, budget_s=90.0)
    run = Run(tmp_path_factory.mktemp("known"), chosen, Patience(), calibrate=True)
    yield run
    run.file.close()


class TestTruth:
    """What was planned is what comes out.

    On a busy machine a median may hold somebody else's time slice, so the best of the rounds is
    held against the truth: a wait never ends early, and one quiet round is enough.
    """

    def at_best(self, run, stored):
        """Rounds in which nothing was disturbed."""
        rounds = run.file.call_ns(stored.id)
        return {0: {place: min(s[place] for s in rounds.values()) for place in rounds[0]}}

    def kernel_truth(self, run, stored):
        kernels = run.file.kernels(stored.id)
        return [KERNEL_NS + kernel.flop // FLOP_PER_NS for kernel in kernels]

    def fake_cases(self, run):
        """Those that are short enough for a quiet round."""
        names = {small().name, *(calls(depth).name for depth in DEPTHS)}
        cases = [stored for stored in run.file.cases() if stored.case.engine == "fake"]
        return [stored for stored in cases if stored.case.network in names]

    def test_every_kernel_takes_what_was_planned(self, known):
        for stored in self.fake_cases(known):
            best = self.at_best(known, stored)[0]
            for place, truth in enumerate(self.kernel_truth(known, stored)):
                assert truth <= best[place] <= 1.1 * truth  # a call costs a microsecond of Python

    def test_the_whole_takes_its_kernels_and_the_calling(self, known):
        for stored in self.fake_cases(known):
            parts = self.kernel_truth(known, stored)
            truth = sum(parts) + CALL_NS + DISPATCH_NS * len(parts)
            assert truth <= self.at_best(known, stored)[0][WHOLE] <= 1.02 * truth

    @pytest.mark.parametrize("mode", MODES)
    def test_prediction_comes_out_right(self, known, mode):
        *chains, network = [s for s in self.fake_cases(known) if s.case.mode == mode]
        assert all(stored.calibration for stored in chains)
        own = kinds(known.file.kernels(network.id))
        cost = call_cost(
            [(kinds(known.file.kernels(s.id)), self.at_best(known, s)) for s in chains]
        ).ns(own)
        best = self.at_best(known, network)
        predicted = predicted_ns(best, lambda sample: cost)
        assert predicted[0] == pytest.approx(best[0][WHOLE], rel=0.02)
        assert cost == pytest.approx(CALL_NS + DISPATCH_NS * len(own), rel=0.15)
        assert cost > 0.1 * best[0][WHOLE]  # so that without it the prediction would be wrong

    def test_the_report_is_made_of_all_rounds(self, known):
        case = known.case(TRAIN)
        stored = self.fake_cases(known)[-1]
        times = known.file.times(stored.id)
        rounds = quiet(times).rounds.values()
        assert case.sampling.rounds == len(times)
        measured = median(s[WHOLE] for s in rounds if WHOLE in s)
        assert case.measured.value_s == pytest.approx(measured * 1e-9)
        summed = median(kernels_ns(s) for s in rounds if has_kernels(s)) * 1e-9
        beyond_s = sum(case.beyond_s.values())
        assert case.predicted.value_s == pytest.approx(summed + beyond_s, rel=0.01)
        assert case.coverage == 1
        assert case.uncovered == ()
        assert case.parameters == small().parameters()
        assert case.flop == small().flop(4, TRAIN)
        assert case.reference_s > 0

    def test_samples_are_long_enough_for_the_clock(self, known):
        facts = known.file.workers()[0][2]
        for stored in self.fake_cases(known):
            for sample in known.file.samples(stored.id):
                clock = ClockFacts(1, facts["clock_block_ns"], facts["clock_loop_ns"])
                harness = clock.harness_ns(sample["calls"])
                assert harness < 5e-3 * sample["duration_ns"]

    def test_time_spent_adds_up(self, known):
        spent = known.file.spent()
        sampled = sum(
            sample["duration_ns"]
            for stored in known.file.cases()
            for sample in known.file.samples(stored.id)
        )
        assert spent["samples"] == sampled
        assert spent["samples"] + spent["warm-up"] < spent["total"]

    def test_the_reference_is_timed_in_kernels_only(self, known):
        for stored in known.file.cases():
            whole = {WHOLE in sample for sample in known.file.call_ns(stored.id).values()}
            assert whole == {stored.case.engine == "fake"}
            assert all(kernels_ns(s) > 0 for s in known.file.call_ns(stored.id).values())

    def test_groups_are_told_as_they_are_done(self, known):
        assert [group.network.name for group in known.done] == [
            "chain-calls-1",
            "chain-calls-2",
            "chain-calls-4",
            "chain-calls-convolution-1",
            "chain-calls-convolution-4",
            "chain-plain",
            "chain-activated",
            "chain-images",
            "chain-products",
            "small",
        ]


class TestFaults:
    """One case's fault is one case's failure."""

    def test_a_crash_while_building(self, measured):
        run = measured(CRASH="sgd_update")
        assert set(run.failures) == {("fake", TRAIN)}
        kind, reason = run.failures["fake", TRAIN]
        assert kind == "crash"
        assert "SIGKILL" in reason
        assert run.complete == REFERENCE_CASES | {("fake", INFER)}

    def test_a_crash_of_both_modes(self, measured):
        run = measured(CRASH="conv2d")
        assert set(run.failures) == FAKE_CASES
        assert run.complete == REFERENCE_CASES

    def test_a_crash_in_a_turn(self, measured):
        run = measured(CRASH_TURN=2, changes={"stop": StopRule(least=9, most=9, half_width=0)})
        assert {case: kind for case, (kind, _) in run.failures.items()} == {
            ("fake", TRAIN): "crash"
        }
        assert run.complete == REFERENCE_CASES | {("fake", INFER)}
        for stored in run.file.cases():
            rounds = run.file.rounds(stored.id)
            assert len(rounds) == (3 if stored.id in run.file.failures() else 9)

    def test_hanging_while_building(self, measured):
        run = measured(Patience(build_s=3.0), HANG="sgd_update")
        assert {case: kind for case, (kind, _) in run.failures.items()} == {
            ("fake", TRAIN): "timeout"
        }
        assert "no answer within 3 s (build)" in run.failures["fake", TRAIN][1]
        assert run.complete == REFERENCE_CASES | {("fake", INFER)}

    def test_hanging_in_a_turn(self, measured):
        run = measured(Patience(turn_s=3.0), HANG_TURN=1)
        assert set(run.failures) == {("fake", TRAIN)}
        assert "no answer within 3 s (turn)" in run.failures["fake", TRAIN][1]
        assert run.complete == REFERENCE_CASES | {("fake", INFER)}

    @pytest.mark.timeout(60)  # it may go on trying both for ever
    def test_patience_for_each_mode_but_not_for_both(self, measured):
        run = measured(Patience(build_s=2.0), BUILD_S=1.5)
        assert {kind for kind, _ in run.failures.values()} <= {"timeout"}
        assert run.complete >= REFERENCE_CASES

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [("UNSUPPORTED", "unsupported"), ("WRONG", "wrong_result"), ("MEMORY", "memory")],
    )
    def test_a_kernel_that_cannot_be_timed(self, fault, kind, measured):
        run = measured(**{fault: "conv2d"})
        assert run.failures == {}
        assert run.complete == REFERENCE_CASES | FAKE_CASES
        for stored in run.file.cases():
            failed = {k.layer: k.failure[0] for k in run.file.kernels(stored.id) if k.failure}
            assert failed == ({"conv1": kind} if stored.case.engine == "fake" else {})
        for mode in MODES:
            case = run.case(mode)
            network = small()
            conv = network.primitives(network.layer("conv1"), 4, mode)[0]
            passes = network.passes(network.layer("conv1"), conv, mode)
            missing = sum(conv.flop(pass_) for pass_ in passes)
            assert case.coverage == pytest.approx(1 - missing / network.flop(4, mode))
            assert 0 < case.coverage < 1
            assert case.uncovered == ("conv1",)
            layer = next(layer for layer in case.layers if layer.name == "conv1")
            assert layer.engine_s is None
            assert layer.reference_s > 0

    def test_no_memory_for_the_network(self, measured):
        run = measured(MEMORY="network")
        assert run.failures == dict.fromkeys(FAKE_CASES, ("memory", "no room for it"))
        assert run.complete == REFERENCE_CASES

    def test_other_parameters_than_defined(self, measured):
        run = measured(PARAMETERS=7)
        assert {kind for kind, _ in run.failures.values()} == {"wrong_result"}
        assert set(run.failures) == FAKE_CASES
        wanted = small().parameters()
        assert f"{wanted + 7} parameters" in run.failures["fake", INFER][1]
        assert f"has {wanted}" in run.failures["fake", INFER][1]

    def test_noise_is_survived(self, measured):
        assert measured(NOISE=1).complete == REFERENCE_CASES | FAKE_CASES

    def test_an_engine_that_is_not_installed(self, measured):
        run = measured(changes={"engines": ("fake", "absent"), "modes": (INFER,)})
        assert set(run.failures) == {("absent", INFER)}
        assert run.failures["absent", INFER][0] == "no_engine"
        assert "kernelprof engines install absent" in run.failures["absent", INFER][1]
        assert run.complete == {("fake", INFER), ("numpy", INFER)}

    def test_an_engine_that_is_gone(self, measured):
        run = measured(ABSENT=1, changes={"modes": (INFER,)})
        assert run.failures == {("fake", INFER): ("no_engine", "No module named 'fake'")}

    def test_too_large_for_the_memory(self, measured):
        run = measured(changes={"batches": (10**9,)})
        assert {kind for kind, _ in run.failures.values()} == {"memory"}
        assert set(run.failures) == REFERENCE_CASES | FAKE_CASES
        assert "GB are needed" in run.failures["fake", TRAIN][1]
        assert run.file.workers() == []


class TestStopping:
    """What ends the rounds."""

    def reasons(self, run):
        return {s.stopped_by for s in run.file.cases() if s.case.engine == "fake"}

    def rounds(self, run):
        return {len(run.file.rounds(stored.id)) for stored in run.file.cases()}

    def test_the_most_rounds(self, measured):
        run = measured(changes={"stop": StopRule(half_width=0.0, least=3, most=7)})
        assert (self.reasons(run), self.rounds(run)) == ({"rounds"}, {7})

    def test_a_narrow_interval(self, measured):
        run = measured(changes={"stop": StopRule(half_width=1e9, least=6, most=60)})
        assert (self.reasons(run), self.rounds(run)) == ({"interval"}, {6})

    def test_the_budget(self, measured):
        stop = StopRule(half_width=0.0, least=6, most=60)
        run = measured(changes={"stop": stop, "budget_s": 0.001})
        assert (self.reasons(run), self.rounds(run)) == ({"budget"}, {3})


class TestProcesses:
    """Fresh ones take a case's rounds one after another."""

    def workers(self, run) -> dict[int, list[int]]:
        """For each case the processes, in the order of its rounds."""
        return {
            stored.id: [next(iter(sample.values())).worker for sample in times.values()]
            for stored in run.file.cases()
            if (times := run.file.times(stored.id))
        }

    def test_each_takes_its_share_of_the_rounds(self, measured):
        stop = StopRule(half_width=0.0, least=9, most=9)
        run = measured(changes={"stop": stop, "processes": 3})
        for found in self.workers(run).values():
            assert len(found) == 9
            assert len(set(found)) == 3
            assert found == sorted(found)
            assert {found.count(worker) for worker in found} == {3}
        assert {case.sampling.processes for case in run.results().cases} == {3}

    def test_one_process_serves_all_networks_of_a_placement(self, measured):
        run = measured(calibrate=True)
        engines = [engine for engine, _, _ in run.file.workers()]
        assert sorted(engines) == ["fake", "numpy"]

    def test_a_known_case_is_still_looked_at_by_every_process(self, measured):
        stop = StopRule(half_width=1e9, least=3, most=60)
        run = measured(changes={"stop": stop, "processes": 3})
        for found in self.workers(run).values():
            assert len(set(found)) == 3

    def test_a_run_that_is_carried_on_with_goes_on_with_the_next(self, measured):
        stop = StopRule(half_width=0.0, least=9, most=9)
        run = measured(changes={"stop": stop, "processes": 3})
        before = self.workers(run)
        run.again()
        assert self.workers(run) == before


class TestCache:
    """Operands that are to be cold: the worker is told so, and tells what came of it."""

    @pytest.mark.parametrize("cache", [WEIGHTS_COLD, COLD])
    def test_cold_bytes_are_known(self, measured, cache):
        run = measured(changes={"cache": cache, "modes": (INFER,)})
        found = {
            (kernel.layer, kernel.primitives[0].kind): kernel
            for stored in run.file.cases()
            for kernel in run.file.kernels(stored.id)
        }
        product, relu = found["fc2", "gemm"], found["relu1", "activation"]
        weights = product.primitives[0].operand("b").size_bytes
        inputs = product.primitives[0].operand("a").size_bytes
        assert product.cold_bytes == weights + (inputs if cache == COLD else 0)
        assert bool(relu.cold_bytes) == relu.lukewarm == (cache == COLD)  # it is tiny

    def test_warm_is_what_is_not_said(self, measured):
        run = measured(changes={"modes": (INFER,)})
        kernels = [k for s in run.file.cases() for k in run.file.kernels(s.id)]
        assert {(kernel.cold_bytes, kernel.lukewarm) for kernel in kernels} == {(0, False)}


class TestLock:
    """One measurement at a time."""

    def test_a_second_one_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(measure, "LOCK", tmp_path / "lock")
        with (
            sole_measurement(),
            pytest.raises(UsageError, match="another kernelprof is measuring on this machine"),
            sole_measurement(),
        ):
            pass
        with sole_measurement():
            pass

    def test_another_users_lock_will_do(self, tmp_path, monkeypatch):
        lock = tmp_path / "lock"
        monkeypatch.setattr(measure, "LOCK", lock)
        lock.touch(mode=0o444)
        with sole_measurement(), lock.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
