"""Diagnose cases of a run: gather what is not known of them yet, and try what may help."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kernelprof.diagnosis.examination import (
    Usuals,
    evidence_of,
    findings,
    stored_case,
    trial_kind,
)
from kernelprof.diagnosis.gather import MISSING, Gatherer, Tell
from kernelprof.diagnosis.trial import Trial, try_change
from kernelprof.engines import Environment, environment
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.launch import Variables
from kernelprof.measure import Report
from kernelprof.probes.network import Network
from kernelprof.results import CaseResult, Finding
from kernelprof.runfile import RunFile

TRIAL_S = 8.0  # of rounds, beside starting and building
BUDGET_S = 180.0  # for all trials


@dataclass
class Diagnosing:
    """What is asked for: all that ``diagnose`` may do with a run."""

    run: RunFile
    confirm: bool = False
    again: bool = False
    keep: Path | None = None
    budget_s: float = BUDGET_S  # the last trial begins within it
    tell: Tell = lambda what, share: None
    own: Mapping[str, Environment] = field(default_factory=dict)  # instead of kernelprof's

    def diagnose(self, chosen: Sequence[CaseResult], cases: Sequence[CaseResult]) -> None:
        """Look at the chosen ones of all cases; what comes of it goes into the run file.

        Raises:
            UsageError: an engine is not installed.
        """
        engines = dict.fromkeys(case.engine for case in chosen)
        environments = {engine: self.own.get(engine) or _required(engine) for engine in engines}
        Gatherer(
            self.run,
            environments,
            lambda engine, cpus: variables_of(self.run, engine, cpus),
            self.again,
            self.keep,
            self.tell,
        ).gather([stored_case(self.run, case) for case in chosen])
        started = time.monotonic()
        for case, finding in self._to_try(chosen, cases):
            passed = time.monotonic() - started
            if passed > self.budget_s:
                return
            self.tell(
                f"{case.network} {case.mode}: trying {finding.remedy}", passed / self.budget_s
            )
            self._try(environments[case.engine], case, finding)

    def _to_try(
        self, chosen: Iterable[CaseResult], cases: Sequence[CaseResult]
    ) -> Iterator[tuple[CaseResult, Finding]]:
        """Findings whose change shall be tried, those that may matter most first."""
        usuals: Usuals = {}
        found = [
            (case, finding)
            for case in chosen
            if (evidence := evidence_of(self.run, case, cases, usuals)) is not None
            for finding in findings(evidence, self.run.evidence(stored_case(self.run, case).id))
            if finding.change and self._is_open(finding)
        ]
        found.sort(key=lambda one: one[1].at_most_s / one[0].measured.value_s, reverse=True)
        yield from found

    def _is_open(self, finding: Finding) -> bool:
        return finding.actual is None if self.confirm else finding.seconds is None

    def _try(self, environment: Environment, case: CaseResult, finding: Finding) -> None:
        stored = stored_case(self.run, case)
        kind = trial_kind(finding.change)
        try:
            trial = self._tried(environment, case, finding)
        except KernelprofError as error:
            missing = self.run.evidence(stored.id).get(MISSING, {})
            failed = {**missing, f"trial ({finding.remedy})": str(error)}
            self.run.add_evidence(stored.id, MISSING, failed)
        else:
            self.run.add_evidence(stored.id, kind, trial.to_json())

    def _tried(self, environment: Environment, case: CaseResult, finding: Finding) -> Trial:
        stored = stored_case(self.run, case)
        needs_whole = self.confirm or finding.between_kernels
        return try_change(
            environment,
            variables_of(self.run, case.engine, case.cpus),
            dict(finding.change),
            replace(stored.case, whole=needs_whole),
            Network.from_json(self.run.networks()[case.network]),
            TRIAL_S,
            Report(),
        )


def variables_of(run: RunFile, engine: str, cpus: tuple[int, ...]) -> Variables:
    """The variables that bear on speed as a run's workers had them, whatever the shell has now."""
    chosen = {n: v for e, n, v in run.meta("options")["variables"] if e == engine}
    for other, other_cpus, facts in run.workers():
        if (other, other_cpus) == (engine, cpus) and "variables" in facts:
            return {**facts["variables"], **chosen}
    return chosen


def _required(engine: str) -> Environment:
    found = environment(engine)
    if found is None:
        raise UsageError(
            f"{engine} is not installed; run `kernelprof engines install {engine}`, and diagnose "
            "then"
        )
    return found
