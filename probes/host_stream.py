"""A GPU by the CPU's clock: for engines that show no stream, but can wait until all is done."""

from __future__ import annotations

import time
from typing import Any, Callable

from .device import HOST, Stream
from .engine import Unsupported


class HostStream(Stream):
    """Marks are moments of the CPU: a last one counts once ``finish`` has returned before it."""

    clock = HOST

    def __init__(self, finish: Callable[[], object]) -> None:
        self._finish = finish

    def mark(self) -> int:
        return time.perf_counter_ns()

    def elapsed_ns(self, first: int, last: int) -> int:
        return last - first

    def finish(self) -> None:
        self._finish()

    def graph(self, call: Callable[[], Any], calls: int) -> Callable[[], object]:
        raise Unsupported("this engine shows no stream, so its calls cannot be recorded")
