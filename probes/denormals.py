"""Let a process know no denormal numbers, if it is asked to by KERNELPROF_DENORMALS=flush.

A thread takes over how the thread that starts it computes, so it is asked before an engine is
imported.  Libraries may change it for their own threads.
"""

from __future__ import annotations

import ctypes
import os
import platform

VARIABLE = "KERNELPROF_DENORMALS"
FLUSH = "flush"
# The environment of floating-point arithmetic, as the x86-64 ABI lays it out for ``fegetenv``: 28
# bytes of the x87, and then the control register of SSE, which AVX and AVX-512 obey as well.
WORDS, CONTROL = 8, 7
FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 1 << 15, 1 << 6


def flush_if_asked() -> None:
    """Obey the variable, for this thread and for all that it starts from now on.

    Raises:
        ValueError: the variable asks for something else, or for what cannot be had here.
    """
    asked = os.environ.get(VARIABLE, "")
    if not asked:
        return
    if asked != FLUSH:
        raise ValueError(f"{VARIABLE}={asked}: only {FLUSH} is known")
    if platform.machine() not in ("x86_64", "AMD64"):
        raise ValueError(
            f"{VARIABLE}={asked} is for x86-64 alone, and this is {platform.machine()}; unset it"
        )
    _set(FLUSH_TO_ZERO | DENORMALS_ARE_ZERO)


def _set(bits: int) -> None:
    """Set bits of the control register of SSE, of which the C library keeps the others."""
    arithmetic = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * WORDS)()
    if arithmetic.fegetenv(environment) == 0:
        environment[CONTROL] |= bits
        if arithmetic.fesetenv(environment) == 0:
            return
    raise ValueError(f"{VARIABLE}: the C library does not let it be set")
