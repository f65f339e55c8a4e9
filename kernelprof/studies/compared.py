"""Runs compared: how often are equal ones called slower, and is a slower layer found?

Healthy runs are taken one after another, and between them others in which one layer of the engine
takes longer by a known share.  All of them are then compared as a user would compare them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kernelprof import runner
from kernelprof.cli_measure import progress
from kernelprof.compare.comparing import compare
from kernelprof.compare.significance import ALPHA
from kernelprof.console import err
from kernelprof.engines import REFERENCE, Environment, environment
from kernelprof.errors import UsageError
from kernelprof.machine import this_machine
from kernelprof.measure import Measurement, Report, sole_measurement
from kernelprof.plan import Options, StopRule, groups
from kernelprof.probes import boot
from kernelprof.probes.network import TRAIN
from kernelprof.runfile import RunFile
from kernelprof.saturation import ceilings
from kernelprof.studies.command import run
from kernelprof.studies.publish import publish, table
from kernelprof.units import percent, share

ENGINE, NETWORK = "torch", "fcn-r"
PROCESSES = 3
ROUNDS = 24
SLOWED_SHARE = 0.05
LAYERS = ("fc1", "fc2", "fc3")  # slowed in turn
HEALTHY_RUNS, SLOWED_RUNS = 12, 20
ADAPTER = Path(boot.__file__).parent / "slowed.py"


@dataclass(frozen=True)
class Planned:
    """A run of the study; without a layer it is healthy."""

    name: str
    layer: str = ""


def plan() -> list[Planned]:
    """Two slowed runs after a healthy one, then one, so that all are spread over the time."""
    planned: list[Planned] = []
    slowed = 0
    for number in range(1, HEALTHY_RUNS + 1):
        planned.append(Planned(f"healthy-{number:02}"))
        left_runs, left_turns = SLOWED_RUNS - slowed, HEALTHY_RUNS + 1 - number
        for _ in range(-(-left_runs // left_turns)):
            planned.append(Planned(f"slowed-{slowed + 1:02}", LAYERS[slowed % len(LAYERS)]))
            slowed += 1
    return planned


@dataclass(frozen=True)
class Verdict:
    """What a comparison said, and of which runs; of a slowed one also what it should have said."""

    before: str
    after: str
    slower: tuple[str, ...]  # layers; the whole network is an empty name
    planted: str = ""
    ratio: float | None = None  # of the planted layer
    told_from: float | None = None

    @property
    def found(self) -> bool:
        """Whether the planted layer is among them."""
        return self.planted in self.slower


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
    runs: Annotated[Path, typer.Option(help="The folder of the runs; those there are kept.")],
    spend: Annotated[
        str, typer.Option("--for", help="Time to measure in this call: 5m; the next one goes on.")
    ] = "1h",
) -> None:
    """Measure what is missing of the runs, and compare what is there."""
    runs.mkdir(parents=True, exist_ok=True)
    if any(not _path(runs, one).exists() for one in plan()):
        with sole_measurement(), progress() as step:
            _measure_missing(runs, runner.seconds(spend), Report(step))
    held = {one.name: RunFile.open(path) for one in plan() if (path := _path(runs, one)).exists()}
    healthy = [one.name for one in plan() if one.name in held and not one.layer]
    pairs = list(permutations(healthy, 2))
    if not pairs:
        raise UsageError(f"{runs} holds fewer than two healthy runs; measure some more")
    equal = [_verdict(held, *pair) for pair in pairs]
    cases = list(_slowed_cases(held))
    slowed = [_verdict(held, *case) for case in cases]
    every = [_verdict(held, name, after, layer) for name in healthy for _, after, layer in cases]
    data = {
        name: [asdict(verdict) for verdict in verdicts]
        for name, verdicts in (("equal", equal), ("slowed", slowed), ("slowed_all", every))
    }
    body = _body(equal, slowed, every, len(healthy))
    publish(output, "kernelprof.studies.compared", "Runs compared", body, data)
    for file in held.values():
        file.close()
    err.print(f"wrote {output}", soft_wrap=True)


def _path(folder: Path, planned: Planned) -> Path:
    return folder / f"{planned.name}.kprof"


def _measure_missing(folder: Path, seconds: float, report: Report) -> None:
    """Measure what is not there, one run after another, until the time is spent."""
    started = time.monotonic()
    for planned in plan():
        if _path(folder, planned).exists():
            continue
        if time.monotonic() - started > seconds:
            return
        partial = folder / "partial.kprof"
        partial.unlink(missing_ok=True)
        _measure(partial, planned, report)
        partial.rename(_path(folder, planned))


def _measure(path: Path, planned: Planned, report: Report) -> None:
    """One run, as ``kernelprof run --quick --processes`` takes it, without the chains."""
    options = _options()
    own = {ENGINE: _environment(planned.layer), REFERENCE: environment(REFERENCE)}
    file, options = runner.open_run(path, options, "python -m kernelprof.studies.compared")
    wanted = [group for group in groups(options) if not group.calibration]
    Measurement(file, options, own, report).measure(wanted)
    file.record("ceilings", ceilings(this_machine(), [1]).to_json())
    failed = file.failures()
    file.close()
    if failed:
        raise UsageError(f"{planned.name}: {next(iter(failed.values()))}")


def _options() -> Options:
    chosen = runner.choose(
        [NETWORK], engines=ENGINE, threads="1", modes=TRAIN, quick=True, processes=PROCESSES
    )
    return replace(chosen, stop=StopRule(half_width=0.0, least=ROUNDS, most=ROUNDS))


def _environment(layer: str) -> Environment:
    """The engine's, with a layer that is slower if one is named."""
    found = environment(ENGINE)
    if found is None:
        raise UsageError(f"{ENGINE} is not installed; run `kernelprof engines install {ENGINE}`")
    if not layer:
        return found
    slowed = {
        "SLOWED_ENGINE": found.adapter,
        "SLOWED_LAYER": layer,
        "SLOWED_SHARE": str(SLOWED_SHARE),
    }
    return replace(found, adapter=str(ADAPTER), variables={**found.variables, **slowed})


