"""Primitives by themselves: how sizes are written, which are measured, and what comes out."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from kernelprof import cli_measure, deepbench, measure, saturation
from kernelprof.analysis import failures, results
from kernelprof.bench import (
    AMPLE,
    BESIDE_S,
    LARGEST_SHARE,
    START_S,
    TIMES_CEILING,
    Pace,
    chosen,
    cost,
    cost_s,
    least_s,
    spread,
)
from kernelprof.bench_results import primitive_results
from kernelprof.ceilings import (
    DRAM,
    BytesCeiling,
    Ceilings,
    FlopCeiling,
    PlacementCeilings,
    Rate,
)
from kernelprof.deepbench import PARTS, PROBLEMS, problem_set
from kernelprof.disturbance import Rounds, quiet
from kernelprof.engines import Environment
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.fitness import BLOCK, Check
from kernelprof.machine import usable_cpus
from kernelprof.measure import Measurement
from kernelprof.measured import IMPOSSIBLE
from kernelprof.plan import Case, Options, StopRule, alone, needed_bytes, primitive_groups
from kernelprof.probes.attention import LayerNorm
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.memory_bound import Activation, Add, Dropout, Pool2d, SgdUpdate
from kernelprof.probes.network import INFER, MODES, TRAIN, Network
from kernelprof.probes.primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE
from kernelprof.probes.primitives import PRIMITIVES
from kernelprof.probes.reference_compute_bound import gemm_forward
from kernelprof.reports.bench import (
    bench_header,
    bench_lines,
    bench_verdict,
    finding_line,
    to_json,
)
from kernelprof.results import (
    Estimate,
    FailureResult,
    PrimitiveResult,
    Ratio,
    Results,
    Sampling,
)
from kernelprof.runfile import RunFile
from kernelprof.runner import open_run
from kernelprof.sizes import MOST_SIZES, example, primitives, read_file, sorted_out, written

from .test_cli import (  # noqa: F401  home is a fixture
    here,
    home,
    in_a_shell,
    make_home,
    plant_ceilings,
)
from .test_engine_contract import SAMPLES

FAKE = str(Path(__file__).resolve().parent / "fake_engine.py")
KERNEL_NS, FLOP_PER_NS = 40_000, 50
OPTIONS = Options(
    networks=(),
    engines=("fake",),
    placements=(usable_cpus()[:1],),
    modes=(INFER,),
    batches=(),
    quick=False,
    budget_s=30.0,
    stop=StopRule(least=3, most=3),
    primitives=(Gemm(64, 32, 16),),
)


def ceilings(flop_per_s=1e11, bytes_per_s=1e10):
    """A machine of two CPUs without caches."""
    found = {}
    for threads in (1, 2):
        rates = [Rate(threads * per_s, 0.0, 1) for per_s in (flop_per_s, bytes_per_s)]
        arithmetic = (FlopCeiling("x", "float32", rates[0], ""),)
        memory = (BytesCeiling(DRAM, "read", 1, rates[1]),)
        found[threads] = PlacementCeilings(
            tuple(range(threads)), "", rates[0], arithmetic, memory, {}
        )
    return Ceilings("x", found)


CEILINGS = ceilings()


class TestSizes:
    """From text to primitives, and back."""

    @pytest.mark.parametrize(
        ("kind", "text", "primitive"),
        [
            ("gemm", "512x256x64", Gemm(512, 256, 64)),
            ("gemm", "2x3x5:NN", Gemm(2, 3, 5)),
            ("gemm", "2x3x5:NT", Gemm(2, 3, 5, trans_b=True)),
            ("gemm", "2x3x5:TN", Gemm(2, 3, 5, trans_a=True)),
            ("gemm", " 2x3x5:TT ", Gemm(2, 3, 5, trans_a=True, trans_b=True)),
            ("gemm", "m=2, n=3, k=5, trans_b=true", Gemm(2, 3, 5, trans_b=True)),
            ("gemm", "m=2,n=3,k=5,dtype=float64", Gemm(2, 3, 5, dtype="float64")),
            ("gemm", "2x3x5:bf16", Gemm(2, 3, 5, dtype="bfloat16")),
            ("gemm", "2x3x5:NT:fp16", Gemm(2, 3, 5, trans_b=True, dtype="float16")),
            ("gemm", "m=2,n=3,k=5,dtype=tf32", Gemm(2, 3, 5, dtype="tf32")),
            (
                "conv2d",
                "16x96x27x27:256k5s1p2",
                Conv2d(16, 96, 27, 27, 256, (5, 5), padding=(2, 2, 2, 2)),
            ),
            ("conv2d", "1x2x9x7:4k3x2", Conv2d(1, 2, 9, 7, 4, (3, 2))),
            (
                "conv2d",
                "1x2x9x7:4k3x2s2x1p1x0d2g2",
                Conv2d(1, 2, 9, 7, 4, (3, 2), (2, 1), (1, 1, 0, 0), (2, 2), 2),
            ),
            ("conv2d", "1x2x9x7:4k3p1x0x2x1", Conv2d(1, 2, 9, 7, 4, (3, 3), (1, 1), (1, 0, 2, 1))),
            ("lstm_cell", "64x256x512x25", LstmCell(64, 256, 512, 25)),
            ("batched_gemm", "96x128x64x32", BatchedGemm(96, 128, 64, 32)),
            ("batched_gemm", "2x3x5x7:TN", BatchedGemm(2, 3, 5, 7, trans_a=True)),
            ("activation", "function=gelu,elements=64", Activation("gelu", 64)),
            ("layer_norm", "rows=64,features=768", LayerNorm(64, 768)),
            ("add", "elements=4096", Add(4096)),
            ("dropout", "elements=10,rate=1e-1", Dropout(10, rate=0.1)),
            (
                "pool2d",
                "function=max,batch=1,channels=2,height=8,width=6,kernel=3x2,stride=2,ceil=true",
                Pool2d("max", 1, 2, 8, 6, (3, 2), (2, 2), ceil=True),
            ),
        ],
    )
    def test_what_is_read(self, kind, text, primitive):
        assert primitives(kind, text) == [primitive]

    @pytest.mark.parametrize(
        "primitive", [*SAMPLES, *problem_set("deepbench").primitives], ids=lambda p: p.label
    )
    def test_what_is_written_is_read_again(self, primitive):
        assert primitives(primitive.kind, written(primitive)) == [primitive]

    @pytest.mark.parametrize("kind", PRIMITIVES)
    def test_the_example_of_every_kind_is_a_size_of_it(self, kind):
        assert len(primitives(kind, example(kind))) == 1

    def test_short_forms_are_short(self):
        assert written(Gemm(512, 512, 64, trans_b=True)) == "512x512x64:NT"
        assert written(Conv2d(8, 3, 9, 9, 4, (3, 3), (2, 2), (1, 1, 1, 1))) == "8x3x9x9:4k3s2p1"
        assert written(BatchedGemm(96, 128, 128, 64, trans_b=True)) == "96x128x128x64:NT"
        assert written(Gemm(2, 3, 5, dtype="float64")) == "m=2,n=3,k=5,dtype=float64"
        assert written(SgdUpdate(64, momentum=0.9)) == "elements=64,momentum=0.9"

    @pytest.mark.parametrize(
        ("text", "sizes"),
        [
            ("256..2048x8x8", [(256, 8, 8), (512, 8, 8), (1024, 8, 8), (2048, 8, 8)]),
            ("100..999x8x8", [(100, 8, 8), (200, 8, 8), (400, 8, 8), (800, 8, 8)]),
            ("8x8x1..1000*10", [(8, 8, 1), (8, 8, 10), (8, 8, 100), (8, 8, 1000)]),
            ("8x100..250+50x8", [(8, 100, 8), (8, 150, 8), (8, 200, 8), (8, 250, 8)]),
            ("1..2x8x3..6", [(1, 8, 3), (1, 8, 6), (2, 8, 3), (2, 8, 6)]),
            ("5..5x5x5", [(5, 5, 5)]),
        ],
    )
    def test_ranges(self, text, sizes):
        assert [(p.m, p.n, p.k) for p in primitives("gemm", text)] == sizes

    def test_ranges_of_fields_and_of_every_number(self):
        assert [p.elements for p in primitives("add", "elements=10..1000*10")] == [10, 100, 1000]
        assert {
            (p.out_channels, p.kernel) for p in primitives("conv2d", "1x1x9x9:2..4k1..3+2")
        } == {*((2, (1, 1)), (2, (3, 3)), (4, (1, 1)), (4, (3, 3)))}
        assert primitives("gemm", "1..2x3x5:NT")[1] == Gemm(2, 3, 5, trans_b=True)

    @pytest.mark.parametrize(
        ("kind", "text", "reason"),
        [
            ("fft", "1x1x1", "unknown primitive 'fft'; known: gemm, conv2d, lstm_cell"),
            ("gem", "1x1x1", "unknown primitive 'gem'; did you mean gemm? known: gemm, conv2d"),
            ("conv", "1x1x1", "unknown primitive 'conv'; did you mean conv2d? known: gemm"),
            ("lstm", "1x1x1", "unknown primitive 'lstm'; did you mean lstm_cell? known: gemm"),
            ("gemm", "", "MxNxK, MxNxK:NT, MxNxK:bf16 is needed, such as 512x512x512"),
            ("gemm", "512x512", "such as 512x512x512"),
            ("gemm", "512x512x512x512", "such as 512x512x512"),
            ("gemm", "axbxc", "such as 512x512x512"),
            ("gemm", "2x3x5:XY", "such as 512x512x512"),
            ("gemm", "2.5x3x5", "such as 512x512x512"),
            ("gemm", "-2x3x5", "such as 512x512x512"),
            ("gemm", "²x3x5", "such as 512x512x512"),
            ("gemm", "0x3x5", "m must be a whole number from 1, got 0"),
            ("gemm", "m=2,n=3", "k must be said too"),
            ("gemm", "m=2,n=3,k=-5", "k must be a whole number from 1, got -5"),
            ("gemm", "m=2,n=3,k=many", "k must be a whole number from 1, got 'many'"),
            ("gemm", "m=2,n=3,z=5", "of the fields m, n, k, trans_a"),
            ("gemm", "m=2,n=3,k=5,trans_a=1", "trans_a must be true or false, got '1'"),
            ("gemm", "2x3x5:bf16:NT", "such as 512x512x512"),
            ("gemm", "2x3x5:fp8", "such as 512x512x512"),
            ("batched_gemm", "2x3x5x7:bf16", "such as 96x128x128x64:NT"),
            ("gemm", "m=2,n=3,k=5,dtype=int8", "dtype must be one of"),
            ("gemm", "9" * 5000 + "x1x1", "a number has at most 12 digits"),
            ("conv2d", "1x3x9x9", "such as 16x96x27x27:256k5s1p2"),
            ("conv2d", "1x3x9x9:4k3x3x3", "kernel must be 2 whole numbers"),
            ("conv2d", "1x3x9x9:4k11", "a window of 11 does not fit in 9 pixels"),
            ("conv2d", "1x3x9x9:4k3s0", "at least 1"),
            ("conv2d", "1x3x9x9:4k3g2", "groups=2 must divide"),
            ("conv2d", "1x3x9x9:4k3p1x2x3", "padding must be 4 whole numbers"),
            ("lstm_cell", "1x2x3", "such as 64x512x512x25"),
            ("batched_gemm", "2x3x5", "BATCHxMxNxK:NT is needed, such as 96x128x128x64:NT"),
            ("add", "4096", "of the fields elements, dtype"),
            ("activation", "function=step,elements=2", "function must be one of"),
            ("dropout", "elements=2,rate=nan", "rate must be a number, got 'nan'"),
            ("dropout", "elements=2,rate=x", "rate must be a number, got 'x'"),
            ("gemm", "8..2x1x1", "8..2 is no range"),
            ("gemm", "0..8x1x1", "0..8 is no range"),
            ("gemm", "1..8*1x1x1", "1..8*1 is no range"),
            ("gemm", "1..8+0x1x1", "1..8+0 is no range"),
            ("gemm", "1..999999999999+1x1x1", f"more than {MOST_SIZES} sizes"),
            ("gemm", "1..40+1x1..40+1x1", f"more than {MOST_SIZES} sizes"),
        ],
    )
    def test_what_is_refused(self, kind, text, reason):
        with pytest.raises(UsageError) as refused:
            primitives(kind, text)
        assert reason in str(refused.value)
        assert len(str(refused.value)) < 300

    def test_a_file(self, tmp_path):
        path = tmp_path / "sizes.txt"
        path.write_text("# of our model\n\n2x3x5  # first\n  4..8x1x1:NT\n")
        transposed = [Gemm(m, 1, 1, trans_b=True) for m in (4, 8)]
        assert sorted_out("gemm", read_file("gemm", path)) == ([Gemm(2, 3, 5), *transposed], [])

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("2x3x5\n\n2x3\n", "sizes.txt, line 3: gemm size '2x3': "),
            ("2x3x5 4x4x4\n", "sizes.txt, line 1: gemm size '2x3x5 4x4x4': "),
            ("1x1x1\n8x0x8  # a zero\n", "sizes.txt, line 2: gemm size '8x0x8': n must be"),
        ],
    )
    def test_a_malformed_line_is_named_by_its_number(self, text, reason, tmp_path):
        path = tmp_path / "sizes.txt"
        path.write_text(text)
        _, mistakes = sorted_out("gemm", read_file("gemm", path))
        assert len(mistakes) == 1
        assert reason in str(mistakes[0])

    @pytest.mark.parametrize("text", ["", "# nothing\n\n"])
    def test_a_file_of_nothing(self, text, tmp_path):
        (tmp_path / "sizes.txt").write_text(text)
        with pytest.raises(UsageError, match=r"sizes.txt holds no size; write one a line, such as"):
            read_file("gemm", tmp_path / "sizes.txt")

    def test_what_is_no_size_costs_itself(self):
        texts = [("", "8x8x8"), ("", "0x8x8"), ("a, line 3: ", "junk"), ("", "1..2x8x8")]
        found, mistakes = sorted_out("gemm", texts)
        assert [written(one) for one in found] == ["8x8x8", "1x8x8", "2x8x8"]
        assert [str(mistake).partition("; ")[0] for mistake in mistakes] == [
            "gemm size '0x8x8': m must be a whole number from 1, got 0",
            "a, line 3: gemm size 'junk': "
            "MxNxK, MxNxK:NT, MxNxK:bf16 is needed, such as 512x512x512",
        ]

    def test_what_is_no_text_file(self, tmp_path):
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        for path, reason in [("binary", "no text"), ("", "directory"), ("none", "No such file")]:
            with pytest.raises(UsageError, match=f"cannot read .*{reason}"):
                read_file("gemm", tmp_path / path)


class TestDeepBench:
    """The sets are those of the data file, in the terms of kernelprof's primitives."""

    def test_source_and_counts(self):
        stored = json.loads(PROBLEMS.read_text())
        assert stored["source"].endswith("baidu-research/DeepBench")
        assert len(stored["commit"]) == 40
        training = stored["training"]
        counts = {family: len(training[family]) for family in ("gemm", "conv", "rnn")}
        assert counts == {"gemm": 160, "conv": 94, "rnn": 53}

    def test_the_training_set(self):
        assert len(problem_set("deepbench", "gemm").primitives) == 160
        assert len(problem_set("deepbench", "conv2d").primitives) == 90  # four stand there twice
        cells = problem_set("deepbench", "lstm_cell")
        assert (len(cells.primitives), cells.left_out) == (22, {"vanilla RNN": 12, "GRU": 19})
        assert len(problem_set("deepbench").primitives) == 160 + 90 + 22

    @pytest.mark.parametrize("name", PARTS)
    def test_every_problem_is_measured_or_left_out_by_name(self, name):
        stored = json.loads(PROBLEMS.read_text())
        part = stored[PARTS[name]]
        found = problem_set(name)
        for kind, family in {"gemm": "gemm", "conv2d": "conv"}.items():
            assert len(problem_set(name, kind).primitives) == len({*map(tuple, part[family])})
        others = len(part["sparse_gemm"]) + sum(row[0] != "lstm" for row in part["rnn"])
        assert sum(found.left_out.values()) == others

    @pytest.mark.parametrize("a_t", [False, True])
    @pytest.mark.parametrize("b_t", [False, True])
    def test_by_rows_the_same_memory_holds_the_same_product(self, a_t, b_t, monkeypatch):
        problem = {"M": 2, "N": 3, "K": 4, "a_t": a_t, "b_t": b_t}
        monkeypatch.setattr(
            deepbench, "_problems", lambda name, family: [problem] if family == "gemm" else []
        )
        (product,) = problem_set("deepbench", "gemm").primitives
        random = np.random.default_rng(1)
        a, b = random.random((4, 2) if a_t else (2, 4)), random.random((3, 4) if b_t else (4, 3))
        c = (a.T if a_t else a) @ (b.T if b_t else b)
        ours = {"a": b.ravel("F"), "b": a.ravel("F")}
        stored = {name: ours[name].reshape(product.operand(name).shape) for name in ours}
        found = gemm_forward(product, **stored)
        assert found.ravel() == pytest.approx(c.ravel("F"))

    def test_a_convolution(self):
        """700 wide and 161 high, filters 20 wide and 5 high."""
        first = problem_set("deepbench", "conv2d").primitives[0]
        assert first == Conv2d(4, 1, 161, 700, 32, (5, 20), (2, 2))

    def test_the_input_product_of_an_lstm_does_not_count(self):
        for cell in problem_set("deepbench", "lstm_cell").primitives:
            state_only = 2 * cell.steps * cell.batch * 4 * cell.hidden_size**2
            assert state_only <= cell.flop(FORWARD) <= 1.005 * state_only

    def test_what_is_refused(self):
        with pytest.raises(UsageError, match="known: deepbench, deepbench-server"):
            problem_set("mlperf")
        with pytest.raises(UsageError, match="it has gemm, conv2d, lstm_cell"):
            problem_set("deepbench", "add")


