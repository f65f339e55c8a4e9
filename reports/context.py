"""What engines' networks cost beyond their kernels, as a table and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from kernelprof.results import ContextResult, Results, Trait
from kernelprof.units import duration, magnitude

from .lines import printable
from .text_table import add_number_columns, or_none, text_table


def contexts_table(results: Results) -> Table:
    """By engine, placement and mode: what calls cost, what the engine fuses or copies."""
    table = text_table("engine", "mode")
    add_number_columns(table, "threads", "per call", "per kernel")
    table.add_column("within a network", overflow="fold")
    add_number_columns(table, "misfit")
    for found in results.contexts:
        table.add_row(
            printable(found.engine),
            found.mode,
            str(found.threads),
            duration(found.per_call_s),
            duration(found.per_kernel_s),
            "; ".join([*map(trait_words, found.traits), *_kind_words(found)]),
            or_none(found.misfit, magnitude),
        )
    return table


def _kind_words(found: ContextResult) -> Iterator[str]:
    for kind, seconds in found.by_kind_s.items():
        yield f"{kind}: {duration(seconds)} per kernel"


def trait_words(trait: Trait) -> str:
    """A trait and its interval in words."""
    if trait.share <= -1:
        return f"{trait.what}: for nothing"
    return f"{trait.what}: {trait.share:+.0%} ({trait.low:+.0%} to {trait.high:+.0%})"


def context_json(found: ContextResult) -> dict[str, Any]:
    """What the chains of an engine tell at a placement and in a mode."""
    return {
        "engine": found.engine,
        "threads": found.threads,
        "cpus": found.cpus,
        "mode": found.mode,
        "per_call_s": found.per_call_s,
        "per_kernel_s": found.per_kernel_s,
        "by_kind_s": found.by_kind_s,
        "traits": [
            {"what": one.what, "share": one.share, "low": one.low, "high": one.high}
            for one in found.traits
        ],
        "misfit": found.misfit,
    }
