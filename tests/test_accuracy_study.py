"""The study of predictions, on runs whose truth is planted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kernelprof.analysis import case_results
from kernelprof.probes.networks import CANONICAL, NETWORKS
from kernelprof.results import Estimate
from kernelprof.studies import accuracy
from kernelprof.studies.accuracy import Judged, calibration, ranking, summary
from kernelprof.studies.held_out import KNOWN as HELD_OUT
from tests.planted_run import perceptron, plant
from tests.test_unmeasured import KNOWN, truth


@pytest.fixture
def run(tmp_path):
    """Two networks; what they take beyond their kernels is a tenth of a millisecond more."""
    made = plant(
        *(tmp_path / "a.kprof", [perceptron("small"), perceptron("large", width=1024)], truth),
        noise=0.002,
        known=KNOWN,
        extra_s=lambda threads: 1e-4,
    )
    yield made
    made.close()


def test_what_is_published_is_what_the_run_holds(run, tmp_path, capsys):
    accuracy.main([run.path], tmp_path / "study", "A study")
    data = json.loads((tmp_path / "study" / "data.json").read_text())
    cases = list(case_results(run))
    assert data["summary"]["cases"] == len(cases) == 2
    assert [case["error"] for case in data["cases"]] == sorted(
        (case.error for case in cases), key=abs, reverse=True
    )
    text = (tmp_path / "study" / "README.md").read_text()
    assert text.startswith("# A study")
    assert text.index("| small |") < text.index("| large |"), "the worse one comes first"
    assert "wrote" in capsys.readouterr().err


def test_the_parts_of_an_error_add_up(run):
    for case in case_results(run):
        one = accuracy._judged(case)
        assert sum(accuracy._parts(one).values()) == pytest.approx(one.error, abs=1e-9)


def judged(run, measured_s, predicted_s, engine="a", half=0.1):
    case = next(iter(case_results(run)))
    predicted = Estimate(predicted_s, predicted_s * (1 - half), predicted_s * (1 + half))
    measured = Estimate(measured_s, measured_s, measured_s)
    return Judged(
        replace(case, engine=engine, measured=measured, predicted=predicted),
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
    )


def test_summary_of_planted_errors(run):
    found = summary([judged(run, 1.0, 1.0 + error) for error in (0.0, 0.02, -0.05, 0.3)])
    assert found["cases"] == 4
    assert found["median"] == pytest.approx(0.035)
    assert found["worst"] == pytest.approx(0.3)
    assert found["inside"] == 0.75


def test_engines_are_ranked_where_they_are_apart(run):
    a = judged(run, 1.0, 1.2, "a").case
    b = judged(run, 1.05, 1.0, "b").case  # too near to a to count
    c = judged(run, 2.0, 1.1, "c").case  # predicted to be faster than a
    assert ranking([a, b]) == (0, 0)
    assert ranking([a, b, c]) == (1, 2)
    other = replace(c, batch=c.batch + 1)
    assert ranking([a, other]) == (0, 0)


def test_wider_intervals_hold_more(run):
    cases = [judged(run, 1.0, 1.0 + error) for error in (0.01, 0.05, 0.09, 0.115, 0.2)]
    seen = dict(calibration(cases))
    assert seen == {0.5: 0.2, 0.8: 0.4, 0.9: 0.6, 0.95: 0.8}


def test_nothing_is_held_out_that_is_canonical():
    assert set(HELD_OUT) <= set(NETWORKS) - set(CANONICAL)
