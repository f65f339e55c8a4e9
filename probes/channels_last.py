"""Operands with the channels last, as engines keep them whose images are NHWC.

Filters are HWIO and matrices of weights (in, out).  Arrays are turned once, when something is
built.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compute_bound import Conv2d, Gemm
from .layers import Heads, is_image
from .memory_bound import Pool2d
from .network import Network
from .primitive import Primitive, Shape

# What has the channels on an axis of their own.
CHANNELS_LAST = ("batch_norm", "bias", "conv2d", "lrn", "pad_channels", "pool2d")
MATRICES_OF_LSTM = ("wx", "wh", "dwx", "dwh")

Frame = tuple[int, int, int, int]  # top, bottom, left, right


def axes_of(primitive: Primitive, name: str) -> tuple[int, ...]:
    """The definition's axes of an operand, in their order here."""
    shape = primitive.operand(name).shape
    if isinstance(primitive, Gemm) and name in ("b", "db") and primitive.trans_b:
        return (1, 0)
    if primitive.kind == "lstm_cell" and name in MATRICES_OF_LSTM:
        return (1, 0)
    if primitive.kind == "conv2d" and name in ("w", "dw"):
        return (2, 3, 1, 0)
    if primitive.kind in CHANNELS_LAST and len(shape) > 1:
        return (0, *range(2, len(shape)), 1)
    return tuple(range(len(shape)))


def turned_shape(primitive: Primitive, name: str) -> Shape:
    """The shape of an operand here."""
    shape = primitive.operand(name).shape
    return tuple(shape[axis] for axis in axes_of(primitive, name))


def turned(primitive: Primitive, name: str, array: Any) -> Any:
    """An operand, laid out as it is here."""
    return np.ascontiguousarray(array.transpose(axes_of(primitive, name)))


def turned_back(primitive: Primitive, name: str, array: Any) -> Any:
    """The operand as the primitive lays it out, from an array in the layout here."""
    axes = axes_of(primitive, name)
    return array.reshape(turned_shape(primitive, name)).transpose(np.argsort(axes))


class Flattening(NamedTuple):
    """What a matrix's rows follow: an image that is flattened before, or () where none is."""

    image: Shape

    def turned(self, array: Any) -> Any:
        """Rows by channel, row and column, as rows by row, column and channel."""
        if not self.image:
            return array
        return np.moveaxis(array.reshape(*self.image, -1), 0, 2).reshape(array.shape)

    def turned_back(self, array: Any) -> Any:
        """The other way round."""
        if not self.image:
            return array
        channels, height, width = self.image
        pixels = array.reshape(height, width, channels, -1)
        return np.moveaxis(pixels, 2, 0).reshape(array.shape)


def flattening(network: Network, layer: str, name: str) -> Flattening:
    """Of an operand of a layer: only a fully connected one's weights are concerned."""
    shape = network.shapes[network.layer(layer).inputs[0]]
    return Flattening(shape if name == "b" and is_image(shape) else ())


def turned_data(data: Any) -> Any:
    """A network's data as they are laid out here."""
    return np.ascontiguousarray(np.moveaxis(data, 1, 3)) if data.ndim == 4 else data


def value_shape(shape: Shape, batch: int) -> Shape:
    """The shape of a layer's output for a batch, from that of one sample in the definition."""
    if isinstance(shape, Heads):
        return (batch * shape.heads, shape.rows, shape.columns)
    if len(shape) == 3:
        return (batch, *shape[1:], shape[0])
    if len(shape) == 2:
        return (shape[0], batch, shape[1])
    return (batch, *shape) if shape else ()


def frame(p: Conv2d | Pool2d, dilation: tuple[int, int] = (1, 1)) -> Frame:
    """The pixels around an image that its windows reach, and no more."""
    found: list[int] = []
    for axis, size in enumerate((p.height, p.width)):
        before = p.padding[2 * axis]
        reach = (p.extent[axis] - 1) * p.stride[axis] + dilation[axis] * (p.kernel[axis] - 1) + 1
        found += [before, max(0, reach - before - size)]
    top, bottom, left, right = found
    return top, bottom, left, right


def share_counted(p: Pool2d) -> Any:
    """What each average over a full window must be multiplied by; None where all windows are.

    Positions beyond the padded image do not count.
    """
    if p.function != "average":
        return None
    counts = []
    for axis, size in enumerate((p.height, p.width)):
        end = size + p.padding[2 * axis] + p.padding[2 * axis + 1]
        starts = np.arange(p.extent[axis]) * p.stride[axis]
        counts.append(np.minimum(p.kernel[axis], end - starts))
    window = p.kernel[0] * p.kernel[1]
    share = window / np.multiply.outer(*counts)[np.newaxis, :, :, np.newaxis]
    return None if (share == 1).all() else share.astype(np.float32)
