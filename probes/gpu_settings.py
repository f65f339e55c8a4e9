"""What the environment asks of an engine on a GPU: the same words for all engines."""

from __future__ import annotations

import os

from .device import TF32

SEARCH = "KERNELPROF_ALGORITHM_SEARCH"


def allows_tf32() -> bool:
    """Whether products and convolutions of float32 may round their factors to TF32; not unasked.

    Raises:
        ValueError: the variable says neither.
    """
    return _switch(TF32, {"1": True, "0": False, "": False}, "'1', or leave it out")


def searches_algorithms() -> bool:
    """Whether an engine tries out which algorithm is the fastest, where it can; unless told not to.

    Raises:
        ValueError: the variable says neither.
    """
    return _switch(SEARCH, {"off": False, "on": True, "": True}, "'off', or leave it out")


def _switch(variable: str, values: dict[str, bool], wanted: str) -> bool:
    asked = os.environ.get(variable, "")
    if asked not in values:
        raise ValueError(f"{variable} is {asked!r}; a GPU's engine takes {wanted}")
    return values[asked]
