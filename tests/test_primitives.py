"""Primitives say what they compute on: sizes, operands, flop and bytes, and they travel as JSON."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.probes.attention import LayerNorm, Scale, Softmax, Transpose
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell, window_extent
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
from kernelprof.probes.primitive import PASSES, SHORTER_FLOATS, Operand, Primitive
from kernelprof.probes.primitives import PRIMITIVES, primitive_from_json
from kernelprof.probes.reference import run

# Worked by hand: a primitive, and for each of its passes the flop and the least bytes.
WORKED: list[tuple[Primitive, list[tuple[int, int]]]] = [
    (Gemm(2, 3, 5), [(60, 124)] * 3),
    (Gemm(2, 3, 5, trans_a=True, trans_b=True, dtype="float64"), [(60, 248)] * 3),
    (Gemm(2, 3, 5, dtype="bfloat16"), [(60, 62)] * 3),
    (BatchedGemm(2, 3, 5, 7), [(420, 568), (840, 1016)]),
    (Conv2d(2, 4, 5, 6, 6, (3, 2), groups=2), [(4320, 1968)] * 3),
    (Conv2d(1, 1, 3, 3, 1, (3, 3), (2, 2), (1, 1, 1, 1)), [(72, 88)] * 3),
    (LstmCell(2, 3, 5, steps=2), [(1280, 928), (1280, 808), (1280, 888)]),
    (Bias(2, 3, 5), [(30, 252), (30, 132)]),
    (Activation("relu", 7), [(7, 56), (7, 84)]),
    (Activation("sigmoid", 7), [(21, 56), (21, 84)]),
    (Activation("tanh", 7, dtype="float64"), [(21, 112), (21, 168)]),
    (Activation("gelu", 7), [(35, 56), (77, 84)]),
    (Pool2d("max", 2, 3, 5, 5, (3, 3), (2, 2)), [(216, 696)] * 2),
    (Pool2d("average", 2, 3, 5, 5, (3, 3), (2, 2)), [(216, 696)] * 2),
    (LocalResponseNorm(2, 3, 4), [(216, 192), (216, 288)]),
    (BatchNorm(2, 3, 4, training=True), [(120, 240), (120, 300), (120, 216)]),
    (Softmax(3, 5), [(75, 120), (60, 180)]),
    (LayerNorm(3, 5), [(105, 160), (150, 200), (75, 160)]),
    (Transpose(2, 3, 4), [(0, 192)] * 2),
    (Scale(5, 0.5), [(5, 40)] * 2),
    (Dropout(8), [(16, 64)] * 2),
    (SoftmaxLoss(3, 5), [(60, 88), (60, 84)]),
    (Embedding(4, 10, 3), [(0, 128), (12, 200)]),
    (Embedding(40, 10, 3), [(0, 920), (120, 920)]),
    (Add(5), [(5, 60)]),
    (PadChannels(2, 3, 5, added=2), [(0, 320), (0, 240)]),
    (SgdUpdate(6), [(12, 72)]),
    (SgdUpdate(6, momentum=0.9), [(24, 120)]),
    (Copy(5), [(0, 40)]),
]
SAMPLES = [primitive for primitive, _ in WORKED]


def sample(kind: str) -> Primitive:
    """The first sample of a kind."""
    found = [primitive for primitive in SAMPLES if primitive.kind == kind]
    assert found, f"no sample of {kind}: add one to WORKED"
    return found[0]


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_kind_is_registered_under_its_own_name(kind: str) -> None:
    """Every kind has a sample here, and the registry finds its class by its name."""
    assert PRIMITIVES[kind].kind == kind
    assert type(sample(kind)) is PRIMITIVES[kind]


@pytest.mark.parametrize("primitive", SAMPLES, ids=lambda primitive: primitive.label)
def test_json_round_trip(primitive: Primitive) -> None:
    """A primitive comes back from JSON text as it was, label included."""
    back = primitive_from_json(json.loads(json.dumps(primitive.to_json())))
    assert back == primitive
    assert hash(back) == hash(primitive)
    assert back.label == primitive.label


def test_labels_tell_samples_apart() -> None:
    """No two primitives share a label, which starts with the kind."""
    labels = [primitive.label for primitive in SAMPLES]
    assert len(set(labels)) == len(labels)
    assert all(label.split()[0] in PRIMITIVES for label in labels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "gem", "m": 1, "n": 1, "k": 1}, "unknown primitive 'gem'; known: gemm"),
        ({"m": 1, "n": 1, "k": 1}, "unknown primitive None"),
        ({"kind": "gemm", "m": 1, "n": 1}, "gemm: .*'k'"),
        ({"kind": "gemm", "m": 1, "n": 1, "k": 1, "depth": 2}, "gemm: .*'depth'"),
        ({"kind": "gemm", "m": 1, "n": 1, "k": 1.5}, "gemm: k must be a whole number"),
    ],
)
def test_json_of_no_primitive_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        primitive_from_json(data)


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_operands_resolve(kind: str) -> None:
    """Every name that a pass reads or writes is an operand or a gradient of one."""
    primitive = sample(kind)
    assert primitive.reads.keys() == primitive.writes.keys() == set(primitive.passes)
    assert list(primitive.passes) == [pass_ for pass_ in PASSES if pass_ in primitive.passes]
    named = [primitive.input, primitive.output]
    for pass_ in primitive.passes:
        named += primitive.reads[pass_] + primitive.writes[pass_]
    assert all(isinstance(primitive.operand(name), Operand) for name in named)


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_later_passes_read_what_is_at_hand(kind: str) -> None:
    """A pass reads inputs of the first pass, results of earlier ones, or the output's gradient."""
    primitive = sample(kind)
    known = {*primitive.reads[primitive.passes[0]], f"d{primitive.output}"}
    for pass_ in primitive.passes:
        assert set(primitive.reads[pass_]) <= known
        known.update(primitive.writes[pass_])


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_gradient_has_its_operands_shape(kind: str) -> None:
    primitive = sample(kind)
    for name, operand in primitive.operands().items():
        gradient = primitive.operand(f"d{name}")
        assert (gradient.shape, gradient.dtype) == (operand.shape, operand.dtype)


