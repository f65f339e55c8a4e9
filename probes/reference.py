"""What a primitive computes, said in NumPy: the reference engine, and the oracle of the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from . import reference_attention as attention
from . import reference_compute_bound as compute_bound
from . import reference_memory_bound as memory_bound
from .primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE, Primitive, Shape, product

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]

# kind -> pass -> kernel(primitive, *operands in the order of ``reads``), which returns the
# operands of ``writes``: an array, or a tuple in their order.
Kernels = dict[str, dict[str, Callable[..., Any]]]
KERNELS: Kernels = {
    "gemm": {
        FORWARD: compute_bound.gemm_forward,
        BACKWARD_DATA: compute_bound.gemm_backward_data,
        BACKWARD_WEIGHTS: compute_bound.gemm_backward_weights,
    },
    "batched_gemm": {
        FORWARD: compute_bound.batched_gemm_forward,
        BACKWARD_DATA: compute_bound.batched_gemm_backward_data,
    },
    "conv2d": {
        FORWARD: compute_bound.conv2d_forward,
        BACKWARD_DATA: compute_bound.conv2d_backward_data,
        BACKWARD_WEIGHTS: compute_bound.conv2d_backward_weights,
    },
    "lstm_cell": {
        FORWARD: compute_bound.lstm_cell_forward,
        BACKWARD_DATA: compute_bound.lstm_cell_backward_data,
        BACKWARD_WEIGHTS: compute_bound.lstm_cell_backward_weights,
    },
    "bias": {
        FORWARD: memory_bound.bias_forward,
        BACKWARD_WEIGHTS: memory_bound.bias_backward_weights,
    },
    "activation": {
        FORWARD: memory_bound.activation_forward,
        BACKWARD_DATA: memory_bound.activation_backward_data,
    },
    "pool2d": {
        FORWARD: memory_bound.pool2d_forward,
        BACKWARD_DATA: memory_bound.pool2d_backward_data,
    },
    "lrn": {
        FORWARD: memory_bound.lrn_forward,
        BACKWARD_DATA: memory_bound.lrn_backward_data,
    },
    "batch_norm": {
        FORWARD: memory_bound.batch_norm_forward,
        BACKWARD_DATA: memory_bound.batch_norm_backward_data,
        BACKWARD_WEIGHTS: memory_bound.batch_norm_backward_weights,
    },
    "dropout": {
        FORWARD: memory_bound.dropout_forward,
        BACKWARD_DATA: memory_bound.dropout_backward_data,
    },
    "softmax": {
        FORWARD: attention.softmax_forward,
        BACKWARD_DATA: attention.softmax_backward_data,
    },
    "layer_norm": {
        FORWARD: attention.layer_norm_forward,
        BACKWARD_DATA: attention.layer_norm_backward_data,
        BACKWARD_WEIGHTS: attention.layer_norm_backward_weights,
    },
    "transpose": {
        FORWARD: attention.transpose_forward,
        BACKWARD_DATA: attention.transpose_backward_data,
    },
    "scale": {FORWARD: attention.scale_forward, BACKWARD_DATA: attention.scale_backward_data},
    "softmax_loss": {
        FORWARD: memory_bound.softmax_loss_forward,
        BACKWARD_DATA: memory_bound.softmax_loss_backward_data,
    },
    "embedding": {
        FORWARD: memory_bound.embedding_forward,
        BACKWARD_WEIGHTS: memory_bound.embedding_backward_weights,
    },
    "add": {FORWARD: memory_bound.add_forward},
    "pad_channels": {
        FORWARD: memory_bound.pad_channels_forward,
        BACKWARD_DATA: memory_bound.pad_channels_backward_data,
    },
    "sgd_update": {UPDATE: memory_bound.sgd_update},
    "copy": {FORWARD: memory_bound.copy_forward},
}

# What a kernel draws at random unless it is given.
_DRAWN = ("mask",)


def run(primitive: Primitive, pass_: str, arrays: Arrays, table: Kernels = KERNELS) -> Arrays:
    """The operands that a pass writes, from those that it reads among ``arrays``.

    ``table`` holds the kernels; the arrays are such as these take.  Results have the dtype of the
    floating-point operands.  A dropout's ``mask`` is taken from ``arrays`` if it is there.  Only an
    update changes its operands, w and v, in place.

    Raises:
        ValueError: the primitive has no such pass, or an array does not fit its operand.
    """
    kernels = table[primitive.kind]
    if pass_ not in kernels:
        raise ValueError(f"{primitive.kind}: no pass {pass_!r}; known: {', '.join(kernels)}")
    operands = [
        _shaped(primitive, name, arrays[name], shape)
        for name, shape in _read_shapes(primitive, pass_).items()
        if name in arrays or name not in _DRAWN
    ]
    results = kernels[pass_](primitive, *operands)
    if not isinstance(results, tuple):
        results = (results,)
    return dict(zip(primitive.writes[pass_], results))


@lru_cache(maxsize=1024)
def _read_shapes(primitive: Primitive, pass_: str) -> dict[str, Shape]:
    """The shapes of the operands that a kernel takes, in the order that it takes them."""
    drawn = tuple(name for name in primitive.writes[pass_] if name in _DRAWN)
    return {name: primitive.operand(name).shape for name in primitive.reads[pass_] + drawn}


def _shaped(primitive: Primitive, name: str, array: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """The array in its operand's shape: a view wherever the memory allows one."""
    if array.shape == shape:
        return array
    if array.size != product(shape):
        raise ValueError(
            f"{primitive.kind}: {name} has shape {array.shape}, which does not fit {shape}"
        )
    shaped = array.reshape(shape)
    if name in primitive.writes.get(UPDATE, ()) and not np.may_share_memory(shaped, array):
        raise ValueError(f"{primitive.kind}: {name} is updated in place and must be contiguous")
    return shaped
