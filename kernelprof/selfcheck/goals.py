"""What a selfcheck asks of kernelprof's numbers on a device, and whether they hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kernelprof.diagnosis.ledger import RESIDUAL as RESIDUAL_PART
from kernelprof.probes.device import CPU
from kernelprof.results import CaseResult, EngineCheck, PrimitiveResult
from kernelprof.units import counted, share

MEDIAN_ERROR, P95_ERROR = 0.05, 0.12  # of predictions, as shares of the measured time
ATTAINED = (0.75, 1.02)  # of the ceiling, by a large product: what is above was not a ceiling
SAME_PRODUCT = 0.03  # by which two callers of one library may differ
SAME_TIME = 0.02  # by which two clocks may
RESIDUAL = 0.05  # of the measured time that may be in no part of the ledger


@dataclass(frozen=True)
class Goal:
    """Something that has to hold; ``met`` is None where it could not be judged."""

    name: str
    asked: str
    got: str
    met: bool | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object that says the same."""
        return asdict(self)


@dataclass(frozen=True)
class Seen:
    """What the steps of a selfcheck found.

    ``clocks`` has torch's products by kernelprof's clock and by torch's profiler, in seconds.
    """

    device: str
    checks: Sequence[EngineCheck]
    cases: Sequence[CaseResult]
    primitives: Sequence[PrimitiveResult]
    clocks: Mapping[str, tuple[float, float]]


def goals(seen: Seen) -> list[Goal]:
    """Every goal of the device, judged."""
    found = [*_right(seen.checks), _predictions(seen.cases)]
    if seen.device != CPU:
        found += [
            *_attained(seen.primitives),
            _same_product(seen.primitives),
            _same_time(seen.clocks),
            _explained(seen.cases),
        ]
    return found


def _right(checks: Iterable[EngineCheck]) -> Iterator[Goal]:
    for check in checks:
        worst = max(check.errors.values(), default=0.0)
        if check.failures:
            what, why = next(iter(check.failures.items()))
            got = f"{counted(len(check.failures), 'failure')}, the first: {what}: {why}"
        else:
            got = f"{counted(len(check.errors), 'primitive')}, the largest error {worst:.1e}"
        if check.unsupported:
            got += f"; not in this engine: {', '.join(check.unsupported)}"
        name = f"{check.engine}: results"
        yield Goal(name, "every primitive agrees with the float64 oracle", got, check.works)


def _predictions(cases: Iterable[CaseResult]) -> Goal:
    errors = [abs(case.error) for case in cases if case.error is not None]
    name = "networks: predictions"
    asked = f"median |error| at most {share(MEDIAN_ERROR)}, 95th percentile {share(P95_ERROR)}"
    if not errors:
        return Goal(name, asked, "no network was measured", None)
    median, p95 = float(np.median(errors)), float(np.quantile(errors, 0.95))
    got = f"{share(median)} and {share(p95)} of {counted(len(errors), 'case')}"
    return Goal(name, asked, got, median <= MEDIAN_ERROR and p95 <= P95_ERROR)


def _attained(primitives: Iterable[PrimitiveResult]) -> Iterator[Goal]:
    """Of torch's products, which are the largest that are timed."""
    low, high = ATTAINED
    for one in _products(primitives, "torch"):
        asked = f"{share(low)} to {share(high)} of the measured ceiling"
        name = f"torch: {one.primitive}"
        if one.attained is None:
            yield Goal(name, asked, "no ceiling was measured", None)
        else:
            yield Goal(name, asked, share(one.attained), low <= one.attained <= high)


def _same_product(primitives: Sequence[PrimitiveResult]) -> Goal:
    """CuPy and torch call the same library for a product in float32."""
    ours = {one.primitive: one.seconds.value_s for one in _products(primitives, "cupy")}
    ratios = {
        one.primitive: ours[one.primitive] / one.seconds.value_s
        for one in _products(primitives, "torch")
        if one.primitive in ours
    }
    name, asked = "cupy: products as torch's", f"times within {share(SAME_PRODUCT)}"
    if not ratios:
        return Goal(name, asked, "not measured in both", None)
    worst = max(ratios, key=lambda primitive: abs(ratios[primitive] - 1))
    got = f"{ratios[worst] - 1:+.1%} at worst ({worst})"
    return Goal(name, asked, got, abs(ratios[worst] - 1) <= SAME_PRODUCT)


def _same_time(clocks: Mapping[str, tuple[float, float]]) -> Goal:
    found = {primitive: own_s / profiler_s for primitive, (own_s, profiler_s) in clocks.items()}
    name, asked = "clocks: torch's own profiler", f"device times within {share(SAME_TIME)}"
    if not found:
        return Goal(name, asked, "nothing was profiled", None)
    worst = max(found, key=lambda primitive: abs(found[primitive] - 1))
    got = f"{found[worst] - 1:+.1%} at worst ({worst})"
    return Goal(name, asked, got, abs(found[worst] - 1) <= SAME_TIME)


def _explained(cases: Iterable[CaseResult]) -> Goal:
    """Whether torch's profiler, in a call of a network, saw what kernelprof measured."""
    name, asked = "torch: its profiler's trace", f"residual at most {share(RESIDUAL)}"
    for case in cases:
        if case.diagnosis is not None and case.diagnosis.ledger:
            rest = next(one.seconds for one in case.diagnosis.ledger if one.part == RESIDUAL_PART)
            part = rest / case.measured.value_s
            got = f"{part:+.1%} of {case.network}, {case.mode}"
            return Goal(name, asked, got, abs(part) <= RESIDUAL)
    return Goal(name, asked, "no trace was taken", None)


def _products(primitives: Iterable[PrimitiveResult], engine: str) -> list[PrimitiveResult]:
    return [one for one in primitives if one.engine == engine and one.primitive.startswith("gemm")]
