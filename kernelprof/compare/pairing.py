"""Which cases two runs have in common, and why others cannot be compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kernelprof.compare.observed import (
    WHOLE_NETWORK,
    Group,
    Kernel,
    Key,
    Observed,
    ObservedCase,
    Part,
    alike,
)
from kernelprof.compare.results import Unmatched
from kernelprof.runfile import RunFile

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Pair:
    """A case that both runs hold, and the parts that did the same work in both."""

    before: ObservedCase
    after: ObservedCase
    parts: Mapping[str, tuple[Part, Part]]


@dataclass(frozen=True)
class Paired:
    """All that can be compared, and what cannot."""

    pairs: tuple[Pair, ...]
    unmatched: tuple[Unmatched, ...]


def paired(runs: tuple[RunFile, RunFile], observed: tuple[Observed, Observed]) -> Paired:
    """Bring together the cases of two runs."""
    pairs: list[Pair] = []
    unmatched: list[Unmatched] = []
    everything = (key for one in observed for key in (*one.cases, *one.failures))
    for key in dict.fromkeys(everything):
        reason = _reason(key, runs, observed)
        if reason:
            unmatched.append(Unmatched(*key, WHOLE_NETWORK, reason))
            continue
        before, after = (one.cases[key] for one in observed)
        pair = Pair(before, after, dict(_parts(before, after)))
        pairs += [pair] if pair.parts else []
        unmatched += _unmatched_layers(pair)
    return Paired(tuple(pairs), tuple(unmatched))


def _reason(
    key: Key, runs: tuple[RunFile, RunFile], observed: tuple[Observed, Observed]
) -> str | None:
    """Why a case cannot be compared; None where it can."""
    missing = [
        _missing(key, when, one)
        for when, one in zip((BEFORE, AFTER), observed, strict=True)
        if key not in one.cases
    ]
    if missing:
        return "; ".join(missing)
    caches = [run.meta("options").get("cache") for run in runs]
    if caches[0] != caches[1]:
        return f"operands were {caches[0]} {BEFORE}, and {caches[1]} {AFTER}"
    definitions = [run.networks().get(key.network) for run in runs]
    if definitions[0] != definitions[1]:
        return "the network is defined in another way"
    return None


def _missing(key: Key, when: str, one: Observed) -> str:
    """Why a run does not have a case."""
    if key in one.failures:
        kind, reason = one.failures[key]
        return f"failed {when} ({kind}: {reason})"
    batches = [held.batch for held in one.cases if held._replace(batch=key.batch) == key]
    if batches:
        return f"not measured {when}, but with batch {', '.join(map(str, batches))}"
    return f"not measured {when}"


def _parts(before: ObservedCase, after: ObservedCase) -> Iterator[tuple[str, tuple[Part, Part]]]:
    for name, part in before.parts.items():
        other = after.parts.get(name)
        if other is not None and part.work == other.work:
            yield name, _alike(before, after, part, other)


def _alike(before: ObservedCase, after: ObservedCase, part: Part, other: Part) -> tuple[Part, Part]:
    """In the rounds in which they are alike, if a process of each run has some."""
    both = alike(part, other)
    levels = map(ObservedCase.levels, (before, after), both)
    return (part, other) if any(np.isnan(own).all() for own in levels) else both


def _unmatched_layers(pair: Pair) -> Iterator[Unmatched]:
    parts = pair.before.parts, pair.after.parts
    for name in dict.fromkeys((*parts[0], *parts[1])):
        if name in pair.parts:
            continue
        reason = "it does not run the same primitives"
        for when, held in zip((BEFORE, AFTER), parts, strict=True):
            if name not in held:
                reason = f"not measured {when}"
        yield Unmatched(*pair.before.key, name, reason)


def paired_kernels(
    group: Group, observed: tuple[Observed, Observed], unchanged: Collection[str]
) -> Iterator[tuple[Kernel, Kernel]]:
    """The reference's kernels that both runs have, if the reference is the same in both."""
    before, after = (one.reference.get(group, {}) for one in observed)
    for name, kernel in before.items():
        other = after.get(name)
        if other is not None and name[0] in unchanged:
            part, others = _alike(kernel.case, other.case, kernel.part, other.part)
            yield replace(kernel, part=part), replace(other, part=others)
