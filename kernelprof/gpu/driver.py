"""What of a card only CUDA's driver tells, and NVML does not; no context is made for it.

The functions and the numbers are those of cuda.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

FILE = "libcuda.so.1"  # comes with the driver, as NVML does
MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
L2_BYTES = 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE


def attributes(bus: str, wanted: Iterable[int]) -> dict[int, int]:
    """What the driver tells of the card at a place of the PCI bus, such as 0000:1b:00.0.

    Nothing where it does not answer, or hides the card: CUDA_VISIBLE_DEVICES holds for it too.
    """
    found: dict[int, int] = {}
    try:
        driver = ctypes.CDLL(FILE)
    except OSError:
        return found
    card, value = ctypes.c_int(), ctypes.c_int()
    place = ctypes.c_char_p(bus.encode())
    if driver.cuInit(0) or driver.cuDeviceGetByPCIBusId(ctypes.byref(card), place):
        return found
    for number in wanted:
        if not driver.cuDeviceGetAttribute(ctypes.byref(value), number, card):
            found[number] = value.value
    return found
