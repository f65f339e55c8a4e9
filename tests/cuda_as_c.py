"""Arrays of a device that is none, and kernels in CUDA that are compiled as C.

What the CUDA code computes is so seen on any machine, for it keeps to what C has too.  Arrays of
the device are told from those of the host: what mixes them raises an error, as in CuPy.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes  # noqa: F401  CuPy imports it too: NumPy then knows bfloat16
import numpy as np

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "bool": "bool",
    "int32": "int",
    "int64": "long long",
    "uint64": "unsigned long long",
}
C_HEADER = """
#include <stdbool.h>
#include <tgmath.h>
#define atomicAdd(place, value) (*(place) += (value))
"""


class DeviceArray(np.ndarray):
    """An array of the device; only other ones of the device and numbers go with it."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self) -> Any:
        return np.array(self)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        outputs = options.get("out", ())
        require_on_device(*inputs, *outputs)
        if outputs:
            options["out"] = tuple(plain(each) for each in outputs)
        found = getattr(ufunc, method)(*(plain(each) for each in inputs), **options)
        if ufunc is np.matmul:  # NumPy computes those in bfloat16 in float32
            found = found.astype(np.result_type(*inputs), copy=False)
        return outputs[0] if outputs else on_device(found)

    def __setitem__(self, place: Any, value: Any) -> None:
        require_on_device(value)
        plain(self)[place] = plain(value)


def require_on_device(*operands: Any) -> None:
    for operand in operands:
        if isinstance(operand, np.ndarray) and not isinstance(operand, DeviceArray):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")


def plain(operand: Any) -> Any:
    return operand.view(np.ndarray) if isinstance(operand, DeviceArray) else operand


def on_device(array: Any) -> Any:
    return np.asarray(array).view(DeviceArray)


class Parameter:
    """An operand of a kernel, as CuPy writes them: ``raw T x``."""

    def __init__(self, text: str, is_read: bool) -> None:
        *raw, self.type, self.name = text.split()
        self.is_raw = raw == ["raw"]
        self.is_read = is_read

    def dtype(self, number: str) -> str:
        return number if self.type == "T" else self.type


def parameters(reads: str, writes: str) -> list[Parameter]:
    return [
        Parameter(each, is_read)
        for text, is_read in ((reads, True), (writes, False))
        for each in text.split(",")
    ]


class ElementwiseKernel:
    """A loop in C; every call is held against what CuPy asks of one."""

    def __init__(self, reads: str, writes: str, source: str, name: str, preamble: str = "") -> None:
        self.parameters = parameters(reads, writes)
        self.source, self.name, self.preamble = source, name, preamble

    def __call__(self, *operands: Any, size: int | None = None) -> Any:
        require_on_device(*operands)
        pairs = list(zip(operands, self.parameters, strict=False))
        arrays = [(each, one) for each, one in pairs if isinstance(each, np.ndarray)]
        (number,) = {str(each.dtype) for each, one in arrays if one.type == "T"}
        looped = [each.shape for each, one in arrays if not one.is_raw]
        assert (size is None) == bool(looped), f"{self.name}: the loop's size is undecidable"
        shape = np.broadcast_shapes(*looped) if looped else (size or 0,)
        missing = self.parameters[len(operands) :]
        if missing:
            assert all(not one.is_read and not one.is_raw for one in missing), self.name
            made = [on_device(np.empty(shape, one.dtype(number))) for one in missing]
            pairs += zip(made, missing, strict=True)
        self._run(number, shape, pairs)
        results = [each for each, one in pairs if not one.is_read]
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, number: str, shape: tuple[int, ...], pairs: list[Any]) -> None:
        arguments: list[Any] = [ctypes.c_longlong(int(np.prod(shape, dtype=np.int64)))]
        written, numbers = [], set()
        for each, one in pairs:
            dtype = np.dtype(one.dtype(number))
            if not isinstance(each, np.ndarray):
                numbers.add(one.name)
                arguments.append(np.ctypeslib.as_ctypes_type(dtype)(each))
                continue
            assert each.dtype == dtype, f"{self.name}: {one.name} is {each.dtype}"
            array = plain(each)
            if one.is_read and not one.is_raw:
                array = np.broadcast_to(array, shape)
            assert one.is_raw or array.shape == shape, f"{self.name}: {one.name} {array.shape}"
            laid_out = np.ascontiguousarray(array)
            written.append((None if one.is_read else each, laid_out))
            arguments.append(ctypes.c_void_p(laid_out.ctypes.data))
        loop_in_c(self, number, frozenset(numbers))(*arguments)
        for result, computed in written:
            if result is not None:
                result[...] = on_device(computed)


@cache
def loop_in_c(
    kernel: ElementwiseKernel, number: str, numbers: frozenset[str]
) -> Callable[..., None]:
    """The loop as a function of its length and the operands, of which some are numbers."""
    head = f"{C_HEADER}typedef {C_TYPES[number]} T;\n{kernel.preamble}\nvoid kernel"
    return compiled(head + loop(kernel, number, numbers))


def loop(kernel: ElementwiseKernel, number: str, numbers: frozenset[str] = frozenset()) -> str:
    """Parameters and body of a function in C or CUDA; some of the operands are numbers."""
    declared, before, after = ["long long loop_length"], [], []
    for one in kernel.parameters:
        type_ = ("const " if one.is_read else "") + C_TYPES[one.dtype(number)]
        if one.name in numbers:
            declared.append(f"{type_} {one.name}")
        elif one.is_raw:
            declared.append(f"{type_} *{one.name}")
        else:
            declared.append(f"{type_} *all_{one.name}")
            before.append(f"{type_} {one.name} = all_{one.name}[i];")
            after += [] if one.is_read else [f"all_{one.name}[i] = {one.name};"]
    body = "\n".join([*before, f"{kernel.source};", *after])
    return (
        f"({', '.join(declared)}) {{\n"
        f"for (long long i = 0; i < loop_length; ++i) {{\n{body}\n}}\n}}\n"
    )


def compiled(source: str) -> Callable[..., None]:
    """The function ``kernel`` of a C source."""
    with tempfile.TemporaryDirectory() as folder:
        path, library = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
        path.write_text(source)
        warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-unused", "-Wno-sign-compare")
        words = ("cc", "-O1", "-shared", "-fPIC", *warnings, str(path), "-o", str(library), "-lm")
        subprocess.run(words, check=True)
        kernel: Callable[..., None] = ctypes.CDLL(str(library)).kernel
    return kernel


class ReductionKernel:
    """A sum: the terms in C, added up by NumPy."""

    def __init__(
        self, reads: str, writes: str, term: str, reduce: str, after: str, start: str, name: str
    ) -> None:
        assert (reduce, after, start) == ("a + b", "total = a", "0")
        self.terms = ElementwiseKernel(reads, writes, f"total = {term}", name)

    def __call__(self, *operands: Any, axis: Any, keepdims: bool) -> Any:
        return self.terms(*operands).sum(axis=axis, keepdims=keepdims)
