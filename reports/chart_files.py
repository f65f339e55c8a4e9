"""The charts of a run as files, each named after what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kernelprof.results import CaseResult, PrimitiveResult, Results

from .charts import Picture, distinct, save_chart
from .diagnosis_charts import ladder_chart, ledger_chart
from .findings import diagnosed_engines
from .layer_charts import layers_chart, stacks_chart
from .ledger import with_ledger
from .order import groups
from .roofline_chart import placement_name, roofline_chart
from .size_charts import size_rows, sizes_chart
from .sweep_charts import over_batches, over_threads, speedups_chart, throughput_chart
from .times_charts import accuracy_chart, overview_chart, times_chart

SUFFIXES = (".svg", ".png")


def save_charts(results: Results, folder: Path) -> list[Path]:
    """Write every chart of a run as .svg and .png; the files written."""
    written = []
    for parts, picture in _charts(results):
        name = "-".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)
        paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        save_chart(picture, *paths)
        written += paths
    return written


def _charts(results: Results) -> Iterator[tuple[tuple[object, ...], Picture]]:
    """Every chart with the parts of its file's name."""
    if len({case.engine for case in results.cases}) > 1:
        yield ("overview",), overview_chart(results.cases)
    if any(case.predicted for case in results.cases):
        yield ("accuracy",), accuracy_chart(results.cases)
    yield from _of_groups(results)
    for case in results.cases:
        yield ("layers", *_parts(case)), layers_chart(case)
        yield ("ladder", *_parts(case)), ladder_chart(case)
    for engine, cases in diagnosed_engines(results.cases).items():
        if profiled := with_ledger(cases):
            yield ("ledger", engine), ledger_chart(profiled)
    yield from _of_kernels(results)


def _of_groups(results: Results) -> Iterator[tuple[tuple[object, ...], Picture]]:
    for group in groups(results):
        parts = (group.network, group.mode, group.batch)
        if group.cases:
            yield ("times", *parts), times_chart(group.cases)
            yield ("stacks", *parts), stacks_chart(group.cases)
        if over_threads(group.cases):
            yield ("threads", *parts), speedups_chart(group.cases)
    sweeps: dict[tuple[str, str, str], list[CaseResult]] = {}
    for own in over_batches(results.cases):
        key = (own[0].network, own[0].mode, placement_name(own[0]))
        sweeps.setdefault(key, []).extend(own)
    for key, cases in sweeps.items():
        yield ("batches", *key), throughput_chart(cases)


def _of_kernels(results: Results) -> Iterator[tuple[tuple[object, ...], Picture]]:
    everything: list[CaseResult | PrimitiveResult] = [*results.cases, *results.primitives]
    for placement in distinct(map(placement_name, everything)):
        yield ("roofline", placement), roofline_chart(results, placement)
    rows = [row for one in everything for row in size_rows(one)]
    for key in dict.fromkeys((row["kind"], row["pass"], row["placement"]) for row in rows):
        yield ("sizes", *key), sizes_chart(results, *key)


def _parts(case: CaseResult) -> tuple[object, ...]:
    return case.network, case.mode, case.batch, case.engine, case.device, case.threads
