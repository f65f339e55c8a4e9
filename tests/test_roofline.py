"""The roofline: the least time of a primitive, from planted ceilings."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.ceilings import DRAM, BytesCeiling, Ceilings, FlopCeiling, PlacementCeilings, Rate
from kernelprof.errors import KernelprofError
from kernelprof.probes.compute_bound import Conv2d, Gemm
from kernelprof.probes.memory_bound import Copy, Embedding, SgdUpdate
from kernelprof.probes.primitive import BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD, UPDATE
from kernelprof.roofline import COMPUTE, attainable, footprint_bytes, least_seconds

FLOP_PER_S = {"float32": 1e11, "float64": 5e10}
BYTES_PER_S = {"L1d": 2e11, "L2": 1e11, "L3": 5e10, DRAM: 1e10}
CAPACITY_BYTES = {"L1d": 32 * 2**10, "L2": 2**20, "L3": 32 * 2**20}
SIZES = st.integers(1, 3000)


def planted(flop_per_s: dict[str, float], bytes_per_s: dict[str, float]) -> PlacementCeilings:
    return PlacementCeilings(
        cpus=(0,),
        measured="now",
        clock_hz=Rate(1e9, 1e9, 1),
        arithmetic=tuple(
            FlopCeiling("avx2", dtype, Rate(rate, rate, 1), "14 fma")
            for dtype, rate in flop_per_s.items()
        ),
        memory=tuple(
            BytesCeiling(level, "read", 1, Rate(rate, rate, 1))
            for level, rate in bytes_per_s.items()
        ),
        capacity_bytes=CAPACITY_BYTES,
    )


CEILINGS = planted(FLOP_PER_S, BYTES_PER_S)
OF_ONE_THREAD = Ceilings("f", {1: CEILINGS})
NOISY = planted(FLOP_PER_S, {**BYTES_PER_S, "L2": 4e9, DRAM: 6e10})


def seconds(primitive, pass_=FORWARD, ceilings=CEILINGS):
    return attainable(primitive, pass_, ceilings).seconds


def test_a_large_product_is_bound_by_arithmetic():
    found = attainable(Gemm(1024, 1024, 1024), FORWARD, CEILINGS)
    assert found.bound == COMPUTE
    assert found.level == "L3"
    assert found.seconds == 2 * 1024**3 / 1e11
    assert seconds(Gemm(1024, 1024, 1024, dtype="float64")) == 2 * 1024**3 / 5e10


@pytest.mark.parametrize(
    ("elements", "level"),
    [(1000, "L1d"), (4096, "L1d"), (4097, "L2"), (10**6, "L3"), (10**7, DRAM)],
)
def test_a_copy_is_bound_by_the_level_that_holds_it(elements, level):
    found = attainable(Copy(elements), FORWARD, CEILINGS)
    assert found.bound == found.level == level
    assert found.seconds == pytest.approx(8 * elements / BYTES_PER_S[level])


@given(SIZES, SIZES, SIZES)
def test_never_below_either_bound(m, n, k):
    for pass_ in (FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS):
        primitive = Gemm(m, n, k)
        found = attainable(primitive, pass_, CEILINGS)
        assert found.seconds >= primitive.least_flop(pass_) / FLOP_PER_S["float32"]
        assert found.seconds >= primitive.least_bytes(pass_) / BYTES_PER_S[found.level]
        assert found.seconds in (found.compute_s, found.memory_s)


@pytest.mark.parametrize("ceilings", [CEILINGS, NOISY], ids=["clean", "noisy"])
@given(SIZES, SIZES, SIZES, st.integers(1, 500), st.sampled_from(["m", "n", "k"]))
def test_it_grows_with_sizes(ceilings, m, n, k, more, size):
    small = Gemm(m, n, k)
    large = dataclasses.replace(small, **{size: getattr(small, size) + more})
    assert seconds(large, ceilings=ceilings) > seconds(small, ceilings=ceilings)


@pytest.mark.parametrize("ceilings", [CEILINGS, NOISY], ids=["clean", "noisy"])
@given(st.integers(1, 10**8), st.integers(1, 10**7))
def test_copies_grow_too(ceilings, elements, more):
    longer = seconds(Copy(elements + more), ceilings=ceilings)
    assert longer > seconds(Copy(elements), ceilings=ceilings)


def test_what_is_read_and_written_takes_room_once():
    update = SgdUpdate(1000, momentum=0.9)
    assert update.least_bytes(UPDATE) == 5 * 4000
    assert footprint_bytes(update, UPDATE) == 3 * 4000
    assert seconds(update, UPDATE) == 5 * 4000 / BYTES_PER_S["L1d"]


def test_rows_that_are_not_looked_up_take_no_room():
    lookup = Embedding(tokens=10, vocabulary=10**6, size=64)
    assert footprint_bytes(lookup, FORWARD) == lookup.least_bytes(FORWARD) < 10**4
    assert attainable(lookup, FORWARD, CEILINGS).level == "L1d"


def test_what_was_not_measured_bounds_nothing():
    product = Gemm(512, 512, 512)
    no_flop, no_bytes = planted({}, BYTES_PER_S), planted(FLOP_PER_S, {})
    assert attainable(product, FORWARD, no_flop).bound == "L3"
    assert attainable(product, FORWARD, no_bytes).memory_s == 0
    assert attainable(product, FORWARD, no_bytes).bound == COMPUTE


@pytest.mark.parametrize(
    ("kernel", "stride", "of_cpu", "of_gpu"),
    [
        *(((1, 1), (1, 1), 1, 1), ((3, 3), (1, 1), 4, 4.5), ((3, 3), (2, 2), 1, 1)),
        *(((5, 5), (1, 1), 1, 12.5), ((11, 11), (4, 4), 1, 1)),
    ],
)
def test_algorithms_with_fewer_products(kernel, stride, of_cpu, of_gpu):
    """Which a GPU has for larger filters too; nothing is refused that one of them can reach."""
    conv = Conv2d(8, 64, 56, 56, 64, kernel, stride)
    no_bytes = planted(FLOP_PER_S, {})
    direct_s = seconds(conv, ceilings=no_bytes)
    for known, saving in ((no_bytes, of_cpu), (replace(no_bytes, cpus=()), of_gpu)):
        assert least_seconds([conv], [FORWARD], known) == pytest.approx(direct_s / saving)


def test_a_gpu_may_find_again_what_its_cache_holds_of_larger_data():
    known = replace(planted(FLOP_PER_S, BYTES_PER_S), cpus=(), capacity_bytes={"L2": 2**20})
    small, large = Copy(2**16), Copy(2**20)  # of 512 KiB and 8 MiB with both arrays
    assert least_seconds([small], [FORWARD], known) == pytest.approx(2**19 / BYTES_PER_S["L2"])
    assert least_seconds([large], [FORWARD], known) == pytest.approx(
        7 * 2**20 / BYTES_PER_S[DRAM] + 2**20 / BYTES_PER_S["L2"]
    )
    assert least_seconds([large], [FORWARD], known) < seconds(large, ceilings=known)
    of_cpu = replace(known, cpus=(0,))
    assert least_seconds([large], [FORWARD], of_cpu) == seconds(large, ceilings=known)


def test_products_in_tf32_are_bound_by_its_rate():
    on_gpu = planted({**FLOP_PER_S, "tf32": 8e11}, BYTES_PER_S)
    product = Gemm(1024, 1024, 1024)
    assert seconds(product, ceilings=on_gpu) == 2 * 1024**3 / 1e11
    assert seconds(product, ceilings=on_gpu.in_tf32()) == 2 * 1024**3 / 8e11
    assert CEILINGS.in_tf32() == CEILINGS


def test_a_thread_count_or_a_device_that_was_not_measured():
    known = replace(OF_ONE_THREAD, devices={"cuda:0": NOISY})
    with pytest.raises(KernelprofError, match="no ceilings of 2 threads"):
        known.at(2)
    assert known.of("cpu", 2) is None
    assert known.of("cuda:1", 1) is None
    assert known.of("cuda:0", 2) == NOISY
    assert known.of("cpu", 1) == CEILINGS
    assert Ceilings.from_json(known.to_json()) == known
    assert known.at(2, "cuda:0") == NOISY
    with pytest.raises(KernelprofError, match="run `kernelprof machine --device cuda:1`"):
        known.at(2, "cuda:1")
