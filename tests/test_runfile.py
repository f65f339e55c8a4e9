"""The run file: what goes in comes out, and what is not a run file is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kernelprof.chains import calls
from kernelprof.disturbance import WHOLE, Time
from kernelprof.errors import UsageError
from kernelprof.plan import Case
from kernelprof.probes.compute_bound import Gemm
from kernelprof.probes.network import Network
from kernelprof.runfile import APPLICATION_ID, SCHEMA, RunFile

META = {"kernelprof": "0", "command": "kernelprof run", "options": {"quick": False}}
CASE = Case("chain-calls-1", "numpy", (1, 0), 16, "train")
KERNEL = {
    "layer": "fc1",
    "primitives": [Gemm(1, 2, 3).to_json()],
    "passes": ["forward"],
    "flop": 12,
    "compute_flop": 10,
    "least_bytes": 44,
    "cold_bytes": 24,
    "lukewarm": False,
    "error": 1e-7,
    "failure": None,
}
BROKEN = {**KERNEL, "error": None, "failure": {"kind": "unsupported", "reason": "has none"}}


def turn_of(*rounds: int, whole: bool = True) -> dict:
    """A turn as a worker answers it: two calls a sample."""
    sampled = [
        {
            "round": round_,
            "whole": [2, 100 * round_, 2000 + round_, 30, 10, 0, 0, 0, 0, 1] if whole else None,
            "kernels": {"0": [2, 100 * round_ + 50, 1000 + round_, 5, 0, 0, 1, 3, 0, 0]},
        }
        for round_ in rounds
    ]
    return {"rounds": sampled, "turn_ns": 9999}


@pytest.fixture
def run(tmp_path):
    file = RunFile.create(tmp_path / "a.kprof", META)
    yield file
    file.close()


@pytest.fixture
def case_id(run):
    return run.add_case(CASE, calibration=False)


@pytest.fixture
def worker_id(run):
    return run.add_worker("numpy", (1, 0), {"pid": 7})


def test_what_goes_in_comes_out(run, case_id, worker_id):
    run.add_network(calls(1).to_json())
    run.describe_case(case_id, 123, [KERNEL, BROKEN])
    run.add_turn(case_id, worker_id, turn_of(0, 1))
    run.stop(case_id, "interval")
    run.spend("samples", 5)
    run.spend("samples", 6)
    run.close()

    again = RunFile.open(run.path)
    assert {key: again.meta(key) for key in META} == META
    assert again.meta("nothing") is None
    assert {name: Network.from_json(n) for name, n in again.networks().items()} == {
        "chain-calls-1": calls(1)
    }
    assert again.workers() == [("numpy", (1, 0), {"pid": 7})]
    (stored,) = again.cases()
    assert (stored.case, stored.calibration) == (CASE, False)
    assert (stored.first_call_ns, stored.stopped_by) == (123, "interval")
    first, second = again.kernels(case_id)
    assert (first.place, first.layer, first.primitives) == (0, "fc1", (Gemm(1, 2, 3),))
    assert first.labels == (Gemm(1, 2, 3).label,)
    assert (first.flop, first.compute_flop, first.least_bytes) == (12, 10, 44)
    assert (first.cold_bytes, first.lukewarm) == (24, False)
    assert (first.failure, second.failure) == (None, ("unsupported", "has none"))
    assert again.rounds(case_id) == {0, 1}
    assert again.call_ns(case_id) == {0: {WHOLE: 1000, 0: 500}, 1: {WHOLE: 1000.5, 0: 500.5}}
    assert again.spent() == {"samples": 11}
    again.close()


def test_samples_keep_their_circumstances(run, case_id, worker_id):
    taken = run.add_turn(case_id, worker_id, turn_of(4))
    assert taken == 2004 + 1004
    whole, kernel = run.samples(case_id)
    assert whole == {
        "round": 4,
        "turn_id": 1,
        "worker_id": worker_id,
        "place": WHOLE,
        "calls": 2,
        "start_ns": 400,
        "duration_ns": 2004,
        "waited_ns": 30,
        "stolen_ns": 10,
        "throttled_periods": 0,
        "stops": 0,
        "minor_faults": 0,
        "major_faults": 0,
        "involuntary_switches": 1,
    }
    assert (kernel["place"], kernel["minor_faults"]) == (0, 3)
    times = run.times(case_id)[4]
    assert times[0] == Time(502, 502, worker_id)  # it was stopped, so all of it is lost,
    assert times[WHOLE] == Time(1002, 1002, worker_id)  # and the one before it


def test_a_case_without_its_whole(run, case_id, worker_id):
    run.add_turn(case_id, worker_id, turn_of(0, whole=False))
    assert run.call_ns(case_id) == {0: {0: 500}}


def test_a_turn_is_there_or_not(run, case_id, worker_id):
    run.add_turn(case_id, worker_id, turn_of(0, 1))
    before = list(run.samples(case_id))
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        run.add_turn(case_id, worker_id, turn_of(2, 1))  # round 1 once more
    assert list(run.samples(case_id)) == before
    with sqlite3.connect(run.path) as other:
        assert other.execute("SELECT count(*) FROM turns").fetchone() == (1,)
    other.close()
    run.add_turn(case_id, worker_id, turn_of(2))
    assert run.rounds(case_id) == {0, 1, 2}


def test_a_case_is_planned_once(run, case_id):
    assert run.add_case(CASE, calibration=False) == case_id
    other = Case("chain-calls-1", "numpy", (1, 0), 16, "infer")
    assert run.add_case(other, calibration=True) != case_id
    assert [stored.case for stored in run.cases()] == [CASE, other]
    assert [stored.calibration for stored in run.cases()] == [False, True]


def test_a_rebuilt_case_keeps_its_first_call(run, case_id):
    run.describe_case(case_id, 123, [KERNEL])
    run.describe_case(case_id, 456, [BROKEN])
    assert run.cases()[0].first_call_ns == 123
    assert run.kernels(case_id)[0].failure == ("unsupported", "has none")


def test_failures(run, case_id):
    assert run.failures() == {}
    run.add_failure(case_id, "crash", "one")
    run.add_failure(case_id, "memory", "two")
    assert run.failures() == {case_id: ("memory", "two")}
    run.forget_failures(("crash",))
    assert run.failures() == {case_id: ("memory", "two")}
    run.forget_failures(("crash", "memory"))
    assert run.failures() == {}


def test_a_reader_sees_what_a_writer_has_written(run, case_id, worker_id):
    run.add_turn(case_id, worker_id, turn_of(0))
    reader = RunFile.open(run.path)
    run.add_turn(case_id, worker_id, turn_of(1))
    assert reader.rounds(case_id) == {0, 1}
    reader.close()


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as refusal:
        RunFile.open(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0])
def test_another_schema_is_refused(schema, run):
    run.close()
    with sqlite3.connect(run.path) as connection:
        connection.execute(f"PRAGMA user_version = {schema}")
    connection.close()
    assert f"has schema {schema}, this kernelprof reads schema {SCHEMA}" in refused(run.path)


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE samples (a)")
    connection.close()
    before = path.read_bytes()
    assert "not a kernelprof run file" in refused(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"text\n" * 400, b"SQLite format 3\0" + b"x" * 400])
def test_what_is_no_database_is_refused(content, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert "not a kernelprof run file" in refused(path)
    assert path.read_bytes() == content


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in refused(tmp_path)


def test_no_file_is_refused(tmp_path):
    assert "no such file; `kernelprof run -o " in refused(tmp_path / "a.kprof")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="folder that you may write to"):
        RunFile.create(tmp_path / "none" / "a.kprof", META)


def test_a_new_file_is_complete_or_nothing(tmp_path):
    path = tmp_path / "a.kprof"
    with pytest.raises(TypeError):
        RunFile.create(path, {"command": "one", "options": object()})
    assert "kernelprof run file" in refused(path)
    assert APPLICATION_ID.to_bytes(4, "big") not in path.read_bytes()[:100]