class TestChoice:
    """Which sizes are measured, in which order, within a budget."""

    def test_everything_that_fits(self):
        assert spread([1, 2, 3], [1, 1, 1], 3) == {0, 1, 2}

    def test_a_spread_over_the_range(self):
        works = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        assert spread(works, [1] * 9, 3) == {0, 8, 4}
        assert spread(works, [1] * 9, 5) == {0, 2, 4, 6, 8}

    def test_none_takes_too_large_a_share(self):
        works = [1, 2, 4, 8, 50]
        costs = [1.0, 1.0, 1.0, 8.0, 12.0]
        assert costs[3] > 20.0 * LARGEST_SHARE
        assert spread(works, costs, 20.0) == {0, 1, 2, 4}  # the rest lies idle otherwise
        assert spread(works, [4.0, 4.0, 4.0, 8.0, 12.0], 20.0) == {0, 1, 2, 3}
        assert spread(works, [4.0, 4.0, 4.0, 9.0, 12.0], 20.0) == {0, 1, 2}

    def test_one_is_measured_in_any_case(self):
        assert spread([1, 2, 4], [10.0, 20.0, 40.0], 1.0) == {0}

    def test_less_work_comes_first_and_each_once(self):
        asked = [Gemm(64, 64, 64), Gemm(8, 8, 8), Gemm(64, 64, 64), Gemm(512, 8, 8)]
        options, left_out = chosen(OPTIONS, asked, CEILINGS)
        assert options.primitives == (Gemm(8, 8, 8), Gemm(512, 8, 8), Gemm(64, 64, 64))
        assert left_out == []
        assert options.networks == ()

    def test_a_budget_keeps_a_spread_and_names_the_rest(self):
        everything = problem_set("deepbench", "gemm").primitives
        asked = dataclasses.replace(OPTIONS, budget_s=180.0, keeps_budget=True)
        options, left_out = chosen(asked, everything, CEILINGS)
        again, _ = chosen(asked, everything, CEILINGS)
        assert again == options
        assert {*options.primitives, *left_out} == {*everything}
        assert len(options.primitives) + len(left_out) == len(everything)
        spent_s = sum(cost_s(one, OPTIONS, CEILINGS) for one in options.primitives)
        assert 0.9 * 180 < spent_s + 2 * START_S + BESIDE_S <= 180
        works = [least_s(one, 1, OPTIONS, CEILINGS) for one in options.primitives]
        assert works == sorted(works)
        lightest = min(least_s(one, 1, OPTIONS, CEILINGS) for one in everything)
        assert works[0] == lightest
        assert works[-1] > 1000 * lightest

    def test_without_a_budget_everything_is_measured(self):
        everything = problem_set("deepbench", "gemm").primitives
        _, left_out = chosen(dataclasses.replace(OPTIONS, budget_s=1.0), everything, CEILINGS)
        assert left_out == []

    def test_a_faster_machine_has_room_for_more(self):
        everything = problem_set("deepbench", "conv2d").primitives
        asked = dataclasses.replace(OPTIONS, budget_s=60.0, keeps_budget=True)
        slow, fast = (
            chosen(asked, everything, ceilings(rate, rate / 10))[0] for rate in (1e10, 1e12)
        )
        assert len(slow.primitives) < len(fast.primitives)

    @pytest.mark.parametrize(
        ("changed", "factor"),
        [({"engines": ("fake", "torch")}, 1.5), ({"modes": MODES}, 4), ({"processes": 2}, 1.0)],
    )
    def test_what_calls_cost(self, changed, factor):
        """An engine more, and forward with both backward passes once more; no process more."""
        large, larger = Gemm(4096, 4096, 4096), Gemm(4096, 4096, 8192)
        rounds_s = [
            cost(larger, 1, options, CEILINGS).rounds_s - cost(large, 1, options, CEILINGS).rounds_s
            for options in (OPTIONS, dataclasses.replace(OPTIONS, **changed))
        ]
        assert rounds_s[1] == pytest.approx(factor * rounds_s[0])
        call_s = TIMES_CEILING * 2 * 4096**3 / 1e11
        assert rounds_s[0] == pytest.approx(2 * OPTIONS.stop.least * 4 / 3 * call_s)

    def test_threads_share_the_work(self):
        size = Gemm(4096, 4096, 4096)
        assert least_s(size, 2, OPTIONS, CEILINGS) == least_s(size, 1, OPTIONS, CEILINGS) / 2

    def test_each_process_starts_the_engines_anew(self):
        size = Gemm(64, 64, 64)
        once, thrice = (
            cost(size, 1, dataclasses.replace(OPTIONS, processes=count), CEILINGS).build_s
            for count in (1, 3)
        )
        assert thrice == pytest.approx(3 * (once + 2 * START_S))

    def test_a_machine_of_which_nothing_is_known(self):
        nothing = Ceilings("x", {1: PlacementCeilings((0,), "", Rate(0, 0, 0), (), (), {})})
        sizes = (Gemm(8, 8, 8), Gemm(16, 8, 8))
        options, left_out = chosen(
            dataclasses.replace(OPTIONS, budget_s=9.0, keeps_budget=True), sizes, nothing
        )
        assert options.primitives
        assert len(options.primitives) + len(left_out) == 2


