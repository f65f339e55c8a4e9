"""The command line: parses, prints, exits."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from kernelprof import (
    __version__,
    cli_bench,
    cli_compare,
    cli_diagnose,
    cli_doctor,
    cli_engines,
    cli_machine,
    cli_measure,
    cli_nsys,
    cli_predict,
    cli_scale,
    cli_selfcheck,
    network_sources,
    runner,
)
from kernelprof.analysis import results
from kernelprof.console import err, out
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.export import EXPORTS, export
from kernelprof.probes.device import CPU
from kernelprof.probes.network import INFER, TRAIN
from kernelprof.probes.networks import NETWORKS
from kernelprof.probes.primitive import WARM
from kernelprof.reports import FORMATS
from kernelprof.reports.decomposition import decompose, networks_table
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
app.add_typer(cli_nsys.app, name="nsys")


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
    below_zero = " (a size is made of numbers from 1)" if re.search(r"option: -\d", message) else ""
    _fail(f"{message.rstrip('.')}{below_zero}; see `{path} --help`", 2)


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


app.command()(cli_doctor.doctor)


@app.command()
def networks(
    network: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NETWORK]...", help="Names, or .py or .onnx files; default: all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """List the known networks: batch, parameters, flop, source.

    Example: kernelprof networks
    """
    definitions = network_sources.networks(network or [*NETWORKS])
    if as_json:
        _print_json([definition.to_json() for definition in definitions])
    else:
        out.print(networks_table(definitions))


@app.command()
def show(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="A known name, or a .py or .onnx file.")
    ],
    batch: Annotated[int | None, typer.Option(help="Samples; default: the CPU batch.")] = None,
    mode: Annotated[str, typer.Option(help="infer or train")] = TRAIN,
    dim: Annotated[
        list[str] | None, typer.Option(help="A size that an ONNX file leaves open: NAME=VALUE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Show how a network comes apart: layer by layer its primitives, flop, bytes, parameters.

    Example: kernelprof show alexnet-s --batch 16
    """
    definition = network_sources.network(network, dim or [])
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
        list[str] | None,
        typer.Argument(
            metavar="[NETWORK]...", help="Names, or .py or .onnx files; default: the survey's five."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The run file; an unfinished one goes on.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="torch,numpy; default: all installed.")] = None,
    threads: Annotated[str | None, typer.Option(help="1,2; default: one, and all CPUs.")] = None,
    cpus: Annotated[str | None, typer.Option(help="CPU ids to pin to, in this order.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="Samples, 8,16,32; default: the network's own.")
    ] = None,
    mode: Annotated[str, typer.Option(help="infer, train or both.")] = f"{INFER},{TRAIN}",
    dim: Annotated[
        list[str] | None, typer.Option(help="A size that an ONNX file leaves open: NAME=VALUE.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or a GPU: cuda:0.")] = CPU,
    env: Annotated[
        list[str] | None, typer.Option(help="A variable for one engine: ENGINE:NAME=VALUE.")
    ] = None,
    cache: Annotated[
        str, typer.Option(help="Operands of kernels: warm, weights-cold or cold.")
    ] = WARM,
    processes: Annotated[
        int | None, typer.Option(help="Fresh ones per engine; default: 3, with --quick 1.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time to spend measuring: 90s, 5m, 1h.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller batches, a few minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random data and the order of turns.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Measure even where `doctor` blocks; the run says so.")
    ] = False,
) -> None:
    """Measure networks and their primitives, predict, compare.

    Example: kernelprof run alexnet-s --engine torch,numpy --threads 1,2 --quick -o a.kprof
    """
    options = None
    if not cli_measure.carries_on(context, output):
        options = runner.choose(
            network or [],
            engines=engine,
            threads=threads,
            cpus=cpus,
            modes=mode,
            batches=batch,
            budget=budget,
            quick=quick,
            seed=seed,
            variables=env or [],
            cache=cache,
            processes=processes,
            dims=dim or [],
            device=device,
        )
    if context.obj is cli_measure.JUDGE_ONLY:
        return
    cli_measure.measure(options, output, force)
    if engine is None:
        cli_engines.tell_missing()


app.command()(cli_bench.bench)
app.command()(cli_predict.predict)
app.command()(cli_diagnose.diagnose)
app.command()(cli_scale.scale)
app.command("compare")(cli_compare.compare_command)
app.command()(cli_selfcheck.selfcheck)


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
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
    err.print(f"wrote {output}", soft_wrap=True)


def _save_charts(found: Results, folder: Path) -> None:
    from kernelprof.reports.chart_files import save_charts  # slow to import, and rarely needed

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
    format_: Annotated[
        str, typer.Option("--format", help="csv, json, parquet or perfetto.")
    ] = "csv",
) -> None:
    """Write the raw samples as one flat table, or as a timeline for ui.perfetto.dev.

    The timeline also holds what `kernelprof nsys import` read: GPU work, other programs' ranges.
    A file that ends in .gz is compressed.

    Example: kernelprof export a.kprof --format perfetto -o timeline.json.gz
    """
    if format_ not in EXPORTS:
        raise UsageError(f"unknown format {format_!r}; known: {', '.join(EXPORTS)}")
    export(RunFile.open(run), format_, output)
    err.print(f"wrote {output}", soft_wrap=True)


app.command()(cli_machine.machine)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
