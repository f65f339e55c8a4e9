"""The engines and their settings, as a table: what bears on speed and is not the same in all."""

from __future__ import annotations

from rich.table import Table

from kernelprof.results import Results

from .facts import facts
from .lines import printable
from .text_table import text_table

HARNESS = "clock"  # how the names of the harness's own facts start


def engines_table(results: Results) -> Table:
    """An engine per row, with its version, precision, layout, libraries and variables."""
    table = text_table("Engine", "Settings")
    for engine, about in results.engines.items():
        settings = [
            f"{name}: {value}"
            for name, value in facts(about)
            if value and not name.startswith(HARNESS)
        ]
        table.add_row(printable(engine), printable("; ".join(settings)))
    return table
