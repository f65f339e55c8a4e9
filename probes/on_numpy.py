"""The numpy engine: the reference kernels themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .data import Arrays, NetworkData
from .decompose import Kernel
from .engine import Call, Engine, Unsupported, WholeNetwork
from .network import Network
from .numpy_network import NumpyNetwork
from .placement import openblas_threads
from .primitive import BACKWARD_DATA, FORWARD, UPDATE
from .reference import run


def start() -> Engine:
    """The engine in this process."""
    return NumpyEngine()


class NumpyEngine(Engine):
    """Every kernel is one primitive in one pass: NumPy fuses nothing."""

    def facts(self) -> dict[str, Any]:
        return {
            "version": np.__version__,
            "precision": "float32",
            "layout": "NCHW",
            "fc_weights": "(out, in)",
            "algorithm_search": "none: im2col and a matrix product",
        }

    def threads(self) -> int | None:
        return openblas_threads()

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        if kernel.passes == (UPDATE,):
            pairs = list(zip(kernel.primitives, arrays))
            return lambda: [run(primitive, UPDATE, own) for primitive, own in pairs]
        if len(kernel.primitives) > 1 or len(kernel.passes) > 1:
            raise Unsupported(f"NumPy fuses nothing: {kernel.label}")
        (primitive,), (pass_,) = kernel.primitives, kernel.passes
        own = dict(arrays[0])
        if pass_ != FORWARD:
            own.update(run(primitive, FORWARD, own))
        if any(name not in own for name in primitive.reads[pass_]):
            own.update(run(primitive, BACKWARD_DATA, own))
        return partial(run, primitive, pass_, {name: own[name] for name in primitive.reads[pass_]})

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        if kernel.passes == (UPDATE,):
            return {f"w{place}": each["w"] for place, each in enumerate(result)}
        return dict(result)

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return NumpyNetwork(network, mode, data)
