"""MXNet's symbols: of a chain of primitives, and of a whole network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable

import mxnet as mx
import numpy as np

from .attention import LayerNorm, Scale, Transpose
from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from .data import Arrays, NetworkData
from .engine import Unsupported, WholeNetwork
from .layers import Heads, Layer
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    Embedding,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
)
from .network import TRAIN, Network
from .primitive import FORWARD, Primitive, Shape, product
from .spans import ProfiledCall
from .spans_mxnet import Owners, nodes_of, profiled, recorded

Symbols = dict[str, Any]  # operand name -> mxnet.symbol.Symbol
Tensors = dict[str, Any]  # operand name -> mxnet.nd.NDArray
Chain = tuple[Primitive, ...]
Key = tuple[str, int, str]  # layer, member, operand

# How MXNet packs an LSTM's parameters into one array; the second bias follows.
LSTM_PARAMETERS = ("wx", "wh", "bias")
PACKED = "parameters"

ONEDNN_BLOCK = 16  # channels that lie together in oneDNN's own layouts, at most

# Whether an executor hands the engine many operators as one; read when it is bound.
BULKING = ("MXNET_EXEC_BULK_EXEC_INFERENCE", "MXNET_EXEC_BULK_EXEC_TRAIN")
WARM_UP_CALLS = 3


def output_of(chain: Chain, symbols: Symbols, training: bool) -> Any:
    """The symbol of a chain.

    Raises:
        Unsupported: MXNet has none.
    """
    kinds = tuple(primitive.kind for primitive in chain)
    if kinds not in OPERATORS:
        raise Unsupported(f"no operator for {' + '.join(kinds)}")
    output = OPERATORS[kinds](chain, symbols)
    if training and kinds == ("lrn",):
        # The gradient of an LRN is wrong where it arrives in one of oneDNN's own layouts.  An
        # operator that is not oneDNN's brings it back into the plain one: a slice of everything.
        return mx.sym.slice_axis(output, axis=0, begin=0, end=None)
    return output


# Operators: from the operands of a chain of primitives to the output of its last one.


def _conv2d(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, Conv2d)
    x, padding = _padded(s["x"], p.padding)
    return mx.sym.Convolution(
        x,
        *_weight_and_bias(s, "w"),
        kernel=p.kernel,
        stride=p.stride,
        dilate=p.dilation,
        pad=padding,
        num_filter=p.out_channels,
        num_group=p.groups,
        no_bias="bias" not in s,
    )


def _weight_and_bias(s: Symbols, name: str) -> list[Any]:
    return [s[operand] for operand in (name, "bias") if operand in s]


def _padded(
    x: Any, padding: tuple[int, int, int, int], value: float = 0.0
) -> tuple[Any, tuple[int, int]]:
    """The image, and the symmetric padding that the operator itself can add."""
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return x, (top, left)
    width = (0, 0, 0, 0, *padding)
    return mx.sym.Pad(x, mode="constant", pad_width=width, constant_value=value), (0, 0)


def _gemm(chain: Chain, s: Symbols) -> Any:
    """The fully connected layer, which is oneDNN's; or else ``dot``, which is the BLAS library's.

    Weights stored (out, in) are what the layer wants.
    """
    p = chain[0]
    assert isinstance(p, Gemm)
    if p.trans_b and not p.trans_a:
        return mx.sym.FullyConnected(
            s["a"],
            *_weight_and_bias(s, "b"),
            num_hidden=p.n,
            no_bias="bias" not in s,
            flatten=s.get("flatten", True),
        )
    c = mx.sym.dot(s["a"], s["b"], transpose_a=p.trans_a, transpose_b=p.trans_b)
    return mx.sym.broadcast_add(c, s["bias"].reshape((1, -1))) if "bias" in s else c


def _batched_gemm(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, BatchedGemm)
    return mx.sym.batch_dot(s["a"], s["b"], transpose_a=p.trans_a, transpose_b=p.trans_b)


def _lstm_cell(chain: Chain, s: Symbols) -> Any:
    """The fused LSTM; MXNet wants two biases, so the second stays zero."""
    p = chain[0]
    assert isinstance(p, LstmCell)
    return mx.sym.RNN(
        s["x"],
        s[PACKED],
        s["h0"],
        s["c0"],
        mode="lstm",
        state_size=p.hidden_size,
        num_layers=1,
    )


def _bias(chain: Chain, s: Symbols) -> Any:
    return mx.sym.broadcast_add(s["x"], s["bias"].reshape((1, -1, 1)))


def _activation(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, Activation)
    if p.function == "gelu":  # the exact one, whatever the operator's name
        return mx.sym.LeakyReLU(s["x"], act_type="gelu")
    return mx.sym.Activation(s["x"], act_type=p.function)


def _pool2d(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, Pool2d)
    fill = float(np.finfo(np.float32).min) if p.function == "max" else 0.0
    x, padding = _padded(s["x"], p.padding, fill)
    y = mx.sym.Pooling(
        x,
        kernel=p.kernel,
        stride=p.stride,
        pad=padding,
        pool_type={"max": "max", "average": "avg"}[p.function],
        pooling_convention="full" if p.ceil else "valid",
        count_include_pad=True,
    )
    if not p.ceil or not any(p.padding):
        return y
    rows, columns = p.extent  # a window that starts in the trailing frame is none
    return mx.sym.slice(y, begin=(None, None, 0, 0), end=(None, None, rows, columns))


def _lrn(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, LocalResponseNorm)
    if p.size % 2 == 0:  # oneDNN rounds it down, and yet divides alpha by it
        raise Unsupported(f"an LRN window of an even number of channels: {p.size}")
    if p.channels == p.positions == 1:
        raise Unsupported("the LRN gradient of one channel of one pixel is infinite in oneDNN 2.4")
    return mx.sym.LRN(s["x"], alpha=p.alpha, beta=p.beta, knorm=p.k, nsize=p.size)


def _batch_norm(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, BatchNorm)
    operands = [s[name] for name in ("x", "gamma", "beta", "running_mean", "running_variance")]
    return mx.sym.BatchNorm(
        *operands, eps=p.epsilon, fix_gamma=False, use_global_stats=not p.training
    )


def _dropout(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, Dropout)
    return mx.sym.Dropout(s["x"], p=p.rate, mode="always")


def _softmax(chain: Chain, s: Symbols) -> Any:
    return mx.sym.softmax(s["x"], axis=-1)


def _layer_norm(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, LayerNorm)
    return mx.sym.LayerNorm(s["x"], s["gamma"], s["beta"], axis=-1, eps=p.epsilon)


def _transpose(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, Transpose)
    x = mx.sym.reshape(s["x"], shape=(p.rows, p.columns, p.size))
    return mx.sym.transpose(x, axes=(1, 0, 2))


def _scale(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, Scale)
    return s["x"] * p.factor


def _softmax_loss(chain: Chain, s: Symbols) -> Any:
    """What gluon's loss does, and the mean of it."""
    logarithms = mx.sym.log_softmax(s["x"], axis=-1)
    return -mx.sym.mean(mx.sym.pick(logarithms, s["labels"], axis=-1))