@pytest.mark.parametrize("name", ["z", "dz", "ddw", ""])
def test_unknown_operand_is_refused(name: str) -> None:
    with pytest.raises(KeyError):
        SAMPLES[2].operand(name)


@pytest.mark.parametrize(("primitive", "costs"), WORKED, ids=[p.label for p in SAMPLES])
def test_flop_and_bytes_worked_by_hand(primitive: Primitive, costs: list[tuple[int, int]]) -> None:
    """Flop and least bytes of every pass are those of a calculation on paper."""
    computed = [(primitive.flop(pass_), primitive.least_bytes(pass_)) for pass_ in primitive.passes]
    assert computed == costs


small = st.integers(1, 4)


@given(m=small, n=small, k=small)
def test_gemm_flop_counted(m: int, n: int, k: int) -> None:
    """One multiply-add for each element of the result and each of the sum's terms."""
    terms = list(combinations(range(m), range(n), range(k)))
    assert Gemm(m, n, k).flop("forward") == 2 * len(terms)


@given(batch=small, m=small, n=small, k=small)
def test_batched_gemm_flop_are_those_of_its_products(batch: int, m: int, n: int, k: int) -> None:
    """One for each matrix forwards, and as many again for each factor's gradient."""
    primitive, one = BatchedGemm(batch, m, n, k), Gemm(m, n, k).flop("forward")
    assert primitive.flop("forward") == batch * one
    assert primitive.flop("backward_data") == 2 * batch * one
    assert primitive.parameters == ()


@given(batch=small, channels=small, outputs=small, groups=small, pad=st.integers(0, 2))
def test_conv2d_flop_counted(
    batch: int, channels: int, outputs: int, groups: int, pad: int
) -> None:
    """A filter meets, in each of its windows, the pixels of its own group's channels."""
    primitive = Conv2d(
        batch,
        groups * channels,
        6,
        5,
        groups * outputs,
        (3, 2),
        (2, 1),
        (pad, 0, 0, 1),
        (1, 2),
        groups,
    )
    tops = [top for top in range(0, 6 + pad, 2) if top + 3 <= 6 + pad]
    lefts = [left for left in range(5 + 1) if left + 3 <= 5 + 1]
    filters = range(groups * outputs)
    window = list(combinations(range(channels), range(3), range(2)))
    counted = list(combinations(range(batch), filters, tops, lefts, window))
    assert primitive.flop("backward_data") == 2 * len(counted)


@given(batch=small, inputs=small, hidden=small, steps=small)
def test_lstm_cell_flop_is_that_of_its_products(
    batch: int, inputs: int, hidden: int, steps: int
) -> None:
    """Each step multiplies the input and the hidden state with four gates' weights."""
    cell = Gemm(batch, 4 * hidden, inputs).flop("forward")
    cell += Gemm(batch, 4 * hidden, hidden).flop("forward")
    assert LstmCell(batch, inputs, hidden, steps).flop("forward") == steps * cell


