"""Read nsys's sqlite exports, of its schemas from 2022 on, in bounded memory.

nsys makes a table with its first row, so one that is missing means that there was nothing of its
kind; columns come and go with the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np

from kernelprof.errors import UsageError
from kernelprof.nsys.export_database import ExportDatabase, text_of
from kernelprof.nsys.rows import (
    GRAPH,
    KERNEL,
    KINDS,
    MEMCPY,
    MEMSET,
    THREAD_BITS,
    Integers,
    LaunchRows,
    OperationRows,
    RangeRows,
)

RANGES = "NVTX_EVENTS"
LAUNCHES = "CUPTI_ACTIVITY_KIND_RUNTIME"
OPERATIONS = {
    KERNEL: "CUPTI_ACTIVITY_KIND_KERNEL",
    MEMCPY: "CUPTI_ACTIVITY_KIND_MEMCPY",
    MEMSET: "CUPTI_ACTIVITY_KIND_MEMSET",
    GRAPH: "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
}
LABELS = {  # columns that tell operations of a kind apart, the best first
    KERNEL: ("demangledName", "shortName", "mangledName"),
    MEMCPY: ("copyKind",),
    MEMSET: (),
    GRAPH: ("graphId",),
}
READ = (RANGES, LAUNCHES, *OPERATIONS.values())
STRINGS, EVENT_TYPES, COPY_KINDS = "StringIds", "ENUM_NSYS_EVENT_TYPE", "ENUM_CUDA_MEMCPY_OPER"
SESSION = "ANALYSIS_DETAILS"
REQUIRED = {  # columns without which nothing can be said
    RANGES: ("start", "end", "eventType", "globalTid", "text"),
    LAUNCHES: ("start", "end", "globalTid", "correlationId"),
    **dict.fromkeys(OPERATIONS.values(), ("start", "end", "correlationId")),
}
EVENTS = {  # numbers that hold where the export has none
    "NvtxPushPopRange": 59,
    "NvtxStartEndRange": 60,
    "NvtxtPushPopRange": 70,
    "NvtxtStartEndRange": 71,
    "NvtxDomainCreate": 75,
}
DOMAIN_EVENT = "NvtxDomainCreate"
COPIES = (  # CUPTI's numbering, likewise
    *("Unknown", "Host-to-Device", "Device-to-Host", "Host-to-Array", "Array-to-Host"),
    *("Array-to-Array", "Array-to-Device", "Device-to-Array", "Device-to-Device"),
    *("Host-to-Host", "Peer-to-Peer"),
    *("Unified Host-to-Device", "Unified Device-to-Host", "Unified Device-to-Device"),
)
THREAD, END_THREAD, DOMAIN, NAME = 2, 3, 4, 5  # places of columns in ``RangeRows``
LABEL = 6  # among what is read of operations
NO_NAME = "(no name)"
LONGEST_NAME = 10_000  # characters; what goes beyond is left out


class ExportFile:
    """An open export; its tables come in the order in which nsys wrote them."""

    def __init__(self, database: ExportDatabase) -> None:
        """Of ``open``.

        Raises:
            UsageError: it holds no NVTX events, or a table is not as it should be.
        """
        self.database = database
        self._texts = _Texts({None: -1})
        if not database.has(RANGES):
            raise UsageError(
                f"{database.path} holds no NVTX ranges; record with `nsys profile --trace nvtx`"
            )
        for table, columns in REQUIRED.items():
            if database.has(table) and not database.has(table, *columns):
                missing = ", ".join(sorted(set(columns) - database.columns[table]))
                raise UsageError(
                    f"{database.path}: table {table} has no column {missing}, as it has in the "
                    "schemas of nsys that this kernelprof knows; use a newer one"
                )

    @classmethod
    def open(cls, path: Path) -> Self:
        """An export that is there.

        Raises:
            UsageError: there is none, it is something else, damaged, still being written, of an
                unknown schema, or without NVTX events.
        """
        database = ExportDatabase.open(path)
        try:
            return cls(database)
        except UsageError:
            database.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def product(self) -> str:
        """The version of nsys that wrote it."""
        return self.database.product

    @property
    def schema(self) -> str:
        """The version of its schema."""
        return self.database.schema

    @cached_property
    def rows(self) -> int:
        """How many ranges, launches and operations there are."""
        ranges = self.database.number(f"SELECT count(*) FROM {RANGES} WHERE {self._are_ranges}")
        return ranges + sum(self._over("SELECT count(*) FROM", (LAUNCHES, *OPERATIONS.values())))

    @cached_property
    def end_ns(self) -> int:
        """When the trace ended; where the export does not say, when its last event did."""
        if self.database.has(SESSION, "stopTime"):
            stop = self.database.number(f"SELECT coalesce(max(stopTime), -1) FROM {SESSION}")
            if stop >= 0:
                return stop
        return max(
            self._over("SELECT max(coalesce(max(start), 0), coalesce(max(end), 0)) FROM", READ)
        )

    @cached_property
    def event_numbers(self) -> Mapping[str, int]:
        """The numbers of the events of ``EVENTS`` in this export."""
        if not self.database.has(EVENT_TYPES, "id", "name"):
            return EVENTS
        rows = self.database.query(
            f"SELECT name, id FROM {EVENT_TYPES} WHERE typeof(id) = 'integer'"
        )
        numbers = {text_of(name): number for name, number in rows}
        return {name: numbers.get(name, number) for name, number in EVENTS.items()}

    @cached_property
    def copy_kinds(self) -> Mapping[int, str]:
        """What CUDA's numbers of copies mean in this export."""
        labels = dict(enumerate(COPIES))
        if self.database.has(COPY_KINDS, "id", "label"):
            rows = self.database.query(f"SELECT id, label FROM {COPY_KINDS}")
            labels |= {number: _name(label) for number, label in rows}
        return labels

    @cached_property
    def domains(self) -> dict[tuple[int, int], str]:
        """Names of NVTX domains, by process and number; the domain 0 has none."""
        found = {
            (thread >> THREAD_BITS << THREAD_BITS, domain): name
            for block in self._ranges(f"eventType = {self.event_numbers[DOMAIN_EVENT]}")
            for thread, domain, name in zip(*block[[THREAD, DOMAIN, NAME]].tolist(), strict=True)
        }
        names = self.names(found.values())
        return {key: names[name] for key, name in found.items()}

    def names(self, ids: Iterable[int]) -> dict[int, str]:
        """The strings of ids; ``NO_NAME`` of those that have none."""
        wanted = set(ids)
        texts = list(self._texts)
        found = {number: _name(texts[-1 - number]) for number in wanted if number < 0}
        if self.database.has(STRINGS, "id", "value"):
            rows = self.database.query(
                f"SELECT id, value FROM {STRINGS} WHERE id IN (SELECT value FROM json_each(?))",
                json.dumps([int(number) for number in wanted if number >= 0]),
            )
            found |= {number: _name(value) for number, value in rows}
        return {number: found.get(number, NO_NAME) for number in wanted}

    def ranges(self) -> Iterator[RangeRows]:
        """NVTX ranges.

        Raises:
            UsageError: the export is damaged.
        """
        for block in self._ranges(self._are_ranges):
            yield RangeRows(*block)

    def launches(self) -> Iterator[LaunchRows]:
        """Calls of CUDA's runtime and driver.

        Raises:
            UsageError: the export is damaged.
        """
        columns = self._numbers(LAUNCHES, "end", "globalTid", "correlationId")
        for block in self.database.blocks(LAUNCHES, ["start", *columns]):
            yield LaunchRows(*block)

    def operations(self) -> Iterator[OperationRows]:
        """Work of GPUs, kind by kind.

        Raises:
            UsageError: the export is damaged.
        """
        for kind, table in OPERATIONS.items():
            expressions = [
                "start",
                *self._numbers(table, "end", "globalPid", "deviceId", "streamId", "correlationId"),
                self._first(table, LABELS[kind], -1),
                self._first(table, ("bytes",), 0),
            ]
            for block in self.database.blocks(table, expressions):
                if kind != KERNEL:
                    block[LABEL] = self._names_of(kind, block[LABEL])
                yield OperationRows(np.full(len(block[LABEL]), KINDS.index(kind)), *block)

    @property
    def _are_ranges(self) -> str:
        """The condition that chooses ranges among NVTX events."""
        numbers = (self.event_numbers[name] for name in EVENTS if name != DOMAIN_EVENT)
        return f"eventType IN ({', '.join(map(str, numbers))})"

    def _ranges(self, chosen: str) -> Iterator[Integers]:
        """The columns of ``RangeRows``, of the events that a condition chooses."""
        registered = self._first(RANGES, ("textId",), -1)
        expressions = [
            "start",
            *self._numbers(RANGES, "end", "globalTid", "endGlobalTid"),
            self._first(RANGES, ("domainId",), 0),
            registered,
            self._first(RANGES, ("int64Value", "uint64Value"), -1),
        ]
        # Text beside numbers would cost more than to read it by itself.
        texts = self.database.texts(RANGES, "text", f"({chosen}) AND {registered} < 0")
        for block in self.database.blocks(RANGES, expressions, chosen):
            thread, end_thread, names = block[THREAD], block[END_THREAD], block[NAME]
            end_thread[end_thread == thread] = -1
            (places,) = np.nonzero(names < 0)
            names[places] = [self._texts[text] for text in islice(texts, len(places))]
            yield block

    def _numbers(self, table: str, *columns: str) -> list[str]:
        return [self._first(table, (column,), -1) for column in columns]

    def _first(self, table: str, columns: Iterable[str], otherwise: int) -> str:
        """SQL of the first of some columns that is neither missing nor NULL."""
        there = [column for column in columns if self.database.has(table, column)]
        return f"coalesce({', '.join(there)}, {otherwise})" if there else str(otherwise)

    def _names_of(self, kind: str, labels: Integers) -> Integers:
        values, places = np.unique(labels, return_inverse=True)
        ids = [self._texts[self._label(kind, value).encode()] for value in values.tolist()]
        return np.array(ids)[places]

    def _label(self, kind: str, value: int) -> str:
        """What a copy, a set or a graph is called."""
        if kind == MEMCPY:
            return _short(self.copy_kinds.get(value, f"copy kind {value}"))
        return f"{kind} {value}" if value >= 0 else kind

    def _over(self, sql: str, tables: Iterable[str]) -> list[int]:
        return [
            self.database.number(f"{sql} {table}") for table in tables if self.database.has(table)
        ]


class _Texts(dict[bytes | None, int]):
    """Ids of text that nsys gave none: -2, -3, ... in the order of their first appearance."""

    def __missing__(self, text: bytes | None) -> int:
        self[text] = number = -1 - len(self)
        return number


def _name(text: object) -> str:
    return NO_NAME if text is None else text_of(text)[:LONGEST_NAME]


def _short(label: str) -> str:
    """An abbreviation of the directions of copies.

    >>> _short("Host-to-Device")
    'HtoD'
    """
    return re.sub(r"\b(\w)\w*-to-(\w)\w*", r"\1to\2", label)
