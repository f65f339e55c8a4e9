"""What the results say, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from kernelprof.gpu.sides import HOST
from kernelprof.results import CaseResult, LayerResult, Results
from kernelprof.units import counted, duration, magnitude, versus

from .doctor import fitness_sentences
from .labels import full_name
from .sampling import sampling_verdict

REFERENCE_ENGINES = ("numpy", "cupy")
NOTABLE_LOSS = 0.01  # of the measured time: what is less is lost in most intervals


@dataclass(frozen=True)
class Accuracy:
    """How far predictions are from measured times, over all cases that have both."""

    median_error: float
    worst: CaseResult
    worst_error: float
    inside: int  # measured times within the predicted interval
    predicted: int


@dataclass(frozen=True)
class Loss:
    """What a layer costs more in an engine than in the reference."""

    case: CaseResult
    layer: LayerResult
    seconds: float
    speedup: float

    @property
    def share(self) -> float:
        """The loss as a share of the measured time."""
        return self.seconds / self.case.measured.value_s


def accuracy(cases: Sequence[CaseResult]) -> Accuracy | None:
    """The accuracy of the predictions, if there are any."""
    errors = [(abs(case.error), case) for case in cases if case.error is not None]
    if not errors:
        return None
    worst_error, worst = max(errors, key=lambda pair: pair[0])
    return Accuracy(
        median([error for error, _ in errors]),
        worst,
        worst_error,
        sum(is_inside(case) for _, case in errors),
        len(errors),
    )


def is_inside(case: CaseResult) -> bool:
    """The measured time lies within the predicted interval."""
    predicted = case.predicted
    return predicted is not None and predicted.low_s <= case.measured.value_s <= predicted.high_s


def losses(cases: Sequence[CaseResult]) -> list[Loss]:
    """Every layer that both an engine and the reference were timed in; negative if faster."""
    return [
        Loss(case, layer, layer.engine_s - layer.reference_s, layer.reference_s / layer.engine_s)
        for case in cases
        if case.engine not in REFERENCE_ENGINES
        for layer in case.layers
        if layer.engine_s and layer.reference_s
    ]


def verdict(results: Results) -> list[str]:
    """The outcome of a run in a few sentences, the most important first."""
    sentences = [
        _measured(results),
        _accuracy(results),
        _slowest(results),
        *_on_gpu(results),
        _uncovered(results),
        *sampling_verdict([case.sampling for case in results.cases]),
        "A quick run: batches are smaller than the networks' own." if results.quick else "",
        *fitness_sentences(results),
    ]
    return [sentence for sentence in sentences if sentence]


def _measured(results: Results) -> str:
    failed = sum(not failure.passes for failure in results.failures)
    total = len(results.cases) + failed
    if total == 0 and results.traces:
        return f"No case was measured; the run holds {counted(len(results.traces), 'trace')}."
    if total == 0:
        return "Nothing was measured: the run has no cases."
    outcome = f"{len(results.cases)} of {counted(total, 'case')} measured"
    return f"{outcome}; {failed} failed." if failed else f"{outcome}."


def _accuracy(results: Results) -> str:
    found = accuracy(results.cases)
    if found is None:
        return ""
    return (
        f"Predictions are off by {magnitude(found.median_error)} in the median,"
        f" {magnitude(found.worst_error)} at worst ({full_name(found.worst)});"
        f" {found.inside} of {found.predicted} measured times lie inside the predicted interval."
    )


def _slowest(results: Results) -> str:
    compared = losses(results.cases)
    if not compared:
        return ""
    loss = max(compared, key=lambda loss: loss.share)
    if loss.share < NOTABLE_LOSS:
        return "No layer is notably slower in an engine than in the reference."
    return (
        f"Slowest against the reference: {loss.layer.name} of {full_name(loss.case)},"
        f" {versus(loss.speedup)},"
        f" which costs {duration(loss.seconds)} of {duration(loss.case.measured.value_s)}."
    )


def _on_gpu(results: Results) -> Iterator[str]:
    """Where a GPU waits for the CPU, and whether it was slowed down; nothing on the CPU."""
    cases = [(case, case.gpu) for case in results.cases if case.gpu is not None]
    waiting = [(case, gpu) for case, gpu in cases if gpu.bound == HOST]
    if waiting:
        worst, gpu = max(waiting, key=lambda one: one[1].gaps_s / one[0].measured.value_s)
        yield (
            f"In {len(waiting)} of {counted(len(cases), 'case')} the GPU waits for the CPU, most "
            f"in {full_name(worst)}: it works {duration(gpu.device_s)} of "
            f"{duration(worst.measured.value_s)}."
        )
    slow, samples = (sum(getattr(gpu, of) for _, gpu in cases) for of in ("throttled", "samples"))
    if slow:
        yield f"The card was slowed down in {slow} of {counted(samples, 'sample')}."


def _uncovered(results: Results) -> str:
    cases = sum(bool(case.uncovered) for case in results.cases)
    if not cases:
        return ""
    return f"In {counted(cases, 'case')} a layer is covered by no measured primitive."
