"""The memory-bound kernels of the cupy engine: one launch each, where one is enough.

A kernel takes the tools, a primitive and the operands that its pass reads, and returns fresh arrays
for those that it writes, in the order of the primitive's tables; only ``sgd_update`` works in
place.
"""

from __future__ import annotations

import random
from typing import Any

from .attention import Scale, Transpose
from .cupy_toolbox import Toolbox
from .memory_bound import (
    Activation,
    Add,
    Bias,
    Copy,
    Dropout,
    Embedding,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
    SgdUpdate,
)

Array = Any  # of the tools' module


def bias_forward(tools: Toolbox, primitive: Bias, x: Array, bias: Array) -> Array:
    """The channel's bias added to x[batch, channels, positions]."""
    return x + bias[:, None]


def bias_backward_weights(tools: Toolbox, primitive: Bias, dy: Array) -> Array:
    """The sum of dy over positions, then over the batch: channels alone are too few for a GPU."""
    by_image = dy.sum(axis=2) if primitive.positions > 1 else dy[:, :, 0]
    return by_image.sum(axis=0)


def activation_forward(tools: Toolbox, primitive: Activation, x: Array) -> Array:
    """The function of every element."""
    return tools.elementwise(primitive.function, x)


def activation_backward_data(
    tools: Toolbox, primitive: Activation, kept: Array, dy: Array
) -> Array:
    """The upstream gradient times the function's slope, which y tells; that of a GELU, x."""
    return tools.elementwise(f"{primitive.function}_slope", kept, dy)


def pool2d_forward(tools: Toolbox, primitive: Pool2d, x: Array) -> tuple[Array, Array]:
    """The pooled images, and for maxima where they were found."""
    y = tools.xp.empty(primitive.operand("y").shape, x.dtype)
    places = tools.xp.empty(primitive.operand("argmax").shape, "int64")
    written = (y, places) if primitive.function == "max" else (y,)
    tools.elementwise(f"{primitive.function}_pool", x, *_pooling(primitive), *written)
    return y, places


def pool2d_backward_data(tools: Toolbox, primitive: Pool2d, argmax: Array, dy: Array) -> Array:
    """Each window's gradient, handed to its maximum or shared by its pixels."""
    dx = tools.xp.empty(primitive.operand("x").shape, dy.dtype)
    read = (argmax, dy) if primitive.function == "max" else (dy,)
    tools.elementwise(f"{primitive.function}_pool_slope", *read, *_pooling(primitive), dx)
    return dx


def _pooling(primitive: Pool2d) -> tuple[int, ...]:
    """The sizes that the kernels of a pooling take."""
    top, bottom, left, right = primitive.padding
    window = *primitive.kernel, *primitive.stride, top, left
    beyond = (bottom, right) if primitive.function == "average" else ()
    return primitive.height, primitive.width, *primitive.extent, *window, *beyond


def lrn_forward(tools: Toolbox, primitive: LocalResponseNorm, x: Array) -> tuple[Array, Array]:
    """The normalised images and what they were normalised by."""
    before = primitive.size // 2
    window = primitive.channels, primitive.positions, before, primitive.size - 1 - before
    y, norm = tools.xp.empty_like(x), tools.xp.empty_like(x)
    weight = primitive.alpha / primitive.size
    tools.elementwise("lrn", x, *window, weight, primitive.beta, primitive.k, y, norm)
    return y, norm


def lrn_backward_data(
    tools: Toolbox, primitive: LocalResponseNorm, x: Array, norm: Array, dy: Array
) -> Array:
    """The gradient through a channel's own numerator and through every norm that it is part of."""
    before = primitive.size // 2
    window = primitive.channels, primitive.positions, primitive.size - 1 - before, before
    dx = tools.xp.empty_like(x)
    weight = primitive.alpha / primitive.size
    tools.elementwise("lrn_slope", x, norm, dy, *window, weight, primitive.beta, dx)
    return dx


def dropout_forward(
    tools: Toolbox, primitive: Dropout, x: Array, mask: Array | None = None
) -> tuple[Array, Array]:
    """The kept elements, scaled up, and which they are; drawn unless given."""
    if mask is not None:
        return dropout_backward_data(tools, primitive, mask, x), mask
    drawn = random.getrandbits(63), primitive.rate, 1 / (1 - primitive.rate)
    y, mask = tools.elementwise("dropped", x, *drawn)
    return y, mask


def dropout_backward_data(tools: Toolbox, primitive: Dropout, mask: Array, dy: Array) -> Array:
    """The gradients of the kept elements, scaled up."""
    return tools.elementwise("masked", dy, mask, 1 / (1 - primitive.rate))


def transpose_forward(tools: Toolbox, primitive: Transpose, x: Array) -> Array:
    """The same elements, columns before rows, in fresh memory."""
    return x.swapaxes(0, 1).copy()


def transpose_backward_data(tools: Toolbox, primitive: Transpose, dy: Array) -> Array:
    """The gradients, back in the order of x."""
    return dy.swapaxes(0, 1).copy()


def scale_forward(tools: Toolbox, primitive: Scale, x: Array) -> Array:
    """The product with the factor."""
    return x * primitive.factor


def scale_backward_data(tools: Toolbox, primitive: Scale, dy: Array) -> Array:
    """The gradients times the factor."""
    return dy * primitive.factor


def embedding_forward(tools: Toolbox, primitive: Embedding, ids: Array, table: Array) -> Array:
    """The rows of the table that the ids name."""
    return table.take(ids, axis=0)


def embedding_backward_weights(
    tools: Toolbox, primitive: Embedding, ids: Array, dy: Array
) -> Array:
    """The dense gradient: rows of dy added up where their ids agree."""
    dtable = tools.xp.zeros(primitive.operand("table").shape, dy.dtype)
    tools.elementwise("scatter", ids, dy, primitive.size, dtable)
    return dtable


def add_forward(tools: Toolbox, primitive: Add, x: Array, other: Array) -> Array:
    """The sum of two branches."""
    return x + other


def pad_channels_forward(tools: Toolbox, primitive: PadChannels, x: Array) -> Array:
    """The images with channels of zeros after their own."""
    y = tools.xp.zeros(primitive.operand("y").shape, x.dtype)
    y[:, : primitive.channels] = x
    return y


def pad_channels_backward_data(tools: Toolbox, primitive: PadChannels, dy: Array) -> Array:
    """The gradients of the images' own channels."""
    return dy[:, : primitive.channels].copy()


def sgd_update(
    tools: Toolbox, primitive: SgdUpdate, w: Array, dw: Array, v: Array
) -> tuple[Array, Array]:
    """The weights and their velocity, both changed in place."""
    if primitive.momentum:
        operands = dw, primitive.momentum, primitive.learning_rate, w, v
        tools.elementwise("sgd_with_momentum", *operands)
    else:
        tools.elementwise("sgd", dw, primitive.learning_rate, w)
    return w, v


def copy_forward(tools: Toolbox, primitive: Copy, x: Array) -> Array:
    """The same elements in fresh memory."""
    return x.copy()
