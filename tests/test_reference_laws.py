"""Laws that the reference kernels obey, whatever their formulas say: identities and edge cases."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest

from kernelprof.probes.attention import LayerNorm, Softmax, Transpose
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.memory_bound import (
    Activation,
    BatchNorm,
    Dropout,
    Embedding,
    Pool2d,
    SoftmaxLoss,
)
from kernelprof.probes.primitive import FORWARD
from kernelprof.probes.reference import run
from tests.test_reference import draw, run_all


def test_convolution_is_linear() -> None:
    primitive = Conv2d(2, 4, 7, 5, 6, (3, 2), (2, 1), (1, 0, 2, 1), groups=2)
    one, other = draw(primitive, seed=1), draw(primitive, seed=2)
    both = run(primitive, FORWARD, {"w": one["w"], "x": 2 * one["x"] - 3 * other["x"]})["y"]
    y = run(primitive, FORWARD, one)["y"]
    z = run(primitive, FORWARD, {"w": one["w"], "x": other["x"]})["y"]
    np.testing.assert_allclose(both, 2 * y - 3 * z, atol=1e-12)


def test_pointwise_convolution_is_a_gemm() -> None:
    """A 1 x 1 kernel multiplies the pixels, as rows of channels, with the filters."""
    arrays = run_all(Conv2d(2, 3, 5, 7, 4, (1, 1)), draw(Conv2d(2, 3, 5, 7, 4, (1, 1))))
    pixels = {name: np.moveaxis(arrays[name], 1, -1).reshape(70, -1) for name in ("x", "dy")}
    gemm = {"a": pixels["x"], "b": arrays["w"], "dc": pixels["dy"]}
    product = run_all(Gemm(70, 4, 3, trans_b=True), gemm)
    for name, same in (("y", "c"), ("dx", "da")):
        rows = np.moveaxis(arrays[name], 1, -1).reshape(70, -1)
        np.testing.assert_allclose(rows, product[same], atol=1e-12)
    np.testing.assert_allclose(arrays["dw"].reshape(4, 3), product["db"], atol=1e-12)


@pytest.mark.parametrize("pass_", Conv2d.reads)
def test_groups_are_independent_convolutions(pass_: str) -> None:
    grouped = Conv2d(2, 6, 5, 7, 9, (3, 2), (1, 2), (0, 1, 1, 1), groups=3)
    alone = replace(grouped, in_channels=2, out_channels=3, groups=1)
    arrays = draw(grouped)
    cut = {"x": 1, "w": 0, "dy": 1}
    parts = [
        run(alone, pass_, {name: np.split(arrays[name], 3, axis)[i] for name, axis in cut.items()})
        for i in range(3)
    ]
    for name, values in run(grouped, pass_, arrays).items():
        joined = np.concatenate([part[name] for part in parts], axis=0 if name == "dw" else 1)
        np.testing.assert_allclose(values, joined, atol=1e-12)


def test_blocks_of_images_do_not_show() -> None:
    """Five images in blocks of two give what each of them gives alone."""
    many, one = Conv2d(5, 2, 21, 25, 3, (2, 2)), Conv2d(1, 2, 21, 25, 3, (2, 2))
    arrays = run_all(many, draw(many))
    images = [
        run_all(one, {"x": x[np.newaxis], "w": arrays["w"], "dy": dy[np.newaxis]})
        for x, dy in zip(arrays["x"], arrays["dy"], strict=True)
    ]
    for name in ("y", "dx"):
        joined = np.concatenate([image[name] for image in images])
        np.testing.assert_allclose(arrays[name], joined, atol=1e-12)
    np.testing.assert_allclose(arrays["dw"], sum(image["dw"] for image in images), atol=1e-11)


def test_gemm_transposes_agree() -> None:
    """How A and B are stored changes how their gradients are stored, and no number."""
    arrays = draw(Gemm(3, 5, 7))
    expected = run_all(Gemm(3, 5, 7), arrays)
    for trans_a, trans_b in ((True, False), (False, True), (True, True)):
        turned = {"a"} if trans_a else set()
        turned |= {"b"} if trans_b else set()
        stored = {name: arrays[name].T if name in turned else arrays[name] for name in arrays}
        results = run_all(Gemm(3, 5, 7, trans_a, trans_b), stored)
        for name in ("c", "da", "db"):
            values = results[name].T if name[1:] in turned else results[name]
            np.testing.assert_allclose(values, expected[name], atol=1e-13)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("trans_a", [False, True])
def test_batched_products_are_products(trans_a: bool, trans_b: bool) -> None:
    """Matrix by matrix, forwards and backwards; the second gradient is that of a gemm's weights."""
    batched, one = BatchedGemm(4, 3, 5, 7, trans_a, trans_b), Gemm(3, 5, 7, trans_a, trans_b)
    arrays = run_all(batched, draw(batched))
    for place in range(4):
        own = {name: arrays[name][place] for name in ("a", "b", "dc")}
        for name, values in run_all(one, own).items():
            np.testing.assert_allclose(arrays[name][place], values, atol=1e-13)


