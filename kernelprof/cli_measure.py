"""What the commands that measure share: progress, results as they come, and what is said last."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from kernelprof import runner
from kernelprof.analysis import case_results, failures, primitive_results, results
from kernelprof.ceilings import load
from kernelprof.console import err, out
from kernelprof.machine import this_machine
from kernelprof.measure import Report, sole_measurement
from kernelprof.plan import Group, Options
from kernelprof.reports.bench import bench_header, bench_verdict, finding_line, primitive_line
from kernelprof.reports.lines import case_header, case_line, failure_line
from kernelprof.reports.text import render
from kernelprof.runfile import RunFile


def carries_on(context: typer.Context, path: Path | None) -> bool:
    """Whether a command asks for nothing but to carry on with a file that is there."""
    given = [name for name in context.params if _was_given(context, name)]
    return path is not None and path.exists() and given == ["output"]


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def measure(options: Options | None, path: Path | None) -> None:
    """Measure into a file, and print what comes of it.

    ``options`` None carries on with what the file was started for; without a path the file is
    called after the time.
    """
    path = path or Path(f"kernelprof-{datetime.now():%Y%m%d-%H%M%S}.kprof")
    command = shlex.join(["kernelprof", *sys.argv[1:]])
    with sole_measurement():
        file, options = runner.open_run(path, options, command)
        counts = sorted({len(cpus) for cpus in options.placements})
        if options.primitives or _are_known(counts):
            _record_ceilings(file, counts)
        _measure_until_stopped(file, options)
        _record_ceilings(file, counts)  # last: the first result of a network must not wait for it
    _conclude(file)


def _are_known(counts: list[int]) -> bool:
    return set(counts) <= set(load(this_machine().fingerprint).placements)


def _record_ceilings(file: RunFile, counts: list[int]) -> None:
    """What the machine cannot exceed with so many threads, measured unless it is known."""
    if file.meta("ceilings") is None:
        from kernelprof.saturation import ceilings  # loads a compiler: slow, and mostly not needed

        with progress() as step:
            file.record("ceilings", ceilings(this_machine(), counts, tell=step).to_json())


def _measure_until_stopped(file: RunFile, options: Options) -> None:
    try:
        with progress() as step:
            runner.measure(file, options, Report(step, _printer(file)))
    except KeyboardInterrupt:
        err.print(
            f"\nStopped. What was measured is in {file.path}; "
            f"`kernelprof run -o {file.path}` goes on.",
            soft_wrap=True,
        )
        raise SystemExit(130) from None


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, moved by what is done and its share of the whole."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        auto_refresh=False,  # a clock that ticks would take time from what is measured
        disable=not err.is_terminal,
    ) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share, refresh=True)


def _printer(file: RunFile) -> Callable[[Group], None]:
    """Prints what came of a group, below headings that are said once."""
    said: set[str] = set()

    def group_done(group: Group) -> None:
        if group.calibration:
            return
        for heading in _headings(group):
            if heading.plain not in said:
                out.print(heading, soft_wrap=True)
                said.add(heading.plain)
        for line in _lines(file, group):
            out.print(line, soft_wrap=True)

    return group_done


def _headings(group: Group) -> list[Text]:
    if group.alone:
        return [bench_header(), primitive_line(group.network.name)]
    return [case_header()]


def _lines(file: RunFile, group: Group) -> Iterator[Text]:
    name = group.network.name
    for case in case_results(file, name):
        if case.cpus == group.cpus:
            yield case_line(case)
    for primitive in primitive_results(file, name):
        if primitive.cpus == group.cpus:
            yield finding_line(primitive)
    for failure in failures(file):
        if failure.network == name and failure.threads == len(group.cpus):
            yield finding_line(failure) if group.alone else failure_line(failure)


def _conclude(file: RunFile) -> None:
    """The summary, and where the run's own time went; exit status 1 where nothing was measured."""
    found = results(file)
    is_bench = bool(file.meta("options").get("primitives"))
    out.print()
    if is_bench:
        out.print(bench_verdict(found))
    else:
        render(found, out)
    spent = file.spent()
    total = spent.get("total", 0) or 1
    timed = spent.get("samples", 0) + spent.get("warm-up", 0)
    out.print(
        f"{total * 1e-9:.0f} s in all, {timed / total:.0%} of it in samples "
        f"({spent.get('samples', 0) * 1e-9:.0f} s) and warm-up.",
        soft_wrap=True,
    )
    report = f"kernelprof report {file.path}"
    out.print(
        f"The run is in {file.path}; `{report}` shows it again."
        if is_bench
        else f"The run is in {file.path}.  Layers: `{report}`;  "
        f"a page: `{report} --format html -o report.html`",
        soft_wrap=True,
    )
    if not found.cases and not found.primitives:
        raise SystemExit(1)
