"""Where this process's threads may run and how large its pools are: read back, not assumed."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Optional

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


def openblas_threads() -> Optional[int]:
    """The size of OpenBLAS's pool in this process, or None where it is not loaded."""
    for path in _loaded_libraries("openblas"):
        library = ctypes.CDLL(path)
        for symbol in OPENBLAS_SYMBOLS:
            if hasattr(library, symbol):
                return int(getattr(library, symbol)())
    return None


def _loaded_libraries(name: str) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if name in Path(path).name)
