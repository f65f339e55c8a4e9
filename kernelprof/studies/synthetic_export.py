"""Exports of nsys with known contents, in its schema of 2022 or of 2024.

Tables come with their first row, as nsys makes them.  No GPU is needed, and what belongs to what is
known beforehand, so that readers can be tried on exports that no machine at hand would write.
``synthetic_training.generate`` writes large ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from kernelprof.nsys.rows import THREAD_BITS
from kernelprof.studies.export_schema import (
    COPIES,
    DOMAIN,
    EVENTS,
    HTOD,
    META,
    NEW,
    PRODUCTS,
    PUSH_POP,
    START_END,
    create_table,
)

VIRTUAL_MACHINE = 1 << 48  # stands in every process of nsys's numbering

REST_OF_KERNEL = {  # that is NOT NULL
    "registersPerThread": 64,
    **dict.fromkeys(("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ"), 8),
    **dict.fromkeys(("staticSharedMemory", "dynamicSharedMemory", "gridId"), 0),
    **dict.fromkeys(("localMemoryPerThread", "localMemoryTotal"), 0),
}


def thread_id(pid: int, tid: int) -> int:
    """Nsys's globalTid of a thread."""
    return process_id(pid) | tid


def process_id(pid: int) -> int:
    """Nsys's globalPid of a process."""
    return VIRTUAL_MACHINE | pid << THREAD_BITS


