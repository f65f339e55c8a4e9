"""What CNTK's graphs are made of: a node for each primitive, and whole networks of them.

CNTK computes on batches of samples along a dynamic axis, and on sequences along another.  Weights
of matrix products are (in, out), the gates of an LSTM stand in the order i, g, f, o.
"""

from __future__ import annotations

from typing import Any, Callable

import cntk
import numpy as np
from cntk import cntk_py
from cntk.internal import sanitize_shape, typemap

from .attention import LayerNorm, Scale
from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from .data import Arrays, NetworkData
from .engine import Unsupported, WholeNetwork
from .layers import Heads, Layer
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
    SoftmaxLoss,
)
from .network import TRAIN, Network
from .primitive import FORWARD, Primitive, Shape, product
from .spans import ProfiledCall, moving_layers
from .spans_cntk import Owners, layers_of_nodes, node_timing, profiled_call

CPU = cntk.cpu()
ALL_AXES = cntk.Axis.all_axes()
Nodes = dict[str, Any]  # operand name -> a CNTK variable or function


# Layout.


def native(primitive: Primitive, name: str, array: Any, sample: Shape = ()) -> Any:
    """An operand in the layout that CNTK wants; ``sample`` is the shape that its input has."""
    if isinstance(primitive, Gemm) and name in ("a", "b"):
        array = _untransposed(primitive, name, array)
        if name == "b" and len(sample) > 1:
            array = array.reshape((*sample, primitive.n))
    elif isinstance(primitive, LstmCell):
        array = _native_lstm(primitive, name, array)
    elif name == "bias":
        array = array.reshape((-1,) + (1,) * (len(sample) - 1))
    return np.ascontiguousarray(array)


def canonical(primitive: Primitive, name: str, array: Any) -> Any:
    """The reverse of ``native``, for operands that CNTK yields and for their gradients."""
    operand = name if name in primitive.operands() else name[1:]
    if isinstance(primitive, Gemm) and operand in ("a", "b"):
        rows = primitive.k if operand == "b" else primitive.m
        array = _untransposed(primitive, operand, array.reshape(rows, -1))
    elif isinstance(primitive, LstmCell) and operand in ("x", "y"):
        array = array.swapaxes(0, 1)
    elif isinstance(primitive, LstmCell):
        array = _other_gates(array.T)
    return array.reshape(primitive.operand(name).shape)


def _untransposed(primitive: Gemm, name: str, array: Any) -> Any:
    return array.T if {"a": primitive.trans_a, "b": primitive.trans_b}[name] else array


def _native_lstm(primitive: LstmCell, name: str, array: Any) -> Any:
    if name in ("x", "y", "dy"):
        return array.swapaxes(0, 1)
    if name in ("h0", "c0"):
        return _first_of_sequence(array, primitive.steps)
    return _other_gates(array).T


def _first_of_sequence(state: Any, steps: int) -> Any:
    """The state as sequences of which all other steps are zero."""
    batch, hidden = state.shape
    sequences = np.zeros((batch, steps, hidden), state.dtype)
    sequences[:, 0] = state
    return sequences


def _other_gates(array: Any) -> Any:
    """Gates i, f, g, o in the order i, g, f, o, and back."""
    i, second, third, o = np.split(array, 4)
    return np.concatenate([i, third, second, o])


def value(array: Any) -> Any:
    """A resident value for an input, or for the gradient of an output."""
    dense = np.ascontiguousarray(array, np.float32)
    return cntk.Value(cntk.NDArrayView.from_dense(dense, CPU))


def one_hot(ids: Any, size: int) -> Any:
    """Ids as sparse vectors; rows are sequences if there are two axes."""
    return cntk.Value.one_hot(ids.tolist(), size, device=CPU)


def to_numpy(result: Any) -> Any:
    """What CNTK computed; the gradient of an embedding is sparse until here."""
    data = result.data() if isinstance(result, cntk.cntk_py.Value) else result
    dense = cntk.NDArrayView(data.shape().dimensions(), np.float32, CPU)
    dense.copy_from(data)
    return dense.asarray()


# Nodes: from a primitive and its operands to a CNTK function.


def _conv2d(primitive: Primitive, t: Nodes) -> Any:
    assert isinstance(primitive, Conv2d)
    p = primitive
    if p.dilation != (1, 1):
        raise Unsupported("CNTK has no dilated convolution on the CPU")
    same = any(p.padding) and not needs_pad(p)
    x = t["x"]
    if needs_pad(p):
        x = cntk.pad(x, [(0, 0), p.padding[:2], p.padding[2:]])
    padding = [False, same, same]
    return cntk.convolution(t["w"], x, p.stride, auto_padding=padding, groups=p.groups)


