"""The run file: SQLite, written as results come, so that a killed run loses one turn at most.

Schema history:
1  first
2  circumstances by sample, cold operands; since then also evidence, where something was diagnosed,
   and of a run on a GPU both sides of its samples and how the card fared
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernelprof.disturbance import WHOLE, Rounds, Sample, Times, times_of
from kernelprof.errors import UsageError
from kernelprof.gpu import recorded
from kernelprof.gpu.samples import GpuReading, GpuSample
from kernelprof.plan import Case
from kernelprof.probes.primitive import Primitive
from kernelprof.probes.primitives import primitive_from_json
from kernelprof.probes.wire import Message

SCHEMA = 2
LAST_NS = 2**63 - 1  # of all moments that the file can hold
APPLICATION_ID = 0x4B50524F  # "KPRO", in SQLite's header

HEADER = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA};"
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE networks (name TEXT PRIMARY KEY, definition TEXT NOT NULL);
CREATE TABLE workers (
    id INTEGER PRIMARY KEY, engine TEXT NOT NULL, cpus TEXT NOT NULL, facts TEXT NOT NULL);
CREATE TABLE cases (
    id INTEGER PRIMARY KEY, network TEXT NOT NULL, engine TEXT NOT NULL, device TEXT NOT NULL,
    cpus TEXT NOT NULL, batch INTEGER NOT NULL, mode TEXT NOT NULL, whole INTEGER NOT NULL,
    calibration INTEGER NOT NULL, first_call_ns INTEGER, stopped_by TEXT,
    UNIQUE (network, engine, device, cpus, batch, mode));
CREATE TABLE kernels (
    case_id INTEGER NOT NULL REFERENCES cases, place INTEGER NOT NULL, layer TEXT NOT NULL,
    primitives TEXT NOT NULL, passes TEXT NOT NULL, flop INTEGER NOT NULL,
    compute_flop INTEGER NOT NULL, least_bytes INTEGER NOT NULL, cold_bytes INTEGER NOT NULL,
    lukewarm INTEGER NOT NULL, error REAL,
    failure_kind TEXT, failure_reason TEXT, PRIMARY KEY (case_id, place));
CREATE TABLE turns (
    id INTEGER PRIMARY KEY, case_id INTEGER NOT NULL REFERENCES cases,
    worker_id INTEGER NOT NULL REFERENCES workers, turn_ns INTEGER NOT NULL);
CREATE TABLE samples (
    case_id INTEGER NOT NULL REFERENCES cases, round INTEGER NOT NULL, place INTEGER NOT NULL,
    turn_id INTEGER NOT NULL REFERENCES turns, calls INTEGER NOT NULL,
    start_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL, waited_ns INTEGER NOT NULL,
    stolen_ns INTEGER NOT NULL, throttled_periods INTEGER NOT NULL, stops INTEGER NOT NULL,
    minor_faults INTEGER NOT NULL, major_faults INTEGER NOT NULL,
    involuntary_switches INTEGER NOT NULL,
    PRIMARY KEY (case_id, round, place)) WITHOUT ROWID;
CREATE TABLE failures (
    case_id INTEGER PRIMARY KEY REFERENCES cases, kind TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE spent (what TEXT PRIMARY KEY, ns INTEGER NOT NULL);
"""
EVIDENCE = """
CREATE TABLE IF NOT EXISTS evidence (
    case_id INTEGER NOT NULL REFERENCES cases, kind TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (case_id, kind))
"""


@dataclass(frozen=True)
class StoredCase:
    """A case as the file holds it."""

    id: int
    case: Case
    calibration: bool
    first_call_ns: int | None
    stopped_by: str | None


@dataclass(frozen=True)
class StoredKernel:
    """A kernel of a case."""

    place: int
    layer: str
    primitives: tuple[Primitive, ...]
    passes: tuple[str, ...]
    flop: int
    compute_flop: int
    least_bytes: int
    cold_bytes: int  # that come from memory at each call
    lukewarm: bool  # should have come from memory, but are too small
    failure: tuple[str, str] | None  # kind and reason

    @property
    def labels(self) -> tuple[str, ...]:
        """The primitives with their sizes."""
        return tuple(primitive.label for primitive in self.primitives)


