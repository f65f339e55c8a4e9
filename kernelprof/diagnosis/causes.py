"""The table of causes: each is a rule that turns evidence into a suspect, or into nothing.

A suspect names its cause, says by what counterfactual its seconds are known, shows its evidence,
and tells what to try.  One that a change of variables takes away has no seconds until the change
was tried: ``at_most_s`` bounds them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from kernelprof.diagnosis.evidence import Evidence
from kernelprof.diagnosis.instruction_sets import InstructionSet, of_mkl_kernel
from kernelprof.diagnosis.ledger import CALLING, COPIES, FAULTS, FEEDING, KERNELS, RESIDUAL
from kernelprof.diagnosis.stacks import DISPATCH, PYTHON, WAITING, Hot
from kernelprof.diagnosis.verbose import REORDER
from kernelprof.launch import FIXED_VARIABLES, POOL_VARIABLES, Variables
from kernelprof.results import Finding
from kernelprof.units import counted, duration, share, times

LEAST_SHARE = 0.03  # of the time, from which a cause is worth a line
DENORMAL_SHARE = 0.01  # of an array's numbers
COSTLY = 1.5  # times as long as others, from which denormal numbers matter
SLOWER = 1.1  # times as long, from which kernels are behind others
PRODUCTS = ("fully_connected", "lstm", "convolution", "primitive")
CONVOLUTIONS = ("convolution",)
BEHIND_REFERENCE = "kernels slower than the reference"
UNFOLDING = ("gemm", "ref")  # implementations of convolutions that are none
NEWER_MKL = 2020  # from this year on it ignores the variable that chooses its path
SWITCHES = ("TF_ENABLE_ONEDNN_OPTS", "MXNET_MKLDNN_ENABLED", "MXNET_USE_MKLDNN_RNN")
CAPS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
WAIT_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
KEPT_MEMORY: Variables = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}

Rule = Callable[[Evidence], Iterator[Finding]]


def _suspect(
    cause: str,
    evidence: list[str],
    remedy: str,
    seconds: float | None = None,
    change: Variables | None = None,
    at_most_s: float = 0.0,
    between_kernels: bool = False,
) -> Finding:
    return Finding(
        cause,
        seconds,
        at_most_s if seconds is None else seconds,
        tuple(evidence),
        remedy,
        tuple((change or {}).items()),
        between_kernels=between_kernels,
    )


def generic_blas(e: Evidence) -> Iterator[Finding]:
    """An MKL that takes its generic path on processors of other makers."""
    year = _mkl_year(e)
    if year is None or year >= NEWER_MKL or "MKL_DEBUG_CPU_TYPE" in e.variables:
        return
    kernel = _hottest_of_mkl(e)
    if kernel is None or of_mkl_kernel(kernel.symbol) is not InstructionSet.GENERIC:
        return
    yield _suspect(
        "generic BLAS path",
        [
            f"its MKL of {year} runs {kernel.symbol} ({share(kernel.share)} of the samples), one "
            f"of its generic kernels, on {e.machine['processor']}",
            *_against_reference(e, PRODUCTS),
        ],
        "make MKL take the path for AVX2: MKL_DEBUG_CPU_TYPE=5",
        change={"MKL_DEBUG_CPU_TYPE": "5"},
        at_most_s=_above_ceiling_s(e),
    )


def _hottest_of_mkl(e: Evidence) -> Hot | None:
    """The kernel of MKL that most samples end in."""
    hottest = e.stacks.hottest if e.stacks is not None else ()
    return next((hot for hot in hottest if of_mkl_kernel(hot.symbol) is not None), None)


def capped_instructions(e: Evidence) -> Iterator[Finding]:
    """Variables that keep libraries from the machine's instruction sets."""
    capped = {name: e.variables[name] for name in CAPS if name in e.variables}
    if not capped:
        return
    said = [f"{name}={value} is set" for name, value in capped.items()]
    if e.verbose is not None and e.verbose.isa:
        said.append(f"oneDNN says it may use {e.verbose.isa}")
    said += [f"OpenBLAS runs its kernels for {core}" for core in e.facts.get("openblas_cores", ())]
    said.append(f"the machine has {', '.join(e.machine['isa'])}")
    yield _suspect(
        "instruction set capped",
        said,
        f"unset {', '.join(capped)}",
        change=dict.fromkeys(capped),
        at_most_s=_above_ceiling_s(e),
    )


