"""The memory-bound primitives of transformers: what stands between their matrix products.

(Vaswani et al., "Attention Is All You Need", arXiv:1706.03762.)  Their flop are counted as those
of the other memory-bound primitives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .primitive import (
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    Operand,
    OperandTable,
    Primitive,
)


@dataclass(frozen=True)
class Softmax(Primitive):
    """y[row] = exp(x[row]) / (sum of exp(x[row])), along the last axis of x[rows, columns].

    The gradient is taken from y: dx[row] = y[row] (dy[row] - <y[row], dy[row]>).
    """

    kind: ClassVar[str] = "softmax"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("y", "dy")}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",), BACKWARD_DATA: ("dx",)}

    rows: int
    columns: int
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        matrix = Operand((self.rows, self.columns), self.dtype, axes=("rows",))
        return {"x": matrix, "y": matrix}

    @property
    def sizes(self) -> str:
        return f"{self.rows}x{self.columns}"

    def flop(self, pass_: str) -> int:
        per_element = 5 if pass_ == FORWARD else 4
        return per_element * self.rows * self.columns


@dataclass(frozen=True)
class LayerNorm(Primitive):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta, per row of x[rows, features].

    Mean and (biased) variance are those of the row, in inference too (Ba et al. 2016, "Layer
    Normalization", arXiv:1607.06450); gamma and beta have an element for each feature.  ``mean``
    and ``deviation`` = sqrt(variance + epsilon) are saved.
    """

    kind: ClassVar[str] = "layer_norm"
    reads: ClassVar[OperandTable] = {
        FORWARD: ("x", "gamma", "beta"),
        BACKWARD_DATA: ("x", "gamma", "mean", "deviation", "dy"),
        BACKWARD_WEIGHTS: ("x", "mean", "deviation", "dy"),
    }
    writes: ClassVar[OperandTable] = {
        FORWARD: ("y", "mean", "deviation"),
        BACKWARD_DATA: ("dx",),
        BACKWARD_WEIGHTS: ("dgamma", "dbeta"),
    }

    rows: int
    features: int
    epsilon: float = 1e-5
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        matrix = Operand((self.rows, self.features), self.dtype, axes=("rows",))
        trained = Operand((self.features,), self.dtype)
        saved = Operand((self.rows,), self.dtype, saved=True, axes=("rows",))
        return {
            "x": matrix,
            "gamma": trained,
            "beta": trained,
            "y": matrix,
            "mean": saved,
            "deviation": saved,
        }

    @property
    def sizes(self) -> str:
        return f"{self.rows}x{self.features}"

    def flop(self, pass_: str) -> int:
        per_element = {FORWARD: 7, BACKWARD_DATA: 10, BACKWARD_WEIGHTS: 5}[pass_]
        return per_element * self.rows * self.features


@dataclass(frozen=True)
class Transpose(Primitive):
    """y[columns, rows, size] = x[rows, columns, size] with its first two axes exchanged.

    It moves every element: heads that are split become matrices one after the other.
    """

    kind: ClassVar[str] = "transpose"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("dy",)}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",), BACKWARD_DATA: ("dx",)}

    rows: int
    columns: int
    size: int = 1
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        return {
            "x": Operand(
                (self.rows, self.columns, self.size),
                self.dtype,
                axes=("rows", "columns", "size"),
            ),
            "y": Operand(
                (self.columns, self.rows, self.size),
                self.dtype,
                axes=("columns", "rows", "size"),
            ),
        }

    @property
    def sizes(self) -> str:
        return f"{self.rows}x{self.columns}x{self.size}"

    def flop(self, pass_: str) -> int:
        return 0


@dataclass(frozen=True)
class Scale(Primitive):
    """y = factor x."""

    kind: ClassVar[str] = "scale"
    reads: ClassVar[OperandTable] = {FORWARD: ("x",), BACKWARD_DATA: ("dy",)}
    writes: ClassVar[OperandTable] = {FORWARD: ("y",), BACKWARD_DATA: ("dx",)}

    elements: int
    factor: float = 0.125
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        flat = Operand((self.elements,), self.dtype, axes=("elements",))
        return {"x": flat, "y": flat}

    @property
    def sizes(self) -> str:
        return f"{self.elements} factor={self.factor:g}"

    def flop(self, pass_: str) -> int:
        return self.elements
