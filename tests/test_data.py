"""Random data: of the scale that operands ask for, the same for the same seed, shared as told."""

from __future__ import annotations

import numpy as np
import pytest

from kernelprof.probes.compute_bound import Conv2d, Gemm, LstmCell
from kernelprof.probes.data import BLOCK, NetworkData, primitive_arrays, random_array, rounded
from kernelprof.probes.decompose import Fusion, kernels
from kernelprof.probes.memory_bound import BatchNorm, Embedding, SgdUpdate, SoftmaxLoss
from kernelprof.probes.network import Builder, Network
from kernelprof.probes.primitive import UPDATE, Operand

ZEROED = {"float16": 13, "tf32": 13, "bfloat16": 16}  # last bits of a float32


def network() -> Network:
    net = Builder()
    x = net.convolution("conv", net.input(3, 8, 6), 4, kernel=3)
    x = net.fully_connected("fc", net.relu("relu", x), 5)
    net.softmax_loss(x)
    return Network("small", "made up", tuple(net.layers), 4, 2)


def sentences() -> Network:
    net = Builder()
    x = net.embedding("embedding", net.input(7, vocabulary=11), 11, 4)
    net.softmax_loss(net.fully_connected("output", net.lstm("lstm", x, 3), 11))
    return Network("sentences", "made up", tuple(net.layers), 4, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_floats_have_the_scale_asked_for(dtype: str, scale: float) -> None:
    array = random_array(Operand((500, 400), dtype, scale=scale), np.random.RandomState(0))
    assert (array.shape, str(array.dtype)) == ((500, 400), dtype)
    assert array.std() == pytest.approx(scale, rel=0.01)
    assert abs(array.mean()) < 0.01 * scale
    assert np.abs(array).max() <= 3**0.5 * scale * 1.0001  # uniform: bounded


@pytest.mark.parametrize("dtype", ZEROED)
def test_shorter_floats_travel_as_float32(dtype: str) -> None:
    """Each is the nearest that the dtype can hold; what lies half way goes to the even one."""
    array = random_array(Operand((500, 400), dtype, scale=0.1), np.random.RandomState(0))
    assert (array.shape, str(array.dtype)) == ((500, 400), "float32")
    assert array.std() == pytest.approx(0.1, rel=0.01)
    np.testing.assert_array_equal(rounded(array, dtype), array)
    exact = np.random.RandomState(1).random_sample(10_000).astype(np.float32) + np.float32(1)
    near = rounded(exact, dtype)
    assert not np.any(near.view(np.uint32) % 2 ** ZEROED[dtype])
    step = 2.0 ** (ZEROED[dtype] - 23)  # between 1 and 2
    assert step / 2.1 < np.abs(near - exact).max() <= step / 2
    halves = np.array([1 + step / 2, 1 + step * 3 / 2, 0.0, -1 - step / 2], np.float32)
    np.testing.assert_array_equal(rounded(halves, dtype), [1, 1 + step * 2, 0.0, -1])


def test_integers_stay_below_their_bound() -> None:
    array = random_array(Operand((10_000,), "int64", upper=7), np.random.RandomState(0))
    assert array.dtype == np.int64
    assert set(array.tolist()) == set(range(7))


def test_large_arrays_repeat_without_equal_rows() -> None:
    """The block is repeated, but a power of two never meets its prime length."""
    array = random_array(Operand((4096, 1024), "float32"), np.random.RandomState(0))
    assert array.std() == pytest.approx(1.0, rel=0.01)
    np.testing.assert_array_equal(array.reshape(-1)[BLOCK : BLOCK + 9], array.reshape(-1)[:9])
    assert len(np.unique(array[:, 0])) > 4000
    assert len({row.tobytes() for row in array}) == 4096


def test_empty_operand() -> None:
    array = random_array(Operand((0,), "float32"), np.random.RandomState(0))
    assert array.shape == (0,)


@pytest.mark.parametrize(
    ("primitive", "names"),
    [
        (Gemm(3, 5, 7), {"a", "b", "dc"}),
        (Conv2d(2, 3, 5, 7, 4, (3, 3)), {"x", "w", "dy"}),
        (LstmCell(3, 5, 2, steps=4), {"x", "wx", "wh", "bias", "h0", "c0", "dy"}),
        (SoftmaxLoss(3, 5), {"x", "labels"}),
        (Embedding(11, 5, 3), {"ids", "table", "dy"}),
        (SgdUpdate(6, momentum=0.9), {"w", "dw", "v"}),
    ],
    ids=lambda value: getattr(value, "label", ""),
)
def test_arrays_are_what_comes_from_outside(primitive: Gemm, names: set[str]) -> None:
    arrays = primitive_arrays(primitive, np.random.RandomState(0))
    assert arrays.keys() == names
    for name, array in arrays.items():
        operand = primitive.operand(name)
        assert (array.shape, str(array.dtype)) == (operand.shape, operand.dtype)


def test_a_product_of_random_data_has_unit_scale() -> None:
    """Weights shrink with the length of the sum, so no result overflows or vanishes."""
    arrays = primitive_arrays(Gemm(64, 96, 2048), np.random.RandomState(0))
    assert (arrays["a"] @ arrays["b"]).std() == pytest.approx(1.0, rel=0.05)


def test_variance_is_positive() -> None:
    arrays = primitive_arrays(BatchNorm(2, 50, 3), np.random.RandomState(0))
    assert (arrays["running_variance"] > 0).all()


def test_a_seed_gives_the_same_data_again() -> None:
    one, same, other = (NetworkData(network(), 4, seed) for seed in (1, 1, 2))
    for name in ("conv", "fc"):
        for mine, again, new in zip(
            one.layer(name), same.layer(name), other.layer(name), strict=True
        ):
            for key in mine:
                np.testing.assert_array_equal(mine[key], again[key])
                assert not np.array_equal(mine[key], new[key])
    np.testing.assert_array_equal(one.input, same.input)
    assert not np.array_equal(one.input, other.input)


def test_kernels_of_a_layer_share_its_arrays() -> None:
    data = NetworkData(network(), 4)
    found = kernels(network(), 4, "train", Fusion())
    forward, weights = (
        next(k for k in found if k.layer == "fc" and k.passes == (pass_,) and k.members[0] == 0)
        for pass_ in ("forward", "backward_weights")
    )
    assert data.kernel(forward)[0]["a"] is data.kernel(weights)[0]["a"]


def test_updates_work_on_the_weights_of_their_layer() -> None:
    data = NetworkData(network(), 4)
    found = kernels(network(), 4, "train", Fusion())
    (update,) = (k for k in found if k.layer == "fc" and k.passes == (UPDATE,))
    weights, bias = data.kernel(update)
    gemm, added = data.layer("fc")
    assert np.shares_memory(weights["w"], gemm["b"])
    assert np.shares_memory(bias["w"], added["bias"])
    assert weights["w"].shape == (gemm["b"].size,)


def test_parameters_are_copies() -> None:
    """The whole network's weights are as its layers' at first, and their own from then on."""
    data = NetworkData(network(), 4)
    assert {key: array.shape for key, array in data.parameters.items()} == {
        ("conv", 0, "w"): (4, 3, 3, 3),
        ("conv", 1, "bias"): (4,),
        ("fc", 0, "b"): (5, 96),
        ("fc", 1, "bias"): (5,),
    }
    for (layer, member, name), array in data.parameters.items():
        own = data.layer(layer)[member][name]
        np.testing.assert_array_equal(array, own)
        assert not np.shares_memory(array, own)
    assert data.parameters is data.parameters


def test_images_come_batch_first() -> None:
    data = NetworkData(network(), 4)
    assert (data.input.shape, data.input.dtype) == ((4, 3, 8, 6), np.float32)
    assert data.labels.shape == (4,)
    assert 0 <= data.labels.min() <= data.labels.max() < 5


def test_token_ids_come_steps_first() -> None:
    data = NetworkData(sentences(), 64)
    assert (data.input.shape, data.input.dtype) == ((7, 64), np.int64)
    assert set(data.input.reshape(-1).tolist()) == set(range(11))
    assert data.labels.shape == (7 * 64,)
