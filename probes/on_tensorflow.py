"""The tensorflow engine: a network is one graph (``tf.function``), layouts are NHWC.

A kernel is the operator that the graph comes to, called by itself through the eager executor: the
same code on the same thread pool, oneDNN's rewrites included.  What the graph optimiser fuses
(``_FusedConv2D``, say) is called by its own name.  Such a call has a fixed cost of about 15 us,
most of it Python, where a graph of one operator has one of 100 us; within a larger graph another
operator costs about 1 us.  What takes several operators (a layer normalisation, a GELU) is called
as a graph of its own.  In a graph an activation also fuses with the bias right before it,
across layers: its own kernel then has no counterpart.

With the variable KERNELPROF_TENSORFLOW_EAGER=1 networks run op by op instead, gradients from
``tf.GradientTape``: nothing is fused, every operator pays the fixed cost.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when the library is loaded

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context, execute
from tensorflow.python.util import _pywrap_util_port

from .attention import Scale
from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from .data import Arrays, NetworkData
from .decompose import Fusion, Kernel
from .device import CPU, number_of
from .engine import Call, Engine, Unsupported, WholeNetwork
from .host_stream import HostStream
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    LocalResponseNorm,
    Pool2d,
    SgdUpdate,
)
from .network import Network
from .oracle import results
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive
from .residents import Residents
from .tensorflow_device import gpu_facts, require_gpu, set_up_gpu
from .tensorflow_network import (
    FIRST_AXES_EXCHANGED,
    OPERATORS,
    PLACES,
    TensorflowNetwork,
    Tensors,
    average_correction,
    by_group,
    canonical,
    conv2d_attributes,
    gelu_erfc,
    lrn_attributes,
    lstm_attributes,
    lstm_matrices,
    lstm_weights,
    natural,
    natural_shape,
    ops,
    placing,
    pool_attributes,
    pool_placing,
    sgd,
    swapped_gates,
)

CONVOLUTION_BIAS = ("conv2d", "bias")
GEMM_BIAS = ("gemm", "bias")
FLOAT = tf.float32.as_datatype_enum
ADD_BIAS = [b"BiasAdd"]


def start(device: str = CPU) -> Engine:
    """The engine in this process, on a device.

    Raises:
        NoDeviceError: it does not compute there.
        ValueError: a variable asks for what it does not know.
    """
    if number_of(device) is None:
        return TensorflowEngine()
    engine = TensorflowEngine(set_up_gpu(device))
    require_gpu(device)
    engine.stream = HostStream(tf.test.experimental.sync_devices)
    return engine


class TensorflowEngine(Engine):
    """What fuses depends on oneDNN, which TensorFlow uses on CPUs with AVX-512 VNNI and newer.

    On a GPU ``card`` is the one; there a bias goes by itself.
    """

    computes_on_caller = False

    def __init__(self, card: Any = None) -> None:
        self.card = card
        intra = int(os.environ.get("TF_NUM_INTRAOP_THREADS", len(os.sched_getaffinity(0))))
        tf.config.threading.set_intra_op_parallelism_threads(intra)
        inter = int(os.environ.get("TF_NUM_INTEROP_THREADS", 1))
        tf.config.threading.set_inter_op_parallelism_threads(inter)
        self.graph = os.environ.get("KERNELPROF_TENSORFLOW_EAGER") != "1"
        self.onednn = card is None and bool(_pywrap_util_port.IsMklEnabled())
        self.fusion = Fusion(self._chains(), ("lstm_cell", "batch_norm", "layer_norm"))
        self.residents = Residents(_constant)

    def _chains(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        if not self.graph or self.card is not None:
            return {}
        chains: dict[str, tuple[tuple[str, ...], ...]] = {FORWARD: (CONVOLUTION_BIAS, GEMM_BIAS)}
        if self.onednn:
            chains[BACKWARD_WEIGHTS] = (CONVOLUTION_BIAS,)
        return chains

    def facts(self) -> dict[str, Any]:
        return {
            "version": tf.__version__,
            "precision": os.environ.get("TF_SET_ONEDNN_FPMATH_MODE", "float32"),
            "layout": "NHWC",
            "fc_weights": "(in, out)",
            "algorithm_search": "none",
            "mode": "graph" if self.graph else "eager",
            "onednn": self.onednn,
            "activations": "within the product before them" if self.graph else "by themselves",
            "denormals": "flushed to zero",
            "lstm": "BlockLSTM",
            "layer_norm": "composed as in Keras",
            "embedding_gradient": "dense",
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
            **({} if self.card is None else gpu_facts(self.card)),
        }

    def threads(self) -> int:
        return int(tf.config.threading.get_intra_op_parallelism_threads())

    def kernel(self, kernel: Kernel, arrays: list[Arrays], training: bool) -> Call:
        if kernel.passes == (UPDATE,):
            return _update(kernel, arrays)
        kinds = tuple(primitive.kind for primitive in kernel.primitives)
        if len(kinds) > 1 and kinds not in self.fusion.chains.get(kernel.passes[0], ()):
            raise Unsupported(f"no operator for {' + '.join(kinds)} {'+'.join(kernel.passes)}")
        if len(kernel.passes) > 1 and kinds[0] not in self.fusion.joint_passes:
            raise Unsupported(f"no operator for both backward passes of {kinds[0]}")
        tensors = self._tensors(kernel, arrays)
        if kernel.passes == (FORWARD,):
            return self._forward(kernel.primitives, tensors, training)
        if len(kinds) > 1:
            return _convolution_bias_backward(kernel.primitives[0], tensors)
        backward = BACKWARD[kinds[0], kernel.passes[0]]
        return backward(self, kernel.primitives[0], tensors)

    def _tensors(self, kernel: Kernel, arrays: list[Arrays]) -> Tensors:
        """The operands of a kernel; inner ones of a chain are the engine's own business."""
        tensors: Tensors = {}
        for place, (primitive, own) in enumerate(zip(kernel.primitives, arrays)):
            for name, array in own.items():
                inner_input = place > 0 and name == primitive.input
                inner_gradient = primitive is not kernel.primitives[-1] and name.startswith("d")
                if not inner_input and not inner_gradient and name not in ("wx", "wh"):
                    tensors[name] = self.residents.tensor(primitive, name, array)
            if isinstance(primitive, LstmCell):
                tensors["w"] = tf.constant(lstm_weights(own["wx"], own["wh"]))
        if len(kernel.primitives) > 1 and kernel.passes != (FORWARD,):
            first = kernel.primitives[0]
            tensors["dy"] = tf.reshape(tensors["dy"], natural_shape(first, first.output))
        return tensors

    def _forward(self, chain: tuple[Primitive, ...], tensors: Tensors, training: bool) -> Call:
        first = chain[0]
        if len(chain) == 1:
            operator = OPERATORS[first.kind](first, self.onednn)
            if first.kind != "layer_norm" and getattr(first, "function", "") != "gelu":
                return partial(operator, tensors)
            names = first.reads[FORWARD]
            return self.composed(
                lambda *operands: operator(dict(zip(names, operands))),
                [tensors[name] for name in names],
            )
        if isinstance(first, Gemm):
            return _gemm_bias(first, tensors)
        assert isinstance(first, Conv2d)
        if first.groups > 1 and not self.onednn:
            return self._unfused(chain, tensors)
        return self._convolution_bias(first, tensors, training)

    def _unfused(self, chain: tuple[Primitive, ...], tensors: Tensors) -> Call:
        convolution, bias = (OPERATORS[primitive.kind](primitive, False) for primitive in chain)
        return lambda: bias({**tensors, "x": convolution(tensors)})

    def _convolution_bias(self, p: Conv2d, t: Tensors, training: bool) -> Call:
        """In inference oneDNN's pass over the graph lets the convolution do its own padding."""
        placed, attributes = placing(p, p.dilation), conv2d_attributes(p)
        explicit = [edge for pair in placed.paddings for edge in pair]
        pads = any(explicit)
        within = pads and self.onednn and not training
        if within:
            attributes.update(padding="EXPLICIT", explicit_paddings=explicit)
        attributes.update(T=FLOAT, TArgs=[FLOAT], num_args=1, num_host_args=0, fused_ops=ADD_BIAS)
        listed = _listed(attributes)
        if within or not pads:
            return partial(_execute, "_FusedConv2D", 1, [t["x"], t["w"], t["bias"]], listed)

        def call() -> Any:
            x = ops.Pad(input=t["x"], paddings=placed.paddings)
            return _execute("_FusedConv2D", 1, [x, t["w"], t["bias"]], listed)

        return call

    def composed(self, function: Callable[..., Any], operands: list[Any]) -> Call:
        """A call of several operators: as a graph of its own, where networks are graphs.

        It leaves out what the public call checks each time, which takes longer than the rest.
        """
        if not self.graph:
            return lambda: function(*operands)
        graph = tf.function(function, autograph=False).get_concrete_function(*operands)
        return partial(graph._inference_function.call_flat, *operands, *graph.captured_inputs)

    def fetch(self, kernel: Kernel, result: Any) -> Arrays:
        if kernel.passes == (UPDATE,):
            return {f"w{place}": variable.numpy() for place, variable in enumerate(result)}
        if isinstance(kernel.primitives[0], LstmCell) and kernel.passes != (FORWARD,):
            return _lstm_gradients(kernel.primitives[0], result)
        found: Arrays = {}
        for order, (name, place, operand) in enumerate(results(kernel)):
            primitive = kernel.primitives[place]
            order = PLACES.get(primitive.kind, {}).get(name, order)
            tensor = result[order] if isinstance(result, (tuple, list)) else result
            found[name] = canonical(primitive, operand, tensor.numpy())
        return found

    def network(self, network: Network, mode: str, data: NetworkData) -> WholeNetwork:
        return TensorflowNetwork(network, mode, data, self.graph, self.onednn)


