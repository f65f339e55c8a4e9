"""The operators of ONNX that are covered, and the layers that each becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto

from kernelprof.onnx_import.axes import Axis, View, whole
from kernelprof.onnx_import.graph import STANDARD, GraphError, Shape, attributes, title
from kernelprof.onnx_import.translation import NotCoveredError, Translation
from kernelprof.probes.layers import is_image
from kernelprof.probes.primitive import product

LAST_STATES = "the last state of an LSTM is read; kernelprof's LSTM yields that of every step"


def translate(t: Translation, node: NodeProto) -> None:
    """Add the layers of an operator, unless what it reads could not be translated.

    Raises:
        NotCoveredError: there is no layer for it.
        RearrangedError: what it reads is not as a layer could read it.
        NetworkError: the layer does not fit.
    """
    if node.domain not in STANDARD or node.op_type not in OPERATORS:
        raise NotCoveredError
    read = [name for name in node.input if name in t.graph.depends]
    if all(name in t.views for name in read) and node.output[0] not in t.done:
        OPERATORS[node.op_type](t, node)


def _convolution(t: Translation, node: NodeProto) -> None:
    view, options = t.view(node), attributes(node)
    channels, each, *kernel = t.weight(node, 1)
    _require_image(t, view)
    _require_fit(node, "channels", each * options.get("group", 1), t.shape(view)[0])
    stride = _pair(options.get("strides", (1, 1)))
    dilation = _pair(options.get("dilations", (1, 1)))
    padding = _padding(t.shape(view), options, kernel, stride, dilation)
    layer = t.net.convolution(
        t.name(node),
        view.layer,
        channels,
        _pair(kernel),
        stride,
        padding,
        options.get("group", 1),
        t.has(node, 2),
        dilation,
    )
    _yield_plain(t, node, layer)


def _pooling(function: str) -> Callable[[Translation, NodeProto], None]:
    def pool(t: Translation, node: NodeProto) -> None:
        view, options = t.view(node), attributes(node)
        _require_image(t, view)
        if any(step != 1 for step in options.get("dilations", ())):
            raise NotCoveredError("its window is dilated")
        if len(node.output) > 1 and node.output[1]:
            raise NotCoveredError("the places of the maxima are asked for")
        kernel, stride = _pair(options["kernel_shape"]), _pair(options.get("strides", (1, 1)))
        padding = _padding(t.shape(view), options, kernel, stride, (1, 1))
        ceil = bool(options.get("ceil_mode", 0))
        layer = t.net.pool(t.name(node), view.layer, function, kernel, stride, padding, ceil)
        _yield_plain(t, node, layer)

    return pool


def _global_average(t: Translation, node: NodeProto) -> None:
    view = t.view(node)
    _require_image(t, view)
    whole = t.shape(view)[1], t.shape(view)[2]
    layer = t.net.pool(t.name(node), view.layer, "average", whole, whole)
    t.views[node.output[0]] = View.of(layer, t.net.shapes[layer], t.batch).reshaped(
        t.graph.shape(node.output[0])
    )


def _mean(t: Translation, node: NodeProto) -> None:
    """The mean over height and width, as some exporters write a global average."""
    given = attributes(node).get("axes")
    if given is None and t.has(node, 1):
        given = t.graph.values.get(node.input[1])
    rank = len(t.view(node).axes)
    axes = sorted(int(axis) % rank for axis in (given if given is not None else ()))
    if rank != 4 or axes != [2, 3]:
        raise NotCoveredError("a mean over anything but height and width")
    _global_average(t, node)


def _gemm(t: Translation, node: NodeProto) -> None:
    options = attributes(node)
    if options.get("transA", 0) or options.get("alpha", 1.0) != 1.0:
        raise NotCoveredError("its first input is transposed or scaled")
    rows, columns = t.weight(node, 1)
    inputs, outputs = (columns, rows) if options.get("transB", 0) else (rows, columns)
    _connect(t, node, inputs, outputs, t.has(node, 2), node.output[0])


def _matmul(t: Translation, node: NodeProto) -> None:
    if node.input[1] in t.graph.depends:
        _multiply(t, node)
        return
    shape = t.weight(node, 1)
    if len(shape) != 2:
        raise NotCoveredError(f"its weights have {len(shape)} axes")
    bias = _bias(t, node, shape[1])
    _connect(t, node, *shape, bias is not None, bias or node.output[0])
    t.done.update([bias] if bias else [])


def _bias(t: Translation, node: NodeProto, features: int) -> str | None:
    """What an addition yields that adds a bias and is all that reads a product."""
    readers = t.graph.readers(node.output[0])
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    for name in readers[0].input:
        if name in t.graph.types and name not in t.graph.depends:
            shape = t.graph.shape(name)
            if name != node.output[0] and shape[-1:] == (features,) and np.prod(shape) == features:
                return str(readers[0].output[0])
    return None


def _connect(
    t: Translation, node: NodeProto, inputs: int, outputs: int, bias: bool, tensor: str
) -> None:
    """A product of features with weights, which yields a tensor."""
    view = t.view(node)
    shape = t.shape(view)
    leading: tuple[Axis, ...]
    if view.is_sequence(shape):
        leading, place, features = view.axes[:-1], 1, shape[1]
    elif view.is_flat(shape):
        leading, place, features = (view.batch,), 0, product(shape)
    else:
        raise NotCoveredError(f"it reads {_told(shape)} in another form than a batch of features")
    _require_fit(node, "features", inputs, features)
    layer = t.net.fully_connected(t.name(node), view.layer, outputs, bias)
    t.views[tensor] = View(layer, (*leading, whole(place, outputs)))


def _multiply(t: Translation, node: NodeProto) -> None:
    """The products of two tensors, head by head."""
    if node.input[0] not in t.graph.depends:
        raise NotCoveredError("its first input is a constant")
    first, _ = _matrices(t, node, 0)
    second, transposed = _matrices(t, node, 1)
    layer = t.net.matmul(t.name(node), first, second, transposed)
    t.views[node.output[0]] = View.of(layer, t.net.shapes[layer], t.batch).reshaped(
        t.graph.shape(node.output[0])
    )


def _matrices(t: Translation, node: NodeProto, place: int) -> tuple[str, bool]:
    """The layer whose heads an operator reads, and whether it reads them transposed."""
    view = t.views[node.input[place]]
    shape = t.shape(view)
    for transposed in (False, True)[: place + 1]:
        if view.are_heads(shape, transposed):
            return view.layer, transposed
        size = view.head_size(shape, transposed)
        if size is not None:
            return t.beside("heads", view.layer, t.net.split_heads, size), transposed
    raise NotCoveredError(f"its input {place + 1} is no heads of a sequence")


def _elementwise(method: str) -> Callable[[Translation, NodeProto], None]:
    def apply(t: Translation, node: NodeProto) -> None:
        view = t.view(node)
        layer = getattr(t.net, method)(t.name(node), view.layer)
        t.views[node.output[0]] = view.by(layer)

    return apply


def _dropout(t: Translation, node: NodeProto) -> None:
    view = t.view(node)
    rate = attributes(node).get("ratio", 0.5)
    if t.has(node, 1):
        rate = float(t.graph.values.get(node.input[1], np.float32(rate)))
    layer = t.net.dropout(t.name(node), view.layer, round(rate, 6))
    t.views[node.output[0]] = view.by(layer)


def _batch_norm(t: Translation, node: NodeProto) -> None:
    view = t.view(node)
    if not view.is_plain(t.shape(view)) or len(view.axes) == 3:
        raise NotCoveredError("it reads neither images nor vectors")
    t.views[node.output[0]] = view.by(t.net.batch_norm(t.name(node), view.layer))


def _local_norm(t: Translation, node: NodeProto) -> None:
    view, o = t.view(node), attributes(node)
    _require_image(t, view)
    sizes = (o["size"], o.get("alpha", 1e-4), o.get("beta", 0.75), o.get("bias", 1.0))
    t.views[node.output[0]] = view.by(t.net.lrn(t.name(node), view.layer, *sizes))


def _layer_norm(t: Translation, node: NodeProto) -> None:
    view, rank = t.view(node), len(t.graph.shape(node.input[0]))
    _require_rows(t, view, attributes(node).get("axis", -1) % rank == rank - 1)
    t.views[node.output[0]] = view.by(t.net.layer_norm(t.name(node), view.layer))


def _softmax(t: Translation, node: NodeProto) -> None:
    view, rank = t.view(node), len(t.graph.shape(node.input[0]))
    is_last = attributes(node).get("axis", -1 if t.graph.opsets[""] >= 13 else 1) % rank == rank - 1
    _require_rows(t, view, is_last)
    if node.output[0] == t.graph.proto.output[0].name:
        t.views[node.output[0]] = view  # of a classifier: its loss contains it
    elif node.op_type == "Softmax":
        t.views[node.output[0]] = view.by(t.net.softmax(t.name(node), view.layer))
    else:
        raise NotCoveredError("it is not the last operator")


def _add(t: Translation, node: NodeProto) -> None:
    first, second = (t.view(node, place) for place in (0, 1))
    if first.axes != second.axes:
        raise NotCoveredError("its two branches lie differently in memory, or one is broadcast")
    t.views[node.output[0]] = first.by(t.net.add(t.name(node), first.layer, second.layer))


def _scale(t: Translation, node: NodeProto) -> None:
    """A product with, or a quotient by, one number."""
    data = [place for place in (0, 1) if node.input[place] in t.graph.depends]
    number = None if len(data) > 1 else t.graph.values.get(node.input[1 - data[0]])
    if number is None or number.size != 1 or (node.op_type == "Div" and data == [1]):
        raise NotCoveredError("only with a single constant number")
    factor = float(number.reshape(()))
    view = t.view(node, data[0])
    name = t.name(node)
    factor = 1 / factor if node.op_type == "Div" else factor
    t.views[node.output[0]] = view.by(t.net.scale(name, view.layer, factor))


def _lstm(t: Translation, node: NodeProto) -> None:
    view, options = t.view(node), attributes(node)
    _require_plain_lstm(t, node, options)
    if not view.is_sequence(t.shape(view)) or view.axes[1] != view.batch:
        raise NotCoveredError("it reads no sequences, steps first")
    if any(t.graph.readers(name) for name in node.output[1:] if name):
        raise NotCoveredError(LAST_STATES)
    hidden = t.graph.shape(node.input[2])[-1]
    layer = t.net.lstm(t.name(node), view.layer, hidden)
    steps_first = View.of(layer, t.net.shapes[layer], t.batch, 1)
    t.views[node.output[0]] = steps_first.reshaped(t.graph.shape(node.output[0]))


def _require_plain_lstm(t: Translation, node: NodeProto, options: dict[str, Any]) -> None:
    if options.get("direction", b"forward") != b"forward":
        raise NotCoveredError(f"its direction is {options['direction'].decode()}")
    usual = [b"Sigmoid", b"Tanh", b"Tanh"]
    if options.get("activations", usual) != usual or options.get("layout", 0):
        raise NotCoveredError("its activations or its layout are not the usual ones")
    if t.has(node, 7) or options.get("input_forget", 0) or "clip" in options:
        raise NotCoveredError("it has peepholes, coupled gates or a clip")
    if any(name in t.graph.depends for name in node.input[4:7]):
        raise NotCoveredError("its lengths or first states are computed")


def _embedding(t: Translation, node: NodeProto) -> None:
    table = () if node.input[0] in t.graph.depends else t.graph.shape(node.input[0])
    if len(table) != 2 or attributes(node).get("axis", 0) != 0:
        raise NotCoveredError("it takes a part of what was computed; only tables of vectors are")
    view = t.view(node, 1)
    name = node.input[0].rpartition(".")[0] or node.name or "embedding"
    layer = t.net.embedding(t._free(name), view.layer, *table)
    t.views[node.output[0]] = View(layer, (*view.axes, whole(1, table[1])))


def _reshape(t: Translation, node: NodeProto) -> None:
    view = t.views[node.input[0]]
    t.views[node.output[0]] = view.reshaped(t.graph.shape(node.output[0]))


def _transpose(t: Translation, node: NodeProto) -> None:
    view = t.views[node.input[0]]
    order = attributes(node).get("perm", range(len(view.axes))[::-1])
    t.views[node.output[0]] = view.transposed(order)


def _nothing(t: Translation, node: NodeProto) -> None:
    """An operator that hands on what it reads."""
    t.views[node.output[0]] = t.views[node.input[0]]


def _cast(t: Translation, node: NodeProto) -> None:
    kinds = [t.graph.types[name].tensor_type.elem_type for name in (node.input[0], node.output[0])]
    if kinds[0] != kinds[1] and not t.graph.input.is_integer:
        raise NotCoveredError("numbers change their type")
    _nothing(t, node)


def _require_image(t: Translation, view: View) -> None:
    shape = t.shape(view)
    if not is_image(shape) or not view.is_plain(shape):
        raise NotCoveredError(
            f"it reads {_told(shape)}; images (channels, height, width) are needed"
        )


def _require_rows(t: Translation, view: View, is_last: bool) -> None:
    shape = t.shape(view)
    is_rows = view.is_sequence(shape) or (len(shape) == 1 and view.is_plain(shape))
    if not is_last or not (is_rows or view.are_heads(shape)):
        raise NotCoveredError("it does not work along the features of vectors or sequences")


def _require_fit(node: NodeProto, what: str, wanted: int, given: int) -> None:
    if wanted != given:
        raise GraphError(f"{title(node)}: its weights are for {wanted} {what}, there are {given}")


def _yield_plain(t: Translation, node: NodeProto, layer: str) -> None:
    """What a layer yields is what the operator yields, axis by axis."""
    shape = t.net.shapes[layer]
    expected = t.graph.shape(node.output[0])[1:]
    if shape != expected:
        raise NotCoveredError(f"it yields {expected}, kernelprof's layer {shape}")
    t.views[node.output[0]] = View.of(layer, shape, t.batch)


def _padding(
    shape: Shape,
    options: dict[str, Any],
    kernel: Any,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Top, bottom, left and right."""
    automatic = options.get("auto_pad", b"NOTSET").decode()
    if automatic == "VALID":
        return (0, 0, 0, 0)
    if automatic == "NOTSET":
        top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
        return (top, bottom, left, right)
    padding: list[int] = []
    for axis in (0, 1):
        windows = -(-shape[1 + axis] // stride[axis])
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        needed = max(0, (windows - 1) * stride[axis] + reach - shape[1 + axis])
        less = needed // 2
        padding += [less, needed - less] if automatic == "SAME_UPPER" else [needed - less, less]
    return (padding[0], padding[1], padding[2], padding[3])


def _pair(sizes: Any) -> tuple[int, int]:
    if len(sizes) != 2:
        raise NotCoveredError(f"its window has {len(sizes)} axes; 2 are covered")
    return int(sizes[0]), int(sizes[1])


def _told(shape: Shape) -> str:
    return {1: "a vector", 2: "a sequence", 3: "an image or heads"}.get(len(shape), "something")


OPERATORS: dict[str, Callable[[Translation, NodeProto], None]] = {
    "Add": _add,
    "AveragePool": _pooling("average"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Conv": _convolution,
    "Div": _scale,
    "Dropout": _dropout,
    "Flatten": _reshape,
    "Gather": _embedding,
    "Gelu": _elementwise("gelu"),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "Identity": _nothing,
    "LRN": _local_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "MaxPool": _pooling("max"),
    "Mul": _scale,
    "ReduceMean": _mean,
    "Relu": _elementwise("relu"),
    "Reshape": _reshape,
    "Sigmoid": _elementwise("sigmoid"),
    "Softmax": _softmax,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
