"""The operators of JAX: what its users write, from the operands of a primitive to its output.

Layers are written as flax writes them, where it has them.  Channels are last (``channels_last``).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

import jax
import jax.numpy as jnp
from jax import lax

from .attention import LayerNorm, Scale
from .channels_last import frame, share_counted
from .compute_bound import BatchedGemm, Conv2d, Gemm
from .data import Arrays
from .memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
)
from .primitive import Primitive

Tensors = Arrays  # operand name -> jax.Array, or what stands for it while JAX traces
Operator = Callable[[Any, Tensors], Any]

NHWC = ("NHWC", "HWIO", "NHWC")
KEY = "key"  # of random numbers: what a dropout takes beside its operands
TF32 = "tf32"  # of a product: that its factors may be rounded to that

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "gelu": partial(jax.nn.gelu, approximate=False),
}


def run_chain(chain: tuple[Primitive, ...], tensors: Tensors) -> Any:
    """The output of the last primitive; each works on the output of the one before."""
    value = None
    for primitive in chain:
        own = tensors if value is None else {**tensors, primitive.input: value}
        value = OPERATORS[primitive.kind](primitive, own)
    return value


def sgd(momentum: float, rate: float, weights: Any, gradient: Any, velocity: Any) -> Any:
    """The weights after a step, and the velocity, which is None where there is no momentum."""
    if velocity is not None:
        gradient = velocity = momentum * velocity + gradient
    return weights - rate * gradient, velocity


def _conv2d(p: Conv2d, t: Tensors) -> Any:
    top, bottom, left, right = p.padding
    return lax.conv_general_dilated(
        t["x"],
        t["w"],
        p.stride,
        [(top, bottom), (left, right)],
        rhs_dilation=p.dilation,
        dimension_numbers=NHWC,
        feature_group_count=p.groups,
    )


def _gemm(p: Gemm, t: Tensors) -> Any:
    precision = "tensorfloat32" if p.dtype == TF32 else None  # else as it is set for all
    return jnp.matmul(t["a"].T if p.trans_a else t["a"], t["b"], precision=precision)


def _batched_gemm(p: BatchedGemm, t: Tensors) -> Any:
    a, b = t["a"], t["b"]
    return (a.mT if p.trans_a else a) @ (b.mT if p.trans_b else b)


def _lstm_cell(p: Primitive, t: Tensors) -> Any:
    """The OptimizedLSTMCell of flax along the sequence."""

    def cell(state: Any, x: Any) -> Any:
        hidden, cells = state
        gates = (hidden @ t["wh"] + t["bias"]) + x @ t["wx"]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        cells = jax.nn.sigmoid(f) * cells + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cells)
        return (hidden, cells), hidden

    return lax.scan(cell, (t["h0"], t["c0"]), t["x"])[1]


def _bias(p: Primitive, t: Tensors) -> Any:
    return t["x"] + t["bias"]


def _activation(p: Activation, t: Tensors) -> Any:
    return ACTIVATIONS[p.function](t["x"])


def _pool2d(p: Pool2d, t: Tensors) -> Any:
    top, bottom, left, right = frame(p)
    windows = (1, *p.kernel, 1), (1, *p.stride, 1), ((0, 0), (top, bottom), (left, right), (0, 0))
    if p.function == "max":
        return lax.reduce_window(t["x"], -jnp.inf, lax.max, *windows)
    mean = lax.reduce_window(t["x"], 0.0, lax.add, *windows) / (p.kernel[0] * p.kernel[1])
    share = share_counted(p)
    return mean if share is None else mean * share


def _lrn(p: LocalResponseNorm, t: Tensors) -> Any:
    x = t["x"]
    others = (1,) * (x.ndim - 1)
    around = [(0, 0)] * (x.ndim - 1) + [(p.size // 2, (p.size - 1) // 2)]
    squares = lax.reduce_window(x * x, 0.0, lax.add, (*others, p.size), (*others, 1), around)
    return x / (p.k + p.alpha / p.size * squares) ** p.beta


def _batch_norm(p: BatchNorm, t: Tensors) -> Any:
    x = t["x"]
    if p.training:
        mean, variance = _moments(x, tuple(range(x.ndim - 1)))
    else:
        mean, variance = t["running_mean"], t["running_variance"]
    return (x - mean) * (lax.rsqrt(variance + p.epsilon) * t["gamma"]) + t["beta"]


def _moments(x: Any, axes: tuple[int, ...], keepdims: bool = False) -> tuple[Any, Any]:
    """Mean and variance, both from one look at the data, as flax has it."""
    mean, squares = x.mean(axes, keepdims=keepdims), lax.square(x).mean(axes, keepdims=keepdims)
    return mean, jnp.maximum(0.0, squares - lax.square(mean))


def _dropout(p: Dropout, t: Tensors) -> Any:
    keep = jax.random.bernoulli(t[KEY], 1 - p.rate, t["x"].shape)
    return lax.select(keep, t["x"] / (1 - p.rate), jnp.zeros_like(t["x"]))


def _softmax(p: Primitive, t: Tensors) -> Any:
    return jax.nn.softmax(t["x"])


def _layer_norm(p: LayerNorm, t: Tensors) -> Any:
    mean, variance = _moments(t["x"], (t["x"].ndim - 1,), keepdims=True)
    return (t["x"] - mean) * (lax.rsqrt(variance + p.epsilon) * t["gamma"]) + t["beta"]


def _transpose(p: Primitive, t: Tensors) -> Any:
    return t["x"].transpose(1, 0, 2)


def _scale(p: Scale, t: Tensors) -> Any:
    return t["x"] * p.factor


def _softmax_loss(p: Primitive, t: Tensors) -> Any:
    """The mean of optax's softmax_cross_entropy_with_integer_labels."""
    own = jnp.take_along_axis(t["x"], t["labels"][:, None], axis=1)[:, 0]
    return (jax.nn.logsumexp(t["x"], axis=1) - own).mean()


def _embedding(p: Primitive, t: Tensors) -> Any:
    return jnp.take(t["table"], t["ids"], axis=0)


def _add(p: Primitive, t: Tensors) -> Any:
    return t["x"] + t["other"].reshape(t["x"].shape)  # steps times samples


def _pad_channels(p: PadChannels, t: Tensors) -> Any:
    return jnp.pad(t["x"], [(0, 0)] * (t["x"].ndim - 1) + [(0, p.added)])


def _copy(p: Primitive, t: Tensors) -> Any:
    return jnp.copy(t["x"])


OPERATORS: dict[str, Operator] = {
    "conv2d": _conv2d,
    "gemm": _gemm,
    "batched_gemm": _batched_gemm,
    "lstm_cell": _lstm_cell,
    "bias": _bias,
    "activation": _activation,
    "pool2d": _pool2d,
    "lrn": _lrn,
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "transpose": _transpose,
    "scale": _scale,
    "softmax_loss": _softmax_loss,
    "embedding": _embedding,
    "add": _add,
    "pad_channels": _pad_channels,
    "copy": _copy,
}
