"""The compute-bound primitives: matrix products, convolution and LSTM cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .primitive import (
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FLOATS,
    FORWARD,
    SHORTER_FLOATS,
    Operand,
    OperandTable,
    Primitive,
    product,
    short,
)


@dataclass(frozen=True)
class Gemm(Primitive):
    """C[m, n] = op(A)[m, k] op(B)[k, n]; B holds the weights.

    A is stored (k, m) with ``trans_a`` and B (n, k) with ``trans_b``.  Of all three arrays the
    dtype is the same; sums are held in float32 at least.
    """

    kind: ClassVar[str] = "gemm"
    compute_bound: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = (*FLOATS, *SHORTER_FLOATS)
    input: ClassVar[str] = "a"
    output: ClassVar[str] = "c"
    reads: ClassVar[OperandTable] = {
        FORWARD: ("a", "b"),
        BACKWARD_DATA: ("b", "dc"),
        BACKWARD_WEIGHTS: ("a", "dc"),
    }
    writes: ClassVar[OperandTable] = {
        FORWARD: ("c",),
        BACKWARD_DATA: ("da",),
        BACKWARD_WEIGHTS: ("db",),
    }

    m: int
    n: int
    k: int
    trans_a: bool = False
    trans_b: bool = False
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        a = ("k", "m") if self.trans_a else ("m", "k")
        b = ("n", "k") if self.trans_b else ("k", "n")
        return {
            "a": Operand(self._shape(a), self.dtype, axes=a),
            "b": Operand(self._shape(b), self.dtype, scale=self.k**-0.5, axes=b),
            "c": Operand((self.m, self.n), self.dtype, axes=("m", "n")),
        }

    def _shape(self, axes: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(getattr(self, axis) for axis in axes)

    @property
    def sizes(self) -> str:
        stored = short({"trans_a": self.trans_a, "trans_b": self.trans_b})
        dtype = short({self.dtype: self.dtype in SHORTER_FLOATS})
        return f"m={self.m} n={self.n} k={self.k}{stored}{dtype}"

    def flop(self, pass_: str) -> int:
        return 2 * self.m * self.n * self.k


@dataclass(frozen=True)
class BatchedGemm(Primitive):
    """C[batch, m, n] = op(A)[batch, m, k] op(B)[batch, k, n], product by product.

    Both factors are computed: nothing is trained, and the data pass yields the gradients of both,
    by two products.  With ``trans_a`` the matrices of A are stored (k, m), with ``trans_b`` those
    of B (n, k).
    """

    kind: ClassVar[str] = "batched_gemm"
    compute_bound: ClassVar[bool] = True
    input: ClassVar[str] = "a"
    second_input: ClassVar[str] = "b"
    output: ClassVar[str] = "c"
    reads: ClassVar[OperandTable] = {FORWARD: ("a", "b"), BACKWARD_DATA: ("a", "b", "dc")}
    writes: ClassVar[OperandTable] = {FORWARD: ("c",), BACKWARD_DATA: ("da", "db")}

    batch: int
    m: int
    n: int
    k: int
    trans_a: bool = False
    trans_b: bool = False
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        a = ("batch", "k", "m") if self.trans_a else ("batch", "m", "k")
        b = ("batch", "n", "k") if self.trans_b else ("batch", "k", "n")
        c = ("batch", "m", "n")
        return {
            "a": Operand(self._shape(a), self.dtype, axes=a),
            "b": Operand(self._shape(b), self.dtype, scale=self.k**-0.5, axes=b),
            "c": Operand(self._shape(c), self.dtype, axes=c),
        }

    def _shape(self, axes: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(getattr(self, axis) for axis in axes)

    @property
    def sizes(self) -> str:
        options = short({"trans_a": self.trans_a, "trans_b": self.trans_b})
        return f"batch={self.batch} m={self.m} n={self.n} k={self.k}{options}"

    def flop(self, pass_: str) -> int:
        products = 1 if pass_ == FORWARD else 2
        return products * 2 * self.batch * self.m * self.n * self.k


@dataclass(frozen=True)
class Conv2d(Primitive):
    """Cross-correlation of images x[batch, in_channels, height, width] with filters.

    Filters are w[out_channels, in_channels / groups, kernel].  Pairs are (vertical,
    horizontal); padding is (top, bottom, left, right).
    """

    kind: ClassVar[str] = "conv2d"
    compute_bound: ClassVar[bool] = True
    reads: ClassVar[OperandTable] = {
        FORWARD: ("x", "w"),
        BACKWARD_DATA: ("w", "dy"),
        BACKWARD_WEIGHTS: ("x", "dy"),
    }
    writes: ClassVar[OperandTable] = {
        FORWARD: ("y",),
        BACKWARD_DATA: ("dx",),
        BACKWARD_WEIGHTS: ("dw",),
    }

    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"conv2d: groups={self.groups} must divide in_channels={self.in_channels} "
                f"and out_channels={self.out_channels}"
            )
        window_extent(
            self.kind,
            (self.height, self.width),
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
        )

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the output."""
        return window_extent(
            self.kind,
            (self.height, self.width),
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
        )

    def operands(self) -> dict[str, Operand]:
        group_channels = self.in_channels // self.groups
        window = group_channels * product(self.kernel)
        inner, outer = ("in_channels", "out_channels") if self.groups == 1 else ("", "")
        return {
            "x": Operand(
                (self.batch, self.in_channels, self.height, self.width),
                self.dtype,
                axes=("batch", inner),
            ),
            "w": Operand(
                (self.out_channels, group_channels, *self.kernel),
                self.dtype,
                scale=window**-0.5,
                axes=(outer, inner),
            ),
            "y": Operand(
                (self.batch, self.out_channels, *self.extent), self.dtype, axes=("batch", outer)
            ),
        }

    @property
    def sizes(self) -> str:
        options = short(
            {
                "stride": self.stride if self.stride != (1, 1) else 0,
                "pad": self.padding if any(self.padding) else 0,
                "dilation": self.dilation if self.dilation != (1, 1) else 0,
                "groups": self.groups if self.groups > 1 else 0,
            }
        )
        image = f"{self.batch}x{self.in_channels}x{self.height}x{self.width}"
        kernel = "x".join(map(str, self.kernel))
        return f"{image} to {self.out_channels}, {kernel}{options}"

    def flop(self, pass_: str) -> int:
        window = self.in_channels // self.groups * product(self.kernel)
        return 2 * self.batch * self.out_channels * product(self.extent) * window

    def least_flop(self, pass_: str) -> int:
        channels = self.in_channels // self.groups * self.out_channels
        return 2 * self.batch * channels * self._pixels_met(0) * self._pixels_met(1)

    def _pixels_met(self, axis: int) -> int:
        """How often, along one axis, a tap of the filter meets a pixel and not the padding."""
        size = (self.height, self.width)[axis]
        return sum(
            0
            <= place * self.stride[axis] + tap * self.dilation[axis] - self.padding[2 * axis]
            < size
            for place in range(self.extent[axis])
            for tap in range(self.kernel[axis])
        )


