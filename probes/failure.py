"""What went wrong, as the run file records it: a kind and a reason, in place of a number."""

from __future__ import annotations

from .engine import Unsupported
from .oracle import WrongResultError
from .wire import Message


def failure_of(error: Exception) -> Message:
    """Kind and reason of an exception."""
    reason = str(error) or type(error).__name__
    if isinstance(error, Unsupported):
        return {"kind": "unsupported", "reason": reason}
    if isinstance(error, WrongResultError):
        return {"kind": "wrong_result", "reason": reason}
    if isinstance(error, MemoryError) or _says_out_of_memory(reason):
        return {"kind": "memory", "reason": reason}
    return {"kind": "error", "reason": f"{type(error).__name__}: {reason}"}


def _says_out_of_memory(reason: str) -> bool:
    """Engines have exceptions of their own for it: torch's is a RuntimeError."""
    return "alloc" in reason and "memory" in reason
