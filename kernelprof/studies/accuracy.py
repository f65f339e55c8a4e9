"""How far off predictions are, case by case, and what the errors are made of.

It reads runs, so that any run may be judged: of the survey's networks, of networks that nothing was
tuned on, of your own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy import stats

from kernelprof.analysis import case_results, context_results, failures
from kernelprof.console import err
from kernelprof.context import ACTIVATION, BATCH_NORM, SUM, WEIGHTS
from kernelprof.engines import REFERENCE
from kernelprof.errors import UsageError
from kernelprof.results import CaseResult, ContextResult, FailureResult
from kernelprof.runfile import RunFile
from kernelprof.statistics import CONFIDENCE
from kernelprof.studies.command import run
from kernelprof.studies.publish import publish, table
from kernelprof.units import duration, magnitude

LEVELS = (0.5, 0.8, 0.9, 0.95)
PARTS = ("kernels", "calls", "fused", "copied", "joined")  # of an error
APART = 0.1  # engines whose times differ by more have to be ranked in the right order


@dataclass(frozen=True)
class Judged:
    """A case, and what its error is made of, as shares of the measured time."""

    case: CaseResult
    kernels: float  # the sum of all kernels, less the measured time
    calls: float
    fused: float  # activations and batch norms behind convolutions
    copied: float  # weights, at their update
    joined: float  # branches, at their sum

    @property
    def error(self) -> float:
        """Predicted / measured - 1."""
        return self.case.error or 0.0

    @property
    def inside(self) -> bool:
        """Whether the measured time lies in the interval of the prediction."""
        return self.deviation <= 1

    @property
    def deviation(self) -> float:
        """The error as a share of the interval's half on that side."""
        found = self.case.predicted
        assert found is not None
        off = self.case.measured.value_s - found.value_s
        half = found.high_s - found.value_s if off > 0 else found.value_s - found.low_s
        return abs(off) / half if half else float("inf")

    @property
    def time_coverage(self) -> float:
        """The share of the measured time that the kernels explain."""
        return min(1.0, 1.0 + self.kernels)


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run files of networks.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
    title: Annotated[str, typer.Option(help="Of the study.")] = "Predicted and measured",
) -> None:
    """Judge the predictions of some runs."""
    judged: list[Judged] = []
    contexts: list[ContextResult] = []
    missing: list[FailureResult] = []
    commands = []
    for path in runs:
        file = RunFile.open(path)
        judged += [_judged(case) for case in case_results(file) if case.predicted]
        contexts += context_results(file)
        missing += failures(file)
        commands.append(str(file.meta("command")))
    if not judged:
        raise UsageError(f"no network was measured in {', '.join(map(str, runs))}")
    judged.sort(key=lambda one: -abs(one.error))
    data = {
        "runs": commands,
        "summary": summary(engines(judged)),
        "cases": [_case_json(one) for one in judged],
        "contexts": [asdict(one) for one in contexts],
        "failures": [asdict(one) for one in missing],
    }
    body = "\n".join(_body(judged, contexts, missing, commands))
    publish(output, "kernelprof.studies.accuracy", title, body, data)
    err.print(f"wrote {output}", soft_wrap=True)


def _judged(case: CaseResult) -> Judged:
    traits_s = case.traits_s
    context_s = case.dispatch_s + sum(traits_s.values())
    assert case.predicted is not None
    kernels_s = case.predicted.value_s - context_s
    fused_s = traits_s.get(ACTIVATION, 0.0) + traits_s.get(BATCH_NORM, 0.0)
    whole_s = case.measured.value_s
    return Judged(
        case,
        kernels_s / whole_s - 1,
        case.dispatch_s / whole_s,
        fused_s / whole_s,
        traits_s.get(WEIGHTS, 0.0) / whole_s,
        traits_s.get(SUM, 0.0) / whole_s,
    )


def summary(judged: list[Judged]) -> dict[str, float]:
    """The figures that a study is judged by."""
    errors = [abs(one.error) for one in judged]
    right, pairs = ranking([one.case for one in judged])
    covered_s = sum(one.time_coverage * one.case.measured.value_s for one in judged)
    return {
        "cases": len(judged),
        "median": float(np.median(errors)),
        "percentile_95": float(np.percentile(errors, 95)),
        "worst": max(errors),
        "inside": float(np.mean([one.inside for one in judged])),
        "flop_coverage": min(one.case.coverage for one in judged),
        "time_coverage": covered_s / sum(one.case.measured.value_s for one in judged),
        "least_time_coverage": min(one.time_coverage for one in judged),
        "ranked_right": right,
        "ranked": pairs,
    }


def ranking(cases: Iterable[CaseResult]) -> tuple[int, int]:
    """Pairs of engines ranked right, of those whose measured times are more than 10 % apart."""
    right = pairs = 0
    for one, other in combinations(cases, 2):
        if _what(one) != _what(other):
            continue
        slower, faster = sorted((one, other), key=lambda case: -case.measured.value_s)
        if slower.measured.value_s <= faster.measured.value_s * (1 + APART):
            continue
        assert slower.predicted is not None
        assert faster.predicted is not None
        pairs += 1
        right += slower.predicted.value_s > faster.predicted.value_s
    return right, pairs


def _what(case: CaseResult) -> tuple[object, ...]:
    return case.network, case.cpus, case.batch, case.mode


