"""The ladder: from what the machine needs at least up to the measured time, in named steps.

From the ceiling to kernels alone: they are not as fast as they could be.  From there into the
network: the context, in which weights are cold, data is copied and threads are woken, or a kernel
is fused into another.  From the layers to the whole step: what is no layer's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from kernelprof.diagnosis.ledger import (
    CALLING,
    FEEDING,
    IDLE,
    RESIDUAL,
    TIMER,
    UPDATING,
)
from kernelprof.diagnosis.ledger_on_gpu import (
    ALLOCATING,
    FROM_GPU,
    LAUNCHING,
    TO_GPU,
    WAITING,
)
from kernelprof.results import CaseResult, LayerResult
from kernelprof.units import TimeUnit, counted, in_unit

from .ledger import (
    NOTHING_S,
    diagnosis_of,
    layer_parts,
    part_s,
    parts_of,
    parts_unit,
    tidy,
    with_ledger,
)
from .lines import printable
from .order import largest
from .text_table import WIDE, add_number_columns, or_none, text_table

LAYERS_SHOWN = 25
OTHER = "other operations"  # that the engine runs for none of the layers
OUTSIDE = (
    *(FEEDING, IDLE, TIMER),
    *(TO_GPU, FROM_GPU, LAUNCHING, ALLOCATING, WAITING),
    RESIDUAL,
)
SELDOM = (OTHER, TIMER, TO_GPU, FROM_GPU, ALLOCATING, WAITING)  # not told of where it is nothing
RUNGS = ("ceiling", "reference", "alone", "in network")
STEPS = ("+kernel", "+context")  # from the ceiling to alone, from alone to in network


@dataclass(frozen=True)
class Rungs:
    """What a layer takes, or all of them, updates included, in seconds; None where not known."""

    name: str
    ceiling_s: float | None
    reference_s: float | None
    alone_s: float | None
    in_network_s: float | None

    @property
    def kernel_s(self) -> float | None:
        """The step from the ceiling to the engine's kernels by themselves."""
        return _step(self.ceiling_s, self.alone_s)

    @property
    def context_s(self) -> float | None:
        """The step from the kernels by themselves to those within the network."""
        return _step(self.alone_s, self.in_network_s)


def layer_rungs(case: CaseResult) -> list[Rungs]:
    """The rungs of each layer; one that the profiler does not show is fused: it takes no time."""
    profiled = bool(with_ledger([case]))
    return [_rungs(layer, profiled) for layer in case.layers]


def _rungs(layer: LayerResult, profiled: bool) -> Rungs:
    in_network_s = layer.in_network_s or 0.0 if profiled else layer.in_network_s
    return Rungs(layer.name, layer.ceiling_s, layer.reference_s, layer.engine_s, in_network_s)


def together(name: str, rungs: Iterable[Rungs]) -> Rungs:
    """Some layers together; a rung that is known of none of them stays unknown."""
    some = list(rungs)
    return Rungs(
        name,
        _sum(one.ceiling_s for one in some),
        _sum(one.reference_s for one in some),
        _sum(one.alone_s for one in some),
        _sum(one.in_network_s for one in some),
    )


def beyond_layers(case: CaseResult) -> dict[str, float]:
    """From the layers within the network up to the whole step, in seconds.

    Within the layers are their shares of the update, and of dispatch what passes inside of them.
    """
    if not with_ledger([case]):
        return {}
    shown = {layer.name for layer in case.layers if layer.in_network_s is not None}
    of_layers = [one for one in diagnosis_of(case).ledger if one.part in layer_parts(case)]
    layered_s = sum(one.seconds for one in of_layers if one.layer in shown)
    within_s = sum(layer.in_network_s or 0.0 for layer in case.layers) - layered_s
    update_s = part_s(case, UPDATING)
    updated_s = min(update_s, max(within_s, 0.0))
    return {
        OTHER: sum(one.seconds for one in of_layers if one.layer not in shown),
        **_calling(case, within_s - updated_s),
        UPDATING: update_s - updated_s,
        **{part: part_s(case, part) for part in parts_of(case) if part in OUTSIDE},
    }


