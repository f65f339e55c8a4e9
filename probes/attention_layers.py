"""The kinds of layers that transformers add; an attention layer is several of them.

Queries, keys and values are sequences.  Split into heads, they are multiplied; the softmax of the
scaled products weighs the values, whose heads are merged again (arXiv:1706.03762, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .attention import LayerNorm, Scale, Softmax, Transpose
from .compute_bound import BatchedGemm
from .layers import Heads, Layer, is_image, sequence
from .primitive import Primitive, Shape, product


@dataclass(frozen=True)
class SplitHeads(Layer):
    """A sequence's features as heads of ``size`` features each."""

    kind: ClassVar[str] = "split_heads"

    size: int

    def output_shape(self, *inputs: Shape) -> Shape:
        steps, features = sequence(inputs[0])
        if self.size < 1 or features % self.size:
            raise ValueError(f"{features} features cannot be split into heads of {self.size}")
        return Heads(features // self.size, steps, self.size)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        steps, features = sequence(inputs[0])
        return (Transpose(steps, batch * features // self.size, self.size),)


@dataclass(frozen=True)
class MergeHeads(Layer):
    """The sequence whose features are those of all heads."""

    kind: ClassVar[str] = "merge_heads"

    def output_shape(self, *inputs: Shape) -> Shape:
        heads, steps, size = _heads(inputs[0])
        return (steps, heads * size)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        heads, steps, size = _heads(inputs[0])
        return (Transpose(batch * heads, steps, size),)


@dataclass(frozen=True)
class Multiply(Layer):
    """The products of two inputs' matrices, head by head; those of the second ``transposed``."""

    kind: ClassVar[str] = "matmul"

    transposed: bool = False

    def output_shape(self, *inputs: Shape) -> Shape:
        heads, rows, columns, _ = self._sizes(inputs)
        return Heads(heads, rows, columns)

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        heads, rows, columns, summed = self._sizes(tuple(inputs))
        return (BatchedGemm(batch * heads, rows, columns, summed, trans_b=self.transposed),)

    def _sizes(self, inputs: tuple[Shape, ...]) -> tuple[int, int, int, int]:
        """Heads, rows, columns, and the length of the sums.

        Raises:
            ValueError: the matrices do not fit.
        """
        if len(inputs) != 2:
            raise ValueError(f"matmul needs two inputs, got {len(inputs)}")
        (heads, rows, summed), (others, height, columns) = (_heads(shape) for shape in inputs)
        if self.transposed:
            height, columns = columns, height
        if (others, height) != (heads, summed):
            transposed = ", transposed," if self.transposed else ""
            raise ValueError(
                f"matmul: the matrices of {tuple(inputs[1])}{transposed} do not fit those of "
                f"{tuple(inputs[0])}"
            )
        return heads, rows, columns, summed


@dataclass(frozen=True)
class Rescale(Layer):
    """The product with a constant, element by element."""

    kind: ClassVar[str] = "scale"

    factor: float

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        return (Scale(batch * product(inputs[0]), self.factor),)


@dataclass(frozen=True)
class Probabilities(Layer):
    """The softmax along the last axis: of the features, or of every row of the heads' matrices."""

    kind: ClassVar[str] = "softmax"

    def output_shape(self, *inputs: Shape) -> Shape:
        _require_rows(self.kind, inputs[0])
        return inputs[0]

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        *rest, columns = inputs[0]
        return (Softmax(batch * product(tuple(rest)), columns),)


@dataclass(frozen=True)
class NormaliseFeatures(Layer):
    """Layer normalisation: the features of each step by their own mean and deviation."""

    kind: ClassVar[str] = "layer_norm"

    epsilon: float = 1e-5

    def output_shape(self, *inputs: Shape) -> Shape:
        _require_rows(self.kind, inputs[0])
        return inputs[0]

    def primitives(self, inputs: list[Shape], batch: int, training: bool) -> tuple[Primitive, ...]:
        *rest, features = inputs[0]
        return (LayerNorm(batch * product(tuple(rest)), features, self.epsilon),)


def _heads(shape: Shape) -> tuple[int, int, int]:
    """The shape as heads, rows and columns.

    Raises:
        ValueError: it is none of heads.
    """
    if not isinstance(shape, Heads):
        raise ValueError(f"heads are needed, as split_heads makes them, got shape {shape}")
    return shape[0], shape[1], shape[2]


def _require_rows(kind: str, shape: Shape) -> None:
    """Refuse images: what is their last axis depends on the engine.

    Raises:
        ValueError: it is an image.
    """
    if is_image(shape):
        raise ValueError(f"{kind} needs a vector, a sequence or heads, got an image {shape}")
