"""Try a change: workers with and without it take turns, as in any measurement.

Kernels with and without the change foretell what it saves; whole networks show it.  The trial has a
run file of its own, and changes nothing outside its own workers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from kernelprof.disturbance import WHOLE, Rounds, quiet
from kernelprof.engines import Environment
from kernelprof.errors import KernelprofError
from kernelprof.launch import Variables
from kernelprof.measure import Measurement, Report
from kernelprof.plan import Case, Group, Options, StopRule
from kernelprof.prediction import has_kernels, kernels_ns
from kernelprof.probes.network import Network
from kernelprof.results import Saving
from kernelprof.runfile import RunFile
from kernelprof.statistics import median_interval

AS_IS, CHANGED = "as it is", "changed"
STOP = StopRule(half_width=0.01, least=6, most=150)


@dataclass(frozen=True)
class Trial:
    """What a change saves per call: foretold by its kernels, and of the whole network.

    ``as_is_s`` is what the whole network took meanwhile: memory, for one, may be dearer than it was
    in the run.
    """

    foretold: Saving
    actual: Saving | None
    as_is_s: float | None = None

    def at(self, measured_s: float) -> Trial:
        """The same shares of a call that takes so long."""
        if self.as_is_s is None:
            return self
        scale = measured_s / self.as_is_s
        actual = None if self.actual is None else self.actual.times(scale)
        return Trial(self.foretold.times(scale), actual, measured_s)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that says the same."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """The trial that ``to_json`` wrote."""
        actual = data["actual"]
        return cls(
            Saving(**data["foretold"]),
            Saving(**actual) if actual else None,
            data.get("as_is_s"),  # trials of the first versions do not tell
        )


def try_change(
    environment: Environment,
    variables: Variables,
    change: Variables,
    case: Case,
    network: Network,
    budget_s: float,
    report: Report | None = None,
) -> Trial:
    """Measure a case with the change and without it; both have the ``variables`` of the run.

    Raises:
        KernelprofError: one of the two could not be measured.
    """
    own = {**environment.variables, **variables}
    environments: dict[str, Environment | None] = {
        AS_IS: replace(environment, variables=own),
        CHANGED: replace(environment, variables={**own, **change}),
    }
    options = Options(
        networks=(network,),
        engines=(AS_IS, CHANGED),
        placements=(case.cpus,),
        modes=(case.mode,),
        batches=(case.batch,),
        quick=True,
        budget_s=budget_s,
        stop=STOP,
        device=case.device,
    )
    cases = tuple(replace(case, engine=engine) for engine in environments)
    group = Group(network, case.cpus, case.batch, cases)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFile.create(Path(folder) / "trial.kprof", {"options": options.to_json()})
        try:
            Measurement(run, options, environments, report or Report()).measure([group])
            return _judged(run)
        finally:
            run.close()


def _judged(run: RunFile) -> Trial:
    failed = [reason for _, reason in run.failures().values()]
    if failed:
        raise KernelprofError(f"the change could not be tried: {failed[0]}")
    as_is, changed = (quiet(run.times(stored.id)).rounds for stored in run.cases())
    foretold = _saving(_kernels(as_is), _kernels(changed))
    if foretold is None:
        raise KernelprofError("the change could not be tried: no quiet round in common")
    whole = _whole(as_is)
    as_is_s = median(whole.values()) * 1e-9 if whole else None
    return Trial(foretold, _saving(whole, _whole(changed)), as_is_s)


def _kernels(rounds: Rounds) -> dict[int, float]:
    return {round_: kernels_ns(sample) for round_, sample in rounds.items() if has_kernels(sample)}


def _whole(rounds: Rounds) -> dict[int, float]:
    return {round_: sample[WHOLE] for round_, sample in rounds.items() if WHOLE in sample}


def _saving(as_is: Mapping[int, float], changed: Mapping[int, float]) -> Saving | None:
    """The median of the differences, paired by round."""
    saved = [(ns - changed[round_]) * 1e-9 for round_, ns in as_is.items() if round_ in changed]
    return Saving(*median_interval(saved)) if saved else None
