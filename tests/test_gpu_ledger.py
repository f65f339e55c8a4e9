"""The ledger on a GPU: it adds up, and every instant has the owner that it should have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelprof.diagnosis.ledger import COPIES, KERNELS, RESIDUAL, UPDATING, Ledger
from kernelprof.diagnosis.ledger_on_gpu import (
    ALLOCATING,
    AWAITED,
    FROM_GPU,
    GPU_PARTS,
    LAUNCHING,
    TO_GPU,
    WAITING,
    gpu_times,
    ledger_on_gpu,
    operations_s,
    part_of,
)
from kernelprof.diagnosis.own_times import Owner
from kernelprof.probes.spans import COPY, DEVICE_THREAD, DISPATCH, KERNEL, UPDATE, Span

MOMENTS = st.integers(0, 600)
NAMES = ("aten::mm", "cudaMalloc", "cudaStreamSynchronize", "cudaLaunchKernel")
HTOD, DTOH = "Memcpy HtoD (Pageable -> Device)", "Memcpy DtoH (Device -> Pinned)"
DTOD = "Memcpy DtoD (Device -> Device)"


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start, length = draw(MOMENTS), draw(MOMENTS)
    if draw(st.booleans()):
        what, name = draw(st.sampled_from([(KERNEL, "sgemm"), (COPY, HTOD), (UPDATE, "sgd")]))
        layer = draw(st.sampled_from(["", "conv", "fc"]))
        return Span(name, layer, what, start, start + length, DEVICE_THREAD)
    name = draw(st.sampled_from(NAMES))
    return Span(name, "", DISPATCH, start, start + length, draw(st.integers(0, 1)))


@given(st.integers(1, 900), st.lists(spans(), max_size=14))
def test_every_instant_belongs_to_the_gpus_work_or_to_what_it_waits_for(
    duration_ns: int, some: list[Span]
) -> None:
    """Against a walk through the nanoseconds, one by one."""
    ordered = sorted(some, key=lambda span: (span.start_ns, -min(span.end_ns, duration_ns)))
    expected: dict[tuple[str, ...], int] = {}
    for moment in range(duration_ns):
        going = [span for span in ordered if span.start_ns <= moment < span.end_ns]
        working = [span for span in going if span.thread == DEVICE_THREAD]
        if working:
            owner: tuple[str, ...] = working[-1].layer, working[-1].what, working[-1].name
        elif going:
            owner = "", AWAITED, "the CPU"  # of several threads that began in the same idling any
        else:
            owner = ("nobody",)
        expected[owner] = expected.get(owner, 0) + 1
    times = gpu_times(duration_ns, some)
    found: dict[tuple[str, ...], float] = {}
    for own, ns in times.by_owner.items():
        key = ("", AWAITED, "the CPU") if own.what == AWAITED else tuple(own)
        found[key] = found.get(key, 0.0) + ns
    found["nobody",] = times.lead_ns + times.gap_ns
    assert {key: ns for key, ns in found.items() if ns} == pytest.approx(expected)


@given(
    st.integers(1, 900),
    st.lists(spans(), max_size=14),
    st.floats(1e-8, 2e-6),
    st.floats(1e-8, 1.0),
)
def test_parts_add_up_and_none_is_negative(
    duration_ns: int, some: list[Span], plain_s: float, measured_s: float
) -> None:
    found = ledger_on_gpu(gpu_times(duration_ns, some), measured_s, plain_s)
    assert sum(part.seconds for part in found.parts) == pytest.approx(measured_s)
    assert all(part.seconds >= -1e-9 * measured_s for part in found.parts)
    assert {part.part for part in found.parts} <= set(GPU_PARTS)


def planted(profiler_ns: int = 0) -> list[Span]:
    """A call of 1,000 ns: a copy in, two layers that the GPU waits for, an update, the end."""
    late = profiler_ns
    return [
        Span("step", "", DISPATCH, 0, 700 + late),
        Span(HTOD, "", COPY, 100, 200, DEVICE_THREAD),
        Span("cudaMalloc", "", DISPATCH, 200, 250),
        Span("conv_kernel", "conv", KERNEL, 300 + late, 500 + late, DEVICE_THREAD),
        Span("gemm", "fc", KERNEL, 500 + late, 700 + late, DEVICE_THREAD),
        Span("multi_tensor", "fc", UPDATE, 700 + late, 800 + late, DEVICE_THREAD),
        Span(DTOD, "fc", COPY, 800 + late, 820 + late, DEVICE_THREAD),
        Span(DTOH, "", COPY, 820 + late, 840 + late, DEVICE_THREAD),
        Span("cudaStreamSynchronize", "", DISPATCH, 710 + late, 960 + late),
    ]


def by_part(found: Ledger) -> dict[str, int]:
    return {part: round(found.seconds(part) * 1e9) for part in GPU_PARTS}


@pytest.mark.parametrize("profiler_ns", [0, 80])
def test_the_truth_is_found_whatever_the_profiler_costs(profiler_ns: int) -> None:
    found = ledger_on_gpu(gpu_times(1000 + profiler_ns, planted(profiler_ns)), 1e-6, 1e-6)
    parts = by_part(found)
    work = {KERNELS: 400, UPDATING: 100, TO_GPU: 100, COPIES: 20, FROM_GPU: 20}
    assert {part: parts[part] for part in work} == work
    assert parts[LAUNCHING] + parts[ALLOCATING] + parts[WAITING] + parts[RESIDUAL] == 360
    if not profiler_ns:
        idle = {LAUNCHING: 150, ALLOCATING: 50, WAITING: 120, RESIDUAL: 40}
        assert {part: parts[part] for part in idle} == idle
    assert found.of_layer(KERNELS, "conv") == pytest.approx(200e-9)
    assert found.in_network_s == pytest.approx({"conv": 200e-9, "fc": 220e-9})
    assert found.profiler_share == pytest.approx(profiler_ns / 1000)


def test_a_slower_run_has_the_same_shares() -> None:
    slow = ledger_on_gpu(gpu_times(1000, planted()), 3e-6, 1e-6)
    assert by_part(slow)[KERNELS] == 1200
    assert operations_s(gpu_times(1000, planted()), 3e-6, 1e-6)[HTOD] == pytest.approx(300e-9)


@pytest.mark.parametrize(
    ("what", "name", "part"),
    [
        (COPY, "MemcpyH2D", TO_GPU),
        (COPY, "MemcpyD2H", FROM_GPU),
        (COPY, "Memset (Device)", COPIES),
        (COPY, "a kernel that may fetch2d", COPIES),
        (AWAITED, "cudaFree", ALLOCATING),
        (AWAITED, "cuMemAllocAsync", ALLOCATING),
        (AWAITED, "cudaDeviceSynchronize", WAITING),
        (AWAITED, "aten::empty", LAUNCHING),
        (DISPATCH, "a kernel of no kind", KERNELS),
    ],
)
def test_names_of_profilers(what: str, name: str, part: str) -> None:
    assert part_of(Owner("", what, name)) == part


def test_a_profiler_without_the_cpu_leaves_idling_unexplained() -> None:
    device = [span for span in planted() if span.thread == DEVICE_THREAD]
    parts = by_part(ledger_on_gpu(gpu_times(1000, device), 1e-6, 1e-6))
    assert (parts[RESIDUAL], parts[LAUNCHING]) == (360, 0)