def _slowed_cases(held: Mapping[str, RunFile]) -> Iterator[tuple[str, str, str]]:
    """Each slowed run with the healthy one that was taken last before it."""
    healthy = ""
    for planned in plan():
        if not planned.layer and planned.name in held:
            healthy = planned.name
        elif planned.name in held:
            yield healthy, planned.name, planned.layer


def _verdict(held: Mapping[str, RunFile], before: str, after: str, planted: str = "") -> Verdict:
    found = compare(held[before], held[after])
    slower = tuple(change.layer for change in found.slower)
    if not planted:
        return Verdict(before, after, slower)
    (change,) = (one for one in found.changes if one.layer == planted)
    return Verdict(before, after, slower, planted, change.ratio.value, change.told_from)


def _body(equal: list[Verdict], slowed: list[Verdict], every: list[Verdict], healthy: int) -> str:
    alarms = [one for one in equal if one.slower]
    found = [one for one in slowed if one.found]
    others = [one for one in every if set(one.slower) - {one.planted, ""}]
    return f"""
**{len(alarms)} of {len(equal)} comparisons of equal runs told of a slow-down** that there was not \
(goal: at most 1 in 50, for which {share(ALPHA)} is the level of the test).  **A layer that takes \
{share(SLOWED_SHARE)} longer was found in {len(found)} of {len(slowed)} runs** (goal: 19 of 20).

Each run is of {ENGINE} training {NETWORK} on one CPU, {PROCESSES} processes with \
{ROUNDS // PROCESSES} rounds each, beside the reference's kernels, at the batch of `--quick`; \
chains, which only a prediction needs, are left out.  {healthy} runs are healthy, and each is \
compared with each other one, in both orders.  Between them runs were taken in which an adapter \
(`probes/slowed.py`) lets every call of a layer's kernels, forward, backward and update, loop for \
{share(SLOWED_SHARE)} of the time that it has just taken, and the whole network as long; each is \
compared with the healthy run before it.

What is typical of noise, and how parts are told to be alike, was settled while these runs were \
looked at: they show that the method can do this, and are no independent sample.  Light layers \
(activations of a tenth of a millisecond) differ by several per cent from process to process, and \
{share(SLOWED_SHARE)} of one would not be told; *told from* in a comparison says what would be.

## Slowed layers

*Took* is the median over all comparisons with healthy runs, and *told from* the least slow-down \
that would have been told, in their median.

{table(LAYER_HEADER, _layer_rows(slowed, every))}
In {len(others)} of the {len(every)} comparisons of a slowed with a healthy run another layer was \
called slower too: {_listed(others)}.

## Comparisons with slowed runs

{table(SLOWED_HEADER, map(_slowed_row, slowed))}
{_alarms(alarms)}"""


def _alarms(alarms: list[Verdict]) -> str:
    if not alarms:
        return ""
    rows = [(one.before, one.after, _named(one)) for one in alarms]
    return f"## False alarms\n\n{table(ALARM_HEADER, rows)}"


LAYER_HEADER = ("layer", "runs", "found", "of all pairs", "took", "told from")
SLOWED_HEADER = ("before", "after", "slowed layer", "change", "told from", "called slower")
ALARM_HEADER = ("before", "after", "called slower")


def _layer_rows(slowed: list[Verdict], every: list[Verdict]) -> Iterator[tuple[str, ...]]:
    for layer in LAYERS:
        own = [one for one in slowed if one.planted == layer]
        pairs = [one for one in every if one.planted == layer]
        yield (
            layer,
            str(len(own)),
            str(sum(one.found for one in own)),
            f"{sum(one.found for one in pairs)} of {len(pairs)}",
            percent(_median(one.ratio for one in pairs) - 1),
            percent(_median(one.told_from for one in pairs) - 1),
        )


def _median(values: Iterable[float | None]) -> float:
    return float(np.median([value for value in values if value is not None]))


def _slowed_row(one: Verdict) -> tuple[str, ...]:
    assert one.ratio is not None
    assert one.told_from is not None
    changes = percent(one.ratio - 1), percent(one.told_from - 1)
    return one.before, one.after, one.planted, *changes, _named(one)


def _listed(verdicts: list[Verdict]) -> str:
    """The layers that were called slower beside the planted one, and how often."""
    named = Counter(x for one in verdicts for x in one.slower if x not in (one.planted, ""))
    return ", ".join(f"{layer} in {times}" for layer, times in named.most_common()) or "none"


def _named(one: Verdict) -> str:
    return ", ".join(layer or "whole network" for layer in one.slower) or "nothing"


if __name__ == "__main__":
    run(main)
