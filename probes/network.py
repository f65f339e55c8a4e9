"""A network: a graph of layers without cycles, with its shapes, parameters and flop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

from .attention_layers import (
    MergeHeads,
    Multiply,
    NormaliseFeatures,
    Probabilities,
    Rescale,
    SplitHeads,
)
from .layer_kinds import layer_from_json
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
    SoftmaxCrossEntropy,
    Sum,
    ZeroChannels,
)
from .primitive import (
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    Operand,
    Primitive,
    Shape,
    product,
)

INFER = "infer"
TRAIN = "train"
MODES = (INFER, TRAIN)


class NetworkError(ValueError):
    """A network whose layers do not fit together; the message names the layer."""


@dataclass(frozen=True)
class Network:
    """Layers in an order in which each follows its inputs.

    ``batch`` is the CPU batch of the network's source, ``quick_batch`` the smaller one of a quick
    run.  ``momentum`` and ``learning_rate`` belong to the SGD update of a training step.
    """

    name: str
    source: str
    layers: tuple[Layer, ...]
    batch: int
    quick_batch: int
    momentum: float = 0.0
    learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        """Check names, order and shapes.

        Raises:
            NetworkError: a name twice, an input that no earlier layer yields, shapes that do not
                fit, a batch without samples.
        """
        for name, batch in (("batch", self.batch), ("quick_batch", self.quick_batch)):
            if type(batch) is not int or batch < 1:
                raise NetworkError(
                    f"{self.name}: {name} must be a whole number from 1, got {batch!r}"
                )
        self.shapes  # noqa: B018  computing the shapes is the check

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The output shape of each layer, for one sample."""
        shapes: dict[str, Shape] = {}
        for layer in self.layers:
            try:
                shapes[layer.name] = next_shape(layer, shapes)
            except NetworkError as error:
                raise NetworkError(f"{self.name}: {error}") from error
        return shapes

    @property
    def input(self) -> Input:
        """The layer that feeds the data."""
        return next(layer for layer in self.layers if isinstance(layer, Input))

    def layer(self, name: str) -> Layer:
        """The layer of that name."""
        return next(layer for layer in self.layers if layer.name == name)

    def consumers(self, name: str) -> list[Layer]:
        """The layers that read the output of layer ``name``."""
        return [layer for layer in self.layers if name in layer.inputs]

    def primitives(self, layer: Layer, batch: int, mode: str) -> tuple[Primitive, ...]:
        """The primitives of a layer at this batch; none where the mode skips the layer."""
        if layer.training_only and mode != TRAIN:
            return ()
        shapes = [self.shapes[name] for name in layer.inputs]
        return layer.primitives(shapes, batch, mode == TRAIN)

    def parameters(self, layer: Layer | None = None) -> int:
        """How many numbers are trained, in one layer or in all."""
        chosen = self.layers if layer is None else (layer,)
        return sum(product(operand.shape) for each in chosen for operand in self.trained(each))

    def trained(self, layer: Layer) -> list[Operand]:
        """The operands of a layer that training changes."""
        if layer.alone:
            return []
        return [
            primitive.operand(name)
            for primitive in self.primitives(layer, 1, TRAIN)
            for name in primitive.parameters
        ]

    def needs_data_gradient(self, layer: Layer) -> bool:
        """Whether anything before this layer is trained."""
        return any(self.needs_gradient(self.layer(name)) for name in layer.inputs)

    def needs_gradient(self, layer: Layer) -> bool:
        """Whether this layer or anything before it is trained: then its output's is computed."""
        return bool(self.parameters(layer)) or self.needs_data_gradient(layer)

    def flop(self, batch: int, mode: str) -> int:
        """Flop of one call as the literature counts them: matrix products, convolutions, cells.

        Training adds the data pass of every such primitive but the first layer's, and the weights
        pass of all.
        """
        total = 0
        for layer in self.layers:
            for primitive in self.primitives(layer, batch, mode):
                if primitive.compute_bound:
                    passes = self.passes(layer, primitive, mode)
                    total += sum(primitive.flop(pass_) for pass_ in passes)
        return total

    def passes(self, layer: Layer, primitive: Primitive, mode: str) -> tuple[str, ...]:
        """The passes that a call in this mode asks of one primitive of a layer.

        The data pass also runs where the weights pass reads what it leaves (an LSTM's gate
        gradients).  A layer that stands alone is asked for all passes; inference is its first.
        """
        if layer.alone:
            return primitive.passes if mode == TRAIN else primitive.passes[:1]
        if mode != TRAIN:
            return (FORWARD,)
        left = set(primitive.writes.get(BACKWARD_DATA, ()))
        needed = self.needs_data_gradient(layer) or left & set(
            primitive.reads.get(BACKWARD_WEIGHTS, ())
        )
        return tuple(p for p in primitive.passes if p != BACKWARD_DATA or needed)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` turns back."""
        return {
            "name": self.name,
            "source": self.source,
            "layers": [layer.to_json() for layer in self.layers],
            "batch": self.batch,
            "quick_batch": self.quick_batch,
            "momentum": self.momentum,
            "learning_rate": self.learning_rate,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Network:
        """The network that ``to_json`` wrote."""
        layers = tuple(layer_from_json(layer) for layer in data["layers"])
        return cls(**{**data, "layers": layers})


def next_shape(layer: Layer, shapes: dict[str, Shape]) -> Shape:
    """The output shape of a layer that comes after those whose shapes are given.

    Raises:
        NetworkError: its name is taken, it reads what none of them yields, or does not fit.
    """
    if layer.name in shapes:
        raise NetworkError(f"two layers are called {layer.name!r}")
    for source in layer.inputs:
        if source not in shapes:
            raise NetworkError(
                f"layer {layer.name!r} reads {source!r}, "
                "which no earlier layer yields (a cycle, or a misspelt name)"
            )
    try:
        shape = layer.output_shape(*[shapes[name] for name in layer.inputs])
        layer.primitives([shapes[name] for name in layer.inputs], 1, True)
    except ValueError as error:
        raise NetworkError(f"layer {layer.name!r}: {error}") from error
    return shape


Pair = Union[int, tuple[int, int]]
Padding = Union[int, tuple[int, int, int, int]]


class Builder:
    """Collects layers; every method adds one and returns its name for the next to read.

    A layer that does not fit is refused as it is added: the traceback points at it.  ``shapes``
    are the layers' output shapes, for one sample.
    """

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.shapes: dict[str, Shape] = {}

    def _add(self, layer: Layer) -> str:
        self.shapes[layer.name] = next_shape(layer, self.shapes)
        self.layers.append(layer)
        return layer.name

    def input(self, *shape: int, vocabulary: int = 0) -> str:
        """The data of one sample."""
        return self._add(Input("data", (), shape, vocabulary))

    def convolution(
        self,
        name: str,
        source: str,
        channels: int,
        kernel: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
    ) -> str:
        """A convolution with ``channels`` filters."""
        return self._add(
            Convolution(
                name,
                (source,),
                channels,
                _pair(kernel),
                _pair(stride),
                _four(padding),
                _pair(dilation),
                groups=groups,
                bias=bias,
            )
        )

    def fully_connected(self, name: str, source: str, features: int, bias: bool = True) -> str:
        """A matrix product with bias."""
        return self._add(FullyConnected(name, (source,), features, bias))

    def lstm(self, name: str, source: str, hidden: int) -> str:
        """A layer of LSTM cells along the sequence."""
        return self._add(Lstm(name, (source,), hidden))

    def embedding(self, name: str, source: str, vocabulary: int, features: int) -> str:
        """A vector per token id."""
        return self._add(EmbeddingLookup(name, (source,), vocabulary, features))

    def relu(self, name: str, source: str) -> str:
        """max(x, 0)."""
        return self._add(Activate(name, (source,), "relu"))

    def sigmoid(self, name: str, source: str) -> str:
        """1 / (1 + exp(-x))."""
        return self._add(Activate(name, (source,), "sigmoid"))

    def gelu(self, name: str, source: str) -> str:
        """The input times the share of a normal distribution below it."""
        return self._add(Activate(name, (source,), "gelu"))

    def pool(
        self,
        name: str,
        source: str,
        function: str,
        kernel: Pair,
        stride: Pair,
        padding: Padding = 0,
        ceil: bool = False,
    ) -> str:
        """Maximum or average pooling."""
        return self._add(
            Pool(name, (source,), function, _pair(kernel), _pair(stride), _four(padding), ceil)
        )

    def lrn(
        self,
        name: str,
        source: str,
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
    ) -> str:
        """Local response normalisation."""
        return self._add(NormaliseLocally(name, (source,), size, alpha, beta, k))

    def batch_norm(self, name: str, source: str) -> str:
        """Batch normalisation."""
        return self._add(NormaliseBatch(name, (source,)))

    def layer_norm(self, name: str, source: str) -> str:
        """Layer normalisation."""
        return self._add(NormaliseFeatures(name, (source,)))

    def dropout(self, name: str, source: str, rate: float = 0.5) -> str:
        """Dropout."""
        return self._add(Drop(name, (source,), rate))

    def add(self, name: str, first: str, second: str) -> str:
        """The sum of two branches."""
        return self._add(Sum(name, (first, second)))

    def pad_channels(self, name: str, source: str, channels: int) -> str:
        """Channels of zeros after the image's own, up to ``channels``."""
        return self._add(ZeroChannels(name, (source,), channels))

    def attention(self, name: str, query: str, key: str, value: str, head_size: int) -> str:
        """Scaled dot-product attention of sequences, in heads of so many features."""
        first = self.split_heads(f"{name}_query", query, head_size)
        second = self.split_heads(f"{name}_key", key, head_size)
        scores = self.matmul(f"{name}_scores", first, second, transposed=True)
        scores = self.scale(f"{name}_scaled", scores, head_size**-0.5)
        weights = self.softmax(f"{name}_weights", scores)
        mixed = self.matmul(
            f"{name}_mixed", weights, self.split_heads(f"{name}_value", value, head_size)
        )
        return self.merge_heads(name, mixed)

    def split_heads(self, name: str, source: str, head_size: int) -> str:
        """The features of a sequence as matrices of so many features each."""
        return self._add(SplitHeads(name, (source,), head_size))

    def merge_heads(self, name: str, source: str) -> str:
        """The matrices of all heads as the features of one sequence."""
        return self._add(MergeHeads(name, (source,)))

    def matmul(self, name: str, first: str, second: str, transposed: bool = False) -> str:
        """The products of two layers' matrices, head by head; the second one's ``transposed``."""
        return self._add(Multiply(name, (first, second), transposed))

    def scale(self, name: str, source: str, factor: float) -> str:
        """The product with a constant."""
        return self._add(Rescale(name, (source,), factor))

    def softmax(self, name: str, source: str) -> str:
        """The softmax along the last axis, as a layer within the network."""
        return self._add(Probabilities(name, (source,)))

    def softmax_loss(self, source: str) -> str:
        """The loss of a classifier."""
        return self._add(SoftmaxCrossEntropy("loss", (source,)))


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _four(value: Padding) -> tuple[int, int, int, int]:
    return (value, value, value, value) if isinstance(value, int) else value
