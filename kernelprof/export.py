"""The raw samples of a run as one flat table, for tools of the user's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kernelprof.disturbance import WHOLE
from kernelprof.errors import UsageError
from kernelprof.runfile import RunFile

Row = dict[str, Any]


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


def to_csv(run: RunFile) -> bytes:
    """Comma-separated values with a header."""
    table = list(rows(run))
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return text.getvalue().encode()


def to_json(run: RunFile) -> bytes:
    """A JSON array of rows."""
    return json.dumps(list(rows(run)), allow_nan=False).encode()


def to_parquet(run: RunFile) -> bytes:
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
    return sink.getvalue()


EXPORTS: dict[str, Callable[[RunFile], bytes]] = {
    "csv": to_csv,
    "json": to_json,
    "parquet": to_parquet,
}


def export(run: RunFile, format_: str, path: Path) -> None:
    """Write the samples to a file.

    Raises:
        UsageError: an unknown format, or a file that cannot be written.
    """
    if format_ not in EXPORTS:
        raise UsageError(f"unknown format {format_!r}; known: {', '.join(EXPORTS)}")
    data = EXPORTS[format_](run)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