class TestPace:
    """How a bench keeps to its budget while it measures."""

    SIZES = (Gemm(8, 8, 8), Gemm(512, 512, 512), Gemm(1024, 1024, 1024), Gemm(2048, 2048, 2048))

    @pytest.fixture
    def plan(self):
        def _plan(budget_s, placements=((0,),), **changes):
            options = dataclasses.replace(
                OPTIONS,
                primitives=self.SIZES,
                placements=placements,
                budget_s=budget_s,
                keeps_budget=True,
                **changes,
            )
            costs = [cost(one, 1, options, CEILINGS) for one in self.SIZES]
            return Pace(options, CEILINGS), primitive_groups(options), costs

        return _plan

    def test_the_first_size_is_measured_in_any_case(self, plan):
        pace, groups, _ = plan(1.0)
        assert pace.refusal(groups[0], 1.0) is None
        pace.built(groups[0], 5.0)
        assert pace.refusal(groups[1], -4.0) == ("about 1 s are needed, 0 s of the budget are left")

    def test_a_size_needs_what_was_foretold(self, plan):
        pace, groups, costs = plan(60.0)
        pace.built(groups[0], 99.0)  # the start of engines says nothing
        need_s = BESIDE_S + costs[3].build_s + costs[3].rounds_s / 2
        assert pace.refusal(groups[3], need_s + 0.01) is None
        assert pace.refusal(groups[3], need_s - 0.01).startswith("about ")

    def test_or_as_much_more_as_the_size_before_it(self, plan):
        pace, groups, costs = plan(60.0)
        pace.built(groups[0], 1.0)
        pace.built(groups[1], 3 * costs[1].build_s)
        need_s = BESIDE_S + 3 * (costs[3].build_s + costs[3].rounds_s / 2)
        assert pace.refusal(groups[3], need_s + 0.01) is None
        assert pace.refusal(groups[3], need_s - 0.01) is not None
        pace.built(groups[2], costs[2].build_s)
        assert pace.refusal(groups[3], need_s - 0.01) is None

    def test_what_failed_at_once_is_no_promise(self, plan):
        pace, groups, costs = plan(60.0)
        pace.built(groups[0], 1.0)
        pace.built(groups[1], 0.001)
        assert pace.refusal(groups[3], BESIDE_S + costs[3].build_s) is not None

    def test_the_engines_of_another_placement_have_to_start_too(self, plan):
        pace, groups, costs = plan(60.0, placements=((0,), (1,)))
        pace.built(groups[0], 1.0)
        need_s = BESIDE_S + costs[0].build_s + costs[0].rounds_s / 2
        assert groups[1].cpus == (1,)
        assert pace.refusal(groups[1], need_s + 2 * START_S + 0.01) is None
        assert pace.refusal(groups[1], need_s + 2 * START_S - 0.01) is not None
        assert pace.refusal(groups[2], need_s + costs[1].total_s) is None

    def test_all_that_the_budget_has_is_spent(self, plan):
        pace, groups, costs = plan(100.0)
        left_s = 100.0
        for place, (group, cost_) in enumerate(zip(groups, costs, strict=True)):
            rounds_s = pace.rounds_s(groups[place:], left_s)
            assert rounds_s > cost_.rounds_s
            left_s -= cost_.build_s + rounds_s + (0 if place else 2 * START_S)
            pace.built(group, cost_.build_s + (0 if place else 2 * START_S))
        assert left_s == pytest.approx(BESIDE_S)

    def test_what_it_lacks_each_size_lacks(self, plan):
        pace, groups, costs = plan(100.0)
        whole_s = sum(one.total_s for one in costs) + BESIDE_S + 2 * START_S
        assert pace.rounds_s(groups, whole_s) == pytest.approx(costs[0].rounds_s)
        assert 0 < pace.rounds_s(groups, whole_s - 1.0) < costs[0].rounds_s
        assert pace.rounds_s(groups, 0.0) == 0.0

    def test_without_a_budget_nothing_is_refused_and_each_has_ample_time(self, plan):
        pace, groups, costs = plan(1.0)
        free = Pace(dataclasses.replace(pace._options, keeps_budget=False), CEILINGS)
        free.built(groups[0], 1.0)
        assert free.refusal(groups[3], -99.0) is None
        ample_s = AMPLE * costs[3].total_s - costs[3].build_s
        assert free.rounds_s(groups[3:], -99.0) == pytest.approx(ample_s)


