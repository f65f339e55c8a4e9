"""The GPU that JAX computes on: whether it can, as what is asked, and when its work is done."""

from __future__ import annotations

import os
import pkgutil
from importlib.util import find_spec
from typing import Any

import jax

from .device import NoDeviceError
from .gpu_settings import searches_algorithms

PLUGIN = "xla_cuda"  # begins the names of XLA's plugins for CUDA
NO_SEARCH = "--xla_gpu_autotune_level=0"


def gpu(device: str) -> Any:
    """The GPU, on which arrays and programs are from now on.

    XLA must not have been started, for then it reads no variables any more.

    Raises:
        NoDeviceError: JAX cannot use it.
        ValueError: a variable asks for what is not there.
    """
    if not searches_algorithms():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {NO_SEARCH}".lstrip()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others share the card
    jax.config.update("jax_platforms", "cuda,cpu")
    try:
        found = jax.devices("cuda")[0]  # a worker sees no other card than its own
        jax.device_put(0.0, found).block_until_ready()
    except RuntimeError as error:
        raise NoDeviceError(_why_not(device, error)) from error
    jax.config.update("jax_default_device", found)
    return found


def _why_not(device: str, error: Exception) -> str:
    """The reason, in a line, and what to do about it."""
    if not _has_plugin():
        return (
            f"jax {jax.__version__} is installed without CUDA, so it cannot compute on {device}: "
            "install its plugin (jax[cuda13] or jax[cuda12], as the driver is), "
            "or name an interpreter that has it in engines.toml"
        )
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return (
        f"jax {jax.__version__} cannot use {device}: {reason}; "
        "`nvidia-smi` shows the driver and who uses the card"
    )


def _has_plugin() -> bool:
    plugins = find_spec("jax_plugins")
    paths = (plugins and plugins.submodule_search_locations) or ()
    return any(module.name.startswith(PLUGIN) for module in pkgutil.iter_modules(paths))


def gpu_facts(device: Any) -> dict[str, Any]:
    """The card, and the settings that bear on speed there."""
    rounds = jax.config.jax_default_matmul_precision not in ("highest", "float32")
    memory = device.memory_stats() or {}  # of what JAX allows itself of the card's
    return {
        "precision": "float32, TF32 in products and convolutions" if rounds else "float32",
        "tf32_products": rounds,
        "tf32_convolutions": rounds,
        "algorithm_search": "XLA's autotuning" if searches_algorithms() else "off",
        "denormals": "kept",
        "device_name": device.device_kind,
        "device_capability": getattr(device, "compute_capability", None),
        "device_memory_bytes": memory.get("bytes_limit"),
        "device_memory_free_bytes": memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0),
    }


class LastResult:
    """What was handed over to the GPU last: it works in that order, so then all is done."""

    def __init__(self) -> None:
        self.array: Any = None

    def take(self, array: Any) -> Any:
        """An array that the GPU is at work on; it is returned."""
        self.array = array
        return array

    def finish(self) -> None:
        """Wait until it is there; one that a later program has taken over needs no waiting."""
        if self.array is not None and not self.array.is_deleted():
            self.array.block_until_ready()

    def drop(self) -> None:
        """Forget it, and with it its memory."""
        self.array = None
