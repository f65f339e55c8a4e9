"""Trying an engine out: every kind of primitive, and each fault named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kernelprof.enginecheck import SPECIMENS, check
from kernelprof.engines import Environment
from kernelprof.machine import usable_cpus
from kernelprof.probes.primitives import PRIMITIVES

FAKE = str(Path(__file__).resolve().parent / "fake_engine.py")
LABELS = {specimen.kind: specimen.label for specimen in SPECIMENS}


def checked(adapter: str = FAKE, **variables: str):
    settings = {f"FAKE_{name}": value for name, value in variables.items()}
    engine = Environment("fake", sys.executable, adapter, variables=settings)
    return check(engine, usable_cpus()[:1])


def test_there_is_a_specimen_of_every_kind():
    assert sorted(specimen.kind for specimen in SPECIMENS) == sorted(PRIMITIVES)


@pytest.mark.parametrize("specimen", SPECIMENS, ids=lambda specimen: specimen.kind)
def test_a_specimen_is_small(specimen):
    assert sum(operand.size_bytes for operand in specimen.operands().values()) < 2**20


def test_the_reference_can_do_everything():
    found = checked("numpy")
    assert found.version
    assert found.threads == 1
    assert (found.failures, found.unsupported) == ({}, {})
    assert set(found.errors) == set(LABELS.values())
    assert max(found.errors.values()) < 1e-4


def test_what_an_engine_lacks_is_no_failure():
    found = checked(UNSUPPORTED="lrn")
    assert found.unsupported == {LABELS["lrn"]: "fake has no such kernel"}
    assert found.failures == {}
    assert len(found.errors) == len(SPECIMENS) - 1


def test_a_wrong_result_is_named_and_the_rest_goes_on():
    found = checked(WRONG="add")
    assert list(found.failures) == [LABELS["add"]]
    assert "at most 0.0001 is accepted" in found.failures[LABELS["add"]]
    assert len(found.errors) == len(SPECIMENS) - 1


def test_a_crash_ends_the_check_and_says_so():
    found = checked(CRASH="pool2d")
    assert "signal SIGKILL" in found.failures["worker"]
    assert LABELS["conv2d"] in found.errors


def test_an_engine_that_does_not_start():
    found = checked(ABSENT="1")
    assert found.failures == {"start": "No module named 'fake'"}
    assert found.errors == {}
