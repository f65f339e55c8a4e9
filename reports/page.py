"""The report as one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from kernelprof import units
from kernelprof.results import CaseResult, Results

from . import derived, findings, labels, ladder, ledger, trace_rows, traces
from .facts import facts
from .order import groups, networks
from .sampling import sampled
from .verdict import verdict

FOLDER = Path(__file__).parent
WRITTEN = (  # how the template writes numbers
    units.count,
    units.counted,
    units.duration,
    units.gflop,
    units.in_unit,
    units.magnitude,
    units.moment,
    units.percent,
    units.share,
    units.size,
    units.versus,
)
DERIVED = (  # what it asks of a case
    facts,
    sampled,
    labels.contender,
    labels.full_name,
    labels.of_engine,
    labels.workload,
    derived.flop_per_s,
    derived.half_width,
    derived.layers_unit,
    derived.predicted_share,
    derived.speedup,
    findings.causes,
    findings.command,
    findings.diagnosis_verdict,
    findings.missing_sentence,
    ladder.beyond_layers,
    ladder.layer_rungs,
    ladder.signed,
    ladder.together,
    ledger.parts_unit,
    ledger.profiler_sentence,
    ledger.tidy,
    ledger.unknown_sentence,
    ledger.with_ledger,
    trace_rows.trace_table,
    trace_rows.unassigned_rows,
    trace_rows.work_name,
    traces.trace_sentences,
    traces.with_nsys,
    units.column_unit,
)


def to_html(results: Results) -> str:
    """The whole report as a self-contained page."""
    from . import charts  # slow to import, and a command that prints tables needs it not

    by_network = networks(results)
    return _template().render(
        results=results,
        groups=groups(results),
        networks=by_network,
        diagnosed=findings.diagnosed_engines(results.cases),
        verdict=verdict(results),
        has_accuracy=any(case.predicted for case in results.cases),
        palette=charts.PALETTE,
        charts=script_json({**_chart_specs(by_network), **_diagnosis_specs(results, by_network)}),
        css=_own("page.css"),
        script=_own("page.js"),
        vega=_vega(),
    )


def script_json(value: object) -> Markup:
    """JSON that cannot end the script element it stands in, whatever its strings hold."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({function.__name__: function for function in WRITTEN})
    environment.globals.update({function.__name__: function for function in [*WRITTEN, *DERIVED]})
    return environment.get_template("page.html")


def _chart_specs(by_network: Mapping[str, Sequence[CaseResult]]) -> dict[str, Any]:
    """The charts by the names that the template gives their places."""
    from . import charts

    everything = list(chain.from_iterable(by_network.values()))
    specs = {}
    if any(case.predicted for case in everything):
        specs["accuracy"] = charts.accuracy_chart(everything)
    for number, cases in enumerate(by_network.values()):
        specs[f"times-{number}"] = charts.times_chart(cases)
        for index, case in enumerate(cases):
            specs[f"layers-{number}-{index}"] = charts.layers_chart(case)
    return {name: chart.to_dict() for name, chart in specs.items()}


def _diagnosis_specs(
    results: Results, by_network: Mapping[str, Sequence[CaseResult]]
) -> dict[str, Any]:
    """Those of what was diagnosed: a ledger for each engine, a ladder for each case."""
    from . import diagnosis_charts

    specs = {}
    for number, cases in enumerate(findings.diagnosed_engines(results.cases).values()):
        if profiled := ledger.with_ledger(cases):
            specs[f"ledger-{number}"] = diagnosis_charts.ledger_chart(profiled)
    for number, members in enumerate(by_network.values()):
        for index, case in enumerate(members):
            if ledger.with_ledger([case]):
                specs[f"ladder-{number}-{index}"] = diagnosis_charts.ladder_chart(case)
    return {name: chart.to_dict() for name, chart in specs.items()}


def _own(name: str) -> Markup:
    """One of the files beside this one, which is safe as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


@cache
def _vega() -> Markup:
    """The chart library, to be inlined."""
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
