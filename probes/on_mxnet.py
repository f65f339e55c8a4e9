"""The mxnet engine: Apache MXNet's symbolic graphs with static memory, and its autograd.

A forward kernel and a whole network are executors: graphs bound to their arrays once, whose
memory is planned then.  That costs least per call, is as fast as a hybridized block with static
memory, and fuses what MXNet fuses without being asked.

A backward kernel is autograd's: an executor copies the gradient that it is given, which for a
memory-bound kernel is a good part of the work.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import partial
from typing import Any, Callable

os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # or every graph reports that it is fused

import mxnet as mx
import numpy as np

from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .device import CPU, number_of
from .engine import Call, Engine, WholeNetwork
from .host_stream import HostStream
from .memory_bound import SgdUpdate
from .mxnet_device import gpu_facts, use_gpu
from .mxnet_network import (
    LSTM_PARAMETERS,
    PACKED,
    Chain,
    MxnetNetwork,
    Tensors,
    as_tensor,
    bound,
    lstm_parameters,
    output_of,
    resident_shape,
    unpacked,
    updater,
)
from .network import Network
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive

WITH_BIAS = (("conv2d", "bias"), ("gemm", "bias"))
ONE_BACKWARD_CALL = ("lstm_cell", "batch_norm", "layer_norm")

IMAGE_KINDS = ("conv2d", "pool2d", "lrn", "batch_norm", "pad_channels")
PICTURE_CHANNELS = 4  # at most; images of more are what another layer made of a picture

UPSTREAM = "the output's gradient"  # among the operands of a kernel


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: it does not compute there.
        ValueError: a variable asks for what it does not know.
    """
    if number_of(device) is None:
        return MxnetEngine()
    use_gpu(device)
    engine = MxnetEngine(on_gpu=True)
    engine.stream = HostStream(mx.nd.waitall)
    return engine


