"""The oracle accepts what is right, refuses what is wrong, and cuts large kernels soundly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelprof.probes import oracle
from kernelprof.probes.attention import LayerNorm, Scale, Softmax, Transpose
from kernelprof.probes.compute_bound import BatchedGemm, Conv2d, Gemm, LstmCell
from kernelprof.probes.data import Arrays, primitive_arrays, rounded
from kernelprof.probes.decompose import Kernel
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
from kernelprof.probes.oracle import Check, WrongResultError, expected, relative_error, results
from kernelprof.probes.primitive import (
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    SHORTER_FLOATS,
    UPDATE,
    Primitive,
)
from kernelprof.probes.primitives import PRIMITIVES

SAMPLES: list[Primitive] = [
    Gemm(5, 7, 11),
    Gemm(5, 7, 11, trans_a=True, trans_b=True),
    BatchedGemm(3, 5, 7, 11, trans_b=True),
    Conv2d(2, 3, 7, 5, 4, (3, 2), (2, 1), (1, 0, 2, 1)),
    Conv2d(2, 4, 7, 5, 6, (3, 3), groups=2),
    LstmCell(3, 5, 2, steps=4),
    Bias(3, 5, 7),
    *[Activation(function, 23) for function in ("relu", "sigmoid", "tanh", "gelu")],
    Pool2d("max", 2, 3, 7, 5, (3, 2), (2, 1)),
    Pool2d("average", 2, 3, 7, 5, (3, 2), (2, 1)),
    LocalResponseNorm(2, 7, 3, alpha=0.5),
    BatchNorm(5, 3, 4, training=True),
    BatchNorm(5, 3, 4),
    Dropout(31, rate=0.3),
    Softmax(5, 7),
    LayerNorm(5, 7),
    Transpose(5, 3, 7),
    Scale(31),
    SoftmaxLoss(5, 7),
    Embedding(11, 5, 3),
    Add(13),
    PadChannels(3, 5, 7, added=2),
    SgdUpdate(13, learning_rate=0.1),
    SgdUpdate(13, momentum=0.9, learning_rate=0.1),
    Copy(13),
]
KERNELS = [
    Kernel("layer", (primitive,), (pass_,), () if pass_ == UPDATE else (0,))
    for primitive in SAMPLES
    for pass_ in primitive.passes
]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.label)


def test_every_kind_is_covered() -> None:
    assert {primitive.kind for primitive in SAMPLES} == PRIMITIVES.keys()


def draw(kernel: Kernel, seed: int = 0) -> list[Arrays]:
    random = np.random.RandomState(seed)
    return [primitive_arrays(primitive, random) for primitive in kernel.primitives]


def computed(kernel: Kernel, arrays: list[Arrays], dtype: str = "float32") -> Arrays:
    """What the reference kernels yield in a floating-point type, on copies of the arrays."""
    states = [
        {
            name: array.astype(dtype) if array.dtype.kind == "f" else array.copy()
            for name, array in own.items()
        }
        for own in arrays
    ]
    return {name: array.copy() for name, array in expected(kernel, states).items()}


@every_kernel
def test_right_result_is_accepted(kernel: Kernel) -> None:
    arrays = draw(kernel)
    assert Check(kernel, arrays).verify(computed(kernel, arrays)) < 1e-5


def wrong_results(kernel: Kernel, got: Arrays) -> list[tuple[str, Arrays]]:
    """The results with one fault each, and what the message says of it."""
    wrongs: list[tuple[str, Arrays]] = []
    for name, array in got.items():
        largest = np.abs(array).max() or 1.0
        for place in {0, array.size // 2, array.size - 1}:
            for value in (array.reshape(-1)[place] + 1e-3 * largest, np.nan, np.inf):
                faulty = array.copy()
                faulty.reshape(-1)[place] = value
                wrongs.append((f"{name} is off", {**got, name: faulty}))
        wrongs += [
            (f"{name} has shape", {**got, name: np.append(array, array.reshape(-1)[:1])}),
            (f"{name} has shape", {**got, name: array.reshape(-1)[:-1]}),
            (f"{name}' is missing", {other: got[other] for other in got if other != name}),
        ]
    return wrongs


@every_kernel
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_one_wrong_element_is_refused(kernel: Kernel) -> None:
    """Off by a thousandth of the largest, not a number, of another size, or not there."""
    arrays = draw(kernel)
    check = Check(kernel, arrays)
    for message, wrong in wrong_results(kernel, computed(kernel, arrays)):
        with pytest.raises(WrongResultError, match=message) as refused:
            check.verify(wrong)
        assert str(refused.value).startswith(kernel.label)
        check = Check(kernel, arrays)  # an update changes what a check holds


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS])
@pytest.mark.parametrize("dtype", SHORTER_FLOATS)
def test_a_product_is_held_against_what_its_dtype_can_hold(dtype: str, pass_: str) -> None:
    """Its own rounding is accepted; that of a dtype of four bits less is not."""
    kernel = Kernel("layer", (Gemm(16, 24, 32, dtype=dtype),), (pass_,), (0,))
    arrays = draw(kernel)
    exact = computed(kernel, arrays)
    ((name, result),) = exact.items()
    own = {name: result if dtype == "tf32" else rounded(result, dtype)}
    assert Check(kernel, arrays).verify(own) <= oracle.tolerance(kernel)
    mantissa, exponent = np.frexp(result)
    bits = {"float16": 7, "bfloat16": 4, "tf32": 11}[dtype]
    coarse = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    with pytest.raises(WrongResultError, match=f"{name} is off"):
        Check(kernel, arrays).verify({name: coarse})


def test_products_that_may_use_tf32_are_held_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where that is asked for, and nothing but products."""
    kernel = Kernel("layer", (Gemm(64, 64, 128),), (FORWARD,), (0,))
    arrays = draw(kernel)
    factors = [{name: rounded(array, "tf32") for name, array in own.items()} for own in arrays]
    got = computed(kernel, factors)
    with pytest.raises(WrongResultError, match="c is off"):
        Check(kernel, arrays).verify(got)
    monkeypatch.setenv("KERNELPROF_TF32", "1")
    assert Check(kernel, arrays).verify(got) > oracle.TOLERANCE
    relu = Kernel("layer", (Activation("relu", 64),), (FORWARD,), (0,))
    assert oracle.tolerance(relu) == oracle.TOLERANCE


