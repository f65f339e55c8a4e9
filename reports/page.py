"""The report as one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from kernelprof import units
from kernelprof.results import PrimitiveResult, Results

from . import derived, findings, labels, ledger, trace_rows, traces
from .bench import bench_sentences, pass_name
from .contract import json_text, to_json
from .doctor import fitness_sentences
from .facts import facts
from .ledger import SHORT, parts_shown, with_ledger
from .order import groups
from .summary_csv import summary_csv
from .text_table import NONE
from .verdict import verdict

if TYPE_CHECKING:
    from .page_places import Places

FOLDER = Path(__file__).parent
WRITTEN = (  # how the template writes numbers
    units.bandwidth,
    units.count,
    units.counted,
    units.duration,
    units.gflop,
    units.in_unit,
    units.magnitude,
    units.moment,
    units.percent,
    units.rate,
    units.share,
    units.times,
    units.versus,
)
DERIVED = (  # what it asks of a case
    facts,
    pass_name,
    labels.contender,
    labels.full_name,
    labels.of_engine,
    labels.workload,
    derived.half_width,
    derived.speedup,
    findings.causes,
    findings.command,
    findings.diagnosis_verdict,
    findings.missing_sentence,
    ledger.profiler_sentence,
    ledger.unknown_sentence,
    trace_rows.trace_table,
    trace_rows.unassigned_rows,
    trace_rows.work_name,
    traces.trace_sentences,
    units.column_unit,
)


Column = tuple[str, str, str]

TITLES = {  # of the sections, in their order
    "engines": "Engines",
    "kernels": "Kernels",
    "ladder": "The ladder",
    "layers": "Layer by layer",
    "roofline": "Roofline",
    "scaling": "Scaling",
    "sizes": "Sizes",
    "findings": "Findings",
    "ledger": "The ledger",
    "machine": "Machine and settings",
    "reproduce": "How to reproduce",
    "failures": "Failures",
    "nsys": "Under nsys",
}
LAYER_COLUMNS = (  # title, field, what it is sorted by
    ("layer", "layer", ""),
    ("kind", "kind", ""),
    ("ceiling", "ceiling", "ceiling_s"),
    ("reference", "reference", "reference_s"),
    ("by itself", "alone", "alone_s"),
    ("within", "within", "within_s"),
    ("nsys", "nsys", "nsys_s"),
    ("kernel", "kernel", "kernel_s"),
    ("context", "context", "context_s"),
    ("share", "share", "alone_s"),
    ("GFLOP/s", "gflop", "flop_per_s"),
)


def to_html(results: Results) -> str:
    """The whole report as a self-contained page."""
    from . import page_data  # loads the chart library: slow, and not needed for tables
    from .page_places import CASE, places

    data, report = page_data.page_data(results), to_json(results)
    shown = places(results)
    return _template().render(
        results=results,
        verdict=_verdict(results),
        names=list(dict.fromkeys(item["network"] for item in data["items"])),
        number=page_data.numbering(results),
        groups=groups(results),
        primitives=_by_name(results.primitives),
        places=shown,
        sections=_sections(results, shown),
        facets=page_data.facets(data["items"]),
        FACETS=page_data.FACETS,
        CASE=CASE,
        layer_columns=_filled(LAYER_COLUMNS, data["rows"].get("layers", [])),
        ledger_columns=_ledger_columns(results),
        diagnosed=findings.diagnosed_engines(results.cases),
        data=page_data.packed(data),
        report=page_data.packed(json_text(report)),
        summary_csv=page_data.packed(summary_csv(report)),
        css=_own("page.css"),
        script=_own("page.js"),
        vega=_vega(),
    )


def _verdict(results: Results) -> list[str]:
    """What came of the run in words, be it of networks or of primitives by themselves."""
    is_bench = any(failure.passes for failure in results.failures) or results.primitives
    if is_bench and not results.cases:
        return [*bench_sentences(results), *fitness_sentences(results)]
    return verdict(results)


def _sections(results: Results, shown: Places) -> dict[str, str]:
    """The titles of the sections that have something to say, by their names."""
    nothing = not (results.cases or results.primitives or results.traces)
    of_cases = any(not failure.passes for failure in results.failures)
    has = {
        "engines": bool(results.cases) or of_cases,
        "kernels": bool(results.primitives),
        "ladder": shown.steps is not None,
        "layers": shown.layers is not None,
        "roofline": bool(shown.roofline),
        "scaling": bool(shown.speedups or shown.batches),
        "sizes": bool(shown.sizes),
        "findings": any(case.diagnosis for case in results.cases),
        "ledger": bool(shown.parts),
        "machine": bool(results.machine or results.engines),
        "reproduce": True,
        "failures": bool(results.cases or results.primitives or results.failures or nothing),
        "nsys": bool(results.traces),
    }
    titles = {name: title for name, title in TITLES.items() if has[name]}
    if results.failures:
        titles["failures"] += f" ({len(results.failures)})"
    return titles


def _filled(columns: Iterable[Column], rows: Iterable[Mapping[str, Any]]) -> list[Column]:
    """The columns that any of the rows has a value for."""
    filled = {field for row in rows for field, value in row.items() if value not in (None, NONE)}
    return [column for column in columns if column[1] in filled]


def _ledger_columns(results: Results) -> list[Column]:
    parts = [SHORT[part] for part in parts_shown(with_ledger(results.cases))]
    beside = [("engine", "engine", ""), ("case", "case", ""), ("measured", "time", "s")]
    return [*beside, *((part, part, f"{part} share") for part in parts)]


def _by_name(primitives: Iterable[PrimitiveResult]) -> dict[str, list[PrimitiveResult]]:
    found: dict[str, list[PrimitiveResult]] = {}
    for one in primitives:
        found.setdefault(one.primitive, []).append(one)
    return found


def plain(value: float | None) -> str:
    """A number to sort by; nothing where it is not known."""
    return "" if value is None else repr(value)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = {function.__name__: function for function in [*WRITTEN, *DERIVED, plain]}
    environment.filters.update(functions)
    environment.globals.update(functions)
    return environment.get_template("page.html")


def _own(name: str) -> Markup:
    """One of the files beside this one, which is safe as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


@cache
def _vega() -> Markup:
    """The chart library, to be inlined."""
    return Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
