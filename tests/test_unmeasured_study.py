"""The study of what was not measured, on a simulated machine."""

from __future__ import annotations

import pytest

from kernelprof.studies import unmeasured
from tests.planted_run import perceptron, plant
from tests.test_unmeasured import KNOWN, truth

NETWORK = perceptron()
BATCHES = [round(factor * NETWORK.quick_batch) for factor in unmeasured.FACTORS]


def tried(folder, seed=1):
    """What comes of a run with half a per cent of noise."""
    run = plant(
        *(folder / f"{seed}.kprof", [NETWORK], truth),
        batches=BATCHES,
        threads=(1, 2),
        noise=0.005,
        known=KNOWN,
        seed=seed,
    )
    batches = unmeasured._batches(run, NETWORK.name)
    found = list(unmeasured._trials(run, batches, NETWORK.name))
    run.close()
    return found


@pytest.fixture
def trials(tmp_path):
    return tried(tmp_path)


def test_every_scenario_of_every_case_is_tried(trials):
    assert len(trials) == len(unmeasured.SCENARIOS) * 2
    assert {trial.batch for trial in trials} == {8, 32, 64}
    assert {trial.scenario for trial in trials} == set(unmeasured.SCENARIOS)


def test_a_machine_that_follows_the_model_is_foretold(trials):
    assert all(abs(trial.error) < 0.05 for trial in trials)
    for trial in trials:
        assert trial.model_error == pytest.approx(trial.error, abs=0.02)


def test_intervals_hold_what_they_say(tmp_path):
    """Nine of ten; the trials of a run share its noise, so one run tells little."""
    inside = [trial.inside for seed in range(6) for trial in tried(tmp_path, seed)]
    assert sum(inside) / len(inside) >= 0.8


def test_the_text_has_the_worst_first_and_marks_what_is_outside(trials):
    trials.sort(key=lambda trial: -abs(trial.error))
    body = unmeasured._body(trials)
    rows = body.partition("worst first")[2].splitlines()[4:]
    assert rows[0].startswith(f"| {trials[0].scenario} | planted infer")
    assert "| between two | 2 |" in body
