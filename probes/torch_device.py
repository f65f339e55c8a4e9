"""The GPU that torch computes on: whether it can, as what is asked, and what it tells of itself."""

from __future__ import annotations

from typing import Any

import torch

from .device import DeviceArrays, NoDeviceError
from .engine import Call
from .gpu_settings import allows_tf32, searches_algorithms

FIRST = "cuda:0"  # a worker sees no other card than its own
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}  # of those that NumPy has not all
TF32 = "tf32"


def gpu(device: str) -> Any:
    """The GPU, with a context of this process on it, set up as the environment asks.

    TF32 is set where torch has always had it: with what else it offers since 2.9, products and
    convolutions each by a word, everything that asks in the old way raises an error.

    Raises:
        NoDeviceError: torch cannot use it.
        ValueError: a variable asks for what is not there.
    """
    tf32, searches = allows_tf32(), searches_algorithms()
    if torch.version.cuda is None:
        raise NoDeviceError(
            f"torch {torch.__version__} is built without CUDA, so it cannot compute on {device}: "
            "install PyTorch's build for CUDA, or name an interpreter that has it in engines.toml"
        )
    try:
        torch.cuda.init()
        torch.zeros(1, device=FIRST)  # makes the context, which a card in exclusive use refuses
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise NoDeviceError(
            f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, cannot use {device}: "
            f"{reason}; `nvidia-smi` shows the driver and who uses the card"
        ) from error
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = searches
    return torch.device(FIRST)


def gpu_facts(device: Any) -> dict[str, Any]:
    """The card, its libraries, and the settings that bear on speed there."""
    products = torch.backends.cuda.matmul.allow_tf32
    convolutions = torch.backends.cudnn.allow_tf32
    rounded = [name for name, on in (("products", products), ("convolutions", convolutions)) if on]
    card = torch.cuda.get_device_properties(device)
    free_bytes, memory_bytes = torch.cuda.mem_get_info(device)
    return {
        "precision": f"float32, TF32 in {' and '.join(rounded)}" if rounded else "float32",
        "tf32_products": products,
        "tf32_convolutions": convolutions,
        "algorithm_search": "cudnn.benchmark" if torch.backends.cudnn.benchmark else "off",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "device_name": card.name,
        "device_capability": f"{card.major}.{card.minor}",
        "device_memory_bytes": memory_bytes,
        "device_memory_free_bytes": free_bytes,
    }


def in_tf32(call: Call) -> Call:
    """The call, with TF32 in its products."""
    settings = torch.backends.cuda.matmul

    def rounding() -> Any:
        asked = settings.allow_tf32
        settings.allow_tf32 = True
        try:
            return call()
        finally:
            settings.allow_tf32 = asked

    return rounding


class TorchArrays(DeviceArrays):
    """Tensors on a GPU, and torch's own operators for them."""

    dtypes = ("float32", TF32, *TYPES, "float64")

    def __init__(self, device: Any) -> None:
        self.device = device
        self.l2_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
        self.free_bytes = int(torch.cuda.mem_get_info(device)[0])

    def random(self, rows: int, columns: int, dtype: str) -> Any:
        kept_as = torch.float32 if dtype == TF32 else getattr(torch, dtype)
        return torch.randn(rows, columns, device=self.device, dtype=kept_as)

    def product(self, dtype: str, a: Any, b: Any, out: Any) -> None:
        settings = torch.backends.cuda.matmul
        asked, settings.allow_tf32 = settings.allow_tf32, dtype == TF32
        torch.mm(a, b, out=out)
        settings.allow_tf32 = asked

    def read(self, a: Any) -> None:
        a.sum()

    def write(self, a: Any) -> None:
        a.fill_(1.0)

    def copy(self, source: Any, target: Any) -> None:
        target.copy_(source)

    def triad(self, a: Any, b: Any, out: Any) -> None:
        torch.add(a, b, alpha=3.0, out=out)
