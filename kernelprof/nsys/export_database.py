"""An sqlite export of nsys as a database: is it whole, is it one, which tables and columns has it.

What an export says is data: no view or trigger of it is used, and its text may hold any bytes.
"""

from __future__ import annotations

import re
import sqlite3
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from kernelprof.errors import UsageError
from kernelprof.nsys.rows import Integers

ROWS_AT_ONCE = 100_000
MAGIC = b"SQLite format 3\0"
MAGIC_OF_REPORTS = b"NVIDIA Tegra Profiler Report"
HEADER_BYTES = 100
BEING_WRITTEN = ("-journal", "-wal")  # what sqlite keeps beside a file that is being written
BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
META_TABLES = ("META_DATA_EXPORT", "EXPORT_META_DATA")  # since 2023, and before
PRODUCT, SCHEMA = "EXPORT_PRODUCT_VERSION", "EXPORT_SCHEMA_VERSION"
MAJOR_VERSIONS = ("2", "3")  # of schemas, 2021 to now
VERSION = re.compile(r"(\d{1,6})(\.\d{1,6}){0,3}", re.ASCII)
WAIT = "if it is still being written, wait until it is; else export it again"


class ExportDatabase:
    """An open export, which nobody else can change meanwhile."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Of ``open``.

        Raises:
            UsageError: it cannot be read now, or is no export that this kernelprof knows.
        """
        self.path = path
        self._db = connection
        self._db.text_factory = bytes
        with self.readable():
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("BEGIN")
            self.columns: Mapping[str, frozenset[str]] = self._columns_by_table()
            self.product, self.schema = self._versions()

    @classmethod
    def open(cls, path: Path) -> Self:
        """An export that is there.

        Raises:
            UsageError: there is none, it is something else, damaged, still being written, or of an
                unknown schema.
        """
        try:
            _require_whole(path)
            uri = f"{path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, timeout=0, isolation_level=None, uri=True)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"cannot read {path}: {error}") from error
        try:
            return cls(path, connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close it."""
        self._db.close()

    @contextmanager
    def readable(self, table: str = "") -> Iterator[None]:
        """Say in a line what may go wrong with a read.

        Raises:
            UsageError: it went wrong.
        """
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in BUSY:
                raise UsageError(
                    f"{self.path} is locked: another program writes it; wait until it is done"
                ) from error
            said = repr(str(error)[:200])  # names of the export may be in it
            raise UsageError(
                f"{self.path} is damaged or cut off ({said}); export it again"
            ) from error
        except TypeError as error:
            raise UsageError(
                f"{self.path}: table {table} holds something else where whole numbers should be;"
                " export it again with `nsys export --type sqlite`"
            ) from error

    def query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.readable():
            return self._db.execute(sql, values).fetchall()

    def number(self, sql: str) -> int:
        """The one number of a query."""
        ((value,),) = self.query(sql)
        with self.readable(sql.rpartition(" ")[2]):
            return int(array("q", [value])[0])

    def blocks(self, table: str, expressions: list[str], chosen: str = "1") -> Iterator[Integers]:
        """Whole numbers of a table, a row by expression, in its order; none without the table."""
        if table not in self.columns:
            return
        with self.readable(table):
            cursor = self._select(table, expressions, chosen)
            # What is no whole number is refused by the array; NumPy would convert it.
            while block := array("q", chain.from_iterable(islice(cursor, ROWS_AT_ONCE))):
                yield np.array(block).reshape(-1, len(expressions)).T.copy()

    def texts(self, table: str, column: str, chosen: str) -> Iterator[bytes | None]:
        """A column of text in the order of its table."""
        with self.readable(table):
            yield from chain.from_iterable(self._select(table, [column], chosen))

    def has(self, table: str, *columns: str) -> bool:
        """Whether it has a table with these columns."""
        return table in self.columns and self.columns[table].issuperset(columns)

    def _select(self, table: str, expressions: list[str], chosen: str) -> sqlite3.Cursor:
        return self._db.execute(f"SELECT {', '.join(expressions)} FROM {table} WHERE {chosen}")

    def _columns_by_table(self) -> dict[str, frozenset[str]]:
        rows = self.query(
            "SELECT tables.name, columns.name FROM sqlite_master AS tables,"
            " pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
        )
        found: dict[str, set[str]] = {}
        for table, column in rows:
            found.setdefault(text_of(table), set()).add(text_of(column))
        return {table: frozenset(columns) for table, columns in found.items()}

    def _versions(self) -> tuple[str, str]:
        """Of the product and of the schema."""
        table = next((name for name in META_TABLES if self.has(name, "name", "value")), None)
        if table is None:
            raise UsageError(
                f"{self.path} is no export of nsys, or not a whole one: it has no table "
                f"{META_TABLES[0]}; {WAIT} with `nsys export --type sqlite`"
            )
        meta = {
            text_of(name): text_of(value)
            for name, value in self.query(
                f"SELECT name, value FROM {table} WHERE name IN (?, ?)", PRODUCT, SCHEMA
            )
        }
        schema = meta.get(SCHEMA, "")
        found = VERSION.fullmatch(schema)
        if not found or found[1] not in MAJOR_VERSIONS:
            raise UsageError(
                f"{self.path} has schema {schema[:40]!r} of nsys; this kernelprof reads "
                f"{' and '.join(MAJOR_VERSIONS)}.x; use a newer one, or nsys of 2022 to 2026"
            )
        return meta.get(PRODUCT, "unknown")[:40], schema


def text_of(value: Any) -> str:
    """Text that a query gave."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _require_whole(path: Path) -> None:
    """By what is beside the file, its header and its size.

    sqlite reads a file that is cut off until it comes to a page that is not there; the header says
    how many there should be (https://www.sqlite.org/fileformat.html, section 1.3).

    Raises:
        UsageError: it is something else, or not whole.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name an export of nsys")
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file; `nsys export --type sqlite REPORT.nsys-rep` writes one"
        )
    for suffix in BEING_WRITTEN:
        beside = path.with_name(path.name + suffix)
        if beside.is_file() and beside.stat().st_size:
            raise UsageError(f"{path} is still being written ({beside.name} is there); wait for it")
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    size = path.stat().st_size
    if not header.strip(b"\0"):  # what an exporter leaves until its very end
        raise UsageError(f"{path} has no content yet; {WAIT} with `nsys export --type sqlite`")
    if header.startswith(MAGIC_OF_REPORTS):
        raise UsageError(
            f"{path} is a report of nsys; `nsys export --type sqlite {path.name}` makes an "
            "export of it"
        )
    if not header.startswith(MAGIC):
        raise UsageError(f"{path} is no sqlite file; name an export of nsys (--type sqlite)")
    expected = _size_by_header(header)
    if size < max(expected, HEADER_BYTES):
        raise UsageError(f"{path} is cut off: {size:,} of {expected:,} bytes are there; {WAIT}")


def _size_by_header(header: bytes) -> int:
    """0 where the header does not say."""
    page_bytes, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    says = header[24:28] == header[92:96]  # the number of pages was written with the last change
    return (65_536 if page_bytes == 1 else page_bytes) * pages if says else 0
