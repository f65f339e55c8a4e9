"""Turns what a run found into tables, a page, pictures and JSON; never measures."""

from __future__ import annotations

from collections.abc import Callable

from kernelprof.results import Results

from .contract import to_json_text
from .text import to_text


def to_html(results: Results) -> str:
    """The page.  What draws it is loaded only here: a machine that measures may lack it."""
    from . import page

    return page.to_html(results)


FORMATS: dict[str, Callable[[Results], str]] = {
    "text": to_text,
    "json": to_json_text,
    "html": to_html,
}
