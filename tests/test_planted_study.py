"""The study that plants causes of slowness: its plants, its judgement, and the adapter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernelprof.diagnosis import rules_around_kernels, rules_of_kernels
from kernelprof.engines import Environment
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.network_sources import network
from kernelprof.results import Estimate
from kernelprof.studies.planted import ADAPTER, Outcome, _body, _calling_s, _line
from kernelprof.studies.planted_cases import PLANTS, Plant, definition
from tests.sample_results import sample_results

LATE_NS = 20_000_000
RULES = rules_around_kernels, rules_of_kernels


def outcome(cause: str, *found: tuple[str, float | None, float], truth_s: float = 0.1) -> Outcome:
    return Outcome("p", "torch", "fcn-r infer", "A=1", cause, truth_s, 1.0, found)


def test_there_are_plants_enough() -> None:
    planted = [plant for plant in PLANTS if plant.cause]
    assert len(planted) >= 18
    assert len({plant.engine for plant in planted}) >= 4
    assert len(PLANTS) - len(planted) >= 5
    assert len({plant.name for plant in PLANTS}) == len(PLANTS)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_plant_can_be_undone_and_its_cause_is_one_that_a_rule_names(plant: Plant) -> None:
    sources = [Path(rules.__file__).read_text() for rules in RULES]
    assert any(plant.cause in source for source in sources)
    assert bool(plant.healthy) or not plant.cause or plant.cause == "dispatch-bound"
    assert definition(plant.network).layers


def test_a_cause_is_right_that_is_named_first() -> None:
    right = outcome("capped", ("capped", 0.12, 0.5), ("other", 0.05, 0.05))
    assert right.is_right
    assert right.is_near
    assert right.error == pytest.approx(0.2)
    second = outcome("capped", ("other", 0.3, 0.3), ("capped", 0.2, 0.5))
    assert not second.is_right
    assert not second.is_near
    assert not outcome("capped").is_right
    assert outcome("capped").error is None


def test_a_healthy_case_has_nothing_that_weighs_much() -> None:
    assert outcome("").is_right
    assert outcome("", ("other", 0.04, 0.04)).is_right
    assert not outcome("", ("other", 0.06, 0.06)).is_right
    assert outcome("", ("kernels slower than the reference", 0.06, 0.06)).is_right


def test_a_plant_that_costs_nothing_here_is_no_cause() -> None:
    without_effect = outcome("denormal", truth_s=0.001)
    assert without_effect.is_right
    assert not without_effect.has_effect
    assert not outcome("denormal", ("other", 0.06, 0.06), truth_s=0.001).is_right


def test_the_text_counts_what_was_right() -> None:
    found = [
        outcome("capped", ("capped", 0.12, 0.5)),
        outcome("capped", ("other", 0.3, 0.3)),
        outcome("", ("other", 0.06, 0.06)),
    ]
    text = _body(found)
    assert "2 plants in 1 engine: the planted cause is named first in 1" in text
    assert "In 0 of 1 case without an effective plant" in text
    assert "**other**, not capped" in text
    assert _line(found[0]).startswith("right: p (truth 100 ms)")
    assert _line(found[1]).startswith("WRONG")


def test_what_a_call_costs_is_what_no_sample_costs() -> None:
    case = sample_results().cases[0]
    cases = [
        replace(case, batch=batch, measured=Estimate(0.5 + 0.01 * batch, 0.0, 9.0))
        for batch in (1, 64, 128)
    ]
    assert _calling_s(cases) == pytest.approx(0.5)


@pytest.fixture
def planted() -> Iterator[Worker]:
    """NumPy, whose networks are fed late and with denormal numbers."""
    variables = {
        "PLANTED_ENGINE": "numpy",
        "PLANTED_SLEEP_NS": str(LATE_NS),
        "PLANTED_SCALE": "1e-39",
    }
    environment = Environment("numpy", sys.executable, str(ADAPTER), variables)
    worker = Worker(environment, usable_cpus()[:1])
    yield worker
    worker.close()


def test_the_adapter_plants_late_and_denormal_input(planted: Worker) -> None:
    asked = network("alexnet-r").to_json()
    told = planted.ask("observe", 60.0, network=asked, batch=4, mode="infer", seed=1)
    assert told["denormals"]["input"] > 0.9
    profile = planted.ask("profile", 60.0, calls=2)
    assert min(profile["plain_ns"]) >= LATE_NS
    for call in profile["calls"]:
        assert min(start for _, _, _, start, _, _ in call["spans"]) >= LATE_NS
        assert max(end for *_, end, _ in call["spans"]) <= call["duration_ns"]


def test_chains_stay_healthy(planted: Worker) -> None:
    asked = {**network("alexnet-r").to_json(), "name": "chain-calls-1"}
    told = planted.ask("observe", 60.0, network=asked, batch=4, mode="infer", seed=1)
    assert "input" not in told["denormals"]
