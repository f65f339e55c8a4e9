"""The tables of a run file that only a run on a GPU has: both sides of samples, NVML's readings.

They are made by the first such sample or reading, so that a run on the CPU is as it always was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from kernelprof.disturbance import Sample
from kernelprof.gpu.samples import GpuReading, GpuSample
from kernelprof.gpu.watch import REACH_NS, throttled

SAMPLES = """
CREATE TABLE IF NOT EXISTS gpu_samples (
    case_id INTEGER NOT NULL REFERENCES cases, round INTEGER NOT NULL, place INTEGER NOT NULL,
    events_ns INTEGER NOT NULL, host_ns INTEGER NOT NULL, graph_ns INTEGER NOT NULL,
    PRIMARY KEY (case_id, round, place)) WITHOUT ROWID
"""
READINGS = """
CREATE TABLE IF NOT EXISTS gpu_readings (
    device TEXT NOT NULL, time_ns INTEGER NOT NULL, sm_hz INTEGER NOT NULL, temperature_c INTEGER,
    power_w REAL, reasons INTEGER NOT NULL, PRIMARY KEY (device, time_ns)) WITHOUT ROWID
"""

SampleRow = tuple[int, int, int, int, int, int]  # the columns of a sample
Key = tuple[int, int]  # a sample's round and place


def add_samples(db: sqlite3.Connection, rows: Iterable[SampleRow]) -> None:
    """Record what samples took on either side."""
    db.execute(SAMPLES)
    db.executemany("INSERT INTO gpu_samples VALUES (?, ?, ?, ?, ?, ?)", rows)


def samples(db: sqlite3.Connection, case_id: int) -> dict[int, dict[int, GpuSample]]:
    """Both sides of a case's samples, by round and place; none of a case on the CPU."""
    if not _has(db, "gpu_samples"):
        return {}
    rows = db.execute(
        "SELECT round, place, calls, start_ns, events_ns, host_ns, graph_ns"
        " FROM gpu_samples JOIN samples USING (case_id, round, place)"
        " WHERE case_id = ? ORDER BY round, place",
        (case_id,),
    )
    found: dict[int, dict[int, GpuSample]] = {}
    for round_, place, *sides in rows:
        found.setdefault(round_, {})[place] = GpuSample(*sides)
    return found


def to_scale(sample: Sample, sides: Mapping[int, Mapping[int, GpuSample]]) -> Sample:
    """A sample of which as large a share was lost as of the block that the CPU had part in.

    A replay, which counts as the time of a kernel, lasts less long than the CPU's part did.
    """
    side = sides.get(sample.round, {}).get(sample.place)
    if side is None or not side.graph_ns:
        return sample
    share = sample.duration_ns / max(side.events_ns, 1)
    return sample._replace(
        waited_ns=round(sample.waited_ns * share), stolen_ns=round(sample.stolen_ns * share)
    )


def add_readings(db: sqlite3.Connection, device: str, readings: Iterable[GpuReading]) -> None:
    """Record how a card fared."""
    db.execute(READINGS)
    rows = [(device, *reading) for reading in readings]
    db.executemany("INSERT OR REPLACE INTO gpu_readings VALUES (?, ?, ?, ?, ?, ?)", rows)


def readings(db: sqlite3.Connection, device: str, first_ns: int, last_ns: int) -> list[GpuReading]:
    """How a card fared from one moment to another, by time."""
    if not _has(db, "gpu_readings"):
        return []
    rows = db.execute(
        "SELECT time_ns, sm_hz, temperature_c, power_w, reasons FROM gpu_readings"
        " WHERE device = ? AND time_ns BETWEEN ? AND ? ORDER BY time_ns",
        (device, first_ns, last_ns),
    )
    return [GpuReading(*row) for row in rows]


def throttled_samples(db: sqlite3.Connection, case_id: int, device: str) -> set[Key]:
    """Rounds and places of a case's samples while which the card had lowered its clock."""
    spans = {
        (round_, place): (sample.start_ns, _end_ns(sample))
        for round_, found in samples(db, case_id).items()
        for place, sample in found.items()
    }
    if not spans:
        return set()
    first = min(start for start, _ in spans.values()) - REACH_NS
    last = max(end for _, end in spans.values()) + REACH_NS
    read = readings(db, device, first, last)
    return {key for key, (start, end) in spans.items() if throttled(start, end, read)}


def _end_ns(sample: GpuSample) -> int:
    """When a sample was over: a graph is replayed twice, the first time untimed."""
    return sample.start_ns + sample.events_ns + 2 * sample.graph_ns


def _has(db: sqlite3.Connection, table: str) -> bool:
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return db.execute(known, (table,)).fetchone() is not None
