"""The kinds of layers: the shape each yields, and the primitives each comes apart into.

Shapes are those of one sample: an image (channels, height, width), a vector (features,), a
sequence (steps, features), a sequence of token ids (steps,) or ``Heads``.  In memory the batch
comes first, but after the steps of a sequence.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

from .compute_bound import Conv2d, Gemm, LstmCell, window_extent
from .memory_bound import (
    Activation,
    Add,
    BatchNorm,
    Bias,
    Dropout,
    Embedding,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
    SoftmaxLoss,
)
from .primitive import Primitive, Shape, product


@dataclass(frozen=True)
class Layer:
    """One operation of a network, by name, on the outputs of the layers it names as inputs.

    A layer that stands ``alone`` runs every pass of its primitives, and no update follows.
    """

    kind: ClassVar[str] = ""
    training_only: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    name: str
    inputs: tuple[str, ...]

    def output_shape(self, *inputs: Shape) -> Shape:
        """The shape of one sample's output.

        Raises:
            ValueError: the inputs do not fit this kind of layer.
        """
        return inputs[0]

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        """What the layer computes, in forward order; each works on the one before's output."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``layer_from_json`` turns back."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Input(Layer):
    """The data: images, vectors, or token ids below ``vocabulary``."""

    kind: ClassVar[str] = "input"

    shape: Shape
    vocabulary: int = 0

    def output_shape(self, *inputs: Shape) -> Shape:
        if not self.shape or any(type(size) is not int or size < 1 for size in self.shape):
            raise ValueError(
                f"the sizes of a sample must be whole numbers from 1, got {self.shape}"
            )
        if type(self.vocabulary) is not int or self.vocabulary < 0:
            raise ValueError(f"vocabulary must be a whole number from 0, got {self.vocabulary!r}")
        return self.shape

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return ()


