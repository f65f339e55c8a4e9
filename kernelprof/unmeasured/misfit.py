"""How far off the model of unmeasured kernels is, seen where a run can tell: by leaving out.

Every measured batch is predicted from the others, every network from the others' kernels, and
every larger chain from its own kernels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
from scipy import stats

from kernelprof.forecast import BETWEEN, BEYOND, OTHER_SIZES, Spread
from kernelprof.probes.decompose import Kernel
from kernelprof.statistics import CONFIDENCE
from kernelprof.unmeasured.holdings import Held, HeldCase, Holdings
from kernelprof.unmeasured.kernel_model import Guess

CONTEXT = "kernels against chains"  # what a chain takes, beside what its kernels foretell
FEWEST = 5  # residuals of an engine; with fewer, those of the other engines count too

EACH_KERNEL = "one kernel against another"  # by doubling of the size

Residuals = Mapping[str, list[float]]  # cause -> errors as logarithms, those of a batch by doubling


def spread(residuals: Sequence[float]) -> Spread | None:
    """The 90 % half-width that residuals around zero imply for the next one.

    With enough of them it is their own quantile (split conformal prediction: Lei et al. 2018), else
    that of Student's distribution with their mean square.  None without residuals.
    """
    count = len(residuals)
    if not count:
        return None
    sizes = np.sort(np.abs(residuals))
    rank = math.ceil((count + 1) * CONFIDENCE)
    if rank <= count:
        return Spread(float(sizes[rank - 1]), count)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count))
    return Spread(quantile * float(np.sqrt(np.mean(sizes**2))), count)


def pooled(own: Residuals, others: Iterable[Residuals], cause: str) -> list[float]:
    """The residuals of a cause: an engine's own, and where these are few, all."""
    found = list(own.get(cause, ()))
    if len(found) < FEWEST:
        for other in others:
            found += other.get(cause, ())
    return found


def residuals(known: Holdings) -> Residuals:
    """What leaving out tells, by cause."""
    found: dict[str, list[float]] = defaultdict(list)
    found[CONTEXT] = [math.log(max(1 - error, 1e-12)) for error in known.chain_errors]
    for case in known.cases:
        others = [
            other.batch
            for other in known.cases
            if (other.network, other.threads) == (case.network, case.threads)
            and other.batch != case.batch
        ]
        if others:
            tried = _left_out(known, case, partial(_is_of, case))
            inside = min(others) < case.batch < max(others)
            doublings = min(abs(math.log2(case.batch / batch)) for batch in others)
            if tried:
                found[BETWEEN if inside else BEYOND].append(_together(tried) / doublings)
        tried = _left_out(known, case, _strange_to(known, case))
        tried = [(guess, taken) for guess, taken in tried if guess.basis == OTHER_SIZES]
        if tried:
            found[OTHER_SIZES].append(_together(tried))
            found[EACH_KERNEL].append(_each(tried))
    return found


def _is_of(case: HeldCase, one: Held) -> bool:
    return one.point.source == case.source


def _is_beside(other: Held, one: Held) -> bool:
    return one.layer == other.layer


def _strange_to(known: Holdings, case: HeldCase) -> Callable[[Held], bool]:
    """Leaves out a network where there are others, and of a single one each layer in turn."""
    if len({one.network for one in known.cases if one.threads == case.threads}) > 1:
        return lambda one: one.network == case.network
    return lambda one: one.point.source != case.source


def _left_out(
    known: Holdings, case: HeldCase, unknown: Callable[[Held], bool]
) -> list[tuple[Guess, float]]:
    """A case's kernels, each predicted without some, beside what it took."""
    own = [one for one in known.held if one.point.source == case.source]
    rest = known.without(unknown)
    same_case = any(one.point.source == case.source for one in rest.held)
    found = []
    for one in own:
        left = rest.without(partial(_is_beside, one)) if same_case else rest
        kernel = Kernel(one.layer, one.primitives, one.passes)
        guess = left.guess(one.network, one.place, kernel, case.batch, case.threads)
        if guess is not None:
            found.append((guess, one.point.seconds.value_s))
    return found


def _together(tried: Sequence[tuple[Guess, float]]) -> float:
    """The error of all kernels together, as a logarithm."""
    return math.log(sum(guess.seconds for guess, _ in tried) / sum(taken for _, taken in tried))


def _each(tried: Sequence[tuple[Guess, float]]) -> float:
    """The error of a kernel by doubling of its size, on average by their time.

    A batch moves all kernels of a network the same way, so their errors do not cancel.
    """
    squares = [
        (math.log(guess.seconds / taken) / max(guess.doublings, 1.0)) ** 2 for guess, taken in tried
    ]
    return math.sqrt(np.average(squares, weights=[taken for _, taken in tried]))
