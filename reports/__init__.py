"""Turns what a run found into tables, a page, pictures and JSON; never measures."""

from __future__ import annotations

from collections.abc import Callable

from kernelprof.results import Results

from .contract import to_json_text
from .page import to_html
from .text import to_text

FORMATS: dict[str, Callable[[Results], str]] = {
    "text": to_text,
    "json": to_json_text,
    "html": to_html,
}
