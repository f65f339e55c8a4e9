"""Rules for what costs time around kernels: copies, memory, calls, inputs, other processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kernelprof.ceilings import DRAM
from kernelprof.diagnosis.evidence import (
    LEAST_SHARE,
    Evidence,
    above_ceiling_s,
    stacks_told,
    suspect,
)
from kernelprof.diagnosis.ledger import CALLING, COPIES, FAULTS, FEEDING, RESIDUAL, UPDATING, Ledger
from kernelprof.diagnosis.verbose import REORDER
from kernelprof.launch import Variables
from kernelprof.results import Finding
from kernelprof.units import counted, duration, share, times

SLOW_UPDATE = "slow update"
TIMES_MEMORY = 1.5  # as long as memory needs, from which an update is slow
DENORMAL_SHARE = 0.01  # of an array's numbers
KEPT_MEMORY: Variables = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}


def two_openmp_runtimes(e: Evidence) -> Iterator[Finding]:
    """Two pools of threads on the same CPUs, each of which spins while the other works."""
    runtimes = e.facts.get("openmp", ())
    if len(runtimes) > 1 and e.lost_s:
        yield suspect(
            "two OpenMP runtimes",
            [f"the process has {', '.join(runtimes)}", f"{duration(e.lost_s)} of a call were lost"],
            "use builds that share one",
            seconds=e.lost_s,
        )


def taken_cpus(e: Evidence) -> Iterator[Finding]:
    """Other processes, a hypervisor or a quota that take CPUs away while something is timed."""
    if len(e.facts.get("openmp", ())) > 1 or not e.case.sampling.unavoidable:
        return
    yield suspect(
        "CPUs taken away",
        [
            f"in {counted(e.case.sampling.disturbed, 'round')} of {e.case.sampling.rounds} others "
            f"had the CPUs, {duration(e.lost_s)} of a call"
        ],
        "look at kernelprof doctor: a quota, other processes, or the host's neighbours",
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
        yield suspect(
            "channels-first layout",
            said,
            "keep images channels last",
            change={"KERNELPROF_LAYOUT": "channels_last"},
            at_most_s=above_ceiling_s(e),  # other kernels may gain by it too, pools mostly
        )
    else:
        yield suspect("layout reorders", said, "layers that agree on a layout", seconds=seconds)


def page_faults(e: Evidence) -> Iterator[Finding]:
    """Memory that is handed back and fetched anew in each call."""
    if e.ledger is None:
        return
    own = {n: None for n in e.variables if n.startswith("MALLOC_") or n == "GLIBC_TUNABLES"}
    yield suspect(
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


def slow_update(e: Evidence) -> Iterator[Finding]:
    """An optimizer that takes longer than the memory does to bring and take away its operands."""
    if e.ledger is None or not e.least_update_s:
        return
    update_s = e.ledger.seconds(UPDATING)
    if update_s > TIMES_MEMORY * e.least_update_s:
        yield suspect(
            SLOW_UPDATE,
            [
                f"the update takes {duration(update_s)}; the machine's memory could serve it in "
                f"{duration(e.least_update_s)}"
            ],
            "another optimizer, or larger batches with fewer updates",
            seconds=update_s - e.least_update_s,
        )


def dispatch(e: Evidence) -> Iterator[Finding]:
    """Layers so small that finding out what to run next takes as long as to run it."""
    if e.ledger is None:
        return
    said = [
        f"{share(e.ledger.share(CALLING))} of the time passes between and around kernels",
        *stacks_told(e),
    ]
    yield suspect(
        "dispatch-bound",
        said,
        f"more samples per call than {e.case.batch}",
        seconds=e.ledger.seconds(CALLING),
    )


def feeding(e: Evidence) -> Iterator[Finding]:
    """An input that comes late."""
    if e.ledger is not None:
        late_s = e.ledger.seconds(FEEDING)
        yield suspect(
            "input feeding",
            [f"{duration(late_s)} pass before the first kernel of a call begins", *stacks_told(e)],
            "prepare the next input while this one is computed",
            seconds=late_s,
        )


def denormals(e: Evidence) -> Iterator[Finding]:
    """Numbers near zero, for which processors need many times as long."""
    found = {name: part for name, part in e.denormals.items() if part > DENORMAL_SHARE}
    if not found or e.facts.get("denormals") != "kept":
        return
    slow = e.facts.get("denormal_slowdown", 1.0)
    worst = max(found, key=lambda name: found[name])
    yield suspect(
        "denormal numbers",
        [
            f"{share(found[worst])} of {worst} is denormal, and so is part of "
            f"{counted(len(found) - 1, 'other array')}",
            f"arithmetic that yields such numbers takes {times(slow)} as long here",
        ],
        "flush them to zero, or scale the data",
        change={"KERNELPROF_DENORMALS": "flush"},
        at_most_s=above_ceiling_s(e),
        between_kernels=True,
    )


def first_rounds(e: Evidence) -> Iterator[Finding]:
    """First calls, which build and tune, among those that are measured."""
    if e.early_s is None or e.late_s is None:
        return
    yield suspect(
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
    if e.ledger is None or e.denormals:
        return
    for name, excess in _in_network_excess(e, e.ledger).items():
        explained = e.ledger.of_layer(COPIES, name) + e.ledger.of_layer(FAULTS, name)
        unexplained = excess - explained
        if unexplained > LEAST_SHARE * e.measured_s:
            cold = e.level_of_weights.get(name) == DRAM
            said = [f"{duration(excess)} more than its kernels by themselves"]
            said += ["no cache holds its weights from one call to the next"] if cold else []
            yield suspect(
                f"cold weights of {name}" if cold else f"{name} is slower within the network",
                said,
                f"more samples per call than {e.case.batch}, for which weights are read once"
                if cold
                else "look at what it finds in the caches: kernelprof run --cache cold",
                seconds=unexplained,
            )


def unknown(e: Evidence) -> Iterator[Finding]:
    """Time in which nothing is known to happen."""
    if e.ledger is not None and not e.ledger.is_known:
        rest_s = e.ledger.seconds(RESIDUAL)
        yield suspect(
            "unexplained time",
            [f"no operation runs in {duration(rest_s)} of a call, and calling does not explain it"],
            "look at a flame graph: kernelprof diagnose --keep FOLDER",
            seconds=rest_s,
        )


def _largest(e: Evidence, part: str) -> str:
    """The layers with the largest shares of a part."""
    assert e.ledger is not None
    own = [one for one in e.ledger.parts if one.part == part and one.layer]
    own.sort(key=lambda one: one.seconds, reverse=True)
    return ", ".join(f"{one.layer} {duration(one.seconds)}" for one in own[:3]) or "no layer"


def _in_network_excess(e: Evidence, ledger: Ledger) -> Mapping[str, float]:
    """What each layer takes within the network beyond its kernels by themselves."""
    return {
        layer.name: ledger.in_network_s[layer.name] - e.alone_s(layer)
        for layer in e.case.layers
        if layer.name in ledger.in_network_s and layer.engine_s is not None
    }
