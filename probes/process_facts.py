"""What a worker's process is like: its libraries, memory and arithmetic; read back, not assumed."""

from __future__ import annotations

import ctypes
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .placement import loaded_libraries

OPENMP = ("libgomp", "libiomp5", "libomp", "libomp5", "libnvomp")
# Variables by which products may be computed in less than float32, and what they are harmless at.
PRECISION_VARIABLES = {
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "DNNL_DEFAULT_FPMATH_MODE": "STRICT",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
    "CUPY_TF32": "0",
}
PRELOADED = "LD_PRELOAD"
# Other variables that bear on speed, by how their names begin; those of TensorFlow one by one, as
# other tools, which keep secrets in them, begin theirs with TF_ too.
SPEED_VARIABLES = (
    *("OMP_", "KMP_", "GOMP_", "OPENBLAS_", "GOTO_NUM_", "BLIS_", "VECLIB_", "NUMEXPR_"),
    *("MKL_", "ONEDNN_", "DNNL_", "MKLDNN_", "ATEN_", "NPY_", "MXNET_", "XLA_FLAGS"),
    *("JAX_DEFAULT_", "JAX_DISABLE_", "JAX_ENABLE_"),
    *("TF_NUM_", "TF_ENABLE_ONEDNN_", "TF_ONEDNN_", "TF_XLA_", "TF_CPU_", "TF_GPU_", "TF_CUDNN_"),
    *("CUDA_LAUNCH_", "CUDA_DEVICE_MAX_", "CUDA_MODULE_", "CUDA_CACHE_", "CUBLAS", "CUDNN_"),
    *("NVIDIA_TF32_", "TORCH_ALLOW_TF32_", "TORCH_CUDNN_", "TORCH_BLAS_", "PYTORCH_CUDA_"),
    *("PYTORCH_ALLOC_", "PYTORCH_NO_CUDA_", "XLA_PYTHON_CLIENT_", "TF_FORCE_GPU_"),
    *("CUPY_TF32", "CUPY_ACCELERATORS", "CUPY_GPU_MEMORY_"),
    *("MALLOC_", "GLIBC_TUNABLES", PRELOADED, "PYTHONMALLOC", "KERNELPROF_"),
)
WHERE_THINGS_ARE = ("KERNELPROF_HOME", "KERNELPROF_DEBIAN_MIRROR")  # say nothing of speed
OPENBLAS_CORE_SYMBOLS = (
    "scipy_openblas_get_corename64_",
    "scipy_openblas_get_corename",
    "openblas_get_corename64_",
    "openblas_get_corename",
)
TINY = 1e-40  # denormal in float32
ELEMENTS = 2**14  # that take microseconds, and lie in a cache


def process_facts() -> dict[str, Any]:
    """Everything; an engine that knows better says so under the same names."""
    return {
        "openmp": openmp_runtimes(loaded_libraries("omp")),
        "denormals": "flushed to zero" if flushes_denormals() else "kept",
        "denormal_slowdown": denormal_slowdown(),
        "precision_variables": precision_variables(),
        "variables": speed_variables(),
        "openblas_cores": openblas_cores(),
        "node_bytes": node_bytes(),
    }


def openmp_runtimes(paths: list[str]) -> list[str]:
    """The names of the OpenMP runtimes among these libraries, each file once.

    >>> openmp_runtimes(["/a/libgomp-d22c30c5.so.1", "/b/libomptarget.so", "/b/libgomp.so.1"])
    ['libgomp-d22c30c5.so.1', 'libgomp.so.1']
    """
    names = [Path(path).name for path in paths]
    return [name for name in names if name.split(".")[0].split("-")[0] in OPENMP]


def flushes_denormals() -> bool:
    """Whether arithmetic of this thread, and of those that it starts, knows no denormal numbers."""
    return not np.any(np.full(1, TINY, np.float32) * np.float32(0.5))


@lru_cache(maxsize=1)
def denormal_slowdown() -> float:
    """How many times as long arithmetic takes if its results are denormal numbers."""
    added = _best_ns(np.add, TINY, TINY) / _best_ns(np.add, 1.0, 1.0)
    multiplied = _best_ns(np.multiply, TINY, 0.5) / _best_ns(np.multiply, 1.0, 0.5)
    return max(added, multiplied)


def _best_ns(operation: Any, a: float, b: float) -> int:
    operands = np.full(ELEMENTS, a, np.float32), np.full(ELEMENTS, b, np.float32)
    out = np.empty(ELEMENTS, np.float32)
    times = []
    for _ in range(9):
        start = time.perf_counter_ns()
        operation(operands[0], operands[1], out)
        times.append(time.perf_counter_ns() - start)
    return max(min(times), 1)


def precision_variables() -> dict[str, str]:
    """The variables that are set to something that computes in less than float32."""
    found = {name: os.environ.get(name, "") for name in PRECISION_VARIABLES}
    return {
        name: value
        for name, value in found.items()
        if value and value.upper() != PRECISION_VARIABLES[name]
    }


def speed_variables() -> dict[str, str]:
    """The variables that are set and bear on speed; nothing else of the environment."""
    variables = {**os.environ, PRELOADED: _preloaded()}
    return {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith(SPEED_VARIABLES) and name not in WHERE_THINGS_ARE and value
    }


def _preloaded() -> str:
    """What the user preloads; what a profiler does lies beside its NVTX tool, and is left out."""
    beside = os.path.dirname(os.environ.get("NVTX_INJECTION64_PATH", ""))
    paths = os.environ.get(PRELOADED, "").replace(" ", ":").split(":")
    return ":".join(path for path in paths if not beside or os.path.dirname(path) != beside)


def openblas_cores() -> list[str]:
    """The processor for which each OpenBLAS in this process has chosen its kernels."""
    found = []
    for path in loaded_libraries("openblas"):
        library = ctypes.CDLL(path)
        for symbol in OPENBLAS_CORE_SYMBOLS:
            if hasattr(library, symbol):
                ask = getattr(library, symbol)
                ask.restype = ctypes.c_char_p
                found.append(str(ask().decode()))
                break
    return found


def node_bytes(maps: str = "/proc/self/numa_maps") -> dict[str, int]:
    """The bytes of this process's own memory on each memory node, by its number.

    Files that it maps are left out: others may have read them in before.
    """
    try:
        lines = Path(maps).read_text().splitlines()
    except OSError:  # a kernel without memory nodes
        return {}
    found: dict[str, int] = {}
    for line in lines:
        fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "file" in fields:
            continue
        page = int(fields.get("kernelpagesize_kB", "4")) * 1024
        for name, pages in fields.items():
            if name.startswith("N") and name[1:].isdigit():
                found[name[1:]] = found.get(name[1:], 0) + int(pages) * page
    return found