class TestAlone:
    """A primitive as a network of its own."""

    @pytest.mark.parametrize("primitive", SAMPLES, ids=lambda p: p.label)
    def test_all_passes_and_no_others(self, primitive):
        network = alone(primitive)
        found = {mode: kernels(network, 1, mode, Fusion()) for mode in MODES}
        assert [k.passes for k in found[INFER]] == [primitive.passes[:1]]
        assert sorted(k.passes for k in found[TRAIN]) == sorted((p,) for p in primitive.passes)
        assert all(k.primitives == (primitive,) for mode in MODES for k in found[mode])
        assert network.parameters() == 0
        for mode in MODES:
            assert network.flop(1, mode) == sum(k.compute_flop for k in found[mode])

    def test_passes_that_an_engine_joins(self):
        fused = kernels(alone(LstmCell(2, 3, 4)), 1, TRAIN, Fusion({}, ("lstm_cell",)))
        assert [k.passes for k in fused] == [(FORWARD,), (BACKWARD_DATA, BACKWARD_WEIGHTS)]

    def test_an_update_is_a_pass_like_any(self):
        for mode in MODES:
            (kernel,) = kernels(alone(SgdUpdate(8)), 1, mode, Fusion())
            assert kernel.passes == (UPDATE,)

    @pytest.mark.parametrize("primitive", SAMPLES, ids=lambda p: p.label)
    def test_json_and_back(self, primitive):
        network = alone(primitive)
        assert Network.from_json(json.loads(json.dumps(network.to_json()))) == network

    def test_a_group_for_each_size_and_placement(self):
        placements = ((0,), (0, 1))
        sizes = (Gemm(1, 2, 3), Gemm(4, 5, 6))
        options = dataclasses.replace(OPTIONS, primitives=sizes, placements=placements, modes=MODES)
        planned = primitive_groups(options)
        assert [(group.network.name, group.cpus) for group in planned] == [
            (f"gemm {size}", cpus) for size in ("1x2x3", "4x5x6") for cpus in placements
        ]
        for group in planned:
            assert group.alone
            assert group.engines == ["fake", "numpy"]
            assert not any(case.whole for case in group.cases)
            assert len(group.cases) == 2 * len(MODES)

    def test_memory_is_estimated_from_above(self):
        for primitive in (Gemm(2000, 1000, 3000), Conv2d(8, 64, 56, 56, 64, (3, 3))):
            changes = {"primitives": (primitive,)}
            infer, train = (
                needed_bytes(
                    primitive_groups(dataclasses.replace(OPTIONS, **changes, modes=(mode,)))[0],
                    "fake",
                )
                for mode in MODES
            )
            once = sum(operand.size_bytes for operand in primitive.operands().values())
            assert infer > 2 * once
            assert train >= infer + once  # every operand has a gradient

    def test_options_survive_the_run_file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("KERNELPROF_HOME", str(make_home(tmp_path / "home")))
        sizes = (Gemm(1, 2, 3), Pool2d("max", 1, 2, 8, 6, (3, 2), (2, 2)))
        options = dataclasses.replace(OPTIONS, primitives=sizes)
        for _ in range(2):
            run, stored = open_run(tmp_path / "a.kprof", options, "")
            run.close()
            assert stored == options
        with pytest.raises(UsageError, match="measures something else"):
            open_run(tmp_path / "a.kprof", dataclasses.replace(options, primitives=sizes[:1]), "")


