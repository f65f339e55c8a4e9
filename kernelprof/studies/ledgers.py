"""Where the time of diagnosed runs goes, case by case, and how much of it nobody can explain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kernelprof.analysis import case_results
from kernelprof.diagnosis.examination import diagnosed
from kernelprof.diagnosis.ledger import JUDGED_SHARE, PARTS, RESIDUAL
from kernelprof.errors import UsageError
from kernelprof.results import CaseResult, Finding
from kernelprof.runfile import RunFile
from kernelprof.studies.command import run
from kernelprof.studies.publish import publish, table
from kernelprof.units import counted, duration, percent, share

TITLE = "Where the time goes, and why"
HEADER = ("case", "time", *PARTS, "profiler")
CAUSES_HEADER = ("case", "cause", "time", "share", "foretold", "actual", "confirmed")


def main(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run that was diagnosed.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
) -> None:
    """Write the ledgers and the findings of a run."""
    file = RunFile.open(path)
    cases = [case for case in diagnosed(file, list(case_results(file))) if case.diagnosis]
    if not cases:
        raise UsageError(f"{path} was not diagnosed; `kernelprof diagnose {path}` does")
    data: dict[str, Any] = {"run": file.meta("command"), "cases": [_json(case) for case in cases]}
    publish(output, "kernelprof.studies.ledgers", TITLE, _body(cases), data)


def shares(case: CaseResult) -> Mapping[str, float]:
    """The parts of a case's ledger as shares of the measured time."""
    assert case.diagnosis is not None
    found: dict[str, float] = defaultdict(float)
    for part in case.diagnosis.ledger:
        found[part.part] += part.seconds / case.measured.value_s
    return found


def _json(case: CaseResult) -> dict[str, Any]:
    assert case.diagnosis is not None
    return {
        **{name: getattr(case, name) for name in ("network", "engine", "mode", "threads", "batch")},
        "measured_s": case.measured.value_s,
        "shares": dict(shares(case)),
        "profiler_share": case.diagnosis.profiler_share,
        "missing": dict(case.diagnosis.missing),
        "findings": [
            {
                "cause": finding.cause,
                "seconds": finding.seconds,
                "at_most_s": finding.at_most_s,
                "change": dict(finding.change),
                "foretold_s": finding.foretold.value_s if finding.foretold else None,
                "actual_s": finding.actual.value_s if finding.actual else None,
                "confirmed": finding.confirmed,
            }
            for finding in case.diagnosis.findings
        ],
    }


def _body(cases: list[CaseResult]) -> str:
    with_ledger = [case for case in cases if case.diagnosis and case.diagnosis.ledger]
    residuals = [abs(shares(case)[RESIDUAL]) for case in with_ledger]
    known = sum(residual <= JUDGED_SHARE for residual in residuals)
    tried = [f for c in cases for f in _findings(c) if f.confirmed is not None]
    confirmed = sum(bool(finding.confirmed) for finding in tried)
    causes = [row for case in cases for row in _cause_rows(case)]
    return f"""
{counted(len(with_ledger), "ledger")}: in {known} of them the residual is at most \
{share(JUDGED_SHARE)} of the time (goal: 90 %); the largest is {share(max(residuals, default=0.0))}.
{counted(len(tried), "trial")} of remedies on whole networks: {confirmed} saved what was foretold.

Shares of the measured time; `profiler` is by how much the engine's own profiler makes a call
longer, which the ledger leaves out.

{table(HEADER, [_ledger_row(case) for case in with_ledger])}
## Causes

{table(CAUSES_HEADER, causes)}"""


def _findings(case: CaseResult) -> tuple[Finding, ...]:
    return case.diagnosis.findings if case.diagnosis else ()


def _title(case: CaseResult) -> str:
    cpus = counted(case.threads, "CPU")
    return f"{case.engine} {case.network} {case.mode}, batch {case.batch}, {cpus}"


def _ledger_row(case: CaseResult) -> tuple[str, ...]:
    assert case.diagnosis is not None
    parts = shares(case)
    return (
        _title(case),
        duration(case.measured.value_s),
        *(f"{100 * parts[part]:.1f} %" for part in PARTS),
        percent(case.diagnosis.profiler_share),
    )


def _cause_rows(case: CaseResult) -> list[tuple[str, ...]]:
    said = {None: "not tried", True: "yes", False: "no"}
    return [
        (
            _title(case),
            finding.cause,
            f"up to {duration(finding.at_most_s)}"
            if finding.seconds is None
            else duration(finding.seconds),
            share((finding.seconds or finding.at_most_s) / case.measured.value_s),
            duration(finding.foretold.value_s) if finding.foretold else "",
            duration(finding.actual.value_s) if finding.actual else "",
            said[finding.confirmed],
        )
        for finding in _findings(case)
    ]


if __name__ == "__main__":
    run(main)
