"""The compute-bound kernels of the cupy engine: the arithmetic is left to cuBLAS.

A kernel takes the tools, a primitive and the operands that its pass reads, and returns fresh arrays
for those that it writes, in the order of the primitive's tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from .cupy_toolbox import Toolbox
from .primitive import product

Array = Any  # of the tools' module

# Unfolded windows that are held at a time: so many that a product of them fills any GPU, and few
# enough to lie beside a network.
_UNFOLDED_BYTES = 2**28


def gemm_forward(tools: Toolbox, primitive: Gemm, a: Array, b: Array) -> Array:
    """The product op(A) op(B)."""
    return (a.T if primitive.trans_a else a) @ (b.T if primitive.trans_b else b)


def gemm_backward_data(tools: Toolbox, primitive: Gemm, b: Array, dc: Array) -> Array:
    """The product dC op(B)^T, stored as A is."""
    b = b.T if primitive.trans_b else b
    return b @ dc.T if primitive.trans_a else dc @ b.T


def gemm_backward_weights(tools: Toolbox, primitive: Gemm, a: Array, dc: Array) -> Array:
    """The product op(A)^T dC, stored as B is."""
    a = a.T if primitive.trans_a else a
    return dc.T @ a if primitive.trans_b else a.T @ dc


def batched_gemm_forward(tools: Toolbox, primitive: BatchedGemm, a: Array, b: Array) -> Array:
    """The products op(A) op(B)."""
    return tools.products(a, b, primitive.trans_a, primitive.trans_b)


def batched_gemm_backward_data(
    tools: Toolbox, primitive: BatchedGemm, a: Array, b: Array, dc: Array
) -> tuple[Array, Array]:
    """The products dC op(B)^T and op(A)^T dC, stored as A and B are."""
    trans_a, trans_b = primitive.trans_a, primitive.trans_b
    if trans_a:
        da = tools.products(b, dc, trans_a=trans_b, trans_b=True)
    else:
        da = tools.products(dc, b, trans_b=not trans_b)
    if trans_b:
        db = tools.products(dc, a, trans_a=True, trans_b=trans_a)
    else:
        db = tools.products(a, dc, trans_a=not trans_a)
    return da, db


def conv2d_forward(tools: Toolbox, primitive: Conv2d, x: Array, w: Array) -> Array:
    """The filters times the unfolded windows, group by group."""
    filters = w.reshape(_filter_shape(primitive))
    y = tools.xp.empty(primitive.operand("y").shape, x.dtype)
    for block in _blocks(primitive, x.itemsize):
        rows = tools.products(filters, _unfolded(tools, primitive, x[block]))
        by_channel = rows.reshape(primitive.out_channels, -1, *primitive.extent)
        y[block] = by_channel.swapaxes(0, 1)
    return y


def conv2d_backward_data(tools: Toolbox, primitive: Conv2d, w: Array, dy: Array) -> Array:
    """The gradients of the unfolded windows, w^T times dy, added up where windows overlap."""
    filters = w.reshape(_filter_shape(primitive))
    dx = tools.xp.empty(primitive.operand("x").shape, dy.dtype)
    for block in _blocks(primitive, dy.itemsize):
        matrix = tools.products(filters, _rows(tools, primitive, dy[block]), trans_a=True)
        images = dx[block]
        tools.elementwise("fold", matrix, *_unfolding(primitive, len(images)), images)
    return dx


def conv2d_backward_weights(tools: Toolbox, primitive: Conv2d, x: Array, dy: Array) -> Array:
    """The products of dy with the transposed windows, summed over the blocks."""
    dw = None
    for block in _blocks(primitive, x.itemsize):
        rows, matrix = _rows(tools, primitive, dy[block]), _unfolded(tools, primitive, x[block])
        part = tools.products(rows, matrix, trans_b=True)
        dw = part if dw is None else tools.xp.add(dw, part, out=dw)
    assert dw is not None, "there is no batch of no images"
    return dw.reshape(primitive.operand("w").shape)


def _filter_shape(primitive: Conv2d) -> tuple[int, int, int]:
    """(groups, output channels of a group, elements of a window in a group's channels)."""
    window = primitive.in_channels // primitive.groups * product(primitive.kernel)
    return primitive.groups, primitive.out_channels // primitive.groups, window


def _blocks(primitive: Conv2d, item_bytes: int) -> Iterator[slice]:
    """Slices of as many images as are unfolded at a time."""
    taps = primitive.in_channels * product(primitive.kernel)
    images = max(1, _UNFOLDED_BYTES // (item_bytes * taps * product(primitive.extent)))
    for first in range(0, primitive.batch, images):
        yield slice(first, min(first + images, primitive.batch))


def _unfolded(tools: Toolbox, primitive: Conv2d, x: Array) -> Array:
    """The windows of some images as (groups, elements of a window, windows)."""
    groups, _, window = _filter_shape(primitive)
    windows = len(x) * product(primitive.extent)
    matrix = tools.xp.empty((groups, window, windows), x.dtype)
    pixels = primitive.in_channels * windows
    tools.elementwise("unfold", x, *_unfolding(primitive, len(x)), matrix, size=pixels)
    return matrix


def _unfolding(primitive: Conv2d, images: int) -> tuple[int, ...]:
    """The sizes that ``unfold`` and ``fold`` take."""
    image = images, primitive.in_channels, primitive.height, primitive.width
    top, _, left, _ = primitive.padding
    window = *primitive.kernel, *primitive.stride, top, left, *primitive.dilation
    return *image, *primitive.extent, *window


def _rows(tools: Toolbox, primitive: Conv2d, dy: Array) -> Array:
    """The outputs of some images as (groups, output channels of a group, windows)."""
    groups, channels, _ = _filter_shape(primitive)
    return tools.xp.ascontiguousarray(dy.swapaxes(0, 1)).reshape(groups, channels, -1)


def lstm_cell_forward(
    tools: Toolbox,
    primitive: LstmCell,
    x: Array,
    wx: Array,
    wh: Array,
    bias: Array,
    h0: Array,
    c0: Array,
) -> tuple[Array, Array, Array]:
    """One product for the inputs of all steps, then one and the gates a step."""
    steps, batch, hidden = primitive.steps, primitive.batch, primitive.hidden_size
    gates = (x.reshape(steps * batch, -1) @ wx.T).reshape(steps, batch, 4 * hidden)
    y = tools.xp.empty((steps, batch, hidden), x.dtype)
    cells = tools.xp.empty_like(y)
    h, c = h0, c0
    for step in range(steps):
        recurrent = h @ wh.T
        h, before, c = y[step], c, cells[step]
        tools.elementwise("lstm_gates", recurrent, bias, before, hidden, h, c, gates[step])
    return y, gates, cells


def lstm_cell_backward_data(
    tools: Toolbox,
    primitive: LstmCell,
    wx: Array,
    wh: Array,
    c0: Array,
    gates: Array,
    cells: Array,
    dy: Array,
) -> tuple[Array, Array]:
    """Backpropagation through time to the gradients of z, then one product for those of x."""
    dgates = tools.xp.empty_like(gates)
    dh, carried = tools.xp.zeros_like(c0), tools.xp.zeros_like(c0)
    for step in reversed(range(primitive.steps)):
        before = cells[step - 1] if step else c0
        forward = gates[step], cells[step], before, dy[step], dh, primitive.hidden_size
        tools.elementwise("lstm_gates_slope", *forward, carried, dgates[step])
        if step:
            dh = dgates[step] @ wh
    dx = dgates.reshape(-1, len(wx)) @ wx
    return dx.reshape(primitive.operand("x").shape), dgates


def lstm_cell_backward_weights(
    tools: Toolbox, primitive: LstmCell, x: Array, h0: Array, y: Array, dgates: Array
) -> tuple[Array, Array, Array]:
    """The gradients of z of all steps times the inputs and the hidden states before them."""
    hidden = tools.xp.concatenate((h0[None], y[:-1]))
    flat = dgates.reshape(-1, dgates.shape[-1])
    dwx = flat.T @ x.reshape(len(flat), -1)
    dwh = flat.T @ hidden.reshape(len(flat), -1)
    return dwx, dwh, flat.sum(axis=0)
