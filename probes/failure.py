"""What went wrong, as the run file records it: a kind and a reason, in place of a number."""

from __future__ import annotations

from .device import NoDeviceError
from .engine import Unsupported
from .oracle import WrongResultError
from .wire import Message

# What an error says of itself that leaves nothing of a process's work on a GPU to go on with: the
# descriptions of such errors in CUDA's runtime, and what its libraries say after one.
CONTEXT_IS_LOST = (
    "an illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "an illegal instruction",
    "invalid program counter",
    "hardware stack error",
    "operation not supported on global/shared address space",
    "the launch timed out",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUBLAS_STATUS_EXECUTION_FAILED",
)
# How engines, XLA and the libraries of CUDA say that a card's memory is full.
OUT_OF_MEMORY = ("out of memory", "Out of memory", "RESOURCE_EXHAUSTED", "STATUS_ALLOC_FAILED")


class DeviceLostError(BaseException):
    """The work of this process on the GPU is lost, so it has to end.

    Not an ``Exception``: what is caught for the sake of one kernel must not catch this.
    """


def failure_of(error: Exception) -> Message:
    """Kind and reason of an exception.

    Raises:
        DeviceLostError: after this error nothing works on the GPU any more.
    """
    reason = str(error) or type(error).__name__
    if any(words in reason for words in CONTEXT_IS_LOST):
        raise DeviceLostError(f"nothing works on the GPU any more: {reason.splitlines()[0]}")
    if isinstance(error, NoDeviceError):
        return {"kind": "no_device", "reason": reason}
    if isinstance(error, Unsupported):
        return {"kind": "unsupported", "reason": reason}
    if isinstance(error, WrongResultError):
        return {"kind": "wrong_result", "reason": reason}
    if isinstance(error, MemoryError) or _says_out_of_memory(error, reason):
        return {"kind": "memory", "reason": reason}
    return {"kind": "error", "reason": f"{type(error).__name__}: {reason}"}


def _says_out_of_memory(error: Exception, reason: str) -> bool:
    """Engines have exceptions of their own for it: torch's is a RuntimeError."""
    return (
        type(error).__name__ == "OutOfMemoryError"
        or ("alloc" in reason and "memory" in reason)
        or any(words in reason for words in OUT_OF_MEMORY)
    )
