"""A machine as tables: how it is built, and what it cannot exceed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kernelprof.ceilings import Ceilings, PlacementCeilings
from kernelprof.gpu.devices import GpuDevice
from kernelprof.machine import Machine
from kernelprof.topology import listed
from kernelprof.units import counted, duration, gflop, rate, share, significant, size

from .lines import printable
from .text_table import NONE, add_number_columns, or_none, text_table

BUSY_SHARE = 0.8  # of the best, that the median window reaches on a machine with nothing else to do
DOUBTED = "?"
CONVENTIONS_OF_GPU = (
    "The best of many short windows between events of CUDA: of square products of random numbers, "
    "and of traffic that counts each byte read and each byte written."
)
LAUNCHED = {
    "queued": "one behind the other",
    "replayed": "in a graph",
    "answered": "until the CPU knows that it is done",
}
CONVENTIONS = (
    "The best of many short windows, one thread pinned to each CPU. A multiply-add is 2 flop. "
    "Traffic counts each byte read and each byte written; what a cache fetches only to overwrite "
    "it does not count."
)

Row = tuple[str, ...]
Cell = tuple[float, tuple[str, ...]]  # a rate, and what speaks against it


def machine_json(
    machine: Machine, ceilings: Ceilings, cards: Sequence[GpuDevice] = ()
) -> dict[str, Any]:
    """The machine, its GPUs if there are any, and the ceilings, for scripts."""
    gpus = {"gpus": {card.device: card.to_json() for card in cards}} if cards else {}
    return {**machine.to_json(), **gpus, "ceilings": ceilings.to_json()}


def machine_tables(machine: Machine, ceilings: Ceilings, cards: Sequence[GpuDevice] = ()) -> Group:
    """How the machine is built, its ceilings by thread count, then its GPUs and theirs."""
    parts: list[RenderableType] = [topology_table(machine)]
    if ceilings.placements:
        counts = sorted(ceilings.placements.items())
        known = {counted(threads, "thread"): at for threads, at in counts}
        parts += _ceilings(known, [CONVENTIONS, *_notes(ceilings)])
    for card in cards:
        parts += ["", gpu_table(card)]
    if ceilings.devices:
        lines = [CONVENTIONS_OF_GPU, *_notes_of_gpus(ceilings)]
        parts += _ceilings(ceilings.devices, lines)
    return Group(*parts)


def _ceilings(known: Mapping[str, PlacementCeilings], lines: list[str]) -> list[RenderableType]:
    return [
        *("", arithmetic_table(known), "", memory_table(known), ""),
        *(Text(line) for line in lines),
    ]


def gpu_table(card: GpuDevice) -> Table:
    """A fact of a card per row."""
    table = text_table(card.device, "")
    megahertz = "to {:,.0f} MHz"
    for name, value in {
        "card": card.name,
        "driver": f"{card.driver}, for CUDA {card.cuda}",
        "compute capability": card.capability,
        "multiprocessors": or_none(card.sms, str),
        "SM clock": or_none(card.max_sm_hz, lambda hz: megahertz.format(hz / 1e6)),
        "memory clock": or_none(card.max_memory_hz, lambda hz: megahertz.format(hz / 1e6)),
        "L2 cache": or_none(card.l2_bytes, size),
        "memory": size(card.memory_bytes),
        "ECC": or_none(card.ecc, lambda on: "on" if on else "off"),
        "power limit": or_none(card.power_limit_w, "{:.0f} W".format),
        "fingerprint": card.fingerprint,
    }.items():
        table.add_row(name, printable(value))
    return table


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


def arithmetic_table(known: Mapping[str, PlacementCeilings]) -> Table:
    """GFLOP/s: an instruction set and type per row, a thread count or a GPU per column."""
    cells: dict[Row, dict[str, Cell]] = {}
    for name, at in known.items():
        for one in at.arithmetic:
            cells.setdefault((one.isa, one.dtype), {})[name] = one.rate.best_per_s, one.doubts
    return _rates_table("Arithmetic, GFLOP/s", "type", cells, known, gflop)


def memory_table(known: Mapping[str, PlacementCeilings]) -> Table:
    """GB/s: an operation on the data of a level per row, a thread count or a GPU per column."""
    cells: dict[Row, dict[str, Cell]] = {}
    for name, at in known.items():
        for one in at.memory:
            cells.setdefault((one.level, one.operation), {})[name] = one.rate.best_per_s, ()
    return _rates_table("Memory, GB/s", "operation", cells, known, _gigabytes)


def _gigabytes(bytes_per_s: float) -> str:
    return significant(bytes_per_s / 1e9)


def _rates_table(
    title: str,
    heading: str,
    cells: dict[Row, dict[str, Cell]],
    columns: Collection[str],
    write: Callable[[float], str],
) -> Table:
    """The first name of a row is said once for all rows that start with it."""
    table = text_table(title, heading)
    add_number_columns(table, *columns)
    before = ""
    for (first, *others), row in cells.items():
        numbers = [_number(row.get(column), write) for column in columns]
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
        yield f"{where}: {_measured(known)}"
        yield from _doubts(counted(threads, "thread"), known)


def _notes_of_gpus(ceilings: Ceilings) -> Iterator[str]:
    for device, known in sorted(ceilings.devices.items()):
        yield f"{device}: {_measured(known)}"
        taken = [
            f"{duration(known.launch_s[how])} {words}"
            for how, words in LAUNCHED.items()
            if how in known.launch_s
        ]
        if taken:
            yield f"{device}: the shortest kernel takes {', '.join(taken)}."
        for what, why in known.lacking.items():
            yield f"{device}: {what} could not be measured: {why}."
        yield from _doubts(device, known)


def _measured(known: PlacementCeilings) -> str:
    seen = known.clock_hz
    clock = f"clock {significant(seen.best_per_s / 1e9)} GHz" if seen else "clock not shown"
    return f"{clock}, measured {known.measured}.{_busy(known)}"


def _doubts(where: str, known: PlacementCeilings) -> Iterator[str]:
    for one in known.arithmetic:
        for doubt in one.doubts:
            what = f"{rate(one.rate.best_per_s)}, {one.isa} {one.dtype}"
            yield f"{DOUBTED} {where}, {what}: {doubt}"


def _busy(known: PlacementCeilings) -> str:
    rates = [one.rate for one in known.arithmetic] + [one.rate for one in known.memory]
    typical = median(one.median_per_s / one.best_per_s for one in rates)
    if typical >= BUSY_SHARE:
        return ""
    return f" The machine was busy: half of the windows reached less than {share(typical)} of this."
