"""What cases are called in prose, tables and charts."""

from __future__ import annotations

from kernelprof.results import CaseResult, FailureResult
from kernelprof.units import count, counted


def placement(case: CaseResult | FailureResult) -> str:
    """Where a case ran: its threads, and its device when that is not the CPU."""
    threads = counted(case.threads, "thread")
    device = case.device if isinstance(case, CaseResult) else "cpu"
    return threads if device == "cpu" else f"{device}, {threads}"


def contender(case: CaseResult | FailureResult) -> str:
    """What tells a case from the others of its network, mode and batch."""
    return f"{case.engine}, {placement(case)}"


def workload(case: CaseResult | FailureResult) -> str:
    """What is computed: mode and batch."""
    return f"{case.mode}, batch {count(case.batch)}"


def full_name(case: CaseResult | FailureResult) -> str:
    """All that tells a case from every other."""
    return f"{case.network}, {workload(case)}, {contender(case)}"


def short_name(case: CaseResult | FailureResult) -> str:
    """All that tells a case from every other, where room is dear."""
    return f"{case.network} {case.mode} {count(case.batch)}, {contender(case)}"


def of_engine(case: CaseResult) -> str:
    """All that tells a case from the others of its engine."""
    return f"{case.network} {case.mode} {count(case.batch)}, {placement(case)}"
