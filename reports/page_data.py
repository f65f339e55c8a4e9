"""The data of the page: rows that its charts and tables share, and what can be chosen of them."""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import altair as alt
import vl_convert

from kernelprof.diagnosis.ledger import PARTS
from kernelprof.results import CaseResult, FailureResult, Results
from kernelprof.units import count, counted, duration

from . import (
    diagnosis_charts,
    layer_charts,
    roofline_chart,
    size_charts,
    sweep_charts,
    times_charts,
)
from .charts import THEME, Rows, distinct
from .labels import full_name, of_engine
from .ledger import SHORT, part_s, signed_share, with_ledger
from .order import groups
from .page_places import measured
from .roofline_chart import Measured, placement_name
from .sampling import sampled

FACETS = {"engine": "engine", "network": "network", "mode": "mode", "placement": "threads"}


def page_data(results: Results) -> dict[str, Any]:
    """All that the page's charts and tables are made from, as JSON."""
    everything = measured(results)
    return {
        "items": items(results),
        "rows": _rows(results, everything),
        "charts": charts(distinct(one.engine for one in everything)),
    }


def numbering(results: Results) -> Callable[[object], int]:
    """The number of each item, by what it is made from."""
    numbers = {id(one): n for n, one in enumerate([*measured(results), *results.failures])}
    return lambda one: numbers[id(one)]


def items(results: Results) -> list[dict[str, Any]]:
    """What rows are of, in the order of the page; what failed comes last."""
    numbers = {
        (group.network, group.mode, group.batch): n for n, group in enumerate(groups(results))
    }
    return [_item(one, numbers) for one in [*measured(results), *results.failures]]


def _item(
    one: Measured | FailureResult, numbers: Mapping[tuple[str, str, int], int]
) -> dict[str, Any]:
    own: dict[str, Any] = {"engine": one.engine, "mode": one.mode}
    if isinstance(one, CaseResult | FailureResult):
        own["group"] = numbers.get((one.network, one.mode, one.batch))
    if isinstance(one, FailureResult):
        return {**own, "network": one.network, "placement": counted(one.threads, "thread")}
    if isinstance(one, CaseResult):
        own |= {"name": full_name(one), "note": _note(one), "network": one.network}
    else:
        own["network"] = one.primitive
    return {**own, "placement": placement_name(one)}


def _note(case: CaseResult) -> str:
    return (
        f"{count(case.parameters)} parameters, {count(case.flop)} flop a call, "
        f"{sampled(case.sampling)}, on CPU {', '.join(map(str, case.cpus))}; "
        f"the first call took {duration(case.first_call_s)}."
    )


def facets(shown: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What the page can be filtered by: fields of items that have several values."""
    found = {field: distinct(item[field] for item in shown) for field in FACETS}
    return {field: values for field, values in found.items() if len(values) > 1}


def charts(engines: Sequence[str]) -> dict[str, Any]:
    """Every chart as Vega draws it, and the names of the rows that it draws."""
    found: dict[str, tuple[alt.LayerChart, tuple[str, ...]]] = {
        "overview": (times_charts.overview_spec(engines), ("overview",)),
        "times": (times_charts.times_spec(engines), ("times",)),
        "errors": (times_charts.accuracy_spec(engines), ("errors",)),
        "steps": (diagnosis_charts.ladder_spec(engines), ("steps",)),
        "layers": (layer_charts.layers_spec(engines), ("layers",)),
        "stacks": (layer_charts.stacks_spec(engines), ("layers",)),
        "roofline": (roofline_chart.roofline_spec(engines), ("kernels", "roofs")),
        "speedups": (sweep_charts.speedups_spec(engines), ("speedups",)),
        "batches": (sweep_charts.throughput_spec(engines), ("batches",)),
        "sizes": (size_charts.sizes_spec(), ("sizes",)),
        "parts": (diagnosis_charts.ledger_spec(), ("parts",)),
    }
    return {name: {"spec": _compiled(chart), "rows": rows} for name, (chart, rows) in found.items()}


def _compiled(chart: alt.LayerChart) -> dict[str, Any]:
    found: dict[str, Any] = vl_convert.vegalite_to_vega({**chart.to_dict(), "config": THEME})
    return found


def _rows(results: Results, everything: Sequence[Measured]) -> dict[str, Rows]:
    """The rows that charts and tables name; each knows the number of the item that it is of."""
    cases = [one for one in everything if isinstance(one, CaseResult)]
    found: dict[str, Rows] = defaultdict(list)
    for name, number, rows in chain(_of_items(everything), _of_sweeps(cases)):
        found[name] += [{"item": number, **row} for row in rows]
    for number, row in enumerate(times_charts.overview_rows(cases)):
        found["overview"].append({"item": number, **row})
    placements = distinct(map(placement_name, everything))
    found["roofs"] = roofline_chart.roof_rows(results.ceilings, placements)
    return found


def _of_items(everything: Iterable[Measured]) -> Iterator[tuple[str, int, Rows]]:
    for number, one in enumerate(everything):
        yield "kernels", number, roofline_chart.kernel_rows(one)
        yield "sizes", number, size_charts.size_rows(one)
        if isinstance(one, CaseResult):
            yield "times", number, times_charts.times_rows(one)
            yield "errors", number, times_charts.error_rows(one)
            yield "steps", number, diagnosis_charts.step_rows(one)
            yield "layers", number, layer_charts.layer_rows(one)
            if with_ledger([one]):
                yield "parts", number, diagnosis_charts.part_rows(one)
                yield "ledgers", number, [_ledger_row(one)]


def _of_sweeps(cases: Sequence[CaseResult]) -> Iterator[tuple[str, int, Rows]]:
    numbers = {id(case): number for number, case in enumerate(cases)}
    for own in sweep_charts.over_threads(cases):
        for case in own:
            yield "speedups", numbers[id(case)], sweep_charts.speedup_rows(case, own[0])
    for own in sweep_charts.over_batches(cases):
        for case in own:
            yield "batches", numbers[id(case)], sweep_charts.batch_rows(case)


def _ledger_row(case: CaseResult) -> dict[str, Any]:
    """The cells of a case in the table of ledgers."""
    shares = {part: part_s(case, part) / case.measured.value_s for part in PARTS}
    return {
        "engine": case.engine,
        "case": of_engine(case),
        "time": duration(case.measured.value_s),
        "s": case.measured.value_s,
        **{SHORT[part]: signed_share(own) for part, own in shares.items()},
        **{f"{SHORT[part]} share": own for part, own in shares.items()},
    }


def packed(data: object) -> str:
    """JSON, or text as it is, compressed so that a page can hold it in an element of its own."""
    text = (
        data
        if isinstance(data, str)
        else json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    )
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
