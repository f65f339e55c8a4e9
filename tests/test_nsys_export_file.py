"""Exports of nsys: what is read of them, and what is said of files that are none."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelprof.errors import UsageError
from kernelprof.nsys.export_file import LONGEST_NAME, NO_NAME, ExportFile
from kernelprof.nsys.rows import KINDS, RangeRows, pid_of
from kernelprof.runfile import RunFile
from kernelprof.studies.export_schema import DOMAIN, DTOD, MARK, NEW, OLD
from kernelprof.studies.synthetic_export import Synthetic, process_id, thread_id
from kernelprof.studies.synthetic_training import generate

PID = 4242
PROCESS, MAIN, OTHER = process_id(PID), thread_id(PID, PID), thread_id(PID, PID + 1)
KERNEL_NAME = "void gemm<float>(int)"
HOSTILE = (
    "\x1b[2J\x07\r\n",
    "<script>alert(1)</script>",
    "'; DROP TABLE NVTX_EVENTS; --",
    "nul\0inside",
    "{0.__class__} %s $(true)",
    "\u202eright to left\U0001f4a3",
    "",
)


@pytest.fixture(params=[OLD, NEW])
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "an export #1?.sqlite"


def fill(export: Synthetic) -> None:
    """A little of everything."""
    domain = export.domain("kernelprof", MAIN)
    export.range("layer", 100, 200, MAIN, domain)
    export.range("aten::mm", 110, 190, MAIN, registered=False, payload=7)
    export.range("open", 150, None, OTHER, None)
    export.start_end("copying", 120, 180, MAIN, OTHER, domain)
    export.start_end("staying", 121, 181, MAIN, MAIN, domain)
    export.insert("NVTX_EVENTS", start=130, eventType=MARK, text="a mark", globalTid=MAIN)
    export.launch(111, 115, MAIN, 1)
    export.launch(116, 117, None, None, "cudaFree")
    export.kernel(KERNEL_NAME, 300, 400, 1, PROCESS, stream=9)
    export.memcpy(400, 410, 2, PROCESS, 4096)
    export.memcpy(410, 420, 3, PROCESS, 64, DTOD, device=1)
    export.memset(420, 430, 4, None, 128)
    export.graph(430, 500, 5, PROCESS, graph=3)
    export.session(50, 1000)


def columns(rows: Any) -> list[tuple[int, ...]]:
    """Rows of what the reader gives as columns."""
    return list(zip(*(column.tolist() for column in vars(rows).values()), strict=True))


def test_ranges_are_told_with_their_threads_domains_and_names(path: Path, schema: str) -> None:
    with Synthetic(path, schema) as export:
        fill(export)
    with ExportFile.open(path) as read:
        (rows,) = read.ranges()
        names = read.names(rows.name.tolist())
        found = [(*row[:5], names[row[5]], row[6]) for row in columns(rows)]
        assert read.domains == {(PROCESS, 1): "kernelprof"}
    assert found == [
        (100, 200, MAIN, -1, 1, "layer", -1),
        (110, 190, MAIN, -1, 0, "aten::mm", 7),
        (150, -1, OTHER, -1, 0, "open", -1),
        (120, 180, MAIN, OTHER, 1, "copying", -1),
        (121, 181, MAIN, -1, 1, "staying", -1),
    ]
    assert pid_of(int(rows.thread[0])) == PID


def test_launches_and_operations_are_told(path: Path, schema: str) -> None:
    with Synthetic(path, schema) as export:
        fill(export)
    with ExportFile.open(path) as read:
        (launches,) = read.launches()
        operations = [row for rows in read.operations() for row in columns(rows)]
        names = read.names(row[7] for row in operations)
    assert columns(launches) == [(111, 115, MAIN, 1), (116, 117, -1, -1)]
    assert [(KINDS[row[0]], *row[1:7], names[row[7]], row[8]) for row in operations] == [
        ("kernel", 300, 400, PROCESS, 0, 9, 1, KERNEL_NAME, 0),
        ("memcpy", 400, 410, PROCESS, 0, 7, 2, "HtoD", 4096),
        ("memcpy", 410, 420, PROCESS, 1, 7, 3, "DtoD", 64),
        ("memset", 420, 430, -1, 0, 7, 4, "memset", 128),
        ("graph", 430, 500, PROCESS, 0, 7, 5, "graph 3", 0),
    ]


def test_an_export_tells_its_versions_its_rows_and_its_end(path: Path, schema: str) -> None:
    with Synthetic(path, schema) as export:
        fill(export)
    with ExportFile.open(path) as read:
        assert (read.schema, read.product[:2]) == (schema, "20")
        assert read.rows == 5 + 2 + 5  # neither marks nor domains
        assert read.end_ns == 1000
    change(path, "DROP TABLE ANALYSIS_DETAILS")
    with ExportFile.open(path) as read:
        assert read.end_ns == 500


def test_equal_text_has_one_id_and_other_text_another(path: Path) -> None:
    with Synthetic(path) as export:
        for name in ("a", "b", "a"):
            export.range(name, 1, 2, MAIN, registered=False)
        export.range(None, 1, 2, MAIN)
    with ExportFile.open(path) as read:
        (rows,) = read.ranges()
        names = read.names(rows.name.tolist())
    first, second, third, fourth = rows.name.tolist()
    assert first == third != second
    assert [names[first], names[second], names[fourth]] == ["a", "b", NO_NAME]


def test_ids_without_a_string_have_no_name(path: Path) -> None:
    with Synthetic(path) as export:
        export.range("a", 1, 2, MAIN)
    with ExportFile.open(path) as read:
        assert read.names([-1, 999]) == {-1: NO_NAME, 999: NO_NAME}
    change(path, "DROP TABLE StringIds")
    with ExportFile.open(path) as read:
        assert read.names([0]) == {0: NO_NAME}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("registered", [True, False])
def test_hostile_names_come_through_as_they_are(path: Path, name: str, registered: bool) -> None:
    with Synthetic(path) as export:
        domain = export.domain(name, MAIN)
        export.range(name, 1, 2, MAIN, domain, registered)
    with ExportFile.open(path) as read:
        (rows,) = read.ranges()
        assert list(read.names(rows.name.tolist()).values()) == [name]
        assert list(read.domains.values()) == [name]


def test_names_that_are_no_utf_8_are_made_so(path: Path) -> None:
    with Synthetic(path) as export:
        export.range("x", 1, 2, MAIN, registered=False)
        export.range("y", 1, 2, MAIN)
    surrogate = "CAST(x'61edb08062' AS TEXT)"
    change(path, f"UPDATE NVTX_EVENTS SET text = {surrogate} WHERE text = 'x'")
    change(path, f"UPDATE StringIds SET value = {surrogate}")
    with ExportFile.open(path) as read:
        (rows,) = read.ranges()
        for name in read.names(rows.name.tolist()).values():
            assert name.startswith("a\ufffd")
            assert name.endswith("\ufffdb")
            name.encode()


def test_names_that_are_very_long_are_cut(path: Path) -> None:
    with Synthetic(path) as export:
        export.range("n" * 1_000_000, 1, 2, MAIN)
        export.range("m" * 1_000_000, 1, 2, MAIN, registered=False)
    with ExportFile.open(path) as read:
        (rows,) = read.ranges()
        lengths = set(map(len, read.names(rows.name.tolist()).values()))
    assert lengths == {LONGEST_NAME}


def test_tables_that_are_missing_are_empty(path: Path, schema: str) -> None:
    with Synthetic(path, schema) as export:
        export.range("a", 1, 2, MAIN)
    for table in ("ENUM_NSYS_EVENT_TYPE", "ENUM_CUDA_MEMCPY_OPER"):
        change(path, f"DROP TABLE {table}")
    with ExportFile.open(path) as read:
        assert len(next(read.ranges()).name) == 1
        assert list(read.launches()) == list(read.operations()) == []


def test_copies_are_named_without_the_table_that_names_them(path: Path) -> None:
    with Synthetic(path) as export:
        export.range("a", 1, 2, MAIN)
        for number in (1, 11, 99):
            export.memcpy(1, 2, 1, PROCESS, 1, number)
    change(path, "DROP TABLE ENUM_CUDA_MEMCPY_OPER")
    with ExportFile.open(path) as read:
        (rows,) = read.operations()
        names = read.names(rows.name.tolist())
        assert [names[name] for name in rows.name.tolist()] == [
            *("HtoD", "Unified HtoD", "copy kind 99")
        ]


def test_the_export_says_what_its_event_types_mean(path: Path) -> None:
    with Synthetic(path) as export:
        export.range("a", 1, 2, MAIN)
        export.start_end("b", 1, 2, MAIN)
    change(path, "UPDATE ENUM_NSYS_EVENT_TYPE SET id = 159 WHERE id = 59")
    change(path, "UPDATE NVTX_EVENTS SET eventType = 159 WHERE eventType = 59")
    with ExportFile.open(path) as read:
        assert len(next(read.ranges()).name) == 2


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("NVTX_EVENTS", "endGlobalTid"),
        ("NVTX_EVENTS", "textId"),
        ("NVTX_EVENTS", "int64Value"),
        ("NVTX_EVENTS", "domainId"),
        ("CUPTI_ACTIVITY_KIND_KERNEL", "globalPid"),
        ("CUPTI_ACTIVITY_KIND_KERNEL", "demangledName"),
        ("CUPTI_ACTIVITY_KIND_MEMCPY", "bytes"),
        ("CUPTI_ACTIVITY_KIND_MEMCPY", "copyKind"),
        ("ANALYSIS_DETAILS", "stopTime"),
    ],
)
def test_a_schema_may_lack_a_column(path: Path, schema: str, table: str, column: str) -> None:
    with Synthetic(path, schema) as export:
        fill(export)
    with ExportFile.open(path) as read:
        before = read.rows
    change(path, f"ALTER TABLE {table} DROP COLUMN {column}")
    with ExportFile.open(path) as read:
        assert counted(read) == read.rows == before


def test_large_exports_come_in_chunks_that_follow_each_other(tmp_path: Path) -> None:
    path = tmp_path / "large.sqlite"
    rows = generate(path, 800_000, seed=1)
    with ExportFile.open(path) as read:
        blocks = list(read.ranges())
        assert len(blocks) > 1
        assert max(len(block.name) for block in blocks) <= 100_000
        assert counted(read) == read.rows == rows
    with closing(sqlite3.connect(path)) as db:
        expected = db.execute(
            "SELECT start, end, coalesce(value, text) FROM NVTX_EVENTS LEFT JOIN StringIds"
            " ON id = textId WHERE eventType = 59"
        ).fetchall()
    ids = np.concatenate([block.name for block in blocks])
    with ExportFile.open(path) as read:
        assert sum(1 for _ in read.ranges()) == len(blocks)
        names = read.names(np.unique(ids).tolist())
    assert [names[name] for name in ids.tolist()] == [name for _, _, name in expected]
    for column, place in (("start_ns", 0), ("end_ns", 1)):
        read_back = np.concatenate([getattr(block, column) for block in blocks])
        assert read_back.tolist() == [row[place] for row in expected]


def test_the_same_seed_generates_the_same_rows(tmp_path: Path) -> None:
    def content(name: str, seed: int) -> list[str]:
        generate(tmp_path / name, 2_000, seed)
        with closing(sqlite3.connect(tmp_path / name)) as db:
            return list(db.iterdump())

    assert content("a", 1) == content("b", 1) != content("c", 2)


Named = st.tuples(
    *(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.booleans()),
    *(st.integers(0, 2**62), st.none() | st.integers(0, 2**62), st.integers(0, 2**24 - 1)),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(Named, min_size=1, max_size=20), st.sampled_from([OLD, NEW]))
def test_every_range_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, given_ranges: list[Any], schema: str
) -> None:
    path = tmp_path_factory.mktemp("export") / "any.sqlite"
    with Synthetic(path, schema) as export:
        for name, registered, start, end, tid in given_ranges:
            export.range(name, start, end, thread_id(PID, tid), registered=registered)
    with ExportFile.open(path) as read:
        (rows,) = read.ranges()
        names = read.names(rows.name.tolist())
    assert [(names[row[5]], *row[:3]) for row in columns(rows)] == [
        (name, start, -1 if end is None else end, thread_id(PID, tid))
        for name, _, start, end, tid in given_ranges
    ]


# What is no export, or not a whole one.


@pytest.fixture
def whole(path: Path) -> Path:
    with Synthetic(path) as export:
        fill(export)
        export.insert("PROCESSES", globalPid=PROCESS, pid=PID, name="python")  # is not read
    return path


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def counted(export: ExportFile) -> int:
    """How many rows come, all of them read."""
    kinds: tuple[Callable[[], Iterator[Any]], ...]
    kinds = (export.ranges, export.launches, export.operations)
    return sum(len(rows.start_ns) for kind in kinds for rows in kind())


def read_all(path: Path) -> int:
    """How many rows there are."""
    with ExportFile.open(path) as read:
        assert read.names(range(10))
        assert read.domains is not None
        assert read.end_ns >= 0
        assert counted(read) == read.rows
        return read.rows


def complaint(path: Path) -> str:
    """What is said of an export that cannot be read to its end; one line."""
    with pytest.raises(UsageError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.isprintable()  # on one line too
    assert message.startswith(("cannot read", str(path)))
    return message


def test_there_is_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "none.sqlite")


def test_a_folder_is_no_export(tmp_path: Path) -> None:
    assert "folder" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no content yet"),
        (b"\0" * 8192, "no content yet"),
        (b"#!/bin/sh\n" * 100, "no sqlite file"),
        (b"NVIDIA Tegra Profiler Report 1.\0" * 100, "nsys export"),
        (b"SQLite format 3\0", "cut off"),
        (b"SQLite format 3\0" + bytes(range(256)) * 16, "damaged"),
    ],
)
def test_other_files_are_no_exports(path: Path, content: bytes, said: str) -> None:
    path.write_bytes(content)
    assert said in complaint(path)


def test_databases_of_others_are_no_exports(path: Path, tmp_path: Path) -> None:
    change(path, "CREATE TABLE notes (text)")
    assert "no export of nsys" in complaint(path)
    run = tmp_path / "run.kprof"
    RunFile.create(run, {}).close()
    assert "no export of nsys" in complaint(run)


def test_an_export_that_is_cut_off_is_never_read_in_part(whole: Path) -> None:
    content = whole.read_bytes()
    for length in [*range(1, 2000, 97), *range(2000, len(content), 997), len(content) - 1]:
        whole.write_bytes(content[:length])
        assert complaint(whole)


def test_damage_within_is_found_or_harmless(whole: Path) -> None:
    """Overwritten pages give a line or, where nothing is read of them, no difference at all."""
    content = whole.read_bytes()
    outcomes = set()
    for start in range(4096, len(content), 4096):
        whole.write_bytes(content[:start] + b"\xa5" * 4096 + content[start + 4096 :])
        try:
            outcomes.add(read_all(whole))
        except UsageError as error:
            outcomes.add("damaged" in str(error))
    assert outcomes == {12, True}


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "PRAGMA locking_mode = EXCLUSIVE"])
def test_a_locked_export_is_waited_for_by_the_user(whole: Path, lock: str) -> None:
    with closing(sqlite3.connect(whole, isolation_level=None)) as other:
        other.execute(lock)
        other.execute("UPDATE StringIds SET value = value")
        message = complaint(whole)
    assert "locked" in message or "still being written" in message


def test_nobody_writes_while_it_is_read(whole: Path) -> None:
    with ExportFile.open(whole), closing(sqlite3.connect(whole, timeout=0)) as other:
        other.execute("UPDATE StringIds SET value = 'other'")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.commit()


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_an_export_with_a_journal_is_still_being_written(whole: Path, suffix: str) -> None:
    whole.with_name(whole.name + suffix).write_bytes(b"pages")
    assert "still being written" in complaint(whole)


def test_an_export_in_the_middle_of_being_written_is_refused(path: Path) -> None:
    """As nsys writes: one transaction without a journal, the file empty or locked until its end."""
    export = Synthetic(path)
    for start in range(60_000):  # more than sqlite keeps in memory
        export.range(f"range {start}", start, start + 1, MAIN)
        if start % 10_000 == 0:
            assert any(said in complaint(path) for said in ("no content yet", "locked"))
    export.close()
    with ExportFile.open(path) as read:
        assert read.rows == 60_000


@pytest.mark.parametrize("version", ["1.0.0", "4.0.0", "99", "", "3.x", "\x1b[2J", "3" * 200])
def test_unknown_schemas_are_refused(whole: Path, version: str) -> None:
    with closing(sqlite3.connect(whole)) as db, db:
        where = "name = 'EXPORT_SCHEMA_VERSION'"
        db.execute(f"UPDATE META_DATA_EXPORT SET value = ? WHERE {where}", (version,))
    assert "schema" in complaint(whole)


def test_a_hostile_schema_steers_no_terminal(whole: Path) -> None:
    name = "CAST(x'1b5b324a0a' AS TEXT)"
    where = "WHERE name = 'PROCESSES'"
    change(
        whole,
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET name = {name}, tbl_name = {name}, sql = 'CREATE TABLE' {where}",
    )
    assert "damaged" in complaint(whole)


def test_an_export_without_versions_is_not_whole(whole: Path) -> None:
    change(whole, "DROP TABLE META_DATA_EXPORT")
    assert "not a whole one" in complaint(whole)


def test_an_export_without_nvtx_events_holds_no_ranges(path: Path, schema: str) -> None:
    with Synthetic(path, schema) as export:
        export.launch(1, 2, MAIN, 1)
    assert "no NVTX ranges" in complaint(path)


def test_an_export_with_events_but_no_ranges_is_read(path: Path) -> None:
    with Synthetic(path) as export:
        export.insert("NVTX_EVENTS", start=0, eventType=DOMAIN, text="d", globalTid=MAIN)
    with ExportFile.open(path) as read:
        assert list(read.ranges()) == []
        assert (read.rows, read.end_ns) == (0, 0)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("NVTX_EVENTS", "eventType"),
        ("NVTX_EVENTS", "globalTid"),
        ("CUPTI_ACTIVITY_KIND_RUNTIME", "correlationId"),
        ("CUPTI_ACTIVITY_KIND_KERNEL", "end"),
    ],
)
def test_columns_without_which_nothing_can_be_said(whole: Path, table: str, column: str) -> None:
    change(whole, f"ALTER TABLE {table} RENAME COLUMN {column} TO renamed")
    assert f"{table} has no column {column}" in complaint(whole)


@pytest.mark.parametrize("value", ["'text'", "1.5", "x'00'", "'1e99'"])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("NVTX_EVENTS", "start"),
        ("NVTX_EVENTS", "globalTid"),
        ("NVTX_EVENTS", "textId"),
        ("NVTX_EVENTS", "domainId"),
        ("CUPTI_ACTIVITY_KIND_RUNTIME", "correlationId"),
        ("CUPTI_ACTIVITY_KIND_KERNEL", "demangledName"),
        ("CUPTI_ACTIVITY_KIND_MEMCPY", "bytes"),
        ("CUPTI_ACTIVITY_KIND_MEMCPY", "copyKind"),
        ("ANALYSIS_DETAILS", "stopTime"),
    ],
)
def test_text_where_numbers_should_be_is_refused(
    whole: Path, table: str, column: str, value: str
) -> None:
    change(whole, f"UPDATE {table} SET {column} = {value}")
    assert f"table {table} holds something else" in complaint(whole)


def test_an_event_without_a_start_is_refused(path: Path) -> None:
    with Synthetic(path) as export:
        export.table("StringIds")
    change(path, "CREATE TABLE NVTX_EVENTS (start, end, eventType, globalTid, text)")
    change(path, f"INSERT INTO NVTX_EVENTS VALUES (NULL, 5, 59, {MAIN}, 'a')")
    assert "something else" in complaint(path)


def test_views_are_no_tables(path: Path) -> None:
    """A view may compute for ever; nsys writes none."""
    with Synthetic(path) as export:
        export.table("StringIds")
    change(
        path,
        "CREATE VIEW NVTX_EVENTS AS WITH RECURSIVE n(start) AS (SELECT 0 UNION ALL SELECT start + 1"
        " FROM n) SELECT start, start AS end, 59 AS eventType, 1 AS globalTid, '' AS text FROM n",
    )
    assert "no NVTX ranges" in complaint(path)


def test_open_lets_go_of_what_it_refuses(whole: Path) -> None:
    change(whole, "DROP TABLE NVTX_EVENTS")
    assert complaint(whole)
    change(whole, "CREATE TABLE proof (that_it_is_not_locked)")


def test_columns_of_ranges_come_in_their_order() -> None:
    """The reader fills them by place."""
    assert list(RangeRows.__dataclass_fields__) == [
        *("start_ns", "end_ns", "thread", "end_thread", "domain", "name", "payload")
    ]
