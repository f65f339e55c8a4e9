"""Measures the ceilings of a card, in workers of the engines whose kernels come closest to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from kernelprof.ceilings import (
    L2,
    BytesCeiling,
    Ceilings,
    FlopCeiling,
    PlacementCeilings,
    Rate,
    implausible,
    load,
    save,
)
from kernelprof.engines import environment
from kernelprof.errors import KernelprofError, WorkerError
from kernelprof.gpu.devices import GpuDevice
from kernelprof.gpu.samples import GpuReading
from kernelprof.gpu.watch import IDLE, Watch
from kernelprof.launch import Worker
from kernelprof.machine import Machine, fingerprint_with, placements, usable_cpus
from kernelprof.probes.wire import Message

ENGINES = ("cupy", "torch")  # either may have the faster product; the higher rate counts
LIBRARY = "cuBLAS"
THREADS = 4
PATIENCE_S = 240.0
# The most flop of a multiprocessor in a cycle, by compute capability, products of matrix units
# included (NVIDIA's papers on the architectures Volta, Turing, GA100, GA102, Ada and Hopper).
FLOP_PER_CYCLE = {
    "7.0": {"float32": 128, "float64": 64, "float16": 1024},
    "7.5": {"float32": 128, "float64": 4, "float16": 1024},
    "8.0": {"float32": 128, "float64": 128, "tf32": 1024, "float16": 2048, "bfloat16": 2048},
    "8.6": {"float32": 256, "float64": 4, "tf32": 512, "float16": 1024, "bfloat16": 1024},
    "8.9": {"float32": 256, "float64": 4, "tf32": 512, "float16": 1024, "bfloat16": 1024},
    "9.0": {"float32": 256, "float64": 256, "tf32": 2048, "float16": 4096, "bfloat16": 4096},
}

Tell = Callable[[str, float], None]
Ask = Callable[[str, str], Message]  # engine and device -> what its worker measured


def kept(machine: Machine, card: GpuDevice) -> Ceilings:
    """The ceilings of a card that are known from before."""
    return load(fingerprint_with(machine, card))


def ceilings(
    machine: Machine, card: GpuDevice, tell: Tell, again: bool = False, ask: Ask | None = None
) -> Ceilings:
    """The ceilings of a card: those kept from before, or else measured and kept.

    Raises:
        KernelprofError: no engine could measure them, or the results cannot be kept.
    """
    known = kept(machine, card)
    if card.device in known.devices and not again:
        return known
    return _keep(known, card, measure(card, tell, ask or ask_worker))


def raise_ceilings(
    machine: Machine, card: GpuDevice, tell: Tell, ask: Ask | None = None
) -> Ceilings:
    """Measure once more, and keep the higher of each rate: the card may have been warm or busy.

    Raises:
        KernelprofError: no engine could measure them, or the results cannot be kept.
    """
    known = kept(machine, card)
    found = measure(card, tell, ask or ask_worker)
    before = known.devices.get(card.device)
    return _keep(known, card, found.raised(before) if before else found)


def _keep(known: Ceilings, card: GpuDevice, found: PlacementCeilings) -> Ceilings:
    both = Ceilings(known.fingerprint, known.placements, {**known.devices, card.device: found})
    save(both)
    return both


def measure(card: GpuDevice, tell: Tell, ask: Ask) -> PlacementCeilings:
    """Measure all ceilings of a card in every engine that can, and take the higher ones.

    Raises:
        KernelprofError: none of them can.
    """
    found: PlacementCeilings | None = None
    refusals = []
    for done, engine in enumerate(ENGINES):
        tell(f"{card.device}: products, traffic and launches of {engine}", done / len(ENGINES))
        try:
            with Watch(card.device, away_from=_cpus()) as watch:
                answer = ask(engine, card.device)
        except WorkerError as error:
            refusals.append(f"{engine}: {error.reason}")
            continue
        own = of_answer(answer, card, watch.readings())
        found = found.raised(own) if found else own
    if found is None:
        raise KernelprofError(
            f"the ceilings of {card.device} cannot be measured: {'; '.join(refusals)}"
        )
    return found


def ask_worker(engine: str, device: str) -> Message:
    """What a worker of the engine measures.

    Raises:
        WorkerError: the engine is not installed, does not compute on this device, or failed.
    """
    installed = environment(engine)
    if installed is None:
        raise WorkerError("no_engine", f"not installed; run `kernelprof engines install {engine}`")
    worker = Worker(installed, _cpus(), device=device)
    try:
        return worker.ask("ceilings", PATIENCE_S)
    finally:
        worker.close()


def _cpus() -> tuple[int, ...]:
    """Those that hand the work over."""
    return placements([min(THREADS, len(usable_cpus()))], None)[0]


def of_answer(answer: Message, card: GpuDevice, readings: list[GpuReading]) -> PlacementCeilings:
    """The ceilings that a worker's windows show: of each type and operation the best size."""
    arithmetic: dict[str, FlopCeiling] = {}
    for dtype, size, rates in answer["arithmetic"]:
        seen = Rate.of(rates)
        if dtype not in arithmetic or seen.best_per_s > arithmetic[dtype].rate.best_per_s:
            doubts = tuple(_doubts(card, dtype, seen))
            loop = f"{size} x {size} x {size}"
            arithmetic[dtype] = FlopCeiling(LIBRARY, dtype, seen, loop, doubts)
    memory: dict[tuple[str, str], BytesCeiling] = {}
    for level, operation, size_bytes, rates in answer["memory"]:
        seen, before = Rate.of(rates), memory.get((level, operation))
        if before is None or seen.best_per_s > before.rate.best_per_s:
            memory[level, operation] = BytesCeiling(level, operation, size_bytes, seen)
    found = {*arithmetic, *(level for level, _ in memory)}
    lacking = {what.split()[0]: why for what, _, why in answer["skipped"]}
    clocks = [reading.sm_hz for reading in readings if not reading.reasons & IDLE]
    l2_bytes = card.l2_bytes or answer["l2_bytes"]
    return PlacementCeilings(
        cpus=(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        clock_hz=Rate.of(clocks) if clocks else None,
        arithmetic=tuple(arithmetic.values()),
        memory=tuple(memory.values()),
        capacity_bytes={L2: l2_bytes} if l2_bytes else {},
        lacking={what: why for what, why in lacking.items() if what not in found},
        launch_s={how: ns * 1e-9 for how, ns in answer["launch_ns"].items()},
    )


def _doubts(card: GpuDevice, dtype: str, seen: Rate) -> Iterator[str]:
    """What speaks against a rate, where the card and its most in a cycle are known."""
    most = FLOP_PER_CYCLE.get(card.capability, {}).get(dtype)
    if most and card.sms and card.max_sm_hz:
        yield from implausible(seen.best_per_s, card.sms * card.max_sm_hz, most)
