"""The summary of a run as CSV: a line for each case, kernel of a bench, and failure."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from typing import Any

TABLES = ("cases", "primitives", "failures")  # of the JSON report
NESTED = {"layers", "ledger", "findings", "beyond", "missing_evidence"}  # keys with parts


def summary_csv(report: Mapping[str, Any]) -> str:
    """Every key of the JSON report's tables that holds one value, or a list of them."""
    lines = [_flat(one) for table in TABLES for one in report[table]]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    written = StringIO(newline="")
    writer = csv.DictWriter(written, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


def _flat(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in one.items()
        if name not in NESTED
    }
