"""The GPU that CuPy computes on: whether it can be used, its facts, and CuPy's tools there."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

import cupy
import numpy as np

from .cupy_sources import ELEMENTWISE, SUMS
from .cupy_toolbox import Toolbox
from .device import DeviceArrays, NoDeviceError
from .engine import Call

FIRST = 0  # a worker sees no other card than its own
BUSY = 46  # cudaErrorDevicesUnavailable
TF32_MATH = 3  # CUBLAS_TF32_TENSOR_OP_MATH, of which CuPy has no name
DEFAULT_MATH = 0
LARGEST_INDEX = 2**31 - 1
REMEDY = "install cupy-cuda13x[ctk]"


def require_gpu(device: str, runtime: Any = cupy.cuda.runtime) -> None:
    """Refuse a GPU that CUDA cannot use, as ``runtime`` tells.

    Raises:
        NoDeviceError: there is no driver, it is too old, or there is no such card.
    """
    built, driver = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    if not driver:
        raise NoDeviceError(f"cupy cannot use {device}: no NVIDIA driver is loaded on this machine")
    if driver // 1000 < built // 1000:
        raise NoDeviceError(
            f"cupy cannot use {device}: it is built for CUDA {_version(built)}, and the driver "
            f"knows none above {_version(driver)}; update the driver, or install "
            f"cupy-cuda{driver // 1000}x"
        )
    try:
        count = runtime.getDeviceCount()
    except RuntimeError as error:
        raise NoDeviceError(f"cupy cannot use {device}: {error}") from error
    if not count:
        raise NoDeviceError(f"cupy cannot use {device}: CUDA finds no such card")


def require_libraries() -> None:
    """Refuse to go on without those libraries of CUDA that every kernel needs.

    Raises:
        NoDeviceError: one is missing.
    """
    try:
        cupy.cuda.nvrtc.getVersion()
        cupy.cuda.cublas  # noqa: B018  it is loaded when it is asked for
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NoDeviceError(f"cupy finds no CUDA libraries: {reason}; {REMEDY}") from error


def open_stream(device: str, cuda: Any = cupy.cuda) -> Any:
    """A stream of its own, current from now on; it makes the context of this process on the card.

    Raises:
        NoDeviceError: the card does not take this process.
    """
    try:
        cuda.Device(FIRST).use()
        return cuda.Stream(non_blocking=True).use()
    except RuntimeError as error:
        reason = str(error)
        if getattr(error, "status", None) == BUSY:
            reason = "another process has it in exclusive use; `nvidia-smi` shows which"
        raise NoDeviceError(f"cupy cannot use {device}: {reason}") from error


def gpu_facts() -> dict[str, Any]:
    """The card, and the versions of CUDA."""
    properties = cupy.cuda.runtime.getDeviceProperties(FIRST)
    free_bytes, memory_bytes = cupy.cuda.Device(FIRST).mem_info
    return {
        "cuda": _version(cupy.cuda.runtime.runtimeGetVersion()),
        "cuda_driver": _version(cupy.cuda.runtime.driverGetVersion()),
        "device_name": properties["name"].decode(),
        "device_capability": f"{properties['major']}.{properties['minor']}",
        "device_memory_bytes": memory_bytes,
        "device_memory_free_bytes": free_bytes,
    }


def _version(number: int) -> str:
    """A version as CUDA counts them.

    >>> _version(13020)
    '13.2'
    """
    return f"{number // 1000}.{number % 1000 // 10}"


class CupyToolbox(Toolbox):
    """CuPy on its current stream.

    What is placed on the GPU stays there as long as the array that it came from: kernels that are
    given the same one work on the same memory.
    """

    xp = cupy

    def __init__(self, tf32: bool) -> None:
        self.tf32 = tf32
        self._placed: dict[int, tuple[Any, Any]] = {}
        self._allow_tf32(tf32)

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """In which it multiplies; for bfloat16 CuPy needs the package ml_dtypes."""
        try:
            np.dtype("bfloat16")
        except TypeError:
            return "float32", "float64", "float16", "tf32"
        return "float32", "float64", "float16", "tf32", "bfloat16"

    def place(self, array: Any) -> Any:
        """An array on the GPU, in memory of its own."""
        return cupy.array(array, order="C")

    def placed(self, array: Any, dtype: str) -> Any:
        """An array on the GPU, the same for the same one; ``dtype`` is a primitive's."""
        key = id(array)
        if key not in self._placed:
            alive = weakref.ref(array, lambda _: self._placed.pop(key, None))
            self._placed[key] = alive, self.place(_as_kept(array, dtype))
        return self._placed[key][1]

    def fetch(self, array: Any) -> Any:
        """An array of the GPU as NumPy has it."""
        found = array.get()
        return found if found.dtype.kind in "biu" or found.itemsize > 2 else found.astype("float32")

    def elementwise(self, name: str, *operands: Any, size: int | None = None) -> Any:
        wide = any(getattr(each, "size", 0) > LARGEST_INDEX for each in operands)
        launch = _elementwise(name, wide)
        return launch(*operands) if size is None else launch(*operands, size=size)

    def summed(
        self, name: str, *operands: Any, axis: int | tuple[int, ...], keepdims: bool = False
    ) -> Any:
        return _sum(name)(*operands, axis=axis, keepdims=keepdims)

    def products(self, a: Any, b: Any, trans_a: bool = False, trans_b: bool = False) -> Any:
        """One product alone is CuPy's; of many it would copy those that are stored transposed."""
        if len(a) == 1:
            return ((a[0].T if trans_a else a[0]) @ (b[0].T if trans_b else b[0]))[None]
        return strided_products(cupy, cupy.cuda.cublas, a, b, trans_a, trans_b)

    def in_tf32(self, call: Call) -> Call:
        """The call, with TF32 in its products."""

        def rounding() -> Any:
            with self.products_in_tf32(True):
                return call()

        return rounding

    @contextmanager
    def products_in_tf32(self, allowed: bool) -> Iterator[None]:
        """Let products of float32 round their factors to TF32, or not, for a while."""
        self._allow_tf32(allowed)
        try:
            yield
        finally:
            self._allow_tf32(self.tf32)

    def _allow_tf32(self, allowed: bool) -> None:
        """CuPy's own products ask for a compute type, those of cuBLAS for the handle's mode."""
        types = cupy._core._routines_linalg
        kind = types.COMPUTE_TYPE_TF32 if allowed else types.COMPUTE_TYPE_DEFAULT
        types.set_compute_type(np.float32, kind)
        handle = cupy.cuda.device.get_cublas_handle()
        cupy.cuda.cublas.setMathMode(handle, TF32_MATH if allowed else DEFAULT_MATH)


