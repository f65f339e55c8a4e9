"""Networks written in TensorFlow: its layouts, its operators, and a network as one graph.

Channels are last (``channels_last``), and the LSTM's two matrices are one: what TensorFlow's own
layers keep.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf

from .attention import LayerNorm, Scale
from .channels_last import (
    Flattening,
    Frame,
    flattening,
    frame,
    share_counted,
    turned,
    turned_back,
    turned_data,
    turned_shape,
    value_shape,
)
from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from .data import Arrays, NetworkData
from .engine import Unsupported, WholeNetwork
from .layers import Layer, is_image
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
)
from .network import TRAIN, Network
from .primitive import FORWARD, Primitive, Shape, product
from .scopes import scope_of
from .spans import ProfiledCall
from .spans_tensorflow import Owners, profiled, recorded

ops = tf.raw_ops

Tensors = dict[str, Any]  # operand name -> tensor or variable
Operator = Callable[[Tensors], Any]

# What works element by element, or channel by channel, takes values as they come.
ANY_SHAPE = ("activation", "add", "batch_norm", "copy", "dropout", "lrn", "pad_channels", "scale")

FIRST_AXES_EXCHANGED = np.array([1, 0, 2], np.int32)

# Where operands lie among the results of an operator that has several.
PLACES = {
    "batch_norm": {"y": 0, "dx": 0, "dgamma": 1, "dbeta": 2},
    "layer_norm": {"dx": 0, "dgamma": 1, "dbeta": 2},
    "lstm_cell": {"y": 6, "dx": 0, "dw": 3, "dbias": 7},
    "softmax_loss": {"loss": 0},
}


# Layouts: the order of the definition's axes in TensorFlow.


def natural(primitive: Primitive, name: str, array: Any) -> Any:
    """An operand as TensorFlow lays it out."""
    if primitive.kind == "lstm_cell" and name == "bias":
        return swapped_gates(array)
    return turned(primitive, name, array).reshape(natural_shape(primitive, name))


def canonical(primitive: Primitive, name: str, array: Any) -> Any:
    """The operand as the primitive lays it out, from an array of TensorFlow's layout."""
    if primitive.kind == "lstm_cell" and name in ("bias", "dbias"):
        return swapped_gates(array)
    return turned_back(primitive, name, array)


def natural_shape(primitive: Primitive, name: str) -> Shape:
    """The shape of an operand in TensorFlow; its normalisations take only images."""
    shape = turned_shape(primitive, name)
    if primitive.kind in ("batch_norm", "lrn") and len(shape) == 3:
        return (shape[0], 1, *shape[1:])
    return shape


def lstm_weights(wx: Any, wh: Any) -> Any:
    """The two matrices as one, and its gates in TensorFlow's order."""
    return np.concatenate((swapped_gates(wx).T, swapped_gates(wh).T))


def lstm_matrices(primitive: LstmCell, weights: Any) -> tuple[Any, Any]:
    """The two matrices that one is made of."""
    wx, wh = weights[: primitive.input_size].T, weights[primitive.input_size :].T
    return swapped_gates(wx), swapped_gates(wh)


def swapped_gates(rows: Any) -> Any:
    """From the order i, f, g, o to ``BlockLSTM``'s i, g, f, o, or back.

    ``BlockLSTMV2`` has our order, but TensorFlow 2.21 registers the other's gradient for it.
    """
    i, f, g, o = np.split(rows, 4)
    return np.concatenate((i, g, f, o))


# Windows: what TensorFlow's padding can say, and what must be padded by hand.


class Placing(NamedTuple):
    """How an operator places its windows on images, and the frame they need around them."""

    padding: str
    frame: Frame

    @property
    def paddings(self) -> list[list[int]]:
        """The frame as ``Pad`` takes it."""
        top, bottom, left, right = self.frame
        return [[0, 0], [top, bottom], [left, right], [0, 0]]


