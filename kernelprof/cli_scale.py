"""The command line's ``scale``: how networks follow threads and the batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kernelprof.console import err, out
from kernelprof.errors import UsageError
from kernelprof.reports.scaling import batches_table, scaling_json, sentences, threads_table
from kernelprof.runfile import RunFile
from kernelprof.scaling import OverBatches, OverThreads, Scaling
from kernelprof.scaling_results import scaling

SUFFIXES = (".svg", ".png", ".html")
MOST_IN_A_CHART = 16


def scale(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    network: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only these: torch,caffe.")] = None,
    mode: Annotated[str | None, typer.Option(help="Only infer, or train.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
    chart: Annotated[
        Path | None, typer.Option(help="A picture: a .svg, .png or .html file.")
    ] = None,
) -> None:
    """Show how networks scale over threads and batches, and what stops them.

    From a run with several --threads or --batch.  A law is fitted to five
    points at least; with fewer nothing is extrapolated.

    Example: kernelprof scale a.kprof --chart scaling.svg
    """
    if chart is not None and chart.suffix not in SUFFIXES:
        raise UsageError(f"--chart {chart}: a file that ends in {', '.join(SUFFIXES)} is needed")
    found = _chosen(run, scaling(RunFile.open(run)), network, engine, mode)
    if chart is not None:
        _save(found, chart)
    if as_json:
        sys.stdout.write(json.dumps(scaling_json(found), indent=1, allow_nan=False) + "\n")
        return
    if found.over_threads:
        out.print(threads_table(found.over_threads))
    if found.over_batches:
        out.print(batches_table(found.over_batches))
    for sentence in sentences(found):
        out.print(sentence)


def _chosen(
    path: Path, found: Scaling, network: str | None, engine: str | None, mode: str | None
) -> Scaling:
    """What was asked for of a run.

    Raises:
        UsageError: there is nothing of it.
    """
    engines = engine.split(",") if engine else None

    def wanted(one: OverThreads | OverBatches) -> bool:
        return (
            network in (None, one.network)
            and mode in (None, one.mode)
            and (engines is None or one.engine in engines)
        )

    if not found.over_threads and not found.over_batches:
        raise UsageError(
            f"{path} holds no network that was measured with two thread counts or batches; "
            "`kernelprof run --threads 1,2` or `--batch 8,16` measures what scales"
        )
    left = Scaling(
        tuple(filter(wanted, found.over_threads)), tuple(filter(wanted, found.over_batches))
    )
    if not left.over_threads and not left.over_batches:
        held = [*found.over_threads, *found.over_batches]
        names = [
            ", ".join(dict.fromkeys(getattr(one, what) for one in held))
            for what in ("network", "engine", "mode")
        ]
        raise UsageError(f"{path} holds nothing of that; it holds {'; '.join(names)}")
    return left


def _save(found: Scaling, path: Path) -> None:
    from kernelprof.reports.scaling_charts import save_scaling_chart  # slow to import

    panels = len(found.over_threads) + len(found.over_batches)
    if panels > MOST_IN_A_CHART:
        raise UsageError(
            f"--chart: {panels} cases scale, and {MOST_IN_A_CHART} fit; choose some with "
            "--network, --engine or --mode"
        )
    try:
        save_scaling_chart(found, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    err.print(f"wrote {path}", soft_wrap=True)
