"""The report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from itertools import chain

from rich.console import Console
from rich.text import Text

from kernelprof.results import CaseResult, Results

from .bench import bench_lines
from .context import contexts_table
from .diagnosis import findings_lines
from .doctor import fitness_sentences, fitness_table
from .labels import full_name
from .lines import printable
from .nsys import nsys_lines
from .order import networks
from .text_engines import engines_table
from .text_layers import layers_table
from .text_summary import failures_table, summary_table
from .text_table import WIDE
from .verdict import verdict


def render(results: Results, console: Console, layers: bool = False) -> None:
    """Print the verdict, the summary, what failed and, if asked, settings and layers."""
    if results.primitives:
        _render_bench(results, console)
        _render_nsys(results, console)
        return
    if results.cases:
        console.print(summary_table(results, console.width))
        console.print()
    for sentence in verdict(results):
        console.print(Text(printable(sentence)))
    _render_uncovered(results.cases, console)
    for line in findings_lines(results, console.width):
        console.print(line)
    if results.failures:
        console.print()
        console.print(failures_table(results.failures))
    if layers:
        _render_nsys(results, console)
        if results.engines:
            console.print()
            console.print(engines_table(results))
        if results.contexts:
            console.print()
            console.print(contexts_table(results))
        _render_fitness(results, console)
        for case in chain.from_iterable(networks(results).values()):
            console.print()
            console.print(layers_table(case, console.width))


def _render_bench(results: Results, console: Console) -> None:
    for line in bench_lines(results):
        console.print(line, soft_wrap=True)
    for sentence in fitness_sentences(results):
        console.print(Text(printable(sentence)))
    console.print()
    console.print(engines_table(results))
    _render_fitness(results, console)


def _render_nsys(results: Results, console: Console) -> None:
    for line in nsys_lines(results, console.width):
        console.print(line)


def _render_fitness(results: Results, console: Console) -> None:
    if results.fitness is not None:
        console.print()
        console.print(fitness_table(results.fitness.checks))


def to_text(results: Results) -> str:
    """The whole report as plain text."""
    console = Console(file=StringIO(), width=WIDE, color_system=None)
    render(results, console, layers=True)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _render_uncovered(cases: Iterable[CaseResult], console: Console) -> None:
    for case in cases:
        if case.uncovered:
            layers = printable(", ".join(case.uncovered))
            console.print(Text(f"Not covered: {layers} ({printable(full_name(case))})"))
