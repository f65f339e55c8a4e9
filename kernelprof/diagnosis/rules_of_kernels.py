"""Rules for what makes an engine's kernels slow: libraries, instruction sets, threads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from kernelprof.context import ACTIVATION, BATCH_NORM
from kernelprof.diagnosis.evidence import Evidence, above_ceiling_s, suspect
from kernelprof.diagnosis.instruction_sets import (
    CAPPING_VARIABLES,
    InstructionSet,
    of_mkl_kernel,
    of_onednn,
    of_openblas,
)
from kernelprof.diagnosis.ledger import KERNELS
from kernelprof.diagnosis.stacks import Hot
from kernelprof.launch import FIXED_VARIABLES, POOL_VARIABLES
from kernelprof.probes.layers import Layer
from kernelprof.probes.network import INFER
from kernelprof.results import Finding
from kernelprof.units import counted, duration, share, times

SLOWER = 1.1  # times as long, from which kernels are behind others
PRODUCTS = ("fully_connected", "lstm", "convolution", "primitive")
CONVOLUTIONS = ("convolution",)
BEHIND_REFERENCE = "kernels slower than the reference"
UNFOLDING = ("gemm", "ref")  # implementations of convolutions that are none
NEWER_MKL = 2020  # from this year on it ignores the variable that chooses its path
SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "MXNET_MKLDNN_ENABLED", "MXNET_USE_MKLDNN_RNN")
WAIT_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
SEARCHES = ("MXNET_CUDNN_AUTOTUNE_DEFAULT",)
FUSED = {"activation": ACTIVATION, "batch_norm": BATCH_NORM}  # kinds of layers -> what shows it


def generic_blas(e: Evidence) -> Iterator[Finding]:
    """An MKL that takes its generic path on processors of other makers."""
    year = _mkl_year(e)
    if year is None or year >= NEWER_MKL or "MKL_DEBUG_CPU_TYPE" in e.variables:
        return
    kernel = _hottest_of_mkl(e)
    if kernel is None or of_mkl_kernel(kernel.symbol) is not InstructionSet.GENERIC:
        return
    yield suspect(
        "generic BLAS path",
        [
            f"its MKL of {year} runs {kernel.symbol} ({share(kernel.share)} of the samples), one "
            f"of its generic kernels, on {e.machine['processor']}",
            *_against_reference(e),
        ],
        "make MKL take the path for AVX2: MKL_DEBUG_CPU_TYPE=5",
        change={"MKL_DEBUG_CPU_TYPE": "5"},
        at_most_s=above_ceiling_s(e),
    )


def _hottest_of_mkl(e: Evidence) -> Hot | None:
    """The kernel of MKL that most samples end in."""
    hottest = e.stacks.hottest if e.stacks is not None else ()
    return next((hot for hot in hottest if of_mkl_kernel(hot.symbol) is not None), None)


def _mkl_year(e: Evidence) -> int | None:
    """In which year its MKL was released, if it has one that tells."""
    found = re.search(r"MKL (20\d\d)", e.verbose.mkl or "") if e.verbose else None
    return int(found[1]) if found else None


def capped_instructions(e: Evidence) -> Iterator[Finding]:
    """Variables that keep libraries from the machine's instruction sets."""
    capped = {name: e.variables[name] for name in CAPPING_VARIABLES if name in e.variables}
    if not capped:
        return
    said = [f"{name}={value} is set" for name, value in capped.items()]
    said += _below_processor(e)
    yield suspect(
        "instruction set capped",
        said,
        f"unset {', '.join(capped)}",
        change=dict.fromkeys(capped),
        at_most_s=above_ceiling_s(e),
    )


def _below_processor(e: Evidence) -> Iterator[str]:
    """What libraries say that they use, where the processor has something better for float32."""
    used = [("oneDNN", of_onednn(e.verbose.isa))] if e.verbose and e.verbose.isa else []
    cores = e.facts.get("openblas_cores", ())
    used += [(f"OpenBLAS, for {core},", of_openblas(core)) for core in cores]
    best = e.instruction_set
    for library, own in used:
        if best is not None and own is not None and own.for_float32 < best.for_float32:
            yield f"{library} uses {own.title}; the processor has {best.title}"