def _constant(primitive: Primitive, name: str, array: Any) -> Any:
    return tf.constant(natural(primitive, name, array))


def _execute(name: str, outputs: int, inputs: list[Any], attributes: tuple[Any, ...]) -> Any:
    """Run an operator that has no Python function: one that the graph's passes put in."""
    found = execute.quick_execute(name, outputs, inputs, attributes, context.context())
    return found if outputs > 1 else found[0]


def _listed(attributes: dict[str, Any]) -> tuple[Any, ...]:
    """Names and values in turn, as the executor takes them."""
    return tuple(each for item in attributes.items() for each in item)


def _update(kernel: Kernel, arrays: list[Arrays]) -> Call:
    """The optimizer's operator, for each parameter of a layer."""
    variables, steps = [], []
    for primitive, own in zip(kernel.primitives, arrays):
        assert isinstance(primitive, SgdUpdate)
        variable = tf.Variable(own["w"])
        variables.append(variable)
        step = sgd(variable, primitive.momentum, primitive.learning_rate, own["v"])
        steps.append(partial(step, tf.constant(own["dw"])))

    def call() -> list[Any]:
        for step in steps:
            step()
        return variables

    return call


def _gemm_bias(p: Gemm, t: Tensors) -> Call:
    attributes = {"T": FLOAT, "num_args": 1, "fused_ops": ADD_BIAS}
    listed = _listed({**attributes, "transpose_a": p.trans_a, "transpose_b": False})
    return partial(_execute, "_FusedMatMul", 1, [t["a"], t["b"], t["bias"]], listed)