def _embedding(chain: Chain, s: Symbols) -> Any:
    p = chain[0]
    assert isinstance(p, Embedding)
    return mx.sym.Embedding(s["ids"], s["table"], input_dim=p.vocabulary, output_dim=p.size)


def _add(chain: Chain, s: Symbols) -> Any:
    return mx.sym.elemwise_add(s["x"], s["other"])


def _pad_channels(chain: Chain, s: Symbols) -> Any:
    """Images joined with zeros: MXNet's own padding knows only rows and columns."""
    p = chain[0]
    assert isinstance(p, PadChannels)
    zeros = mx.sym.zeros((p.batch, p.added, 0, 0))  # rows and columns as the images have them
    joined = mx.sym.concat(s["x"], zeros, dim=1)
    if p.channels % ONEDNN_BLOCK == 0:
        return joined
    # oneDNN cannot cut the gradient amid its blocks of channels; behind this it is in plain order.
    return mx.sym.slice_axis(joined, axis=0, begin=0, end=None)


def _copy(chain: Chain, s: Symbols) -> Any:
    return mx.sym.identity(s["x"])


OPERATORS: dict[tuple[str, ...], Callable[[Chain, Symbols], Any]] = {
    ("conv2d",): _conv2d,
    ("conv2d", "bias"): _conv2d,
    ("gemm",): _gemm,
    ("gemm", "bias"): _gemm,
    ("batched_gemm",): _batched_gemm,
    ("lstm_cell",): _lstm_cell,
    ("bias",): _bias,
    ("activation",): _activation,
    ("pool2d",): _pool2d,
    ("lrn",): _lrn,
    ("batch_norm",): _batch_norm,
    ("dropout",): _dropout,
    ("softmax",): _softmax,
    ("layer_norm",): _layer_norm,
    ("transpose",): _transpose,
    ("scale",): _scale,
    ("softmax_loss",): _softmax_loss,
    ("embedding",): _embedding,
    ("add",): _add,
    ("pad_channels",): _pad_channels,
    ("copy",): _copy,
}