@pytest.mark.parametrize("kind", PRIMITIVES)
@pytest.mark.parametrize("wrong", [0, -3, True, 2.0, "2", None])
def test_size_that_is_none_is_refused(kind: str, wrong: object) -> None:
    """Every size of every kind must be a whole number from 1; the message names it."""
    primitive: Any = sample(kind)
    names = [field.name for field in fields(primitive) if field.type == "int"]
    assert names
    for name in names:
        with pytest.raises(ValueError, match=f"{kind}: {name} must be .* got {wrong!r}"):
            replace(primitive, **{name: wrong})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"groups": 3}, "groups=3 must divide in_channels=4"),
        ({"groups": 4}, "groups=4 .*out_channels=6"),
        ({"kernel": (6, 2)}, "a window of 6 does not fit in 5 pixels"),
        ({"dilation": (1, 6)}, "a window of 7 does not fit in 6 pixels"),
        ({"kernel": (0, 2)}, r"kernel=\(0, 2\)"),
        ({"stride": (1, 0)}, r"stride=\(1, 0\)"),
        ({"stride": (1, -1)}, r"stride must be 2 whole numbers from 0, got \(1, -1\)"),
        ({"dilation": (0, 1)}, r"dilation=\(0, 1\)"),
        (
            {"padding": (0, 0, -1, 0)},
            r"padding must be 4 whole numbers from 0, got \(0, 0, -1, 0\)",
        ),
        ({"padding": (0, 0)}, r"padding must be 4 whole numbers from 0, got \(0, 0\)"),
        ({"kernel": (3, 2, 1)}, r"kernel must be 2 whole numbers from 0, got \(3, 2, 1\)"),
        ({"kernel": 3}, "kernel must be 2 whole numbers from 0, got 3"),
        ({"kernel": [3, 2]}, r"kernel must be 2 whole numbers from 0, got \[3, 2\]"),
        ({"stride": (1, 2.0)}, r"stride must be 2 whole numbers from 0, got \(1, 2.0\)"),
        ({"dilation": (True, 1)}, r"dilation must be 2 whole numbers from 0, got \(True, 1\)"),
    ],
)
def test_impossible_convolution_is_refused(sizes: dict[str, Any], message: str) -> None:
    convolution = Conv2d(2, 4, 5, 6, 6, (3, 2), groups=2)
    with pytest.raises(ValueError, match=f"conv2d: .*{message}"):
        replace(convolution, **sizes)


