"""A network: a graph of layers without cycles, with its shapes, parameters and flop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union

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
    layer_from_json,
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
                fit.
        """
        seen: set[str] = set()
        for layer in self.layers:
            if layer.name in seen:
                raise NetworkError(f"{self.name}: two layers are called {layer.name!r}")
            for source in layer.inputs:
                if source not in seen:
                    raise NetworkError(
                        f"{self.name}: layer {layer.name!r} reads {source!r}, "
                        "which no earlier layer yields (a cycle, or a misspelt name)"
                    )
            seen.add(layer.name)
        self.shapes  # noqa: B018  computing the shapes is the check

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The output shape of each layer, for one sample."""
        shapes: dict[str, Shape] = {}
        for layer in self.layers:
            try:
                shapes[layer.name] = layer.output_shape(*(shapes[name] for name in layer.inputs))
                layer.primitives([shapes[name] for name in layer.inputs], 1, True)
            except ValueError as error:
                raise NetworkError(f"{self.name}: layer {layer.name!r}: {error}") from error
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
        before = [self.layer(name) for name in layer.inputs]
        return any(self.parameters(each) or self.needs_data_gradient(each) for each in before)

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


Pair = Union[int, tuple[int, int]]
Padding = Union[int, tuple[int, int, int, int]]


class Builder:
    """Collects layers; every method adds one and returns its name for the next to read."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def _add(self, layer: Layer) -> str:
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
                groups=groups,
                bias=bias,
            )
        )

    def fully_connected(self, name: str, source: str, features: int) -> str:
        """A matrix product with bias."""
        return self._add(FullyConnected(name, (source,), features))

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

    def lrn(self, name: str, source: str, size: int = 5) -> str:
        """Local response normalisation."""
        return self._add(NormaliseLocally(name, (source,), size))

    def batch_norm(self, name: str, source: str) -> str:
        """Batch normalisation."""
        return self._add(NormaliseBatch(name, (source,)))

    def dropout(self, name: str, source: str, rate: float = 0.5) -> str:
        """Dropout."""
        return self._add(Drop(name, (source,), rate))

    def add(self, name: str, first: str, second: str) -> str:
        """The sum of two branches."""
        return self._add(Sum(name, (first, second)))

    def softmax_loss(self, source: str) -> str:
        """The loss of a classifier."""
        return self._add(SoftmaxCrossEntropy("loss", (source,)))


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _four(value: Padding) -> tuple[int, int, int, int]:
    return (value, value, value, value) if isinstance(value, int) else value