# Backward kernels: the gradient operators, on what a forward pass leaves.


def _gemm_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Gemm)
    a, b = (t["b"], t["dc"]) if p.trans_a else (t["dc"], t["b"])
    return partial(ops.MatMul, a=a, b=b, transpose_b=True)


def _gemm_weights(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Gemm)
    return partial(ops.MatMul, a=t["a"], b=t["dc"], transpose_a=not p.trans_a)


def _batched_gemm_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, BatchedGemm)
    a, b, dc, both = t["a"], t["b"], t["dc"], p.trans_a and p.trans_b
    first, second = ((b, dc) if p.trans_a else (dc, b)), ((dc, a) if p.trans_b else (a, dc))
    turned = {"adj_x": both, "adj_y": p.trans_a or not p.trans_b}
    other = {"adj_x": p.trans_b or not p.trans_a, "adj_y": both}
    return lambda: [
        ops.BatchMatMulV2(x=first[0], y=first[1], **turned),
        ops.BatchMatMulV2(x=second[0], y=second[1], **other),
    ]


def _conv2d_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Conv2d)
    _refuse_dilation(engine, p)
    top, bottom, left, right = placing(p, p.dilation).frame
    channels = p.in_channels if engine.onednn else p.in_channels // p.groups
    framed = [p.batch, top + p.height + bottom, left + p.width + right, channels]
    attributes = {"input_sizes": tf.constant(framed), **conv2d_attributes(p)}

    def convolve(w: Any, dy: Any) -> Any:
        return ops.Conv2DBackpropInput(filter=w, out_backprop=dy, **attributes)

    call = partial(by_group(p, convolve, engine.onednn), t["w"], t["dy"])
    return _within_frame(p, p.in_channels, (top, bottom, left, right), call)


