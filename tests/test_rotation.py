"""Cold operands: copies take turns that together are larger than the caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernelprof.probes.compute_bound import Gemm
from kernelprof.probes.data import primitive_arrays
from kernelprof.probes.decompose import Kernel
from kernelprof.probes.engine import Call, Engine, Unsupported
from kernelprof.probes.memory_bound import Activation, SgdUpdate
from kernelprof.probes.primitive import (
    BACKWARD_DATA,
    CACHES,
    COLD,
    FORWARD,
    UPDATE,
    WARM,
    WEIGHTS_COLD,
    Primitive,
)
from kernelprof.probes.rotation import MOST_SETS, Rotation

GEMM = Gemm(8, 16, 32)
A, B = 8 * 32 * 4, 32 * 16 * 4  # bytes: what comes in, and the weights
DY = 8 * 16 * 4


class Recorder(Engine):
    """Writes down which arrays its calls work on."""

    def __init__(self) -> None:
        self.calls: list[list[dict[str, Any]]] = []

    def kernel(self, kernel: Kernel, arrays: list[dict[str, Any]], training: bool) -> Call:
        self.calls.append(arrays)
        return lambda: arrays


def kernel_of(primitive: Primitive, pass_: str) -> tuple[Kernel, list[dict[str, Any]]]:
    return (
        Kernel("layer", (primitive,), (pass_,), (0,)),
        [primitive_arrays(primitive, np.random.RandomState(1))],
    )


@pytest.mark.parametrize(
    ("primitive", "pass_", "cache", "size"),
    [
        (GEMM, FORWARD, WARM, 0),
        (GEMM, FORWARD, WEIGHTS_COLD, B),
        (GEMM, FORWARD, COLD, A + B),
        (GEMM, BACKWARD_DATA, WEIGHTS_COLD, B),
        (GEMM, BACKWARD_DATA, COLD, DY + B),
        (Activation("relu", 100), FORWARD, WEIGHTS_COLD, 0),
        (Activation("relu", 100), FORWARD, COLD, 400),
    ],
)
def test_what_is_cold(primitive, pass_, cache, size):
    assert Rotation(cache, 10**6).cold_bytes(*kernel_of(primitive, pass_)) == size


def test_all_of_an_update_are_weights():
    kernel, arrays = kernel_of(SgdUpdate(100, 0.9), UPDATE)
    cold = [Rotation(cache, 10**6).cold_bytes(kernel, arrays) for cache in CACHES]
    assert cold[0] == 0
    assert cold[1] == cold[2] == sum(array.nbytes for array in arrays[0].values())


@pytest.mark.parametrize("together", [1, B, 10 * B, 10 * B + 1])
def test_the_others_together_hold_what_drives_one_out(together):
    rotation, kernel = Rotation(WEIGHTS_COLD, together), kernel_of(GEMM, FORWARD)
    others = rotation.sets(*kernel) - 1
    assert (others - 1) * B < together <= others * B
    assert rotation.suffices(*kernel)


def test_tiny_operands_stay_lukewarm():
    rotation, kernel = Rotation(COLD, (MOST_SETS + 1) * (A + B)), kernel_of(GEMM, FORWARD)
    assert rotation.sets(*kernel) == MOST_SETS
    assert not rotation.suffices(*kernel)


def test_calls_work_on_one_copy_after_another():
    engine, (kernel, arrays) = Recorder(), kernel_of(GEMM, FORWARD)
    rotation = Rotation(WEIGHTS_COLD, 2 * B)
    call = rotation.call(engine, kernel, arrays, False, lambda: arrays)
    used = [call()[0] for _ in range(6)]
    assert used[0] is arrays[0]
    assert len({id(own["b"]) for own in used}) == 3
    assert [own["b"] is used[0]["b"] for own in used] == [True, False, False] * 2
    assert all(own["a"] is arrays[0]["a"] for own in used)  # what comes in stays warm
    assert all(np.array_equal(own["b"], arrays[0]["b"]) for own in used)


def test_cold_copies_everything_that_is_read():
    engine, (kernel, arrays) = Recorder(), kernel_of(GEMM, FORWARD)
    Rotation(COLD, 1).call(engine, kernel, arrays, False, lambda: arrays)
    (copied,) = engine.calls
    assert copied[0]["a"] is not arrays[0]["a"]
    assert copied[0]["b"] is not arrays[0]["b"]


def test_warm_is_the_call_itself():
    engine, (kernel, arrays) = Recorder(), kernel_of(GEMM, FORWARD)

    def first() -> None:
        pass

    assert Rotation().call(engine, kernel, arrays, False, first) is first
    assert engine.calls == []


def test_an_engine_that_copies_its_operands_has_no_cold_weights_alone():
    engine, (kernel, arrays) = Recorder(), kernel_of(GEMM, FORWARD)
    engine.shares_operands = False
    with pytest.raises(Unsupported, match="weights alone"):
        Rotation(WEIGHTS_COLD, 1).call(engine, kernel, arrays, False, lambda: None)
    Rotation(COLD, 1).call(engine, kernel, arrays, False, lambda: None)


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("bfloat16", 2), ("float64", 8)])
def test_bytes_are_those_that_the_engine_holds(dtype: str, each: int) -> None:
    kernel = Kernel("", (Gemm(8, 16, 32, dtype=dtype),), (FORWARD,), (0,))
    arrays = [primitive_arrays(kernel.primitives[0], np.random.RandomState(0))]
    assert Rotation(COLD).cold_bytes(kernel, arrays) == each * (8 * 32 + 32 * 16)
