"""The goals of a selfcheck as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from kernelprof.selfcheck.goals import Goal

from .lines import printable
from .text_table import text_table

WORDS = {True: "met", False: "missed", None: "not judged"}


def goals_table(goals: Sequence[Goal]) -> Table:
    """A goal per row: what is asked, what was found, whether it holds."""
    table = text_table("Goal", "Asked", "Found", "")
    for goal in goals:
        table.add_row(
            printable(goal.name), goal.asked, printable(goal.got), f"[bold]{WORDS[goal.met]}"
        )
    return table
