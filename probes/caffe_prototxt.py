"""Caffe's nets in Caffe's own words: which layers compute a chain of primitives, as prototxt.

Plain data and text, made without an installed Caffe.  Layers are called after the layer that they
belong to, with a suffix where there are several.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Callable, NamedTuple

from .attention import Scale
from .compute_bound import Conv2d, Gemm, LstmCell
from .engine import Unsupported
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    Embedding,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
)
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, Primitive, Shape, product

Message = dict[str, Any]
Chain = tuple[Primitive, ...]
Inputs = dict[str, Shape]  # blob that is fed from outside -> shape
Operands = dict[tuple[int, str], tuple[str, int]]  # (place, operand) -> layer, place of its blob

LARGEST_BLOB = 2**31 - 1  # elements, counted in an int
LARGEST_ID = 2**24  # below which float32 holds every whole number
ACTIVATION_LAYERS = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "TanH"}
INSEPARABLE = ("LSTM",)  # layers whose backward pass always yields all gradients
LOWEST = -3.4028234663852886e38  # what no maximum is below


class Symbol(str):
    """The name of an enumerator: prototxt has it without quotes."""

    __slots__ = ()


@dataclass(frozen=True)
class CaffeLayer:
    """A layer of a Caffe net; ``options`` are the further fields of its message."""

    type: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    options: Message = field(default_factory=dict)
    parameters: int = 0  # blobs that a solver would train

    def message(self) -> Message:
        """The fields of its LayerParameter."""
        named = {"name": self.name, "type": self.type}
        return {**named, "bottom": [*self.bottoms], "top": [*self.tops], **self.options}


class Block(NamedTuple):
    """The layers that compute a chain of primitives, up to the blob ``top``.

    ``operands`` are those that the layers own; ``inputs`` those that come as blobs of their own.
    """

    top: str
    layers: tuple[CaffeLayer, ...]
    operands: Operands = {}  # noqa: RUF012  never changed
    inputs: dict[str, tuple[str, Shape]] = {}  # noqa: RUF012  operand -> blob, shape


def block(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    """The layers of a chain that reads blobs, the first of which has this shape.

    Raises:
        Unsupported: Caffe has no such layer, or not at these sizes.
    """
    kinds = tuple(primitive.kind for primitive in chain)
    if kinds not in BLOCKS:
        raise Unsupported(f"no layer for {' + '.join(kinds)}")
    return BLOCKS[kinds](chain, name, bottoms, shape)


def require_blobs(chain: Chain) -> None:
    """Refuse operands that no blob of pycaffe can hold.

    Raises:
        Unsupported: the dtype is another, or an operand has too many elements.
    """
    for primitive in chain:
        if getattr(primitive, "dtype", "") != "float32":
            raise Unsupported("pycaffe computes in float32 only")
        if any(product(operand.shape) > LARGEST_BLOB for operand in primitive.operands().values()):
            raise Unsupported(f"a blob of Caffe holds at most {LARGEST_BLOB} elements")


def input_shape(primitive: Primitive) -> Shape:
    """The shape in which a layer takes the input of a primitive that stands alone."""
    shape = primitive.operand(primitive.input).shape
    return (*shape, 1) if primitive.kind == "lrn" else shape  # LRN insists on images


def overwritable(chain: Chain) -> bool:
    """Whether the next layer may work in place on the output: no backward pass reads it."""
    last = chain[-1]
    if isinstance(last, Activation):
        return last.function == "relu"  # its sign is all that matters, also after a dropout
    return last.kind not in ("lrn", "lstm_cell", "softmax")


def differentiated(found: Block, source: str, passes: tuple[str, ...]) -> tuple[CaffeLayer, ...]:
    """The layers of a block that reads ``source``, told to run only these backward passes.

    A loss weight makes Caffe take the top for a loss; layers that lead to none are passed over.
    """
    layers = []
    for layer in found.layers:
        options = dict(layer.options)
        if BACKWARD_DATA in passes and source in layer.bottoms:
            options["propagate_down"] = [bottom == source for bottom in layer.bottoms]
        if layer.parameters and not trains(layer, passes):
            options["param"] = [{"lr_mult": 0.0}] * layer.parameters
        if found.top in layer.tops:
            options["loss_weight"] = [float(top == found.top) for top in layer.tops]
        layers.append(replace(layer, options=options))
    return tuple(layers)


def trains(layer: CaffeLayer, passes: tuple[str, ...]) -> bool:
    """Whether these passes yield the gradients of the layer's parameters."""
    return bool(layer.parameters) and (BACKWARD_WEIGHTS in passes or layer.type in INSEPARABLE)


