"""The GPU that MXNet computes on, where its build has CUDA: the context of all that it makes."""

from __future__ import annotations

import os
from typing import Any

import mxnet as mx

from .device import NoDeviceError
from .gpu_settings import allows_tf32, searches_algorithms

AUTOTUNE = "MXNET_CUDNN_AUTOTUNE_DEFAULT"
TF32 = "NVIDIA_TF32_OVERRIDE"  # of the libraries of CUDA: MXNet has no setting of its own


def use_gpu(device: str) -> None:
    """Compute on the card from now on, as the environment asks.

    Raises:
        NoDeviceError: MXNet cannot use it.
        ValueError: a variable asks for what is not there.
    """
    tf32, searches = allows_tf32(), searches_algorithms()
    if not mx.runtime.Features().is_enabled("CUDA"):
        raise NoDeviceError(
            f"this build of MXNet {mx.__version__} has no CUDA, so it cannot compute on {device}: "
            "install one that has (mxnet-cu112), or name an interpreter of it in engines.toml"
        )
    if not tf32:
        os.environ[TF32] = "0"
    if not searches:
        os.environ[AUTOTUNE] = "0"
    try:
        if not mx.context.num_gpus():
            raise mx.MXNetError("there is no card")
        mx.test_utils.set_default_context(mx.gpu(0))  # a worker sees no other card than its own
        mx.nd.zeros(1).wait_to_read()
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise NoDeviceError(
            f"MXNet {mx.__version__} cannot use {device}: {reason}; "
            "`nvidia-smi` shows the driver and who uses the card"
        ) from error


def gpu_facts() -> dict[str, Any]:
    """The card's memory, and the settings that bear on speed there."""
    rounds = os.environ.get(TF32) != "0"
    free_bytes, memory_bytes = mx.context.gpu_memory_info(0)
    return {
        "precision": "float32, TF32 in products and convolutions" if rounds else "float32",
        "layout": "NCHW",
        "tf32_products": rounds,
        "tf32_convolutions": rounds,
        "algorithm_search": "cuDNN's" if os.environ.get(AUTOTUNE) != "0" else "off",
        "device_memory_bytes": memory_bytes,
        "device_memory_free_bytes": free_bytes,
    }