class MxnetEngine(Engine):
    """Operators take their bias along; an LSTM and a batch norm go backwards in one call.

    An optimizer updates several parameters in a call, which costs them more than one by one would
    if one is large: the threads go through all of them side by side.
    """

    computes_on_caller = False
    fusion = Fusion(
        {FORWARD: WITH_BIAS, BACKWARD_WEIGHTS: WITH_BIAS},
        ONE_BACKWARD_CALL,
        updated_together=int(mx.optimizer.SGD().aggregate_num),
    )
    finish = staticmethod(mx.nd.waitall)

    def __init__(self, on_gpu: bool = False) -> None:
        self.on_gpu = on_gpu
        self._resident: dict[tuple[int, bool], Any] = {}

    def facts(self) -> dict[str, Any]:
        return {
            "version": mx.__version__,
            "precision": "float32",
            "layout": "NCHW; oneDNN's own between operators",
            "algorithm_search": "none at run time; oneDNN's heuristics",
            "graph": "symbolic executor, static memory",
            "subgraph_backend": os.environ.get("MXNET_SUBGRAPH_BACKEND", "MKLDNN, the default"),
            "execution": os.environ.get("MXNET_ENGINE_TYPE", "ThreadedEnginePerDevice"),
            "fc_weights": "(out, in)",
            "lstm_biases": "2; the recurrent one is zero and not trained",
            "lrn_in_training": "a copy follows it, or its gradient would be wrong",
            "parameters_per_update": mx.optimizer.SGD().aggregate_num,
            "onednn": bool(mx.runtime.Features().is_enabled("MKLDNN")),
            "blas": _openblas("openblas_get_config"),
            "blas_core": _openblas("openblas_get_corename"),
            **(gpu_facts() if self.on_gpu else {}),
        }

    def threads(self) -> int:
        return _on_worker_thread(mx.base._LIB.omp_get_max_threads)

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        if kernel.passes == (UPDATE,):
            return _update(kernel.primitives, arrays)
        training = training or any(getattr(p, "training", False) for p in kernel.primitives)
        tensors = self._tensors(kernel, arrays, training)
        variables = {name: mx.sym.Variable(name) for name in tensors if name != UPSTREAM}
        output = output_of(kernel.primitives, variables, training)
        if kernel.passes == (FORWARD,):
            return _forward(kernel, output, tensors, training)
        if kernel.primitives[0].kind == "dropout":
            return _dropout_backward(output, tensors)
        return _backward(kernel, output, tensors)

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        if kernel.passes == (UPDATE,):
            return {f"w{place}": weights.asnumpy() for place, weights in enumerate(result)}
        if kernel.passes == (FORWARD,):
            return {kernel.primitives[-1].output: result[0].asnumpy()}
        return {
            f"d{part}": array
            for name, gradient in result.items()
            for part, array in unpacked(kernel.primitives[0], name, gradient.asnumpy()).items()
        }

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return MxnetNetwork(network, mode, data)

    def _tensors(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Tensors:
        """The operands of a kernel; inner ones of a chain are the engine's own business."""
        tensors: Tensors = {}
        first = kernel.primitives[0]
        for place, (primitive, own) in enumerate(zip(kernel.primitives, arrays)):
            names = [name for name in primitive.reads.get(FORWARD, ()) if name in own]
            if place > 0:
                names.remove(primitive.input)
            if primitive.kind == "lstm_cell":
                names = [name for name in names if name not in LSTM_PARAMETERS]
                make = partial(lstm_parameters, own)
                tensors[PACKED] = self._shared(own["wx"], training, make)
            for name in names:
                make = partial(_tensor, primitive, name, own[name], training)
                tensors[name] = self._shared(own[name], training, make)
        gradient = arrays[-1].get(f"d{kernel.primitives[-1].output}")
        if gradient is not None:  # a bias that comes along has the output of what it comes with
            name = f"d{first.output}"
            make = partial(_tensor, first, name, gradient, training)
            tensors[UPSTREAM] = self._shared(gradient, training, make)
        return tensors

    def _shared(self, array: Any, training: bool, make: Callable[[], Any]) -> Any:
        """What was made of this array before: kernels of a layer share its operands.

        Inference has its own, for there oneDNN keeps weights in the layout that suits it.
        """
        key = (id(array), training)
        if key not in self._resident:
            self._resident[key] = make()
            weakref.finalize(array, self._resident.pop, key, None)
        return self._resident[key]


def _openblas(function: str) -> str | None:
    """What the BLAS library that MXNet is linked with says of itself."""
    if not hasattr(mx.base._LIB, function):
        return None
    ask = getattr(mx.base._LIB, function)
    ask.restype = ctypes.c_char_p
    return str(ask().decode())


class _Device(ctypes.Structure):
    """The C struct of a context; the first device type is the CPU."""

    _fields_ = (("device_type", ctypes.c_int32), ("device", ctypes.c_int32))


def _on_worker_thread(function: Callable[[], int]) -> int:
    """What a function returns on the thread that runs operators: OpenMP's settings are a thread's.

    Raises:
        RuntimeError: the engine did not run it.
    """
    answers: list[int] = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    task = callback(lambda context, parameter: answers.append(function()))
    cpu = _Device(1, 0)
    failed = mx.base._LIB.MXEnginePushSync(
        task, None, None, ctypes.byref(cpu), None, 0, None, 0, None, 0, b"ask"
    )
    mx.nd.waitall()
    if failed or not answers:
        raise RuntimeError("MXNet's engine did not run a question on its worker thread")
    return answers[0]


# Operands: NumPy's arrays as MXNet's, in the shapes and layouts in which operators want them.


def _tensor(primitive: Primitive, name: str, array: Any, training: bool) -> Any:
    """An operand, or an image's gradient, as it lies in memory within a network."""
    is_image = primitive.kind in IMAGE_KINDS and name in ("x", "dy")
    if not is_image:
        return as_tensor(array, resident_shape(name, primitive.operand(name).shape))
    shape = primitive.operand(name).shape
    tensor = as_tensor(array, shape if len(shape) == 4 else (*shape, 1))
    if tensor.shape[1] <= PICTURE_CHANNELS or tensor.context.device_type != CPU:
        return tensor
    return _as_a_layer_leaves_it(tensor, training)


def _as_a_layer_leaves_it(images: Any, training: bool) -> Any:
    """The same images in the layout that convolutions choose for what they write.

    Only an operator of oneDNN can make it: a convolution that changes nothing.
    """
    channels = images.shape[1]
    same = mx.nd.array(np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1))
    with mx.autograd.train_mode() if training else mx.autograd.predict_mode():
        return mx.nd.Convolution(images, same, kernel=(1, 1), num_filter=channels, no_bias=True)


