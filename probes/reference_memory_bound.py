"""NumPy kernels of the memory-bound primitives: whole-array passes, as few as stay clear.

A kernel takes a primitive and the operands that its pass reads, and returns fresh arrays for those
that it writes, in the order of the primitive's tables; only ``sgd_update`` works in place.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from .error_function import erf
from .memory_bound import (
    Activation,
    Add,
    BatchNorm,
    Bias,
    Copy,
    Dropout,
    Embedding,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
    SgdUpdate,
    SoftmaxLoss,
)
from .reference_compute_bound import padded, sigmoid, unpadded, window_pixels

if TYPE_CHECKING:
    from .reference_compute_bound import Array


def bias_forward(primitive: Bias, x: Array, bias: Array) -> Array:
    """The channel's bias added to x[batch, channels, positions]."""
    return x + _by_channel(bias)


def bias_backward_weights(primitive: Bias, dy: Array) -> Array:
    """The sum of dy over batch and positions."""
    dbias: Array = dy.sum(axis=(0, 2))
    return dbias


def _by_channel(values: Array) -> Array:
    """A view of values[channels] that broadcasts over (batch, channels, positions)."""
    return values[:, np.newaxis]


def activation_forward(primitive: Activation, x: Array) -> Array:
    """The function of every element."""
    if primitive.function == "relu":
        return np.maximum(x, 0)
    if primitive.function == "gelu":
        return _normal_share(x) * x
    return sigmoid(x) if primitive.function == "sigmoid" else np.tanh(x)


def activation_backward_data(primitive: Activation, kept: Array, dy: Array) -> Array:
    """The upstream gradient times the function's slope, which y tells; that of a GELU, x."""
    if primitive.function == "relu":
        return dy * (kept > 0)
    if primitive.function == "gelu":
        return dy * _gelu_slope(kept)
    slope: Array = kept * (1 - kept) if primitive.function == "sigmoid" else 1 - kept * kept
    return dy * slope


def _normal_share(x: Array) -> Array:
    """The share of a standard normal distribution that lies below x."""
    share = erf(x * 0.5**0.5)
    share += 1
    share *= 0.5
    return share


def _gelu_slope(x: Array) -> Array:
    """The share below x, and x times the density there."""
    slope = x * x
    slope *= -0.5
    np.exp(slope, out=slope)
    slope *= (2 * np.pi) ** -0.5
    slope *= x
    slope += _normal_share(x)
    return slope


def pool2d_forward(primitive: Pool2d, x: Array) -> tuple[Array, Array]:
    """The pooled images, and for maxima where they were found."""
    if primitive.function == "max":
        return _maxima(primitive, x)
    framed = padded(x, _frame(primitive))
    y = np.zeros(primitive.operand("y").shape, x.dtype)
    for _, _, pixels in window_pixels(primitive):
        y += framed[pixels]
    y /= _window_sizes(primitive).astype(x.dtype)
    return y, np.empty(0, np.int64)


def pool2d_backward_data(primitive: Pool2d, argmax: Array, dy: Array) -> Array:
    """Each window's gradient, handed to its maximum or shared by its pixels."""
    if primitive.function == "max":
        return _at_maxima(primitive, argmax, dy)
    frame = _frame(primitive)
    framed = padded(np.zeros(primitive.operand("x").shape, dy.dtype), frame)
    share = dy / _window_sizes(primitive).astype(dy.dtype)
    for _, _, pixels in window_pixels(primitive):
        framed[pixels] += share
    return np.ascontiguousarray(unpadded(framed, frame))


def _maxima(primitive: Pool2d, x: Array) -> tuple[Array, Array]:
    """The first maximum of every window and its place in the flattened image."""
    framed = padded(x, _frame(primitive), fill=-np.inf)
    corner, within = _window_places(primitive)
    y = np.full(primitive.operand("y").shape, -np.inf, x.dtype)
    places = np.empty(y.shape, np.int64)
    places[...] = within
    for i, j, pixels in window_pixels(primitive):
        pixel = framed[pixels]
        # Places grow as the window is scanned, so the latest winner has the largest.
        np.maximum(places, (pixel > y) * (i * primitive.width + j), out=places)
        np.maximum(y, pixel, out=y)
    places += corner
    return y, places


