"""Plant causes of slowness in healthy cases, and see whether a diagnosis names them.

The truth of a plant is the time of the whole network with it and without it, in turns.  Then a run
is measured with the plant, and diagnosed as any other; what planted it is not told.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from kernelprof import runner
from kernelprof.analysis import case_results, failures
from kernelprof.cli_measure import progress
from kernelprof.console import err, out
from kernelprof.diagnosis.diagnose import Diagnosing
from kernelprof.diagnosis.evidence import LEAST_SHARE
from kernelprof.diagnosis.examination import diagnosed
from kernelprof.diagnosis.rules_around_kernels import SLOW_UPDATE
from kernelprof.diagnosis.rules_of_kernels import BEHIND_REFERENCE
from kernelprof.diagnosis.trial import try_change
from kernelprof.engines import Environment, environment
from kernelprof.errors import KernelprofError
from kernelprof.machine import placements, this_machine
from kernelprof.measure import Report, sole_measurement
from kernelprof.plan import Case
from kernelprof.probes import boot
from kernelprof.results import CaseResult
from kernelprof.runfile import RunFile
from kernelprof.saturation import ceilings
from kernelprof.studies.command import run
from kernelprof.studies.planted_cases import DISPATCH, PLANTS, Plant, definition
from kernelprof.studies.publish import publish, table
from kernelprof.units import counted, duration, percent, share

TITLE = "Planted causes, and whether a diagnosis names them"
BUDGET = "12s"
TRUTH_S = 10.0
NEAR = 0.25  # how far the seconds of a finding may be from the truth
FALSE_SHARE = 0.05  # of the time: what a finding in a healthy case may weigh at most
COMPARED = (BEHIND_REFERENCE, SLOW_UPDATE)
ADAPTER = Path(boot.__file__).parent / "planted.py"
AGAINST_BATCHES = (64, 128)  # between which a sample's own time is told from a call's

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a diagnosis made of a plant.  ``found`` has cause, seconds and seconds at most."""

    plant: str
    engine: str
    case: str
    planted: str
    cause: str
    truth_s: float | None
    measured_s: float
    found: tuple[tuple[str, float | None, float], ...]

    @property
    def first(self) -> str:
        """The cause that is named first."""
        return self.found[0][0] if self.found else "nothing"

    @property
    def has_effect(self) -> bool:
        """Whether the plant makes the case slower at all on this machine."""
        return bool(self.cause) and (self.truth_s or 0.0) > LEAST_SHARE * self.measured_s

    @property
    def false_share(self) -> float:
        """The share of the time that the heaviest cause weighs which is none.

        That kernels take longer than the reference's, or updates longer than the memory, is no
        cause that could be false: both were measured.
        """
        none = [s or 0.0 for c, s, _ in self.found if c not in (self.cause, *COMPARED)]
        return max(none, default=0.0) / self.measured_s

    @property
    def is_right(self) -> bool:
        """Whether the planted cause is named first; where there is none, none that weighs much."""
        return self.first == self.cause if self.has_effect else self.false_share <= FALSE_SHARE

    @property
    def error(self) -> float | None:
        """How far the seconds of the planted cause are from the truth, relatively."""
        own = next((seconds for cause, seconds, _ in self.found if cause == self.cause), None)
        return own / self.truth_s - 1 if own is not None and self.truth_s else None

    @property
    def is_near(self) -> bool:
        """Whether they are near to it."""
        return self.error is not None and abs(self.error) <= NEAR


