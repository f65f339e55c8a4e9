"""An engine's own memory for the arrays that kernels are given."""

from __future__ import annotations

import weakref
from typing import Any, Callable

from .primitive import Primitive


class Residents:
    """An engine's tensors of NumPy arrays: kernels that share an array share its tensor.

    A tensor is kept as long as its array lives, and by the kernels that use it.
    """

    def __init__(self, make: Callable[[Primitive, str, Any], Any]) -> None:
        self._make = make
        self._tensors: dict[tuple[int, str, str], Any] = {}

    def tensor(self, primitive: Primitive, name: str, array: Any) -> Any:
        """The operand as the engine has it."""
        key = (id(array), primitive.kind, name)
        if key not in self._tensors:
            self._tensors[key] = self._make(primitive, name, array)
            weakref.finalize(array, self._tensors.pop, key, None)
        return self._tensors[key]