@dataclass(frozen=True)
class LstmCell(Primitive):
    """``steps`` consecutive LSTM cells that share their weights; time comes first.

    With gates i, f, g, o in that order along the rows of the weights:
    z = wx x + wh h + bias;  c = sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)
    (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, no peepholes).
    ``gates`` are the activated gates of every step and ``dgates`` the gradients of z, which the
    data pass leaves for the weights pass.
    """

    kind: ClassVar[str] = "lstm_cell"
    compute_bound: ClassVar[bool] = True
    reads: ClassVar[OperandTable] = {
        FORWARD: ("x", "wx", "wh", "bias", "h0", "c0"),
        BACKWARD_DATA: ("wx", "wh", "c0", "gates", "cells", "dy"),
        BACKWARD_WEIGHTS: ("x", "h0", "y", "dgates"),
    }
    writes: ClassVar[OperandTable] = {
        FORWARD: ("y", "gates", "cells"),
        BACKWARD_DATA: ("dx", "dgates"),
        BACKWARD_WEIGHTS: ("dwx", "dwh", "dbias"),
    }

    batch: int
    input_size: int
    hidden_size: int
    steps: int = 1
    dtype: str = "float32"

    def operands(self) -> dict[str, Operand]:
        hidden = (self.batch, self.hidden_size)
        scale = (self.input_size + self.hidden_size) ** -0.5
        gates = 4 * self.hidden_size
        steps = ("", "batch")
        return {
            "x": Operand((self.steps, self.batch, self.input_size), self.dtype, axes=steps),
            "wx": Operand((gates, self.input_size), self.dtype, scale=scale),
            "wh": Operand((gates, self.hidden_size), self.dtype, scale=scale),
            "bias": Operand((gates,), self.dtype, scale=0.1),
            "h0": Operand(hidden, self.dtype, scale=0.5, axes=("batch",)),
            "c0": Operand(hidden, self.dtype, scale=0.5, axes=("batch",)),
            "y": Operand((self.steps, *hidden), self.dtype, axes=steps),
            "gates": Operand((self.steps, self.batch, gates), self.dtype, saved=True, axes=steps),
            "cells": Operand((self.steps, *hidden), self.dtype, saved=True, axes=steps),
        }

    @property
    def sizes(self) -> str:
        return (
            f"batch={self.batch} input={self.input_size} hidden={self.hidden_size} "
            f"steps={self.steps}"
        )

    def flop(self, pass_: str) -> int:
        gates = 4 * self.hidden_size
        return 2 * self.steps * self.batch * gates * (self.input_size + self.hidden_size)


def window_extent(
    kind: str,
    image: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
    ceil: bool = False,
) -> tuple[int, int]:
    """Height and width of what a sliding window yields.

    With ``ceil`` a last, partial window counts if it starts inside the image or its leading
    padding, the rule of Caffe and PyTorch.

    Raises:
        ValueError: a stride, kernel or dilation below 1, padding below 0, or no window fits.
    """
    extents = []
    for axis in (0, 1):
        before, after = padding[2 * axis], padding[2 * axis + 1]
        if min(kernel[axis], stride[axis], dilation[axis]) < 1 or min(before, after) < 0:
            raise ValueError(
                f"{kind}: kernel, stride and dilation must be at least 1 and padding at least 0, "
                f"got kernel={kernel}, stride={stride}, dilation={dilation}, padding={padding}"
            )
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        room = image[axis] + before + after - reach
        if room < 0:
            raise ValueError(
                f"{kind}: a window of {reach} does not fit in {image[axis]} pixels "
                f"with padding {before} and {after}"
            )
        count = room // stride[axis] + 1
        if ceil and room % stride[axis] and count * stride[axis] < image[axis] + before:
            count += 1
        extents.append(count)
    return extents[0], extents[1]