def test_check_is_made_before_the_kernel_overwrites_its_operands() -> None:
    kernel = Kernel("layer", (SgdUpdate(13, learning_rate=0.1),), (UPDATE,))
    arrays = draw(kernel)
    check = Check(kernel, arrays)
    right = computed(kernel, arrays)
    arrays[0]["w"][:] = right["w0"]
    check.verify({"w0": arrays[0]["w"]})


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD_DATA])
def test_dropout_is_checked_against_what_it_kept(pass_: str) -> None:
    """Which elements those are only the engine can tell; that they are scaled up is checked."""
    kernel = Kernel("layer", (Dropout(1000, rate=0.3),), (pass_,), (0,))
    arrays = draw(kernel)
    source, name = (arrays[0]["x"], "y") if pass_ == FORWARD else (arrays[0]["dy"], "dx")
    kept = np.random.default_rng(5).random(1000) >= 0.3
    Check(kernel, arrays).verify({name: source * kept / np.float32(0.7)})
    for wrong in (source * kept, source):
        with pytest.raises(WrongResultError, match="is off"):
            Check(kernel, arrays).verify({name: wrong})


def test_relative_error_is_relative_to_the_largest() -> None:
    want = np.array([[4.0, -8.0], [0.0, 1.0]])
    assert relative_error(want * [[1, 1], [1, 1.4]], want) == pytest.approx(0.05)
    assert relative_error(np.array([3.0, 0.0]), np.zeros(2)) == 3.0
    assert relative_error(np.empty(0), np.empty(0)) == 0.0


CONVOLUTION = Conv2d(2, 3, 7, 5, 4, (3, 2))
CONVOLUTION_BIAS = (CONVOLUTION, Bias(2, 4, 5 * 4))
GEMM_BIAS = (Gemm(5, 7, 11, trans_b=True), Bias(5, 7))