class Synthetic:
    """An export that is being written; what is in it is there when it is closed.

    Threads and processes are nsys's numbers (``thread_id``, ``process_id``); None is NULL.
    """

    def __init__(self, path: Path, schema: str = NEW) -> None:
        self.schema = schema
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        self._tables: set[str] = set()
        self._names: dict[str, int] = {}
        self._domains = 0
        self.insert(META[schema], name="EXPORT_PRODUCT_NAME", value="NVIDIA Nsight Systems")
        self.insert(META[schema], name="EXPORT_PRODUCT_VERSION", value=PRODUCTS[schema])
        self.insert(META[schema], name="EXPORT_SCHEMA_VERSION", value=schema)
        for number, name in EVENTS.items():
            self.insert("ENUM_NSYS_EVENT_TYPE", id=number, name=name, label=name)
        for number, label in enumerate(COPIES):
            self.insert("ENUM_CUDA_MEMCPY_OPER", id=number, label=label)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write it and close it."""
        self._db.execute("COMMIT")
        self._db.close()

    def table(self, table: str) -> None:
        """The table, empty where nothing was inserted yet."""
        if table not in self._tables:
            self._tables.add(table)
            self._db.execute(create_table(table, self.schema))

    def insert(self, table: str, **columns: int | float | str | bytes | None) -> None:
        """A row of any table."""
        self.insert_many(table, {}, {name: [value] for name, value in columns.items()})

    def insert_many(
        self,
        table: str,
        constants: Mapping[str, int],
        columns: Mapping[str, Sequence[int | float | str | bytes | None]],
    ) -> None:
        """Rows of any table, given as columns; in the columns that are not given they are NULL."""
        self.table(table)
        names = ", ".join([*constants, *columns])
        values = ", ".join([*map(str, constants.values()), *"?" * len(columns)])
        self._db.executemany(
            f"INSERT INTO {table} ({names}) VALUES ({values})",
            zip(*columns.values(), strict=True),
        )

    def name(self, text: str) -> int:
        """The id of a string, which is registered where it was not."""
        if text not in self._names:
            self._names[text] = len(self._names)
            self.insert("StringIds", id=self._names[text], value=text)
        return self._names[text]

    def session(self, start_ns: int, stop_ns: int) -> None:
        """When the trace began and ended."""
        times = {"startTime": start_ns, "stopTime": stop_ns, "duration": stop_ns - start_ns}
        self.insert("ANALYSIS_DETAILS", globalVid=VIRTUAL_MACHINE, **times)

    def domain(self, name: str, thread: int, number: int | None = None) -> int:
        """Create a domain; its number, which counts within a process only."""
        self._domains += 1
        number = self._domains if number is None else number
        self.insert(
            "NVTX_EVENTS", start=0, eventType=DOMAIN, text=name, globalTid=thread, domainId=number
        )
        return number

    def range(
        self,
        name: str | None,
        start_ns: int,
        end_ns: int | None,
        thread: int | None,
        domain: int | None = 0,
        registered: bool = True,
        payload: int | None = None,
    ) -> None:
        """A range of push and pop."""
        self.insert(
            "NVTX_EVENTS",
            start=start_ns,
            end=end_ns,
            eventType=PUSH_POP,
            globalTid=thread,
            **{"domainId": domain, "int64Value": payload, **self._text(name, registered)},
        )

    def start_end(
        self,
        name: str | None,
        start_ns: int,
        end_ns: int | None,
        thread: int | None,
        end_thread: int | None = None,
        domain: int | None = 0,
        registered: bool = True,
    ) -> None:
        """A range of start and end, which may end on another thread."""
        self.insert(
            "NVTX_EVENTS",
            start=start_ns,
            end=end_ns,
            eventType=START_END,
            globalTid=thread,
            endGlobalTid=end_thread,
            domainId=domain,
            rangeId=1,
            **self._text(name, registered),
        )

    def launch(
        self,
        start_ns: int,
        end_ns: int,
        thread: int | None,
        correlation: int | None,
        name: str = "cudaLaunchKernel_v7000",
    ) -> None:
        """A call of the CUDA runtime or driver."""
        self.insert(
            "CUPTI_ACTIVITY_KIND_RUNTIME",
            start=start_ns,
            end=end_ns,
            eventClass=0,
            globalTid=thread,
            correlationId=correlation,
            nameId=self.name(name),
            returnValue=0,
        )

    def kernel(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        correlation: int | None,
        process: int | None,
        device: int = 0,
        stream: int = 7,
        graph_node: int | None = None,
    ) -> None:
        """A kernel; ``name`` is its demangled one."""
        short = self.name(name.split("<")[0].split("(")[0].rpartition(" ")[2])
        self.insert(
            "CUPTI_ACTIVITY_KIND_KERNEL",
            **_operation(start_ns, end_ns, correlation, process, device, stream),
            **{**REST_OF_KERNEL, "graphNodeId": graph_node},
            demangledName=self.name(name),
            shortName=short,
        )

    def memcpy(
        self,
        start_ns: int,
        end_ns: int,
        correlation: int | None,
        process: int | None,
        bytes_: int,
        kind: int = HTOD,
        device: int = 0,
        stream: int = 7,
    ) -> None:
        """A copy; ``kind`` is CUDA's number of its direction."""
        columns = _operation(start_ns, end_ns, correlation, process, device, stream)
        self.insert("CUPTI_ACTIVITY_KIND_MEMCPY", **columns, bytes=bytes_, copyKind=kind)

    def memset(
        self,
        start_ns: int,
        end_ns: int,
        correlation: int | None,
        process: int | None,
        bytes_: int,
        device: int = 0,
        stream: int = 7,
    ) -> None:
        """Memory that is set to a value."""
        columns = _operation(start_ns, end_ns, correlation, process, device, stream)
        self.insert("CUPTI_ACTIVITY_KIND_MEMSET", **columns, bytes=bytes_, value=0)

    def graph(
        self,
        start_ns: int,
        end_ns: int,
        correlation: int | None,
        process: int | None,
        device: int = 0,
        stream: int = 7,
        graph: int = 1,
    ) -> None:
        """A graph that was traced as a whole."""
        columns = _operation(start_ns, end_ns, correlation, process, device, stream)
        self.insert("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", **columns, graphId=graph, graphExecId=graph)

    def _text(self, name: str | None, registered: bool) -> dict[str, int | str | None]:
        if name is None:
            return {}
        return {"textId": self.name(name)} if registered else {"text": name}


def _operation(
    start_ns: int,
    end_ns: int,
    correlation: int | None,
    process: int | None,
    device: int,
    stream: int,
) -> dict[str, int | None]:
    return {
        "start": start_ns,
        "end": end_ns,
        "deviceId": device,
        "contextId": 1,
        "streamId": stream,
        "correlationId": correlation,
        "globalPid": process,
    }