def examine(plant: Plant, tell: Tell) -> Outcome:
    """Take the truth of a plant, measure a run with it, and diagnose that.

    Raises:
        KernelprofError: it could not be measured.
    """
    truth_s = _truth_s(plant, tell) if plant.cause else None
    with tempfile.TemporaryDirectory() as folder:
        file = _measured_run(plant, Path(folder) / "planted.kprof", tell)
        cases = list(case_results(file))
        case = next((one for one in cases if one.batch == plant.batch), None)
        if case is None:
            reasons = [failure.reason for failure in failures(file)] or ["it has no samples"]
            raise KernelprofError(f"{plant.name}: {reasons[0]}")
        if plant.cause == DISPATCH:
            truth_s = _calling_s(cases)
        tell(f"{plant.name}: diagnosing")
        own = {plant.engine: _environment(plant)}
        Diagnosing(file, own=own).diagnose([case], cases)
        (found,) = (c for c in diagnosed(file, cases) if c.batch == plant.batch)
        file.close()
    assert found.diagnosis is not None
    return Outcome(
        plant=plant.name,
        engine=plant.engine,
        case=f"{plant.network} {plant.mode}, batch {plant.batch}, {counted(plant.threads, 'CPU')}",
        planted=" ".join(f"{name}={value}" for name, value in plant.variables.items()),
        cause=plant.cause,
        truth_s=truth_s,
        measured_s=found.measured.value_s,
        found=tuple((f.cause, f.seconds, f.at_most_s) for f in found.diagnosis.findings),
    )


def _truth_s(plant: Plant, tell: Tell) -> float | None:
    """What the whole network takes less without the plant; None where nothing can be unset."""
    if not plant.healthy:
        return None
    tell(f"{plant.name}: with it and without it")
    (cpus,) = placements([plant.threads], None)
    case = Case(plant.network, plant.engine, cpus, plant.batch, plant.mode)
    changes = plant.variables, plant.healthy
    trial = try_change(_environment(plant), *changes, case, definition(plant.network), TRUTH_S)
    return trial.actual.value_s if trial.actual else None


def _calling_s(cases: list[CaseResult]) -> float:
    """What a call costs whatever its batch: the smallest one's time less that of its samples."""
    small, less, more = sorted(cases, key=lambda case: case.batch)
    sample_s = (more.measured.value_s - less.measured.value_s) / (more.batch - less.batch)
    return small.measured.value_s - small.batch * sample_s


def _measured_run(plant: Plant, path: Path, tell: Tell) -> RunFile:
    batches = (plant.batch, *AGAINST_BATCHES) if plant.cause == DISPATCH else (plant.batch,)
    chosen = runner.choose(
        engines=plant.engine,
        threads=str(plant.threads),
        modes=plant.mode,
        batches=",".join(map(str, batches)),
        budget=BUDGET,
        quick=True,
        variables=[f"{plant.engine}:{name}={value}" for name, value in plant.variables.items()],
    )
    options = replace(chosen, networks=(definition(plant.network),))
    file, options = runner.open_run(path, options, "python -m kernelprof.studies.planted")
    report = Report(lambda what, _: tell(f"{plant.name}: {what}"))
    runner.measure(file, options, report, {plant.engine: _environment(plant)})
    file.record("ceilings", ceilings(this_machine(), [plant.threads]).to_json())
    return file


def _environment(plant: Plant) -> Environment:
    """The engine's; a plant in its networks needs the adapter that plants."""
    found = environment(plant.engine)
    if found is None:
        raise KernelprofError(f"{plant.engine} is not installed")
    if not plant.in_adapter:
        return found
    planted_in = {"PLANTED_ENGINE": found.adapter, **found.variables}
    return replace(found, adapter=str(ADAPTER), variables=planted_in)


def main(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Where to publish.")],
    only: Annotated[str | None, typer.Option(help="Plants whose names hold this.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Those too that are known.")] = False,
) -> None:
    """Plant, measure, diagnose; what is known of a plant already is kept."""
    known = {} if again else _known(folder)
    for plant in PLANTS:
        if plant.name in known or (only is not None and only not in plant.name):
            continue
        try:
            with sole_measurement(), progress() as step:
                known[plant.name] = examine(plant, lambda what: step(what, 0.0))
        except KernelprofError as error:
            err.print(f"{plant.name}: {error}", markup=False, soft_wrap=True)
            continue
        out.print(_line(known[plant.name]), markup=False, soft_wrap=True)
        _publish(folder, known)
    _publish(folder, known)


