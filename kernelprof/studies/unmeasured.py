"""What was not measured: how far are networks from what is foretold of them at another batch?

Each network runs at half, once, twice and four times its quick batch.  Then some of these batches
are left out, foretold from the others, and compared with what was measured there.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer

from kernelprof import runner
from kernelprof.analysis import case_results
from kernelprof.cli_measure import progress
from kernelprof.console import err
from kernelprof.engines import REFERENCE
from kernelprof.errors import KernelprofError
from kernelprof.machine import this_machine
from kernelprof.measure import Report, sole_measurement
from kernelprof.plan import Options
from kernelprof.probes.network import Network
from kernelprof.results import CaseResult
from kernelprof.runfile import RunFile
from kernelprof.saturation import ceilings
from kernelprof.studies.command import run
from kernelprof.studies.publish import publish, table
from kernelprof.units import count, duration, magnitude, percent
from kernelprof.unmeasured import Source, forecast

FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the quick batch
# What is foretold, as factors: at which, and from which.
SCENARIOS: Mapping[str, tuple[float, tuple[float, ...]]] = {
    "twice as far, from two": (4.0, (1.0, 2.0)),
    "twice as far, from three": (4.0, (0.5, 1.0, 2.0)),
    "half as far, from two": (0.5, (1.0, 2.0)),
    "between two": (2.0, (1.0, 4.0)),
    "twice as far, from one": (2.0, (1.0,)),
}


CASE_HEADER = ("what", "case", "foretold", "90 % interval", "measured", "error", "model's own")


@dataclass(frozen=True)
class Trial:
    """A case as it was foretold from other batches, and as it was measured.

    ``kernels_s`` is what its own kernels foretell: the rest of the error is theirs.
    """

    scenario: str
    network: str
    engine: str
    threads: int
    batch: int
    mode: str
    foretold_s: float
    low_s: float
    high_s: float
    measured_s: float
    kernels_s: float | None

    @property
    def error(self) -> float:
        """Foretold / measured - 1."""
        return self.foretold_s / self.measured_s - 1

    @property
    def model_error(self) -> float | None:
        """Foretold / what the case's own kernels foretell - 1: what being unmeasured costs."""
        return self.foretold_s / self.kernels_s - 1 if self.kernels_s else None

    @property
    def inside(self) -> bool:
        """Whether the measured time is within the interval."""
        return self.low_s <= self.measured_s <= self.high_s


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
    network: Annotated[str | None, typer.Option(help="fcn-r,lstm; default: the five.")] = None,
    engine: Annotated[str | None, typer.Option(help="torch,caffe; default: all installed.")] = None,
    threads: Annotated[str | None, typer.Option(help="1,2; default: one, and all CPUs.")] = None,
    mode: Annotated[str, typer.Option(help="infer, train or both.")] = "infer,train",
    budget: Annotated[str | None, typer.Option(help="For each network: 5m.")] = None,
    seed: Annotated[int, typer.Option(help="Of the data and the order of turns.")] = 1,
) -> None:
    """Measure four batches of each network, and foretell each from the others."""
    options = runner.choose(
        network.split(",") if network else [],
        engines=engine,
        threads=threads,
        modes=mode,
        budget=budget,
        quick=True,
        seed=seed,
    )
    output.mkdir(parents=True, exist_ok=True)
    runs = {}
    for definition in options.networks:
        runs[definition.name] = _measured(output / f"{definition.name}.kprof", definition, options)
    trials = [
        trial for name, file in runs.items() for trial in _trials(file, _batches(file, name), name)
    ]
    if not trials:
        raise KernelprofError("nothing could be foretold: too few batches were measured")
    trials.sort(key=lambda trial: -abs(trial.error))
    data = {"factors": FACTORS, "scenarios": SCENARIOS, "trials": [asdict(one) for one in trials]}
    title = "Foretold from other batches"
    publish(output, "kernelprof.studies.unmeasured", title, _body(trials), data)
    err.print(f"wrote {output}", soft_wrap=True)


