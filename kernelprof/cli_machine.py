"""The command line's ``machine``: how is it built, and what can it not exceed?"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from kernelprof import cli_measure, runner
from kernelprof.ceilings import Ceilings, PlacementCeilings
from kernelprof.console import out
from kernelprof.errors import UsageError
from kernelprof.gpu import ceilings as gpu_ceilings
from kernelprof.gpu.devices import GpuDevice, asked_number, gpus, required
from kernelprof.machine import Machine, this_machine, usable_cpus
from kernelprof.measure import sole_measurement
from kernelprof.probes.device import CPU
from kernelprof.reports.machine import machine_json, machine_tables


def machine(
    device: Annotated[
        str, typer.Option(help="cpu, or the GPU whose ceilings to measure: cuda:0.")
    ] = CPU,
    threads: Annotated[str | None, typer.Option(help="1,2; default: one, and all CPUs.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what is known anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Show how this machine is built, and measure what it cannot exceed.

    What was measured is kept, by machine and thread count, or by GPU.

    Example: kernelprof machine --threads 1,2
    """
    if asked_number(device) is not None and threads:
        raise UsageError(f"--threads {threads}: of the CPU's ceilings; leave out --device {device}")
    counts = runner.numbers(threads, "--threads") if threads else sorted({1, len(usable_cpus())})
    found, cards = this_machine(), gpus()
    measured = (
        _of_cpus(found, counts, again) if device == CPU else _of_gpu(found, required(device), again)
    )
    devices = {**_kept(found, cards), **measured.devices}
    known = Ceilings(found.fingerprint, measured.placements, devices)
    if as_json:
        text = json.dumps(machine_json(found, known, cards), indent=2, allow_nan=False)
        sys.stdout.write(text + "\n")
    else:
        out.print(machine_tables(found, known, cards))


def _kept(found: Machine, cards: list[GpuDevice]) -> dict[str, PlacementCeilings]:
    """What was measured of the cards before."""
    kept = [(card.device, gpu_ceilings.kept(found, card).devices) for card in cards]
    return {device: known[device] for device, known in kept if device in known}


def _of_cpus(found: Machine, counts: list[int], again: bool) -> Ceilings:
    from kernelprof.saturation import ceilings  # loads a compiler: slow, and rarely needed

    with sole_measurement(), cli_measure.progress() as step:
        return ceilings(found, counts, again, step)


def _of_gpu(found: Machine, card: GpuDevice, again: bool) -> Ceilings:
    with sole_measurement(), cli_measure.progress() as step:
        return gpu_ceilings.ceilings(found, card, step, again)