def bound(output: Any, tensors: Tensors, gradients: Tensors) -> Any:
    """The executor of a symbol on these arrays, which writes the gradients into those."""
    requests = {name: "write" if name in gradients else "null" for name in output.list_arguments()}
    auxiliary = {name: tensors[name] for name in output.list_auxiliary_states()}
    where = mx.current_context()  # the CPU, unless all is on a GPU
    return output.bind(where, tensors, gradients or None, requests, auxiliary)


def updater(learning_rate: float, momentum: float) -> Any:
    """What MXNet's trainers call with all parameters; it takes several at a time."""
    return mx.optimizer.get_updater(mx.optimizer.SGD(momentum, learning_rate=learning_rate))


def as_tensor(array: Any, shape: Shape) -> Any:
    """A copy in MXNet's memory; numbers of rows and classes are 32 bits wide, as is usual."""
    dtype = np.int32 if array.dtype.kind == "i" else array.dtype
    return mx.nd.array(array.reshape(shape), dtype=dtype)


def resident_shape(name: str, shape: Shape) -> Shape:
    """The shape of an operand that no layer computes: states count their layers."""
    return (1, *shape) if name in ("h0", "c0") else shape


def lstm_parameters(arrays: Arrays) -> Any:
    """An LSTM's parameters as MXNet packs them."""
    parts = [arrays[name].ravel() for name in LSTM_PARAMETERS]
    return mx.nd.array(np.concatenate([*parts, np.zeros_like(arrays["bias"])]))


def unpacked(primitive: Primitive, name: str, tensor: Any) -> dict[str, Any]:
    """The parameters that a tensor holds, or their gradients: views of an LSTM's packed one."""
    if name != PACKED:
        return {name: tensor}
    parts = {}
    first = 0
    for part in LSTM_PARAMETERS:
        last = first + product(primitive.operand(part).shape)
        parts[part] = tensor[first:last]
        first = last
    return parts


class Graph:
    """The symbol of a network, with an array for each of its variables.

    ``trained`` are the parameters, and ``by`` the gradients that they are updated by: views where
    MXNet packs several into one array.
    """

    def __init__(self, network: Network, mode: str, data: NetworkData) -> None:
        self.network = network
        self.mode = mode
        self.data = data
        self.tensors: Tensors = {}
        self.gradients: Tensors = {}
        self.trained: dict[Key, Any] = {}
        self.by: dict[Key, Any] = {}
        self.symbol = self._symbol()

    def _symbol(self) -> Any:
        source = self.network.input.name
        values = {source: self._input(source)}
        for layer in self.network.layers[1:]:
            primitives = self.network.primitives(layer, self.data.batch, self.mode)
            inputs = [values[name] for name in layer.inputs]
            with mx.name.Prefix(f"{layer.name}/"):  # by which a profile is told apart
                output = self._layer(layer, primitives, inputs) if primitives else inputs[0]
            values[layer.name] = output
        return values[self.network.layers[-1].name]

    def _input(self, name: str) -> Any:
        array = self.data.input
        return self._variable(name, as_tensor(array, array.shape))

    def _variable(self, name: str, tensor: Any) -> Any:
        self.tensors[name] = tensor
        return mx.sym.Variable(name)

    def _layer(self, layer: Layer, primitives: Chain, inputs: list[Any]) -> Any:
        shape = self.network.shapes[layer.inputs[0]]
        if isinstance(shape, Heads) and layer.kind == "fully_connected":
            inputs = [mx.sym.reshape(inputs[0], shape=(self.data.batch, -1))]
        symbols = dict(zip(primitives[0].inputs, inputs))
        symbols["flatten"] = len(shape) != 2  # the steps of a sequence stay apart
        for member, primitive in enumerate(primitives):
            symbols.update(self._fixed(layer, primitive, shape))
            symbols.update(self._parameters(layer, member, primitive))
        output = output_of(primitives, symbols, self.mode == TRAIN)
        if layer.kind == "merge_heads":
            steps, features = self.network.shapes[layer.name]
            output = mx.sym.reshape(output, shape=(steps, self.data.batch, features))
        return output

    def _fixed(self, layer: Layer, primitive: Primitive, shape: Shape) -> Symbols:
        """Labels, zero states and running statistics that a primitive reads."""
        symbols = {}
        for name in primitive.reads[FORWARD]:
            array = self.data.fixed(primitive, name)
            if array is not None:
                rows = (*shape[:-1], self.data.batch)
                own = rows if name == "labels" else resident_shape(name, array.shape)
                symbols[name] = self._variable(f"{layer.name}.{name}", as_tensor(array, own))
        return symbols

    def _parameters(self, layer: Layer, member: int, primitive: Primitive) -> Symbols:
        """What is trained of a primitive; of an LSTM all in one array."""
        arrays = {
            name: self.data.parameters[layer.name, member, name] for name in primitive.parameters
        }
        if primitive.kind == "lstm_cell":
            tensors = {PACKED: lstm_parameters(arrays)}
        else:
            tensors = {name: as_tensor(array, array.shape) for name, array in arrays.items()}
        symbols = {}
        for name, tensor in tensors.items():
            variable = f"{layer.name}.{member}.{name}"
            symbols[name] = self._variable(variable, tensor)
            for part, view in unpacked(primitive, name, tensor).items():
                self.trained[layer.name, member, part] = view
            if self.mode == TRAIN:
                self.gradients[variable] = mx.nd.zeros(tensor.shape)
                for part, view in unpacked(primitive, name, self.gradients[variable]).items():
                    self.by[layer.name, member, part] = view
        return symbols


