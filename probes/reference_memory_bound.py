"""NumPy kernels of the memory-bound primitives: few passes over the arrays, none in Python loops.

A kernel takes a primitive and the operands that its pass reads, and returns fresh arrays for those
that it writes, in the order of the primitive's tables; only ``sgd_update`` works in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Optional

import numpy as np

from .memory_bound import (
    Activation,
    Add,
    BatchNorm,
    Bias,
    Copy,
    Dropout,
    Embedding,
    LocalResponseNorm,
    Pool2d,
    SgdUpdate,
    SoftmaxLoss,
)
from .reference_compute_bound import padded, sigmoid, window_pixels

if TYPE_CHECKING:
    from .reference_compute_bound import Array

_RANDOM = np.random.default_rng()


def bias_forward(primitive: Bias, x: Array, bias: Array) -> Array:
    """y = x + bias of the channel."""
    return x + bias[:, np.newaxis]


def bias_backward_weights(primitive: Bias, dy: Array) -> Array:
    """Dbias = dy summed over batch and positions."""
    return dy.sum(axis=(0, 2))


def activation_forward(primitive: Activation, x: Array) -> Array:
    """y = function(x)."""
    if primitive.function == "relu":
        return np.maximum(x, 0)
    return sigmoid(x) if primitive.function == "sigmoid" else np.tanh(x)


def activation_backward_data(primitive: Activation, y: Array, dy: Array) -> Array:
    """Dx = dy times the function's slope, which y tells."""
    if primitive.function == "relu":
        return dy * (y > 0)
    return dy * (y * (1 - y) if primitive.function == "sigmoid" else 1 - y * y)
