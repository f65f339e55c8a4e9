"""The raw samples of a run in files for other tools: one flat table, or a timeline."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from kernelprof.disturbance import WHOLE
from kernelprof.errors import UsageError
from kernelprof.perfetto import to_perfetto
from kernelprof.runfile import RunFile

Row = dict[str, Any]

GZIP_LEVEL = 6  # of 9: what is beyond takes several times as long, for a few per cent


def rows(run: RunFile) -> Iterator[Row]:
    """A row for each sample; the layer of a whole network's samples is empty."""
    for stored in run.cases():
        case = stored.case
        kernels = {kernel.place: kernel for kernel in run.kernels(stored.id)}
        shared = {
            "network": case.network,
            "engine": case.engine,
            "device": case.device,
            "threads": case.threads,
            "cpus": " ".join(map(str, case.cpus)),
            "batch": case.batch,
            "mode": case.mode,
            "calibration": stored.calibration,
        }
        for sample in run.samples(stored.id):
            kernel = kernels.get(sample["place"])
            yield {
                **shared,
                "layer": kernel.layer if kernel else "",
                "primitives": " + ".join(kernel.labels) if kernel else "",
                "passes": "+".join(kernel.passes) if kernel else "",
                "whole": sample["place"] == WHOLE,
                **sample,
            }


def to_csv(run: RunFile) -> Iterator[bytes]:
    """Comma-separated values with a header."""
    line = io.StringIO()
    writer = None
    for row in rows(run):
        if writer is None:
            writer = csv.DictWriter(line, row.keys(), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
        yield line.getvalue().encode()
        line.seek(0)
        line.truncate()


def to_json(run: RunFile) -> Iterator[bytes]:
    """A JSON array of rows."""
    before = b"["
    for row in rows(run):
        yield before + json.dumps(row, allow_nan=False).encode()
        before = b", "
    yield b"]" if before == b", " else b"[]"


def to_parquet(run: RunFile) -> Iterator[bytes]:
    """Apache Parquet.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "parquet needs pyarrow; install it with `pip install 'kernelprof[parquet]'`"
        ) from None
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows(run))), sink)
    yield sink.getvalue()


EXPORTS: dict[str, Callable[[RunFile], Iterator[bytes]]] = {
    "csv": to_csv,
    "json": to_json,
    "parquet": to_parquet,
    "perfetto": to_perfetto,
}


def export(run: RunFile, format_: str, path: Path) -> None:
    """Write the samples to a file; one that ends in ``.gz`` is compressed.

    Raises:
        UsageError: an unknown format, or a file that cannot be written.
    """
    if format_ not in EXPORTS:
        raise UsageError(f"unknown format {format_!r}; known: {', '.join(EXPORTS)}")
    chunks = EXPORTS[format_](run)
    first = next(chunks, b"")  # before the file is touched: what cannot be made leaves it alone
    try:
        with _opened(path) as file:
            file.write(first)
            file.writelines(chunks)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    with path.open("wb") as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as compressed:
            yield compressed