@pytest.mark.parametrize(
    ("primitives", "passes", "names"),
    [
        (CONVOLUTION_BIAS, (FORWARD,), ["y"]),
        (CONVOLUTION_BIAS, (BACKWARD_WEIGHTS,), ["dw", "dbias"]),
        (CONVOLUTION_BIAS, (BACKWARD_DATA,), ["dx"]),
        (GEMM_BIAS, (FORWARD,), ["y"]),
        (GEMM_BIAS, (BACKWARD_DATA, BACKWARD_WEIGHTS), ["da", "db", "dbias"]),
        (
            (LstmCell(3, 5, 2, steps=4),),
            (BACKWARD_DATA, BACKWARD_WEIGHTS),
            ["dx", "dwx", "dwh", "dbias"],
        ),
    ],
)
def test_fused_kernels_are_accepted_and_refused(
    primitives: tuple[Primitive, ...], passes: tuple[str, ...], names: list[str]
) -> None:
    kernel = Kernel("layer", primitives, passes, tuple(range(len(primitives))))
    assert [result.name for result in results(kernel)] == names
    arrays = draw(kernel)
    got = computed(kernel, arrays)
    assert list(got) == names
    assert Check(kernel, arrays).verify(got) < 1e-5
    for message, wrong in wrong_results(kernel, got):
        with pytest.raises(WrongResultError, match=message):
            Check(kernel, arrays).verify(wrong)


def test_fused_forward_is_the_sum_of_its_parts() -> None:
    kernel = Kernel("layer", GEMM_BIAS, (FORWARD,), (0, 1))
    arrays = draw(kernel)
    product = arrays[0]["a"].astype("float64") @ arrays[0]["b"].astype("float64").T
    got = computed(kernel, arrays, "float64")["y"].reshape(5, 7)
    np.testing.assert_allclose(got, product + arrays[1]["bias"], rtol=1e-12)


size = st.integers(1, 9)
SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def cuttable(draw_: st.DrawFn) -> Kernel:
    """A kernel of any kind that is cut, alone or with its bias, in any of its passes."""
    n, m, k = draw_(st.tuples(st.integers(4, 14), st.integers(4, 14), size))
    image = {"height": draw_(st.integers(3, 6)), "width": draw_(st.integers(3, 6))}
    groups = draw_(st.sampled_from([1, 1, 2]))
    convolution = Conv2d(
        n, groups * k, out_channels=groups * m, kernel=(3, 2), groups=groups, **image
    )
    gemm = Gemm(n, m, k, draw_(st.booleans()), draw_(st.booleans()))
    extent = convolution.extent[0] * convolution.extent[1]
    chains: list[tuple[Primitive, ...]] = [
        (convolution,),
        (gemm,),
        (convolution, Bias(n, groups * m, extent)),
        (gemm, Bias(n, m)),
        (LstmCell(n, k, 3, steps=2),),
        (Bias(n, m, k),),
        (Activation("tanh", n * m),),
        (Pool2d("max", n, m, kernel=(2, 2), stride=(2, 2), **image),),
        (Pool2d("average", n, m, kernel=(2, 2), stride=(2, 1), **image),),
        (Embedding(n, m, k),),
        (Add(n * m),),
        (SgdUpdate(n * m, momentum=0.9),),
        (SoftmaxLoss(n, m),),
        (BatchedGemm(n, m, k, 5, draw_(st.booleans()), draw_(st.booleans())),),
        (Softmax(n, m),),
        (LayerNorm(n, m),),
        (Transpose(n, m, k),),
        (Scale(n * m),),
        (LocalResponseNorm(n, m, k),),
        (BatchNorm(n, m, 3, training=True),),
    ]
    chain = draw_(st.sampled_from(chains))
    passes = [pass_ for pass_ in chain[0].passes if pass_ != BACKWARD_DATA or len(chain) == 1]
    pass_ = draw_(st.sampled_from(passes))
    return Kernel("layer", chain, (pass_,), () if pass_ == UPDATE else tuple(range(len(chain))))


@SETTINGS
@given(kernel=cuttable(), seed=st.integers(0, 99))
def test_results_of_a_cut_kernel_are_the_cut_of_its_results(kernel: Kernel, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "PART_FLOP", 1)
        patch.setattr(oracle, "PART_BYTES", 1)
        arrays = draw(kernel, seed)
        check = Check(kernel, arrays)
        whole = computed(kernel, arrays, "float64")
        part = expected(check.cut.kernel, check.states)
        for name, place, operand in results(kernel):
            shape = kernel.primitives[place].operand(operand).shape
            want = check.cut.part(place, operand, whole[name].reshape(shape))
            got = part[name].reshape(want.shape)
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)
        assert Check(kernel, arrays).verify(computed(kernel, arrays)) < 1e-4


