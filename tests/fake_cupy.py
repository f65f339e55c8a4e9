"""A stand-in for CuPy without a GPU, as far as the engine uses it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from tests.cuda_as_c import ElementwiseKernel, ReductionKernel, on_device

DRIVER = 13010
TF32_SETTINGS = {"compute type": 0, "math mode": 0}


class FakeStream:
    """A queue whose work is done at once, and that can record calls."""

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking, "only a stream beside the default one records"
        self.recording: list[Any] | None = None
        self.done = 0

    def use(self) -> FakeStream:
        return self

    def synchronize(self) -> None:
        if self.recording is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: no waiting while it records")
        self.done += 1

    def begin_capture(self) -> None:
        assert self.recording is None, "it records already"
        self.recording = []

    def end_capture(self) -> Any:
        recorded, self.recording = self.recording, None
        assert recorded is not None
        return SimpleNamespace(launch=lambda stream: stream.done)


class FakeEvent:
    """A mark by the clock of the CPU."""

    def record(self, stream: Any) -> None:
        assert isinstance(stream, FakeStream)
        self.ns = time.perf_counter_ns()


class FakePool:
    """Memory that one part of the program takes."""

    taking = 0

    def malloc(self, size: int) -> None:
        raise AssertionError("arrays of NumPy have memory of their own")

    def free_all_blocks(self) -> None:
        self.freed = True


@contextmanager
def using_allocator(allocator: Callable[[int], None]) -> Iterator[None]:
    FakePool.taking += 1
    try:
        yield
    finally:
        FakePool.taking -= 1


def strided_products(dtype: Any) -> Callable[..., None]:
    """What cuBLAS does with batches of matrices that are stored by columns."""

    def multiply(
        handle: int,
        *sizes: int,
    ) -> None:
        trans_a, trans_b, m, n, k, alpha = sizes[:6]
        a, lda, stride_a, b, ldb, stride_b, beta, c, ldc, stride_c, batch = sizes[6:]
        assert number(alpha) == 1
        assert number(beta) == 0
        for place in range(batch):
            left = by_columns(a, place * stride_a, k if trans_a else m, m if trans_a else k, lda)
            right = by_columns(b, place * stride_b, n if trans_b else k, k if trans_b else n, ldb)
            target = by_columns(c, place * stride_c, m, n, ldc)
            target[...] = (left.T if trans_a else left) @ (right.T if trans_b else right)

    def number(pointer: int) -> Any:
        return by_columns(pointer, 0, 1, 1, 1)[0, 0]

    def by_columns(pointer: int, first: int, rows: int, columns: int, leading: int) -> Any:
        assert leading >= rows
        item = np.dtype(dtype).itemsize
        length = leading * (columns - 1) + rows
        memory = (ctypes.c_char * (length * item)).from_address(pointer + first * item)
        flat = np.frombuffer(memory, dtype)
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (item, leading * item))

    return multiply


def set_compute_type(dtype: Any, kind: int) -> None:
    assert np.dtype(dtype) == np.float32
    TF32_SETTINGS["compute type"] = kind


def set_math_mode(handle: int, mode: int) -> None:
    TF32_SETTINGS["math mode"] = mode


def made(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy that makes an array, or takes some of the device alone."""

    def on_the_device(*operands: Any, **options: Any) -> Any:
        found = function(*operands, **options)
        return on_device(found)

    return on_the_device


def module() -> ModuleType:
    """The module ``cupy``, as far as the engine uses it."""
    cupy: Any = ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    for name in ("array", "ascontiguousarray", "concatenate", "empty", "zeros"):
        setattr(cupy, name, made(getattr(np, name)))
    for name in ("add", "copyto", "dot", "empty_like", "zeros_like"):
        setattr(cupy, name, getattr(np, name))
    cupy.ElementwiseKernel, cupy.ReductionKernel = ElementwiseKernel, ReductionKernel
    linalg = SimpleNamespace(
        COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7, set_compute_type=set_compute_type
    )
    cupy._core = SimpleNamespace(_routines_linalg=linalg)
    random = np.random.default_rng(0)
    cupy.random = SimpleNamespace(
        standard_normal=lambda size, dtype: on_device(random.standard_normal(size, dtype))
    )
    pools = FakePool(), FakePool()
    cupy.get_default_memory_pool = lambda: pools[0]
    cupy.get_default_pinned_memory_pool = lambda: pools[1]
    cupy.cuda = SimpleNamespace(
        runtime=runtime(),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 1)),
        cublas=SimpleNamespace(
            sgemmStridedBatched=strided_products("float32"),
            dgemmStridedBatched=strided_products("float64"),
            setMathMode=set_math_mode,
        ),
        device=SimpleNamespace(get_cublas_handle=lambda: 1),
        Device=lambda number: SimpleNamespace(use=lambda: None, mem_info=(60 * 2**30, 80 * 2**30)),
        Stream=FakeStream,
        Event=FakeEvent,
        MemoryPool=FakePool,
        get_elapsed_time=lambda first, last: (last.ns - first.ns) / 1e6,
        using_allocator=using_allocator,
    )
    found: ModuleType = cupy
    return found


def runtime(driver: int = DRIVER, cards: int = 1, error: Exception | None = None) -> Any:
    """CUDA's runtime on a machine with such a driver and so many cards."""

    def count() -> int:
        if error is not None:
            raise error
        return cards

    properties = {"name": b"Fake GPU", "major": 9, "minor": 0, "l2CacheSize": 50 * 2**20}
    return SimpleNamespace(
        runtimeGetVersion=lambda: 13020,
        driverGetVersion=lambda: driver,
        getDeviceCount=count,
        getDeviceProperties=lambda number: properties,
    )
