"""NumPy kernels of the primitives between a transformer's matrix products.

A kernel takes a primitive and the operands that its pass reads, and returns fresh arrays for those
that it writes, in the order of the primitive's tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .attention import LayerNorm, Scale, Softmax, Transpose

if TYPE_CHECKING:
    from .reference_compute_bound import Array


def softmax_forward(primitive: Softmax, x: Array) -> Array:
    """The powers of every row over their sum; less the row's maximum, none overflows."""
    y: Array = x - x.max(axis=1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)
    return y


def softmax_backward_data(primitive: Softmax, y: Array, dy: Array) -> Array:
    """The gradient less its mean under the row's probabilities, times these."""
    dx: Array = dy - _row_products(y, dy)
    dx *= y
    return dx


def layer_norm_forward(
    primitive: LayerNorm, x: Array, gamma: Array, beta: Array
) -> tuple[Array, Array, Array]:
    """The normalised rows, and the mean and the deviation that each was normalised by."""
    mean = x.mean(axis=1, keepdims=True)
    y = x - mean
    deviation = np.sqrt(_row_products(y, y) / primitive.features + primitive.epsilon)
    y /= deviation
    y *= gamma
    y += beta
    return y, mean[:, 0], deviation[:, 0]


def layer_norm_backward_data(
    primitive: LayerNorm, x: Array, gamma: Array, mean: Array, deviation: Array, dy: Array
) -> Array:
    """The scaled gradient, less its parts along the mean and the deviation of the row."""
    normalised = _normalised(x, mean, deviation)
    dx: Array = dy * gamma
    along_mean = dx.mean(axis=1, keepdims=True)
    normalised *= _row_products(normalised, dx) / primitive.features
    dx -= along_mean
    dx -= normalised
    dx /= deviation[:, np.newaxis]
    return dx


def layer_norm_backward_weights(
    primitive: LayerNorm, x: Array, mean: Array, deviation: Array, dy: Array
) -> tuple[Array, Array]:
    """The gradients of gamma and beta: dy against the normalised rows, and dy alone."""
    products = _normalised(x, mean, deviation)
    products *= dy
    return products.sum(axis=0), dy.sum(axis=0)


def _normalised(x: Array, mean: Array, deviation: Array) -> Array:
    rows: Array = x - mean[:, np.newaxis]
    rows /= deviation[:, np.newaxis]
    return rows


def _row_products(one: Array, other: Array) -> Array:
    """The scalar products of the rows of two matrices, as a column."""
    products: Array = np.einsum("rc,rc->r", one, other)[:, np.newaxis]
    return products


def transpose_forward(primitive: Transpose, x: Array) -> Array:
    """The same elements, columns before rows, in fresh memory."""
    return x.swapaxes(0, 1).copy()


def transpose_backward_data(primitive: Transpose, dy: Array) -> Array:
    """The gradients, back in the order of x."""
    return dy.swapaxes(0, 1).copy()


def scale_forward(primitive: Scale, x: Array) -> Array:
    """The product with the factor."""
    return x * primitive.factor


def scale_backward_data(primitive: Scale, dy: Array) -> Array:
    """The gradients times the factor."""
    return scale_forward(primitive, dy)