def _conv2d_weights(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Conv2d)
    _refuse_dilation(engine, p)
    filters = list(natural_shape(p, "w"))
    if not engine.onednn:
        filters[3] //= p.groups
    attributes = {"filter_sizes": tf.constant(filters), **conv2d_attributes(p)}

    def convolve(x: Any, dy: Any) -> Any:
        return ops.Conv2DBackpropFilter(input=x, out_backprop=dy, **attributes)

    return partial(by_group(p, convolve, engine.onednn), _framed_image(p, t["x"]), t["dy"])


def _convolution_bias_backward(p: Primitive, t: Tensors) -> Call:
    """The gradients of the filters and of the bias in one pass, as oneDNN has it."""
    assert isinstance(p, Conv2d)
    inputs = [_framed_image(p, t["x"]), tf.constant(natural_shape(p, "w")), t["dy"]]
    listed = _listed({"T": FLOAT, **conv2d_attributes(p)})
    return partial(_execute, "_MklNativeConv2DBackpropFilterWithBias", 2, inputs, listed)


def _refuse_dilation(engine: TensorflowEngine, p: Conv2d) -> None:
    if not engine.onednn and p.dilation != (1, 1):
        raise Unsupported("without oneDNN there are no gradients of dilated convolutions on CPUs")


def _framed_image(p: Conv2d, x: Any) -> Any:
    """The padded image, which the forward pass keeps for this one."""
    placed = placing(p, p.dilation)
    return tf.pad(x, placed.paddings) if any(placed.frame) else x


def _within_frame(p: Any, channels: int, frame: tuple[int, int, int, int], call: Call) -> Call:
    """The call, and the frame cut off its result where there is one."""
    if not any(frame):
        return call
    begin = tf.constant([0, frame[0], frame[2], 0])
    size = tf.constant([p.batch, p.height, p.width, channels])
    return lambda: ops.Slice(input=call(), begin=begin, size=size)


def _lstm_backward(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, LstmCell)
    left = OPERATORS[p.kind](p, engine.onednn)(t)
    return partial(
        ops.BlockLSTMGrad,
        x=t["x"],
        w=t["w"],
        b=t["bias"],
        cs_prev=t["c0"],
        h_prev=t["h0"],
        cs_grad=tf.zeros_like(left.cs),
        h_grad=t["dy"],
        **left._asdict(),
        **lstm_attributes(p),
    )


def _lstm_gradients(p: LstmCell, result: Any) -> Arrays:
    places = PLACES["lstm_cell"]
    dx, dw, dbias = (result[places[name]].numpy() for name in ("dx", "dw", "dbias"))
    dwx, dwh = lstm_matrices(p, dw)
    return {"dx": dx, "dwx": dwx, "dwh": dwh, "dbias": swapped_gates(dbias)}


