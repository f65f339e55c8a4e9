"""The torch engine: eager PyTorch, as its users call it, on the CPU or on a GPU.

A forward kernel is one call of ``torch.nn.functional``; a backward kernel is that call's node of
the autograd graph, asked for the gradients of one pass.  An update is what torch.optim.SGD does:
parameter by parameter on the CPU, on a GPU all of them in a call.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .device import CPU, DeviceArrays, number_of
from .engine import Call, Engine, Unsupported, WholeNetwork
from .memory_bound import SgdUpdate
from .network import Network
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FLOATS, FORWARD, UPDATE, Primitive
from .residents import Residents
from .spans import ProfiledCall
from .spans_torch import profiled_calls
from .torch_device import TF32, TYPES, TorchArrays, gpu, gpu_facts, in_tf32
from .torch_layout import NCHW, Layout, layout
from .torch_network import TorchNetwork
from .torch_operators import OPERATORS, Chain, Tensors, complete
from .torch_stream import TorchStream

WITH_BIAS = (("conv2d", "bias"), ("gemm", "bias"))
# Whose operands are images; some have their rows and columns as one axis.
OF_IMAGES = ("batch_norm", "conv2d", "lrn", "pad_channels", "pool2d")
ALL_PARAMETERS = 10**6  # more than any network has
Step = tuple[Any, Any, Any, float, float]  # weights, gradient, velocity; momentum, minus the rate


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: it does not compute there.
        ValueError: a variable asks for what it does not know.
    """
    if number_of(device) is None:
        return TorchEngine(layout(), torch.device(CPU))
    own = gpu(device)
    engine = TorchEngine(layout(), own)
    engine.stream = TorchStream(own)
    return engine


class TorchEngine(Engine):
    """Convolutions and matrix products take their bias along, forwards and backwards.

    On a GPU a batch norm yields all of its gradients together, whichever are asked for.
    """

    fusion = Fusion({FORWARD: WITH_BIAS, BACKWARD_WEIGHTS: WITH_BIAS}, ("lstm_cell", "layer_norm"))
    dtypes = (*FLOATS, *TYPES)

    def __init__(self, layout: Layout, device: Any) -> None:
        self.layout = layout
        self.device = device
        self.on_cpu = device.type == CPU
        self.shares_operands = layout is NCHW or not self.on_cpu  # else they are copies
        self.residents = Residents(self._placed)
        if not self.on_cpu:
            self.dtypes = (*self.dtypes, TF32)
            self.fusion = Fusion(
                self.fusion.chains, (*self.fusion.joint_passes, "batch_norm"), ALL_PARAMETERS
            )

    def facts(self) -> dict[str, Any]:
        on_gpu = {} if self.on_cpu else gpu_facts(self.device)
        return {
            "version": torch.__version__,
            "precision": f"float32, matrix products {torch.get_float32_matmul_precision()}",
            "layout": self.layout.name,
            "fc_weights": "(out, in)",
            "algorithm_search": "none",
            "lstm_biases": "2; the recurrent one is zero and not trained",
            "onednn": torch.backends.mkldnn.is_available(),
            "mkl": torch.backends.mkl.is_available(),
            **on_gpu,
        }

    def threads(self) -> int:
        return int(torch.get_num_threads())

    def scope(self, training: bool) -> AbstractContextManager[object]:
        return nullcontext() if training else torch.inference_mode()

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        call = self._call(kernel, arrays, training)
        dtypes = {primitive.operand(primitive.output).dtype for primitive in kernel.primitives}
        return in_tf32(call) if TF32 in dtypes else call

    def _call(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        if kernel.passes == (UPDATE,):
            return self._update(kernel.primitives, arrays)
        kinds = tuple(primitive.kind for primitive in kernel.primitives)
        if kinds not in OPERATORS:
            raise Unsupported(f"no operator for {' + '.join(kinds)}")
        operator = partial(OPERATORS[kinds], kernel.primitives)
        tensors = self._tensors(kernel, arrays)
        if kernel.passes == (FORWARD,):
            if training:
                _require_gradients(kernel, tensors, (BACKWARD_DATA, BACKWARD_WEIGHTS))
            return partial(operator, tensors)
        wanted = _require_gradients(kernel, tensors, kernel.passes)
        output = operator(tensors)
        last = kernel.primitives[-1]
        gradient = tensors.get(f"d{last.output}", torch.ones(1, device=self.device))
        gradient = gradient.view(output.shape)
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
        return {name: _fetched(tensor) for name, tensor in zip(names, result)}

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return TorchNetwork(network, mode, data, self.layout, self.device, self.finish)

    def profile(self, call: Call, calls: int) -> list[ProfiledCall]:
        return profiled_calls(call, calls, set(), {}, self.finish)

    def release(self) -> None:
        if not self.on_cpu:
            torch.cuda.empty_cache()

    def arrays(self) -> DeviceArrays:
        return super().arrays() if self.on_cpu else TorchArrays(self.device)

    def _tensors(self, kernel: Kernel, arrays: list[Arrays]) -> Tensors:
        """The operands of a kernel; inner ones of a chain are the engine's own business."""
        tensors: Tensors = {}
        for place, (primitive, own) in enumerate(zip(kernel.primitives, arrays)):
            for name, array in own.items():
                inner_input = place > 0 and name == primitive.input
                inner_gradient = primitive is not kernel.primitives[-1] and name.startswith("d")
                if not inner_input and not inner_gradient:
                    tensors[name] = self._tensor(primitive, name, array)
        complete(kernel.primitives, tensors)
        return tensors

    def _tensor(self, primitive: Primitive, name: str, array: Any) -> Any:
        """An operand of this kernel alone, in memory that it shares with other kernels."""
        if self.on_cpu:  # where it is the array's own
            return self._placed(primitive, name, array)
        with torch.inference_mode(False):  # what is made within serves no kernel that trains
            return self.residents.tensor(primitive, name, array).detach()

    def _placed(self, primitive: Primitive, name: str, array: Any) -> Any:
        dtype = TYPES.get(primitive.operand(name).dtype)
        tensor = torch.from_numpy(array).to(self.device, dtype)
        if primitive.kind in OF_IMAGES and not name.startswith("d"):
            return self.layout.place(self.layout.place_flat(tensor))
        return tensor

    def _update(self, primitives: Chain, arrays: list[Arrays]) -> Call:
        """The in-place arithmetic of torch.optim.SGD, for parameters that are updated together."""
        steps = []
        for primitive, own in zip(primitives, arrays):
            assert isinstance(primitive, SgdUpdate)
            weights, gradient, velocity = (
                torch.from_numpy(own[name]).to(self.device) for name in ("w", "dw", "v")
            )
            rate = -primitive.learning_rate
            steps.append((weights, gradient, velocity, primitive.momentum, rate))
        return partial(_one_by_one, steps) if self.on_cpu else partial(_together, steps)


def _fetched(tensor: Any) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in TYPES.values() else tensor).numpy()


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


def _one_by_one(steps: list[Step]) -> list[Any]:
    for weights, gradient, velocity, momentum, rate in steps:
        if momentum:
            gradient = velocity.mul_(momentum).add_(gradient)
        weights.add_(gradient, alpha=rate)
    return [weights for weights, *_ in steps]


def _together(steps: list[Step]) -> list[Any]:
    """As one list for each operand, which a few launches go through; all steps are alike."""
    weights, changes, velocities = ([step[part] for step in steps] for part in range(3))
    _, _, _, momentum, rate = steps[0]
    if momentum:
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, changes)
        changes = velocities
    torch._foreach_add_(weights, changes, alpha=rate)
    return weights
