"""Compare two run files: pair what both hold, and tell what became slower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from kernelprof.compare.agreement import (
    machine_differences,
    setting_differences,
    side,
    unchanged_engines,
)
from kernelprof.compare.control import Drift
from kernelprof.compare.effects import Effect, drift_of, effects
from kernelprof.compare.observed import Group, observe
from kernelprof.compare.pairing import paired, paired_kernels
from kernelprof.compare.results import FASTER, SAME, SLOWER, Change, MachineDrift, RunComparison
from kernelprof.compare.significance import ALPHA, levels
from kernelprof.results import Ratio
from kernelprof.runfile import RunFile


def compare(before: RunFile, after: RunFile, threshold: float = 0.0) -> RunComparison:
    """Tell what became slower from one run to another, by more than the share ``threshold``.

    Raises:
        UsageError: a file lacks what every run has.
    """
    sides = side(before), side(after)
    machine = machine_differences(before, after)
    settings = setting_differences(before, after)
    if machine:
        return RunComparison(*sides, threshold, ALPHA, machine, settings)
    observed = observe(before), observe(after)
    found = paired((before, after), observed)
    unchanged = unchanged_engines(before, after)
    kernels = {
        group: list(paired_kernels(group, observed, unchanged))
        for group in dict.fromkeys(pair.before.group for pair in found.pairs)
    }
    drifts = {group: drift_of(own) for group, own in kernels.items()}
    return RunComparison(
        *(*sides, threshold, ALPHA, machine, settings),
        changes=tuple(_changes(effects(found.pairs, kernels, drifts), math.log1p(threshold))),
        drifts=tuple(
            _machine_drift(group, own, len(kernels[group])) for group, own in drifts.items() if own
        ),
        unmatched=found.unmatched,
    )


def _changes(found: Sequence[Effect], threshold: float) -> Iterator[Change]:
    """What is told of each part; as slower only what is beyond the threshold."""
    weights = [effect.weight for effect in found]
    slower = levels([effect.p_value(1, threshold) for effect in found], weights, ALPHA)
    faster = levels([effect.p_value(-1, threshold) for effect in found], weights, ALPHA)
    for effect, slower_at, faster_at in zip(found, slower, faster, strict=True):
        low, high = -effect.margin(slower_at), effect.margin(faster_at)
        verdict = SAME
        if effect.value + low > threshold:
            verdict = SLOWER
        elif effect.value + high < -threshold:
            verdict = FASTER
        yield Change(
            *effect.pair.before.key,
            effect.layer,
            _seconds(effect.before),
            _seconds(effect.after),
            Ratio(*(math.exp(effect.value + by) for by in (0.0, low, high))),
            math.exp(threshold - low),
            verdict,
        )


def _seconds(levels_ns: Sequence[float]) -> float:
    return math.exp(float(np.mean(levels_ns))) * 1e-9


def _machine_drift(group: Group, found: Drift, kernels: int) -> MachineDrift:
    low, high = (found.value + sign * found.margin for sign in (-1, 1))
    ratio = Ratio(math.exp(found.value), math.exp(low), math.exp(high))
    return MachineDrift(*group, kernels, ratio, math.exp(found.removed))