def strided_products(xp: Any, cublas: Any, a: Any, b: Any, trans_a: bool, trans_b: bool) -> Any:
    """The products of two batches of matrices, by one call of cuBLAS.

    cuBLAS stores by columns: what lies by rows it takes for transposed.  So it is asked for the
    transposes of the results, which are the products of the transposed factors in reverse order.
    """
    a, b = xp.ascontiguousarray(a), xp.ascontiguousarray(b)
    batch, rows, columns = a.shape
    m, k = (columns, rows) if trans_a else (rows, columns)
    n = b.shape[1] if trans_b else b.shape[2]
    c = xp.empty((batch, m, n), a.dtype)
    multiply = cublas.sgemmStridedBatched if a.itemsize == 4 else cublas.dgemmStridedBatched
    one, zero = np.ones(1, a.dtype), np.zeros(1, a.dtype)
    multiply(
        xp.cuda.device.get_cublas_handle(),
        *(int(trans_b), int(trans_a), n, m, k, one.ctypes.data),
        *(b.data.ptr, b.shape[2], n * k, a.data.ptr, columns, m * k),
        *(zero.ctypes.data, c.data.ptr, n, m * n, batch),
    )
    return c


def _as_kept(array: Any, dtype: str) -> Any:
    """An array as the GPU keeps it: of the shorter dtypes those are cast that it has."""
    return array.astype(dtype) if dtype in ("float16", "bfloat16") else array


@cache
def _elementwise(name: str, wide: bool) -> Any:
    reads, writes, source = ELEMENTWISE[name]
    index = f"typedef {'long long' if wide else 'int'} Index;"
    return cupy.ElementwiseKernel(reads, writes, source, f"kernelprof_{name}", preamble=index)


@cache
def _sum(name: str) -> Any:
    reads, term = SUMS[name]
    return cupy.ReductionKernel(
        reads, "T total", term, "a + b", "total = a", "0", f"kernelprof_{name}"
    )


class CupyArrays(DeviceArrays):
    """What the ceilings of a GPU are measured with."""

    def __init__(self, tools: CupyToolbox) -> None:
        self.tools = tools
        self.dtypes = tools.dtypes
        self.l2_bytes = int(cupy.cuda.runtime.getDeviceProperties(FIRST)["l2CacheSize"])
        self.free_bytes = int(cupy.cuda.Device(FIRST).mem_info[0])

    def random(self, rows: int, columns: int, dtype: str) -> Any:
        numbers = cupy.random.standard_normal((rows, columns), dtype=np.float32)
        return numbers if dtype == "tf32" else numbers.astype(dtype, copy=False)

    def product(self, dtype: str, a: Any, b: Any, out: Any) -> None:
        with self.tools.products_in_tf32(dtype == "tf32"):
            cupy.dot(a, b, out=out)

    def read(self, a: Any) -> None:
        a.sum()

    def write(self, a: Any) -> None:
        a.fill(1.0)

    def copy(self, source: Any, target: Any) -> None:
        cupy.copyto(target, source)

    def triad(self, a: Any, b: Any, out: Any) -> None:
        self.tools.elementwise("triad", a, b, out)
