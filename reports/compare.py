"""A comparison of two runs: for a terminal, for a pull request, for scripts, for GitHub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from kernelprof.compare.results import (
    FASTER,
    SAME,
    SLOWER,
    Change,
    Difference,
    MachineDrift,
    RunComparison,
    Unmatched,
)
from kernelprof.units import count, counted, duration, magnitude, moment, percent, share

from .lines import printable
from .text_table import WIDE, add_number_columns, text_table

SCHEMA = 1  # of the JSON; keys may be added within a schema, never changed
MOST_LISTED = 20  # of what could not be compared
MOST_DRIFTS = 3  # told one by one
MOST_ANNOTATIONS = 10  # of each kind: as many as GitHub shows of a step
HEADINGS = ("before", "after", "change", "at least", "at most", "told from")
WHOLE = "whole network"

Case = Change | Unmatched | MachineDrift


def case_name(case: Case) -> str:
    """All that tells a case from every other."""
    threads = counted(case.threads, "thread")
    where = threads if case.device == "cpu" else f"{case.device}, {threads}"
    if isinstance(case, MachineDrift):
        return f"{case.network}, batch {count(case.batch)}, {where}" if case.network else where
    batch = f", batch {count(case.batch)}"
    return f"{case.network}, {case.mode}{batch}, {case.engine}, {where}"


def part_name(change: Change | Unmatched) -> str:
    """The layer, or what stands for all of them."""
    return change.layer or WHOLE


def sentences(found: RunComparison) -> list[str]:
    """What came of it, in words."""
    if found.machine:
        return ["Not comparable: the runs were taken on machines that differ."]
    if not found.changes:
        return ["Nothing was compared: there is no case that both runs measured."]
    beyond = f" by more than {magnitude(found.threshold)}" if found.threshold else ""
    said = [_counted(found, SLOWER, beyond), _counted(found, FASTER, beyond)]
    wholes = [one for one in found.changes if not one.layer] or found.changes
    if not found.slower:
        worst = max(one.told_from for one in wholes) - 1
        what = WHOLE if not wholes[0].layer else "layer"
        said.append(
            f"Of any {what} a slow-down would have been told from {percent(worst)}; runs with more "
            "processes tell smaller ones."
        )
    said.append(
        "Changes are without what the machine did, and the limits of all of them hold together "
        f"with {share(1 - found.alpha)}."
    )
    return said


def _counted(found: RunComparison, verdict: str, beyond: str) -> str:
    own = [one for one in found.changes if one.verdict == verdict]
    whole = sum(one.layer == "" for one in own)
    parts = f" ({counted(whole, WHOLE)})" if whole else ""
    everything = counted(len(found.changes), "comparison")
    if not own:
        return f"Nothing became {verdict}{beyond}, in {everything}."
    return f"{count(len(own))} of {everything} became {verdict}{beyond}{parts}."


def drift_sentences(found: RunComparison) -> Iterator[str]:
    """What the machine did, which is no engine's."""
    if found.changes and not found.drifts:
        yield (
            "How much the machine drifted is not known: the reference's kernels are too few, or "
            "the reference changed."
        )
    if len(found.drifts) > MOST_DRIFTS:
        values = sorted(one.ratio.value for one in found.drifts)
        yield (
            f"The machine drifted by {percent(values[0] - 1)} to {percent(values[-1] - 1)}, as the "
            f"reference's kernels tell in {counted(len(values), 'group')} of cases."
        )
        return
    for one in found.drifts:
        yield (
            f"The machine drifted by {percent(one.ratio.value - 1)} "
            f"({percent(one.ratio.low - 1)} to {percent(one.ratio.high - 1)}), as "
            f"{counted(one.kernels, 'kernel')} of the reference tell ({case_name(one)})."
        )


def _difference(one: Difference) -> str:
    return f"{one.what}: {_written(one.before)} before, {_written(one.after)} after"


def _written(value: Any) -> str:
    return "none" if value in (None, "") else str(value)


def _unmatched(one: Unmatched) -> str:
    layer = f", {one.layer}" if one.layer else ""
    return f"{case_name(one)}{layer}: {one.reason}"


def _remarks(found: RunComparison) -> Iterator[tuple[str, list[str]]]:
    """Headings, and what is listed below them."""
    yield "The machines differ in", [_difference(one) for one in found.machine]
    yield "The runs differ in", [_difference(one) for one in found.settings]
    listed = [_unmatched(one) for one in found.unmatched[:MOST_LISTED]]
    more = len(found.unmatched) - len(listed)
    yield "Not compared", listed + ([f"and {count(more)} more"] if more else [])


def _shown(found: RunComparison, layers: bool) -> list[Change]:
    """What changed, and whole networks; all layers where that was asked for."""
    if layers or len(found.changes) <= MOST_LISTED:
        return list(found.changes)
    return [one for one in found.changes if one.layer == "" or one.verdict != SAME]


def _cells(change: Change) -> tuple[str, ...]:
    ratio = change.ratio
    return (
        duration(change.before_s),
        duration(change.after_s),
        *(percent(value - 1) for value in (ratio.value, ratio.low, ratio.high, change.told_from)),
    )


STYLES = {SLOWER: "bold red", FASTER: "green", SAME: ""}