CUT_TO: list[tuple[Any, dict[str, int]]] = [
    ((Gemm(64, 96, 32), FORWARD), {"m": 4, "n": 4}),
    ((Gemm(64, 96, 32), BACKWARD_DATA), {"m": 4, "k": 4}),
    ((Gemm(64, 96, 32), BACKWARD_WEIGHTS), {"n": 4, "k": 4}),
    ((BatchedGemm(8, 16, 12, 9), FORWARD), {"batch": 4, "m": 4, "n": 4}),
    ((BatchedGemm(8, 16, 12, 9), BACKWARD_DATA), {"batch": 4, "k": 4}),
    ((Conv2d(8, 16, 9, 9, 12, (3, 3)), FORWARD), {"batch": 4, "out_channels": 4}),
    ((Conv2d(8, 16, 9, 9, 12, (3, 3)), BACKWARD_DATA), {"batch": 4, "in_channels": 4}),
    ((Conv2d(8, 16, 9, 9, 12, (3, 3)), BACKWARD_WEIGHTS), {"in_channels": 4, "out_channels": 4}),
    ((Conv2d(8, 16, 9, 9, 12, (3, 3), groups=4), FORWARD), {"batch": 4}),
    ((LstmCell(16, 8, 4, steps=3), FORWARD), {"batch": 4}),
    ((SgdUpdate(64), UPDATE), {"elements": 4}),
]


@pytest.mark.parametrize(("case", "sizes"), CUT_TO, ids=str)
def test_a_kernel_is_cut_along_what_is_not_summed(
    monkeypatch: pytest.MonkeyPatch, case: tuple[Primitive, str], sizes: dict[str, int]
) -> None:
    monkeypatch.setattr(oracle, "PART_FLOP", 1)
    monkeypatch.setattr(oracle, "PART_BYTES", 1)
    primitive, pass_ = case
    kernel = Kernel("layer", (primitive,), (pass_,), () if pass_ == UPDATE else (0,))
    cut = Check(kernel, draw(kernel)).cut
    small = cut.kernel.primitives[0]
    changed = {
        name: value for name, value in small.to_json().items() if value != primitive.to_json()[name]
    }
    assert changed == sizes
    for (_, name), places in cut.places.items():
        assert places[0] == 0
        assert places[-1] == primitive.to_json()[name] - 1


LARGE = [
    (Gemm(64, 2048, 26752, trans_b=True), Bias(64, 2048)),
    (Gemm(1024, 4096, 2048, trans_b=True), Bias(1024, 4096)),
    (Conv2d(16, 96, 27, 27, 256, (5, 5), padding=(2, 2, 2, 2)), Bias(16, 256, 729)),
]
GROUPED = Conv2d(16, 12, 9, 9, 12, (3, 3), groups=2), Bias(16, 12, 49)


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD_WEIGHTS])
@pytest.mark.parametrize("primitives", LARGE, ids=lambda chain: chain[0].label)
def test_large_kernels_are_checked_in_part(primitives: tuple[Primitive, ...], pass_: str) -> None:
    """The part is large enough to tell, and small enough to compute in a moment."""
    kernel = Kernel("layer", primitives, (pass_,), (0, 1))
    cut = oracle._cut(kernel)
    assert kernel.compute_flop > 10 * oracle.PART_FLOP
    assert oracle.PART_FLOP / 10 < cut.kernel.compute_flop < 3 * oracle.PART_FLOP


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD_WEIGHTS])
def test_a_bias_has_the_channels_of_its_grouped_convolution(
    monkeypatch: pytest.MonkeyPatch, pass_: str
) -> None:
    """The channels of a group are not cut, and so neither are those of the bias."""
    monkeypatch.setattr(oracle, "PART_FLOP", 1)
    kernel = Kernel("layer", GROUPED, (pass_,), (0, 1))
    arrays = draw(kernel)
    assert Check(kernel, arrays).verify(computed(kernel, arrays)) < 1e-4


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD_DATA])
def test_large_memory_bound_kernels_are_checked_in_part(pass_: str) -> None:
    kernel = Kernel("layer", (Activation("relu", 10**8),), (pass_,), (0,))
    small = oracle._cut(kernel).kernel
    assert oracle.PART_BYTES / 2 < small.least_bytes < 2 * oracle.PART_BYTES


def test_small_kernels_are_checked_whole() -> None:
    kernel = Kernel("layer", (Gemm(64, 96, 32),), (FORWARD,), (0,))
    assert oracle._cut(kernel).kernel == kernel
