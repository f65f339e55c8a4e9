"""The places of charts on the page: what each of them shows of the rows that all of them share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelprof.results import CaseResult, Results
from kernelprof.units import counted, duration, magnitude, share, significant, times

from .charts import distinct
from .labels import contender, full_name, workload
from .ledger import with_ledger
from .order import Group, groups
from .roofline_chart import Measured, kernel_rows, placement_name
from .size_charts import KINDS, size_rows
from .sweep_charts import over_batches, over_threads
from .verdict import accuracy


@dataclass(frozen=True)
class Place:
    """A chart on the page.

    Rows must have the values of ``only``, themselves or in what they are of; of the fields of
    ``picks`` they must have what was chosen under that name.  ``words`` say what there is to see.
    """

    chart: str
    title: str
    words: str
    only: Mapping[str, Any] = field(default_factory=dict)
    picks: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)  # name -> what to choose

    @property
    def filters(self) -> str:
        """Both as JSON."""
        return json.dumps({"only": self.only, "picks": self.picks})


CASE = {"item": "case"}  # rows of the case that was chosen for the page


@dataclass(frozen=True)
class Places:
    """All charts of a page, by section; where there is nothing to show, none."""

    overview: Place | None
    times: tuple[Place, ...]
    errors: Place | None
    steps: Place | None
    stacks: tuple[Place, ...]
    layers: Place | None
    roofline: tuple[Place, ...]
    speedups: tuple[Place, ...]
    batches: tuple[Place, ...]
    sizes: tuple[Place, ...]
    parts: tuple[Place, ...]


def places(results: Results) -> Places:
    """The charts of a run."""
    everything, shown = measured(results), groups(results)
    cases = [one for one in everything if isinstance(one, CaseResult)]
    name = full_name(cases[0]) if cases else ""
    return Places(
        overview=_overview(cases),
        times=tuple(_times(shown)),
        errors=_errors(cases),
        steps=Place("steps", name, "", picks=CASE) if cases else None,
        stacks=tuple(_stacks(shown)),
        layers=Place("layers", name, "", picks=CASE) if cases else None,
        roofline=tuple(_rooflines(everything)),
        speedups=tuple(_speedups(shown)),
        batches=tuple(_batches(cases)),
        sizes=tuple(_sizes(everything)),
        parts=tuple(_ledgers(cases)),
    )


def measured(results: Results) -> list[Measured]:
    """Cases in the order of the page, then the kernels of a bench."""
    return [*(case for group in groups(results) for case in group.cases), *results.primitives]


def _overview(cases: Sequence[CaseResult]) -> Place | None:
    """All engines at a glance, where there are several."""
    engines = distinct(case.engine for case in cases)
    if len(engines) < 2:
        return None
    fastest: dict[tuple[object, ...], CaseResult] = {}
    for case in cases:
        at = (case.network, case.mode, case.batch, case.device, case.threads)
        if at not in fastest or case.measured.value_s < fastest[at].measured.value_s:
            fastest[at] = case
    wins = [case.engine for case in fastest.values()]
    won = sorted(((wins.count(name), name) for name in engines if name in wins), reverse=True)
    said = ", ".join(f"{name} {count}" for count, name in won)
    return Place("overview", "Engines at a glance", f"Fastest in so many of {len(wins)}: {said}.")


def _times(shown: Iterable[Group]) -> Iterator[Place]:
    """A place for each group of cases that compute the same."""
    for number, group in enumerate(shown):
        if group.cases:
            ordered = sorted(group.cases, key=lambda case: case.measured.value_s)
            yield Place("times", _title(group), _extremes(ordered), {"group": number})


def _extremes(ordered: Sequence[CaseResult]) -> str:
    first, last = ordered[0], ordered[-1]
    said = f"{contender(first)} takes {duration(first.measured.value_s)}"
    if len(ordered) == 1:
        return f"{said}."
    return f"Fastest: {said}; slowest: {contender(last)}, {duration(last.measured.value_s)}."


def _errors(cases: Sequence[CaseResult]) -> Place | None:
    """How good the predictions are, where there are any."""
    found = accuracy(cases)
    if found is None:
        return None
    words = (
        f"Off by {magnitude(found.median_error)} in the median; {found.inside} of "
        f"{found.predicted} measured times lie inside the predicted interval."
    )
    return Place("errors", "Predictions against measured times", words)


def _stacks(shown: Iterable[Group]) -> Iterator[Place]:
    """A place for each group, with its engines' layers as stacks."""
    for number, group in enumerate(shown):
        known = [case for case in group.cases if case.predicted]
        if known:
            case = known[0]
            largest = max(case.layers, key=lambda layer: layer.engine_s or 0.0)
            seconds = largest.engine_s or 0.0
            part = share(seconds / case.predicted.value_s) if case.predicted else ""
            words = f"The largest layer of {contender(case)} is {largest.name}: {part}."
            yield Place("stacks", _title(group), words, {"group": number})


