"""What the commands that measure share: progress, results as they come, and what is said last."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from kernelprof import runner
from kernelprof.analysis import case_results, failures, results
from kernelprof.bench_results import primitive_results
from kernelprof.ceilings import Ceilings, load
from kernelprof.console import err, out
from kernelprof.doctor import examine, other_runs
from kernelprof.errors import KernelprofError
from kernelprof.fitness import BLOCK, Fitness
from kernelprof.gpu import ceilings as gpu_ceilings
from kernelprof.gpu.devices import required
from kernelprof.machine import this_machine
from kernelprof.measure import Report, sole_measurement
from kernelprof.measured import REFUSED
from kernelprof.plan import Group, Options
from kernelprof.probes.device import CPU
from kernelprof.reports.bench import bench_header, bench_verdict, finding_line, primitive_line
from kernelprof.reports.doctor import check_line, fitness_sentences
from kernelprof.reports.lines import case_header, case_line, failure_line
from kernelprof.reports.text import render
from kernelprof.runfile import RunFile
from kernelprof.units import duration
from kernelprof.worker_checks import worker_fitness

NOT_FIT = "nothing was measured; do as said above, or say --force to go on and mark the run"

JUDGE_ONLY = object()  # of a command's context: refuse what makes no sense, and measure nothing


def carries_on(context: typer.Context, path: Path | None) -> bool:
    """Whether a command asks for nothing but to carry on with a file that is there."""
    given = {name for name in context.params if _was_given(context, name)}
    return path is not None and path.exists() and given <= {"output", "force"}


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def measure(
    options: Options | None, path: Path | None, force: bool, program: str = "kernelprof"
) -> None:
    """Measure into a file, and print what comes of it.

    ``options`` None carries on with what the file was started for; without a path the file is
    called after the time.  ``force`` measures although the machine is not fit for it.  ``program``
    is what was called, with the arguments of this process.
    """
    path = path or Path(f"kernelprof-{datetime.now():%Y%m%d-%H%M%S}.kprof")
    command = shlex.join([*program.split(), *sys.argv[1:]])
    others = other_runs()
    goes_on = force and others.outcome == BLOCK
    with nullcontext() if goes_on else sole_measurement():
        is_new = not path.exists()
        file, options = runner.open_run(path, options, command)
        try:
            fitness = Fitness((others, *examine(options)))
            _tell(fitness)
            if fitness.blocks and not force:
                _refuse(file, is_new)
            _record_fitness(fitness, file)
            _measure_all(file, options)
        except KeyboardInterrupt:
            err.print(
                f"\nStopped. What was measured is in {path}; `kernelprof run -o {path}` goes on.",
                soft_wrap=True,
            )
            raise SystemExit(130) from None
    _conclude(file)


def _refuse(file: RunFile, is_new: bool) -> NoReturn:
    """Measure nothing; a file without anything in it is not left behind."""
    file.close()
    if is_new:
        file.path.unlink()
    raise KernelprofError(NOT_FIT)


def _record_fitness(fitness: Fitness, file: RunFile) -> None:
    """Record what was checked, beside what was when the run was started."""
    fitness = replace(fitness, forced=bool(fitness.blocks))
    earlier = file.meta("fitness")
    if earlier is not None:
        fitness = fitness.with_earlier(Fitness.from_json(earlier))
    file.record("fitness", fitness.to_json())


def _tell(fitness: Fitness) -> None:
    for check in [*fitness.warnings, *fitness.blocks]:
        err.print(check_line(check), soft_wrap=True)


def _measure_all(file: RunFile, options: Options) -> None:
    if options.primitives or _are_known(options):
        _record_ceilings(file, options)
    with progress() as step:
        runner.measure(file, options, Report(step, _printer(file)))
    _record_ceilings(file, options)  # last: the first result of a network must not wait for it
    if any(failure.kind in REFUSED for failure in failures(file)):
        err.print("something was faster than this machine's ceilings: they are measured once more")
        file.record("ceilings", _raised(options).to_json())


def is_of_bench(file: RunFile) -> bool:
    """Whether a file holds primitives by themselves, and no networks."""
    return bool(file.meta("options").get("primitives"))


def _counts(options: Options) -> list[int]:
    return sorted({len(cpus) for cpus in options.placements})


def _kept(options: Options) -> Ceilings:
    """What was measured before: of the machine, or of the GPU that is asked for."""
    if options.device == CPU:
        return load(this_machine().fingerprint)
    return gpu_ceilings.kept(this_machine(), required(options.device))


def _are_known(options: Options) -> bool:
    known = _kept(options)
    return all(known.of(options.device, threads) is not None for threads in _counts(options))


def machine_ceilings(options: Options, force: bool) -> Ceilings:
    """What the machine cannot exceed, for a choice before anything else is measured.

    Raises:
        KernelprofError: they are not known, and the machine is not fit to measure them.
    """
    if _are_known(options):
        return _kept(options)
    fitness = Fitness(tuple(examine(options)))
    if fitness.blocks and not force:
        _tell(fitness)
        raise KernelprofError(NOT_FIT)
    err.print("measuring what this machine cannot exceed: once, and beside the budget")
    with sole_measurement():
        return _ceilings(options)


def _ceilings(options: Options) -> Ceilings:
    """What the machine or its GPU cannot exceed, measured unless it is known."""
    with progress() as step:
        if options.device != CPU:
            return gpu_ceilings.ceilings(this_machine(), required(options.device), step)
        from kernelprof.saturation import ceilings  # loads a compiler: slow, and mostly not needed

        return ceilings(this_machine(), _counts(options), tell=step)


def _record_ceilings(file: RunFile, options: Options) -> None:
    """Of a GPU there may be none: the engines that measure them may not be installed."""
    if file.meta("ceilings") is not None:
        return
    try:
        file.record("ceilings", _ceilings(options).to_json())
    except KernelprofError as error:
        if options.device == CPU:
            raise
        err.print(f"{error}", markup=False, soft_wrap=True)


def _raised(options: Options) -> Ceilings:
    """Noise may have kept the ceilings low; what is still above them then is refused."""
    with progress() as step:
        if options.device != CPU:
            card = required(options.device)
            return gpu_ceilings.raise_ceilings(this_machine(), card, step)
        from kernelprof.saturation import raise_ceilings  # loads a compiler: slow, rarely needed

        return raise_ceilings(this_machine(), _counts(options), step)


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
        if (case.cpus, case.batch) == (group.cpus, group.batch):
            yield case_line(case)
    for primitive in primitive_results(file, name):
        if primitive.cpus == group.cpus:
            yield finding_line(primitive)
    for failure in failures(file, name):
        if (failure.threads, failure.batch) == (len(group.cpus), group.batch):
            yield finding_line(failure) if group.alone else failure_line(failure)


def _conclude(file: RunFile) -> None:
    """The summary, and where the run's own time went; exit status 1 where nothing was measured."""
    found = results(file)
    is_bench = is_of_bench(file)
    _tell(worker_fitness(file))
    if file.meta("watch_failure"):
        err.print(f"the GPU was not watched to the end: {file.meta('watch_failure')}", markup=False)
    out.print()
    if is_bench:
        for sentence in [bench_verdict(found), *fitness_sentences(found)]:
            out.print(sentence)
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
    _tell_excess(file.meta("options"), total * 1e-9)
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


def _tell_excess(options: Mapping[str, Any], total_s: float) -> None:
    budget_s = options["budget_s"]
    if options.get("keeps_budget") and total_s > budget_s:
        err.print(
            f"That is {duration(total_s - budget_s)} more than the budget of {duration(budget_s)}: "
            "what was begun last took longer than what came before it foretold.",
            soft_wrap=True,
        )