def needs_pad(p: Conv2d) -> bool:
    """Whether it takes an operation of its own.

    CNTK pads by half a window, where the image is as large as a window, or not at all.
    """
    half = tuple((size - 1) // 2 for size in p.kernel for _ in range(2))
    odd = all(size % 2 for size in p.kernel)
    fits = p.kernel[0] <= p.height and p.kernel[1] <= p.width
    return any(p.padding) and not (odd and fits and p.padding == half)


def _gemm(primitive: Primitive, t: Nodes) -> Any:
    return cntk.times(t["a"], t["b"])


def _batched_gemm(primitive: Primitive, t: Nodes) -> Any:
    """A product for each sample; operators on their axes turn the matrices."""
    assert isinstance(primitive, BatchedGemm)
    a = cntk.swapaxes(t["a"]) if primitive.trans_a else t["a"]
    b = cntk.swapaxes(t["b"]) if primitive.trans_b else t["b"]
    return cntk.times(a, b)


def _lstm_cell(primitive: Primitive, t: Nodes) -> Any:
    """The graph of Recurrence(LSTM(...)), but for the state before the first step.

    That state, where it is not zero, is added as a sequence: an initial state of past_value would
    hide a node whose value is lost when its memory is shared.
    """
    assert isinstance(primitive, LstmCell)
    size = primitive.hidden_size
    h, c = cntk.placeholder(), cntk.placeholder()
    before_h, before_c = cntk.sequence.past_value(h), cntk.sequence.past_value(c)
    if "h0" in t:
        before_h, before_c = before_h + t["h0"], before_c + t["c0"]
    gates = t["bias"] + cntk.times(t["x"], t["wx"]) + cntk.times(before_h, t["wh"])
    parts = [cntk.slice(gates, -1, part * size, (part + 1) * size) for part in range(4)]
    i, f, o = (cntk.sigmoid(parts[part]) for part in (0, 2, 3))
    cell = f * before_c + i * cntk.tanh(parts[1])
    hidden = o * cntk.tanh(cell)
    return hidden.replace_placeholders({h: hidden.output, c: cell.output})


def _bias(primitive: Primitive, t: Nodes) -> Any:
    return t["x"] + t["bias"]


def _activation(primitive: Primitive, t: Nodes) -> Any:
    assert isinstance(primitive, Activation)
    if primitive.function == "gelu":
        raise Unsupported("CNTK has no error function")
    return getattr(cntk, primitive.function)(t["x"])


def _pool2d(primitive: Primitive, t: Nodes) -> Any:
    """Pooling with the padding said in full, which Python's cntk.pooling leaves out.

    An average over a padded window divides by all of it, or by the image in it: where it has to
    be by the padded image, that is made first.
    """
    assert isinstance(primitive, Pool2d)
    p = primitive
    x, before, after = t["x"], p.padding[::2], p.padding[1::2]
    sizes = (p.height, p.width)
    beyond = [
        (p.extent[axis] - 1) * p.stride[axis] + p.kernel[axis] - sizes[axis] - before[axis]
        for axis in (0, 1)
    ]
    partial = any(beyond[axis] > after[axis] for axis in (0, 1))
    if partial and any(p.padding) and p.function == "average":
        x = cntk.pad(x, [(0, 0), p.padding[:2], p.padding[2:]])
        beyond = [beyond[axis] - after[axis] for axis in (0, 1)]
        before = (0, 0)
    lower = [int(size) for size in reversed(before)]
    upper = [max(size, 0) for size in reversed(beyond)]
    kind = cntk.MAX_POOLING if p.function == "max" else cntk.AVG_POOLING
    window, stride = sanitize_shape(p.kernel), sanitize_shape(p.stride)
    pooling = typemap(cntk_py.pooling)
    return pooling(_output(x), kind, window, stride, lower, upper, False, not partial, "")


def _output(node: Any) -> Any:
    return node.output if isinstance(node, cntk.Function) else node


def _lrn(primitive: Primitive, t: Nodes) -> Any:
    """The graph of cntk.local_response_normalization, which has odd windows within the image only.

    Its division is said as the two operations that it is: a hidden one would lose its value when
    memory is shared.

    A window that reaches beyond the channels, or is even, slides over padded ones.
    """
    assert isinstance(primitive, LocalResponseNorm)
    p, x = primitive, t["x"]
    squares = cntk.reshape(x * x, (1, *x.shape))
    rest = len(x.shape) - 1
    same = bool(p.size % 2) and p.size <= p.channels
    if not same:
        reach = (p.size // 2, p.size - 1 - p.size // 2)
        squares = cntk.pad(squares, [(0, 0), reach] + [(0, 0)] * rest)
    window = np.full((1, p.size) + (1,) * rest, p.alpha / p.size, np.float32)
    padding = [False, same] + [False] * rest
    sums = cntk.convolution(cntk.constant(window), squares, auto_padding=padding)
    norm = cntk.reshape(sums, x.shape) + np.float32(p.k)
    return x * cntk.reciprocal(cntk.exp(np.float32(p.beta) * cntk.log(norm)))


def _batch_norm(primitive: Primitive, t: Nodes) -> Any:
    assert isinstance(primitive, BatchNorm)
    parameters = [t[name] for name in ("gamma", "beta", "running_mean", "running_variance")]
    return cntk.batch_normalization(
        t["x"], *parameters, spatial=True, epsilon=primitive.epsilon, running_count=t["count"]
    )


def frozen_batch_norm(primitive: BatchNorm, t: Nodes) -> Any:
    """With running statistics and yet gradients, which CNTK's own operation has not on a CPU."""
    column = (primitive.channels, 1)
    mean, variance, gamma, beta = (
        cntk.reshape(t[name], column)
        for name in ("running_mean", "running_variance", "gamma", "beta")
    )
    deviation = cntk.sqrt(variance + np.float32(primitive.epsilon))
    return gamma * ((t["x"] - mean) * cntk.reciprocal(deviation)) + beta


def _dropout(primitive: Primitive, t: Nodes) -> Any:
    assert isinstance(primitive, Dropout)
    return cntk.dropout(t["x"], primitive.rate)


def _softmax(primitive: Primitive, t: Nodes) -> Any:
    return cntk.softmax(t["x"])


def _layer_norm(primitive: Primitive, t: Nodes) -> Any:
    """The graph of cntk.layers.LayerNormalization, which adds epsilon to the deviation instead."""
    assert isinstance(primitive, LayerNorm)
    centred = t["x"] - cntk.reduce_mean(t["x"], axis=-1)
    variance = cntk.reduce_mean(centred * centred, axis=-1)
    deviation = cntk.sqrt(variance + np.float32(primitive.epsilon))
    return centred * cntk.reciprocal(deviation) * t["gamma"] + t["beta"]


def _transpose(primitive: Primitive, t: Nodes) -> Any:
    return cntk.swapaxes(t["x"], 0, 1)


def _scale(primitive: Primitive, t: Nodes) -> Any:
    assert isinstance(primitive, Scale)
    return t["x"] * np.float32(primitive.factor)


def _softmax_loss(primitive: Primitive, t: Nodes) -> Any:
    return cntk.cross_entropy_with_softmax(t["x"], t["labels"])


def _embedding(primitive: Primitive, t: Nodes) -> Any:
    return cntk.times(t["ids"], t["table"])


def _add(primitive: Primitive, t: Nodes) -> Any:
    return t["x"] + t["other"]


def _pad_channels(primitive: Primitive, t: Nodes) -> Any:
    assert isinstance(primitive, PadChannels)
    rest = len(t["x"].shape) - 1
    return cntk.pad(t["x"], [(0, primitive.added)] + [(0, 0)] * rest)


NODES: dict[str, Callable[[Primitive, Nodes], Any]] = {
    "conv2d": _conv2d,
    "gemm": _gemm,
    "batched_gemm": _batched_gemm,
    "lstm_cell": _lstm_cell,
    "bias": _bias,
    "activation": _activation,
    "pool2d": _pool2d,
    "lrn": _lrn,
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "transpose": _transpose,
    "scale": _scale,
    "softmax_loss": _softmax_loss,
    "embedding": _embedding,
    "add": _add,
    "pad_channels": _pad_channels,
}


def learner(parameters: list[Any], momentum: float, rate: float, rows: int) -> Any:
    """Stochastic gradient descent on the mean over ``rows`` rows."""
    schedule = cntk.learning_parameter_schedule(rate, minibatch_size=rows)
    if not momentum:
        return cntk.sgd(parameters, schedule, minibatch_size=rows)
    decay = cntk.momentum_schedule(momentum, minibatch_size=rows)
    return cntk.momentum_sgd(parameters, schedule, decay, unit_gain=False, minibatch_size=rows)


class CntkNetwork(WholeNetwork):
    """One graph; a step of training is one call of cntk.Trainer."""

    def __init__(self, network: Network, mode: str, data: NetworkData) -> None:
        self.network = network
        self.mode = mode
        self.data = data
        self.trained: dict[tuple[str, int, str], tuple[Primitive, Any]] = {}
        self.arguments: dict[Any, Any] = {}
        self.rows = 1
        self.nodes: Nodes = {}  # layer -> its output
        self.output = self._graph()
        self.parameters = sum(product(p.shape) for _, p in self.trained.values())
        self.results = {self.output.output: None}
        self.keep: set[Any] = set()
        if mode == TRAIN:
            parameters = [parameter for _, parameter in self.trained.values()]
            sgd = learner(parameters, network.momentum, network.learning_rate, self.rows)
            self.trainer = cntk.Trainer(None, (self.output,), [sgd])

    def _graph(self) -> Any:
        nodes = self.nodes
        nodes[self.network.input.name] = self._input()
        for layer in self.network.layers[1:]:
            node = nodes[layer.inputs[0]]
            if isinstance(self.network.shapes[layer.name], Heads):
                raise Unsupported(f"layer {layer.name}: heads are neither samples nor steps")
            primitives = self.network.primitives(layer, self.data.batch, self.mode)
            for member, primitive in enumerate(primitives):
                operands = self._operands(layer, member, primitive, node)
                operands.update(zip(primitive.inputs[1:], (nodes[i] for i in layer.inputs[1:])))
                node = NODES[primitive.kind](primitive, operands)
            nodes[layer.name] = node
        return node

    def _input(self) -> Any:
        """The data, which lies ready; ids and (steps, features) are sequences."""
        source = self.network.input
        if source.vocabulary:
            node = cntk.sequence.input_variable((source.vocabulary,), is_sparse=True)
            self.arguments[node] = one_hot(self.data.input.T, source.vocabulary)
        elif len(source.shape) == 2:
            node = cntk.sequence.input_variable(source.shape[1:])
            self.arguments[node] = value(self.data.input.swapaxes(0, 1))
        else:
            node = cntk.input_variable(source.shape)
            self.arguments[node] = value(self.data.input)
        return node

    def _operands(self, layer: Layer, member: int, primitive: Primitive, node: Any) -> Nodes:
        """The input and the parameters of a primitive; an LSTM's zero state is CNTK's own."""
        operands = {primitive.input: node}
        for name in primitive.reads[FORWARD]:
            key = (layer.name, member, name)
            if key in self.data.parameters:
                array = native(primitive, name, self.data.parameters[key], node.shape)
                operands[name] = cntk.parameter(array.shape, init=array)
                self.trained[key] = primitive, operands[name]
            elif name.startswith("running"):
                operands[name] = cntk.constant(self.data.fixed(primitive, name))
        if isinstance(primitive, BatchNorm):
            operands["count"] = cntk.constant(0)
        if isinstance(primitive, SoftmaxLoss):
            operands["labels"] = self._labels(primitive, node)
        return operands

    def _labels(self, primitive: SoftmaxLoss, node: Any) -> Any:
        """One for each row; those of sequences come step by step."""
        self.rows = primitive.rows
        labels = self.data.labels
        if cntk.Axis.default_dynamic_axis() in _output(node).dynamic_axes:
            labels = labels.reshape(-1, self.data.batch).T
            variable = cntk.sequence.input_variable((primitive.classes,), is_sparse=True)
        else:
            variable = cntk.input_variable((primitive.classes,), is_sparse=True)
        self.arguments[variable] = one_hot(labels, primitive.classes)
        return variable

    def call(self) -> Any:
        if self.mode == TRAIN:
            cntk_py.Trainer.train_minibatch(self.trainer, self.arguments, False, CPU)
            return None
        output = self.output.output
        self.results[output] = None
        self.output._forward(self.arguments, self.results, CPU, self.keep)
        return self.results[output]

    def evaluate(self) -> Arrays:
        if self.mode == TRAIN:
            return self._loss_and_gradients()
        output = to_numpy(self.call())
        if len(self.network.shapes[self.network.layers[-1].inputs[0]]) == 2:
            output = output.swapaxes(0, 1)
        return {"output": output}

    def _loss_and_gradients(self) -> Arrays:
        """By a graph of their own: a trainer keeps its gradients to itself."""
        total = cntk.reduce_sum(self.output, axis=ALL_AXES)
        results = {total.output: None}
        state = total._forward(self.arguments, results, CPU, {total.output})
        gradients = dict.fromkeys(parameter for _, parameter in self.trained.values())
        total._backward(state, {total.output: value(np.array(1 / self.rows))}, gradients)
        arrays = {"loss": to_numpy(results[total.output]) / self.rows}
        for key, (primitive, parameter) in self.trained.items():
            gradient = to_numpy(gradients[parameter])
            arrays[".".join(map(str, key))] = canonical(primitive, key[2], gradient)
        return arrays

    def profile(self, calls: int) -> list[ProfiledCall]:
        movers = moving_layers(self.network, self.data.batch, self.mode)
        # Beside the graph's nodes there are a trainer's, which sum up the loss.
        rest = self.network.layers[-1].name
        owners = Owners(layers_of_nodes(self.nodes), rest, frozenset(movers))
        with node_timing(cntk_py):
            return [profiled_call(cntk_py, self.call, owners) for _ in range(calls)]

    def weights(self) -> Arrays:
        return {
            ".".join(map(str, key)): canonical(primitive, key[2], parameter.value)
            for key, (primitive, parameter) in self.trained.items()
        }