def calibration(judged: list[Judged]) -> Iterator[tuple[float, float]]:
    """For each level, the share of measured times within the interval of that level.

    The interval of another level is as much wider as the normal distribution's.
    """
    unit = stats.norm.ppf((1 + CONFIDENCE) / 2)
    for level in LEVELS:
        scale = stats.norm.ppf((1 + level) / 2) / unit
        yield level, float(np.mean([one.deviation <= scale for one in judged]))


def _body(
    judged: list[Judged],
    contexts: list[ContextResult],
    missing: list[FailureResult],
    commands: list[str],
) -> Iterator[str]:
    found = summary(engines(judged))
    names = _and(_names(engines(judged)))
    yield f"""Of {found["cases"]} cases in {names} the prediction is off by \
{_percent(found["median"])} in the median, by {_percent(found["percentile_95"])} at the 95th \
percentile and by {_percent(found["worst"])} at worst.
{found["inside"]:.0%} of the measured times lie inside the 90 % interval.  Of {found["ranked"]} \
pairs of engines whose measured times are more than 10 % apart, {found["ranked_right"]} are ranked \
in the right order.  Primitives cover {found["flop_coverage"]:.1%} of the flop or more in every \
case; of the time {found["time_coverage"]:.1%} of all cases together, and \
{found["least_time_coverage"]:.1%} of the case that is covered least.

By engine; the reference is no engine of the survey, and not part of the figures \
above:
"""
    yield table(
        ("engine", "cases", "median error", "95th percentile", "worst", "inside"),
        [
            _engine_row(name, [o for o in judged if o.case.engine == name])
            for name in _names(judged)
        ],
    )
    yield "The intervals, at several levels:\n"
    yield table(
        ("level", "measured times inside"),
        [(f"{level:.0%}", f"{seen:.0%}") for level, seen in calibration(engines(judged))],
    )
    yield """## Every case, the bad ones first

What an error is made of, in per cent of the measured time: the sum of all kernels, less the
measured time; the cost of calling (negative where a kernel by itself pays more); what fusing
activations and batch norms into convolutions saves; what copying weights at their update costs; and
what joining branches does.  The sum is the error.  What is not split further is what is left of the
first column: cold weights, the layouts between layers, memory, and the waking of threads.
"""
    yield table(
        (
            *("network", "mode", "engine", "threads", "batch", "measured", "predicted"),
            *("90 % interval", "error", "kernels", "calls", "fused", "copied", "joined", "inside"),
        ),
        map(_case_row, judged),
    )
    yield "## What the engines' chains tell\n"
    yield table(
        ("engine", "threads", "mode", "per call", "per kernel", "traits", "misfit"),
        map(_context_row, contexts),
    )
    if missing:
        yield "## What was not measured\n"
        yield table(
            ("network", "engine", "threads", "mode", "reason"),
            [(m.network, m.engine, str(m.threads), m.mode, m.reason) for m in missing],
        )
    yield "The runs:\n\n" + "\n".join(f"- `{command}`" for command in commands) + "\n"


def engines(judged: list[Judged]) -> list[Judged]:
    """Those of the engines, without the reference; of a run that has nothing else, all."""
    return [one for one in judged if one.case.engine != REFERENCE] or judged


def _names(judged: list[Judged]) -> list[str]:
    return list(dict.fromkeys(sorted(one.case.engine for one in judged)))


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _engine_row(name: str, own: list[Judged]) -> tuple[str, ...]:
    found = summary(own)
    label = f"{name} (reference)" if name == REFERENCE else name
    shares = [_percent(found[key]) for key in ("median", "percentile_95", "worst")]
    return label, str(found["cases"]), *shares, f"{found['inside']:.0%}"


def _case_row(one: Judged) -> tuple[str, ...]:
    case = one.case
    assert case.predicted is not None
    low, high = (
        (end - case.predicted.value_s) / case.predicted.value_s
        for end in (case.predicted.low_s, case.predicted.high_s)
    )
    return (
        *(case.network, case.mode, case.engine, str(case.threads), str(case.batch)),
        *(duration(case.measured.value_s), duration(case.predicted.value_s)),
        f"{low:+.1%} {high:+.1%}",
        *(f"{part:+.1%}" for part in (one.error, *_parts(one).values())),
        "yes" if one.inside else "**no**",
    )


def _context_row(found: ContextResult) -> tuple[str, ...]:
    told = "; ".join(
        f"{t.what} {t.share:+.0%} ({t.low:+.0%} to {t.high:+.0%})" for t in found.traits
    )
    return (
        *(found.engine, str(found.threads), found.mode),
        *(f"{value * 1e6:.1f} µs" for value in (found.per_call_s, found.per_kernel_s)),
        told or "none that is clear",
        "unknown" if found.misfit is None else magnitude(found.misfit),
    )


def _case_json(one: Judged) -> dict[str, object]:
    case = one.case
    assert case.predicted is not None
    names = ("network", "engine", "threads", "batch", "mode", "coverage")
    return {
        **{name: getattr(case, name) for name in names},
        "measured_s": case.measured.value_s,
        "predicted_s": case.predicted.value_s,
        "predicted_low_s": case.predicted.low_s,
        "predicted_high_s": case.predicted.high_s,
        "error": one.error,
        "parts": _parts(one),
        "inside": one.inside,
    }


def _parts(one: Judged) -> dict[str, float]:
    return {name: getattr(one, name) for name in PARTS}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


if __name__ == "__main__":
    run(main)