@pytest.mark.parametrize(
    ("primitive", "sizes", "message"),
    [
        (sample("pool2d"), {"kernel": (3, 6)}, "pool2d: a window of 6 does not fit in 5 pixels"),
        (sample("pool2d"), {"stride": (0, 1)}, r"pool2d: .*stride=\(0, 1\)"),
        (sample("pool2d"), {"function": "median"}, "pool2d: function .*'max', 'average'.*'median'"),
        (
            sample("pool2d"),
            {"padding": (0, 3, 0, 0)},
            r"pool2d: padding \(0, 3, 0, 0\) must be small",
        ),
        (
            sample("pool2d"),
            {"padding": (0, 0, 3, 0)},
            r"padding .* smaller than the kernel \(3, 3\)",
        ),
        (sample("pool2d"), {"stride": 2}, "pool2d: stride must be 2 whole numbers from 0, got 2"),
        (sample("activation"), {"function": "step"}, "activation: function .*'relu'.*'step'"),
        (sample("dropout"), {"rate": 1.0}, "dropout: rate must be at least 0 and below 1, got 1.0"),
        (sample("dropout"), {"rate": -0.1}, "dropout: rate must be .* got -0.1"),
        (sample("dropout"), {"rate": float("nan")}, "dropout: rate must be .* got nan"),
    ],
)
def test_impossible_options_are_refused(
    primitive: Any, sizes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(primitive, **sizes)


def test_widest_padding_of_a_pool() -> None:
    """Every window then still holds a pixel."""
    assert Pool2d("max", 1, 1, 1, 1, (3, 3), (1, 1), (2, 2, 2, 2)).extent == (3, 3)


@pytest.mark.parametrize("kind", PRIMITIVES)
@pytest.mark.parametrize("wrong", [*SHORTER_FLOATS, "int64", "", None])
def test_dtype_that_is_not_computed_in_is_refused(kind: str, wrong: object) -> None:
    primitive: Any = sample(kind)
    if kind == "gemm" and wrong in SHORTER_FLOATS:
        return
    with pytest.raises(ValueError, match=f"{kind}: dtype must be one of .* got {wrong!r}"):
        replace(primitive, dtype=wrong)


# Worked by hand: what a table or a range shows.
LABELS: list[tuple[Primitive, str]] = [
    (Gemm(2, 3, 5), "gemm m=2 n=3 k=5"),
    (Gemm(2, 3, 5, trans_a=True, trans_b=True), "gemm m=2 n=3 k=5 trans_a trans_b"),
    (Gemm(2, 3, 5, trans_b=True, dtype="tf32"), "gemm m=2 n=3 k=5 trans_b tf32"),
    (BatchedGemm(2, 3, 5, 7, trans_b=True), "batched_gemm batch=2 m=3 n=5 k=7 trans_b"),
    (Conv2d(2, 4, 5, 6, 8, (3, 2)), "conv2d 2x4x5x6 to 8, 3x2"),
    (
        Conv2d(2, 4, 9, 9, 8, (3, 3), (2, 2), (1, 1, 1, 1), (2, 2), 2),
        "conv2d 2x4x9x9 to 8, 3x3 stride=2 pad=1 dilation=2 groups=2",
    ),
    (
        Conv2d(2, 4, 9, 9, 8, (3, 3), (2, 1), (1, 0, 1, 1)),
        "conv2d 2x4x9x9 to 8, 3x3 stride=2x1 pad=1x0x1x1",
    ),
    (LstmCell(2, 3, 5, steps=7), "lstm_cell batch=2 input=3 hidden=5 steps=7"),
    (
        Pool2d("max", 2, 3, 7, 5, (3, 3), (2, 2), (1, 1, 1, 1), ceil=True),
        "pool2d max 2x3x7x5, 3x3 stride=2 pad=1 ceil",
    ),
    (Activation("relu", 7), "activation relu 7"),
    (Softmax(3, 5), "softmax 3x5"),
    (LayerNorm(3, 5), "layer_norm 3x5"),
    (Transpose(2, 3, 4), "transpose 2x3x4"),
    (Scale(5, 0.5), "scale 5 factor=0.5"),
    (SgdUpdate(7, momentum=0.9), "sgd_update 7 momentum=0.9"),
]


@pytest.mark.parametrize(("primitive", "label"), LABELS)
def test_label_worked_by_hand(primitive: Primitive, label: str) -> None:
    assert primitive.label == label


@given(
    image=st.integers(1, 12),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 7),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    dilation=st.integers(1, 3),
    ceil=st.booleans(),
)
def test_window_extent_counts_windows(
    image: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil: bool
) -> None:
    """The extent is the number of windows that one finds by sliding, along either axis."""
    length = before + image + after
    reach = range(0, kernel * dilation, dilation)[-1] + 1
    ends = [start + reach for start in range(0, length, stride)]
    whole = [end for end in ends if end <= length]
    partial = [end for end in ends if end > length and end - reach < before + image]
    expected = len(whole)
    if ceil and whole and partial and whole[-1] != length:
        expected += 1

    def extent() -> tuple[int, int]:
        return window_extent(
            "pool2d",
            (image, 9),
            (kernel, 3),
            (stride, 2),
            (before, after, 0, 0),
            (dilation, 1),
            ceil,
        )

    if not whole:
        with pytest.raises(ValueError, match=f"window of {reach} does not fit in {image} pixels"):
            extent()
    else:
        assert extent() == (expected, 4)
        turned = window_extent(
            "pool2d",
            (9, image),
            (3, kernel),
            (2, stride),
            (0, 0, before, after),
            (1, dilation),
            ceil,
        )
        assert turned == (4, expected)


@pytest.mark.parametrize(
    "convolution",
    [
        Conv2d(2, 4, 5, 6, 6, (3, 2), groups=2),
        Conv2d(1, 3, 7, 7, 5, (5, 5), padding=(2, 2, 2, 2)),
        Conv2d(3, 6, 7, 11, 9, (2, 3), (1, 2), (0, 1, 1, 1), (2, 1), groups=3),
    ],
    ids=lambda convolution: convolution.label,
)
def test_least_flop_are_the_products_with_pixels(convolution: Conv2d) -> None:
    """A convolution of ones with ones counts them."""
    ones = {name: np.ones(convolution.operand(name).shape) for name in ("x", "w")}
    products = run(convolution, "forward", ones)["y"].sum()
    assert convolution.least_flop("forward") == 2 * products
    assert convolution.least_flop("forward") <= convolution.flop("forward")
