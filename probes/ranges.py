"""NVTX ranges in the domain ``kernelprof``, nested network > layer > primitive.

They stand close around blocks of calls, outside of what is timed: whatever they cost, a sample
holds nothing of it.  ``NVTX_DISABLE`` in a worker's variables turns them off.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Callable

from .nvtx_library import Library
from .placement import loaded_libraries

DOMAIN = "kernelprof"
COST_DOMAIN = "kernelprof cost"  # so that what is emitted to find the cost is in nobody's way
CLOCK_DOMAIN = "kernelprof clock"
CLOCK = "clock"
READINGS = 3
REPEATS = 11
NONE = "none"


class Ranges:
    """Opens ranges through what the interpreter has; does nothing where it has neither."""

    def __init__(self, domain: str = DOMAIN) -> None:
        self._domain = domain
        self._nvtx, self.emitter = _nvtx()

    @contextmanager
    def range(self, *names: str) -> Iterator[None]:
        """Ranges of these names around the body, the first outermost."""
        opened = () if self._nvtx is None else names
        for name in opened:
            self._nvtx.push_range(name, domain=self._domain)
        try:
            yield
        finally:
            for _ in opened:
                self._nvtx.pop_range(domain=self._domain)

    def tell_clock(self, now: Callable[[], int] = time.perf_counter_ns) -> None:
        """Let a tool, which has a clock of its own, know that of the samples.

        By ranges whose payload is what it says, right before they begin.  Of some, because this
        thread may lose its CPU in between.
        """
        if self._nvtx is not None:
            for _ in range(READINGS):
                self._nvtx.push_range(CLOCK, domain=CLOCK_DOMAIN, payload=now())
                self._nvtx.pop_range(domain=CLOCK_DOMAIN)

    @property
    def tool(self) -> str:
        """The file of the tool that takes the ranges, as NVTX loaded it into this process."""
        if self._nvtx is None:
            return NONE
        domain = self._nvtx.get_domain(self._domain)
        refused = domain is None or type(domain).__name__ == "DummyDomain"  # of newer packages
        return NONE if refused else _injected()

    @cached_property
    def cost_ns(self) -> int:
        """Nanoseconds that three nested ranges take, with the tool that is there, if one is."""
        return cost_ns(Ranges(COST_DOMAIN))

    def facts(self) -> dict[str, Any]:
        """What emits the ranges, who takes them, and what three nested ones cost."""
        return {"nvtx": self.emitter, "nvtx_tool": self.tool, "nvtx_ranges_ns": self.cost_ns}


def cost_ns(ranges: Ranges, now: Callable[[], int] = time.perf_counter_ns) -> int:
    """The median of some; the first one is slow, as a tool first hears of the names."""
    durations = []
    for _ in range(REPEATS):
        started = now()
        with ranges.range("network", "layer", "primitive"):
            pass
        durations.append(now() - started)
    return sorted(durations)[REPEATS // 2]


def _nvtx() -> tuple[Any, str]:
    """The nvtx package, or what stands in for it, and its name."""
    if os.environ.get("NVTX_DISABLE"):
        return None, NONE
    try:
        import nvtx

        metadata = importlib.import_module("importlib.metadata")  # Python 3 alone has it
        return nvtx, f"package {metadata.version('nvtx')}"
    except ImportError:
        return _library()


def _library() -> tuple[Any, str]:
    try:
        return Library(), "library"
    except OSError:
        return None, NONE


def _injected() -> str:
    """The tool that the environment names, if it is loaded: when that fails, NVTX says nothing."""
    named = os.environ.get("NVTX_INJECTION64_PATH")
    if not named:
        return NONE
    path = os.path.realpath(named)
    name = os.path.basename(path)
    return name if path in loaded_libraries(name) else NONE
