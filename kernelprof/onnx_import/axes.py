"""Which of a layer's axes the axes of a tensor are made of, after reshapes and transpositions.

A file says how a tensor is rearranged between two operators; a network's layers need to know only
what arrives: an image, a vector, a sequence, or heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kernelprof.probes.layers import Heads
from kernelprof.probes.primitive import Shape, product

BATCH = -1  # the axis that no sample has


class RearrangedError(ValueError):
    """A tensor is not as a layer could read it."""


class Piece(NamedTuple):
    """A part of a layer's axis: ``size`` steps, each over ``stride`` elements of the axis."""

    axis: int
    size: int
    stride: int = 1


Axis = tuple[Piece, ...]  # pieces in memory order, the last one varies fastest


@dataclass(frozen=True)
class View:
    """The output of a layer, as the axes of a tensor."""

    layer: str
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, layer: str, shape: Shape, batch: int, batch_axis: int = 0) -> View:
        """A layer's output, with the batch at its place between the axes of a sample."""
        axes = list(_wholes(shape))
        axes.insert(batch_axis, _joined([Piece(BATCH, batch)]))
        return cls(layer, tuple(axes))

    def by(self, layer: str) -> View:
        """The output of another layer, rearranged in the same way."""
        return View(layer, self.axes)

    def reshaped(self, sizes: Sequence[int]) -> View:
        """The same elements in the same order, as other axes.

        Raises:
            RearrangedError: an axis would mix parts of two that do not lie together.
        """
        left = [piece for axis in self.axes for piece in axis]
        return View(self.layer, tuple(_taken(size, left) for size in sizes))

    def transposed(self, order: Sequence[int]) -> View:
        """The axes in another order."""
        return View(self.layer, tuple(self.axes[axis] for axis in order))

    @property
    def batch(self) -> Axis:
        """The pieces of the batch; none where it is a single sample."""
        return tuple(piece for axis in self.axes for piece in axis if piece.axis == BATCH)

    def is_plain(self, shape: Shape) -> bool:
        """Whether it is a batch of samples as the layer has them, axis by axis."""
        return self.axes == (self.batch, *_wholes(shape))

    def is_flat(self, shape: Shape) -> bool:
        """Whether it is a batch of vectors or images, the elements of each on a single axis."""
        if len(shape) == 2 or isinstance(shape, Heads):
            return False
        return self.axes == (self.batch, sum(_wholes(shape), ()))

    def is_sequence(self, shape: Shape) -> bool:
        """Whether its last axis is the features of a sequence, and the others batch and steps."""
        if len(shape) != 2 or not self.axes:
            return False
        steps, features = _wholes(shape)
        return self.axes[-1] == features and self._leading(1) == {*self.batch, *steps}

    def head_size(self, shape: Shape, transposed: bool) -> int | None:
        """The features of each head that a sequence is split into, or None where it is not so.

        The last two axes are steps and features of a head, or the other way round if
        ``transposed``; before them come batch and heads.
        """
        if len(shape) != 2 or len(self.axes) < 3:
            return None
        steps = _wholes(shape)[0]
        rows, columns = self.axes[-2:][:: -1 if transposed else 1]
        size = product(tuple(piece.size for piece in columns))
        heads = _joined([Piece(1, shape[1] // size, size)])
        is_split = (rows, columns) == (steps, _joined([Piece(1, size)]))
        return size if is_split and self._leading(2) == {*self.batch, *heads} else None

    def are_heads(self, shape: Shape, transposed: bool = False) -> bool:
        """Whether its last two axes are the matrices of heads, and the others batch and heads."""
        if not isinstance(shape, Heads) or len(self.axes) < 3:
            return False
        heads, *matrix = _wholes(shape)
        own = list(self.axes[-2:][:: -1 if transposed else 1])
        return own == matrix and self._leading(2) == {*self.batch, *heads}

    def are_merged_heads(self, shape: Shape) -> bool:
        """Whether its last axis is the features of all heads, and the others batch and steps."""
        if not isinstance(shape, Heads) or not self.axes:
            return False
        heads, steps, features = _wholes(shape)
        return self.axes[-1] == heads + features and self._leading(1) == {*self.batch, *steps}

    def _leading(self, last: int) -> set[Piece]:
        """The pieces of all axes but so many last ones."""
        return {piece for axis in self.axes[:-last] for piece in axis}


def whole(axis: int, size: int) -> Axis:
    """An axis of a sample in one piece."""
    return _joined([Piece(axis, size)])


def _wholes(shape: Shape) -> tuple[Axis, ...]:
    """Every axis of a sample in one piece."""
    return tuple(whole(axis, size) for axis, size in enumerate(shape))


def _joined(pieces: Iterable[Piece]) -> Axis:
    """Pieces without those of a single step, and joined where they lie together."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.axis == piece.axis and last.stride == piece.stride * piece.size:
            joined[-1] = Piece(piece.axis, last.size * piece.size, piece.stride)
        elif piece.size > 1:
            joined.append(piece)
    return tuple(joined)


def _taken(size: int, left: list[Piece]) -> Axis:
    """So many elements off the front of what is left."""
    taken: list[Piece] = []
    while size > 1:
        piece = left.pop(0)
        if piece.size > size and piece.size % size == 0:
            inner = piece.size // size
            left.insert(0, Piece(piece.axis, inner, piece.stride))
            piece = Piece(piece.axis, size, piece.stride * inner)
        if size % piece.size:
            raise RearrangedError("a reshape joins a part of one axis to another")
        size //= piece.size
        taken.append(piece)
    return _joined(taken)
