"""The reference kernels against plain formulas, finite differences and laws of the arithmetic."""

from __future__ import annotations

from math import erf, exp, log, tanh
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelprof.probes.attention import LayerNorm, Scale, Softmax, Transpose
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.memory_bound import (
    Activation,
    Add,
    BatchNorm,
    Bias,
    Copy,
    Dropout,
    Embedding,
    LocalResponseNorm,
    PadChannels,
    Pool2d,
    SgdUpdate,
    SoftmaxLoss,
)
from kernelprof.probes.primitive import FORWARD, UPDATE, Primitive
from kernelprof.probes.primitives import PRIMITIVES
from kernelprof.probes.reference import KERNELS, Arrays, run

SAMPLES: list[Primitive] = [
    Gemm(1, 1, 1),
    Gemm(3, 5, 7),
    Gemm(3, 5, 7, trans_a=True),
    Gemm(3, 5, 7, trans_b=True),
    Gemm(3, 5, 7, trans_a=True, trans_b=True),
    BatchedGemm(1, 1, 1, 1),
    *[
        BatchedGemm(2, 3, 5, 7, trans_a, trans_b)
        for trans_a in (False, True)
        for trans_b in (False, True)
    ],
    Conv2d(1, 1, 1, 1, 1, (1, 1)),
    Conv2d(2, 3, 5, 7, 4, (1, 1)),
    Conv2d(2, 4, 5, 3, 6, (1, 1), (3, 2), groups=2),
    Conv2d(2, 3, 7, 5, 2, (3, 2), (2, 1), (1, 0, 2, 1)),
    Conv2d(3, 6, 5, 6, 9, (2, 3), (1, 2), (0, 1, 1, 1), (2, 1), groups=3),
    Conv2d(2, 5, 4, 3, 5, (3, 3), (1, 1), (1, 1, 1, 1), groups=5),
    Conv2d(1, 2, 11, 7, 3, (2, 1), (5, 3), (0, 0, 0, 1)),
    LstmCell(1, 1, 1),
    LstmCell(3, 5, 2, steps=4),
    LstmCell(2, 1, 3, steps=3),
    LstmCell(5, 3, 1, steps=2),
    Bias(2, 3),
    Bias(2, 3, 5),
    Activation("relu", 23),
    Activation("sigmoid", 23),
    Activation("tanh", 23),
    Activation("gelu", 23),
    Pool2d("max", 2, 3, 7, 5, (3, 2), (2, 1)),
    Pool2d("max", 1, 2, 7, 6, (3, 3), (2, 3), (1, 0, 1, 2), ceil=True),
    Pool2d("max", 2, 1, 7, 8, (2, 1), (3, 2)),
    Pool2d("average", 2, 3, 7, 5, (3, 2), (2, 1)),
    Pool2d("average", 1, 2, 7, 6, (3, 3), (2, 3), (1, 0, 1, 2), ceil=True),
    Pool2d("average", 2, 1, 7, 8, (2, 1), (3, 2)),
    LocalResponseNorm(2, 7, 3, alpha=0.5),
    LocalResponseNorm(2, 5, 1, size=4, alpha=0.9, beta=0.5, k=2.0),
    LocalResponseNorm(1, 2, 3, size=9, alpha=0.9),
    BatchNorm(3, 2, 5),
    BatchNorm(3, 2, 5, training=True),
    BatchNorm(7, 3, 1, training=True, epsilon=0.1),
    Dropout(31, rate=0.3),
    Softmax(1, 1),
    Softmax(5, 7),
    LayerNorm(1, 3),
    LayerNorm(5, 7),
    LayerNorm(3, 2, epsilon=0.1),
    Transpose(1, 1),
    Transpose(2, 3),
    Transpose(3, 2, 5),
    Scale(13, -0.7),
    SoftmaxLoss(1, 1),
    SoftmaxLoss(5, 7),
    Embedding(11, 5, 3),
    Embedding(3, 17, 1),
    Add(13),
    PadChannels(2, 3, 5, added=1),
    PadChannels(3, 1, 2, added=4),
    SgdUpdate(13, learning_rate=0.1),
    SgdUpdate(13, momentum=0.9, learning_rate=0.1),
    Copy(13),
]
DIFFERENTIABLE = [primitive for primitive in SAMPLES if len(primitive.passes) > 1]

