"""Rules for what makes a network slow on a GPU: the CPU, the card, and how it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from kernelprof.diagnosis.evidence import (
    LEAST_SHARE,
    Evidence,
    OnGpu,
    above_ceiling_s,
    stacks_told,
    suspect,
)
from kernelprof.diagnosis.ledger_on_gpu import ALLOCATING, FROM_GPU, TO_GPU
from kernelprof.gpu.sides import DEVICE, HOST, GpuCase
from kernelprof.gpu.tiles import Filling, filling, output
from kernelprof.probes.compute_bound import Conv2d
from kernelprof.probes.device import TF32
from kernelprof.probes.primitive import Primitive
from kernelprof.results import Finding, KernelResult, LayerResult
from kernelprof.units import counted, duration, share, times

Rule = Callable[[Evidence], Iterator[Finding]]

LAYOUT = "KERNELPROF_LAYOUT"
SEARCH = "KERNELPROF_ALGORITHM_SEARCH"
FIRST_WITH_TF32 = 8.0  # compute capability
NEAR_SHARE = 0.9  # of the time: a CPU that is busy for so long is why a GPU waits
TURNING = ("nchwToNhwc", "nhwcToNchw")  # cuDNN's kernels that change the layout of images
SMALL, TAIL = "products too small for the card", "tail effect"
FULL_SHARE = 0.9  # of a card that is filled well enough
PAGEABLE = "Pageable"  # memory that the system may move, which a GPU cannot read by itself


def launch_bound(e: Evidence) -> Iterator[Finding]:
    """Kernels that the GPU is done with sooner than the CPU hands over the next."""
    gpu = e.case.gpu
    if gpu is None or gpu.bound != HOST or e.case.uncovered:
        return
    layers = [layer for layer in e.case.layers if layer.sides is not None and layer.kernels]
    if not layers:
        return
    kernels = sum(len(layer.kernels) for layer in layers)
    each_s = _handing_over_s(e) / kernels
    typical_s = median(k.seconds.value_s for layer in layers for k in layer.kernels)
    yield suspect(
        "launch-bound",
        [
            f"the GPU works {duration(gpu.device_s)} of {duration(e.measured_s)}; meanwhile the "
            f"CPU hands {counted(kernels, 'kernel')} over, one each {duration(each_s)}",
            f"half of the kernels take the GPU {duration(typical_s)} or less",
            *stacks_told(e),
        ],
        "record calls as a CUDA graph, or compile them (torch.compile, jax.jit); or more samples "
        f"per call than {e.case.batch}",
        seconds=_foretold_gaps_s(e, gpu),
    )


def host_bound(e: Evidence) -> Iterator[Finding]:
    """A CPU that is busy with something else than handing kernels over, while the GPU waits."""
    gpu = e.case.gpu
    if gpu is None or gpu.bound != HOST or gpu.host_s < NEAR_SHARE * e.measured_s:
        return
    yield suspect(
        "host-bound",
        [
            f"the CPU is busy for {duration(gpu.host_s)} of {duration(e.measured_s)}, and handing "
            f"the kernels over explains {duration(_handing_over_s(e))} of that",
            *stacks_told(e),
        ],
        "look at what the CPU does in a call: kernelprof diagnose --keep FOLDER",
        seconds=gpu.gaps_s - _foretold_gaps_s(e, gpu),
    )


def _handing_over_s(e: Evidence) -> float:
    return sum(layer.host_s or 0.0 for layer in e.case.layers)


def _foretold_gaps_s(e: Evidence, gpu: GpuCase) -> float:
    """How much of the GPU's waiting comes of handing over its kernels."""
    if e.case.predicted is None:
        return 0.0
    return min(max(e.case.predicted.value_s - gpu.device_s, 0.0), gpu.gaps_s)


