"""What was checked of a machine and its engines, for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from kernelprof.fitness import BLOCK, PASS, WARN, Check, Fitness, Started
from kernelprof.results import Results
from kernelprof.units import counted

from .lines import printable
from .text_table import NONE, or_none, text_table

STYLES = {PASS: "green", WARN: "yellow", BLOCK: "bold red"}
SPOKEN = {WARN: "warning", BLOCK: "not fit"}


def fitness_table(checks: Iterable[Check]) -> Table:
    """A check per row; below what is bad stands what to do."""
    table = text_table("Check")
    table.add_column("", no_wrap=True)
    table.add_column("Why, and what to do", overflow="fold")
    for check in checks:
        why = Text(printable(check.reason))
        if check.outcome != PASS:
            why.append(f"\n-> {printable(check.remedy)}", style="bold")
        outcome = Text(check.outcome, style=STYLES[check.outcome])
        table.add_row(check.name, outcome, why)
    return table


def check_line(check: Check) -> Text:
    """A check that did not pass, in one line."""
    line = Text().append(SPOKEN[check.outcome], style=STYLES[check.outcome])
    return line.append(f": {check.name}: {printable(check.reason)}; {printable(check.remedy)}")


def starts_table(started: Sequence[Started]) -> Table:
    """An engine per row: what started, and the size of its pool at each placement."""
    table = text_table("Engine")
    table.add_column("", no_wrap=True)
    for heading in ("Version", "Python", "Threads"):
        table.add_column(heading, overflow="fold")
    broken = any(one.failure for one in started)
    if broken:
        table.add_column("Why not", overflow="fold")
    for engine, about in _by_engine(started).items():
        works = Text("works", STYLES[PASS]) if about["works"] else Text("fails", STYLES[BLOCK])
        threads = ", ".join(or_none(pool, str) for pool in about["threads"])
        why = [printable(about["reason"] or "")] if broken else []
        version, python = (printable(about[key] or NONE) for key in ("version", "python"))
        table.add_row(printable(engine), works, version, python, threads, *why)
    return table


def _by_engine(started: Iterable[Started]) -> dict[str, dict[str, Any]]:
    """What came of starting each engine, at all placements together."""
    found: dict[str, dict[str, Any]] = {}
    for one in started:
        about = found.setdefault(
            one.engine,
            {"works": True, "version": None, "python": None, "threads": [], "reason": None},
        )
        about["version"] = one.facts.get("version", about["version"])
        about["python"] = one.facts.get("python", about["python"])
        about["threads"] += [one.facts["threads"]] if one.facts else []
        about["works"] = about["works"] and not one.failure
        about["reason"] = about["reason"] or one.failure or None
    return found


def doctor_verdict(fitness: Fitness, started: Iterable[Started]) -> Text:
    """Whether one can measure here, and with which engines not, in a line each."""
    blocks = ", ".join(check.name for check in fitness.blocks)
    if blocks:
        line = Text("Not fit to measure", STYLES[BLOCK]).append(f": {blocks}. ")
        line.append("With --force, run and bench go on all the same and mark what they measure.")
    else:
        line = Text("Fit to measure", STYLES[PASS]).append(f"{_with_warnings(fitness)}.")
    broken = [name for name, about in _by_engine(started).items() if not about["works"]]
    if broken:
        line.append(f"\nNot every engine works: cases of {', '.join(broken)} would fail.")
    return line


def _with_warnings(fitness: Fitness) -> str:
    names = [check.name for check in fitness.warnings]
    return f", with {counted(len(names), 'warning')}: {', '.join(names)}" if names else ""


def fitness_sentences(results: Results) -> list[str]:
    """What the checks said of a run: whether it was forced, and what they warn of."""
    found = results.fitness
    if found is None:
        return []
    sentences = []
    if found.forced:
        reasons = "; ".join(check.reason for check in found.blocks)
        sentences.append(f"Forced, although the machine was not fit to measure: {reasons}.")
    if found.warnings:
        names = ", ".join(check.name for check in found.warnings)
        count = counted(len(found.warnings), "warning")
        sentences.append(f"{count} of what may have disturbed: {names}.")
    return sentences


def doctor_json(fitness: Fitness, started: Iterable[Started]) -> dict[str, Any]:
    """The checks and the engines, for scripts."""
    engines = _by_engine(started)
    works = all(about["works"] for about in engines.values())
    return {
        "fit": not fitness.blocks and works,
        "checks": [check.to_json() for check in fitness.checks],
        "engines": engines,
    }
