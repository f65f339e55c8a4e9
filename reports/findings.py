"""Findings: grouped into causes by size, in words, as a table, and for scripts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from kernelprof.diagnosis.ledger import JUDGED_SHARE, KERNELS, UPDATING
from kernelprof.probes.device import CPU
from kernelprof.results import CaseResult, Finding, Saving
from kernelprof.units import counted, duration, share

from .labels import of_engine
from .ledger import JUDGED, diagnosis_of, part_s, signed_duration, with_ledger
from .lines import printable
from .text_table import NONE, add_number_columns, text_table

CONFIRMED, NOT_CONFIRMED, NOT_TRIED = "confirmed", "not confirmed", "not tried"


@dataclass(frozen=True)
class Instance:
    """A finding in its case.  Its size is what is lost to it, or what could be where none knows."""

    case: CaseResult
    finding: Finding

    @property
    def is_known(self) -> bool:
        """Whether its seconds are, and not only what they are at most."""
        return self.finding.seconds is not None

    @property
    def size_s(self) -> float:
        """What it costs a call."""
        known_s = self.finding.seconds
        return self.finding.at_most_s if known_s is None else known_s

    @property
    def share(self) -> float:
        """Of the measured time of its case."""
        return self.size_s / self.case.measured.value_s

    @property
    def costs(self) -> str:
        """What it costs, in words."""
        return f"{_up_to(self)}{duration(self.size_s)}"


@dataclass(frozen=True)
class Cause:
    """A cause with all cases that it was found in, the one that is known to cost most first."""

    name: str
    instances: tuple[Instance, ...]

    @property
    def worst(self) -> Instance:
        """The case that it costs most."""
        return self.instances[0]

    @property
    def is_known(self) -> bool:
        """Whether it is known of a case what it costs there."""
        return self.worst.is_known

    @property
    def size_s(self) -> float:
        """Over all cases in which that is known; or at most, where it is known in none."""
        return sum(one.size_s for one in self.instances if one.is_known == self.is_known)

    @property
    def cases(self) -> int:
        """In how many cases it was found."""
        return len({id(one.case) for one in self.instances})

    @property
    def tried(self) -> tuple[Instance, ...]:
        """Where a change that takes it away was tried."""
        return tuple(one for one in self.instances if one.finding.actual is not None)

    @property
    def is_refuted(self) -> bool:
        """Whether it was tried, and taking it away saved nothing anywhere."""
        actual = [one.finding.actual for one in self.tried]
        return bool(actual) and all(saving is not None and saving.low_s <= 0 for saving in actual)

    @property
    def is_notable(self) -> bool:
        """Whether it costs some case so much that it is worth a verdict."""
        return not self.is_refuted and any(one.share > JUDGED_SHARE for one in self.instances)

    @property
    def status(self) -> str:
        """Whether trying a change confirmed it."""
        confirmed = sum(one.finding.confirmed is True for one in self.tried)
        if not self.tried:
            return NOT_TRIED
        if confirmed == len(self.tried):
            return CONFIRMED
        return f"{confirmed} of {len(self.tried)} {CONFIRMED}" if confirmed else NOT_CONFIRMED

    @property
    def savings(self) -> str:
        """What a change is foretold to save, and what it saved where it was tried."""
        finding = (self.tried or self.instances)[0].finding
        if finding.actual is None:
            return f"{signed_duration(finding.foretold.value_s)} ->" if finding.foretold else NONE
        actual = signed_duration(finding.actual.value_s)
        foretold_s = finding.foretold.value_s if finding.foretold else finding.seconds
        if finding.between_kernels or foretold_s is None:
            return f"{NONE} -> {actual}"
        return f"{signed_duration(foretold_s)} -> {actual}"


def diagnosed(cases: Sequence[CaseResult], engine: str) -> list[CaseResult]:
    """The cases of an engine that were diagnosed."""
    return [case for case in cases if case.engine == engine and case.diagnosis is not None]


def diagnosed_engines(cases: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    """The diagnosed cases of each engine that has some."""
    engines = dict.fromkeys(case.engine for case in cases if case.diagnosis is not None)
    return {engine: diagnosed(cases, engine) for engine in engines}


def causes(cases: Sequence[CaseResult]) -> list[Cause]:
    """The causes that were found in diagnosed cases, by size.

    Those whose size is not known come after the others, and those that a trial refuted last.
    """
    found: dict[str, list[Instance]] = {}
    for case in cases:
        for finding in diagnosis_of(case).findings:
            found.setdefault(finding.cause, []).append(Instance(case, finding))
    grouped = [
        Cause(name, tuple(sorted(instances, key=lambda one: (not one.is_known, -one.size_s))))
        for name, instances in found.items()
    ]
    return sorted(grouped, key=lambda c: (c.is_refuted, not c.is_known, -c.size_s))


def diagnosis_verdict(cases: Sequence[CaseResult], engine: str) -> str:
    """What an engine loses most to in its diagnosed cases; or that it loses to nothing much."""
    notable = [cause for cause in causes(cases) if cause.is_notable]
    if not notable:
        return _healthy(cases, engine)
    first = notable[0]
    worst = first.worst
    loses = "may lose" if worst.finding.seconds is None else "loses"
    at_worst = f"{worst.costs} of {duration(worst.case.measured.value_s)}"
    if len(cases) == 1:
        what = f"{at_worst} ({share(worst.share)})"
    else:
        total_s = sum(case.measured.value_s for case in cases)
        what = (
            f"{_up_to(worst)}{share(min(first.size_s / total_s, 1.0))} of the time of its "
            f"{len(cases)} cases, at worst {at_worst}"
        )
    return f"{engine} {loses} most to {first.name}: {what} in {of_engine(worst.case)}."


def _healthy(cases: Sequence[CaseResult], engine: str) -> str:
    """That nothing was found, and how fast the kernels are that the time goes to."""
    found = f"Nothing above {JUDGED} was found in {engine}"
    known = with_ledger(cases)
    if not known:
        return f"{found}, but no profile tells where the time goes."
    total_s = sum(case.measured.value_s for case in known)
    part = share(sum(map(_kernels_s, known)) / total_s)
    whose = "its case" if len(known) == 1 else f"its {len(known)} cases"
    return f"{found}: {part} of the time of {whose} is kernels{_at_ceiling(known)}."


def _at_ceiling(cases: Sequence[CaseResult]) -> str:
    limited = [case for case in cases if case.ceiling_s is not None and _kernels_s(case)]
    if not limited:
        return ""
    least_s = sum(case.ceiling_s or 0.0 for case in limited)
    return f", at {share(least_s / sum(map(_kernels_s, limited)))} of the machine's ceiling"


def _kernels_s(case: CaseResult) -> float:
    """What the kernels take, those that update weights among them, as in the ceilings."""
    return part_s(case, KERNELS) + part_s(case, UPDATING)


def _up_to(one: Instance) -> str:
    return "up to " if one.finding.seconds is None else ""


def causes_table(found: Sequence[Cause], most: int) -> Table:
    """A row for each of the largest causes, and one for the rest."""
    table = text_table("cause")
    add_number_columns(table, "worst case", "share", "cases")
    for heading in ("tried", "foretold -> actual"):
        table.add_column(heading, no_wrap=True)
    for cause in found[:most]:
        table.add_row(
            Text(printable(cause.name)),
            Text(cause.worst.costs),
            Text(share(cause.worst.share)),
            Text(str(cause.cases)),
            Text(cause.status),
            Text(cause.savings),
        )
    if rest := found[most:]:
        largest = max((cause.worst for cause in rest), key=lambda one: one.size_s)
        cells = (largest.costs, share(largest.share), str(_cases(rest)))
        table.add_row(Text(counted(len(rest), "smaller cause")), *map(Text, cells))
    return table


def _cases(found: Sequence[Cause]) -> int:
    return len({id(one.case) for cause in found for one in cause.instances})


def command(one: Instance) -> list[str]:
    """The words to type to repeat a case's network with the change; none where there is none."""
    if not one.finding.change:
        return []
    engine = printable(one.case.engine)
    unset = [f"-u {shlex.quote(name)}" for name, value in one.finding.change if value is None]
    words = [
        *("kernelprof run", shlex.quote(printable(one.case.network))),
        f"--engine {shlex.quote(engine)}",
    ]
    if one.case.device != CPU:
        words.append(f"--device {one.case.device}")
    for name, value in one.finding.change:
        if value is not None:
            words.append(f"--env {shlex.quote(f'{engine}:{name}={printable(value)}')}")
    return ["env", *unset, *words] if unset else words


