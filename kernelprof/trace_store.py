"""What was imported from profilers' exports, within a run file: summaries and single events.

The tables are made by the first import, so that a run without one is as it always was.  Events lie
there in blocks of columns: by the row they would take a third of the time of an import.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from kernelprof.runfile import RunFile
from kernelprof.trace import Trace

TRACES = """
CREATE TABLE IF NOT EXISTS traces (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL UNIQUE, content TEXT NOT NULL)
"""
EVENTS = """
CREATE TABLE IF NOT EXISTS trace_events (
    trace_id INTEGER NOT NULL REFERENCES traces, what TEXT NOT NULL, place INTEGER NOT NULL,
    texts TEXT NOT NULL, columns BLOB NOT NULL, PRIMARY KEY (trace_id, what, place))
"""
EVENTS_AT_ONCE = 100_000
TEXTS = ("domain", "kind", "name")  # columns that hold places in the texts of their block
RANGES, OPERATIONS = "ranges", "operations"

Event = tuple[Any, ...]


class StoredRange(NamedTuple):
    """An NVTX range.

    Times are by the clock of the run's samples; in a run without samples, since the trace began.
    """

    pid: int
    thread: int
    domain: str
    name: str
    start_ns: int
    end_ns: int


class StoredOperation(NamedTuple):
    """Work of a GPU; times are as a range's, and ``bytes`` is 0 of kernels."""

    pid: int
    device: int
    stream: int
    kind: str
    name: str
    start_ns: int
    end_ns: int
    bytes: int


class TraceStore:
    """The traces of a run."""

    def __init__(self, run: RunFile) -> None:
        self._run = run

    def add(
        self, trace: Trace, ranges: Iterable[StoredRange], operations: Iterable[StoredOperation]
    ) -> None:
        """Record an import, all of it or nothing, instead of an earlier one of the same source."""
        with self._run.transaction() as db:
            db.execute("BEGIN IMMEDIATE")  # or Python's sqlite3 would make tables outside of it
            db.execute(TRACES)
            db.execute(EVENTS)
            of_source = "(SELECT id FROM traces WHERE source = ?)"
            db.execute(f"DELETE FROM trace_events WHERE trace_id IN {of_source}", (trace.source,))
            db.execute("DELETE FROM traces WHERE source = ?", (trace.source,))
            row = (trace.source, json.dumps(trace.to_json()))
            cursor = db.execute("INSERT INTO traces (source, content) VALUES (?, ?)", row)
            own = int(cursor.lastrowid or 0)
            _add_events(db, (own, RANGES), StoredRange._fields, ranges)
            _add_events(db, (own, OPERATIONS), StoredOperation._fields, operations)

    def traces(self) -> list[Trace]:
        """All imports, in their order."""
        rows = self._select("SELECT content FROM traces ORDER BY id")
        return [Trace.from_json(json.loads(content)) for (content,) in rows]

    def ranges(self) -> Iterator[StoredRange]:
        """All ranges of all imports, by thread and start."""
        return map(StoredRange._make, self._events(RANGES))

    def operations(self) -> Iterator[StoredOperation]:
        """All GPU work of all imports, by start."""
        return map(StoredOperation._make, self._events(OPERATIONS))

    def _events(self, what: str) -> Iterator[Event]:
        rows = self._select(
            "SELECT texts, columns FROM trace_events WHERE what = ? ORDER BY trace_id, place", what
        )
        for texts, columns in rows:
            yield from _unpacked(json.loads(texts), columns)

    def _select(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        """Rows, none where nothing was imported yet."""
        tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'traces'"
        with self._run.transaction() as db:
            return db.execute(query, values) if db.execute(tables).fetchone() else iter(())


def _add_events(
    db: sqlite3.Connection, key: tuple[int, str], fields: Iterable[str], events: Iterable[Event]
) -> None:
    """Write events block by block."""
    left = iter(events)
    place = 0
    while block := list(islice(left, EVENTS_AT_ONCE)):
        row = (*key, place, *_packed(fields, block))
        db.execute("INSERT INTO trace_events VALUES (?, ?, ?, ?, ?)", row)
        place += 1


def _packed(fields: Iterable[str], events: list[Event]) -> tuple[str, bytes]:
    """Texts, each once, and columns of whole numbers, which take as few bytes as they can."""
    places: dict[str, int] = {}
    columns = {}
    for field, values in zip(fields, zip(*events, strict=True), strict=True):
        if field in TEXTS:
            values = tuple([places.setdefault(text, len(places)) for text in values])
        column = np.array(array("q", values))
        width = np.result_type(*map(np.min_scalar_type, (column.min(), column.max())))
        columns[field] = column.astype(width)
    packed = BytesIO()
    np.savez(packed, allow_pickle=False, **columns)
    return json.dumps(list(places)), packed.getvalue()


def _unpacked(texts: list[str], packed: bytes) -> Iterator[Event]:
    """The events of a block."""
    with np.load(BytesIO(packed), allow_pickle=False) as block:
        columns = {field: block[field].tolist() for field in block.files}
    for field in columns.keys() & set(TEXTS):
        columns[field] = [texts[place] for place in columns[field]]
    return zip(*columns.values(), strict=True)
