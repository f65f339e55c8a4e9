"""Cold caches: copies of a kernel's arguments take turns, and together are larger than the caches.

When a copy's turn comes again, the others have driven it out.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any, NamedTuple

from .data import Arrays
from .decompose import Kernel
from .engine import Call, Engine, Unsupported
from .primitive import COLD, UPDATE, WARM, WEIGHTS_COLD

MOST_SETS = 256


class Rotation(NamedTuple):
    """What is to be cold, and how many bytes all copies together need for that."""

    cache: str = WARM
    together_bytes: int = 0

    def cold_bytes(self, kernel: Kernel, arrays: list[Arrays]) -> int:
        """Bytes of what a kernel reads that should come from memory: not its own results.

        As the engine holds them: shorter floats travel as float32.
        """
        parts = zip(kernel.primitives, self._cold(kernel, arrays))
        return sum(one.operand(name).size_bytes for one, names in parts for name in names)

    def sets(self, kernel: Kernel, arrays: list[Arrays]) -> int:
        """How many copies of the arguments take turns."""
        return self.turns(self.cold_bytes(kernel, arrays))

    def turns(self, each_bytes: int) -> int:
        """The same, of arguments of which so many bytes are to be cold."""
        return min(self._enough(each_bytes), MOST_SETS) if each_bytes else 1

    def suffices(self, kernel: Kernel, arrays: list[Arrays]) -> bool:
        """Whether all that should be cold is; of tiny operands no number of copies is enough."""
        each = self.cold_bytes(kernel, arrays)
        return not each or self._enough(each) <= MOST_SETS

    def _enough(self, each_bytes: int) -> int:
        return 1 + -(-self.together_bytes // each_bytes)

    def call(
        self, engine: Engine, kernel: Kernel, arrays: list[Arrays], training: bool, first: Call
    ) -> Call:
        """A call that runs the kernel on another copy of its arguments each time.

        ``first`` runs it on the arguments themselves.

        Raises:
            Unsupported: the engine has no kernel that leaves some of its operands where they are.
        """
        if self.cache == WEIGHTS_COLD and not engine.shares_operands:
            raise Unsupported("its kernels own all their operands: weights alone cannot be cold")
        others = range(1, self.sets(kernel, arrays))
        copies = (self._copied(kernel, arrays) for _ in others)
        calls = [first, *(engine.kernel(kernel, copy, training) for copy in copies)]
        return first if len(calls) == 1 else _in_turns(calls)

    def _copied(self, kernel: Kernel, arrays: list[Arrays]) -> list[Arrays]:
        return [
            {name: array.copy() if name in names else array for name, array in own.items()}
            for own, names in zip(arrays, self._cold(kernel, arrays))
        ]

    def _cold(self, kernel: Kernel, arrays: list[Arrays]) -> list[list[str]]:
        """For each primitive the operands that it reads and that are to be cold."""
        if self.cache == WARM:
            return [[] for _ in arrays]
        everything = self.cache == COLD or kernel.passes == (UPDATE,)
        found = []
        for primitive, own in zip(kernel.primitives, arrays):
            read = {name for pass_ in kernel.passes for name in primitive.reads.get(pass_, ())}
            some = own if everything else primitive.parameters
            found.append([name for name in some if name in read and name in own])
        return found


def _in_turns(calls: list[Call]) -> Call:
    turns = cycle(calls)

    def call() -> Any:
        return next(turns)()

    return call
