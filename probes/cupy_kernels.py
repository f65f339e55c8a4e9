"""The reference kernels on a GPU, by the same names as those of NumPy.

What they compute with is handed in: on a GPU that is CuPy; tests hand in arrays of NumPy, and a C
compiler's word for what the sources of CUDA do.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

from . import cupy_compute_bound, cupy_memory_bound, cupy_normalisation
from .cupy_toolbox import Toolbox
from .reference import KERNELS


def kernels(tools: Toolbox) -> dict[str, dict[str, Callable[..., Any]]]:
    """For each kernel of ``reference.KERNELS`` one of the same name that works on a GPU."""
    own = {
        **vars(cupy_compute_bound),
        **vars(cupy_memory_bound),
        **vars(cupy_normalisation),
    }
    return {
        kind: {pass_: partial(own[kernel.__name__], tools) for pass_, kernel in passes.items()}
        for kind, passes in KERNELS.items()
    }
