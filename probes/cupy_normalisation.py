"""Kernels of the cupy engine that normalise: by channels, by rows, to probabilities.

A kernel takes the tools, a primitive and the operands that its pass reads, and returns fresh arrays
for those that it writes, in the order of the primitive's tables.
"""

from __future__ import annotations

from typing import Any

from .attention import LayerNorm, Softmax
from .cupy_toolbox import Toolbox
from .memory_bound import BatchNorm, SoftmaxLoss

Array = Any  # of the tools' module


def batch_norm_forward(
    tools: Toolbox,
    primitive: BatchNorm,
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
) -> tuple[Array, Array, Array]:
    """The normalised images, and the mean and the deviation that they were normalised by."""
    if primitive.training:
        count = primitive.batch * primitive.positions
        mean = x.mean(axis=2).mean(axis=0)
        total = _by_channel(tools, "squares", x, mean[:, None])
    else:
        mean, total, count = running_mean.copy(), running_variance, 1
    deviation = tools.elementwise("deviation", total, count, primitive.epsilon)
    columns = [values[:, None] for values in (mean, deviation, gamma, beta)]
    return tools.elementwise("normalised", x, *columns), mean, deviation


def batch_norm_backward_data(
    tools: Toolbox,
    primitive: BatchNorm,
    x: Array,
    gamma: Array,
    mean: Array,
    deviation: Array,
    dy: Array,
) -> Array:
    """The scaled gradient, less its parts along the mean and the deviation of the batch."""
    mean, deviation, gamma = (values[:, None] for values in (mean, deviation, gamma))
    if not primitive.training:
        return tools.elementwise("rescaled", dy, gamma, deviation)
    straight = _by_channel(tools, "products", dy, gamma)[:, None]
    tilted = _by_channel(tools, "tilted", x, mean, gamma, dy)[:, None]
    operands = x, mean, deviation, gamma, dy, straight, tilted
    return tools.elementwise("normalised_slope", *operands, primitive.batch * primitive.positions)


def batch_norm_backward_weights(
    tools: Toolbox, primitive: BatchNorm, x: Array, mean: Array, deviation: Array, dy: Array
) -> tuple[Array, Array]:
    """The gradients of gamma and beta: dy against the normalised images, and dy alone."""
    operands = x, mean[:, None], deviation[:, None], dy
    return _by_channel(tools, "normalised_products", *operands), dy.sum(axis=2).sum(axis=0)


def _by_channel(tools: Toolbox, name: str, *operands: Array) -> Array:
    """A sum over positions, then over images: there are too few channels to fill a GPU at once."""
    return tools.summed(name, *operands, axis=2).sum(axis=0)


def layer_norm_forward(
    tools: Toolbox, primitive: LayerNorm, x: Array, gamma: Array, beta: Array
) -> tuple[Array, Array, Array]:
    """The normalised rows, and the mean and the deviation that each was normalised by."""
    mean = x.mean(axis=1, keepdims=True)
    total = tools.summed("squares", x, mean, axis=1, keepdims=True)
    deviation = tools.elementwise("deviation", total, primitive.features, primitive.epsilon)
    y = tools.elementwise("normalised", x, mean, deviation, gamma, beta)
    return y, mean[:, 0], deviation[:, 0]


def layer_norm_backward_data(
    tools: Toolbox,
    primitive: LayerNorm,
    x: Array,
    gamma: Array,
    mean: Array,
    deviation: Array,
    dy: Array,
) -> Array:
    """The scaled gradient, less its parts along the mean and the deviation of the row."""
    mean, deviation = mean[:, None], deviation[:, None]
    straight = tools.summed("products", dy, gamma, axis=1, keepdims=True)
    tilted = tools.summed("tilted", x, mean, gamma, dy, axis=1, keepdims=True)
    operands = x, mean, deviation, gamma, dy, straight, tilted
    return tools.elementwise("normalised_slope", *operands, primitive.features)


def layer_norm_backward_weights(
    tools: Toolbox, primitive: LayerNorm, x: Array, mean: Array, deviation: Array, dy: Array
) -> tuple[Array, Array]:
    """The gradients of gamma and beta: dy against the normalised rows, and dy alone."""
    operands = x, mean[:, None], deviation[:, None], dy
    return tools.summed("normalised_products", *operands, axis=0), dy.sum(axis=0)


def softmax_forward(tools: Toolbox, primitive: Softmax, x: Array) -> Array:
    """The powers of every row over their sum."""
    largest, total = _powers(tools, x)
    return tools.elementwise("softmax", x, largest, total)


def softmax_backward_data(tools: Toolbox, primitive: Softmax, y: Array, dy: Array) -> Array:
    """The gradient less its mean under the row's probabilities, times these."""
    mean = tools.summed("products", y, dy, axis=1, keepdims=True)
    return tools.elementwise("softmax_slope", y, dy, mean)


def softmax_loss_forward(
    tools: Toolbox, primitive: SoftmaxLoss, x: Array, labels: Array
) -> tuple[Array, Array]:
    """The mean loss in an array of one, and the probabilities."""
    largest, total = _powers(tools, x)
    of_rows = largest[:, 0], total[:, 0]
    losses = tools.elementwise("cross_entropy", x, labels, *of_rows, primitive.classes)
    return losses.mean(keepdims=True), tools.elementwise("softmax", x, largest, total)


def softmax_loss_backward_data(
    tools: Toolbox, primitive: SoftmaxLoss, probabilities: Array, labels: Array
) -> Array:
    """The probabilities less 1 at the labels, over the number of rows."""
    operands = probabilities, labels[:, None], primitive.classes, 1 / primitive.rows
    return tools.elementwise("cross_entropy_slope", *operands)


def _powers(tools: Toolbox, x: Array) -> tuple[Array, Array]:
    """The largest element of every row, and the sum of the row's powers over that one's."""
    largest = x.max(axis=1, keepdims=True)
    return largest, tools.summed("powers", x, largest, axis=1, keepdims=True)
