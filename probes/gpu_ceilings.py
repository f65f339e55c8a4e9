"""What a GPU cannot exceed: products, traffic and launches, as an engine's own kernels reach them.

Ceilings are maxima, so the best of many short windows counts, between marks in the stream.  All
loops take turns for some rounds, so that a card that is warm or busy for a while slows none of
them down in all of its rounds.  The numbers are random: products of zeros take less power, and
are faster than any real one on a card whose power is capped.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Callable

from .device import DeviceArrays, Stream
from .engine import Call, Engine, Unsupported
from .failure import failure_of
from .wire import Message

ITEM_BYTES = {"float32": 4, "tf32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
SIZES = (2048, 4096, 8192, 16384)  # of square products
L2_SHARES = (0.25, 0.5)  # of the last cache, which holds other things too
L2, DRAM = "L2", "DRAM"
DRAM_TIMES_L2 = 8
LEAST_DRAM_BYTES = 2**29
ARRAYS = {"read": 1, "write": 1, "copy": 2, "triad": 3}  # read or written by each operation
COLUMNS = 1024  # of the arrays that are only moved
FREE_SHARE = 0.25  # of the card's memory that is taken at a time
LONGEST_NS = 400 * 10**6  # of a product; larger ones are left out
MOST_CALLS = 500  # a launch queue holds about a thousand
LAUNCHES = 200
ANSWERS = 50


@dataclass(frozen=True)
class Budget:
    """In how many rounds each loop has how many windows, and how long one is at least."""

    rounds: int = 3
    windows: int = 5
    window_ns: int = 2 * 10**6


@dataclass(frozen=True)
class Loop:
    """A call of ``work`` units, which are flop or bytes.

    ``kind`` is a dtype, or a level of memory and an operation; ``size`` are the rows of a product,
    or the bytes that the operation works on.
    """

    kind: tuple[str, ...]
    size: int
    work: int
    prepare: Callable[[], Call]
    replays: bool = False  # so short that the CPU does not keep up


def measure(engine: Engine, budget: Budget = Budget()) -> Message:
    """All ceilings of the engine's GPU: rates per second of each window, by loop; takes seconds.

    ``arithmetic`` has rows of dtype, size and rates, ``memory`` of level, operation, bytes and
    rates, ``launch_ns`` what the shortest kernels took by how they were launched, and ``skipped``
    what could not be measured, and why.

    Raises:
        Unsupported: the engine computes on no GPU, or offers no arrays there.
    """
    if engine.stream is None:
        raise Unsupported("ceilings of a GPU: the engine computes on the CPU")
    arrays = engine.arrays()
    with engine.scope(False):
        loops = [*product_loops(arrays), *memory_loops(arrays)]
        found, skipped = _take_turns(engine.stream, loops, budget)
        launch_ns = launches(arrays, engine.stream)
    rows = [(len(loop.kind) == 1, [*loop.kind, loop.size, rates]) for loop, rates in found]
    return {
        "arithmetic": [row for multiplies, row in rows if multiplies],
        "memory": [row for multiplies, row in rows if not multiplies],
        "launch_ns": launch_ns,
        "l2_bytes": arrays.l2_bytes,
        "skipped": skipped,
    }


def product_loops(arrays: DeviceArrays) -> list[Loop]:
    """Square products of each type, the small ones first."""
    room = arrays.free_bytes * FREE_SHARE
    return [
        Loop((dtype,), size, 2 * size**3, _product(arrays, dtype, size))
        for dtype in arrays.dtypes
        for size in SIZES
        if 3 * size * size * ITEM_BYTES[dtype] <= room
    ]


def _product(arrays: DeviceArrays, dtype: str, size: int) -> Callable[[], Call]:
    def prepare() -> Call:
        a, b, out = [arrays.random(size, size, dtype) for _ in range(3)]
        return lambda: arrays.product(dtype, a, b, out)

    return prepare


def memory_loops(arrays: DeviceArrays) -> list[Loop]:
    """Every operation on data within the last cache, and far beyond it."""
    beyond = max(DRAM_TIMES_L2 * arrays.l2_bytes, LEAST_DRAM_BYTES)
    sets = [(L2, int(share * arrays.l2_bytes)) for share in L2_SHARES if arrays.l2_bytes]
    sets.append((DRAM, min(beyond, int(arrays.free_bytes * FREE_SHARE))))
    loops = []
    for level, set_bytes in sets:
        for operation, count in ARRAYS.items():
            rows = max(set_bytes // (count * COLUMNS * 4), 1)
            moved = rows * COLUMNS * 4 * count
            prepare = _move(arrays, operation, rows)
            loops.append(Loop((level, operation), moved, moved, prepare, level == L2))
    return loops


def _move(arrays: DeviceArrays, operation: str, rows: int) -> Callable[[], Call]:
    def prepare() -> Call:
        own = [arrays.random(rows, COLUMNS, "float32") for _ in range(ARRAYS[operation])]
        move = getattr(arrays, operation)
        return lambda: move(*own)

    return prepare


def _take_turns(
    stream: Stream, loops: list[Loop], budget: Budget
) -> tuple[list[tuple[Loop, list[float]]], list[list[str]]]:
    """The rates of every loop that could run, and what could not, with the reason."""
    rates: list[list[float]] = [[] for _ in loops]
    unable: dict[int, str] = {}
    for _ in range(budget.rounds):
        for place, loop in enumerate(loops):
            if place not in unable and _is_too_long(loops, rates, place):
                unable[place] = "takes too long on this card"
            if place in unable:
                continue
            try:
                rates[place] += windows(stream, loop, budget)
            except Exception as error:  # a type that an engine lacks is no reason to stop
                unable[place] = failure_of(error)["reason"]
    found = [(loop, seen) for loop, seen in zip(loops, rates) if seen]
    skipped = [[" ".join(loops[p].kind), str(loops[p].size), why] for p, why in unable.items()]
    return found, skipped


def _is_too_long(loops: list[Loop], rates: list[list[float]], place: int) -> bool:
    """As the largest of the smaller products of its type foretells, if there is one."""
    loop = loops[place]
    smaller = [p for p in range(place) if loops[p].kind == loop.kind and rates[p]]
    return bool(smaller) and loop.work / max(rates[smaller[-1]]) * 1e9 > LONGEST_NS


def windows(stream: Stream, loop: Loop, budget: Budget) -> list[float]:
    """What was reached per second in each window of a loop."""
    call = loop.prepare()
    _elapsed_ns(stream, call)  # the first one chooses an algorithm, and loads it
    once_ns = max(_elapsed_ns(stream, call), 1)
    calls = min(max(-(-budget.window_ns // once_ns), 1), MOST_CALLS)
    block = _replayed(stream, call, calls) if loop.replays else _repeated(call, calls)
    _elapsed_ns(stream, block)
    taken_ns = [_elapsed_ns(stream, block) for _ in range(budget.windows)]
    return [loop.work * calls * 1e9 / max(ns, 1) for ns in taken_ns]


def _repeated(call: Call, calls: int) -> Call:
    def block() -> None:
        for _ in range(calls):
            call()

    return block


def _replayed(stream: Stream, call: Call, calls: int) -> Call:
    """Without the CPU, where the engine can record the calls."""
    try:
        return stream.graph(call, calls)
    except Unsupported:
        return _repeated(call, calls)


def _elapsed_ns(stream: Stream, call: Call) -> int:
    first = stream.mark()
    call()
    last = stream.mark()
    stream.finish()
    return stream.elapsed_ns(first, last)


def launches(arrays: DeviceArrays, stream: Stream) -> dict[str, float]:
    """Nanoseconds of the least kernel: queued behind others, replayed, and waited for."""
    small = arrays.random(1, COLUMNS, "float32")

    def least() -> None:
        arrays.write(small)

    found = {
        "queued": _least_ns(stream, _repeated(least, LAUNCHES)) / LAUNCHES,
        "answered": float(_answered_ns(stream, least)),
    }
    with suppress(Unsupported):
        found["replayed"] = _least_ns(stream, stream.graph(least, LAUNCHES)) / LAUNCHES
    return found


def _least_ns(stream: Stream, block: Call) -> int:
    _elapsed_ns(stream, block)
    return min(_elapsed_ns(stream, block) for _ in range(ANSWERS))


def _answered_ns(stream: Stream, call: Call) -> int:
    """From the call until the CPU knows that it is done, with nothing else in the queue."""
    taken_ns = []
    stream.finish()
    for _ in range(ANSWERS):
        before_ns = time.perf_counter_ns()
        call()
        stream.finish()
        taken_ns.append(time.perf_counter_ns() - before_ns)
    return min(taken_ns)
