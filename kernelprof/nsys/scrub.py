"""Make an export of nsys fit to share: copy what an import needs, and nothing else.

An export holds the machine's environment variables, its processes, what programs printed, names of
hosts, users and files, and the serial numbers of GPUs.  Here a list says what may pass: numbers of
events, what ranges, domains, kernels and CUDA's functions are called, and the versions of nsys.
Process and thread numbers pass too, or ranges could not be told apart.  The names of ranges are the
program's own: whoever put a secret into them finds it there.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernelprof.errors import UsageError
from kernelprof.nsys.export_database import META_TABLES, PRODUCT, SCHEMA
from kernelprof.nsys.export_file import (
    COPIES,
    COPY_KINDS,
    EVENT_TYPES,
    LAUNCHES,
    OPERATIONS,
    RANGES,
    SESSION,
    STRINGS,
    ExportFile,
)
from kernelprof.nsys.rows import GRAPH, KERNEL, MEMCPY, MEMSET

OF_OPERATIONS = (
    *("start", "end", "deviceId", "contextId", "streamId", "correlationId", "globalPid"),
    "graphNodeId",
)
NUMBERS = {  # columns that may pass: whole numbers, and nothing else that may stand in them
    SESSION: ("startTime", "stopTime", "duration"),
    RANGES: (
        *("start", "end", "eventType", "rangeId", "category", "globalTid", "endGlobalTid"),
        *("textId", "domainId", "uint64Value", "int64Value"),
    ),
    LAUNCHES: ("start", "end", "globalTid", "correlationId", "nameId", "returnValue"),
    OPERATIONS[KERNEL]: (
        *(*OF_OPERATIONS, "demangledName", "shortName", "mangledName", "registersPerThread"),
        *("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ"),
        *("staticSharedMemory", "dynamicSharedMemory"),
    ),
    OPERATIONS[MEMCPY]: (*OF_OPERATIONS, "bytes", "copyKind", "srcKind", "dstKind"),
    OPERATIONS[MEMSET]: (*OF_OPERATIONS, "bytes", "memKind"),
    OPERATIONS[GRAPH]: (*OF_OPERATIONS, "graphId", "graphExecId"),
}
NAMES = ("textId", "nameId", "demangledName", "shortName", "mangledName")  # ids of strings
VERSION_ALONE = re.compile(r"[\d.]{1,30}(-\w{1,30})?", re.ASCII)
SOURCE = "source"
NOT_WRITTEN = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_CANTOPEN")


@dataclass(frozen=True)
class Scrubbed:
    """What passed: rows by table; and the tables of which nothing did."""

    kept: Mapping[str, int]
    left_out: tuple[str, ...]


def scrub(source: Path, target: Path) -> Scrubbed:
    """Write what of an export may be shared to a new file; it imports as the export does.

    Raises:
        UsageError: the export cannot be read (see ``ExportFile.open``), or the file not written.
    """
    with ExportFile.open(source) as export:
        if target.exists() and target.samefile(source):
            raise UsageError(f"{target} is the export itself; name another file")
        with (
            export.database.readable(),
            _new_file(target) as path,
            closing(_opened(path, source)) as db,
            db,
        ):
            kept = {**_state_facts(db, export), **_copy_tables(db, export)}
        return Scrubbed(kept, tuple(sorted(set(export.database.columns) - set(kept))))


def _state_facts(db: sqlite3.Connection, export: ExportFile) -> dict[str, int]:
    """Tell in words of our own which nsys wrote it, and what its numbers mean."""
    meta = next(name for name in META_TABLES if export.database.has(name, "name", "value"))
    product = export.product if VERSION_ALONE.fullmatch(export.product) else "unknown"
    _create(db, meta, (), ("name", "value"))
    db.executemany(
        f"INSERT INTO {meta} VALUES (?, ?)", [(PRODUCT, product), (SCHEMA, export.schema)]
    )
    _create(db, EVENT_TYPES, ("id",), ("name",))
    db.executemany(
        f"INSERT INTO {EVENT_TYPES} VALUES (?, ?)",
        [(number, name) for name, number in export.event_numbers.items()],
    )
    _create(db, COPY_KINDS, ("id",), ("label",))
    db.executemany(
        f"INSERT INTO {COPY_KINDS} VALUES (?, ?)",
        [(number, label) for number, label in export.copy_kinds.items() if label in COPIES],
    )
    return {table: _rows(db, table) for table in (meta, EVENT_TYPES, COPY_KINDS)}


def _copy_tables(db: sqlite3.Connection, export: ExportFile) -> dict[str, int]:
    """Events, and the strings that they name."""
    columns = {
        table: tuple(column for column in wanted if export.database.has(table, column))
        for table, wanted in NUMBERS.items()
        if export.database.has(table)
    }
    events = ", ".join(map(str, export.event_numbers.values()))
    for table, numbers in columns.items():
        if table == RANGES:  # of marks and categories nothing is read
            _copy(db, table, numbers, ("text",), f"eventType IN ({events})")
        else:
            _copy(db, table, numbers)
    named = " UNION ".join(
        f"SELECT {column} FROM main.{table}"
        for table, numbers in columns.items()
        for column in NAMES
        if column in numbers
    )
    if export.database.has(STRINGS, "id", "value") and named:
        columns[STRINGS] = ("id",)
        _copy(db, STRINGS, ("id",), ("value",), f"id IN ({named})")
    return {table: _rows(db, table) for table in columns}


def _copy(
    db: sqlite3.Connection,
    table: str,
    numbers: tuple[str, ...],
    texts: tuple[str, ...] = (),
    chosen: str = "1",
) -> None:
    _create(db, table, numbers, texts)
    listed = ", ".join((*numbers, *texts))
    db.execute(f"INSERT INTO main.{table} SELECT {listed} FROM {SOURCE}.{table} WHERE {chosen}")


def _create(
    db: sqlite3.Connection, table: str, numbers: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    """A table whose columns take nothing of another type: no text comes in as a number."""
    columns = [_column(name, "integer") for name in numbers]
    columns += [_column(name, "text") for name in texts]
    db.execute(f"CREATE TABLE main.{table} ({', '.join(columns)})")


def _column(name: str, kind: str) -> str:
    key = " PRIMARY KEY" if name == "id" else ""
    return f"{name} {kind.upper()}{key} CHECK (typeof({name}) IN ('{kind}', 'null'))"


def _rows(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0])


@contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """A file that takes the target's place when all went well, and else is gone."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            path = Path(folder) / "scrubbed"
            yield path
            path.replace(target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}; name another file") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") not in NOT_WRITTEN:
            raise
        raise UsageError(f"cannot write {target}: {error}; name another file") from error


def _opened(path: Path, source: Path) -> sqlite3.Connection:
    """A new database beside which the export is attached, to be read alone."""
    db = sqlite3.connect(path.absolute().as_uri(), uri=True)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute(f"ATTACH ? AS {SOURCE}", (f"{source.absolute().as_uri()}?mode=ro",))
    return db
