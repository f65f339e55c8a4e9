"""The modules of the cupy engine with a CuPy that needs no GPU: fixtures of ``conftest``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests import fake_cupy

OF_CUPY = ("cupy_device", "cupy_stream", "on_cupy")  # which import cupy
DEVICE = "cuda:0"


@pytest.fixture(scope="module")
def on_cupy() -> Iterator[Any]:
    """The adapter."""
    names = [f"kernelprof.probes.{name}" for name in OF_CUPY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake_cupy.module())
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module(names[-1])
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def cupy_device(on_cupy: Any) -> Any:
    return sys.modules["kernelprof.probes.cupy_device"]