def switched_off(e: Evidence) -> Iterator[Finding]:
    """An oneDNN that is built in, and switched off by a variable."""
    off = {name: value for name, value in e.variables.items() if name in SWITCHES and value == "0"}
    if not off:
        return
    calls = Counter(call.primitive for call in e.verbose.onednn) if e.verbose else {}
    seen = ", ".join(f"{count} {kind}" for kind, count in calls.items()) or "nothing"
    yield suspect(
        "oneDNN switched off",
        [*(f"{name}=0 is set" for name in off), f"in a call oneDNN was asked for {seen}"],
        f"unset {', '.join(off)}",
        change=dict.fromkeys(off),
        at_most_s=above_ceiling_s(e),
    )


def wrong_pool(e: Evidence) -> Iterator[Finding]:
    """Pools of more or fewer threads than there are CPUs for them."""
    threads = e.case.threads
    wrong = {
        name: value
        for name, value in e.variables.items()
        if name in POOL_VARIABLES and value.isdecimal() and int(value) != threads
    }
    if not wrong:
        return
    few = max(int(value) for value in wrong.values()) < threads
    pool = e.facts.get("threads")
    said = [
        f"{name}={value} is set, for {counted(threads, 'CPU')}" for name, value in wrong.items()
    ]
    if pool is not None:
        said.append(f"the engine's pool has {counted(pool, 'thread')}")
    yield suspect(
        "CPUs without a thread" if few else "more threads than CPUs",
        said,
        f"as many threads as CPUs: {', '.join(f'{name}={threads}' for name in wrong)}",
        change=dict.fromkeys(wrong, str(threads)),
        at_most_s=e.measured_s * (1 - 1 / threads) if few else above_ceiling_s(e),
    )


def free_pools(e: Evidence) -> Iterator[Finding]:
    """Operators that may run at the same time on the CPUs of one."""
    free = {
        name: value
        for name, value in e.variables.items()
        if FIXED_VARIABLES.get(name, value) != value
    }
    if free:
        yield suspect(
            "pools that fight for CPUs",
            [f"{name}={value} is set" for name, value in free.items()],
            "let one operator run at a time: "
            + ", ".join(f"{name}={FIXED_VARIABLES[name]}" for name in free),
            change={name: FIXED_VARIABLES[name] for name in free},
            at_most_s=above_ceiling_s(e),
            between_kernels=True,
        )


def sleeping_threads(e: Evidence) -> Iterator[Finding]:
    """Pools whose threads sleep between kernels, and have to be woken for each."""
    asleep = {name: e.variables[name] for name in WAIT_POLICIES if name in e.variables}
    if asleep and e.case.threads > 1:
        yield suspect(
            "threads sleep between kernels",
            [f"{name}={value} is set" for name, value in asleep.items()],
            f"unset {', '.join(asleep)}",
            change=dict.fromkeys(asleep),
            at_most_s=above_ceiling_s(e),
        )


def algorithm_search(e: Evidence) -> Iterator[Finding]:
    """An engine that could look for its fastest algorithm, and was told not to."""
    off = {name: e.variables[name] for name in SEARCHES if e.variables.get(name) == "0"}
    if off or e.facts.get("algorithm_search") == "off":
        yield suspect(
            "algorithm search switched off",
            [f"{name}=0 is set" for name in off] or ["the engine says that it is off"],
            f"unset {', '.join(off)}" if off else "switch it on",
            change=dict.fromkeys(off),
            at_most_s=above_ceiling_s(e),
        )


