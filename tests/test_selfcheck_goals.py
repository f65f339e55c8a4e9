"""The goals of a selfcheck: met, missed, and not to be judged."""

from __future__ import annotations

import dataclasses

import pytest

from kernelprof.diagnosis.ledger import RESIDUAL
from kernelprof.results import EngineCheck, Estimate, LedgerPart, PrimitiveResult, Sampling
from kernelprof.selfcheck.goals import Seen, goals
from tests.sample_results import sample_results, with_diagnosis

PRODUCT = "gemm 4096x4096x4096"
FLOP = 2 * 4096**3
CASE = sample_results().cases[0]
DIAGNOSED = with_diagnosis(CASE)


def product(engine: str, seconds: float, ceiling_s: float | None = 1.0) -> PrimitiveResult:
    return PrimitiveResult(
        primitive=PRODUCT,
        engine=engine,
        device="cuda:0",
        threads=4,
        cpus=(0, 1, 2, 3),
        mode="infer",
        passes=("forward",),
        seconds=Estimate(seconds, seconds, seconds),
        speedup=None,
        ceiling_s=ceiling_s,
        flop=FLOP,
        least_bytes=3 * 4 * 4096**2,
        cold_bytes=0,
        lukewarm=False,
        compute_bound=True,
        sampling=Sampling(6),
    )


def case(error: float):
    measured, predicted = Estimate(1.0, 1.0, 1.0), Estimate(1 + error, 1 + error, 1 + error)
    return dataclasses.replace(CASE, measured=measured, predicted=predicted)


def judged(device="cuda:0", checks=(), errors=(), products=(), clocks=None):
    seen = Seen(device, checks, [case(error) for error in errors], products, clocks or {})
    return {goal.name: goal for goal in goals(seen)}


def test_an_engine_with_right_results():
    right = EngineCheck("torch", errors={"gemm": 1e-6, "conv2d": 2e-6}, unsupported={"lrn": "no"})
    goal = judged(checks=[right])["torch: results"]
    assert goal.met
    assert goal.got == "2 primitives, the largest error 2.0e-06; not in this engine: lrn"


def test_an_engine_with_a_wrong_result():
    wrong = EngineCheck("torch", errors={"gemm": 1e-6}, failures={"conv2d": "an error of 0.1"})
    goal = judged(checks=[wrong])["torch: results"]
    assert not goal.met
    assert "conv2d: an error of 0.1" in goal.got


def test_an_engine_that_did_not_start():
    assert not judged(checks=[EngineCheck("jax", failures={"start": "no GPU"})])["jax: results"].met


@pytest.mark.parametrize(
    ("errors", "met"),
    [
        ([0.01, -0.02, 0.03], True),
        ([-0.2] + [0.01] * 30, True),
        ([0.06] * 5, False),
        ([-0.2] * 3 + [0.0] * 20, False),
    ],
    ids=["near", "one far off", "median", "percentile"],
)
def test_predictions(errors, met):
    assert judged(errors=errors)["networks: predictions"].met is met


def test_nothing_measured_is_neither_met_nor_missed():
    found = judged()
    assert {goal.met for goal in found.values()} == {None}
    assert list(found) == [
        "networks: predictions",
        "cupy: products as torch's",
        "clocks: torch's own profiler",
        "torch: its profiler's trace",
    ]


def test_the_cpu_is_asked_for_no_clocks_of_a_gpu():
    assert list(judged("cpu")) == ["networks: predictions"]


@pytest.mark.parametrize(
    ("attained", "met"), [(0.74, False), (0.76, True), (1.01, True), (1.03, False)]
)
def test_a_large_product_comes_near_to_the_ceiling_and_not_above(attained, met):
    found = judged(products=[product("torch", 1 / attained)])
    assert found[f"torch: {PRODUCT}"].met is met


def test_without_a_ceiling_nothing_is_attained():
    found = judged(products=[product("torch", 1.0, None)])
    assert found[f"torch: {PRODUCT}"].met is None


@pytest.mark.parametrize(("ratio", "met"), [(0.96, False), (1.0, True), (1.04, False)])
def test_cupy_calls_the_same_library(ratio, met):
    found = judged(products=[product("torch", 1.0), product("cupy", ratio)])
    assert found["cupy: products as torch's"].met is met


@pytest.mark.parametrize(("ratio", "met"), [(0.97, False), (1.01, True), (1.03, False)])
def test_two_clocks_agree(ratio, met):
    found = judged(clocks={PRODUCT: (ratio, 1.0)})
    assert found["clocks: torch's own profiler"].met is met


@pytest.mark.parametrize(("part", "met"), [(-0.06, False), (0.04, True), (0.2, False)])
def test_the_profiler_saw_what_was_measured(part, met):
    rest = LedgerPart(RESIDUAL, part * CASE.measured.value_s)
    diagnosis = dataclasses.replace(DIAGNOSED.diagnosis, ledger=(rest,))
    seen = Seen("cuda:0", (), [CASE, dataclasses.replace(CASE, diagnosis=diagnosis)], (), {})
    assert {goal.name: goal.met for goal in goals(seen)}["torch: its profiler's trace"] is met