def tf32_off(e: Evidence) -> Iterator[Finding]:
    """Products of float32 that the card could compute much faster with rounded factors."""
    if e.gpu is None or not _is_device_bound(e) or e.variables.get(TF32) == "1":
        return
    speed = e.gpu.tf32_speed
    if not _has_tf32(e.gpu) or (speed is not None and speed <= 1):
        return
    products_s = sum(
        kernel.seconds.value_s
        for layer in e.case.layers
        for kernel, primitives in _products(e, layer)
        if all(_is_float32(primitive) for primitive in primitives)
    )
    said = f"products of float32 take {share(products_s / e.measured_s)} of the time, without TF32"
    if speed is not None:
        said += f", in which this card multiplies {times(speed)} as fast"
    yield suspect(
        "TF32 off",
        [said],
        f"allow TF32 ({TF32}=1): factors keep 10 bits, so results change in the 4th digit",
        change={TF32: "1"},
        at_most_s=products_s * (1 - 1 / speed) if speed else products_s,
    )


def _has_tf32(gpu: OnGpu) -> bool:
    return gpu.tf32_speed is not None or float(gpu.card.get("capability", 0)) >= FIRST_WITH_TF32


def _is_float32(primitive: Primitive) -> bool:
    return primitive.operand(primitive.output).dtype == "float32"


def turned_images(e: Evidence) -> Iterator[Finding]:
    """Images that are turned to another layout for convolutions, and back."""
    if e.gpu is None or e.case.engine != "torch" or e.facts.get("layout") != "NCHW":
        return
    turning_s = sum(s for name, s in e.gpu.operations_s.items() if _is_any(name, TURNING))
    if turning_s:
        yield suspect(
            "channels-first layout",
            [f"the GPU turns images from one layout to the other for {duration(turning_s)}"],
            "keep images channels last",
            change={LAYOUT: "channels_last"},
            at_most_s=above_ceiling_s(e),  # other kernels may gain by it too
        )


def no_search(e: Evidence) -> Iterator[Finding]:
    """An engine that could try which algorithm of convolution is the fastest, and must not."""
    off = e.variables.get(SEARCH) == "off"
    if e.gpu is None or not _is_device_bound(e):
        return
    if not off and e.facts.get("algorithm_search") != "off":
        return
    convolutions_s = sum(
        kernel.seconds.value_s
        for layer in e.case.layers
        for kernel, primitives in _products(e, layer)
        if any(isinstance(primitive, Conv2d) for primitive in primitives)
    )
    if convolutions_s:
        yield suspect(
            "algorithm search switched off",
            [
                f"{SEARCH}=off is set" if off else "the engine says that it is off",
                f"convolutions take {share(convolutions_s / e.measured_s)} of the time",
            ],
            f"unset {SEARCH}" if off else "switch it on",
            change={SEARCH: None} if off else None,
            at_most_s=min(convolutions_s, above_ceiling_s(e)),
        )


def slowed_down(e: Evidence) -> Iterator[Finding]:
    """A card whose clock was lowered while the network was measured.

    Samples that were disturbed so are left out, unless there were too many of them.
    """
    gpu = e.case.gpu
    if e.gpu is None or gpu is None or e.gpu.slowdown is None or not e.case.sampling.unavoidable:
        return
    slow, full_hz = e.gpu.slowdown, e.gpu.card.get("max_sm_hz")
    if not full_hz or slow.sm_hz >= full_hz:
        return
    yield suspect(
        "card slowed down",
        [
            f"in {share(slow.share)} of the samples its clock was lowered by "
            f"{', '.join(slow.reasons)}: {slow.sm_hz / 1e6:.0f} of {full_hz / 1e6:.0f} MHz"
        ],
        "better cooling, a higher power limit, or fewer others on the card",
        seconds=slow.share * gpu.device_s * (1 - slow.sm_hz / full_hz),
    )


