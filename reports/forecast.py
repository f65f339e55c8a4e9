"""What is foretold of networks that were not measured like this: a table, sentences, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from kernelprof.forecast import BASES, MEASURED, OTHER_SIZES, Forecast
from kernelprof.units import column_unit, count, counted, duration, share

from .lines import printable
from .text_table import WIDE, add_number_columns, text_table

SCHEMA = 1  # of the JSON; keys may be added within a schema, never changed


def forecast_table(forecasts: Sequence[Forecast], width: int = WIDE) -> Table:
    """A row per engine and thread count, under the network, mode and batch."""
    wide = width >= WIDE
    table = text_table("network mode batch\n  engine     threads")
    add_number_columns(table, "\npredicted", "\n90 % interval")
    bases = [basis for basis in BASES if any(one.count(basis) for one in forecasts)]
    headings = {OTHER_SIZES: "other\nsizes"}
    add_number_columns(table, *(headings.get(basis, f"\n{basis}") for basis in bases))
    if wide:
        add_number_columns(table, "\ncovered")
        table.add_column("from batches\nand threads")
    heading = ""
    unit = column_unit(one.predicted.value_s for one in forecasts)
    for one in forecasts:
        title = f"{printable(one.network)} {one.mode} {count(one.batch)}"
        if title != heading:
            table.add_row(Text(title, style="bold"))
            heading = title
        cells = [
            duration(one.predicted.value_s, unit),
            f"{duration(one.predicted.low_s, unit)} to {duration(one.predicted.high_s, unit)}",
            *(share(one.share(basis)) for basis in bases),
        ]
        if wide:
            cells += [share(one.coverage), _origin(one)]
        table.add_row(Text(f"  {printable(one.engine):<10} {one.threads:>3}"), *cells)
    return table


def forecast_sentences(forecasts: Sequence[Forecast]) -> list[str]:
    """What was not measured, what is missing, and what the intervals rest on."""
    said: dict[str, None] = {}
    for one in forecasts:
        if others := one.count(OTHER_SIZES):
            said[
                f"{one.network} {one.mode} on {one.engine}: {others} of "
                f"{counted(len(one.terms), 'kernel')} are from other sizes."
            ] = None
        if one.uncovered:
            said[
                f"{one.network} {one.mode} on {one.engine}: nothing like {', '.join(one.uncovered)}"
                " was measured, and it counts as free."
            ] = None
    for engine in dict.fromkeys(one.engine for one in forecasts):
        own = [one for one in forecasts if one.engine == engine]
        reasons = dict.fromkeys(reason for one in own for reason in one.rests_on)
        if reasons:
            said[f"{engine}: beside the samples the interval rests on {'; '.join(reasons)}."] = None
    if all(one.share(MEASURED) == 1.0 for one in forecasts):
        said["All kernels were measured at this batch and thread count."] = None
    return list(said)


def forecasts_json(machine: Mapping[str, Any], forecasts: Iterable[Forecast]) -> dict[str, Any]:
    """The forecasts as an object of strict JSON."""
    return {
        "schema": SCHEMA,
        "machine": dict(machine),
        "forecasts": [_json(one) for one in forecasts],
    }


def _json(one: Forecast) -> dict[str, Any]:
    return {
        "network": one.network,
        "engine": one.engine,
        "threads": one.threads,
        "batch": one.batch,
        "mode": one.mode,
        "predicted_s": one.predicted.value_s,
        "predicted_low_s": one.predicted.low_s,
        "predicted_high_s": one.predicted.high_s,
        "beyond_s": one.beyond_s,
        "coverage": one.coverage,
        "uncovered": list(one.uncovered),
        "from_batches": list(one.batches),
        "from_threads": list(one.thread_counts),
        "shares": {basis: one.share(basis) for basis in BASES},
        "half_widths": dict(one.spreads),
        "rests_on": list(one.rests_on),
        "kernels": [asdict(term) for term in one.terms],
    }


def _origin(one: Forecast) -> str:
    batches = ",".join(map(str, one.batches)) or "none"
    return f"{batches}; {','.join(map(str, one.thread_counts))}"
