"""The command line's ``predict``: networks at batches and thread counts that were not measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kernelprof import network_sources, runner
from kernelprof.console import err, out
from kernelprof.errors import UsageError
from kernelprof.machine import this_machine
from kernelprof.probes.network import INFER, MODES, TRAIN, Network
from kernelprof.reports.forecast import forecast_sentences, forecast_table, forecasts_json
from kernelprof.runfile import RunFile
from kernelprof.unmeasured import Source, forecast


def predict(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="One of the run, a known name, or a file.")
    ],
    source: Annotated[Path, typer.Option("--from", metavar="RUN", help="A run file.")],
    batch: Annotated[str | None, typer.Option(help="Samples, 256,512; default: its own.")] = None,
    threads: Annotated[str | None, typer.Option(help="1,2; default: those of the run.")] = None,
    engine: Annotated[str | None, typer.Option(help="torch,caffe; default: those run.")] = None,
    mode: Annotated[str, typer.Option(help="infer, train or both.")] = f"{INFER},{TRAIN}",
    other_machine: Annotated[
        bool, typer.Option("--other-machine", help="The run is of another machine than this one.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Predict what was not measured: a network at other batches and thread counts.

    From the kernels of a run, by interpolation on the roofline.  The interval grows with the
    distance from what was measured.  Nothing is measured.

    Example: kernelprof predict alexnet-s --from a.kprof --batch 512 --threads 8
    """
    run = RunFile.open(source)
    _require_this_machine(run, other_machine)
    found = Source.of(run)
    definition = _network(run, network)
    names = engine.split(",") if engine else list(found.whole_engines)
    for name in names:
        if name not in found.engines:
            held = ", ".join(found.engines) or "none"
            raise UsageError(
                f"{source} holds no measured network of engine {name!r}; it holds {held}"
            )
    modes = _modes(mode)
    if mode == f"{INFER},{TRAIN}":  # the default is what there is
        modes = [one for one in modes if any(held == one for _, held in found.measured)]
    counts = runner.numbers(threads, "--threads") if threads else None
    batches = runner.numbers(batch, "--batch") if batch else [definition.batch]
    _require_sizes(run, batches, counts)
    forecasts = [
        forecast(found, definition, name, count, size, one)
        for one in modes
        for size in batches
        for name in names
        for count in counts or found.known(name, one).thread_counts
    ]
    if as_json:
        text = json.dumps(forecasts_json(run.meta("machine"), forecasts), indent=2, allow_nan=False)
        sys.stdout.write(text + "\n")
        return
    out.print(forecast_table(forecasts, out.width))
    for sentence in forecast_sentences(forecasts):
        out.print(sentence)


def _require_this_machine(run: RunFile, other_machine: bool) -> None:
    """Times of one machine say nothing of another, unless the user knows it."""
    here, there = this_machine(), run.meta("machine")
    if there.get("fingerprint") == here.fingerprint:
        return
    machines = (
        f"{run.path} was taken on another machine ({there.get('processor', 'unknown')}, "
        f"{there.get('fingerprint', 'no fingerprint')}); this one is {here.processor}, "
        f"{here.fingerprint}"
    )
    if not other_machine:
        raise UsageError(f"{machines}; --other-machine predicts for the machine of the run")
    err.print(f"{machines}: what follows is predicted for the machine of the run", soft_wrap=True)


def _network(run: RunFile, word: str) -> Network:
    """The run's own definition of the name, or else a known network."""
    held = run.networks()
    return Network.from_json(held[word]) if word in held else network_sources.network(word)


def _modes(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words or [""]:
        if word not in MODES:
            raise UsageError(f"unknown mode {word!r}; known: {', '.join(MODES)}")
    return words


def _require_sizes(run: RunFile, batches: list[int], counts: list[int] | None) -> None:
    if 0 in batches:
        raise UsageError("--batch 0: a batch has at least 1 sample")
    most = run.meta("machine").get("cpus")
    for count in counts or ():
        if count < 1 or (most and count > most):
            raise UsageError(f"--threads {count}: the machine of {run.path} has 1 to {most} CPUs")
