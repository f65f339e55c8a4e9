"""The numpy engine: the reference kernels themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .data import Arrays, NetworkData
from .decompose import Kernel
from .device import CPU, require_cpu
from .engine import Call, Engine, Unsupported, WholeNetwork
from .network import Network
from .numpy_network import NumpyNetwork
from .placement import openblas_threads
from .primitive import BACKWARD_DATA, FORWARD, UPDATE, Primitive
from .reference import KERNELS, Kernels, run


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: it does not compute there.
    """
    require_cpu(device, "numpy")
    return NumpyEngine()


class NumpyEngine(Engine):
    """Every kernel is one primitive in one pass of ``table``: NumPy fuses nothing."""

    def __init__(self, table: Kernels = KERNELS) -> None:
        self.table = table

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
            return lambda: [self.run(primitive, UPDATE, own) for primitive, own in pairs]
        if len(kernel.primitives) > 1 or len(kernel.passes) > 1:
            raise Unsupported(f"the reference kernels fuse nothing: {kernel.label}")
        (primitive,), (pass_,) = kernel.primitives, kernel.passes
        own = dict(arrays[0])
        if pass_ != FORWARD:
            own.update(self.run(primitive, FORWARD, own))
        if any(name not in own for name in primitive.reads[pass_]):
            own.update(self.run(primitive, BACKWARD_DATA, own))
        read = {name: own[name] for name in primitive.reads[pass_]}
        return partial(self.run, primitive, pass_, read)

    def run(self, primitive: Primitive, pass_: str, arrays: Arrays) -> Arrays:
        """The operands that a pass writes."""
        return run(primitive, pass_, arrays, self.table)

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        if kernel.passes == (UPDATE,):
            return {f"w{place}": each["w"] for place, each in enumerate(result)}
        return dict(result)

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return NumpyNetwork(network, mode, data)
