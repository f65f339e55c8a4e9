"""A machine as tables: how it is built, and what it cannot exceed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kernelprof.ceilings import Ceilings, PlacementCeilings
from kernelprof.machine import Machine
from kernelprof.topology import listed
from kernelprof.units import counted, gflop, rate, share, significant, size

from .lines import printable
from .text_table import NONE, add_number_columns, or_none, text_table

BUSY_SHARE = 0.8  # of the best, that the median window reaches on a machine with nothing else to do
DOUBTED = "?"
CONVENTIONS = (
    "The best of many short windows, one thread pinned to each CPU. A multiply-add is 2 flop. "
    "Traffic counts each byte read and each byte written; what a cache fetches only to overwrite "
    "it does not count."
)

Row = tuple[str, ...]
Cell = tuple[float, tuple[str, ...]]  # a rate, and what speaks against it


def machine_json(machine: Machine, ceilings: Ceilings) -> dict[str, Any]:
    """The machine and its ceilings, for scripts."""
    return {**machine.to_json(), "ceilings": ceilings.to_json()}


def machine_tables(machine: Machine, ceilings: Ceilings) -> Group:
    """How the machine is built, then its ceilings by thread count."""
    parts: list[RenderableType] = [topology_table(machine)]
    if ceilings.placements:
        parts += ["", arithmetic_table(ceilings), "", memory_table(ceilings), ""]
        parts += [Text(line) for line in [CONVENTIONS, *_notes(ceilings)]]
    return Group(*parts)


def topology_table(machine: Machine) -> Table:
    """A fact per row."""
    table = text_table("Machine", "")
    for name, value in _facts(machine):
        table.add_row(name, printable(value))
    return table


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    guest = ", in a virtual machine" if machine.hypervisor else ""
    yield "processor", machine.processor + guest
    yield "instruction sets", ", ".join(machine.isa) or NONE
    threads = sorted({len(core) for core in machine.cores})
    yield (
        "cores",
        f"{machine.physical_cores} in {counted(machine.sockets, 'socket')}, "
        f"{' or '.join(map(str, threads))} CPU{'s' if threads != [1] else ''} each",
    )
    for name, same in machine.caches_by_name().items():
        sharers = counted(max(len(cache.cpus) for cache in same), "CPU")
        yield f"{name} cache", f"{len(same)} x {size(same[0].size_bytes)}, each for {sharers}"
    yield "memory", size(machine.memory_bytes)
    for node in machine.nodes:
        yield node.name, f"CPUs {listed(node.cpus)}, {size(node.memory_bytes)}"
    yield "clock", _clock(machine)
    yield "CPU quota", or_none(machine.quota_cpus, lambda quota: f"{quota:g} CPUs")
    yield "CPUs of the group", or_none(machine.cpuset, listed)
    yield "system", machine.system
    yield "fingerprint", machine.fingerprint


def _clock(machine: Machine) -> str:
    """What the system shows of it; a guest often sees nothing."""
    clock = machine.frequency
    turbo = {True: "turbo on", False: "turbo off", None: None}[clock.turbo]
    known = {
        "now {} MHz": clock.now_mhz,
        "from {} MHz": clock.min_mhz,
        "to {} MHz": clock.max_mhz,
        "governor {}": clock.governor,
        "{}": turbo,
    }
    words = [words.format(value) for words, value in known.items() if value is not None]
    return ", ".join(words) or "not shown by the system"


def arithmetic_table(ceilings: Ceilings) -> Table:
    """GFLOP/s: an instruction set and type per row, a thread count per column."""
    cells: dict[Row, dict[int, Cell]] = {}
    for threads, known in ceilings.placements.items():
        for one in known.arithmetic:
            row = cells.setdefault((one.isa, one.dtype), {})
            row[threads] = one.rate.best_per_s, one.doubts
    return _rates_table("Arithmetic, GFLOP/s", "type", cells, ceilings, gflop)


def memory_table(ceilings: Ceilings) -> Table:
    """GB/s: an operation on the data of a level per row, a thread count per column."""
    cells: dict[Row, dict[int, Cell]] = {}
    for threads, known in ceilings.placements.items():
        for one in known.memory:
            row = cells.setdefault((one.level, one.operation), {})
            row[threads] = one.rate.best_per_s, ()
    return _rates_table("Memory, GB/s", "operation", cells, ceilings, _gigabytes)


def _gigabytes(bytes_per_s: float) -> str:
    return significant(bytes_per_s / 1e9)


def _rates_table(
    title: str,
    heading: str,
    cells: dict[Row, dict[int, Cell]],
    ceilings: Ceilings,
    write: Callable[[float], str],
) -> Table:
    """The first name of a row is said once for all rows that start with it."""
    counts = sorted(ceilings.placements)
    table = text_table(title, heading)
    add_number_columns(table, *(counted(threads, "thread") for threads in counts))
    before = ""
    for (first, *others), row in cells.items():
        numbers = [_number(row.get(threads), write) for threads in counts]
        table.add_row("" if first == before else first, *others, *numbers)
        before = first
    return table


def _number(cell: Cell | None, write: Callable[[float], str]) -> str:
    if cell is None:
        return NONE
    per_s, doubts = cell
    return write(per_s) + (DOUBTED if doubts else "")


def _notes(ceilings: Ceilings) -> Iterator[str]:
    for threads, known in sorted(ceilings.placements.items()):
        where = f"{counted(threads, 'thread')} on CPU{'s'[: threads - 1]} {listed(known.cpus)}"
        clock = f"clock {significant(known.clock_hz.best_per_s / 1e9)} GHz"
        yield f"{where}: {clock}, measured {known.measured}.{_busy(known)}"
        for one in known.arithmetic:
            for doubt in one.doubts:
                what = f"{rate(one.rate.best_per_s)}, {one.isa} {one.dtype}"
                yield f"{DOUBTED} {counted(threads, 'thread')}, {what}: {doubt}"


def _busy(known: PlacementCeilings) -> str:
    rates = [one.rate for one in known.arithmetic] + [one.rate for one in known.memory]
    typical = median(one.median_per_s / one.best_per_s for one in rates)
    if typical >= BUSY_SHARE:
        return ""
    return f" The machine was busy: half of the windows reached less than {share(typical)} of this."