def _bias_weights(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    return partial(ops.BiasAddGrad, out_backprop=t["dy"])


def _activation_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Activation)
    y = OPERATORS[p.kind](p, engine.onednn)(t) if p.function != "gelu" else None
    if p.function == "gelu":
        return _gelu_data(engine, t)
    if p.function == "relu":
        return partial(ops.ReluGrad, gradients=t["dy"], features=y)
    function = {"sigmoid": ops.SigmoidGrad, "tanh": ops.TanhGrad}[p.function]
    return partial(function, y=y, dy=t["dy"])


def _gelu_data(engine: TensorflowEngine, t: Tensors) -> Call:
    """What autodiff makes of tf.nn.gelu, from what the forward pass leaves."""

    def gradient(x: Any, half: Any, scaled: Any, erfc: Any, dy: Any) -> Any:
        power = ops.Exp(x=ops.Neg(x=ops.Square(x=scaled)))
        slope = ops.Mul(x=ops.Mul(x=ops.Mul(x=dy, y=half), y=power), y=-2 * np.pi**-0.5)
        through_erfc = ops.Neg(x=ops.Mul(x=slope, y=0.5**0.5))
        return ops.AddV2(x=ops.Mul(x=ops.Mul(x=dy, y=erfc), y=0.5), y=through_erfc)

    x = t["x"]
    left = [x, x * 0.5, -x * 0.5**0.5, gelu_erfc(x)]
    return engine.composed(gradient, [*left, t["dy"]])


def _pool2d_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Pool2d)
    placed = pool_placing(p)
    if p.function == "max":
        call = _max_pool_data(engine, p, t)
    else:
        call = _average_pool_data(p, t["dy"], placed.frame)
    return _within_frame(p, p.channels, placed.frame, call)


def _max_pool_data(engine: TensorflowEngine, p: Pool2d, t: Tensors) -> Call:
    """In a graph oneDNN's gradient reads where the forward pass found the maxima."""
    x, attributes = t["x"], pool_attributes(p)
    if any(pool_placing(p).frame):
        x = tf.pad(x, pool_placing(p).paddings, constant_values=float("-inf"))
    if not engine.onednn or not engine.graph:
        y = ops.MaxPool(input=x, **attributes)
        return partial(ops.MaxPoolGrad, orig_input=x, orig_output=y, grad=t["dy"], **attributes)
    listed = _listed({"T": FLOAT, "workspace_enabled": True, **attributes})
    y, places = _execute("_MklNativeMaxPool", 2, [x], listed)
    return partial(_execute, "_MklNativeMaxPoolGrad", 1, [x, y, t["dy"], places], listed)


def _average_pool_data(p: Pool2d, dy: Any, frame: tuple[int, int, int, int]) -> Call:
    top, bottom, left, right = frame
    framed = [p.batch, top + p.height + bottom, left + p.width + right, p.channels]
    gradient = partial(ops.AvgPoolGrad, orig_input_shape=tf.constant(framed), **pool_attributes(p))
    correction = average_correction(p)
    if correction is None:
        return partial(gradient, grad=dy)
    return lambda: gradient(grad=ops.Mul(x=dy, y=correction))


def _lrn_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, LocalResponseNorm)
    y = OPERATORS[p.kind](p, engine.onednn)(t)
    return partial(
        ops.LRNGrad,
        input_grads=t["dy"],
        input_image=t["x"],
        output_image=y,
        **lrn_attributes(p),
    )


def _batch_norm_backward(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, BatchNorm)
    left = OPERATORS[p.kind](p, engine.onednn)(t)
    mean, variance = left.reserve_space_1, left.reserve_space_2
    if not p.training:
        mean, variance = t["running_mean"], t["running_variance"]
    return partial(
        ops.FusedBatchNormGradV3,
        y_backprop=t["dy"],
        x=t["x"],
        scale=t["gamma"],
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=left.reserve_space_3,
        epsilon=p.epsilon,
        is_training=p.training,
    )