def unfolded_convolutions(e: Evidence) -> Iterator[Finding]:
    """Convolutions by im2col and a product, where other engines have direct ones."""
    if any(name in e.variables for name in SWITCHES) or e.verbose is None:
        return
    direct = any(
        call.primitive == "convolution" and not call.implementation.startswith(UNFOLDING)
        for call in e.verbose.onednn
    )
    if direct or not e.others:
        return
    best = {
        layer.name: layer.engine_s
        for other in reversed(e.others)
        for layer in other.layers
        if layer.kind in CONVOLUTIONS and layer.engine_s is not None
    }
    behind_s = sum(
        max(layer.engine_s - best[layer.name], 0.0)
        for layer in e.case.layers
        if layer.name in best and layer.engine_s is not None
    )
    if behind_s:
        yield suspect(
            "no direct convolution",
            [
                "none of its convolutions is one of oneDNN's direct ones: they unfold the image "
                "and multiply",
                f"{e.others[0].engine} takes {duration(behind_s)} less for the same convolutions",
            ],
            f"an engine with direct convolutions, {e.others[0].engine} for one",
            seconds=behind_s,
        )


def missing_fusion(e: Evidence) -> Iterator[Finding]:
    """Activations and batch norms by themselves that another engine fuses into convolutions."""
    if e.ledger is None or e.case.mode != INFER:
        return
    for kind, trait in FUSED.items():
        fusing = [other for other in e.others if other.traits_s.get(trait, 0.0) < 0]
        if e.case.traits_s.get(trait, 0.0) < 0 or not fusing:
            continue
        behind = [name for name, layer in _behind_convolutions(e) if layer.kind == kind]
        yield suspect(
            f"no fused {kind.replace('_', ' ')}",
            [f"{fusing[0].engine} computes them within the convolution before, at no cost"],
            f"a compiled graph, or an engine that fuses: {fusing[0].engine} for one",
            seconds=sum(e.ledger.of_layer(KERNELS, name) for name in behind),
        )


def _behind_convolutions(e: Evidence) -> Iterator[tuple[str, Layer]]:
    """The layers that read a convolution's output."""
    for layer in e.network.layers:
        if any(e.network.layer(name).kind in CONVOLUTIONS for name in layer.inputs):
            yield layer.name, layer


def behind_reference(e: Evidence) -> Iterator[Finding]:
    """Kernels that take longer than the reference's, on the same device in the same minutes.

    Those within the network, where they are known: by itself a kernel pays for being called.  The
    reference's time holds its update, too.
    """
    behind = {}
    for layer in e.case.layers:
        own_s = layer.engine_s if e.ledger is None else e.ledger.of_layer(KERNELS, layer.name)
        if own_s and layer.reference_s and own_s > SLOWER * layer.reference_s:
            behind[layer.name] = own_s - layer.reference_s
    if behind:
        worst = max(behind, key=lambda name: behind[name])
        yield suspect(
            BEHIND_REFERENCE,
            [
                f"{worst} takes {duration(behind[worst])} more than {_reference(e)}'s kernel",
                *_below_processor(e),
                *_counters(e),
            ],
            "another build of the engine, or another engine",
            seconds=sum(behind.values()),
        )


def _reference(e: Evidence) -> str:
    return "NumPy" if e.gpu is None else "CuPy"


def _counters(e: Evidence) -> Iterator[str]:
    """What the processor counted, if it can."""
    if e.counters is not None and e.counters.instructions_per_cycle is not None:
        yield f"{e.counters.instructions_per_cycle:.2g} instructions per cycle"
    if e.counters is not None and e.counters.cache_miss_share is not None:
        yield f"{share(e.counters.cache_miss_share)} of what asks the last cache goes to memory"


def _against_reference(e: Evidence) -> Iterator[str]:
    products = [layer for layer in e.case.layers if layer.kind in PRODUCTS]
    own_s = sum(layer.engine_s or 0.0 for layer in products)
    reference_s = sum(layer.reference_s or 0.0 for layer in products)
    if reference_s and own_s > reference_s:
        yield f"its products take {times(own_s / reference_s)} as long as NumPy's"
