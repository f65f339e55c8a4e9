"""The torch engine: eager PyTorch, as its users call it.

A forward kernel is one call of ``torch.nn.functional``; a backward kernel is that call's node of
the autograd graph, asked for the gradients of one pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .engine import Call, Engine, Unsupported, WholeNetwork
from .memory_bound import SgdUpdate
from .network import Network
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE
from .torch_layout import NCHW, Layout, layout
from .torch_network import OPERATORS, Chain, Tensors, TorchNetwork, complete

WITH_BIAS = (("conv2d", "bias"), ("gemm", "bias"))
# Whose operands are images; some have their rows and columns as one axis.
OF_IMAGES = ("batch_norm", "conv2d", "lrn", "pad_channels", "pool2d")


def start() -> Engine:
    """The engine in this process.

    Raises:
        ValueError: a variable asks for what it does not know.
    """
    return TorchEngine(layout())


class TorchEngine(Engine):
    """Convolutions and matrix products take their bias along, forwards and backwards."""

    fusion = Fusion({FORWARD: WITH_BIAS, BACKWARD_WEIGHTS: WITH_BIAS}, ("lstm_cell", "layer_norm"))

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.shares_operands = layout is NCHW  # in another one they are copies

    def facts(self) -> dict[str, Any]:
        return {
            "version": torch.__version__,
            "precision": f"float32, matrix products {torch.get_float32_matmul_precision()}",
            "layout": self.layout.name,
            "fc_weights": "(out, in)",
            "algorithm_search": "none",
            "lstm_biases": "2; the recurrent one is zero and not trained",
            "onednn": torch.backends.mkldnn.is_available(),
            "mkl": torch.backends.mkl.is_available(),
        }

    def threads(self) -> int:
        return int(torch.get_num_threads())

    def scope(self, training: bool) -> AbstractContextManager[object]:
        return nullcontext() if training else torch.inference_mode()

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        if kernel.passes == (UPDATE,):
            return _update(kernel.primitives, arrays)
        kinds = tuple(primitive.kind for primitive in kernel.primitives)
        if kinds not in OPERATORS:
            raise Unsupported(f"no operator for {' + '.join(kinds)}")
        operator = partial(OPERATORS[kinds], kernel.primitives)
        tensors = _tensors(kernel, arrays, self.layout)
        if kernel.passes == (FORWARD,):
            if training:
                _require_gradients(kernel, tensors, (BACKWARD_DATA, BACKWARD_WEIGHTS))
            return partial(operator, tensors)
        wanted = _require_gradients(kernel, tensors, kernel.passes)
        output = operator(tensors)
        last = kernel.primitives[-1]
        gradient = tensors.get(f"d{last.output}", torch.ones(1)).view(output.shape)
        gradient = self.layout.place(gradient)
        return partial(torch.autograd.grad, output, wanted, gradient, retain_graph=True)

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        if kernel.passes == (UPDATE,):
            names = [f"w{place}" for place in range(len(kernel.primitives))]
        elif kernel.passes == (FORWARD,):
            names = [kernel.primitives[-1].output]
            result = [result]
        else:
            names = [f"d{name}" for name in _differentiated(kernel, kernel.passes)]
        return {name: tensor.detach().numpy() for name, tensor in zip(names, result)}

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return TorchNetwork(network, mode, data, self.layout)


def _tensors(kernel: Kernel, arrays: list[Arrays], layout: Layout) -> Tensors:
    """The operands of a kernel; inner ones of a chain are the engine's own business."""
    tensors: Tensors = {}
    for place, (primitive, own) in enumerate(zip(kernel.primitives, arrays)):
        for name, array in own.items():
            inner_input = place > 0 and name == primitive.input
            inner_gradient = primitive is not kernel.primitives[-1] and name.startswith("d")
            if not inner_input and not inner_gradient:
                tensors[name] = torch.from_numpy(array)
                if primitive.kind in OF_IMAGES and not name.startswith("d"):
                    tensors[name] = layout.place(layout.place_flat(tensors[name]))
    complete(kernel.primitives, tensors)
    return tensors


def _differentiated(kernel: Kernel, passes: tuple[str, ...]) -> list[str]:
    """The operands whose gradients these passes yield."""
    names: list[str] = []
    if BACKWARD_DATA in passes:
        names += kernel.primitives[0].inputs
    if BACKWARD_WEIGHTS in passes:
        names += [name for primitive in kernel.primitives for name in primitive.parameters]
    return names


def _require_gradients(kernel: Kernel, tensors: Tensors, passes: tuple[str, ...]) -> list[Any]:
    wanted = [tensors[name] for name in _differentiated(kernel, passes)]
    return [tensor.requires_grad_() for tensor in wanted if tensor.is_floating_point()]


def _update(primitives: Chain, arrays: list[Arrays]) -> Call:
    """The in-place arithmetic of torch.optim.SGD, for each parameter of a layer."""
    steps = []
    for primitive, own in zip(primitives, arrays):
        assert isinstance(primitive, SgdUpdate)
        weights, gradient, velocity = (torch.from_numpy(own[name]) for name in ("w", "dw", "v"))
        steps.append((weights, gradient, velocity, primitive.momentum, -primitive.learning_rate))

    def call() -> list[Any]:
        for weights, gradient, velocity, momentum, rate in steps:
            if momentum:
                gradient = velocity.mul_(momentum).add_(gradient)
            weights.add_(gradient, alpha=rate)
        return [weights for weights, *_ in steps]

    return call