def _layer_norm_backward(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    """By autodiff, in a graph that computes anew what the forward pass leaves: a fifth of it."""
    operator, names = OPERATORS[p.kind](p, engine.onednn), ("x", "gamma", "beta")

    def gradients(*tensors: Any) -> Any:
        operands, dy = dict(zip(names, tensors)), tensors[-1]
        with tf.GradientTape() as tape:
            tape.watch(tensors[:-1])
            y = operator(operands)
        return tape.gradient(y, tensors[:-1], output_gradients=dy)

    return engine.composed(gradients, [*(t[name] for name in names), t["dy"]])


def _softmax_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    def gradient(y: Any, dy: Any) -> Any:
        along = ops.Sum(input=ops.Mul(x=dy, y=y), axis=[1], keep_dims=True)
        return ops.Mul(x=ops.Sub(x=dy, y=along), y=y)

    return engine.composed(gradient, [OPERATORS[p.kind](p, engine.onednn)(t), t["dy"]])


def _transpose_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    return partial(ops.Transpose, x=t["dy"], perm=tf.constant(FIRST_AXES_EXCHANGED))


def _scale_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Scale)
    return partial(ops.Mul, x=t["dy"], y=tf.constant(p.factor))


def _dropout_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    assert isinstance(p, Dropout)
    scale = tf.constant(1 / (1 - p.rate))
    keep = ops.GreaterEqual(x=tf.random.uniform(t["dy"].shape), y=p.rate)
    none, dy = tf.constant(0.0), t["dy"]
    return lambda: ops.Mul(x=ops.SelectV2(condition=keep, t=dy, e=none), y=scale)


def _pad_channels_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    size = natural_shape(p, "x")
    begin = tf.constant([0] * len(size))
    return partial(ops.Slice, input=t["dy"], begin=begin, size=tf.constant(size))


def _softmax_loss_data(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    _, gradient = OPERATORS[p.kind](p, engine.onednn)(t)
    rows = gradient.shape[0]
    return partial(ops.Mul, x=tf.fill((rows, 1), np.float32(1 / rows)), y=gradient)


def _embedding_weights(engine: TensorflowEngine, p: Primitive, t: Tensors) -> Call:
    rows = tf.constant(p.operand("table").shape[0])
    return partial(ops.UnsortedSegmentSum, data=t["dy"], segment_ids=t["ids"], num_segments=rows)


BACKWARD: dict[tuple[str, str], Callable[[TensorflowEngine, Primitive, Tensors], Call]] = {
    ("gemm", BACKWARD_DATA): _gemm_data,
    ("gemm", BACKWARD_WEIGHTS): _gemm_weights,
    ("batched_gemm", BACKWARD_DATA): _batched_gemm_data,
    ("conv2d", BACKWARD_DATA): _conv2d_data,
    ("conv2d", BACKWARD_WEIGHTS): _conv2d_weights,
    ("lstm_cell", BACKWARD_DATA): _lstm_backward,
    ("lstm_cell", BACKWARD_WEIGHTS): _lstm_backward,
    ("bias", BACKWARD_WEIGHTS): _bias_weights,
    ("activation", BACKWARD_DATA): _activation_data,
    ("pool2d", BACKWARD_DATA): _pool2d_data,
    ("lrn", BACKWARD_DATA): _lrn_data,
    ("batch_norm", BACKWARD_DATA): _batch_norm_backward,
    ("batch_norm", BACKWARD_WEIGHTS): _batch_norm_backward,
    ("layer_norm", BACKWARD_DATA): _layer_norm_backward,
    ("layer_norm", BACKWARD_WEIGHTS): _layer_norm_backward,
    ("softmax", BACKWARD_DATA): _softmax_data,
    ("transpose", BACKWARD_DATA): _transpose_data,
    ("scale", BACKWARD_DATA): _scale_data,
    ("dropout", BACKWARD_DATA): _dropout_data,
    ("pad_channels", BACKWARD_DATA): _pad_channels_data,
    ("softmax_loss", BACKWARD_DATA): _softmax_loss_data,
    ("embedding", BACKWARD_WEIGHTS): _embedding_weights,
}
