"""Measure networks that nothing was tuned on: for ``kernelprof.studies.accuracy`` to judge.

They are ResNet-50, ResNet-56, the grouped AlexNet, and five that are drawn at random.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from kernelprof import runner
from kernelprof.cli_measure import measure
from kernelprof.probes.networks import NETWORKS
from kernelprof.studies.command import run
from kernelprof.studies.random_networks import random_networks

KNOWN = ("resnet-50", "resnet-56", "alexnet-bvlc")


def main(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A new run file, or one to go on.")],
    engine: Annotated[str | None, typer.Option(help="torch,caffe; default: all installed.")] = None,
    threads: Annotated[str | None, typer.Option(help="1,2; default: one, and all CPUs.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time to spend measuring: 5m, 1h.")] = None,
    seed: Annotated[int, typer.Option(help="Of the networks that are drawn.")] = 1,
) -> None:
    """Run them, at their quick batches."""
    chosen = runner.choose(engines=engine, threads=threads, budget=budget, quick=True)
    networks = [*(NETWORKS[name]() for name in KNOWN), *random_networks(seed)]
    options = replace(chosen, networks=tuple(networks))
    measure(options, path, force=False, program="python -m kernelprof.studies.held_out")


if __name__ == "__main__":
    run(main)
