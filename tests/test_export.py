"""Exports: every sample of the file, once, with what it is a sample of."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys

import pyarrow.parquet
import pytest

from kernelprof.errors import UsageError
from kernelprof.export import EXPORTS, export, rows
from kernelprof.plan import Case
from kernelprof.runfile import WHOLE, RunFile

from .test_runfile import BROKEN, KERNEL, META, turn_of


@pytest.fixture
def run(tmp_path):
    file = RunFile.create(tmp_path / "a.kprof", META)
    for mode, whole in (("infer", True), ("train", False)):
        case = Case("net, with a comma", "numpy", (1, 0), 16, mode, whole)
        case_id = file.add_case(case, calibration=mode == "train")
        file.describe_case(case_id, 1, [KERNEL, BROKEN])
        worker_id = file.add_worker("numpy", (1, 0), {})
        file.add_turn(case_id, worker_id, turn_of(0, 1, whole=whole))
    yield file
    file.close()


def read_csv(data: bytes) -> list[dict]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def read_parquet(data: bytes) -> list[dict]:
    return pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()


READERS = {"csv": read_csv, "json": json.loads, "parquet": read_parquet}  # of tables


def test_the_formats_are_these_tables_and_a_timeline():
    assert {*EXPORTS} == {*READERS, "perfetto"}


def test_every_sample_is_a_row(run):
    table = list(rows(run))
    stored = [sample for case in run.cases() for sample in run.samples(case.id)]
    assert len(table) == len(stored) == 6
    assert [
        {key: row[key] for key in sample} for row, sample in zip(table, stored, strict=True)
    ] == (stored)


def test_a_row_says_what_it_is_a_sample_of(run):
    whole, kernel, *_ = rows(run)
    assert (whole["place"], whole["whole"], whole["layer"]) == (WHOLE, True, "")
    assert (kernel["place"], kernel["whole"], kernel["layer"]) == (0, False, "fc1")
    assert (kernel["primitives"], kernel["passes"]) == ("gemm m=1 n=2 k=3", "forward")
    assert (kernel["threads"], kernel["cpus"], kernel["batch"]) == (2, "1 0", 16)
    assert [row["mode"] for row in rows(run)] == ["infer"] * 4 + ["train"] * 2
    assert [row["calibration"] for row in rows(run)] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("format_", READERS)
def test_formats_hold_the_rows(format_, run, tmp_path):
    path = tmp_path / f"a.{format_}"
    export(run, format_, path)
    read = READERS[format_](path.read_bytes())
    wanted = list(rows(run))
    if format_ == "csv":
        wanted = [{key: str(value) for key, value in row.items()} for row in wanted]
    assert read == wanted


@pytest.mark.parametrize("format_", READERS)
def test_a_run_without_samples(format_, tmp_path):
    empty = RunFile.create(tmp_path / "b.kprof", META)
    export(empty, format_, tmp_path / "out")
    empty.close()
    assert READERS[format_]((tmp_path / "out").read_bytes()) == []


def test_an_unknown_format_lists_the_known_ones(run, tmp_path):
    with pytest.raises(UsageError, match="known: csv, json, parquet, perfetto"):
        export(run, "xls", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format_", READERS)
def test_a_file_that_ends_in_gz_is_compressed(format_, run, tmp_path):
    plain, compressed = tmp_path / "a", tmp_path / "a.gz"
    export(run, format_, plain)
    export(run, format_, compressed)
    assert gzip.decompress(compressed.read_bytes()) == plain.read_bytes()


def test_what_cannot_be_made_leaves_a_file_alone(run, tmp_path, monkeypatch):
    path = tmp_path / "out"
    path.write_text("mine")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="parquet needs pyarrow"):
        export(run, "parquet", path)
    assert path.read_text() == "mine"


def test_a_file_that_cannot_be_written(run, tmp_path):
    with pytest.raises(UsageError, match=r"cannot write .*: No such file or directory"):
        export(run, "csv", tmp_path / "none" / "out")
