"""Ranges of one kind: those with the same names from the outermost range to their own.

A program may give each range a name of its own, with a counter or the number of a step in it.  What
is told of kinds must not grow with the trace, so such names are taken together; ``all_told`` says
not to, of a run of kernelprof, which has no more of them than kernels.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kernelprof.nsys.assign import NOWHERE, Codes, Places
from kernelprof.nsys.rows import Integers

MOST_NAMES = 1_000  # distinct ones; if there are more, numbers within names do not count
MOST_PATHS = 10_000  # on a level; of more, those that took the least time are taken together
OTHERS = "(others)"
COUNTERS = re.compile(r", (?:seq|op_id) = \d+|, input_op_ids = \[.*\]")  # of torch's emit_nvtx
NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Labels:
    """What ranges are called: a number for each origin and name."""

    origins: Codes  # of ranges
    codes: Codes  # of ranges, that stand for ``names``
    names: list[str]  # the first is ``OTHERS``

    def of(self, ranges: Places) -> Integers:
        """The labels of some ranges."""
        labels: Integers = self.origins[ranges] * np.int64(len(self.names)) + self.codes[ranges]
        return labels

    def origin(self, label: int) -> int:
        """Where a range of this label is from."""
        return label // len(self.names)

    def name(self, label: int) -> str:
        """What it is called."""
        return self.names[label % len(self.names)]


@dataclass(frozen=True)
class Paths:
    """The path of each range; of paths the one around, or ``NOWHERE``, and the last label."""

    of_range: Codes
    outer: list[int]
    label: list[int]

    def __len__(self) -> int:
        return len(self.label)

    def labels(self, path: int) -> list[int]:
        """The labels of a path from the outermost on."""
        labels = []
        while path != NOWHERE:
            labels.append(self.label[path])
            path = self.outer[path]
        return labels[::-1]


def grouped(names: Callable[[], Iterable[str]], all_told: bool = False) -> tuple[Codes, list[str]]:
    """A number for each name, and the names that the numbers stand for.

    Args:
        names: gives them, in the same order at each call: they are never all in memory.
        all_told: take none together.
    """
    most = sys.maxsize if all_told else MOST_NAMES
    few: set[str] = set()
    for name in map(_without_counters, names()):
        few.add(name)
        if len(few) > most:
            break
    shorten = _without_counters if len(few) <= most else _without_numbers
    numbers = {OTHERS: 0}
    found = array("i")
    for name in map(shorten, names()):
        if name not in numbers and len(numbers) <= most:
            numbers[name] = len(numbers)
        found.append(numbers.get(name, 0))
    return np.array(found, np.int32), list(numbers)


def paths(labels: Labels, parent: Places, lasted_ns: Integers, all_told: bool = False) -> Paths:
    """The paths of ranges, level by level; parents come before those that they enclose."""
    most = sys.maxsize if all_told else MOST_PATHS
    found = np.full(len(parent), NOWHERE, np.int32)
    outer: list[int] = []
    label: list[int] = []
    left = np.arange(len(parent), dtype=np.int32)
    while left.size:
        is_outermost = parent[left] == NOWHERE
        above = np.where(is_outermost, NOWHERE, found[parent[left]])
        now = is_outermost | (above != NOWHERE)
        own = left[now]
        keys, key = _level(above[now], labels.of(own), len(labels.names), lasted_ns[own], most)
        found[own] = key + len(label)
        outer += keys[0].tolist()
        label += keys[1].tolist()
        left = left[~now]
    return Paths(found, outer, label)


def _level(
    above: Codes, label: Integers, names: int, lasted_ns: Integers, most: int
) -> tuple[Integers, Integers]:
    """The distinct pairs of what is above and a label, and which of them each range has."""
    several = int(label.max()) + 1
    keys, key = np.unique((above + 1) * several + label, return_inverse=True)
    if len(keys) > most:
        sums_ns = np.zeros(len(keys), np.int64)
        np.add.at(sums_ns, key, lasted_ns)
        few = np.argsort(sums_ns)[:-most]
        keys[few] -= keys[few] % several % names  # the name at 0 is ``OTHERS``
        keys, fewer = np.unique(keys, return_inverse=True)
        key = fewer[key]
    return np.stack((keys // several - 1, keys % several)), key


def _without_counters(name: str) -> str:
    return COUNTERS.sub("", name)


def _without_numbers(name: str) -> str:
    return NUMBERS.sub("#", _without_counters(name))
