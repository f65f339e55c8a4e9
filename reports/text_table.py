"""How tables look in a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich import box
from rich.table import Table

WIDE = 100  # columns from which every column of a table has room
NONE = "-"

Value = TypeVar("Value")


def text_table(*headings: str) -> Table:
    """A table without rows, whose first columns hold names under these headings."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def add_number_columns(table: Table, *headings: str) -> None:
    """Columns that keep their width while names wrap."""
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def or_none(value: Value | None, write: Callable[[Value], str]) -> str:
    """The value as it is written, or the sign for none."""
    return NONE if value is None else write(value)
