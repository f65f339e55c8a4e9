"""Imports within a run file: what goes in comes out, all of it or nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from kernelprof import trace_store
from kernelprof.runfile import RunFile
from kernelprof.trace import Activity, Sampled, Trace, TracedRange, Unassigned, Work
from kernelprof.trace_store import StoredOperation, StoredRange, TraceStore

HOSTILE = "'; DROP TABLE traces; --\x00\x1b[31m<script>\U0001f600"
TRACE = Trace(
    source="a.sqlite",
    product="2024.6.2.225",
    schema="3.16.1",
    rows=12,
    range_cost_ns=4321,
    ranges=(
        TracedRange(
            pid=7,
            domain="kernelprof",
            path=("net infer batch=1", "fc1", HOSTILE),
            count=3,
            host_ns=3000,
            gpu=Activity(2, 50, 40, 5),
            work=(Work("kernel", "gemm", 2, 50), Work("memcpy", "HtoD", 1, 9, 4096)),
            sampled=Sampled(1, 0, 2, 20, 1900, 2000, Activity(1, 2, 3, 4)),
        ),
        TracedRange(7, "", ("bare",), 1, 10, Activity(), ()),
    ),
    unassigned=(Unassigned("it was launched outside of ranges", Work("memset", "memset", 1, 2)),),
    left_out={"of the domain CCCL": 4},
)
RANGES = [
    StoredRange(7, 8, "kernelprof", HOSTILE, 10, 20),
    StoredRange(7, 8, "", "bare", 30, 30),
    StoredRange(9, 9, "bare", "kernelprof", 2**53 + 1, 2**53 + 2),
]
OPERATIONS = [
    StoredOperation(7, 0, 7, "kernel", "gemm", 11, 19, 0),
    StoredOperation(7, 1, 13, "memcpy", HOSTILE, 12, 14, 2**40),
]


@pytest.fixture
def run(tmp_path):
    file = RunFile.create(tmp_path / "a.kprof", {"kernelprof": "0"})
    yield file
    file.close()


@pytest.fixture
def store(run):
    return TraceStore(run)


def tables(run: RunFile) -> set[str]:
    with run.transaction() as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master")}


def test_a_run_without_imports_has_nothing_and_no_tables(run, store):
    before = tables(run)
    assert store.traces() == []
    assert list(store.ranges()) == []
    assert list(store.operations()) == []
    assert tables(run) == before
    assert not any(name.startswith("trace") for name in before)


def test_what_goes_in_comes_out(run, store):
    store.add(TRACE, RANGES, OPERATIONS)
    run.close()
    again = RunFile.open(run.path)
    store = TraceStore(again)
    assert store.traces() == [TRACE]
    assert list(store.ranges()) == RANGES
    assert list(store.operations()) == OPERATIONS
    again.close()


def test_an_import_of_the_same_source_replaces(store):
    store.add(TRACE, RANGES, OPERATIONS)
    other = replace(TRACE, source="b.sqlite")
    store.add(other, RANGES[:1], [])
    newer = replace(TRACE, rows=1, ranges=())
    store.add(newer, RANGES[1:], OPERATIONS[1:])
    assert store.traces() == [other, newer]
    assert list(store.ranges()) == [RANGES[0], *RANGES[1:]]
    assert list(store.operations()) == OPERATIONS[1:]


@pytest.mark.parametrize("there", [False, True])
def test_an_import_that_breaks_off_leaves_nothing(run, store, there):
    def broken():
        yield OPERATIONS[0]
        raise RuntimeError("half-way")

    if there:
        store.add(TRACE, RANGES, OPERATIONS)
    before = tables(run)
    with pytest.raises(RuntimeError, match="half-way"):
        store.add(replace(TRACE, rows=99), RANGES, broken())
    assert tables(run) == before
    assert store.traces() == ([TRACE] if there else [])
    assert list(store.ranges()) == (RANGES if there else [])
    assert list(store.operations()) == (OPERATIONS if there else [])


def test_another_writer_is_waited_for_and_then_told(run, store):
    other = sqlite3.connect(run.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with run.transaction() as db:
        db.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        store.add(TRACE, RANGES, OPERATIONS)
    other.close()
    assert store.traces() == []


def test_many_blocks_come_out_in_their_order(store, monkeypatch):
    monkeypatch.setattr(trace_store, "EVENTS_AT_ONCE", 3)
    ranges = [StoredRange(7, 8, "", f"step {n % 5}", n * 10**9, n) for n in range(40)]
    store.add(TRACE, ranges, OPERATIONS)
    assert list(store.ranges()) == ranges
    assert list(store.operations()) == OPERATIONS


@pytest.mark.parametrize("number", [-(2**63), -1, 0, 2**31, 2**63 - 1])
def test_any_number_of_64_bits_comes_out(store, number):
    ranges = [StoredRange(7, 8, "", "a", 0, 1), StoredRange(1, 2, "", "a", number, number)]
    store.add(TRACE, ranges, [])
    assert list(store.ranges()) == ranges