def _rooflines(everything: Sequence[Measured]) -> Iterator[Place]:
    """A place for each placement that kernels with arithmetic ran at."""
    for placement in distinct(map(placement_name, everything)):
        own = [one for one in everything if placement_name(one) == placement]
        rows = [row for one in own for row in kernel_rows(one)]
        points = [row for row in rows if row["flop_per_s"]]
        if points:
            best = max(points, key=lambda row: row["flop_per_s"])
            words = (
                f"{len(points)} of {len(rows)} kernels compute anything; the fastest reaches "
                f"{best['gflop']} in {best['engine']} ({best['what']})."
            )
            yield Place("roofline", f"Roofline, {placement}", words, {"placement": placement})


def _speedups(shown: Sequence[Group]) -> Iterator[Place]:
    """A place for each group of cases with several thread counts."""
    for number, group in enumerate(shown):
        found = over_threads(group.cases)
        if found:
            gains = {own[0].engine: _gain(own) for own in found}
            best = max(gains, key=lambda name: gains[name])
            words = (
                f"{found[0][-1].threads} threads make {best} {times(gains[best])} as fast as "
                f"{found[0][0].threads}, the most of {len(gains)}."
            )
            yield Place("speedups", _title(group), words, {"group": number})


def _gain(own: Sequence[CaseResult]) -> float:
    return own[0].measured.value_s / own[-1].measured.value_s


def _batches(cases: Sequence[CaseResult]) -> Iterator[Place]:
    """A place for each network, mode and placement with several batches."""
    found: dict[tuple[str, str, str], list[CaseResult]] = {}
    for own in over_batches(cases):
        found.setdefault((own[0].network, own[0].mode, placement_name(own[0])), []).extend(own)
    for (network, mode, placement), own in found.items():
        best = max(own, key=lambda case: case.batch / case.measured.value_s)
        words = (
            f"At most {significant(best.batch / best.measured.value_s)} samples per second: "
            f"{best.engine} at batch {best.batch}."
        )
        only = {"network": network, "mode": mode, "placement": placement}
        yield Place("batches", f"{network}, {mode}, {placement}", words, only)


def _sizes(everything: Sequence[Measured]) -> Iterator[Place]:
    """A place for each kind of compute-bound primitive, with its pass and placement to choose."""
    rows = [row for one in everything for row in size_rows(one)]
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        if own:
            best = max(own, key=lambda row: row["flop_per_s"])
            sizes = len(distinct(row["size"] for row in own))
            words = (
                f"{counted(sizes, 'size')}; the fastest is {best['size']} in {best['engine']}, "
                f"{significant(best['flop_per_s'] / 1e9)} GFLOP/s."
            )
            names = {"pass": f"{kind} pass", "placement": f"{kind} placement"}
            choices = {name: distinct(row[key] for row in own) for key, name in names.items()}
            yield Place("sizes", kind, words, {"kind": kind}, names, choices)


def _ledgers(cases: Sequence[CaseResult]) -> Iterator[Place]:
    """A place for each engine of which one knows where the time goes."""
    for engine in distinct(case.engine for case in with_ledger(cases)):
        known = [case for case in with_ledger(cases) if case.engine == engine]
        words = f"The parts of {len(known)} cases of {engine}, as shares of their time."
        yield Place("parts", engine, words, {"engine": engine})


def _title(group: Group) -> str:
    return f"{group.network}, {workload(group.cases[0])}"