class MxnetNetwork(WholeNetwork):
    """The executor of a network's graph, and MXNet's optimizer.

    A batch norm's running statistics move in training, as MXNet's do; nothing reads them.
    """

    def __init__(self, network: Network, mode: str, data: NetworkData) -> None:
        graph = Graph(network, mode, data)
        self.network = network
        self.mode = mode
        self.training = mode == TRAIN
        self.bound = partial(bound, graph.symbol, graph.tensors, graph.gradients)
        self.executor = self.bound()
        self.shapes = {key: data.parameters[key].shape for key in graph.trained}
        self.trained = list(graph.trained.values())
        self.gradients = list(graph.by.values())
        self.parameters = sum(int(weights.size) for weights in self.trained)
        self.update = updater(network.learning_rate, network.momentum)
        self.places = list(range(len(self.trained)))
        self.upstream = mx.nd.ones((1,))

    def call(self) -> Any:
        if not self.training:
            return self.executor.forward(False)
        self.executor.forward(True)
        self.executor.backward(self.upstream)
        self.update(self.places, self.gradients, self.trained)
        return None

    def profile(self, calls: int) -> list[ProfiledCall]:
        """Through an executor of its own: of operators in bulk the profiler sees but one.

        It has the same arrays and the same graph; one by one the operators are no slower, but for
        what the engine does between them.

        Raises:
            Unsupported: it runs on a GPU.
        """
        if mx.current_context() != mx.cpu():
            raise Unsupported("MXNet's profiler is read on the CPU only")
        usual = self.executor
        try:
            with _one_by_one():
                self.executor = self.bound()
            for _ in range(WARM_UP_CALLS):
                self._finished_call()
            owners = Owners(self.network, self.mode, nodes_of(self.executor.debug_str()))
            windows, events = recorded(self._finished_call, calls)
        finally:
            self.executor = usual
        return profiled(windows, events, owners)

    def _finished_call(self) -> None:
        self.call()
        mx.nd.waitall()

    def evaluate(self) -> Arrays:
        (output,) = self.executor.forward(self.training)
        if not self.training:
            return {"output": output.asnumpy()}
        self.executor.backward(self.upstream)
        return {"loss": output.asnumpy(), **self._named(self.gradients)}

    def weights(self) -> Arrays:
        return self._named(self.trained)

    def _named(self, tensors: list[Any]) -> Arrays:
        """Copies of weights or gradients, by parameter and in its shape."""
        return {
            ".".join(map(str, key)): tensor.asnumpy().reshape(shape)
            for (key, shape), tensor in zip(self.shapes.items(), tensors)
        }


@contextmanager
def _one_by_one() -> Iterator[None]:
    """Executors that are bound meanwhile hand over each operator by itself."""
    before = {name: os.environ.get(name) for name in BULKING}
    os.environ.update(dict.fromkeys(BULKING, "0"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