# Blocks: from a chain of primitives, a name, the blobs it reads and the shape of the first one.


def _convolution(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, Conv2d)
    frame = _frame(name, bottoms[0], shape, p.padding, 0.0)
    options: Message = {
        "num_output": p.out_channels,
        "bias_term": len(chain) == 2,
        "group": p.groups,
        **_pairs(kernel=p.kernel, stride=p.stride, pad=frame.pad),
        "dilation": [*p.dilation],
    }
    layer = CaffeLayer(
        "Convolution", name, (frame.top,), (name,), {"convolution_param": options}, len(chain)
    )
    return Block(name, (*frame.layers, layer), _weights(name, chain, "w"))


def _inner_product(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, Gemm)
    if p.trans_a:
        raise Unsupported("no layer of Caffe transposes its input: InnerProduct, only its weights")
    options = {
        "num_output": p.n,
        "bias_term": len(chain) == 2,
        "axis": 2 if len(shape) == 3 else 1,  # the steps of a sequence come before the batch
        "transpose": not p.trans_b,
    }
    layer = CaffeLayer(
        "InnerProduct", name, bottoms, (name,), {"inner_product_param": options}, len(chain)
    )
    return Block(name, (layer,), _weights(name, chain, "b"))


def _lstm(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    """The initial state is given, as an exposed one; no step begins a new sequence."""
    p = chain[0]
    assert isinstance(p, LstmCell)
    cont, h0, c0 = (f"{name}/{suffix}" for suffix in ("cont", "h0", "c0"))
    state = (1, p.batch, p.hidden_size)
    options = {"num_output": p.hidden_size, "expose_hidden": True}
    layer = CaffeLayer(
        "LSTM",
        name,
        (bottoms[0], cont, h0, c0),
        (name, f"{name}/h", f"{name}/c"),
        {"recurrent_param": options},
        parameters=3,
    )
    operands: Operands = {(0, "wx"): (name, 0), (0, "bias"): (name, 1), (0, "wh"): (name, 2)}
    inputs: dict[str, tuple[str, Shape]] = {"h0": (h0, state), "c0": (c0, state)}
    return Block(name, (_constant(cont, (p.steps, p.batch), 1.0), layer), operands, inputs)


def _bias(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    return Block(
        name, (CaffeLayer("Bias", name, bottoms, (name,), parameters=1),), {(0, "bias"): (name, 0)}
    )


def _activation(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, Activation)
    if p.function not in ACTIVATION_LAYERS:
        raise Unsupported(f"no layer for {p.function}: Caffe has no error function")
    type_ = ACTIVATION_LAYERS[p.function]
    return Block(name, (CaffeLayer(type_, name, bottoms, (name,)),))


def _pooling(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, Pool2d)
    frame = _frame(name, bottoms[0], shape, p.padding, LOWEST if p.function == "max" else 0.0)
    options = {
        "pool": Symbol("MAX" if p.function == "max" else "AVE"),
        **_pairs(kernel=p.kernel, stride=p.stride, pad=frame.pad),
        "round_mode": _round_mode(p, frame),
    }
    layer = CaffeLayer("Pooling", name, (frame.top,), (name,), {"pooling_param": options})
    return Block(name, (*frame.layers, layer))


def _lrn(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, LocalResponseNorm)
    if p.size % 2 == 0:
        raise Unsupported(f"LRN only knows windows of odd size, not of {p.size} channels")
    options = {"local_size": p.size, "alpha": p.alpha, "beta": p.beta, "k": p.k}
    return Block(name, (CaffeLayer("LRN", name, bottoms, (name,), {"lrn_param": options}),))


def _batch_norm(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    """Two layers: one subtracts and divides, the other has gamma and beta."""
    p = chain[0]
    assert isinstance(p, BatchNorm)
    if shape[1] != p.channels:
        raise Unsupported("BatchNorm takes the second axis for channels; a sequence's is the batch")
    inner = f"{name}/normalised"
    options = {"use_global_stats": not p.training, "eps": p.epsilon}
    normalise = CaffeLayer("BatchNorm", inner, bottoms, (inner,), {"batch_norm_param": options})
    scale_options = {"scale_param": {"bias_term": True}}
    scale = CaffeLayer("Scale", name, (inner,), (name,), scale_options, parameters=2)
    operands: Operands = {
        (0, "running_mean"): (inner, 0),
        (0, "running_variance"): (inner, 1),
        (0, "gamma"): (name, 0),
        (0, "beta"): (name, 1),
    }
    return Block(name, (normalise, scale), operands)


def _dropout(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, Dropout)
    options = {"phase": Symbol("TRAIN"), "dropout_param": {"dropout_ratio": p.rate}}
    return Block(name, (CaffeLayer("Dropout", name, bottoms, (name,), options),))


def _softmax(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    options = {"softmax_param": {"axis": len(shape) - 1}}
    return Block(name, (CaffeLayer("Softmax", name, bottoms, (name,), options),))


def _scale(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, Scale)
    options = {"power_param": {"scale": p.factor}}
    return Block(name, (CaffeLayer("Power", name, bottoms, (name,), options),))


def _softmax_loss(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    labels = f"{name}/labels"
    options = {"softmax_param": {"axis": len(shape) - 1}}
    layer = CaffeLayer("SoftmaxWithLoss", name, (bottoms[0], labels), (name,), options)
    return Block(name, (layer,), inputs={"labels": (labels, shape[:-1])})


def _embedding(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    p = chain[0]
    assert isinstance(p, Embedding)
    if p.vocabulary > LARGEST_ID:
        raise Unsupported(f"Caffe holds ids as float32, exact up to {LARGEST_ID}")
    options = {"num_output": p.size, "input_dim": p.vocabulary, "bias_term": False}
    layer = CaffeLayer("Embed", name, bottoms, (name,), {"embed_param": options}, 1)
    return Block(name, (layer,), {(0, "table"): (name, 0)})


def _add(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    return Block(name, (CaffeLayer("Eltwise", name, bottoms, (name,)),))  # it sums by default


def _pad_channels(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    """The images, joined with a blob of zeros."""
    p = chain[0]
    assert isinstance(p, PadChannels)
    zeros = _constant(f"{name}/zeros", (shape[0], p.added, *shape[2:]), 0.0)
    joined = CaffeLayer("Concat", name, (*bottoms, zeros.name), (name,))  # on the channels' axis
    return Block(name, (zeros, joined))


def _copy(chain: Chain, name: str, bottoms: tuple[str, ...], shape: Shape) -> Block:
    """The first power: Split, Reshape and a Concat of one blob share memory and copy nothing."""
    return Block(name, (CaffeLayer("Power", name, bottoms, (name,)),))


BLOCKS: dict[tuple[str, ...], Callable[[Chain, str, tuple[str, ...], Shape], Block]] = {
    ("conv2d",): _convolution,
    ("conv2d", "bias"): _convolution,
    ("gemm",): _inner_product,
    ("gemm", "bias"): _inner_product,
    ("lstm_cell",): _lstm,
    ("bias",): _bias,
    ("activation",): _activation,
    ("pool2d",): _pooling,
    ("lrn",): _lrn,
    ("batch_norm",): _batch_norm,
    ("dropout",): _dropout,
    ("softmax",): _softmax,
    ("scale",): _scale,
    ("softmax_loss",): _softmax_loss,
    ("embedding",): _embedding,
    ("add",): _add,
    ("pad_channels",): _pad_channels,
    ("copy",): _copy,
}


# What Caffe puts where several layers read a blob, ready to run backward.
SPLIT = CaffeLayer("Split", "split", ("x",), ("first", "second"), {"loss_weight": [1.0, 1.0]})


def in_place(found: Block, source: str) -> Block:
    """The same single layer, writing onto the blob that it reads."""
    (layer,) = found.layers
    return found._replace(top=source, layers=(replace(layer, tops=(source,)),))


def _weights(name: str, chain: Chain, operand: str) -> Operands:
    """The filters or the matrix of a layer, and its bias if it has one."""
    operands: Operands = {(0, operand): (name, 0)}
    if len(chain) == 2:
        operands[1, "bias"] = (name, 1)
    return operands


def _pairs(**pairs: tuple[int, int]) -> Message:
    """Vertical and horizontal sizes under the names that Caffe has for them."""
    return {
        f"{name}_{axis}": size for name, pair in pairs.items() for axis, size in zip("hw", pair)
    }


class Frame(NamedTuple):
    """Layers that pad an image where a layer cannot itself, and what is left for that layer."""

    layers: tuple[CaffeLayer, ...]
    top: str
    shape: Shape
    pad: tuple[int, int]


def _frame(
    name: str, source: str, shape: Shape, padding: tuple[int, int, int, int], value: float
) -> Frame:
    """Caffe pads both sides of an axis alike; what one side has more is joined on as a blob."""
    layers: list[CaffeLayer] = []
    for axis, before, after in ((2, *padding[:2]), (3, *padding[2:])):
        if before != after:
            edge, framed = f"{name}/edge{axis}", f"{name}/framed{axis}"
            edge_shape = (*shape[:axis], abs(before - after), *shape[axis + 1 :])
            joined = (edge, source) if before > after else (source, edge)
            layers.append(_constant(edge, edge_shape, value))
            concat = {"concat_param": {"axis": axis}}
            layers.append(CaffeLayer("Concat", framed, joined, (framed,), concat))
            shape = (*shape[:axis], shape[axis] + edge_shape[axis], *shape[axis + 1 :])
            source = framed
    return Frame(tuple(layers), source, shape, (min(padding[:2]), min(padding[2:])))


def _constant(name: str, shape: Shape, value: float) -> CaffeLayer:
    """A blob that is filled once, when it is first asked for."""
    filler = {"type": "constant", "value": value}
    options = {"dummy_data_param": {"shape": {"dim": [*shape]}, "data_filler": filler}}
    return CaffeLayer("DummyData", name, (), (name,), options)


def _round_mode(p: Pool2d, frame: Frame) -> Symbol:
    """The rounding with which Caffe finds as many windows as the primitive has.

    Raises:
        Unsupported: neither does, for one axis needs this one and the other that.
    """
    for mode in ("FLOOR", "CEIL"):
        if _windows(p, frame, mode) == p.extent:
            return Symbol(mode)
    raise Unsupported("Caffe rounds the extents of both axes of a pool alike")


def _windows(p: Pool2d, frame: Frame, mode: str) -> tuple[int, int]:
    """The extents that Caffe's Pooling comes to."""
    extents = []
    for size, kernel, stride, pad in zip(frame.shape[2:], p.kernel, p.stride, frame.pad):
        room = size + 2 * pad - kernel
        count = (room // stride if mode == "FLOOR" else -(-room // stride)) + 1
        if any(frame.pad) and (count - 1) * stride >= size + pad:
            count -= 1
        extents.append(count)
    return extents[0], extents[1]


# Text.


def net_message(
    inputs: Inputs, layers: tuple[CaffeLayer, ...], trained: tuple[str, ...] = ()
) -> Message:
    """A net: first a layer for each blob that is fed from outside, then the others.

    Blobs that are ``trained`` are parameters of the net: backward runs down to them.
    """
    sources = [_source(blob, shape, blob in trained) for blob, shape in inputs.items()]
    return {"layer": [layer.message() for layer in (*sources, *layers)]}


def _source(blob: str, shape: Shape, trained: bool) -> CaffeLayer:
    type_ = "Parameter" if trained else "Input"
    options = {f"{type_.lower()}_param": {"shape": {"dim": [*shape]}}}
    return CaffeLayer(type_, blob, (), (blob,), options)


def solver_message(net: Message, momentum: float, learning_rate: float) -> Message:
    """A solver that trains a net by SGD and does nothing else."""
    return {
        "train_net_param": net,
        "lr_policy": "fixed",
        "base_lr": learning_rate,
        "momentum": momentum,
        "weight_decay": 0.0,
        "display": 0,
        "snapshot_after_train": False,
        "solver_mode": Symbol("CPU"),
    }


def text(message: Message) -> str:
    """A message in the text format of protocol buffers."""
    lines = [
        f"{name} {{\n{text(each)}}}" if isinstance(each, dict) else _line(name, each)
        for name, value in message.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    return "".join(f"{line}\n" for line in lines)


def _line(name: str, value: Any) -> str:
    return f"{name}: {value if isinstance(value, Symbol) else json.dumps(value)}"