def _calling(case: CaseResult, within_layers_s: float) -> dict[str, float]:
    """Finding out what to run next: what of it is not within layers."""
    if case.gpu is not None:
        return {}
    return {CALLING: part_s(case, CALLING) - within_layers_s}


def steps(case: CaseResult) -> list[tuple[str, float]]:
    """The whole ladder of a case: its ceiling and each step above, up to the measured time."""
    whole = together("", layer_rungs(case))
    alone_s = whole.alone_s or 0.0
    if whole.ceiling_s is None:
        found = {"kernels alone": alone_s}
    else:
        found = {"ceiling": whole.ceiling_s, "kernel": alone_s - whole.ceiling_s}
    if whole.in_network_s is None:
        found["context and beyond"] = case.measured.value_s - alone_s
    else:
        found |= {"context": whole.in_network_s - alone_s, **beyond_layers(case)}
    return [(name, seconds) for name, seconds in found.items() if abs(seconds) > NOTHING_S]


def ladder_table(case: CaseResult, width: int = WIDE) -> Table:
    """The rungs of each layer and the steps between; the column of the network adds up."""
    unit = parts_unit(case)
    table = text_table("layer")
    heads = [*RUNGS, *STEPS] if width >= WIDE else [*RUNGS[:1], *RUNGS[2:], *STEPS]
    add_number_columns(table, *(f"{head}\n{unit.symbol}" for head in heads))
    shown, folded = largest(layer_rungs(case), LAYERS_SHOWN, _visible)
    rows = [*shown, *_folded(folded)]
    for rungs in rows:
        table.add_row(Text(printable(rungs.name)), *_cells(rungs, unit, width))
    whole = together("all layers", layer_rungs(case))
    table.add_row(Text(whole.name, style="bold"), *_cells(whole, unit, width))
    before = [""] * (heads.index("in network"))
    for name, seconds in beyond_layers(case).items():
        if name == UPDATING and abs(seconds) <= NOTHING_S < part_s(case, UPDATING):
            table.add_row("update, within the layers", *before, or_none(None, str))
        elif name not in SELDOM or abs(seconds) > NOTHING_S:
            table.add_row(name, *before, in_unit(tidy(seconds), unit))
    measured = in_unit(case.measured.value_s, unit)
    table.add_row(Text("whole step", style="bold"), *before, measured)
    return table


def _visible(rungs: Rungs) -> float:
    """By what a layer is shown rather than folded."""
    return max(rungs.in_network_s or 0.0, rungs.alone_s or 0.0)


def _folded(rungs: list[Rungs]) -> list[Rungs]:
    return [together(counted(len(rungs), "smaller layer"), rungs)] if rungs else []


def _cells(rungs: Rungs, unit: TimeUnit, width: int) -> Iterator[str]:
    reference = (rungs.reference_s,) if width >= WIDE else ()
    for seconds in (rungs.ceiling_s, *reference, rungs.alone_s, rungs.in_network_s):
        yield or_none(seconds, lambda known_s: in_unit(known_s, unit))
    for step_s in (rungs.kernel_s, rungs.context_s):
        yield or_none(step_s, lambda known_s: signed(known_s, unit))


def signed(seconds: float, unit: TimeUnit) -> str:
    """A step with its sign.

    >>> signed(-0.0021, TimeUnit("ms", 1e-3)), signed(0.0, TimeUnit("ms", 1e-3))
    ('-2.10', '0')
    """
    return ("+" if seconds > 0 else "") + in_unit(seconds, unit)


def _step(low_s: float | None, high_s: float | None) -> float | None:
    return None if low_s is None or high_s is None else high_s - low_s


def _sum(seconds: Iterable[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return sum(known) if known else None
