"""NumPy kernels of the compute-bound primitives: the arithmetic is left to BLAS.

A kernel takes a primitive and the operands that its pass reads, and returns fresh arrays for those
that it writes, in the order of the primitive's tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from .primitive import product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .memory_bound import Pool2d

    Array = NDArray[Any]

# A matrix product runs at full speed from about this many columns on; more at a time would only
# make the copied windows outgrow the caches.
_COLUMNS = 1024


def gemm_forward(primitive: Gemm, a: Array, b: Array) -> Array:
    """The product op(A) op(B)."""
    c: Array = np.matmul(a.T if primitive.trans_a else a, b.T if primitive.trans_b else b)
    return c


def gemm_backward_data(primitive: Gemm, b: Array, dc: Array) -> Array:
    """The product dC op(B)^T, stored as A is."""
    b = b.T if primitive.trans_b else b
    da: Array = np.matmul(b, dc.T) if primitive.trans_a else np.matmul(dc, b.T)
    return da


def gemm_backward_weights(primitive: Gemm, a: Array, dc: Array) -> Array:
    """The product op(A)^T dC, stored as B is."""
    a = a.T if primitive.trans_a else a
    db: Array = np.matmul(dc.T, a) if primitive.trans_b else np.matmul(a.T, dc)
    return db


def batched_gemm_forward(primitive: BatchedGemm, a: Array, b: Array) -> Array:
    """The products op(A) op(B)."""
    c: Array = np.matmul(
        a.swapaxes(1, 2) if primitive.trans_a else a, b.swapaxes(1, 2) if primitive.trans_b else b
    )
    return c


def batched_gemm_backward_data(
    primitive: BatchedGemm, a: Array, b: Array, dc: Array
) -> tuple[Array, Array]:
    """The products dC op(B)^T and op(A)^T dC, stored as A and B are."""
    a = a.swapaxes(1, 2) if primitive.trans_a else a
    b = b.swapaxes(1, 2) if primitive.trans_b else b
    columns = dc.swapaxes(1, 2)
    da = np.matmul(b, columns) if primitive.trans_a else np.matmul(dc, b.swapaxes(1, 2))
    db = np.matmul(columns, a) if primitive.trans_b else np.matmul(a.swapaxes(1, 2), dc)
    return da, db


def conv2d_forward(primitive: Conv2d, x: Array, w: Array) -> Array:
    """The filters times the columns of all windows, group by group."""
    filters = w.reshape(_filter_shape(primitive))
    y = np.empty(primitive.operand("y").shape, x.dtype)
    for block in _blocks(primitive):
        rows = np.matmul(filters, _columns(primitive, x[block]))
        by_channel = rows.reshape(primitive.out_channels, -1, *primitive.extent)
        y[block] = by_channel.swapaxes(0, 1)
    return y


def conv2d_backward_data(primitive: Conv2d, w: Array, dy: Array) -> Array:
    """The columns' gradients, w^T times dy, added up where windows overlap."""
    filters = w.reshape(_filter_shape(primitive)).swapaxes(1, 2)
    dx = np.empty(primitive.operand("x").shape, dy.dtype)
    for block in _blocks(primitive):
        dx[block] = _images(primitive, np.matmul(filters, _rows(primitive, dy[block])))
    return dx


def conv2d_backward_weights(primitive: Conv2d, x: Array, dy: Array) -> Array:
    """The products of dy with the transposed columns of all windows, summed over the blocks."""
    dw = np.zeros(_filter_shape(primitive), dy.dtype)
    for block in _blocks(primitive):
        columns = _columns(primitive, x[block])
        dw += np.matmul(_rows(primitive, dy[block]), columns.swapaxes(1, 2))
    return dw.reshape(primitive.operand("w").shape)


def _filter_shape(primitive: Conv2d) -> tuple[int, int, int]:
    """(groups, output channels of a group, elements of a window in a group's channels)."""
    window = primitive.in_channels // primitive.groups * product(primitive.kernel)
    return primitive.groups, primitive.out_channels // primitive.groups, window