def unfilled_card(e: Evidence) -> Iterator[Finding]:
    """Products that are cut into fewer tiles than the card has multiprocessors, or some more."""
    multiprocessors = e.gpu.card.get("sms") if e.gpu is not None else None
    if not multiprocessors or not _is_device_bound(e):
        return
    lost_s: dict[str, dict[str, float]] = {SMALL: {}, TAIL: {}}
    said: dict[str, str] = {}
    for layer in e.case.layers:
        for kernel, primitives in _products(e, layer):
            filled = _filling(kernel, primitives, multiprocessors)
            if filled is None or filled.share > FULL_SHARE:
                continue
            cause = SMALL if filled.waves == 1 else TAIL
            own_s = kernel.seconds.value_s * (1 - filled.share)
            before_s = lost_s[cause].get(layer.name, 0.0)
            lost_s[cause][layer.name] = min(before_s + own_s, _above_ceiling_s(layer))
            said[layer.name] = (
                f"{layer.name} has {counted(filled.tiles, 'tile')} for {multiprocessors} "
                f"multiprocessors, in {counted(filled.waves, 'wave')}"
            )
    for cause, found in lost_s.items():
        if found:
            worst = max(found, key=lambda name: found[name])
            yield suspect(
                cause,
                [f"{said[worst]}, which costs {duration(found[worst])} at most"],
                f"more samples per call than {e.case.batch}, or sizes that fill the last wave",
                at_most_s=sum(found.values()),
            )


def _filling(
    kernel: KernelResult, primitives: list[Primitive], multiprocessors: int
) -> Filling | None:
    """That of the product of a kernel that fills the card best; None where none is known."""
    outputs = (
        output(primitive, pass_)
        for primitive in primitives
        for pass_ in kernel.passes
        if pass_ in primitive.passes
    )
    filled = [filling(one, multiprocessors) for one in outputs if one is not None]
    return max(filled, default=None)


def _above_ceiling_s(layer: LayerResult) -> float:
    """What a layer takes beyond what the machine needs for it: no more can be lost."""
    own_s = layer.engine_s or 0.0
    return own_s if layer.ceiling_s is None else max(own_s - layer.ceiling_s, 0.0)


def copies(e: Evidence) -> Iterator[Finding]:
    """Data that goes to the card, or comes from it, within a call."""
    if e.ledger is None or e.gpu is None:
        return
    for part, direction in ((TO_GPU, "to"), (FROM_GPU, "from")):
        seconds = e.ledger.seconds(part)
        pageable_s = sum(
            s
            for name, s in e.gpu.operations_s.items()
            if PAGEABLE in name and name.startswith("Memcpy HtoD") == (part == TO_GPU)
        )
        if seconds < LEAST_SHARE * e.measured_s:
            continue
        said = [f"{duration(seconds)} of a call are copies {direction} the card"]
        if pageable_s:
            said.append(f"{duration(pageable_s)} of it with memory that is pageable")
        yield suspect(
            f"copies {direction} the card",
            said,
            "pin the memory on the host and copy ahead, while the card computes"
            if pageable_s
            else "leave on the card what is needed there, or copy while it computes",
            seconds=seconds,
        )


def allocation(e: Evidence) -> Iterator[Finding]:
    """A driver that is asked for memory within calls, for which it stops the card."""
    if e.ledger is not None:
        seconds = e.ledger.seconds(ALLOCATING)
        yield suspect(
            "allocation on the card",
            [f"the card waits {duration(seconds)} while the driver finds or frees memory"],
            "let the engine keep its memory: a pool that has grown to what a call needs",
            seconds=seconds,
        )


def where_kernels_count(rule: Rule) -> Rule:
    """The rule, for networks whose time is that of their kernels, and not of the CPU."""

    def found(e: Evidence) -> Iterator[Finding]:
        return rule(e) if _is_device_bound(e) else iter(())

    return found


def _is_device_bound(e: Evidence) -> bool:
    """Whether faster kernels would make the network faster."""
    return e.case.gpu is not None and e.case.gpu.bound == DEVICE


def _products(e: Evidence, layer: LayerResult) -> Iterator[tuple[KernelResult, list[Primitive]]]:
    """The kernels of a layer that multiply, each with its products."""
    primitives = e.network.primitives(e.network.layer(layer.name), e.case.batch, e.case.mode)
    by_label = {one.label: one for one in primitives if one.compute_bound}
    for kernel in layer.kernels:
        found = [by_label[label] for label in kernel.primitives if label in by_label]
        if found:
            yield kernel, found


def _is_any(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name for word in words)