class Bench:
    """A bench of the fake engine, into a file of its own."""

    def __init__(self, folder: Path, changes: dict, variables: dict[str, object]) -> None:
        planted = {"KERNEL_NS": KERNEL_NS, "FLOP_PER_NS": FLOP_PER_NS, **variables}
        settings = tuple(("fake", f"FAKE_{name}", str(value)) for name, value in planted.items())
        self.options = dataclasses.replace(OPTIONS, variables=settings, **changes)
        meta = {"kernelprof": "0", "command": "", "started": "", "machine": {}}
        self.file = RunFile.create(folder / "a.kprof", {**meta, "options": self.options.to_json()})
        self.environments = {
            "fake": Environment("fake", sys.executable, FAKE),
            "numpy": Environment("numpy", sys.executable, "numpy"),
        }

    def measure(self) -> None:
        groups = primitive_groups(self.options)
        pace = Pace(self.options, CEILINGS) if self.options.keeps_budget else None
        Measurement(self.file, self.options, self.environments, pace=pace).measure(groups)

    def quiet_rounds(self) -> dict[tuple[str, str], Rounds]:
        """As ``rounds``, without the disturbed ones."""
        return {
            (stored.case.network, stored.case.engine): quiet(self.file.times(stored.id)).rounds
            for stored in self.file.cases()
        }

    def rounds(self) -> dict[tuple[str, str], Rounds]:
        """Nanoseconds by round and place, of each primitive in each engine."""
        return {
            (stored.case.network, stored.case.engine): self.file.call_ns(stored.id)
            for stored in self.file.cases()
        }


@pytest.fixture
def bench(tmp_path):
    made = []

    def _bench(changes=None, **variables) -> Bench:
        made.append(Bench(tmp_path, changes or {}, variables))
        made[-1].measure()
        return made[-1]

    yield _bench
    for one in made:
        one.file.close()