every_kind = pytest.mark.parametrize("kind", PRIMITIVES)
every_sample = pytest.mark.parametrize("primitive", SAMPLES, ids=lambda sample: sample.label)


def draw(primitive: Primitive, dtype: str = "float64", seed: int = 0) -> Arrays:
    """Random operands of the first pass, and the output's gradient."""
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name in (*primitive.reads[primitive.passes[0]], f"d{primitive.output}"):
        operand = primitive.operand(name)
        if operand.upper:
            arrays[name] = random.integers(operand.upper, size=operand.shape)
        else:
            arrays[name] = random.standard_normal(operand.shape).astype(dtype)
    if "running_variance" in arrays:
        arrays["running_variance"] = np.exp(arrays["running_variance"])
    if primitive.kind == "dropout":
        arrays["mask"] = random.random(primitive.operand("mask").shape) > 0.3
    return arrays


def run_all(primitive: Primitive, arrays: Arrays) -> Arrays:
    """The operands with the results of all passes added."""
    arrays = dict(arrays)
    for pass_ in primitive.passes:
        arrays.update(run(primitive, pass_, arrays))
    return arrays


def plain_gemm(primitive: Gemm, a: Any, b: Any) -> list[Any]:
    indices = f"{'km' if primitive.trans_a else 'mk'},{'nk' if primitive.trans_b else 'kn'}->mn"
    return [np.einsum(indices, a, b)]


def inside(primitive: Any, row: int, column: int) -> bool:
    """Whether a pixel lies in the image, not in its padding."""
    return bool(0 <= row < primitive.height and 0 <= column < primitive.width)


