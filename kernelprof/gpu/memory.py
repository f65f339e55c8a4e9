"""What a GPU holds, and still has room for."""

from __future__ import annotations

import pynvml

from kernelprof.errors import KernelprofError
from kernelprof.gpu import devices


def l2_bytes(device: str) -> int:
    """The size of a card's last cache.

    Raises:
        KernelprofError: its driver does not tell.
    """
    for card in devices.gpus():
        if card.device == device and card.l2_bytes:
            return card.l2_bytes
    raise KernelprofError(
        f"the driver does not tell how large the L2 cache of {device} is, so nothing can be made "
        "cold; take --cache warm"
    )


def free_bytes(device: str) -> int | None:
    """Memory of a card that nothing has taken; None where the driver does not tell."""
    number = devices.asked_number(device)
    assert number is not None
    try:
        with devices.session() as nvml:
            return nvml.state(number).free_bytes
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):
        return None
