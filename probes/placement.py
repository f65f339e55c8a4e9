"""Where this process's threads may run and how large its pools are: read back, not assumed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from pathlib import Path

OPENBLAS_SYMBOLS = (
    "scipy_openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads",
    "openblas_get_num_threads64_",
    "openblas_get_num_threads",
)


def thread_cpus() -> dict[int, tuple[int, ...]]:
    """The CPUs that each thread of this process may run on, by thread id."""
    allowed = {}
    for status in Path("/proc/self/task").glob("*/status"):
        try:
            lines = status.read_text().splitlines()
        except OSError:  # the thread ended meanwhile
            continue
        listed = next(line for line in lines if line.startswith("Cpus_allowed_list:"))
        allowed[int(status.parent.name)] = parse_cpus(listed.split(":", 1)[1])
    return allowed


def run_ns() -> dict[int, int]:
    """Nanoseconds that each thread of this process has run, by thread id."""
    found = {}
    for schedstat in Path("/proc/self/task").glob("*/schedstat"):
        try:
            found[int(schedstat.parent.name)] = int(schedstat.read_text().split()[0])
        except (OSError, IndexError):
            continue
    return found


def pin_busiest(
    cpus: tuple[int, ...],
    before: dict[int, int],
    caller: bool = True,
    pool: tuple[int, ...] = (),
) -> tuple[int, ...]:
    """Give each of the busiest threads a CPU of its own; the calling one, if busy, the first.

    Busiest are those that ran most since ``before``, as many as there are CPUs: the members of
    the engine's pool, to which the calling thread may not belong (``caller``): it then stays free.
    Left free, two of them may wake up on one CPU and stay there for several milliseconds.  The
    other threads keep all CPUs.  An engine that knows its ``pool`` has that pinned instead: what
    stands in for one of its members at times must find that one's CPU, whichever it is.

    Returns:
        The ids of the threads that have a CPU of their own now.
    """
    main = os.getpid()
    ran = {tid: ns - before.get(tid, 0) for tid, ns in run_ns().items()}
    if not caller:
        ran.pop(main, None)
    busiest = sorted(ran, key=lambda tid: -ran[tid])[: len(cpus)]
    pinned = pool or sorted(busiest, key=lambda tid: tid != main)
    for tid, cpu in zip(pinned, cpus):
        _allow(tid, {cpu})
    return tuple(pinned[: len(cpus)])


def unpin(cpus: tuple[int, ...]) -> None:
    """Let every thread run on all CPUs again: threads to come inherit what the first one may."""
    for tid in run_ns():
        _allow(tid, set(cpus))


def _allow(tid: int, cpus: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # the thread ended meanwhile
        os.sched_setaffinity(tid, cpus)


def wait_until_idle(patience_s: float = 0.1) -> None:
    """Return once no other thread of this process runs.

    Pools spin for a while after their work (OpenBLAS for 2**26 cycles), on CPUs that another
    engine's turn needs.
    """
    deadline = time.monotonic() + patience_s
    main = str(os.getpid())
    while time.monotonic() < deadline:
        stats = [p for p in Path("/proc/self/task").glob("*/stat") if p.parent.name != main]
        if not any(_is_running(stat) for stat in stats):
            return
        time.sleep(0.001)


def _is_running(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "R"
    except OSError:  # the thread ended meanwhile
        return False


def parse_cpus(text: str) -> tuple[int, ...]:
    """The CPU ids of a kernel list such as ``0-2,5``.

    >>> parse_cpus("0-2,5")
    (0, 1, 2, 5)
    """
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def openblas_threads() -> int | None:
    """The size of OpenBLAS's pool in this process, or None where it is not loaded."""
    for path in loaded_libraries("openblas"):
        library = ctypes.CDLL(path)
        for symbol in OPENBLAS_SYMBOLS:
            if hasattr(library, symbol):
                return int(getattr(library, symbol)())
    return None


def loaded_libraries(name: str) -> list[str]:
    """The paths of the libraries in this process whose file names hold ``name``."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    entries = [line.split(None, 5) for line in lines]
    paths = {entry[5] for entry in entries if len(entry) == 6}
    return sorted(path for path in paths if name in Path(path).name)


def return_memory() -> None:
    """Hand freed memory back to the system: glibc keeps it otherwise."""
    with contextlib.suppress(AttributeError):  # another C library keeps none, or has no such call
        ctypes.CDLL(None).malloc_trim(0)
