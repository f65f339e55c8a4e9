"""The torch engine as it works on a GPU, on torch's device "meta", and beside it the CPU's.

An adapter given by path, so it is loaded into the package of the probes and imports from there.
Tensors of "meta" have shapes and no numbers.  Whatever runs on another device, or yields another
shape than on the CPU, is an error; so is TF32 where nobody asked for it.  Results are the CPU's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from .data import Arrays, NetworkData
from .decompose import Kernel
from .device import CPU
from .engine import Call, Engine, WholeNetwork
from .network import Network
from .on_torch import TorchEngine
from .torch_layout import layout

META = torch.device("meta")


def start(device: str = CPU) -> Engine:
    """The engine in this process."""
    return MetaEngine()


class OnlyOnMeta(TorchDispatchMode):  # type: ignore[misc]
    """Lets operators pass that work on "meta" alone, with TF32 as expected."""

    def __init__(self, tf32: bool = False) -> None:
        super().__init__()
        self.tf32 = tf32

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        for value in tree_flatten((args, kwargs))[0]:
            if isinstance(value, torch.Tensor):
                assert value.device == META, f"{operator} takes a tensor of {value.device}"
        allowed = torch.backends.cuda.matmul.allow_tf32
        assert allowed == self.tf32, f"{operator} runs with TF32 {allowed}"
        return operator(*args, **kwargs)


def shapes(result: Any) -> list[tuple[int, ...]]:
    """Those of all tensors that a call returned."""
    return [tuple(tensor.shape) for tensor in tree_flatten(result)[0]]


class MetaEngine(Engine):
    """Two engines, of which the one on the CPU has the results."""

    def __init__(self) -> None:
        self.cpu = TorchEngine(layout(), torch.device(CPU))
        self.meta = TorchEngine(layout(), META)
        self.fusion = self.meta.fusion
        self.dtypes = self.meta.dtypes
        self.shares_operands = self.meta.shares_operands
        self.threads = self.cpu.threads
        self.facts = self.cpu.facts
        self.scope = self.cpu.scope
        self.fetch = self.cpu.fetch

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        first = kernel.primitives[0]
        only = OnlyOnMeta(tf32=first.operand(first.output).dtype == "tf32")
        tested = self.meta.kernel(kernel, arrays, training)
        known = self.cpu.kernel(kernel, arrays, training)

        def call() -> Any:
            with only:
                for _ in range(2):  # what runs twice keeps what it needs
                    got = tested()
            result = known()
            assert shapes(got) == shapes(result), f"{kernel.label}: {shapes(got)}"
            return result

        return call

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        tested = self.meta.network(network, mode, data)
        with OnlyOnMeta():
            for _ in range(2):
                tested.call()
        return self.cpu.network(network, mode, data)