def placing(
    p: Conv2d | Pool2d, dilation: tuple[int, int] = (1, 1), same_allowed: bool = True
) -> Placing:
    """SAME where it means the same, else VALID in a frame.

    EXPLICIT would do for a forward convolution, but its gradients run outside of oneDNN and know
    neither groups nor dilation.
    """
    around = frame(p, dilation)
    same = same_allowed
    for axis, size in enumerate((p.height, p.width)):
        count, stride = p.extent[axis], p.stride[axis]
        reach = (count - 1) * stride + dilation[axis] * (p.kernel[axis] - 1) + 1
        same = same and count == -(-size // stride)
        same = same and around[2 * axis] == max(0, reach - size) // 2
    if same and any(around):
        return Placing("SAME", (0, 0, 0, 0))
    return Placing("VALID", around)


def pool_placing(p: Pool2d) -> Placing:
    """SAME leaves padding out of an average, which only windows beyond the image ask for."""
    return placing(p, same_allowed=p.function == "max" or not any(p.padding))


def pool_attributes(p: Pool2d) -> dict[str, Any]:
    """The attributes of a pooling operator and of its gradient."""
    return {
        "ksize": [1, *p.kernel, 1],
        "strides": [1, *p.stride, 1],
        "padding": pool_placing(p).padding,
    }


def average_correction(p: Pool2d) -> Any:
    """What each average over a full window must be multiplied by; None where all windows are."""
    share = None if pool_placing(p).padding == "SAME" else share_counted(p)
    return None if share is None else tf.constant(share)


def conv2d_attributes(p: Conv2d) -> dict[str, Any]:
    """The attributes of a convolution and of its gradients."""
    return {
        "strides": [1, *p.stride, 1],
        "dilations": [1, *p.dilation, 1],
        "padding": placing(p, p.dilation).padding,
    }


def by_group(p: Conv2d, convolve: Callable[[Any, Any], Any], grouped: bool) -> Any:
    """The convolution, or group by group for kernels that know no groups.

    All operands have the channels that are divided among the groups on their last axis.
    """
    if grouped or p.groups == 1:
        return convolve

    def call(first: Any, second: Any) -> Any:
        parts = [ops.Split(axis=3, value=each, num_split=p.groups) for each in (first, second)]
        return ops.ConcatV2(values=[convolve(*pair) for pair in zip(*parts)], axis=3)

    return call


# Operators: made once for a primitive; from its operands to its output, or to several results.


def _conv2d(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, Conv2d)
    attributes, placed = conv2d_attributes(p), placing(p, p.dilation)

    def convolve(x: Any, w: Any) -> Any:
        return ops.Conv2D(input=x, filter=w, **attributes)

    convolution = by_group(p, convolve, grouped=onednn)

    def call(t: Tensors) -> Any:
        x = ops.Pad(input=t["x"], paddings=placed.paddings) if any(placed.frame) else t["x"]
        return convolution(x, t["w"])

    return call


def _gemm(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, Gemm)
    return lambda t: ops.MatMul(a=t["a"], b=t["b"], transpose_a=p.trans_a)


def _batched_gemm(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, BatchedGemm)
    return lambda t: ops.BatchMatMulV2(x=t["a"], y=t["b"], adj_x=p.trans_a, adj_y=p.trans_b)


def _lstm_cell(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, LstmCell)
    attributes = lstm_attributes(p)
    return lambda t: ops.BlockLSTM(
        x=t["x"],
        w=t["w"],
        b=t["bias"],
        cs_prev=t["c0"],
        h_prev=t["h0"],
        forget_bias=0.0,
        cell_clip=0.0,
        **attributes,
    )


def lstm_attributes(p: LstmCell) -> dict[str, Any]:
    """What the fused LSTM and its gradient take beside operands: no peepholes, all steps."""
    none = tf.zeros(p.hidden_size)
    steps = tf.constant(p.steps, tf.int64)
    return {"seq_len_max": steps, "wci": none, "wcf": none, "wco": none, "use_peephole": False}


def _bias(p: Primitive, onednn: bool) -> Operator:
    return lambda t: ops.BiasAdd(value=t["x"], bias=t["bias"])


def _activation(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, Activation)
    if p.function == "relu":
        return lambda t: ops.Relu(features=t["x"])
    if p.function == "gelu":
        return lambda t: ops.Mul(x=ops.Mul(x=t["x"], y=0.5), y=gelu_erfc(t["x"]))
    function = {"sigmoid": ops.Sigmoid, "tanh": ops.Tanh}[p.function]
    return lambda t: function(x=t["x"])


def gelu_erfc(x: Any) -> Any:
    """The factor of a GELU that is not x / 2: the complementary error function, as in tf.nn.gelu.

    One less it and twice the normal distribution are the same.
    """
    return ops.Erfc(x=ops.Mul(x=ops.Neg(x=x), y=0.5**0.5))


def _pool2d(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, Pool2d)
    attributes, placed, correction = pool_attributes(p), pool_placing(p), average_correction(p)
    fill = float("-inf") if p.function == "max" else 0.0

    def call(t: Tensors) -> Any:
        x = t["x"]
        if any(placed.frame):
            x = ops.PadV2(input=x, paddings=placed.paddings, constant_values=fill)
        if p.function == "max":
            return ops.MaxPool(input=x, **attributes)
        y = ops.AvgPool(value=x, **attributes)
        return y if correction is None else ops.Mul(x=y, y=correction)

    return call


def _lrn(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, LocalResponseNorm)
    attributes = lrn_attributes(p)
    return lambda t: ops.LRN(input=t["x"], **attributes)


def lrn_attributes(p: LocalResponseNorm) -> dict[str, Any]:
    """The attributes of local response normalisation and of its gradient."""
    if p.size % 2 == 0:
        raise Unsupported(f"LRN reaches equally far to both sides: no window of {p.size} channels")
    return {"depth_radius": p.size // 2, "bias": p.k, "alpha": p.alpha / p.size, "beta": p.beta}


def _batch_norm(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, BatchNorm)
    none = tf.zeros(0)

    def call(t: Tensors) -> Any:
        x = t["x"] if len(t["x"].shape) == 4 else tf.reshape(t["x"], natural_shape(p, "x"))
        return ops.FusedBatchNormV3(
            x=x,
            scale=t["gamma"],
            offset=t["beta"],
            mean=none if p.training else t["running_mean"],
            variance=none if p.training else t["running_variance"],
            epsilon=p.epsilon,
            is_training=p.training,
        )

    return call


def _dropout(p: Primitive, onednn: bool) -> Operator:
    """The operators that ``tf.nn.dropout`` comes to."""
    assert isinstance(p, Dropout)
    rate, scale = p.rate, 1 / (1 - p.rate)

    def call(t: Tensors) -> Any:
        drawn = ops.RandomUniform(shape=t["x"].shape, dtype=tf.float32)
        keep = ops.GreaterEqual(x=drawn, y=rate)
        return ops.SelectV2(condition=keep, t=ops.Mul(x=t["x"], y=scale), e=0.0)

    return call


def _softmax(p: Primitive, onednn: bool) -> Operator:
    return lambda t: ops.Softmax(logits=t["x"])


def _layer_norm(p: Primitive, onednn: bool) -> Operator:
    """The operators that Keras' layer comes to: TensorFlow has none of its own."""
    assert isinstance(p, LayerNorm)

    def mean_of_rows(x: Any) -> Any:
        return ops.Mean(input=x, axis=[1], keep_dims=True)

    def call(t: Tensors) -> Any:
        x, mean = t["x"], mean_of_rows(t["x"])
        squares = ops.SquaredDifference(x=x, y=ops.StopGradient(input=mean))
        inverse = ops.Rsqrt(x=ops.AddV2(x=mean_of_rows(squares), y=p.epsilon))
        factor = ops.Mul(x=inverse, y=t["gamma"])
        rest = ops.Sub(x=t["beta"], y=ops.Mul(x=mean, y=factor))
        return ops.AddV2(x=ops.Mul(x=x, y=factor), y=rest)

    return call


def _transpose(p: Primitive, onednn: bool) -> Operator:
    return lambda t: ops.Transpose(x=t["x"], perm=FIRST_AXES_EXCHANGED)


def _scale(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, Scale)
    factor = tf.constant(p.factor)
    return lambda t: ops.Mul(x=t["x"], y=factor)


def _softmax_loss(p: Primitive, onednn: bool) -> Operator:
    """The mean loss, and the gradient of each row's, which the same operator yields."""

    def call(t: Tensors) -> Any:
        losses, gradient = ops.SparseSoftmaxCrossEntropyWithLogits(
            features=t["x"], labels=t["labels"]
        )
        return ops.Mean(input=losses, axis=[0]), gradient

    return call


def _embedding(p: Primitive, onednn: bool) -> Operator:
    return lambda t: ops.GatherV2(params=t["table"], indices=t["ids"], axis=0)


def _add(p: Primitive, onednn: bool) -> Operator:
    return lambda t: ops.AddV2(x=t["x"], y=t["other"])


def _pad_channels(p: Primitive, onednn: bool) -> Operator:
    assert isinstance(p, PadChannels)

    def call(t: Tensors) -> Any:
        before = [[0, 0]] * (len(t["x"].shape) - 1)
        return ops.Pad(input=t["x"], paddings=[*before, [0, p.added]])

    return call


def _copy(p: Primitive, onednn: bool) -> Operator:
    return lambda t: ops.DeepCopy(x=t["x"])


OPERATORS: dict[str, Callable[[Primitive, bool], Operator]] = {
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
    "copy": _copy,
}


class Parameter(NamedTuple):
    """What is trained, and how an array of its shape reads in the network's definition."""

    variable: Any
    named: Callable[[Any], Arrays]
    layer: str


class Member(NamedTuple):
    """One primitive of a layer: what to call, and what it reads beside values."""

    operator: Operator
    constants: Tensors
    inputs: tuple[tuple[str, Shape | None], ...]  # operands, and the shapes to view them in
    place: int | None  # of the output among the results


class Step(NamedTuple):
    """One layer of a network: its primitives, the layers that it reads, the values to drop."""

    layer: str
    members: tuple[Member, ...]
    sources: tuple[str, ...]
    drops: tuple[str, ...]


class TensorflowNetwork(WholeNetwork):
    """One ``tf.function`` for an inference or a training step; without ``graph``, op by op.

    Everything lives in variables, the input among them: what is constant would be computed once,
    when the graph is optimised, and never again.
    """

    def __init__(
        self, network: Network, mode: str, data: NetworkData, graph: bool, onednn: bool
    ) -> None:
        self.network = network
        self.mode = mode
        self.data = data
        self.graph = graph
        self.onednn = onednn
        self.trained: list[Parameter] = []
        self.input = tf.Variable(turned_data(data.input), trainable=False)
        self.steps = self._steps()
        self.parameters = sum(product(tuple(p.variable.shape)) for p in self.trained)
        if mode == TRAIN:
            self.optimizer = [
                self._named(p.layer, sgd(p.variable, network.momentum, network.learning_rate))
                for p in self.trained
            ]
            self.dense = [self._named(p.layer, tf.convert_to_tensor) for p in self.trained]
        self._call = self._compiled(self._train if mode == TRAIN else self._forward)

    def call(self) -> Any:
        return self._call()

    def profile(self, calls: int) -> list[ProfiledCall]:
        if not self.graph:
            raise Unsupported("op by op TensorFlow's profiler does not tell layers apart")
        if "GPU" in self.input.device:
            raise Unsupported("TensorFlow's profiler is read on the CPU only")
        graph: Any = self._call
        nodes = {
            node.name: (node.type, tuple(tensor.op.name for tensor in node.inputs))
            for node in graph.graph.get_operations()
        }
        return profiled(recorded(self.call, calls), Owners(self.network, self.mode, nodes))

    def _named(self, layer: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function, with what it puts into a graph named after the layer."""
        if not self.graph:
            return function
        scope = scope_of(self.network, layer) + "/"  # as it stands, however often it is entered

        def call(operands: Any) -> Any:
            with tf.name_scope(scope):
                return function(operands)

        return call

    def _compiled(self, function: Callable[[], Any]) -> Callable[[], Any]:
        if not self.graph:
            return function
        compiled: Callable[[], Any]
        compiled = tf.function(function, autograph=False).get_concrete_function()
        return compiled

    def _steps(self) -> list[Step]:
        network, batch = self.network, self.data.batch
        active = [layer for layer in network.layers if network.primitives(layer, batch, self.mode)]
        alias = {network.input.name: network.input.name}
        steps: list[Step] = []
        for layer in network.layers[1:]:
            alias[layer.name] = layer.name if layer in active else alias[layer.inputs[0]]
        for place, layer in enumerate(active):
            later = {alias[name] for other in active[place + 1 :] for name in other.inputs}
            sources = tuple(alias[name] for name in layer.inputs)
            drops = tuple(set(sources) - later)
            steps.append(Step(layer.name, self._members(layer), sources, drops))
        return steps

    def _members(self, layer: Layer) -> tuple[Member, ...]:
        members = []
        primitives = self.network.primitives(layer, self.data.batch, self.mode)
        for member, primitive in enumerate(primitives):
            as_it_comes = member > 0 or primitive.kind in ANY_SHAPE
            inputs = tuple(
                (name, None if as_it_comes else natural_shape(primitive, name))
                for name in primitive.inputs
            )
            place = PLACES.get(primitive.kind, {}).get(primitive.output)
            operator = self._named(layer.name, OPERATORS[primitive.kind](primitive, self.onednn))
            constants = self._constants(layer, member, primitive)
            members.append(Member(operator, constants, inputs, place))
        return tuple(members)

    def _constants(self, layer: Layer, member: int, primitive: Primitive) -> Tensors:
        """Parameters, labels and the zero state that a primitive reads beside its input."""
        own: Arrays = {}
        tensors: Tensors = {}
        for name in primitive.reads[FORWARD]:
            if (layer.name, member, name) in self.data.parameters:
                own[name] = self.data.parameters[layer.name, member, name]
            elif (fixed := self.data.fixed(primitive, name)) is not None:
                tensors[name] = tf.constant(fixed)
        prefix = f"{layer.name}.{member}"
        if isinstance(primitive, LstmCell):
            weights = lstm_weights(own.pop("wx"), own.pop("wh"))
            named = partial(_named_matrices, prefix, primitive)
            tensors["w"] = self._train_with(layer, weights, named)
        for name, array in own.items():
            turn = _Turn(primitive, name, flattening(self.network, layer.name, name))
            tensors[name] = self._train_with(
                layer, turn.natural(array), partial(turn.named, prefix)
            )
        return tensors

    def _train_with(self, layer: Layer, array: Any, named: Callable[[Any], Arrays]) -> Any:
        variable = tf.Variable(array)
        self.trained.append(Parameter(variable, named, layer.name))
        return variable

    def _forward(self) -> Any:
        values = {self.network.input.name: self.input.value()}
        for layer, members, sources, drops in self.steps:
            taken = [values[source] for source in sources]
            for operator, constants, inputs, place in members:
                tensors = dict(constants)
                for (name, shape), value in zip(inputs, taken):
                    tensors[name] = value if shape is None else _viewed(value, shape)
                result = operator(tensors)
                taken = [result if place is None else result[place]]
            shape = value_shape(self.network.shapes[layer], self.data.batch)
            values[layer] = _viewed(taken[0], shape)
            for source in drops:
                del values[source]
        return values[layer]

    def _gradients(self) -> tuple[Any, list[Any]]:
        """The loss and all gradients, dense as the definition has them."""
        with tf.GradientTape() as tape:
            loss = self._forward()
        gradients = tape.gradient(loss, [parameter.variable for parameter in self.trained])
        return loss, [dense(gradient) for dense, gradient in zip(self.dense, gradients)]

    def _train(self) -> None:
        for update, gradient in zip(self.optimizer, self._gradients()[1]):
            update(gradient)

    def evaluate(self) -> Arrays:
        if self.mode != TRAIN:
            output = self.call().numpy()
            shape = self.network.shapes[self.steps[-1].layer]
            return {"output": np.moveaxis(output, 3, 1) if is_image(shape) else output}
        loss, gradients = self._compiled(self._gradients)()
        found = {"loss": loss.numpy()}
        for parameter, gradient in zip(self.trained, gradients):
            found.update(parameter.named(gradient.numpy()))
        return found

    def weights(self) -> Arrays:
        found: Arrays = {}
        for parameter in self.trained:
            found.update(parameter.named(parameter.variable.numpy().copy()))
        return found


class _Turn(NamedTuple):
    """A parameter's way into TensorFlow's layout and back."""

    primitive: Primitive
    name: str
    rows: Flattening

    def natural(self, array: Any) -> Any:
        return self.rows.turned(natural(self.primitive, self.name, array))

    def named(self, prefix: str, array: Any) -> Arrays:
        array = self.rows.turned_back(array)
        return {f"{prefix}.{self.name}": canonical(self.primitive, self.name, array)}


def _named_matrices(prefix: str, primitive: LstmCell, weights: Any) -> Arrays:
    wx, wh = lstm_matrices(primitive, weights)
    return {f"{prefix}.wx": wx, f"{prefix}.wh": wh}


def _viewed(value: Any, shape: Shape) -> Any:
    return value if tuple(value.shape) == shape else tf.reshape(value, shape)


def sgd(
    variable: Any, momentum: float, learning_rate: float, velocity: Any = None
) -> Callable[[Any], Any]:
    """The optimizer's operator for a variable: from its gradient to its change in place."""
    handle, rate = variable.handle, tf.constant(learning_rate)
    if not momentum:
        return lambda gradient: ops.ResourceApplyGradientDescent(
            var=handle, alpha=rate, delta=gradient
        )
    initial = tf.zeros_like(variable) if velocity is None else velocity
    accumulated = tf.Variable(initial, trainable=False)
    return lambda gradient: ops.ResourceApplyMomentum(
        var=handle, accum=accumulated.handle, lr=rate, grad=gradient, momentum=momentum
    )
