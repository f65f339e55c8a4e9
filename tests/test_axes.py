"""Views against arrays that are really reshaped and transposed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.onnx_import.axes import RearrangedError, View
from kernelprof.probes.layers import Heads

SIZES = st.integers(1, 6)


@st.composite
def rearranged(draw):
    """A layer's shape, a view of it, and numbered elements that went the same way."""
    shape = tuple(draw(st.lists(SIZES, min_size=1, max_size=3)))
    batch = draw(st.integers(1, 4))
    view = View.of("x", shape, batch)
    array = np.arange(batch * np.prod(shape)).reshape(batch, *shape)
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(array.ndim)))
            view, array = view.transposed(order), array.transpose(order)
        else:
            sizes = reshaping(draw, array.shape)
            try:
                view = view.reshaped(sizes)
            except RearrangedError:
                continue
            array = array.reshape(sizes)
    return shape, batch, view, array


def reshaping(draw, sizes):
    """Two neighbours joined, or one axis split."""
    place = draw(st.integers(0, len(sizes) - 1))
    if draw(st.booleans()) and place + 1 < len(sizes):
        return (*sizes[:place], sizes[place] * sizes[place + 1], *sizes[place + 2 :])
    outer = draw(st.sampled_from([n for n in range(1, sizes[place] + 1) if sizes[place] % n == 0]))
    return (*sizes[:place], outer, sizes[place] // outer, *sizes[place + 1 :])


def rows(array, length):
    return {tuple(row) for row in array.reshape(-1, length).tolist()}


@given(rearranged())
def test_what_a_view_claims_is_so(made) -> None:
    """Each claim, of the elements themselves."""
    shape, batch, view, array = made
    whole = np.arange(array.size).reshape(batch, *shape)
    if view.is_plain(shape):
        np.testing.assert_array_equal(array.reshape(whole.shape), whole)
    if view.is_flat(shape):
        np.testing.assert_array_equal(array, whole.reshape(batch, -1))
    if view.is_sequence(shape):
        assert rows(array, shape[1]) == rows(whole, shape[1])
    for transposed in (False, True):
        size = view.head_size(shape, transposed)
        if size is not None:
            split = whole.reshape(batch, shape[0], -1, size).transpose(0, 2, 1, 3)
            matrices = array.swapaxes(-1, -2) if transposed else array
            assert rows(matrices, shape[0] * size) == rows(split, shape[0] * size)


@given(st.lists(SIZES, min_size=1, max_size=3).map(tuple), st.integers(1, 4))
def test_nothing_done_is_plain(shape: tuple[int, ...], batch: int) -> None:
    view = View.of("x", shape, batch)
    assert view.is_plain(shape)
    assert view.reshaped((batch, int(np.prod(shape)))).is_flat(shape) == (len(shape) != 2)


@given(*[st.integers(1, 5)] * 4)
def test_heads_are_split_and_merged(batch: int, steps: int, heads: int, size: int) -> None:
    shape = (steps, heads * size)
    split = (
        View.of("x", shape, batch).reshaped((batch, steps, heads, size)).transposed((0, 2, 1, 3))
    )
    assert split.head_size(shape, False) == size
    assert split.transposed((0, 1, 3, 2)).head_size(shape, True) == size
    assert split.reshaped((batch * heads, steps, size)).head_size(shape, False) == size
    made = View.of("y", Heads(heads, steps, size), batch)
    assert made.are_heads(Heads(heads, steps, size))
    merged = made.transposed((0, 2, 1, 3)).reshaped((batch, steps, heads * size))
    assert merged.are_merged_heads(Heads(heads, steps, size))


def test_batch_and_steps_may_lie_together() -> None:
    view = View.of("x", (3, 5), 4)
    assert view.reshaped((12, 5)).is_sequence((3, 5))
    assert view.transposed((1, 0, 2)).reshaped((12, 5)).is_sequence((3, 5))
    assert not view.transposed((0, 2, 1)).is_sequence((3, 5))


@pytest.mark.parametrize("sizes", [(4, 9), (9, 4)])
def test_what_mixes_axes_is_refused(sizes: tuple[int, int]) -> None:
    """One axis and a third of another have no name."""
    with pytest.raises(RearrangedError):
        View.of("x", (3, 3), 4).transposed((1, 0, 2)).reshaped(sizes)
