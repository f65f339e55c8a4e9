"""The cupy engine: the reference kernels on an NVIDIA GPU."""

from __future__ import annotations

from typing import Any

import cupy

from .cupy_device import (
    CupyArrays,
    CupyToolbox,
    gpu_facts,
    open_stream,
    require_gpu,
    require_libraries,
)
from .cupy_kernels import kernels
from .cupy_network import CupyNetwork
from .cupy_stream import CupyStream
from .data import Arrays, NetworkData
from .decompose import Kernel
from .device import CPU, DeviceArrays, NoDeviceError, number_of
from .engine import Call, Engine, WholeNetwork
from .gpu_settings import allows_tf32
from .network import Network
from .on_numpy import NumpyEngine


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: CuPy cannot compute there.
        ValueError: a variable asks for what it does not know.
    """
    if number_of(device) is None:
        raise NoDeviceError(
            "cupy computes on NVIDIA GPUs alone: choose --device cuda:0, or the engine numpy, "
            "which has the same kernels for the CPU"
        )
    tf32 = allows_tf32()
    require_gpu(device)
    require_libraries()
    stream = CupyStream(open_stream(device))
    return CupyEngine(CupyToolbox(tf32), stream)


class CupyEngine(NumpyEngine):
    """NumPy's engine with other kernels, on arrays that stay on the GPU."""

    def __init__(self, tools: CupyToolbox, stream: CupyStream) -> None:
        super().__init__(kernels(tools))
        self.tools = tools
        self.dtypes = tools.dtypes
        self.stream: CupyStream = stream

    def facts(self) -> dict[str, Any]:
        return {
            "version": cupy.__version__,
            "precision": "float32, TF32 in products" if self.tools.tf32 else "float32",
            "tf32_products": self.tools.tf32,
            "layout": "NCHW",
            "fc_weights": "(out, in)",
            "algorithm_search": "none",
            **gpu_facts(),
        }

    def threads(self) -> None:
        return None

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        on_gpu = [
            {
                name: self.tools.placed(array, primitive.operand(name).dtype)
                for name, array in own.items()
            }
            for primitive, own in zip(kernel.primitives, arrays)
        ]
        call = super().kernel(kernel, on_gpu, training)
        first = kernel.primitives[0]
        in_tf32 = first.operand(first.output).dtype == "tf32"
        return self.tools.in_tf32(call) if in_tf32 else call

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        found = super().fetch(kernel, result)
        return {name: self.tools.fetch(array) for name, array in found.items()}

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return CupyNetwork(network, mode, data, self.tools, self.table)

    def release(self) -> None:
        self.stream.pool.free_all_blocks()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()

    def arrays(self) -> DeviceArrays:
        return CupyArrays(self.tools)