class RunFile:
    """One open run file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def create(cls, path: Path, meta: dict[str, Any]) -> RunFile:
        """A new file.

        Raises:
            UsageError: it cannot be written there.
        """
        try:
            run = cls(path, sqlite3.connect(path))
            run._write_ahead()
            facts = [(key, json.dumps(value)) for key, value in meta.items()]
            with run.transaction() as db:  # a file is there with all that opening it needs
                db.executescript(f"BEGIN; {HEADER} {TABLES}")
                db.executemany("INSERT INTO meta VALUES (?, ?)", facts)
        except (sqlite3.Error, OSError) as error:
            raise UsageError(
                f"cannot write {path}: {error}; name a file in a folder that you may write to"
            ) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunFile:
        """A file that is there.

        Raises:
            UsageError: there is none, it is no run file, it is damaged, or of a newer schema.
        """
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file")
        if not path.is_file():
            raise UsageError(f"{path}: no such file; `kernelprof run -o {path}` makes one")
        try:
            connection = sqlite3.connect(path)
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise UsageError(f"{path} is not a kernelprof run file: {error}") from error
        if application != APPLICATION_ID:
            raise UsageError(f"{path} is not a kernelprof run file; name another one")
        if schema != SCHEMA:
            raise UsageError(
                f"{path} has schema {schema}, this kernelprof reads schema {SCHEMA}; "
                "use the version of kernelprof that wrote it, or a newer one"
            )
        run = cls(path, connection)
        run._write_ahead()
        return run

    def _write_ahead(self) -> None:
        """Write without waiting for the disk; not before the file is known to be ours."""
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection; what is changed by it is kept, or none of it when an error is raised."""
        with self._db:
            yield self._db

    def meta(self, key: str) -> Any:
        """A recorded fact, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def record(self, key: str, value: Any) -> None:
        """Record a fact, or correct it."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def add_network(self, definition: Message) -> None:
        """Record what a network is."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO networks VALUES (?, ?)",
                (definition["name"], json.dumps(definition)),
            )

    def networks(self) -> dict[str, Message]:
        """Definitions by name."""
        rows = self._db.execute("SELECT name, definition FROM networks")
        return {name: json.loads(definition) for name, definition in rows}

    def add_worker(self, engine: str, cpus: tuple[int, ...], facts: Message) -> int:
        """Record a worker process; its id."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO workers (engine, cpus, facts) VALUES (?, ?, ?)",
                (engine, json.dumps(cpus), json.dumps(facts)),
            )
        return int(cursor.lastrowid or 0)

    def correct_worker(self, worker_id: int, facts: Message) -> None:
        """Record what a worker tells later: engines load libraries and start threads when used."""
        with self.transaction() as db:
            db.execute("UPDATE workers SET facts = ? WHERE id = ?", (json.dumps(facts), worker_id))

    def workers(self) -> list[tuple[str, tuple[int, ...], Message]]:
        """Engine, CPUs and facts of every worker."""
        rows = self._db.execute("SELECT engine, cpus, facts FROM workers ORDER BY id")
        return [
            (engine, tuple(json.loads(cpus)), json.loads(facts)) for engine, cpus, facts in rows
        ]

    def add_case(self, case: Case, calibration: bool) -> int:
        """Record a planned case, unless it is there; its id."""
        key = (case.network, case.engine, case.device, json.dumps(case.cpus), case.batch, case.mode)
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO cases (network, engine, device, cpus, batch, mode, whole,"
                " calibration) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, case.whole, calibration),
            )
            row = db.execute(
                "SELECT id FROM cases WHERE (network, engine, device, cpus, batch, mode)"
                " = (?, ?, ?, ?, ?, ?)",
                key,
            ).fetchone()
        return int(row[0])

    def cases(self) -> list[StoredCase]:
        """All cases, in the order of the plan."""
        rows = self._db.execute(
            "SELECT id, network, engine, device, cpus, batch, mode, whole, calibration,"
            " first_call_ns, stopped_by FROM cases ORDER BY id"
        )
        return [
            StoredCase(
                row[0],
                Case(
                    row[1], row[2], tuple(json.loads(row[4])), row[5], row[6], bool(row[7]), row[3]
                ),
                bool(row[8]),
                row[9],
                row[10],
            )
            for row in rows
        ]

    def describe_case(
        self, case_id: int, first_call_ns: int | None, kernels: list[Message]
    ) -> None:
        """Record what a worker built for a case; a rebuilt case keeps its first call."""
        with self.transaction() as db:
            db.execute(
                "UPDATE cases SET first_call_ns = coalesce(first_call_ns, ?) WHERE id = ?",
                (first_call_ns, case_id),
            )
            db.executemany(
                f"INSERT OR REPLACE INTO kernels VALUES ({', '.join('?' * 13)})",
                [_kernel_row(case_id, place, kernel) for place, kernel in enumerate(kernels)],
            )

    def kernels(self, case_id: int) -> list[StoredKernel]:
        """The kernels of a case in their order."""
        rows = self._db.execute(
            "SELECT place, layer, primitives, passes, flop, compute_flop, least_bytes, cold_bytes,"
            " lukewarm, failure_kind, failure_reason FROM kernels WHERE case_id = ? ORDER BY place",
            (case_id,),
        )
        return [
            StoredKernel(
                *(row[0], row[1], tuple(map(primitive_from_json, json.loads(row[2])))),
                tuple(json.loads(row[3])),
                *(row[4], row[5], row[6], row[7], bool(row[8])),
                (row[9], row[10]) if row[9] else None,
            )
            for row in rows
        ]

    def add_turn(self, case_id: int, worker_id: int, turn: Message) -> int:
        """Record the samples of one turn, all of them or none; the nanoseconds they took."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO turns (case_id, worker_id, turn_ns) VALUES (?, ?, ?)",
                (case_id, worker_id, turn["turn_ns"]),
            )
            rows = [
                (case_id, round_["round"], place, cursor.lastrowid, *sample)
                for round_ in turn["rounds"]
                for place, sample in _samples_of(round_).items()
            ]
            db.executemany(f"INSERT INTO samples VALUES ({', '.join('?' * 14)})", rows)
            sides = [
                (case_id, round_["round"], int(place), *side)
                for round_ in turn["rounds"]
                for place, side in round_.get("gpu", {}).items()
            ]
            if sides:
                recorded.add_samples(db, sides)
        return sum(row[6] for row in rows)

    def rounds(self, case_id: int) -> set[int]:
        """The rounds in which the case was sampled."""
        rows = self._db.execute("SELECT DISTINCT round FROM samples WHERE case_id = ?", (case_id,))
        return {row[0] for row in rows}

    def times(self, case_id: int) -> Times:
        """What every sample of a case took, by round and place."""
        rows = self._db.execute(
            "SELECT round, place, worker_id, calls, duration_ns, waited_ns, stolen_ns,"
            " throttled_periods, stops FROM samples JOIN turns ON turns.id = samples.turn_id"
            " WHERE samples.case_id = ? ORDER BY turn_id, start_ns",
            (case_id,),
        )
        sides = self.gpu_samples(case_id)
        times = times_of(recorded.to_scale(Sample(*row), sides) for row in rows)
        for round_, place in self.throttled(case_id):
            found = times[round_][place]
            times[round_][place] = replace(found, lost_ns=found.ns)
        return times

    def gpu_samples(self, case_id: int) -> dict[int, dict[int, GpuSample]]:
        """Both sides of every sample of a case, by round and place; none of one on the CPU."""
        return recorded.samples(self._db, case_id)

    def throttled(self, case_id: int) -> set[tuple[int, int]]:
        """Round and place of the samples of a case that a slower GPU has disturbed."""
        query = "SELECT device FROM cases WHERE id = ?"
        ((device,),) = self._db.execute(query, (case_id,))
        return recorded.throttled_samples(self._db, case_id, device)

    def add_gpu_readings(self, device: str, readings: Iterable[GpuReading]) -> None:
        """Record how a GPU fared."""
        with self.transaction() as db:
            recorded.add_readings(db, device, readings)

    def gpu_readings(self, device: str) -> list[GpuReading]:
        """How a GPU fared, by time."""
        return recorded.readings(self._db, device, 0, LAST_NS)

    def faults(self, case_id: int) -> dict[int, float]:
        """Page faults of a call, in the mean over all samples, by place."""
        rows = self._db.execute(
            "SELECT place, avg(1.0 * minor_faults / calls) FROM samples WHERE case_id = ?"
            " GROUP BY place",
            (case_id,),
        )
        return dict(rows.fetchall())

    def call_ns(self, case_id: int) -> Rounds:
        """Nanoseconds per call, by round and place, of disturbed samples too."""
        times = self.times(case_id)
        return {r: {place: t.ns for place, t in found.items()} for r, found in times.items()}

    def add_failure(self, case_id: int, kind: str, reason: str) -> None:
        """Record why a case has no measurement."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", (case_id, kind, reason))

    def forget_failures(self, kinds: tuple[str, ...]) -> None:
        """Give the cases that failed in these ways another chance."""
        with self.transaction() as db:
            db.executemany("DELETE FROM failures WHERE kind = ?", [(kind,) for kind in kinds])

    def failures(self) -> dict[int, tuple[str, str]]:
        """Kind and reason by case id."""
        rows = self._db.execute("SELECT case_id, kind, reason FROM failures ORDER BY case_id")
        return {case_id: (kind, reason) for case_id, kind, reason in rows}

    def add_evidence(self, case_id: int, kind: str, content: Any) -> None:
        """Record what was seen of a case in a pass of its own, instead of what was seen before."""
        with self.transaction() as db:
            db.execute(EVIDENCE)
            row = (case_id, kind, json.dumps(content))
            db.execute("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?)", row)

    def evidence(self, case_id: int) -> dict[str, Any]:
        """What was seen of a case, by its kind."""
        if not self._has_evidence:
            return {}
        rows = self._db.execute("SELECT kind, content FROM evidence WHERE case_id = ?", (case_id,))
        return {kind: json.loads(content) for kind, content in rows}

    def forget_evidence(self, case_id: int) -> None:
        """Drop all that was seen of a case, for it to be looked at anew."""
        if self._has_evidence:
            with self.transaction() as db:
                db.execute("DELETE FROM evidence WHERE case_id = ?", (case_id,))

    @property
    def _has_evidence(self) -> bool:
        """Whether something was diagnosed: only then is there a table."""
        tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'evidence'"
        return self._db.execute(tables).fetchone() is not None

    def stop(self, case_id: int, reason: str) -> None:
        """Record that a case is complete, and what ended its rounds."""
        with self.transaction() as db:
            db.execute("UPDATE cases SET stopped_by = ? WHERE id = ?", (reason, case_id))

    def spend(self, what: str, ns: int) -> None:
        """Add to the time that the run spent on something."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO spent VALUES (?, ?) ON CONFLICT (what) DO UPDATE SET ns = ns + ?",
                (what, ns, ns),
            )

    def spent(self) -> dict[str, int]:
        """Nanoseconds by what they were spent on."""
        return dict(self._db.execute("SELECT what, ns FROM spent"))

    def samples(self, case_id: int) -> Iterator[dict[str, Any]]:
        """Every raw sample of a case with its circumstances."""
        cursor = self._db.execute(
            "SELECT round, turn_id, worker_id, place, calls, start_ns, duration_ns, waited_ns,"
            " stolen_ns, throttled_periods, stops, minor_faults, major_faults, involuntary_switches"
            " FROM samples JOIN turns ON turns.id = samples.turn_id"
            " WHERE samples.case_id = ? ORDER BY round, place",
            (case_id,),
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


def _samples_of(round_: Message) -> dict[int, list[int]]:
    samples = {int(place): sample for place, sample in round_["kernels"].items()}
    return samples if round_["whole"] is None else {WHOLE: round_["whole"], **samples}


def _kernel_row(case_id: int, place: int, kernel: Message) -> tuple[Any, ...]:
    failure = kernel["failure"] or {"kind": None, "reason": None}
    return (
        *(case_id, place, kernel["layer"]),
        *(json.dumps(kernel[key]) for key in ("primitives", "passes")),
        *(kernel["flop"], kernel["compute_flop"], kernel["least_bytes"]),
        *(kernel["cold_bytes"], kernel["lukewarm"], kernel["error"]),
        *(failure["kind"], failure["reason"]),
    )
