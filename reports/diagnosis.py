"""Why an engine is slow, under a screen: verdict, causes, evidence, ledger, what to type next."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from kernelprof.results import CaseResult, Results

from .findings import (
    Cause,
    causes,
    causes_table,
    command,
    diagnosed,
    diagnosed_engines,
    diagnosis_verdict,
    missing_sentence,
)
from .labels import full_name, of_engine
from .ladder import ladder_table
from .ledger import (
    diagnosis_of,
    layers_ledger_table,
    ledger_table,
    profiler_sentence,
    unknown_sentence,
    with_ledger,
)
from .lines import printable
from .text_table import WIDE

SCREEN = 23  # lines of a usual one, less that of the prompt
MOST_CAUSES = 4
MOST_EXPLAINED = 2
LEAST_CASES = 4  # rows of the ledger, one of them for the cases that are folded
BOLD = Style(bold=True)

Line = Text | Table


def diagnosis_lines(
    cases: Sequence[CaseResult], engine: str, run_path: Path | str, width: int = WIDE
) -> Iterator[Line]:
    """All that `kernelprof diagnose` prints of an engine: under a screen, or one case in full."""
    found = diagnosed(cases, engine)
    if not found:
        yield from _sentence(f"No case of {engine} was diagnosed.", width)
        return
    next_ = list(_next(found, engine, str(run_path), width))
    if len(found) == 1:
        yield from _causes(found, engine, len(causes(found)), width)
        yield from _case_lines(found[0], width)
        yield from _sentence(profiler_sentence(found), width)
        yield from _sentence(missing_sentence(found), width)
        yield from next_
    else:
        last = [*_cut(missing_sentence(found), width), *next_]
        yield from _screen(found, engine, last, width)


def _screen(
    cases: Sequence[CaseResult], engine: str, last: Sequence[Line], width: int
) -> Iterator[Line]:
    """As many explanations, and then as many rows of the ledger, as there is room for."""
    profiled = with_ledger(cases)
    beside = _height([Text(), ledger_table(profiled, 0, width)], width) - 1 if profiled else 0
    least = min(len(profiled), LEAST_CASES)
    for explained in range(MOST_EXPLAINED, -1, -1):
        first = list(_causes(cases, engine, explained, width))
        rows = SCREEN - _height([*first, *last], width) - beside
        if rows >= least:
            break
    yield from first
    if profiled:
        rows = max(rows, least)
        yield Text()
        yield ledger_table(profiled, rows if rows >= len(profiled) else rows - 1, width)
    yield from last


def _causes(cases: Sequence[CaseResult], engine: str, explained: int, width: int) -> Iterator[Line]:
    """The verdict, the causes by size, and of the largest the evidence and what to try."""
    yield from _sentence(diagnosis_verdict(cases, engine), width, BOLD)
    yield from _sentence(unknown_sentence(cases), width)
    found = causes(cases)
    if found:
        yield Text()
        yield causes_table(found, _most(found))
    for cause in found[:explained]:
        yield from _explanation(cause, width)


def _most(found: Sequence[Cause]) -> int:
    """How many causes have a row; a last one has its own rather than one for the rest."""
    return len(found) if len(found) <= MOST_CAUSES + 1 else MOST_CAUSES


def _explanation(cause: Cause, width: int) -> Iterator[Text]:
    """The first evidence in the worst case, and what to try there."""
    worst = cause.worst
    line = Text(printable(f"{cause.name} in {of_engine(worst.case)}"), style=BOLD)
    for said in worst.finding.evidence[:1]:
        line.append(f": {printable(said)}", style="not bold")
    line.truncate(width, overflow="ellipsis")
    yield line
    remedy = f"  try: {printable(worst.finding.remedy)}"
    yield from _wrapped(remedy, width)
    yield from _typed(command(worst), "  ", width)


def _next(cases: Sequence[CaseResult], engine: str, run_path: str, width: int) -> Iterator[Text]:
    """What to type to learn more: a trial where one is left to do, then a closer look."""
    run = shlex.quote(run_path)
    again = ["kernelprof diagnose", run, f"--engine {shlex.quote(printable(engine))}"]
    findings = [one for case in cases for one in diagnosis_of(case).findings]
    if any(one.change and one.actual is None for one in findings):
        again.append("--confirm")
    elif len(cases) > 1:
        slowest = max(cases, key=lambda case: case.measured.value_s)
        network = shlex.quote(printable(slowest.network))
        again += [f"--network {network}", f"--mode {slowest.mode}", f"--threads {slowest.threads}"]
    else:
        again = ["kernelprof report", run, "--format html", "-o why.html"]
    yield from _typed(again, "Next: ", width)


def _case_lines(case: CaseResult, width: int) -> Iterator[Line]:
    """One case in full: the ladder and the ledger, layer by layer."""
    yield Text()
    yield from _sentence(f"The ladder of {full_name(case)}", width, BOLD)
    yield ladder_table(case, width)
    if with_ledger([case]):
        yield Text()
        yield from _sentence("Where the time goes, layer by layer", width, BOLD)
        yield layers_ledger_table(case)
    yield Text()


def findings_lines(results: Results, width: int = WIDE) -> Iterator[Line]:
    """Of each engine that was diagnosed the verdict and the causes, for the report of a run."""
    for engine, cases in diagnosed_engines(results.cases).items():
        yield Text()
        yield from _causes(cases, engine, MOST_EXPLAINED, width)
        yield from _sentence(missing_sentence(cases), width)


def _sentence(text: str, width: int, style: Style | None = None) -> Iterator[Text]:
    yield from _wrapped(printable(text), width, style)


def _wrapped(text: str, width: int, style: Style | None = None) -> Iterator[Text]:
    for line in textwrap.wrap(text, width, subsequent_indent=" " * _indent(text)):
        yield Text(line, style=style or "")


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _cut(text: str, width: int) -> Iterator[Text]:
    """A sentence on one line, whatever its length; nothing where there is none."""
    if text:
        line = Text(printable(text))
        line.truncate(width, overflow="ellipsis")
        yield line


def _typed(words: Sequence[str], before: str, width: int) -> Iterator[Text]:
    """What to type; a command that is too long goes on as a shell wants it, to be copied."""
    line = before
    for word in words:
        if line.strip() and len(line) + len(word) + len(r" \ ") > width and line != before:
            yield Text(f"{line} \\")
            line = "    "
        line += word if line in (before, "    ") else f" {word}"
    if words:
        yield Text(line)


def _height(lines: Sequence[Line], width: int) -> int:
    """How many lines of a terminal something takes."""
    console = Console(file=StringIO(), width=width)
    for line in lines:
        console.print(line)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().count("\n")
