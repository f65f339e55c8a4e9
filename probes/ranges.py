"""NVTX ranges in the domain ``kernelprof``, nested network > layer > primitive.

They stand around blocks of calls, outside of what is timed: without a tool a range costs a fifth
of a microsecond there, and nothing in a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DOMAIN = "kernelprof"


class Ranges:
    """Opens ranges; does nothing in an interpreter without the nvtx package."""

    def __init__(self) -> None:
        self._nvtx = _nvtx()
        self._annotations: dict[str, Any] = {}

    @contextmanager
    def range(self, *names: str) -> Iterator[None]:
        """Ranges of these names around the body, the first outermost."""
        if self._nvtx is None or not names:
            yield
            return
        with self._annotation(names[0]), self.range(*names[1:]):
            yield

    def _annotation(self, name: str) -> Any:
        """The range of a name, made once: its string is then registered with the tool."""
        if name not in self._annotations:
            self._annotations[name] = self._nvtx.annotate(message=name, domain=DOMAIN)
        return self._annotations[name]


def _nvtx() -> Any:
    try:
        import nvtx
    except ImportError:
        return None
    return nvtx
