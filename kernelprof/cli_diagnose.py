"""The command line's ``diagnose``: why an engine is slow, and whether the remedy helps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kernelprof import runner
from kernelprof.analysis import case_results
from kernelprof.cli_measure import progress
from kernelprof.console import err, out
from kernelprof.diagnosis.diagnose import BUDGET_S, Diagnosing
from kernelprof.diagnosis.examination import diagnosed
from kernelprof.errors import UsageError
from kernelprof.machine import this_machine
from kernelprof.measure import sole_measurement
from kernelprof.reports.contract import case_json
from kernelprof.reports.diagnosis import diagnosis_lines
from kernelprof.results import CaseResult
from kernelprof.runfile import RunFile


def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run file.")],
    engine: Annotated[str | None, typer.Option(help="torch,cntk; default: all.")] = None,
    network: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    mode: Annotated[str | None, typer.Option(help="Only infer, or train.")] = None,
    threads: Annotated[int | None, typer.Option(help="Only with so many.")] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Try the remedies on whole networks.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Look anew at what was seen.")] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A folder for flame graphs and speedscope files.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for trying remedies: 90s, 5m; default: 3m.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Say why an engine is slow: where its time goes, causes by size, what to try.

    Looks at the run's networks once more, in passes of their own: with each engine's
    profiler, with what its libraries print, with sampled stacks.  What was seen is
    kept in the run file.  Nothing outside its own workers is changed.

    Example: kernelprof diagnose a.kprof --engine cntk --confirm
    """
    file = RunFile.open(run)
    cases = list(case_results(file))
    chosen = _chosen(run, cases, engine, network, mode, threads)
    _require_this_machine(file)
    with sole_measurement(), progress() as step:
        try:
            Diagnosing(
                file,
                confirm,
                again,
                keep,
                runner.seconds(budget) if budget else BUDGET_S,
                step,
            ).diagnose(chosen, cases)
        except KeyboardInterrupt:
            err.print(f"\nStopped. What was seen is in {run}; the same command goes on.")
            raise SystemExit(130) from None
    looked_at = zip(cases, diagnosed(file, cases), strict=True)
    found = [after for before, after in looked_at if before in chosen]
    if as_json:
        report = [case_json(case) for case in found]
        sys.stdout.write(json.dumps(report, indent=1, allow_nan=False) + "\n")
        return
    for name in dict.fromkeys(case.engine for case in found):
        own = [case for case in found if case.engine == name]
        for line in diagnosis_lines(own, name, str(run), out.width):
            out.print(line, soft_wrap=True)


def _chosen(
    path: Path,
    cases: list[CaseResult],
    engine: str | None,
    network: str | None,
    mode: str | None,
    threads: int | None,
) -> list[CaseResult]:
    """The cases that were asked for.

    Raises:
        UsageError: there are none.
    """
    engines = engine.split(",") if engine else None
    chosen = [
        case
        for case in cases
        if (engines is None or case.engine in engines)
        and network in (None, case.network)
        and mode in (None, case.mode)
        and threads in (None, case.threads)
    ]
    if not cases:
        raise UsageError(f"{path} holds no measured network; `kernelprof run` measures some")
    if not chosen:
        held = [
            ", ".join(dict.fromkeys(str(getattr(case, what)) for case in cases))
            for what in ("engine", "network", "mode", "threads")
        ]
        raise UsageError(f"{path} holds nothing of that; it holds {'; '.join(held)}")
    return chosen


def _require_this_machine(file: RunFile) -> None:
    there, here = file.meta("machine"), this_machine()
    if there["fingerprint"] != here.fingerprint:
        raise UsageError(
            f"{file.path} was measured on another machine ({there['processor']}); diagnose it "
            "there, `kernelprof report` shows what was found"
        )
