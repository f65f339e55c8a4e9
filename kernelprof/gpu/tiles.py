"""How well products fill a card: results are cut into tiles, one per multiprocessor at a time.

With more tiles than multiprocessors they come in waves, and in the last wave some have nothing to
do (NVIDIA, Matrix Multiplication Background User's Guide, "Tile quantization" and "Wave
quantization").  Which tile a library takes is its secret, so of the usual ones the best counts.  A
kernel that cuts the sum in parts as well, as for long sums of few results, fills the card better.
"""

from __future__ import annotations

from typing import NamedTuple

from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, Primitive

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))  # rows and columns


class Output(NamedTuple):
    """What a kernel computes: so many matrices of rows and columns, one after another or not."""

    rows: int
    columns: int
    matrices: int = 1


class Filling(NamedTuple):
    """How a card is filled: the share of its multiprocessors that work, over so many waves."""

    share: float
    tiles: int
    waves: int


def output(primitive: Primitive, pass_: str) -> Output | None:
    """The matrices that a pass of a product computes; None where that is not told by its sizes.

    A convolution is the product of its unfolded image and its filters.  The gradient of its filters
    is a sum over all pixels, which every library cuts into parts.
    """
    if isinstance(primitive, LstmCell):
        return Output(primitive.batch, 4 * primitive.hidden_size) if pass_ == FORWARD else None
    if isinstance(primitive, Conv2d):
        return _of_convolution(primitive, pass_)
    if isinstance(primitive, Gemm | BatchedGemm):
        matrices = primitive.batch if isinstance(primitive, BatchedGemm) else 1
        m, n, k = primitive.m, primitive.n, primitive.k
        sizes = {FORWARD: (m, n), BACKWARD_DATA: (m, k), BACKWARD_WEIGHTS: (k, n)}
        return Output(*sizes[pass_], matrices)
    return None


def _of_convolution(convolution: Conv2d, pass_: str) -> Output | None:
    groups = convolution.groups
    if pass_ == FORWARD:
        pixels = convolution.extent[0] * convolution.extent[1]
        return Output(convolution.batch * pixels, convolution.out_channels // groups, groups)
    if pass_ == BACKWARD_DATA:
        pixels = convolution.height * convolution.width
        return Output(convolution.batch * pixels, convolution.in_channels // groups, groups)
    return None


def filling(computed: Output, multiprocessors: int) -> Filling:
    """How a kernel fills so many multiprocessors, with the tile that wastes least."""
    return min(
        (_filled(tile, computed, multiprocessors) for tile in TILES),
        key=lambda found: found.work,
    ).filling


class _Filled(NamedTuple):
    """A way to fill the card, and the work that it makes of it: idling and empty tiles included."""

    work: int
    filling: Filling


def _filled(tile: tuple[int, int], computed: Output, multiprocessors: int) -> _Filled:
    rows, columns = tile
    tiles = -(-computed.rows // rows) * -(-computed.columns // columns) * computed.matrices
    waves = -(-tiles // multiprocessors)
    share = tiles / (waves * multiprocessors)
    return _Filled(waves * rows * columns, Filling(share, tiles, waves))