def _blocks(primitive: Conv2d) -> Iterator[slice]:
    """Slices of as many images as one matrix product takes."""
    images = max(1, _COLUMNS // product(primitive.extent))
    for first in range(0, primitive.batch, images):
        yield slice(first, min(first + images, primitive.batch))


def _rows(primitive: Conv2d, dy: Array) -> Array:
    """The outputs of some images as (groups, output channels of a group, windows)."""
    groups, channels, _ = _filter_shape(primitive)
    return dy.swapaxes(0, 1).reshape(groups, channels, -1)


def _columns(primitive: Conv2d, x: Array) -> Array:
    """The windows of some images as (groups, elements of a window, windows).

    A view where the memory allows it: one image under a 1 x 1 kernel.
    """
    x = padded(x, primitive.padding)
    groups, channels = primitive.groups, primitive.in_channels // primitive.groups
    image, channel, row, column = x.strides
    windows = as_strided(
        x,
        (groups, channels, *primitive.kernel, len(x), *primitive.extent),
        (
            channels * channel,
            channel,
            primitive.dilation[0] * row,
            primitive.dilation[1] * column,
            image,
            primitive.stride[0] * row,
            primitive.stride[1] * column,
        ),
        writeable=False,
    )
    return windows.reshape(groups, channels * product(primitive.kernel), -1)


def _images(primitive: Conv2d, columns: Array) -> Array:
    """The sum of overlapping windows, given as ``_columns`` lays them out, as images."""
    windows = columns.reshape(
        primitive.in_channels, *primitive.kernel, -1, *primitive.extent
    ).transpose(3, 0, 1, 2, 4, 5)
    top, bottom, left, right = primitive.padding
    height, width = top + primitive.height + bottom, left + primitive.width + right
    images = np.zeros((len(windows), primitive.in_channels, height, width), columns.dtype)
    for i, j, pixels in window_pixels(primitive, primitive.dilation):
        images[pixels] += windows[:, :, i, j]
    return unpadded(images, primitive.padding)


def padded(images: Array, padding: tuple[int, int, int, int], fill: float = 0.0) -> Array:
    """The images in a frame of ``fill``; themselves without padding."""
    if not any(padding):
        return images
    top, bottom, left, right = padding
    batch, channels, height, width = images.shape
    framed = np.full(
        (batch, channels, top + height + bottom, left + width + right), fill, images.dtype
    )
    unpadded(framed, padding)[...] = images
    return framed


def unpadded(framed: Array, padding: tuple[int, int, int, int]) -> Array:
    """A view of the images inside a frame."""
    top, bottom, left, right = padding
    height, width = framed.shape[2:]
    return framed[:, :, top : height - bottom, left : width - right]


def window_pixels(
    primitive: Conv2d | Pool2d, dilation: tuple[int, int] = (1, 1)
) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Each kernel position, with the index of the pixel it has in every window of the images."""
    (rows, columns), (down, right) = primitive.extent, primitive.stride
    for i in range(primitive.kernel[0]):
        for j in range(primitive.kernel[1]):
            y, x = i * dilation[0], j * dilation[1]
            vertical = slice(y, y + (rows - 1) * down + 1, down)
            horizontal = slice(x, x + (columns - 1) * right + 1, right)
            yield i, j, (slice(None), slice(None), vertical, horizontal)


def lstm_cell_forward(
    primitive: LstmCell, x: Array, wx: Array, wh: Array, bias: Array, h0: Array, c0: Array
) -> tuple[Array, Array, Array]:
    """One product for the inputs of all steps, then one a step for the recurrence."""
    steps, batch, hidden = primitive.steps, primitive.batch, primitive.hidden_size
    gates = np.matmul(x.reshape(steps * batch, -1), wx.T).reshape(steps, batch, 4 * hidden)
    gates += bias
    y = np.empty((steps, batch, hidden), x.dtype)
    cells = np.empty_like(y)
    h, c = h0, c0
    for step, z in enumerate(gates):
        z += np.matmul(h, wh.T)
        i, f, g, o = _split(z)
        sigmoid(z[:, : 2 * hidden], out=z[:, : 2 * hidden])  # i and f, side by side
        np.tanh(g, out=g)
        sigmoid(o, out=o)
        c = np.multiply(f, c, out=cells[step])
        c += i * g
        h = np.tanh(c, out=y[step])
        h *= o
    return y, gates, cells


def lstm_cell_backward_data(
    primitive: LstmCell,
    wx: Array,
    wh: Array,
    c0: Array,
    gates: Array,
    cells: Array,
    dy: Array,
) -> tuple[Array, Array]:
    """Backpropagation through time to the gradients of z, then one product for those of x."""
    dgates = np.empty_like(gates)
    dh = np.zeros_like(c0)
    dc = np.zeros_like(c0)
    for step in reversed(range(primitive.steps)):
        dh += dy[step]
        before = cells[step - 1] if step else c0
        _cell_backward(gates[step], cells[step], before, dh, dc, dgates[step])
        dh = np.matmul(dgates[step], wh)
    dx = np.matmul(dgates.reshape(-1, len(wx)), wx)
    return dx.reshape(primitive.operand("x").shape), dgates


def _cell_backward(
    gates: Array, cell: Array, previous_cell: Array, dh: Array, dc: Array, dgates: Array
) -> None:
    """Fill ``dgates`` of one step and turn ``dc`` into the gradient of the cell before it."""
    i, f, g, o = _split(gates)
    di, df, dg, do = _split(dgates)
    tanh_cell = np.tanh(cell)
    dc += dh * o * (1 - tanh_cell * tanh_cell)
    np.multiply(dc * g, i * (1 - i), out=di)
    np.multiply(dc * previous_cell, f * (1 - f), out=df)
    np.multiply(dc * i, 1 - g * g, out=dg)
    np.multiply(dh * tanh_cell, o * (1 - o), out=do)
    dc *= f


def lstm_cell_backward_weights(
    primitive: LstmCell, x: Array, h0: Array, y: Array, dgates: Array
) -> tuple[Array, Array, Array]:
    """The gradients of z of all steps times the inputs and the hidden states before them."""
    hidden = np.concatenate((h0[np.newaxis], y[:-1]))
    flat = dgates.reshape(-1, dgates.shape[-1])
    dwx = np.matmul(flat.T, x.reshape(len(flat), -1))
    dwh = np.matmul(flat.T, hidden.reshape(len(flat), -1))
    return dwx, dwh, flat.sum(axis=0)


def _split(gates: Array) -> tuple[Array, Array, Array, Array]:
    """Views of the gates i, f, g, o that lie beside each other in (batch, 4 hidden_size)."""
    hidden = gates.shape[1] // 4
    i, f, g, o = (gates[:, first : first + hidden] for first in range(0, 4 * hidden, hidden))
    return i, f, g, o


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)), which is 0 where exp(-x) overflows."""
    result = np.multiply(x, -1, out=out)  # np.negative errs in place on strided float32 (2.4.6)
    with np.errstate(over="ignore"):
        np.exp(result, out=result)
    result += 1
    return np.reciprocal(result, out=result)