@dataclass(frozen=True)
class Convolution(Layer):
    """A 2-D convolution with bias."""

    kind: ClassVar[str] = "convolution"

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True

    def output_shape(self, *inputs: Shape) -> Shape:
        _, height, width = image(inputs[0])
        extent = window_extent(
            self.kind, (height, width), self.kernel, self.stride, self.padding, self.dilation
        )
        return (self.channels, *extent)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        convolution = Conv2d(
            batch,
            *image(inputs[0]),
            out_channels=self.channels,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        if not self.bias:
            return (convolution,)
        return (convolution, Bias(batch, self.channels, product(convolution.extent)))


@dataclass(frozen=True)
class FullyConnected(Layer):
    """A matrix product with bias; images are flattened, the steps of a sequence share weights."""

    kind: ClassVar[str] = "fully_connected"

    features: int
    bias: bool = True

    def output_shape(self, *inputs: Shape) -> Shape:
        steps = inputs[0][:1] if len(inputs[0]) == 2 else ()
        return (*steps, self.features)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        shape = inputs[0]
        rows = batch * shape[0] if len(shape) == 2 else batch
        features = shape[1] if len(shape) == 2 else product(shape)
        matrix = Gemm(rows, self.features, features, trans_b=True)
        return (matrix, Bias(rows, self.features)) if self.bias else (matrix,)


@dataclass(frozen=True)
class Lstm(Layer):
    """LSTM cells along a sequence, from a zero state; yields the hidden state of every step."""

    kind: ClassVar[str] = "lstm"

    hidden: int

    def output_shape(self, *inputs: Shape) -> Shape:
        return (sequence(inputs[0])[0], self.hidden)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        steps, features = sequence(inputs[0])
        return (LstmCell(batch, features, self.hidden, steps),)


@dataclass(frozen=True)
class EmbeddingLookup(Layer):
    """A trained vector for each token id."""

    kind: ClassVar[str] = "embedding"

    vocabulary: int
    features: int

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 1:
            raise ValueError(f"embedding needs token ids (steps,), got shape {inputs[0]}")
        return (*inputs[0], self.features)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return (Embedding(batch * inputs[0][0], self.vocabulary, self.features),)


@dataclass(frozen=True)
class Activate(Layer):
    """An activation function, element by element."""

    kind: ClassVar[str] = "activation"

    function: str

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return (Activation(self.function, batch * product(inputs[0])),)


@dataclass(frozen=True)
class Pool(Layer):
    """Maximum or average pooling."""

    kind: ClassVar[str] = "pooling"

    function: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    ceil: bool = False

    def output_shape(self, *inputs: Shape) -> Shape:
        channels, height, width = image(inputs[0])
        extent = window_extent(
            self.kind, (height, width), self.kernel, self.stride, self.padding, ceil=self.ceil
        )
        return (channels, *extent)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return (
            Pool2d(
                self.function,
                batch,
                *image(inputs[0]),
                kernel=self.kernel,
                stride=self.stride,
                padding=self.padding,
                ceil=self.ceil,
            ),
        )


@dataclass(frozen=True)
class NormaliseLocally(Layer):
    """Local response normalisation across channels."""

    kind: ClassVar[str] = "lrn"

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        channels, height, width = image(inputs[0])
        return (
            LocalResponseNorm(
                batch, channels, height * width, self.size, self.alpha, self.beta, self.k
            ),
        )


@dataclass(frozen=True)
class NormaliseBatch(Layer):
    """Batch normalisation: by the batch's statistics in training, by running ones otherwise."""

    kind: ClassVar[str] = "batch_norm"

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        channels, *rest = inputs[0]
        return (BatchNorm(batch, channels, product(tuple(rest)), training),)


@dataclass(frozen=True)
class Drop(Layer):
    """Dropout; inference passes its input on."""

    kind: ClassVar[str] = "dropout"
    training_only: ClassVar[bool] = True

    rate: float = 0.5

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return (Dropout(batch * product(inputs[0]), self.rate),)


@dataclass(frozen=True)
class Sum(Layer):
    """The sum of two branches."""

    kind: ClassVar[str] = "add"

    def output_shape(self, *inputs: Shape) -> Shape:
        if len(inputs) != 2 or inputs[0] != inputs[1]:
            raise ValueError(f"add needs two inputs of one shape, got {inputs}")
        return inputs[0]

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return (Add(batch * product(inputs[0])),)


@dataclass(frozen=True)
class ZeroChannels(Layer):
    """Channels of zeros after those of an image, up to so many in all."""

    kind: ClassVar[str] = "pad_channels"

    channels: int

    def output_shape(self, *inputs: Shape) -> Shape:
        channels, height, width = image(inputs[0])
        if self.channels <= channels:
            raise ValueError(
                f"pad_channels to {self.channels} channels needs an image of fewer, "
                f"got shape {inputs[0]}"
            )
        return (self.channels, height, width)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        channels, height, width = image(inputs[0])
        return (PadChannels(batch, channels, height * width, self.channels - channels),)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Layer):
    """The mean cross-entropy of the softmax against labels; training only."""

    kind: ClassVar[str] = "loss"
    training_only: ClassVar[bool] = True

    def output_shape(self, *inputs: Shape) -> Shape:
        return ()

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        *steps, classes = inputs[0]
        return (SoftmaxLoss(batch * product(tuple(steps)), classes),)


@dataclass(frozen=True)
class PrimitiveLayer(Layer):
    """A primitive as it is, to be timed by itself; its sizes hold the batch already."""

    kind: ClassVar[str] = "primitive"
    alone: ClassVar[bool] = True

    primitive: Primitive

    def output_shape(self, *inputs: Shape) -> Shape:
        return self.primitive.operand(self.primitive.output).shape

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return (self.primitive,)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "primitive": self.primitive.to_json()}


class Heads(NamedTuple):
    """A shape of matrices, one for each head: what a sequence is split into."""

    heads: int
    rows: int
    columns: int


def is_image(shape: Shape) -> bool:
    """Whether it has channels, height and width."""
    return len(shape) == 3 and not isinstance(shape, Heads)


def image(shape: Shape) -> tuple[int, int, int]:
    """The shape as channels, height and width.

    Raises:
        ValueError: it is no image.
    """
    if not is_image(shape):
        raise ValueError(f"an image (channels, height, width) is needed, got shape {shape}")
    return shape[0], shape[1], shape[2]


def sequence(shape: Shape) -> tuple[int, int]:
    """The shape as steps and features.

    Raises:
        ValueError: it is no sequence.
    """
    if len(shape) != 2:
        raise ValueError(f"a sequence (steps, features) is needed, got shape {shape}")
    return shape[0], shape[1]