def _at_maxima(primitive: Pool2d, argmax: Array, dy: Array) -> Array:
    """The sum of dy over the windows that a pixel was the maximum of."""
    planes, pixels = primitive.batch * primitive.channels, primitive.height * primitive.width
    places = argmax.reshape(planes, -1) + pixels * np.arange(planes)[:, np.newaxis]
    dx = np.bincount(places.ravel(), weights=dy.ravel(), minlength=planes * pixels)
    return dx.astype(dy.dtype).reshape(primitive.operand("x").shape)


def _frame(primitive: Pool2d) -> tuple[int, int, int, int]:
    """The padding, grown where a last, partial window reaches beyond it."""
    top, bottom, left, right = primitive.padding
    reach = [
        (count - 1) * stride + kernel
        for count, stride, kernel in zip(primitive.extent, primitive.stride, primitive.kernel)
    ]
    below, beside = reach[0] - top - primitive.height, reach[1] - left - primitive.width
    return top, max(bottom, below), left, max(right, beside)


def _window_sizes(primitive: Pool2d) -> Array:
    """How many positions of the padded image each window has, as (rows, columns)."""
    sizes = []
    for axis, image in enumerate((primitive.height, primitive.width)):
        end = image + sum(primitive.padding[2 * axis : 2 * axis + 2])
        starts = np.arange(primitive.extent[axis]) * primitive.stride[axis]
        sizes.append(np.minimum(primitive.kernel[axis], end - starts))
    return np.multiply.outer(*sizes)


def _window_places(primitive: Pool2d) -> tuple[Array, Array]:
    """Where each window's corner lies in the flattened image, and its first pixel after that."""
    starts = [
        np.arange(count) * stride - before
        for count, stride, before in zip(primitive.extent, primitive.stride, primitive.padding[::2])
    ]
    first = [np.maximum(0, -start) for start in starts]
    corner = np.add.outer(starts[0] * primitive.width, starts[1])
    return corner, np.add.outer(first[0] * primitive.width, first[1])


def lrn_forward(primitive: LocalResponseNorm, x: Array) -> tuple[Array, Array]:
    """The normalised images and what they were normalised by."""
    before = primitive.size // 2
    norm = _channel_window_sum(x * x, before, primitive.size - 1 - before)
    norm *= primitive.alpha / primitive.size
    norm += primitive.k
    return x * norm**-primitive.beta, norm


def lrn_backward_data(primitive: LocalResponseNorm, x: Array, norm: Array, dy: Array) -> Array:
    """The gradient through a channel's own numerator and through every norm that it is part of."""
    before = primitive.size // 2
    scaled = dy * norm**-primitive.beta
    shared = _channel_window_sum(scaled * x / norm, primitive.size - 1 - before, before)
    shared *= x
    shared *= 2 * primitive.alpha * primitive.beta / primitive.size
    return scaled - shared


def _channel_window_sum(values: Array, before: int, after: int) -> Array:
    """The sum over each channel and as many before and after it as there are."""
    total = values.copy()
    channels = values.shape[1]
    for distance in range(1, min(before, channels - 1) + 1):
        total[:, distance:] += values[:, :-distance]
    for distance in range(1, min(after, channels - 1) + 1):
        total[:, :-distance] += values[:, distance:]
    return total


def batch_norm_forward(
    primitive: BatchNorm,
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
) -> tuple[Array, Array, Array]:
    """The normalised images, and the mean and the deviation that they were normalised by."""
    mean, variance = running_mean.copy(), running_variance
    if primitive.training:
        mean = x.mean(axis=(0, 2))
        variance = np.square(x - _by_channel(mean)).mean(axis=(0, 2))
    deviation = np.sqrt(variance + primitive.epsilon)
    y = x - _by_channel(mean)
    y *= _by_channel(gamma / deviation)
    y += _by_channel(beta)
    return y, mean, deviation


