"""The command line's ``doctor``: is this machine fit to measure, and which engines work?"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from typing import Annotated

import typer

from kernelprof import cli_engines, cli_measure, runner
from kernelprof.console import err, out
from kernelprof.doctor import examine, other_runs
from kernelprof.engines import Environment, environment
from kernelprof.errors import UsageError
from kernelprof.fitness import BLOCK, Fitness, Started
from kernelprof.machine import this_machine
from kernelprof.measure import sole_measurement
from kernelprof.probes.device import CPU
from kernelprof.reports.doctor import doctor_json, doctor_verdict, fitness_table, starts_table
from kernelprof.worker_checks import nodes_of, start, worker_checks


def doctor(
    engine: Annotated[str | None, typer.Option(help="torch,numpy; default: all installed.")] = None,
    threads: Annotated[str | None, typer.Option(help="1,2; default: one, and all CPUs.")] = None,
    cpus: Annotated[str | None, typer.Option(help="CPU ids to pin to, in this order.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or a GPU: cuda:0.")] = CPU,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Is this machine fit to measure?  Which engines work?

    Each check passes, warns of what disturbs, or blocks: a run would be
    worth nothing.  Exit status 1 where one blocks, or an engine fails.

    Example: kernelprof doctor --engine torch,numpy --threads 1,2
    """
    options = runner.choose(engines=engine, threads=threads, cpus=cpus, device=device)
    environments = {name: _installed(name) for name in options.engines}
    others = other_runs()
    machine = Fitness((others, *examine(options)))
    if not as_json:
        out.print(fitness_table(machine.checks))
    # Where another one measures, engines that start would cost it time.
    is_free = others.outcome != BLOCK
    with sole_measurement() if is_free else nullcontext():
        started = list(_start(environments, options.placements, device)) if is_free else []
    nodes = nodes_of(this_machine().to_json())
    workers = Fitness(tuple(worker_checks(started, nodes)))
    fitness = Fitness((*machine.checks, *workers.checks))
    if as_json:
        sys.stdout.write(json.dumps(doctor_json(fitness, started), indent=2) + "\n")
    else:
        _print(workers, started)
        out.print(doctor_verdict(fitness, started))
        if engine is None:
            cli_engines.tell_missing()
    if fitness.blocks or any(one.failure for one in started):
        raise SystemExit(1)


def _installed(name: str) -> Environment:
    found = environment(name)
    if found is None:
        raise UsageError(f"not installed: {name}; run `kernelprof engines install {name}`")
    return found


def _start(
    environments: Mapping[str, Environment], placements: Collection[tuple[int, ...]], device: str
) -> Iterator[Started]:
    """Start each engine at each placement, one after another."""
    wanted = [(found, placed) for found in environments.values() for placed in placements]
    with cli_measure.progress() as step:
        for done, (found, placed) in enumerate(wanted):
            step(f"starting {found.engine}", done / len(wanted))
            yield start(found, placed, device)


def _print(workers: Fitness, started: list[Started]) -> None:
    if started:
        out.print()
        out.print(starts_table(started))
    else:
        err.print("The engines were not started: another kernelprof is measuring.")
    if workers.checks:
        out.print()
        out.print(fitness_table(workers.checks))
    out.print()
