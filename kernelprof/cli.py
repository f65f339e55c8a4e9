"""The command line: parses, prints, exits."""

from __future__ import annotations

import json
import shlex
import sqlite3
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kernelprof import __version__, cli_engines, runner
from kernelprof.analysis import case_results, failures, results
from kernelprof.console import err, out
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.export import EXPORTS, export
from kernelprof.measure import Report, sole_measurement
from kernelprof.plan import Group, Options
from kernelprof.probes.network import INFER, TRAIN
from kernelprof.probes.networks import NETWORKS
from kernelprof.reports import FORMATS
from kernelprof.reports.decomposition import decompose, networks_table
from kernelprof.reports.lines import case_header, case_line, failure_line
from kernelprof.reports.text import render
from kernelprof.results import Results
from kernelprof.runfile import RunFile

app = typer.Typer(
    help="Where does the time of a neural network go on this machine, engine by engine, and why?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_engines.app, name="engines")


# What typer raises for a word that it cannot make sense of; it exports only this child of it.
CommandLineError = cast(type[Exception], typer.BadParameter.__mro__[1])


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence, not in a traceback."""
    try:
        status = app(standalone_mode=False)
    except CommandLineError as error:
        _explain(error)
    except UsageError as error:
        _fail(str(error), 2)
    except sqlite3.DatabaseError as error:
        _fail(f"the run file is damaged, or cannot be written any more: {error}", 2)
    except KernelprofError as error:
        _fail(str(error), 1)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        sys.stderr.close()
        raise SystemExit(0) from None
    else:
        raise SystemExit(status if isinstance(status, int) else 0)


def _explain(error: BaseException) -> None:
    context = getattr(error, "ctx", None)
    if len(sys.argv) == 1 and context is not None:
        out.print(context.get_help())
        raise SystemExit(2)
    path = context.command_path if context is not None else "kernelprof"
    message = " ".join(str(getattr(error, "format_message", lambda: error)()).split())
    _fail(f"{message.rstrip('.')}; see `{path} --help`", 2)


def _fail(message: str, status: int) -> None:
    err.print(f"kernelprof: {message}", markup=False, soft_wrap=True)
    raise SystemExit(status)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"kernelprof {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command()
def networks(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """List the known networks: batch, parameters, flop, source.

    Example: kernelprof networks
    """
    definitions = [make() for make in NETWORKS.values()]
    if as_json:
        _print_json([definition.to_json() for definition in definitions])
    else:
        out.print(networks_table(definitions))


@app.command()
def show(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="See `kernelprof networks`.")],
    batch: Annotated[int | None, typer.Option(help="Samples; default: the CPU batch.")] = None,
    mode: Annotated[str, typer.Option(help="infer or train")] = TRAIN,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Show how a network comes apart: layer by layer its primitives, flop, bytes, parameters.

    Example: kernelprof show alexnet-s --batch 16
    """
    definition = runner.network(network)
    if mode not in (INFER, TRAIN):
        raise UsageError(f"unknown mode {mode!r}; known: {INFER}, {TRAIN}")
    if batch is not None and batch < 1:
        raise UsageError(f"--batch {batch}: a batch has at least 1 sample")
    rows = decompose(definition, batch or definition.batch, mode)
    if as_json:
        _print_json(rows.to_json())
    else:
        out.print(rows.table())


@app.command()
def run(
    context: typer.Context,
    network: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Default: all known.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The run file; an unfinished one goes on.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="torch,numpy; default: all installed.")] = None,
    threads: Annotated[str | None, typer.Option(help="1,2; default: one, and all CPUs.")] = None,
    cpus: Annotated[str | None, typer.Option(help="CPU ids to pin to, in this order.")] = None,
    batch: Annotated[int | None, typer.Option(help="Samples; default: the network's own.")] = None,
    mode: Annotated[str, typer.Option(help="infer, train or both.")] = f"{INFER},{TRAIN}",
    device: Annotated[str, typer.Option(help="Only cpu so far.")] = "cpu",
    env: Annotated[
        list[str] | None, typer.Option(help="A variable for one engine: ENGINE:NAME=VALUE.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time to spend measuring: 90s, 5m, 1h.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller batches, a few minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random data and the order of turns.")] = 1,
) -> None:
    """Measure networks and their primitives, predict, compare.

    Example: kernelprof run alexnet-s --engine torch,numpy --threads 1,2 --quick -o a.kprof
    """
    if device != "cpu":
        raise UsageError(f"unknown device {device!r}; known: cpu")
    options = runner.choose(
        network or [], engine, threads, cpus, mode, batch, budget, quick, seed, env or []
    )
    path = output or Path(f"kernelprof-{datetime.now():%Y%m%d-%H%M%S}.kprof")
    resume_as_is = path.exists() and _only_output_given(context)
    command = shlex.join(["kernelprof", *sys.argv[1:]])
    with sole_measurement():
        file, options = runner.open_run(path, None if resume_as_is else options, command)
        _measure_until_stopped(file, options)
    _conclude(file)