def _measured(path: Path, definition: Network, asked: Options) -> RunFile:
    """The run of a network at all batches; one that was stopped goes on."""
    batches = {max(round(factor * definition.quick_batch), 1): None for factor in FACTORS}
    options = replace(asked, networks=(definition,), batches=tuple(batches))
    with sole_measurement():
        file, options = runner.open_run(path, options, shlex.join(sys.argv))
        with progress() as step:
            runner.measure(file, options, Report(step))
            counts = sorted({len(cpus) for cpus in options.placements})
            file.record("ceilings", ceilings(this_machine(), counts, tell=step).to_json())
    return file


def _batches(file: RunFile, network: str) -> dict[float, int]:
    """The measured batches by their factor."""
    quick = file.networks()[network]["quick_batch"]
    found = {stored.case.batch for stored in file.cases() if stored.case.network == network}
    wanted = {factor: max(round(factor * quick), 1) for factor in FACTORS}
    return {factor: batch for factor, batch in wanted.items() if batch in found}


def _trials(file: RunFile, batches: Mapping[float, int], network: str) -> Iterator[Trial]:
    """Every scenario of every case of a network."""
    cases = [case for case in case_results(file, network) if case.engine != REFERENCE]
    definition = Network.from_json(file.networks()[network])
    for scenario, (wanted, given) in SCENARIOS.items():
        if not {wanted, *given} <= batches.keys():
            continue
        kept = {batches[factor] for factor in given}
        if batches[wanted] in kept:  # a quick batch of 1 has no half
            continue
        source = Source.of(file, _left_out(file, kept))
        for case in cases:
            if case.batch == batches[wanted] and (case.engine, case.mode) in source.measured:
                yield _trial(scenario, source, definition, case)


def _left_out(file: RunFile, kept: Iterable[int]) -> frozenset[int]:
    """The cases at other batches than these; chains of tiny layers stay."""
    batches = set(kept)
    return frozenset(
        stored.id
        for stored in file.cases()
        if not stored.calibration and stored.case.batch not in batches
    )


def _trial(scenario: str, source: Source, definition: Network, case: CaseResult) -> Trial:
    found = forecast(source, definition, case.engine, case.threads, case.batch, case.mode)
    return Trial(
        *(scenario, case.network, case.engine, case.threads, case.batch, case.mode),
        foretold_s=found.predicted.value_s,
        low_s=found.predicted.low_s,
        high_s=found.predicted.high_s,
        measured_s=case.measured.value_s,
        kernels_s=case.predicted.value_s if case.predicted else None,
    )


def _body(trials: list[Trial]) -> str:
    summary = []
    for scenario in SCENARIOS:
        own = [trial for trial in trials if trial.scenario == scenario]
        if own:
            errors = [abs(trial.error) for trial in own]
            model = [abs(one.model_error) for one in own if one.model_error is not None]
            summary.append(
                (
                    *(scenario, str(len(own))),
                    *(magnitude(median(errors)), magnitude(float(np.percentile(errors, 95)))),
                    magnitude(max(errors)),
                    magnitude(median(model)) if model else "-",
                    f"{sum(trial.inside for trial in own)} of {len(own)}",
                )
            )
    factors = ", ".join(f"{factor:g}" for factor in FACTORS)
    return f"""
Each network ran at {factors} times its quick batch.  Some of the batches were then left out and
foretold from the kernels of the others.  The error is foretold / measured - 1; the model's own is
against what the case's own kernels foretell, which is what `kernelprof run` predicts.

{table(("what", "cases", "median", "95th percentile", "worst", "model's own", "inside"), summary)}
## Every case, the worst first

{table(CASE_HEADER, map(_row, trials))}
"""


def _row(trial: Trial) -> tuple[str, ...]:
    return (
        trial.scenario,
        f"{trial.network} {trial.mode} {count(trial.batch)}, {trial.engine}, {trial.threads}",
        duration(trial.foretold_s),
        f"{duration(trial.low_s)} to {duration(trial.high_s)}",
        duration(trial.measured_s),
        percent(trial.error) if trial.inside else f"**{percent(trial.error)}**",
        "-" if trial.model_error is None else percent(trial.model_error),
    )


if __name__ == "__main__":
    run(main)