def render(found: RunComparison, console: Console, layers: bool = False) -> None:
    """Print it for people."""
    for line in _text_lines(found, layers):
        console.print(line, soft_wrap=isinstance(line, Text))


def _text_lines(found: RunComparison, layers: bool) -> Iterator[RenderableType]:
    for name, side in (("before", found.before), ("after", found.after)):
        yield Text(printable(f"{name:6}  {side.name}, {_moment(side.started)}"))
    shown = _shown(found, layers)
    if shown:
        yield ""
        yield _table(shown)
    for heading, listed in _remarks(found):
        if listed:
            yield ""
            yield Text(f"{heading}:", style="bold")
            yield from (Text(printable(f"  {line}")) for line in listed)
    yield ""
    for sentence in (*drift_sentences(found), *sentences(found)):
        yield Text(printable(sentence))


def _table(shown: Sequence[Change]) -> Table:
    """Parts below the case that they are of."""
    table = text_table("")
    add_number_columns(table, *HEADINGS, "")
    for case, own in _by_case(shown):
        table.add_row(Text(printable(case), style="bold"))
        for one in own:
            verdict = "" if one.verdict == SAME else one.verdict
            cells = (f"  {part_name(one)}", *_cells(one), verdict)
            style = STYLES[one.verdict]
            table.add_row(*(Text(_kept(cell), style=style) for cell in cells))
    return table


def _kept(cell: str) -> str:
    """What can be printed, with the blanks before it."""
    return cell[: len(cell) - len(cell.lstrip())] + printable(cell)


def _moment(started: str) -> str:
    try:
        return moment(started)
    except ValueError:
        return started


def _by_case(changes: Iterable[Change]) -> Iterator[tuple[str, list[Change]]]:
    found: dict[str, list[Change]] = {}
    for one in changes:
        found.setdefault(case_name(one), []).append(one)
    yield from found.items()


def to_text(found: RunComparison, layers: bool = False) -> str:
    """The same without colours."""
    console = Console(file=StringIO(), width=WIDE, color_system=None)
    render(found, console, layers)
    assert isinstance(console.file, StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def to_markdown(found: RunComparison, layers: bool = False) -> str:
    """For a pull request."""
    blocks = ["## kernelprof compare", " ".join(map(_escaped, sentences(found)))]
    shown = _shown(found, layers)
    if shown:
        rows: list[tuple[str, ...]] = [("", "part", *HEADINGS, "")]
        rows.append(("---", "---", *("---:" for _ in HEADINGS), "---"))
        for one in shown:
            verdict = "" if one.verdict == SAME else f"**{one.verdict}**"
            cells = (case_name(one), part_name(one), *_cells(one))
            rows.append((*map(_escaped, cells), verdict))
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    blocks += map(_escaped, drift_sentences(found))
    for heading, listed in _remarks(found):
        if listed:
            blocks.append("\n".join([f"{heading}:", "", *(f"- {_escaped(one)}" for one in listed)]))
    sides = (f"{name} `{side.name}`" for name, side in _sides(found))
    blocks.append(f"Compared: {', '.join(sides)}.")
    return "\n\n".join(blocks) + "\n"


def _sides(found: RunComparison) -> Sequence[tuple[str, Any]]:
    return (("before", found.before), ("after", found.after))


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    safe = printable(" ".join(text.split()))
    for sign in ("\\", "`", "*", "_", "<", ">", "|", "[", "]", "#", "@"):
        safe = safe.replace(sign, f"\\{sign}" if sign not in "<>@" else f"&#{ord(sign)};")
    return safe


def to_json(found: RunComparison, layers: bool = False) -> str:
    """For scripts; always with all layers."""
    report = {
        "schema": SCHEMA,
        "exit_status": found.exit_status,
        "verdict": sentences(found),
        **asdict(found),
    }
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_github(found: RunComparison, layers: bool = False) -> str:
    """Commands of GitHub's workflows, which annotate the pull request."""
    lines = [*_annotations("error", SLOWER, found.slower)]
    lines += _annotations("notice", FASTER, found.faster)
    remarks = [one for _, listed in _remarks(found) for one in listed if found.exit_status == 3]
    lines += [_command("warning", "Not compared", one) for one in remarks[:MOST_ANNOTATIONS]]
    level = "warning" if found.exit_status == 3 else "notice"
    lines.append(_command(level, "kernelprof compare", " ".join(sentences(found))))
    return "\n".join(lines) + "\n"


def _annotations(level: str, verdict: str, changes: Sequence[Change]) -> Iterator[str]:
    largest = sorted(changes, key=lambda one: -abs(one.after_s - one.before_s))
    for one in largest[:MOST_ANNOTATIONS]:
        before, after, change, low, high, _ = _cells(one)
        yield _command(
            level,
            f"{verdict}: {one.network} {part_name(one)}",
            f"{case_name(one)}, {part_name(one)}: {before} before, {after} after; {change} "
            f"({low} to {high}) without the machine's drift",
        )


def _command(level: str, title: str, message: str) -> str:
    """One command; see GitHub's `actions/toolkit`, packages/core/src/command.ts."""
    data = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = name.replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{data}"


COMPARISON_FORMATS: dict[str, Callable[[RunComparison, bool], str]] = {
    "text": to_text,
    "md": to_markdown,
    "json": to_json,
    "github": to_github,
}