def _measure_until_stopped(file: RunFile, options: Options) -> None:
    try:
        _measure(file, options)
    except KeyboardInterrupt:
        err.print(
            f"\nStopped. What was measured is in {file.path}; "
            f"`kernelprof run -o {file.path}` goes on.",
            soft_wrap=True,
        )
        raise SystemExit(130) from None


def _only_output_given(context: typer.Context) -> bool:
    """Whether -o is the only parameter on the command line."""
    given = [name for name in context.params if _was_given(context, name)]
    return given == ["output"]


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _measure(file: RunFile, options: Options) -> None:
    """Measure with progress on stderr and each result on stdout as it comes."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        auto_refresh=False,  # a clock that ticks would take time from what is measured
        disable=not err.is_terminal,
    ) as progress:
        task = progress.add_task("starting", total=1.0)
        shown = False

        def step(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share, refresh=True)

        def group_done(group: Group) -> None:
            nonlocal shown
            if group.calibration:
                return
            if not shown:
                out.print(case_header(), soft_wrap=True)
                shown = True
            _print_group(file, group)

        runner.measure(file, options, Report(step, group_done))


def _print_group(file: RunFile, group: Group) -> None:
    for case in case_results(file, group.network.name):
        if case.cpus == group.cpus:
            out.print(case_line(case), soft_wrap=True)
    for failure in failures(file):
        if failure.network == group.network.name and failure.threads == len(group.cpus):
            out.print(failure_line(failure), soft_wrap=True)


def _conclude(file: RunFile) -> None:
    """The summary, and where the run's own time went; exit status 1 where nothing was measured."""
    found = results(file)
    out.print()
    render(found, out)
    spent = file.spent()
    total = spent.get("total", 0) or 1
    timed = spent.get("samples", 0) + spent.get("warm-up", 0)
    out.print(
        f"{total * 1e-9:.0f} s in all, {timed / total:.0%} of it in samples "
        f"({spent.get('samples', 0) * 1e-9:.0f} s) and warm-up.",
        soft_wrap=True,
    )
    out.print(
        f"The run is in {file.path}.  Layers: `kernelprof report {file.path}`;  "
        f"a page: `kernelprof report {file.path} --format html -o report.html`",
        soft_wrap=True,
    )
    if not found.cases:
        raise SystemExit(1)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    format_: Annotated[str, typer.Option("--format", help="text, html or json.")] = "text",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: stdout.")] = None,
    charts: Annotated[
        Path | None, typer.Option(help="A folder for every chart as SVG and PNG.")
    ] = None,
) -> None:
    """Show a run: tables, a page, or JSON for scripts.

    Example: kernelprof report a.kprof --format html -o a.html
    """
    if format_ not in FORMATS:
        raise UsageError(f"unknown format {format_!r}; known: {', '.join(FORMATS)}")
    found = results(RunFile.open(run))
    if charts is not None:
        _save_charts(found, charts)
        return
    if format_ == "text" and output is None:
        render(found, out, layers=True)
        return
    text = FORMATS[format_](found)
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
    err.print(f"wrote {output}", soft_wrap=True)


def _save_charts(found: Results, folder: Path) -> None:
    from kernelprof.reports.charts import save_charts  # slow to import, and rarely needed

    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = save_charts(found, folder)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
    err.print(f"wrote {len(written)} files to {folder}", soft_wrap=True)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write.")],
    format_: Annotated[str, typer.Option("--format", help="csv, json or parquet.")] = "csv",
) -> None:
    """Write the raw samples as one flat table.

    Example: kernelprof export a.kprof --format csv -o samples.csv
    """
    if format_ not in EXPORTS:
        raise UsageError(f"unknown format {format_!r}; known: {', '.join(EXPORTS)}")
    export(RunFile.open(run), format_, output)
    err.print(f"wrote {output}", soft_wrap=True)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
