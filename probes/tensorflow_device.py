"""The GPU that TensorFlow computes on, where its build has CUDA: by default, all that can."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from .device import NoDeviceError
from .gpu_settings import allows_tf32, searches_algorithms

AUTOTUNE = "TF_CUDNN_USE_AUTOTUNE"


def set_up_gpu(device: str) -> Any:
    """The card, set up as the environment asks; TensorFlow must not have computed anything yet.

    Raises:
        NoDeviceError: TensorFlow has no CUDA, or finds no card.
        ValueError: a variable asks for what is not there.
    """
    tf32, searches = allows_tf32(), searches_algorithms()
    if not tf.test.is_built_with_cuda():
        raise NoDeviceError(
            f"this build of TensorFlow {tf.__version__} has no CUDA, so it cannot compute on "
            f"{device}: install tensorflow[and-cuda], or name an interpreter that has it in "
            "engines.toml"
        )
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        raise NoDeviceError(
            f"TensorFlow {tf.__version__} finds no card for {device}: its driver or a library of "
            "CUDA is missing or too old; `nvidia-smi` shows the driver"
        )
    tf.config.experimental.set_memory_growth(cards[0], True)  # others share the card
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    if not searches:
        os.environ[AUTOTUNE] = "0"  # read before the first convolution
    return cards[0]


def require_gpu(device: str) -> None:
    """Compute something on the card, which one in exclusive use refuses.

    Raises:
        NoDeviceError: it cannot be used.
    """
    try:
        tf.zeros(1).numpy()
    except (tf.errors.OpError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise NoDeviceError(
            f"TensorFlow {tf.__version__} cannot use {device}: {reason}; "
            "`nvidia-smi` shows the driver and who uses the card"
        ) from error


def gpu_facts(card: Any) -> dict[str, Any]:
    """The card, its libraries, and the settings that bear on speed there."""
    rounds = tf.config.experimental.tensor_float_32_execution_enabled()
    build = tf.sysconfig.get_build_info()
    told = tf.config.experimental.get_device_details(card)
    capability = ".".join(map(str, told.get("compute_capability", ())))
    return {
        "precision": "float32, TF32 in products and convolutions" if rounds else "float32",
        "tf32_products": rounds,
        "tf32_convolutions": rounds,
        "algorithm_search": "cuDNN's" if os.environ.get(AUTOTUNE) != "0" else "off",
        "denormals": "kept",
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "device_name": told.get("device_name"),
        "device_capability": capability or None,
    }
