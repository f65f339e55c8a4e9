"""What a machine cannot exceed, as measured: arithmetic, and traffic with each level of memory.

Ceilings belong to a machine and a thread count, and are kept in a file per machine, which is named
by its fingerprint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from kernelprof.engines import home
from kernelprof.errors import KernelprofError
from kernelprof.probes.device import CPU
from kernelprof.units import counted, rate

SCHEMA = 1
L2 = "L2"
DRAM = "DRAM"
CLOCK_TOLERANCE = 1.1  # the clock is measured too, at another moment


@dataclass(frozen=True)
class Rate:
    """What was reached per second: at best, and in the median of so many windows."""

    best_per_s: float
    median_per_s: float
    windows: int

    @classmethod
    def of(cls, windows: Sequence[float]) -> Rate:
        """The rate that these windows show; only the best one is a ceiling."""
        return cls(max(windows), median(windows), len(windows))


@dataclass(frozen=True)
class FlopCeiling:
    """The most flop per second with one instruction set.

    ``loop`` is what the loop was compiled to, and ``doubts`` what speaks against the rate, which
    then is no ceiling.
    """

    isa: str
    dtype: str
    rate: Rate
    loop: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class BytesCeiling:
    """The most bytes per second of one operation on so many bytes per thread."""

    level: str
    operation: str
    thread_bytes: int
    rate: Rate


AnyCeiling = TypeVar("AnyCeiling", FlopCeiling, BytesCeiling)


@dataclass(frozen=True)
class PlacementCeilings:
    """The ceilings of a thread count on the CPUs that it is pinned to, or of a GPU (no CPUs).

    ``capacity_bytes`` is what the caches of each level that these CPUs share hold together, the
    nearest first; beyond them lies the DRAM.  ``clock_hz`` is None where a GPU does not tell.
    ``launch_s`` is what a GPU's shortest kernel takes, by how it is launched, and ``lacking`` are
    types of numbers and levels of memory that no engine could measure there, with the reason.
    """

    cpus: tuple[int, ...]
    measured: str
    clock_hz: Rate | None
    arithmetic: tuple[FlopCeiling, ...]
    memory: tuple[BytesCeiling, ...]
    capacity_bytes: Mapping[str, int]
    launch_s: Mapping[str, float] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)

    def flop_per_s(self, dtype: str, isa: str | None = None) -> float | None:
        """The highest rate that can be trusted, of all instruction sets or of one."""
        found = [
            one.rate.best_per_s
            for one in self.arithmetic
            if one.dtype == dtype and isa in (None, one.isa) and not one.doubts
        ]
        return max(found, default=None)

    def in_tf32(self) -> PlacementCeilings:
        """Those of an engine that may round the factors of its float32 products to TF32."""
        rounded = [replace(one, dtype="float32") for one in self.arithmetic if one.dtype == "tf32"]
        return replace(self, arithmetic=(*self.arithmetic, *rounded))

    def bytes_per_s(self, level: str) -> float | None:
        """The highest rate of any operation at this level.

        What a level further out can deliver, a nearer one can too, whatever noise may say.
        """
        outwards = [*self.capacity_bytes, DRAM]
        reached = outwards[outwards.index(level) :]
        found = [one.rate.best_per_s for one in self.memory if one.level in reached]
        return max(found, default=None)

    def level(self, size_bytes: int) -> str:
        """The nearest level that holds so much."""
        holding = (name for name, room in self.capacity_bytes.items() if size_bytes <= room)
        return next(holding, DRAM)

    def raised(self, other: PlacementCeilings) -> PlacementCeilings:
        """The higher of each rate: what was reached once can be reached."""
        arithmetic = _higher_of_each(
            {(one.isa, one.dtype): one for one in self.arithmetic},
            {(one.isa, one.dtype): one for one in other.arithmetic},
        )
        memory = _higher_of_each(
            {(one.level, one.operation): one for one in self.memory},
            {(one.level, one.operation): one for one in other.memory},
        )
        known = {*(one.dtype for one in arithmetic), *(one.level for one in memory)}
        lacking = {**other.lacking, **self.lacking}
        return replace(
            self,
            arithmetic=arithmetic,
            memory=memory,
            lacking={what: why for what, why in lacking.items() if what not in known},
            launch_s={
                how: min(both[how] for both in (self.launch_s, other.launch_s) if how in both)
                for how in {**self.launch_s, **other.launch_s}
            },
        )


def _higher_of_each(
    own: Mapping[Hashable, AnyCeiling], others: Mapping[Hashable, AnyCeiling]
) -> tuple[AnyCeiling, ...]:
    """The higher one where both have it, then what only the others have."""
    higher = [_higher(one, others.get(key)) for key, one in own.items()]
    return tuple(higher + [one for key, one in others.items() if key not in own])


def _higher(one: AnyCeiling, other: AnyCeiling | None) -> AnyCeiling:
    better = other is not None and other.rate.best_per_s > one.rate.best_per_s
    return other if better and other is not None else one


@dataclass(frozen=True)
class Ceilings:
    """All ceilings that are known of a machine: by thread count, and those of its GPUs by name."""

    fingerprint: str
    placements: Mapping[int, PlacementCeilings]
    devices: Mapping[str, PlacementCeilings] = field(default_factory=dict)

    def of(self, device: str, threads: int) -> PlacementCeilings | None:
        """Those of a GPU, or of so many threads on the CPU; None where they were not measured."""
        if device in self.devices:
            return self.devices[device]
        return self.placements.get(threads) if device == CPU else None

    def at(self, threads: int, device: str = CPU) -> PlacementCeilings:
        """Those of a thread count on the CPU, or of a GPU.

        Raises:
            KernelprofError: they were not measured.
        """
        found = self.of(device, threads)
        if found is None and device != CPU:
            raise KernelprofError(
                f"no ceilings of {device} were measured; run `kernelprof machine --device {device}`"
            )
        if found is None:
            known = ", ".join(map(str, sorted(self.placements))) or "none"
            raise KernelprofError(
                f"no ceilings of {counted(threads, 'thread')} were measured, only of {known}; "
                f"run `kernelprof machine --threads {threads}`"
            )
        return found

    def raised(self, other: Ceilings) -> Ceilings:
        """With the higher rates of thread counts that both know on the same CPUs."""
        found = {
            threads: at.raised(also)
            if (also := other.placements.get(threads)) is not None and also.cpus == at.cpus
            else at
            for threads, at in self.placements.items()
        }
        devices = {
            name: at.raised(other.devices[name]) if name in other.devices else at
            for name, at in self.devices.items()
        }
        return Ceilings(
            self.fingerprint, {**other.placements, **found}, {**other.devices, **devices}
        )

    def summary(self) -> dict[str, dict[str, float]]:
        """The highest rates by thread count or GPU, as reports show them."""
        found: dict[str, dict[str, float]] = {}
        for name, known in [*sorted(self.placements.items()), *sorted(self.devices.items())]:
            rates = {
                f"{dtype}_flop_per_s": known.flop_per_s(dtype)
                for dtype in dict.fromkeys(one.dtype for one in known.arithmetic)
            } | {
                f"{level}_bytes_per_s": known.bytes_per_s(level)
                for level in dict.fromkeys(one.level for one in known.memory)
            }
            for what, per_s in rates.items():
                if per_s is not None:
                    found.setdefault(what, {})[str(name)] = per_s
        return found

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` turns back."""
        return {
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "placements": {str(threads): asdict(at) for threads, at in self.placements.items()},
            "devices": {name: asdict(at) for name, at in self.devices.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Ceilings:
        """What ``to_json`` wrote.

        Raises:
            ValueError: another version of kernelprof wrote it.
        """
        if stored["schema"] != SCHEMA:
            raise ValueError(f"schema {stored['schema']} of ceilings; this version reads {SCHEMA}")
        placements = {int(threads): _placement(at) for threads, at in stored["placements"].items()}
        devices = {name: _placement(at) for name, at in stored.get("devices", {}).items()}
        return cls(stored["fingerprint"], placements, devices)


def _placement(stored: Mapping[str, Any]) -> PlacementCeilings:
    arithmetic = (
        one | {"rate": Rate(**one["rate"]), "doubts": tuple(one["doubts"])}
        for one in stored["arithmetic"]
    )
    memory = (one | {"rate": Rate(**one["rate"])} for one in stored["memory"])
    return PlacementCeilings(
        cpus=tuple(stored["cpus"]),
        measured=stored["measured"],
        clock_hz=Rate(**stored["clock_hz"]) if stored["clock_hz"] else None,
        arithmetic=tuple(FlopCeiling(**one) for one in arithmetic),
        memory=tuple(BytesCeiling(**one) for one in memory),
        capacity_bytes=dict(stored["capacity_bytes"]),
        launch_s=dict(stored.get("launch_s", {})),
        lacking=dict(stored.get("lacking", {})),
    )


def implausible(flop_per_s: float, clock_hz: float, flop_per_cycle: int) -> Iterator[str]:
    """What speaks against a rate: no core does more than that in a cycle of its clock."""
    limit = clock_hz * flop_per_cycle
    if flop_per_s > limit * CLOCK_TOLERANCE:
        yield f"{rate(flop_per_s)} are more than {flop_per_cycle} flop per cycle, {rate(limit)}"


def kept_in(fingerprint: str) -> Path:
    """The file of a machine's ceilings."""
    return home() / "machines" / f"{fingerprint}.json"


def load(fingerprint: str) -> Ceilings:
    """What is known of a machine; nothing where the file is damaged or of another version."""
    try:
        return Ceilings.from_json(json.loads(kept_in(fingerprint).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return Ceilings(fingerprint, {})


def save(known: Ceilings) -> None:
    """Keep what is known, all of it or nothing.

    Raises:
        KernelprofError: the file cannot be written.
    """
    path = kept_in(known.fingerprint)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(known.to_json(), indent=1))
        unfinished.replace(path)
    except OSError as error:
        raise KernelprofError(f"cannot keep the ceilings in {path}: {error.strerror}") from error