def test_lstm_steps_are_chained_cells() -> None:
    """Running T steps is running one step T times, handing on the hidden state and the cell."""
    arrays = run_all(LstmCell(3, 5, 2, steps=4), draw(LstmCell(3, 5, 2, steps=4)))
    state = {name: arrays[name] for name in ("wx", "wh", "bias", "h0", "c0")}
    for step in range(4):
        cell = run(LstmCell(3, 5, 2), FORWARD, {**state, "x": arrays["x"][step]})
        np.testing.assert_allclose(cell["y"][0], arrays["y"][step], atol=1e-13)
        state.update(h0=cell["y"][0], c0=cell["cells"][0])


def test_saturated_gates_do_not_overflow() -> None:
    """A sigmoid of -1000 is 0 in float32, without a warning."""
    x = np.array([-1000, -100, 0, 100, 1000], np.float32)
    y = run(Activation("sigmoid", 5), FORWARD, {"x": x})["y"]
    np.testing.assert_allclose(y, [0, 0, 0.5, 1, 1], atol=1e-12)


def test_gelu_far_out_is_a_relu() -> None:
    """Without a warning, in either precision; its slope at 0 is a half."""
    x = np.array([-1000.0, -9.0, 0.0, 9.0, 1000.0])
    for dtype in (np.float32, np.float64):
        arrays = {"x": x.astype(dtype), "dy": np.ones(5, dtype)}
        results = run_all(Activation("gelu", 5), arrays)
        np.testing.assert_allclose(results["y"], [0, 0, 0, 9, 1000], atol=1e-5)
        np.testing.assert_allclose(results["dx"], [0, 0, 0.5, 1, 1], atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_softmax_rows_are_probabilities(shift: float) -> None:
    """However large the logits; and a row's gradients sum to 0, as a shift changes nothing."""
    primitive = Softmax(5, 7)
    arrays = draw(primitive)
    y = run(primitive, FORWARD, {"x": arrays["x"] + shift})["y"]
    assert (y > 0).all()
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(y, run(primitive, FORWARD, arrays)["y"], rtol=1e-10)
    np.testing.assert_allclose(run_all(primitive, arrays)["dx"].sum(axis=1), 0, atol=1e-14)


def test_layer_norm_normalises() -> None:
    """Whatever a row's own mean and size: with gamma 1 and beta 0 they become 0 and 1."""
    primitive = LayerNorm(5, 64, epsilon=1e-12)
    arrays = {**draw(primitive), "gamma": np.ones(64), "beta": np.zeros(64)}
    y = run(primitive, FORWARD, {**arrays, "x": 3 * arrays["x"] + 8})["y"]
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-13)
    np.testing.assert_allclose(y.std(axis=1), 1, rtol=1e-10)
    dx = run_all(primitive, arrays)["dx"]
    np.testing.assert_allclose(dx.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose((dx * arrays["x"]).sum(axis=1), 0, atol=1e-8)


def test_transposing_twice_changes_nothing() -> None:
    arrays = run_all(Transpose(3, 5, 7), draw(Transpose(3, 5, 7)))
    back = run(Transpose(5, 3, 7), FORWARD, {"x": arrays["y"]})["y"]
    np.testing.assert_array_equal(back, arrays["x"])
    np.testing.assert_array_equal(arrays["dx"].swapaxes(0, 1), arrays["dy"])


def test_equal_maxima_go_to_the_first() -> None:
    """In an image of one value each window's gradient lands on the first pixel inside the image."""
    primitive = Pool2d("max", 1, 1, 3, 3, (2, 2), (1, 1), (1, 0, 1, 0))
    argmax = run(primitive, FORWARD, {"x": np.full((1, 1, 3, 3), -7.0)})["argmax"]
    np.testing.assert_array_equal(argmax[0, 0], [[0, 0, 1], [0, 0, 1], [3, 3, 4]])


def test_average_of_a_constant() -> None:
    """Averages of a constant are it, but for the padding that they count as 0."""
    x = {"x": np.full((2, 3, 7, 6), 5.0)}
    whole = Pool2d("average", 2, 3, 7, 6, (3, 2), (3, 3), ceil=True)
    np.testing.assert_allclose(run(whole, FORWARD, x)["y"], 5)
    corner = run(replace(whole, padding=(1, 0, 1, 0)), FORWARD, x)["y"][0, 0, 0, 0]
    assert corner == pytest.approx(5 * 2 / 6)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_uniform_logits_lose_log_classes(shift: float) -> None:
    """However large they are; and a row's gradients sum to 0, as a shift changes nothing."""
    primitive = SoftmaxLoss(5, 7)
    x = {**draw(primitive), "x": np.full((5, 7), shift)}
    assert run(primitive, FORWARD, x)["loss"][0] == pytest.approx(log(7))
    np.testing.assert_allclose(run_all(primitive, draw(primitive))["dx"].sum(axis=1), 0, atol=1e-15)


def test_batch_norm_normalises() -> None:
    """Per channel the output's mean is beta and its deviation the size of gamma."""
    primitive = BatchNorm(7, 3, 11, training=True, epsilon=1e-12)
    arrays = draw(primitive)
    y = run(primitive, FORWARD, {**arrays, "x": 3 * arrays["x"] + 8})["y"]
    np.testing.assert_allclose(y.mean(axis=(0, 2)), arrays["beta"], atol=1e-10)
    np.testing.assert_allclose(y.std(axis=(0, 2)), abs(arrays["gamma"]), rtol=1e-10)


def test_dropout_keeps_the_expectation() -> None:
    """A mask that keeps just its share keeps the mean; one that is drawn keeps about its share."""
    primitive = Dropout(10_000, rate=0.25)
    x, mask = np.ones(10_000), np.arange(10_000) % 4 > 0
    assert run(primitive, FORWARD, {"x": x, "mask": mask})["y"].mean() == pytest.approx(1)
    drawn = run(primitive, FORWARD, {"x": x})
    assert drawn["mask"].mean() == pytest.approx(0.75, abs=0.03)  # seven deviations
    np.testing.assert_allclose(drawn["y"], drawn["mask"] / 0.75)


def test_embedding_gradient_is_a_one_hot_product() -> None:
    """Rows looked up twice get the sum, those never looked up 0."""
    primitive = Embedding(11, 5, 3)
    arrays = run_all(
        primitive, {**draw(primitive), "ids": np.array([4, 0, 4, 2, 2, 4, 0, 4, 2, 0, 0])}
    )
    one_hot = np.eye(5)[arrays["ids"]]
    np.testing.assert_allclose(arrays["dtable"], one_hot.T @ arrays["dy"], atol=1e-14)
