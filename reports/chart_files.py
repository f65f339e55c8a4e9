"""The charts of a run as files, each named after what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import altair as alt

from kernelprof.results import CaseResult, Results

from .charts import accuracy_chart, layers_chart, save_chart, times_chart
from .diagnosis_charts import ladder_chart, ledger_chart
from .findings import diagnosed_engines
from .ledger import with_ledger
from .order import networks


def save_charts(results: Results, folder: Path) -> list[Path]:
    """Write every chart of a run as .svg and .png; the files written."""
    charts = {"accuracy": accuracy_chart(results.cases)} if results.cases else {}
    for name, cases in networks(results).items():
        charts[f"times-{_words_of_a_file(name)}"] = times_chart(cases)
    for case in results.cases:
        charts[f"layers-{_file_name(case)}"] = layers_chart(case)
    charts.update(_diagnosis_charts(results))
    paths = [folder / f"{name}{suffix}" for name in charts for suffix in (".svg", ".png")]
    for path in paths:
        save_chart(charts[path.stem], path)
    return paths


def _diagnosis_charts(results: Results) -> dict[str, alt.LayerChart]:
    """The charts of what was diagnosed, by the names of their files."""
    charts = {}
    for engine, cases in diagnosed_engines(results.cases).items():
        profiled = with_ledger(cases)
        if profiled:
            charts[f"ledger-{_words_of_a_file(engine)}"] = ledger_chart(profiled)
        for case in profiled:
            charts[f"ladder-{_file_name(case)}"] = ladder_chart(case)
    return charts


def _file_name(case: CaseResult) -> str:
    parts = (case.network, case.mode, case.batch, case.engine, case.device, case.threads)
    return "-".join(map(_words_of_a_file, parts))


def _words_of_a_file(part: object) -> str:
    return re.sub(r"[^\w.]+", "_", str(part))