def plain_conv2d(primitive: Conv2d, x: Any, w: Any) -> list[Any]:
    y = np.zeros(primitive.operand("y").shape)
    outputs, channels = primitive.out_channels // primitive.groups, w.shape[1]
    for image, out, down, along in np.ndindex(*y.shape):
        for channel, i, j in np.ndindex(*w.shape[1:]):
            row = down * primitive.stride[0] + i * primitive.dilation[0] - primitive.padding[0]
            column = along * primitive.stride[1] + j * primitive.dilation[1] - primitive.padding[2]
            if inside(primitive, row, column):
                pixel = x[image, out // outputs * channels + channel, row, column]
                y[image, out, down, along] += pixel * w[out, channel, i, j]
    return [y]


def plain_pool2d(primitive: Pool2d, x: Any) -> list[Any]:
    y = np.zeros(primitive.operand("y").shape)
    argmax = np.zeros(y.shape, int)
    bottom = primitive.height + primitive.padding[1]
    right = primitive.width + primitive.padding[3]
    for image, channel, down, along in np.ndindex(*y.shape):
        top = down * primitive.stride[0] - primitive.padding[0]
        left = along * primitive.stride[1] - primitive.padding[2]
        rows = range(top, min(top + primitive.kernel[0], bottom))
        columns = range(left, min(left + primitive.kernel[1], right))
        window = {
            row * primitive.width + column: x[image, channel, row, column]
            for row in rows
            for column in columns
            if inside(primitive, row, column)
        }
        winner = max(window, key=lambda place: float(window[place]))
        mean = sum(window.values()) / (len(rows) * len(columns))
        argmax[image, channel, down, along] = winner
        y[image, channel, down, along] = window[winner] if primitive.function == "max" else mean
    return [y, argmax if primitive.function == "max" else np.empty(0, int)]


def logistic(z: float) -> float:
    return 1 / (1 + exp(-z))


SCALAR: dict[str, Any] = {
    "relu": lambda z: max(z, 0),
    "sigmoid": logistic,
    "tanh": tanh,
    "gelu": lambda z: z * (1 + erf(z / 2**0.5)) / 2,
}


def plain_lstm_cell(
    primitive: LstmCell, x: Any, wx: Any, wh: Any, bias: Any, h0: Any, c0: Any
) -> list[Any]:
    hidden = primitive.hidden_size
    y = np.zeros((primitive.steps, primitive.batch, hidden))
    cells, gates = y.copy(), np.zeros((primitive.steps, primitive.batch, 4 * hidden))
    for step, row, unit in np.ndindex(*y.shape):
        h, c = (y[step - 1, row], cells[step - 1, row]) if step else (h0[row], c0[row])
        i, f, g, o = (
            sum(wx[z, k] * x[step, row, k] for k in range(primitive.input_size))
            + sum(wh[z, k] * h[k] for k in range(hidden))
            + bias[z]
            for z in range(unit, 4 * hidden, hidden)
        )
        gates[step, row, unit::hidden] = logistic(i), logistic(f), tanh(g), logistic(o)
        cells[step, row, unit] = logistic(f) * c[unit] + logistic(i) * tanh(g)
        y[step, row, unit] = logistic(o) * tanh(cells[step, row, unit])
    return [y, gates, cells]


def plain_lrn(primitive: LocalResponseNorm, x: Any) -> list[Any]:
    norm = np.empty_like(x)
    for channel in range(primitive.channels):
        first = max(0, channel - primitive.size // 2)
        window = x[:, first : channel - primitive.size // 2 + primitive.size]
        squares = (window**2).sum(axis=1)
        norm[:, channel] = primitive.k + primitive.alpha / primitive.size * squares
    return [x / norm**primitive.beta, norm]


def plain_batch_norm(
    primitive: BatchNorm, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any
) -> list[Any]:
    by_channel = np.moveaxis(x, 1, -1).reshape(-1, primitive.channels)
    if primitive.training:
        mean, variance = by_channel.mean(axis=0), by_channel.var(axis=0)
    deviation = (variance + primitive.epsilon) ** 0.5
    rows = (by_channel - mean) / deviation * gamma + beta
    y = np.moveaxis(rows.reshape(primitive.batch, primitive.positions, -1), -1, 1)
    return [y, mean, deviation]


def plain_batched_gemm(primitive: BatchedGemm, a: Any, b: Any) -> list[Any]:
    indices = ("bki" if primitive.trans_a else "bik", "bjk" if primitive.trans_b else "bkj")
    return [np.einsum(f"{indices[0]},{indices[1]}->bij", a, b)]


def plain_softmax(primitive: Softmax, x: Any) -> list[Any]:
    powers = [[exp(value) for value in row] for row in x]
    return [[[power / sum(row) for power in row] for row in powers]]


def plain_layer_norm(primitive: LayerNorm, x: Any, gamma: Any, beta: Any) -> list[Any]:
    means = [sum(row) / primitive.features for row in x]
    deviations = [
        (sum((value - mean) ** 2 for value in row) / primitive.features + primitive.epsilon) ** 0.5
        for row, mean in zip(x, means, strict=True)
    ]
    y = [
        [g * (value - mean) / deviation + b for value, g, b in zip(row, gamma, beta, strict=True)]
        for row, mean, deviation in zip(x, means, deviations, strict=True)
    ]
    return [y, means, deviations]


def plain_transpose(primitive: Transpose, x: Any) -> list[Any]:
    y = np.empty((primitive.columns, primitive.rows, primitive.size))
    for row, column in np.ndindex(primitive.rows, primitive.columns):
        y[column, row] = x[row, column]
    return [y]


def plain_softmax_loss(primitive: SoftmaxLoss, x: Any, labels: Any) -> list[Any]:
    powers = [[exp(value) for value in row] for row in x]
    probabilities = [[power / sum(row) for power in row] for row in powers]
    losses = [-log(row[label]) for row, label in zip(probabilities, labels, strict=True)]
    return [[sum(losses) / primitive.rows], probabilities]


def plain_sgd_update(primitive: SgdUpdate, w: Any, dw: Any, v: Any) -> list[Any]:
    velocity = primitive.momentum * v + dw if primitive.momentum else dw
    return [w - primitive.learning_rate * velocity, velocity if primitive.momentum else v]


# kind -> what the first pass writes, from the primitive and what it reads: the definitions, said
# in other ways than the kernels say them.
FORMULAS: dict[str, Any] = {
    "gemm": plain_gemm,
    "batched_gemm": plain_batched_gemm,
    "conv2d": plain_conv2d,
    "lstm_cell": plain_lstm_cell,
    "bias": lambda _, x, bias: [x + np.einsum("ncp,c->ncp", np.ones_like(x), bias)],
    "activation": lambda primitive, x: [[SCALAR[primitive.function](z) for z in x]],
    "pool2d": plain_pool2d,
    "lrn": plain_lrn,
    "batch_norm": plain_batch_norm,
    "dropout": lambda primitive, x, mask: [np.where(mask, x / (1 - primitive.rate), 0), mask],
    "softmax": plain_softmax,
    "layer_norm": plain_layer_norm,
    "transpose": plain_transpose,
    "scale": lambda primitive, x: [x * primitive.factor],
    "softmax_loss": plain_softmax_loss,
    "embedding": lambda primitive, ids, table: [np.eye(primitive.vocabulary)[ids] @ table],
    "add": lambda _, x, other: [x - -other],
    "pad_channels": lambda primitive, x: [
        np.einsum("oc,ncp->nop", np.eye(primitive.channels + primitive.added, x.shape[1]), x)
    ],
    "sgd_update": plain_sgd_update,
    "copy": lambda _, x: [x],
}


def first_pass_reads(primitive: Primitive, arrays: Arrays) -> list[Any]:
    """The operands of the first pass, and a dropout's mask after them."""
    mask = ["mask"] if primitive.kind == "dropout" else []
    return [arrays[name].copy() for name in [*primitive.reads[primitive.passes[0]], *mask]]


@every_kind
def test_kind_is_covered(kind: str) -> None:
    """A new kind needs sample sizes and a formula here, and a kernel for each of its passes."""
    assert any(sample.kind == kind for sample in SAMPLES), f"no sample of {kind}"
    assert kind in FORMULAS, f"no formula of {kind}"
    assert KERNELS[kind].keys() == PRIMITIVES[kind].reads.keys()


@every_sample
def test_first_pass_is_its_formula(primitive: Primitive) -> None:
    """The first pass computes what a plain reading of the definition gives."""
    arrays = draw(primitive)
    expected = FORMULAS[primitive.kind](primitive, *first_pass_reads(primitive, arrays))
    pass_ = primitive.passes[0]
    results = run(primitive, pass_, arrays)
    for name, values in zip(primitive.writes[pass_], expected, strict=True):
        np.testing.assert_allclose(results[name], values, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("primitive", DIFFERENTIABLE, ids=lambda sample: sample.label)
def test_gradients_are_finite_differences(primitive: Primitive) -> None:
    """Every gradient is the slope of a random projection of the output.

    With steps of 1e-5 the differences are off by 1e-10 from truncation and as much from rounding.
    """
    arrays = draw(primitive)
    results = run_all(primitive, arrays)
    projection = results[f"d{primitive.output}"] if primitive.output != "loss" else np.ones(1)

    def loss(name: str, values: Any) -> float:
        output = run(primitive, FORWARD, {**arrays, name: values})[primitive.output]
        return float(np.vdot(projection, output))

    names = [name for name in primitive.reads[FORWARD] if f"d{name}" in results]
    for name in (name for name in names if f"d{name}" not in arrays):
        slopes = np.empty(arrays[name].shape)
        for place in np.ndindex(*slopes.shape):
            step = np.zeros(slopes.shape)
            step[place] = 1e-5
            slopes[place] = loss(name, arrays[name] + step) - loss(name, arrays[name] - step)
        np.testing.assert_allclose(results[f"d{name}"], slopes / 2e-5, rtol=1e-7, atol=1e-8)


@every_sample
def test_results_have_the_declared_names_and_shapes(primitive: Primitive) -> None:
    """Each pass returns what it declares, in fresh memory, in the dtype of what it was given."""
    precise = run_all(primitive, draw(primitive))
    arrays = draw(primitive, "float32")
    for pass_ in primitive.passes:
        results = run(primitive, pass_, arrays)
        assert tuple(results) == primitive.writes[pass_]
        for name, values in results.items():
            operand = primitive.operand(name)
            assert (values.shape, str(values.dtype)) == (operand.shape, operand.dtype)
            assert values.flags.c_contiguous
            assert pass_ == UPDATE or name == "mask" or not shares_memory(values, arrays)
            np.testing.assert_allclose(values, precise[name], rtol=2e-4, atol=2e-5)
        arrays.update(results)


def shares_memory(values: Any, arrays: Arrays) -> bool:
    return any(np.shares_memory(values, other) for other in arrays.values())


@every_kind
def test_unknown_pass_is_refused(kind: str) -> None:
    primitive = next(sample for sample in SAMPLES if sample.kind == kind)
    with pytest.raises(
        ValueError, match=f"{kind}: no pass 'sideways'; known: {primitive.passes[0]}"
    ):
        run(primitive, "sideways", draw(primitive))


def test_neighbours_shapes_are_taken() -> None:
    """A convolution's output goes into a bias as it is; a wrong size is refused by name."""
    x, bias = np.random.default_rng(0).standard_normal((2, 3, 5, 7)), np.ones(3)
    y = run(Bias(2, 3, 35), FORWARD, {"x": x, "bias": bias})["y"]
    np.testing.assert_array_equal(y, x.reshape(2, 3, 35) + 1)
    with pytest.raises(ValueError, match=r"bias: x has shape \(2, 3, 5, 7\).*\(2, 3, 34\)"):
        run(Bias(2, 3, 34), FORWARD, {"x": x, "bias": bias})


def test_update_works_in_place() -> None:
    """Weights of any shape change where they lie; those that only a copy reaches are refused."""
    update, w, v = SgdUpdate(6, momentum=0.5, learning_rate=0.1), np.ones((2, 3)), np.ones(6)
    run(update, UPDATE, {"w": w, "dw": np.ones((2, 3)), "v": v})
    np.testing.assert_allclose(w, 0.85)
    np.testing.assert_allclose(v, 1.5)
    with pytest.raises(ValueError, match="w is updated in place and must be contiguous"):
        run(update, UPDATE, {"w": w.T, "dw": np.ones(6), "v": v})


small = st.integers(1, 3)
pairs = st.tuples(small, small)


@st.composite
def windows(draw: st.DrawFn, dilations: st.SearchStrategy[tuple[int, int]]) -> dict[str, Any]:
    """A kernel, padding narrower than it, stride, dilation, and an image that it fits in."""
    kernel, dilation = draw(pairs), draw(dilations)
    padding = [draw(st.integers(0, kernel[side // 2] - 1)) for side in range(4)]
    least = [
        dilation[axis] * (kernel[axis] - 1) + 1 - sum(padding[2 * axis : 2 * axis + 2])
        for axis in (0, 1)
    ]
    height, width = (draw(st.integers(max(1, size), max(1, size) + 4)) for size in least)
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    sizes = {"height": height, "width": width, "kernel": kernel, "stride": stride}
    return {**sizes, "padding": tuple(padding), "dilation": dilation}


@st.composite
def convolutions(draw: st.DrawFn) -> Conv2d:
    batch, inputs, outputs, groups = (draw(small) for _ in range(4))
    sizes = draw(windows(dilations=pairs))
    return Conv2d(
        batch=batch,
        in_channels=inputs * groups,
        out_channels=outputs * groups,
        groups=groups,
        **sizes,
    )


@st.composite
def pools(draw: st.DrawFn) -> Pool2d:
    sizes = draw(windows(dilations=st.just((1, 1))))
    del sizes["dilation"]
    function, ceil = draw(st.sampled_from(["max", "average"])), draw(st.booleans())
    return Pool2d(function, batch=draw(small), channels=draw(small), ceil=ceil, **sizes)


@settings(max_examples=60, deadline=None)
@given(primitive=st.one_of(convolutions(), pools()))
def test_windows_of_any_geometry(primitive: Primitive) -> None:
    """Convolutions and pools agree with nested loops whatever their windows."""
    test_first_pass_is_its_formula(primitive)


@settings(max_examples=60, deadline=None)
@given(primitive=convolutions())
def test_convolution_and_its_gradients_are_adjoint(primitive: Conv2d) -> None:
    """<conv(x, w), dy> = <x, dx> = <w, dw>: the passes are one trilinear form."""
    arrays = run_all(primitive, draw(primitive))
    form = np.vdot(arrays["y"], arrays["dy"])
    assert np.vdot(arrays["x"], arrays["dx"]) == pytest.approx(form, rel=1e-9, abs=1e-9)
    assert np.vdot(arrays["w"], arrays["dw"]) == pytest.approx(form, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(primitive=pools())
def test_pool_and_its_gradient_are_adjoint(primitive: Pool2d) -> None:
    """A pool is linear once its maxima are chosen: <y, dy> = <x, dx>."""
    arrays = run_all(primitive, draw(primitive))
    form = np.vdot(arrays["y"], arrays["dy"])
    assert np.vdot(arrays["x"], arrays["dx"]) == pytest.approx(form, rel=1e-9, abs=1e-9)