def missing_sentence(cases: Sequence[CaseResult]) -> str:
    """What kinds of evidence could not be had, and why; nothing if all are there."""
    found: dict[tuple[str, str], int] = {}
    for case in cases:
        for what, reason in diagnosis_of(case).missing.items():
            kind = what.partition(" ")[0]  # of a trial its change follows
            found[kind, reason] = found.get((kind, reason), 0) + 1
    said = [
        f"{kind} ({reason})" + (f" in {counted(number, 'case')}" if number < len(cases) else "")
        for (kind, reason), number in found.items()
    ]
    return f"Missing evidence: {'; '.join(said)}." if said else ""


def findings_json(case: CaseResult) -> list[dict[str, Any]]:
    """The findings of a case for scripts; none where nothing was diagnosed."""
    found = case.diagnosis.findings if case.diagnosis else ()
    return [_finding_json(Instance(case, one)) for one in found]


def _finding_json(one: Instance) -> dict[str, Any]:
    finding = one.finding
    return {
        "cause": finding.cause,
        "seconds": finding.seconds,
        "share": None if finding.seconds is None else one.share,
        "at_most_s": finding.at_most_s,
        "evidence": finding.evidence,
        "try": finding.remedy,
        "change": dict(finding.change),
        **_saving_json("foretold", finding.foretold),
        **_saving_json("actual", finding.actual),
        "confirmed": finding.confirmed,
    }


def _saving_json(name: str, saving: Saving | None) -> dict[str, float | None]:
    return {
        f"{name}_s": saving.value_s if saving else None,
        f"{name}_low_s": saving.low_s if saving else None,
        f"{name}_high_s": saving.high_s if saving else None,
    }
