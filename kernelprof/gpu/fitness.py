"""Is a card fit to measure on?  What its driver tells of all that is known to spoil times."""

from __future__ import annotations

from collections.abc import Iterator

import pynvml

from kernelprof.fitness import BLOCK, PASS, WARN, Check
from kernelprof.gpu.devices import (
    EXCLUSIVE,
    GpuDevice,
    GpuState,
    UnusableError,
    named,
    required,
    session,
)
from kernelprof.units import significant


def examine(device: str) -> Iterator[Check]:
    """Every check of a card; whether something fits in its memory is another one.

    Raises:
        UsageError: the word is no GPU.
    """
    try:
        card = required(device)
        with session() as nvml:
            state = nvml.state(card.number)
    except UnusableError as error:
        yield Check("GPU", BLOCK, error.reason, error.remedy)
        return
    except pynvml.NVMLError as error:  # of a card that went away meanwhile
        yield Check("GPU", BLOCK, f"{device}: the driver says {error}", "look at `nvidia-smi`")
        return
    yield driver(card, state)
    yield others(state)
    yield sharing(state)
    yield clock(state)


def driver(card: GpuDevice, state: GpuState) -> Check:
    """The card and its driver; nothing can be bad about them here."""
    facts = [
        f"{card.device} is {card.name}",
        f"compute capability {card.capability}",
        f"driver {card.driver} for CUDA {card.cuda}",
    ]
    if card.ecc is not None:
        facts.append(f"ECC {'on' if card.ecc else 'off'}")
    if state.persistent is not None:
        facts.append(f"persistence mode {'on' if state.persistent else 'off'}")
    return Check("GPU", PASS, ", ".join(facts))


def others(state: GpuState) -> Check:
    """Whether nobody else computes on the card."""
    if not state.processes:
        return Check("GPU processes", PASS, "nobody else computes on the card")
    return Check(
        "GPU processes",
        WARN,
        f"in use by {named(state.processes)}: kernels of others take turns with those measured",
        "end them, wait until they are done, or take another GPU",
    )


def sharing(state: GpuState) -> Check:
    """Whether several engines can hold the card at a time, as they take turns."""
    if state.compute_mode not in EXCLUSIVE:
        return Check("GPU compute mode", PASS, "several processes may share the card")
    return Check(
        "GPU compute mode",
        WARN,
        "exclusive: one process at a time can have the card, and engines take turns on it",
        "measure one engine by itself (--engine)",
    )


def clock(state: GpuState) -> Check:
    """Whether the card runs as fast as it may, before anything is asked of it."""
    reading = state.reading
    heat = "" if reading.temperature_c is None else f" at {reading.temperature_c} degrees C"
    now = f"SM clock {significant(reading.sm_hz / 1e6)} MHz{heat}"
    if not reading.throttled_by:
        return Check("GPU clock", PASS, now)
    return Check(
        "GPU clock",
        WARN,
        f"{now}, lowered already: {', '.join(reading.throttled_by)}",
        "let the card cool down, or wait until others are done; throttled samples are marked",
    )