def _publish(folder: Path, known: Mapping[str, Outcome]) -> None:
    """Write what is known so far, for a study that is stopped to go on with."""
    outcomes = [known[plant.name] for plant in PLANTS if plant.name in known]
    data = {"outcomes": [asdict(outcome) for outcome in outcomes]}
    publish(folder, "kernelprof.studies.planted", TITLE, _body(outcomes), data)


def _known(folder: Path) -> dict[str, Outcome]:
    try:
        stored = json.loads((folder / "data.json").read_text())["outcomes"]
    except OSError:
        return {}
    return {
        one["plant"]: Outcome(**{**one, "found": tuple(map(tuple, one["found"]))}) for one in stored
    }


def _line(outcome: Outcome) -> str:
    found = "; ".join(
        f"{cause} {duration(most if seconds is None else seconds)}"
        for cause, seconds, most in outcome.found
    )
    truth = "" if outcome.truth_s is None else f" (truth {duration(outcome.truth_s)})"
    return (
        f"{'right' if outcome.is_right else 'WRONG'}: {outcome.plant}{truth}: {found or 'nothing'}"
    )


def _body(outcomes: list[Outcome]) -> str:
    planted = [outcome for outcome in outcomes if outcome.has_effect]
    healthy = [outcome for outcome in outcomes if not outcome.has_effect]
    right = sum(outcome.is_right for outcome in planted)
    near = sum(outcome.is_near for outcome in planted)
    engines = len({outcome.engine for outcome in planted})
    return f"""
{counted(len(planted), "plant")} in {counted(engines, "engine")}: the planted cause is named first \
in {right} of them (goal: 95 %), its time is within {share(NEAR)} of the truth in {near}.  \
In {sum(outcome.is_right for outcome in healthy)} of {counted(len(healthy), "case")} without an \
effective plant no false cause weighs more than {share(FALSE_SHARE)} of the time; that kernels \
take longer than NumPy's, or updates longer than the memory, is listed there, and is no cause that \
could be false: both were measured.

The truth is what the whole network takes less without the plant, measured in turns with it; of \
tiny layers, what the time over larger batches says that a call costs.  It is not told to the \
diagnosis, which reads a run as any other.  What is known of a plant is kept from one run of the \
command to the next, and rules were mended while these plants were tried: they are a test-suite, \
and no sample of the causes that there are.

## Plants

{table(PLANT_HEADER, [_plant_row(outcome) for outcome in planted])}
## Cases without a plant, or with one that costs nothing on this machine

{table(HEALTHY_HEADER, [_healthy_row(outcome) for outcome in healthy])}"""


PLANT_HEADER = ("plant", "engine, case", "named first", "time", "truth", "found", "off by")
HEALTHY_HEADER = ("plant", "engine", "case", "time", "found")


def _plant_row(outcome: Outcome) -> tuple[str, ...]:
    found = next((s for cause, s, _ in outcome.found if cause == outcome.cause), None)
    return (
        f"{outcome.plant} (`{outcome.planted}`)" if outcome.planted else outcome.plant,
        f"{outcome.engine}, {outcome.case}",
        outcome.first if outcome.is_right else f"**{outcome.first}**, not {outcome.cause}",
        duration(outcome.measured_s),
        "none" if outcome.truth_s is None else duration(outcome.truth_s),
        "none" if found is None else duration(found),
        "none" if outcome.error is None else percent(outcome.error),
    )


def _healthy_row(outcome: Outcome) -> tuple[str, ...]:
    found = [
        f"{cause} {'up to ' if s is None else ''}{duration(most if s is None else s)}"
        for cause, s, most in outcome.found
    ]
    time_s = duration(outcome.measured_s)
    return outcome.plant, outcome.engine, outcome.case, time_s, "; ".join(found) or "nothing"


if __name__ == "__main__":
    run(main)