def switched_off(e: Evidence) -> Iterator[Finding]:
    """An oneDNN that is built in, and switched off by a variable."""
    off = {name: value for name, value in e.variables.items() if name in SWITCHES and value == "0"}
    if not off:
        return
    calls = Counter(call.primitive for call in e.verbose.onednn) if e.verbose else {}
    seen = ", ".join(f"{count} {kind}" for kind, count in calls.items()) or "nothing"
    yield _suspect(
        "oneDNN switched off",
        [*(f"{name}=0 is set" for name in off), f"in a call oneDNN was asked for {seen}"],
        f"unset {', '.join(off)}",
        change=dict.fromkeys(off),
        at_most_s=_above_ceiling_s(e),
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
    behind_s = e.excess_s(CONVOLUTIONS, lambda layer: best.get(layer.name))
    if behind_s:
        yield _suspect(
            "no direct convolution",
            [
                "none of its convolutions is one of oneDNN's direct ones: they unfold the image "
                "and multiply",
                f"{e.others[0].engine} takes {duration(behind_s)} less for the same convolutions",
            ],
            f"an engine with direct convolutions, {e.others[0].engine} for one",
            seconds=behind_s,
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
    yield _suspect(
        "CPUs without a thread" if few else "more threads than CPUs",
        said,
        f"as many threads as CPUs: {', '.join(f'{name}={threads}' for name in wrong)}",
        change=dict.fromkeys(wrong, str(threads)),
        at_most_s=e.measured_s * (1 - 1 / threads) if few else _above_ceiling_s(e),
    )


def free_pools(e: Evidence) -> Iterator[Finding]:
    """Operators that may run at the same time on the CPUs of one."""
    free = {
        name: value
        for name, value in e.variables.items()
        if FIXED_VARIABLES.get(name, value) != value
    }
    if free:
        yield _suspect(
            "pools that fight for CPUs",
            [f"{name}={value} is set" for name, value in free.items()],
            "let one operator run at a time: "
            + ", ".join(f"{name}={FIXED_VARIABLES[name]}" for name in free),
            change={name: FIXED_VARIABLES[name] for name in free},
            at_most_s=_above_ceiling_s(e),
            between_kernels=True,
        )


def sleeping_threads(e: Evidence) -> Iterator[Finding]:
    """Pools whose threads sleep between kernels, and have to be woken for each."""
    asleep = {name: e.variables[name] for name in WAIT_POLICIES if name in e.variables}
    if asleep and e.case.threads > 1:
        yield _suspect(
            "threads sleep between kernels",
            [f"{name}={value} is set" for name, value in asleep.items()],
            f"unset {', '.join(asleep)}",
            change=dict.fromkeys(asleep),
            at_most_s=_above_ceiling_s(e),
        )


def two_openmp_runtimes(e: Evidence) -> Iterator[Finding]:
    """Two pools of threads on the same CPUs, each of which spins while the other works."""
    runtimes = e.facts.get("openmp", ())
    if len(runtimes) > 1 and e.lost_s:
        yield _suspect(
            "two OpenMP runtimes",
            [f"the process has {', '.join(runtimes)}", f"{duration(e.lost_s)} of a call were lost"],
            "use builds that share one",
            seconds=e.lost_s,
        )


def taken_cpus(e: Evidence) -> Iterator[Finding]:
    """Other processes, a hypervisor or a quota that take CPUs away while something is timed."""
    if len(e.facts.get("openmp", ())) > 1 or not e.case.sampling.unavoidable:
        return
    yield _suspect(
        "CPUs taken away",
        [
            f"in {counted(e.case.sampling.disturbed, 'round')} of {e.case.sampling.rounds} others "
            f"had the CPUs, {duration(e.lost_s)} of a call"
        ],
        "look at `kernelprof doctor`: a quota, other processes, or the host's neighbours",
        seconds=e.lost_s,
    )


def reorders(e: Evidence) -> Iterator[Finding]:
    """Data moved from one layout to another."""
    if e.ledger is None:
        return
    seconds = e.ledger.seconds(COPIES)
    if seconds < LEAST_SHARE * e.measured_s:
        return
    said = [f"{share(e.ledger.share(COPIES))} of the time moves data ({_largest(e, COPIES)})"]
    made = [call for call in e.verbose.onednn if call.primitive == REORDER] if e.verbose else []
    if made:
        said.append(f"oneDNN made {counted(len(made), 'reorder')} in a call")
    has_choice = e.facts.get("layout") == "NCHW" and e.case.engine == "torch"
    if has_choice:
        yield _suspect(
            "channels-first layout",
            said,
            "keep images channels last",
            change={"KERNELPROF_LAYOUT": "channels_last"},
            at_most_s=_above_ceiling_s(e),  # other kernels may gain by it too, pools mostly
        )
    else:
        yield _suspect("layout reorders", said, "layers that agree on a layout", seconds=seconds)


def page_faults(e: Evidence) -> Iterator[Finding]:
    """Memory that is handed back and fetched anew in each call."""
    if e.ledger is None:
        return
    own = {n: None for n in e.variables if n.startswith("MALLOC_") or n == "GLIBC_TUNABLES"}
    yield _suspect(
        "allocation churn",
        [
            f"{e.faults:.0f} page faults in each call, of {duration(e.page_fault_s)}",
            *(f"{name}={e.variables[name]} is set" for name in own),
        ],
        f"unset {', '.join(own)}"
        if own
        else "let the allocator keep its memory: "
        + " ".join(f"{name}={value}" for name, value in KEPT_MEMORY.items()),
        change=own or KEPT_MEMORY,
        at_most_s=e.ledger.seconds(FAULTS),
    )


def dispatch(e: Evidence) -> Iterator[Finding]:
    """Layers so small that finding out what to run next takes as long as to run it."""
    if e.ledger is None:
        return
    said = [
        f"{share(e.ledger.share(CALLING))} of the time passes between and around kernels",
        *_stacks(e),
    ]
    yield _suspect(
        "dispatch-bound",
        said,
        f"more samples per call than {e.case.batch}",
        seconds=e.ledger.seconds(CALLING),
    )


def feeding(e: Evidence) -> Iterator[Finding]:
    """An input that comes late."""
    if e.ledger is not None:
        late_s = e.ledger.seconds(FEEDING)
        yield _suspect(
            "input feeding",
            [f"{duration(late_s)} pass before the first kernel of a call begins", *_stacks(e)],
            "prepare the next input while this one is computed",
            seconds=late_s,
        )


def denormals(e: Evidence) -> Iterator[Finding]:
    """Numbers near zero, for which processors need many times as long."""
    found = {name: part for name, part in e.denormals.items() if part > DENORMAL_SHARE}
    slow = e.facts.get("denormal_slowdown", 1.0)
    if not found or e.facts.get("denormals") != "kept" or slow < COSTLY:
        return
    worst = max(found, key=lambda name: found[name])
    yield _suspect(
        "denormal numbers",
        [
            f"{share(found[worst])} of {worst} is denormal, and so is part of "
            f"{counted(len(found) - 1, 'other array')}",
            f"arithmetic that yields such numbers takes {times(slow)} as long here",
        ],
        "flush them to zero, or scale the data",
        seconds=sum(max(excess, 0.0) for excess in _in_network_excess(e).values()),
        change={"KERNELPROF_DENORMALS": "flush"},
        between_kernels=True,
    )


def first_rounds(e: Evidence) -> Iterator[Finding]:
    """First calls, which build and tune, among those that are measured."""
    if e.early_s is None or e.late_s is None:
        return
    yield _suspect(
        "first calls in the measured time",
        [
            f"the first rounds take {duration(e.early_s)}, later ones {duration(e.late_s)}; "
            f"the very first call took {duration(e.case.first_call_s)}"
        ],
        "warm up longer, or measure for longer",
        seconds=e.measured_s - e.late_s,
    )


def slower_in_network(e: Evidence) -> Iterator[Finding]:
    """A layer that takes longer among the others than by itself, for no reason that is known."""
    explained = {
        part.layer: part.seconds
        for part in (e.ledger.parts if e.ledger else ())
        if part.part in (COPIES, FAULTS)
    }
    for name, excess in _in_network_excess(e).items():
        unexplained = excess - explained.get(name, 0.0)
        if unexplained > LEAST_SHARE * e.measured_s and not e.denormals:
            yield _suspect(
                f"{name} is slower within the network",
                [f"{duration(excess)} more than its kernels by themselves"],
                "look at what its weights and inputs find in the caches: --cache cold",
                seconds=unexplained,
            )


def behind_reference(e: Evidence) -> Iterator[Finding]:
    """Kernels that take longer than NumPy's, on the same CPUs in the same minutes.

    Those within the network, where they are known: by itself a kernel pays for being called.
    """
    behind = {}
    for layer in e.case.layers:
        own_s = layer.engine_s if e.ledger is None else e.ledger.of_layer(KERNELS, layer.name)
        if own_s and layer.reference_s and own_s > SLOWER * layer.reference_s:
            behind[layer.name] = own_s - layer.reference_s
    if behind:
        worst = max(behind, key=lambda name: behind[name])
        yield _suspect(
            BEHIND_REFERENCE,
            [f"{worst} takes {duration(behind[worst])} more than NumPy's kernel"],
            "another build of the engine, or another engine",
            seconds=sum(behind.values()),
        )


def unknown(e: Evidence) -> Iterator[Finding]:
    """Time in which nothing is known to happen."""
    if e.ledger is not None and not e.ledger.is_known:
        rest_s = e.ledger.seconds(RESIDUAL)
        yield _suspect(
            "unexplained time",
            [f"no operation runs in {duration(rest_s)} of a call, and calling does not explain it"],
            "look at a timeline: `kernelprof diagnose --keep FOLDER` has a flame graph",
            seconds=rest_s,
        )


# First those that a change of variables takes away, as they explain others.
CAUSES: tuple[Rule, ...] = (
    generic_blas,
    capped_instructions,
    switched_off,
    wrong_pool,
    free_pools,
    sleeping_threads,
    unfolded_convolutions,
    behind_reference,
    two_openmp_runtimes,
    taken_cpus,
    reorders,
    page_faults,
    dispatch,
    feeding,
    denormals,
    first_rounds,
    slower_in_network,
    unknown,
)
# Those that make kernels slow, and of these the ones that tell of what the others leave.
OF_KERNELS = CAUSES[: CAUSES.index(two_openmp_runtimes)]
COMPARISONS = (unfolded_convolutions, behind_reference)


def _mkl_year(e: Evidence) -> int | None:
    """In which year its MKL was released, if it has one that tells."""
    found = re.search(r"MKL (20\d\d)", e.verbose.mkl or "") if e.verbose else None
    return int(found[1]) if found else None


def _above_ceiling_s(e: Evidence) -> float:
    """What kernels take beyond what the machine needs at least: no change saves more."""
    return e.measured_s - e.case.ceiling_s if e.case.ceiling_s else e.measured_s


def _against_reference(e: Evidence, kinds: tuple[str, ...]) -> Iterator[str]:
    own_s = sum(layer.engine_s or 0.0 for layer in e.case.layers if layer.kind in kinds)
    reference_s = sum(layer.reference_s or 0.0 for layer in e.case.layers if layer.kind in kinds)
    if reference_s and own_s > reference_s:
        yield f"its products take {times(own_s / reference_s)} as long as NumPy's"


def _stacks(e: Evidence) -> Iterator[str]:
    """What samples of stacks tell of the time outside of kernels."""
    if e.stacks is not None:
        yield (
            f"stacks: {share(e.stacks.share(PYTHON))} Python, {share(e.stacks.share(DISPATCH))} "
            f"the engine's code around kernels, {share(e.stacks.share(WAITING))} waiting"
        )


def _largest(e: Evidence, part: str) -> str:
    """The layers with the largest shares of a part."""
    assert e.ledger is not None
    own = [one for one in e.ledger.parts if one.part == part and one.layer]
    own.sort(key=lambda one: one.seconds, reverse=True)
    return ", ".join(f"{one.layer} {duration(one.seconds)}" for one in own[:3]) or "no layer"


def _in_network_excess(e: Evidence) -> Mapping[str, float]:
    """What each layer takes within the network beyond its kernels by themselves."""
    if e.ledger is None:
        return {}
    return {
        layer.name: e.ledger.in_network_s[layer.name] - e.alone_s(layer)
        for layer in e.case.layers
        if layer.name in e.ledger.in_network_s and layer.engine_s is not None
    }
