"""Every primitive by its kind, and the way back from JSON."""

from __future__ import annotations

from typing import Any

from .attention import LayerNorm, Scale, Softmax, Transpose
from .compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
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
from .primitive import Primitive

PRIMITIVES: dict[str, type[Primitive]] = {
    "gemm": Gemm,
    "conv2d": Conv2d,
    "lstm_cell": LstmCell,
    "batched_gemm": BatchedGemm,
    "bias": Bias,
    "activation": Activation,
    "pool2d": Pool2d,
    "lrn": LocalResponseNorm,
    "batch_norm": BatchNorm,
    "dropout": Dropout,
    "softmax": Softmax,
    "layer_norm": LayerNorm,
    "transpose": Transpose,
    "scale": Scale,
    "softmax_loss": SoftmaxLoss,
    "embedding": Embedding,
    "add": Add,
    "pad_channels": PadChannels,
    "sgd_update": SgdUpdate,
    "copy": Copy,
}


def primitive_from_json(data: dict[str, Any]) -> Primitive:
    """The primitive that ``Primitive.to_json`` wrote.

    Raises:
        ValueError: an unknown kind, or sizes that the kind refuses.
    """
    sizes = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
    kind = sizes.pop("kind", None)
    if kind not in PRIMITIVES:
        raise ValueError(f"unknown primitive {kind!r}; known: {', '.join(PRIMITIVES)}")
    try:
        return PRIMITIVES[kind](**sizes)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from error
