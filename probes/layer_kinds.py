"""Every layer by its kind, and the way back from JSON."""

from __future__ import annotations

from typing import Any

from .attention_layers import (
    MergeHeads,
    Multiply,
    NormaliseFeatures,
    Probabilities,
    Rescale,
    SplitHeads,
)
from .layers import (
    Activate,
    Convolution,
    Drop,
    EmbeddingLookup,
    FullyConnected,
    Input,
    Layer,
    Lstm,
    NormaliseBatch,
    NormaliseLocally,
    Pool,
    PrimitiveLayer,
    SoftmaxCrossEntropy,
    Sum,
    ZeroChannels,
)
from .primitives import primitive_from_json

LAYERS: dict[str, Any] = {
    "input": Input,
    "convolution": Convolution,
    "fully_connected": FullyConnected,
    "lstm": Lstm,
    "embedding": EmbeddingLookup,
    "activation": Activate,
    "pooling": Pool,
    "lrn": NormaliseLocally,
    "batch_norm": NormaliseBatch,
    "layer_norm": NormaliseFeatures,
    "dropout": Drop,
    "add": Sum,
    "pad_channels": ZeroChannels,
    "split_heads": SplitHeads,
    "merge_heads": MergeHeads,
    "matmul": Multiply,
    "scale": Rescale,
    "softmax": Probabilities,
    "loss": SoftmaxCrossEntropy,
    "primitive": PrimitiveLayer,
}


def layer_from_json(data: dict[str, Any]) -> Layer:
    """The layer that ``Layer.to_json`` wrote.

    Raises:
        ValueError: an unknown kind, or options that the kind does not have.
    """
    options = {name: _from_json(value) for name, value in data.items()}
    kind = options.pop("kind", None)
    if kind not in LAYERS:
        raise ValueError(f"unknown kind of layer {kind!r}; known: {', '.join(LAYERS)}")
    try:
        layer: Layer = LAYERS[kind](**options)
        return layer
    except TypeError as error:
        raise ValueError(f"layer of kind {kind}: {error}") from error


def _from_json(value: Any) -> Any:
    """An option of a layer: what JSON has as a list is a tuple, an object is a primitive."""
    if isinstance(value, dict):
        return primitive_from_json(value)
    return tuple(value) if isinstance(value, list) else value