def batch_norm_backward_data(
    primitive: BatchNorm, x: Array, gamma: Array, mean: Array, deviation: Array, dy: Array
) -> Array:
    """The scaled gradient, less its parts along the mean and the deviation of the batch."""
    if not primitive.training:
        return dy * _by_channel(gamma / deviation)
    dgamma, dbeta = batch_norm_backward_weights(primitive, x, mean, deviation, dy)
    count = primitive.batch * primitive.positions
    dx = x - _by_channel(mean)
    dx *= _by_channel(-dgamma / deviation / count)
    dx += dy
    dx -= _by_channel(dbeta / count)
    dx *= _by_channel(gamma / deviation)
    return dx


def batch_norm_backward_weights(
    primitive: BatchNorm, x: Array, mean: Array, deviation: Array, dy: Array
) -> tuple[Array, Array]:
    """The gradients of gamma and beta: dy against the normalised images, and dy alone."""
    products = x - _by_channel(mean)
    products *= dy
    return products.sum(axis=(0, 2)) / deviation, dy.sum(axis=(0, 2))


@lru_cache
def _generator() -> Callable[..., Any]:
    """Draws from [0, 1); NumPy before 1.17 only in float64, and more slowly."""
    if not hasattr(np.random, "default_rng"):
        return np.random.random_sample
    return partial(np.random.default_rng().random, dtype=np.float32)


def dropout_forward(primitive: Dropout, x: Array, mask: Array | None = None) -> tuple[Array, Array]:
    """The kept elements, scaled up, and which they are; drawn unless given."""
    if mask is None:
        mask = _generator()(x.shape) >= primitive.rate
    return dropout_backward_data(primitive, mask, x), mask


def dropout_backward_data(primitive: Dropout, mask: Array, dy: Array) -> Array:
    """The gradients of the kept elements, scaled up."""
    dx = dy * mask
    dx *= 1 / (1 - primitive.rate)
    return dx


def softmax_loss_forward(primitive: SoftmaxLoss, x: Array, labels: Array) -> tuple[Array, Array]:
    """The mean loss in an array of one, and the probabilities."""
    probabilities = x - x.max(axis=1, keepdims=True)
    chosen = probabilities[np.arange(primitive.rows), labels]
    np.exp(probabilities, out=probabilities)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    return np.mean(np.log(total[:, 0]) - chosen, keepdims=True), probabilities


def softmax_loss_backward_data(
    primitive: SoftmaxLoss, probabilities: Array, labels: Array
) -> Array:
    """The probabilities less 1 at the labels, over the number of rows."""
    dx = probabilities / primitive.rows
    dx[np.arange(primitive.rows), labels] -= 1 / primitive.rows
    return dx


def embedding_forward(primitive: Embedding, ids: Array, table: Array) -> Array:
    """The rows of the table that the ids name."""
    return table.take(ids, axis=0)


def embedding_backward_weights(primitive: Embedding, ids: Array, dy: Array) -> Array:
    """The dense gradient: rows of dy added up where their ids agree."""
    dtable = np.zeros(primitive.operand("table").shape, dy.dtype)
    # np.add.at takes eight times as long before NumPy 1.25, and longer than this even now.
    for row, gradient in zip(ids.tolist(), dy):
        dtable[row] += gradient
    return dtable


def add_forward(primitive: Add, x: Array, other: Array) -> Array:
    """The sum of two branches."""
    return x + other


def pad_channels_forward(primitive: PadChannels, x: Array) -> Array:
    """The images with channels of zeros after their own."""
    y = np.zeros(primitive.operand("y").shape, x.dtype)
    y[:, : primitive.channels] = x
    return y


def pad_channels_backward_data(primitive: PadChannels, dy: Array) -> Array:
    """The gradients of the images' own channels."""
    return dy[:, : primitive.channels].copy()


def sgd_update(primitive: SgdUpdate, w: Array, dw: Array, v: Array) -> tuple[Array, Array]:
    """The weights and their velocity, both changed in place."""
    if primitive.momentum:
        v *= primitive.momentum
        v += dw
    w -= primitive.learning_rate * (v if primitive.momentum else dw)
    return w, v


def copy_forward(primitive: Copy, x: Array) -> Array:
    """The same elements in fresh memory."""
    return x.copy()