# Calls.


def _forward(kernel: Kernel, output: Any, tensors: Tensors, training: bool) -> Call:
    """An executor; one that trains has to be told of a gradient, or it is built for inference."""
    differentiated = _differentiated(kernel, (BACKWARD_DATA, BACKWARD_WEIGHTS)) if training else []
    wanted = sorted(differentiated, key=lambda name: int(tensors[name].size))[:1]
    gradients = {name: mx.nd.zeros(tensors[name].shape) for name in wanted}
    executor = bound(output, tensors, gradients)
    return partial(executor.forward, training)


def _differentiated(kernel: Kernel, passes: tuple[str, ...]) -> list[str]:
    """The operands, as MXNet has them, whose gradients these passes yield."""
    names: list[str] = []
    first = kernel.primitives[0]
    if BACKWARD_DATA in passes and BACKWARD_DATA in first.passes:
        names += first.inputs
    if BACKWARD_WEIGHTS in passes and first.kind == "lstm_cell":
        names.append(PACKED)
    elif BACKWARD_WEIGHTS in passes:
        names += [name for primitive in kernel.primitives for name in primitive.parameters]
    return names


def _backward(kernel: Kernel, output: Any, tensors: Tensors) -> Call:
    """The gradients of one forward call, which is kept."""
    wanted = _differentiated(kernel, kernel.passes)
    if not wanted:
        raise ValueError(f"no gradient is asked for: {kernel.label}")
    # Other kernels, which want other gradients, have the same arrays: mark none but our own.
    inputs = {name: tensors[name].detach() for name in output.list_inputs()}
    for name in wanted:
        inputs[name].attach_grad()
    operator = mx.nd.CachedOp(output)
    with mx.autograd.record():
        result = operator(*inputs.values())
    upstream = tensors.get(UPSTREAM, mx.nd.ones((1,)))  # that of a loss is 1
    gradients = {name: inputs[name].grad for name in wanted}

    def call() -> Tensors:
        result.backward(upstream, retain_graph=True)
        return gradients

    return call


def _dropout_backward(output: Any, tensors: Tensors) -> Call:
    """The product that this pass is: MXNet forgets the mask at its first use."""
    ones = {"x": mx.nd.ones(tensors["x"].shape)}
    (mask,) = bound(output, ones, {}).forward(False)
    operands = {"mask": mask.copy(), "dy": tensors[UPSTREAM]}
    executor = bound(mx.sym.elemwise_mul(*map(mx.sym.Variable, operands)), operands, {})
    return lambda: {"x": executor.forward(False)[0]}


def _update(primitives: Chain, arrays: list[Arrays]) -> Call:
    """MXNet's SGD, which keeps the velocity times minus the learning rate."""
    first = primitives[0]
    assert isinstance(first, SgdUpdate)
    weights = [as_tensor(own["w"], own["w"].shape) for own in arrays]
    gradients = [as_tensor(own["dw"], own["dw"].shape) for own in arrays]
    update = updater(first.learning_rate, first.momentum)
    for place, own in enumerate(arrays if first.momentum else []):
        update.states[place] = mx.nd.array(-first.learning_rate * own["v"])
        update.states_synced[place] = True
    places = list(range(len(weights)))

    def call() -> list[Any]:
        update(places, gradients, weights)
        return weights

    return call
