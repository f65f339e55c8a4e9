"""What came of trying the engines out, as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from kernelprof.reports.text_table import NONE, add_number_columns, or_none, text_table
from kernelprof.results import EngineCheck


def checks_table(checks: Iterable[EngineCheck]) -> Table:
    """An engine per row: what it is, how many primitives agree with the oracle, what does not."""
    table = text_table("Engine", "Version")
    add_number_columns(table, "Threads", "Agree", "Worst error")
    table.add_column("Cannot, or fails", overflow="fold")
    for one in checks:
        total = len(one.errors) + len(one.unsupported) + len(one.failures)
        worst = max(one.errors.values(), default=None)
        table.add_row(
            one.engine,
            one.version,
            or_none(one.threads, str),
            f"{len(one.errors)} of {total}",
            or_none(worst, "{:.1e}".format),
            "; ".join([*one.unsupported, *one.failures]) or NONE,
        )
    return table