class TestMeasured:
    """What was planned is what comes out; the best of the rounds is held against the truth."""

    def test_times_rates_and_ratios(self, bench):
        sizes = (Gemm(64, 32, 16), Gemm(128, 64, 32))
        stop = StopRule(half_width=0.0, least=9, most=9)
        run = bench({"primitives": sizes, "modes": (TRAIN,), "stop": stop})
        found = list(primitive_results(run.file))
        assert [(one.primitive, one.passes) for one in found] == [
            (f"gemm {written(size)}", (pass_,))
            for size in sizes
            for pass_ in (FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS)
        ]
        for place, one in enumerate(found):
            size = sizes[place // 3]
            own = run.quiet_rounds()[one.primitive, "fake"]
            reference = run.quiet_rounds()[one.primitive, "numpy"]
            ns = [sample[place % 3] for sample in own.values()]
            truth = KERNEL_NS + size.flop(FORWARD) // FLOP_PER_NS
            assert truth <= min(ns) <= 1.1 * truth
            assert one.seconds.value_s == pytest.approx(median(ns) * 1e-9)
            assert one.flop == 2 * size.m * size.n * size.k
            assert one.flop_per_s == pytest.approx(one.flop / median(ns) * 1e9)
            assert one.least_bytes == size.least_bytes(one.passes[0])
            ratios = [reference[r][place % 3] / own[r][place % 3] for r in own if r in reference]
            assert one.speedup.value == pytest.approx(median(ratios))
            assert one.compute_bound
            assert (one.sampling.rounds, one.sampling.stopped_by) == (9, "rounds")

    def test_the_reference_is_shown_where_it_was_asked_for(self, bench):
        run = bench({"engines": ("fake", "numpy")})
        found = {one.engine: one for one in primitive_results(run.file)}
        assert list(found) == ["fake", "numpy"]
        assert found["numpy"].speedup == Ratio(1.0, 1.0, 1.0)

    def test_bytes_count_where_memory_is_the_bound(self, bench):
        run = bench({"primitives": (Add(1000),)}, FLOP_PER_NS=1000)
        (one,) = primitive_results(run.file)
        assert not one.compute_bound
        assert one.bytes_per_s == pytest.approx(3 * 4 * 1000 / one.seconds.value_s)

    @pytest.mark.parametrize(("half_width", "rounds"), [(1e9, 6), (0.0, 9)])
    def test_rounds_end_once_every_kernel_is_known(self, half_width, rounds, bench):
        slow_ns = 100_000_000  # of quick kernels, many rounds make a turn
        stop = StopRule(half_width=half_width, least=6, most=9)
        run = bench({"stop": stop}, KERNEL_NS=slow_ns)
        assert {len(found) for found in run.rounds().values()} == {rounds}
        reason = "interval" if half_width else "rounds"
        assert {stored.stopped_by for stored in run.file.cases()} == {reason}

    def test_an_engine_without_the_primitive_costs_itself(self, bench):
        sizes = (Gemm(8, 8, 8), Add(64))
        run = bench({"primitives": sizes}, UNSUPPORTED="gemm")
        assert [one.primitive for one in primitive_results(run.file)] == ["add elements=64"]
        assert list(failures(run.file)) == [
            FailureResult(
                *("gemm 8x8x8", "fake", 1, 1, INFER),
                *("unsupported", "fake has no such kernel"),
            )
        ]
        assert run.rounds()["gemm 8x8x8", "numpy"]

    def test_more_memory_than_there_is_costs_that_size(self, bench):
        huge = Gemm(10**9, 10**9, 8)
        run = bench({"primitives": (Gemm(8, 8, 8), huge, Gemm(16, 8, 8))})
        assert [one.primitive for one in primitive_results(run.file)] == [
            "gemm 8x8x8",
            "gemm 16x8x8",
        ]
        found = list(failures(run.file))
        assert {(one.network, one.kind) for one in found} == {(f"gemm {written(huge)}", "memory")}
        assert all("GB are needed" in one.reason for one in found)

    def test_what_the_budget_has_no_room_for_is_named(self, bench):
        sizes = (Gemm(8, 8, 8), Gemm(16, 8, 8), Gemm(4096, 4096, 4096))
        run = bench({"primitives": sizes, "keeps_budget": True, "budget_s": 12.0})
        measured = [one.primitive for one in primitive_results(run.file)]
        assert measured == ["gemm 8x8x8", "gemm 16x8x8"]
        failure, reference = failures(run.file)
        assert (failure.network, failure.kind) == ("gemm 4096x4096x4096", "budget")
        assert reference == dataclasses.replace(failure, engine="numpy")
        assert re.fullmatch(r"about \d+ s are needed, \d s of the budget are left", failure.reason)
        assert run.file.spent()["total"] < 12e9

    @pytest.mark.parametrize(("spare_s", "rounds"), [(9.0, 60), (-9.0, 3)])
    def test_what_a_budget_has_more_goes_into_rounds(self, spare_s, rounds, bench):
        stop = StopRule(half_width=0.0, least=3, most=60)
        budget_s = max(0.0, BESIDE_S + 2 * START_S + spare_s)
        run = bench({"keeps_budget": True, "budget_s": budget_s, "stop": stop})
        assert {len(found) for found in run.rounds().values()} == {rounds}

    def test_the_threads_of_the_pools_are_told(self, bench):
        run = bench()
        run.file.record("options", run.options.to_json() | {"quick": False})
        engines = results(run.file).engines
        assert engines["fake"]["pool_threads"] == {"1": 1}
        assert engines["fake"]["variables"]["FAKE_KERNEL_NS"] == str(KERNEL_NS)

    def test_a_crash_costs_its_size(self, bench):
        sizes = (Add(64), Gemm(8, 8, 8), Add(128))
        run = bench({"primitives": sizes}, CRASH="gemm")
        assert [one.primitive for one in primitive_results(run.file)] == [
            "add elements=64",
            "add elements=128",
        ]
        (failure,) = failures(run.file)
        assert (failure.network, failure.kind) == ("gemm 8x8x8", "crash")

    def test_a_finished_bench_is_left_alone(self, bench):
        run = bench()
        before, workers = run.rounds(), len(run.file.workers())
        run.measure()
        assert run.rounds() == before
        assert len(run.file.workers()) == workers


KERNEL = {
    "layer": "lstm_cell",
    "primitives": [LstmCell(2, 3, 4).to_json()],
    "flop": 3000,
    "compute_flop": 3000,
    "least_bytes": 800,
    "cold_bytes": 0,
    "lukewarm": False,
    "error": 0.0,
    "failure": None,
}
PASSES = (FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS)


class TestAnalysis:
    """Planted nanoseconds: an engine that joins two passes, a reference that does not."""

    @pytest.fixture
    def planted(self, tmp_path):
        size = LstmCell(2, 3, 4)
        options = dataclasses.replace(OPTIONS, primitives=(size,), modes=(TRAIN,))
        file = RunFile.create(tmp_path / "a.kprof", {"options": options.to_json()})
        file.add_network(alone(size).to_json())
        yield file
        file.close()

    def add(self, file, engine, kernels_, rounds):
        case = Case(alone(LstmCell(2, 3, 4)).name, engine, (0,), 1, TRAIN, whole=False)
        case_id = file.add_case(case, calibration=False)
        worker = file.add_worker(engine, (0,), {})
        file.describe_case(case_id, None, [{**KERNEL, **changed} for changed in kernels_])
        sampled = [
            {
                "round": round_,
                "whole": None,
                "kernels": {
                    str(place): [2, 0, 2 * ns, *[0] * 7] for place, ns in enumerate(durations)
                },
            }
            for round_, durations in rounds.items()
        ]
        file.add_turn(case_id, worker, {"turn_ns": 1, "rounds": sampled})
        return case_id

    def add_reference(self, file, **third):
        separate = [{"passes": [pass_]} for pass_ in PASSES]
        separate[2].update(third)
        rounds = {0: (100, 30, 10), 1: (200, 50, 10), 2: (400, 70, 30), 4: (1, 1, 1)}
        return self.add(file, "numpy", separate, rounds)

    def add_fake(self, file):
        joint = [{"passes": [FORWARD]}, {"passes": [BACKWARD_DATA, BACKWARD_WEIGHTS]}]
        rounds = {0: (50, 10), 1: (50, 50), 2: (50, 20), 3: (50, 7)}
        return self.add(file, "fake", joint, rounds)

    def test_ratios_are_paired_by_round_and_joint_passes_summed(self, planted):
        self.add_fake(planted)
        self.add_reference(planted)
        forward, backward = primitive_results(planted)
        assert forward.passes == (FORWARD,)
        assert forward.seconds == Estimate(*[pytest.approx(50e-9)] * 3, 0.0, pytest.approx(50e-9))
        assert forward.flop_per_s == pytest.approx(60e9)
        assert forward.speedup == Ratio(4.0, 2.0, 8.0)
        assert backward.passes == (BACKWARD_DATA, BACKWARD_WEIGHTS)
        assert backward.seconds.value_s == pytest.approx(15e-9)
        assert backward.speedup == Ratio(4.0, 1.2, 5.0)  # of 40 / 10, 60 / 50, 100 / 20
        assert backward.sampling.rounds == 4
        assert backward.attained is None

    def test_without_a_reference_there_is_no_ratio(self, planted):
        self.add_fake(planted)
        assert [one.speedup for one in primitive_results(planted)] == [None, None]

    def test_a_pass_that_the_reference_lacks_has_no_ratio(self, planted):
        self.add_fake(planted)
        self.add_reference(planted, failure={"kind": "memory", "reason": "no room"})
        forward, backward = primitive_results(planted)
        assert forward.speedup == Ratio(4.0, 2.0, 8.0)
        assert backward.speedup is None

    def test_ceilings_where_they_are_known(self, planted):
        self.add_fake(planted)
        flop_per_s = LstmCell(2, 3, 4).flop(FORWARD) / 5e-9
        planted.record("ceilings", ceilings_json(1, flop_per_s))
        forward, backward = primitive_results(planted)
        assert forward.attained == pytest.approx(5 / 50)
        assert backward.attained == pytest.approx(2 * 5 / 15)

    @pytest.mark.parametrize(("threads", "flop_per_s"), [(2, 1e9), (1, None)])
    def test_ceilings_of_something_else_say_nothing(self, planted, threads, flop_per_s):
        self.add_fake(planted)
        planted.record("ceilings", ceilings_json(threads, flop_per_s))
        assert [one.attained for one in primitive_results(planted)] == [None, None]

    def test_a_pass_that_failed_is_named(self, planted):
        broken = {"error": None, "failure": {"kind": "wrong_result", "reason": "is off"}}
        kernels_ = [{"passes": [FORWARD]}, {"passes": [BACKWARD_DATA], **broken}]
        self.add(planted, "fake", kernels_, {0: (50,)})
        assert [one.passes for one in primitive_results(planted)] == [(FORWARD,)]
        (failure,) = failures(planted)
        assert (failure.kind, failure.reason, failure.passes) == (
            *("wrong_result", "is off"),
            (BACKWARD_DATA,),
        )

    def test_one_primitive_of_many(self, planted):
        self.add_fake(planted)
        assert list(primitive_results(planted, "gemm 1x1x1")) == []
        assert len(list(primitive_results(planted, alone(LstmCell(2, 3, 4)).name))) == 2


def ceilings_json(threads, flop_per_s):
    """A machine whose only bound is its arithmetic."""
    rate = Rate(flop_per_s or 0.0, 0.0, 1)
    arithmetic = (FlopCeiling("x", "float32", rate, ""),) if flop_per_s else ()
    placement = PlacementCeilings((0,), "", rate, arithmetic, (), {})
    return json.loads(json.dumps(Ceilings("x", {threads: placement}).to_json()))


MEASURED = PrimitiveResult(
    primitive="gemm 512x512x512",
    engine="fake",
    device="cpu",
    threads=2,
    cpus=(0, 1),
    mode=TRAIN,
    passes=(BACKWARD_DATA, BACKWARD_WEIGHTS),
    seconds=Estimate(2e-3, 1.9e-3, 2.1e-3),
    speedup=Ratio(1.5, 1.4, 1.6),
    ceiling_s=1e-3,
    flop=500_000_000,
    least_bytes=3_000_000,
    compute_bound=True,
    cold_bytes=0,
    lukewarm=False,
    sampling=Sampling(rounds=12, stopped_by="interval"),
)
FAILED = FailureResult("gemm 8x8x8", "fake", 2, 1, TRAIN, "memory", "no\nroom", (FORWARD,))


def results_of(*found: PrimitiveResult | FailureResult) -> Results:
    return Results(
        *("0", "", "", False, {}, {}, ()),
        failures=tuple(one for one in found if isinstance(one, FailureResult)),
        primitives=tuple(one for one in found if isinstance(one, PrimitiveResult)),
    )


class TestLines:
    """What is printed."""

    def test_a_measured_pass(self):
        words = finding_line(MEASURED).plain.split()
        assert " ".join(words) == (
            "train backward fake 2 2.00 ms 5.0 % 250 GFLOP/s 1.50x 6.7 % 50.0 %"
        )

    def test_what_is_not_known_is_a_dash(self):
        unknown = dataclasses.replace(MEASURED, speedup=None, ceiling_s=None, compute_bound=False)
        words = " ".join(finding_line(unknown).plain.split())
        assert words == "train backward fake 2 2.00 ms 5.0 % 1.50 GB/s - - -"

    def test_a_failure_stands_on_one_line(self):
        line = finding_line(FAILED).plain
        assert line.endswith("failed (memory): no room")
        assert line.split()[:4] == ["train", "forward", "fake", "2"]

    def test_columns_stand_below_their_headings_and_fit_a_terminal(self):
        header, line = bench_header().plain, finding_line(MEASURED).plain
        assert len(header) == len(line) <= 100
        for heading, cell in [("time", "2.00 ms"), ("rate", "250 GFLOP/s"), ("attained", "50.0 %")]:
            assert header.index(heading) + len(heading) == line.index(cell) + len(cell)

    def test_a_report_has_every_primitive_and_the_sum(self):
        lines = [line.plain for line in bench_lines(results_of(MEASURED, FAILED))]
        assert lines[1] == "gemm 512x512x512"
        assert lines[3] == "gemm 8x8x8"
        assert lines[-1] == "1 kernel of 1 size measured; 1 failed."
        assert bench_verdict(results_of(MEASURED)) == "1 kernel of 1 size measured."

    def test_json(self):
        found = to_json(MEASURED)
        assert json.loads(json.dumps(found, allow_nan=False))["passes"] == [
            BACKWARD_DATA,
            BACKWARD_WEIGHTS,
        ]
        assert (found["measured_s"], found["faster"], found["ceiling_s"]) == (2e-3, 1.5, 1e-3)
        assert to_json(dataclasses.replace(MEASURED, speedup=None))["faster"] is None


BAD_WORDS = {
    "nothing": (("bench",), "name a primitive; known: gemm, conv2d"),
    "primitive": (("bench", "fft", "8"), "unknown primitive 'fft'; known: gemm, conv2d"),
    "no size": (("bench", "gemm"), "name a size of gemm, such as 512x512x512"),
    "size": (("bench", "gemm", "8x8"), "gemm size '8x8': MxNxK"),
    "zero": (("bench", "gemm", "0x8x8"), "m must be a whole number from 1"),
    "fields": (("bench", "add", "--size", "elements=-1"), "from 1, got -1"),
    "negative": (("bench", "gemm", "--", "-8x8x8"), "gemm size '-8x8x8'"),
    "negative, as an option": (
        ("bench", "gemm", "-8x8x8"),
        "-8 (a size is made of numbers from 1)",
    ),
    "set": (("bench", "--set", "mlperf"), "known: deepbench"),
    "set of another": (("bench", "add", "--set", "deepbench"), "has no add"),
    "no file": (("bench", "gemm", "--file", "none"), "cannot read none: No such file"),
    "file of what": (("bench", "--file", "none"), "name a primitive"),
    "mode": (("bench", "gemm", "8x8x8", "--mode", "x"), "known: infer, train"),
    "engine": (("bench", "gemm", "8x8x8", "--engine", "x"), "known: numpy, torch"),
    "absent engine": (("bench", "gemm", "8x8x8", "--engine", "torch"), "engines install torch"),
    "budget": (("bench", "gemm", "8x8x8", "--budget", "0"), "90s, 5m or 1h"),
    "threads": (("bench", "gemm", "8x8x8", "--threads", "0"), "from 1 to"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_a_mistake_ends_in_one_sentence(name, home, monkeypatch, capsys):  # noqa: F811
    words, sentence = BAD_WORDS[name]
    monkeypatch.chdir(home)
    status, printed, said = here(monkeypatch, capsys, *words)
    assert (status, printed) == (2, "")
    assert said.startswith("kernelprof: ")
    assert said.count("\n") == 1
    assert sentence in said


def test_a_bench_prints_what_it_finds_and_is_carried_on_with(tmp_path):
    folder = make_home(tmp_path / "home")
    sizes, path = tmp_path / "sizes.txt", str(tmp_path / "a.kprof")
    sizes.write_text("16x8x8  # ours\n")
    words = ("bench", "gemm", "8..16x8x8", "99999999x99999999x9", "--file", str(sizes))
    words += ("--engine", "fake", "--threads", "1", "-o", path)
    done = in_a_shell(folder, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == bench_header().plain
    assert [line for line in lines if line.startswith("gemm")] == [
        "gemm 8x8x8",
        "gemm 16x8x8",
        "gemm 99999999x99999999x9",
    ]
    assert sum(" forward " in line for line in lines) == 2
    assert sum("failed (memory): " in line for line in lines) == 2  # fake, and the reference
    assert "2 kernels of 2 sizes measured; 2 failed." in done.stdout

    measured = [line for line in lines if " forward " in line]
    for again in (words, ("bench", "-o", path), ("run", "-o", path)):
        done = in_a_shell(folder, *again)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stdout.splitlines() if " forward " in line] == measured


def test_ceilings_are_measured_before_the_choice_unless_they_are_known(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KERNELPROF_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "LOCK", tmp_path / "lock")
    measured = []
    monkeypatch.setattr(
        saturation, "ceilings", lambda machine, counts, tell: measured.append(counts) or CEILINGS
    )
    assert cli_measure.machine_ceilings(OPTIONS, False) == CEILINGS
    assert "measuring what this machine cannot exceed" in capsys.readouterr().err
    unfit = Check("CPU quota", BLOCK, "too small", "raise it")
    monkeypatch.setattr(cli_measure, "examine", lambda options: [unfit])
    with pytest.raises(KernelprofError, match="--force"):
        cli_measure.machine_ceilings(OPTIONS, False)
    assert "too small" in capsys.readouterr().err
    plant_ceilings(tmp_path)
    assert cli_measure.machine_ceilings(OPTIONS, False).at(1).flop_per_s("float32") == 1e12
    assert capsys.readouterr().err == ""
    assert measured == [[1]]


def test_before_a_result_is_refused_the_ceilings_are_measured_once_more(
    tmp_path, monkeypatch, capsys
):
    impossible = FailureResult("gemm", "fake", 1, 1, INFER, IMPOSSIBLE, "too fast")
    monkeypatch.setattr(cli_measure, "failures", lambda file: [impossible])
    monkeypatch.setattr(cli_measure.runner, "measure", lambda file, options, report: None)
    monkeypatch.setattr(cli_measure, "_ceilings", lambda counts: Ceilings("f", {}))
    monkeypatch.setattr(saturation, "raise_ceilings", lambda machine, counts, tell: CEILINGS)
    file = RunFile.create(tmp_path / "a.kprof", {"options": OPTIONS.to_json()})
    cli_measure._measure_all(file, OPTIONS)
    assert Ceilings.from_json(file.meta("ceilings")) == CEILINGS
    assert "measured once more" in capsys.readouterr().err
    file.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget_s": 40.0, "keeps_budget": True}, "12.0 s more than the budget of 40.0 s"),
        ({"budget_s": 52.0, "keeps_budget": True}, ""),
        ({"budget_s": 40.0, "keeps_budget": False}, ""),
        ({"budget_s": 40.0}, ""),
    ],
)
def test_a_budget_that_was_not_kept_is_told(options, said, capsys):
    cli_measure._tell_excess(options, 52.0)
    told = capsys.readouterr().err
    assert said in told
    assert bool(told) == bool(said)


def test_what_is_no_size_is_told_and_the_rest_measured(tmp_path):
    folder = make_home(tmp_path / "home")
    sizes = tmp_path / "sizes.txt"
    sizes.write_text("8x8x8\n16x0x8\n")
    words = ("bench", "gemm", "0x8x8", "4x8x8", "--file", str(sizes), "--engine", "numpy")
    done = in_a_shell(folder, *words, "--threads", "1", "-o", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("left out")]
    assert told == [
        "left out: gemm size '0x8x8': m must be a whole number from 1, got 0",
        f"left out: {sizes}, line 2: gemm size '16x0x8': n must be a whole number from 1, got 0",
    ]
    shown = [line for line in done.stdout.splitlines() if line.startswith("gemm")]
    assert shown == ["gemm 4x8x8", "gemm 8x8x8"]


def test_where_nothing_is_a_size_each_mistake_is_told(tmp_path):
    done = in_a_shell(make_home(tmp_path / "home"), "bench", "gemm", "0x8x8", "8x8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "left out: gemm size '0x8x8': m must be a whole number from 1, got 0",
        "kernelprof: gemm size '8x8': MxNxK, MxNxK:NT, MxNxK:bf16 is needed, such as 512x512x512",
    ]


def test_a_budget_says_what_it_leaves_out(tmp_path):
    folder = make_home(tmp_path / "home")
    path = str(tmp_path / "a.kprof")
    words = ("--engine", "numpy", "--threads", "1", "--budget", "5.5s", "-o", path)
    done = in_a_shell(folder, "bench", "gemm", "1..128x8x8", *words)
    assert done.returncode == 0, done.stderr
    assert "the budget has room for 2 of 8 sizes" in done.stderr
    assert "left out: gemm 2x8x8, gemm 4x8x8" in done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("gemm")]
    assert shown == ["gemm 1x8x8", "gemm 128x8x8"]


def test_what_deepbench_has_and_kernelprof_has_not_is_named(tmp_path):
    folder = make_home(tmp_path / "home")
    words = ("--engine", "numpy", "--threads", "1", "--budget", "1s", "-o", str(tmp_path / "a"))
    done = in_a_shell(folder, "bench", "lstm_cell", "--set", "deepbench", *words)
    assert done.returncode == 0, done.stderr
    assert "12 vanilla RNN problems, 19 GRU problems" in done.stderr
