"""What is left of an export that was made fit to share."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kernelprof.errors import UsageError
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.scrub import scrub
from kernelprof.studies.export_schema import MARK, META, NEW, OLD, TABLES
from kernelprof.studies.synthetic_export import Synthetic, process_id, thread_id
from kernelprof.studies.synthetic_training import generate

PID = 4242
PROCESS, MAIN, OTHER = process_id(PID), thread_id(PID, PID), thread_id(PID, PID + 1)
SECRET = "hunter2"
UNUSED = 10_000


def secretive(path: Path, schema: str) -> None:
    """An export with a secret in every column of text, around what an import reads."""
    with Synthetic(path, schema) as export:
        domain = export.domain("kernelprof", MAIN)
        export.range("layer", 100, 200, MAIN, domain, payload=99)
        export.range("text", 110, None, OTHER, registered=False)
        export.start_end("copying", 120, 180, MAIN, OTHER, domain)
        export.launch(111, 115, MAIN, 1)
        export.kernel("void gemm<float>(int)", 300, 400, 1, PROCESS)
        export.memcpy(400, 410, 2, PROCESS, 4096)
        export.memset(420, 430, 4, None, 128)
        export.graph(430, 500, 5, PROCESS)
        export.session(50, 1000)
        for table in TABLES:
            if table not in META.values():
                export.table(table)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA secure_delete = OFF")
        db.execute("CREATE TABLE SOME_NEW_TABLE (text TEXT)")
        for (table,) in db.execute("SELECT name FROM sqlite_master").fetchall():
            columns = db.execute(f"PRAGMA table_info({table})").fetchall()
            values = {name: SECRET for _, name, kind, *_ in columns if kind == "TEXT"}
            rest = {name: MARK for _, name, kind, *_ in columns if kind != "TEXT"}
            row = {**values, **rest, **({"id": UNUSED} if "id" in rest else {})}
            db.execute(
                f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})",
                [row[name] for _, name, *_ in columns],
            )
        db.execute("UPDATE NVTX_EVENTS SET jsonText = ?", (f"{SECRET} json",))
        db.execute("DELETE FROM CUPTI_ACTIVITY_KIND_RUNTIME WHERE start = ?", (MARK,))
        db.execute("CREATE TABLE GONE (text)")
        db.executemany("INSERT INTO GONE VALUES (?)", [(f"{SECRET} {n}" * 50,) for n in range(99)])
        db.execute("DROP TABLE GONE")  # what it held is in the file still


def content(path: Path) -> dict[str, Any]:
    """All that an import reads, with names in place of their ids."""
    with ExportFile.open(path) as export:
        found: dict[str, Any] = {
            fact: getattr(export, fact)
            for fact in ("schema", "product", "rows", "end_ns", "domains")
        }
        for kind in (export.ranges, export.launches, export.operations):
            rows = [
                {field: column.tolist() for field, column in vars(block).items()}
                for block in kind()
            ]
            for block in rows:
                names = export.names(block.get("name", []))
                block["name"] = [names[name] for name in block.get("name", [])]
            found[kind.__name__] = rows
        return found


@pytest.mark.parametrize("schema", [OLD, NEW])
def test_no_secret_passes_and_all_that_is_imported_does(tmp_path: Path, schema: str) -> None:
    export, shared = tmp_path / "export.sqlite", tmp_path / "shared.sqlite"
    secretive(export, schema)
    assert export.read_bytes().count(SECRET.encode()) > 100
    scrub(export, shared)
    assert SECRET.encode() not in shared.read_bytes()
    assert SECRET.encode("utf-16-le") not in shared.read_bytes()
    assert content(shared) == content(export)


@pytest.mark.parametrize("schema", [OLD, NEW])
def test_large_exports_come_out_as_they_were(tmp_path: Path, schema: str) -> None:
    export, shared = tmp_path / "export.sqlite", tmp_path / "shared.sqlite"
    generate(export, 250_000, seed=3, schema=schema)
    scrub(export, shared)
    assert content(shared) == content(export)


def test_what_was_scrubbed_can_be_scrubbed_again(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("1", "2", "3"))
    secretive(first, NEW)
    scrub(first, second)
    scrub(second, third)
    assert second.read_bytes() == third.read_bytes()


def test_it_says_what_passed_and_what_did_not(tmp_path: Path) -> None:
    secretive(tmp_path / "export", NEW)
    scrubbed = scrub(tmp_path / "export", tmp_path / "shared")
    assert scrubbed.kept["NVTX_EVENTS"] == 4
    assert scrubbed.kept["CUPTI_ACTIVITY_KIND_KERNEL"] == 2
    assert {"PROCESSES", "TARGET_INFO_SYSTEM_ENV", "SOME_NEW_TABLE"} <= set(scrubbed.left_out)
    with closing(sqlite3.connect(tmp_path / "shared")) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    assert tables == set(scrubbed.kept)
    assert not tables & set(scrubbed.left_out)


@pytest.mark.parametrize("name", ["nul\0inside", "\x1b[2J", "'; --", "x" * 100_000, "\u202e"])
def test_names_pass_as_they_are(tmp_path: Path, name: str) -> None:
    with Synthetic(tmp_path / "export") as export:
        export.range(name, 1, 2, MAIN)
        export.range(name, 1, 2, MAIN, registered=False)
    scrub(tmp_path / "export", tmp_path / "shared")
    assert content(tmp_path / "shared") == content(tmp_path / "export")


@pytest.mark.parametrize("column", ["start", "category", "rangeId", "endGlobalTid"])
def test_text_does_not_pass_as_a_number(tmp_path: Path, column: str) -> None:
    with Synthetic(tmp_path / "export") as export:
        export.insert(
            "NVTX_EVENTS",
            **{"start": 1, "end": 2, "eventType": 59, "globalTid": MAIN, column: SECRET},
        )
    with pytest.raises(UsageError, match="export it again"):
        scrub(tmp_path / "export", tmp_path / "shared")
    assert os.listdir(tmp_path) == ["export"]


def test_the_export_itself_is_not_overwritten(tmp_path: Path) -> None:
    export, link = tmp_path / "export", tmp_path / "link"
    secretive(export, NEW)
    link.symlink_to(export)
    before = export.read_bytes()
    for target in (export, link):
        with pytest.raises(UsageError, match="is the export itself"):
            scrub(export, target)
    assert export.read_bytes() == before


def test_an_older_result_is_replaced_when_all_went_well(tmp_path: Path) -> None:
    export, shared = tmp_path / "export", tmp_path / "shared"
    shared.write_text("older")
    export.write_text("no export")
    with pytest.raises(UsageError, match="no sqlite file"):
        scrub(export, shared)
    assert shared.read_text() == "older"
    export.unlink()
    secretive(export, OLD)
    scrub(export, shared)
    assert content(shared) == content(export)
    assert sorted(os.listdir(tmp_path)) == ["export", "shared"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    secretive(tmp_path / "export", NEW)
    for target in (tmp_path / "none" / "shared", tmp_path):
        with pytest.raises(UsageError, match="cannot write"):
            scrub(tmp_path / "export", target)
    assert os.listdir(tmp_path) == ["export"]
