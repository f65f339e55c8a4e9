"""What is known of a machine or an engine, written for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kernelprof import units

WRITERS: dict[str, Callable[[Any], str]] = {  # by how the name of a number ends; longer ones first
    "_flop_per_s": units.rate,
    "_bytes_per_s": units.bandwidth,
    "_bytes": units.size,
    "_ns": lambda ns: units.duration(ns / 1e9),
    "_s": units.duration,
}


def facts(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values in reading order; what is nested gets the names above it in front."""
    return [(", ".join(names), text) for names, text in _flat(known, str)]


def _flat(
    known: Mapping[str, Any], write: Callable[[Any], str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, value in known.items():
        words, write_here = _unit_of(str(name), write)
        if isinstance(value, Mapping):
            for names, text in _flat(value, write_here):
                yield (words, *names), text
        else:
            yield (words,), _written(value, write_here)


def _unit_of(name: str, write: Callable[[Any], str]) -> tuple[str, Callable[[Any], str]]:
    """The name without its unit, and how numbers of that unit are written."""
    for ending, writer in WRITERS.items():
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " "), writer
    return name.replace("_", " "), write


def _written(value: Any, write: Callable[[Any], str], between: str = ", ") -> str:
    """A value; of a list within a list it shows what belongs together."""
    if value is None:
        return "not known"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return write(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return between.join(_written(item, write, " + ") for item in value)
    return str(value)
