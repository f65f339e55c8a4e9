"""What the kernels of the cupy engine compute with: arrays, launches and products."""

from __future__ import annotations

from typing import Any


class Toolbox:
    """Arrays of a module like NumPy (``xp``), and what that module has not."""

    xp: Any

    def elementwise(self, name: str, *operands: Any, size: int | None = None) -> Any:
        """One launch of ELEMENTWISE: what it writes, in new arrays if none are given.

        ``size`` is how often its loop runs, where no operand tells.
        """
        raise NotImplementedError

    def summed(
        self, name: str, *operands: Any, axis: int | tuple[int, ...], keepdims: bool = False
    ) -> Any:
        """A sum of SUMS over some axes."""
        raise NotImplementedError

    def products(self, a: Any, b: Any, trans_a: bool = False, trans_b: bool = False) -> Any:
        """The products of two batches of matrices, of which each may be stored transposed."""
        raise NotImplementedError
