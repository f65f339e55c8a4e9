"""The order in which reports show cases: network by network, then like beside like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kernelprof.results import CaseResult, FailureResult, Results

Item = TypeVar("Item", CaseResult, FailureResult)
Shown = TypeVar("Shown")


@dataclass(frozen=True)
class Group:
    """The cases that compute the same, so that their times compare."""

    network: str
    mode: str
    batch: int
    cases: tuple[CaseResult, ...]
    failures: tuple[FailureResult, ...]


def groups(results: Results) -> list[Group]:
    """Every case and failure, networks as they came; in a group fewer threads and faster first."""
    everything: list[CaseResult | FailureResult] = [*results.cases, *results.failures]
    names = list(dict.fromkeys(item.network for item in everything))
    keys = {(item.network, item.mode, item.batch) for item in everything}
    return [
        Group(*key, _fastest_first(_of(key, results.cases)), _of(key, results.failures))
        for key in sorted(keys, key=lambda key: (names.index(key[0]), *key[1:]))
    ]


def networks(results: Results) -> dict[str, tuple[CaseResult, ...]]:
    """The measured cases of each network, in the order of their groups."""
    by_network: dict[str, tuple[CaseResult, ...]] = {}
    for group in groups(results):
        if group.cases:
            by_network[group.network] = by_network.get(group.network, ()) + group.cases
    return by_network


def largest(
    items: Sequence[Shown], most: int, size: Callable[[Shown], float]
) -> tuple[list[Shown], list[Shown]]:
    """The largest items, and those to fold into one row; both in the order that they came in."""
    by_size = sorted(range(len(items)), key=lambda place: size(items[place]), reverse=True)
    shown = set(by_size[:most])
    return (
        [item for place, item in enumerate(items) if place in shown],
        [item for place, item in enumerate(items) if place not in shown],
    )


def _of(key: tuple[str, str, int], items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(item for item in items if (item.network, item.mode, item.batch) == key)


def _fastest_first(cases: tuple[CaseResult, ...]) -> tuple[CaseResult, ...]:
    return tuple(sorted(cases, key=lambda case: (case.threads, case.measured.value_s)))
