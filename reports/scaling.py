"""How networks scale over threads and batches: tables, sentences, JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from kernelprof.results import Estimate
from kernelprof.scaling import (
    BatchPoint,
    LayerPoint,
    OverBatches,
    OverThreads,
    Scaling,
    ThreadPoint,
)
from kernelprof.scaling_laws import Fit, Range, most_useful_threads
from kernelprof.units import (
    TimeUnit,
    bandwidth,
    column_unit,
    count,
    counted,
    duration,
    in_unit,
    magnitude,
    percent,
    share,
    significant,
    times,
)

from .derived import half_width
from .lines import printable
from .text_table import NONE, add_number_columns, or_none, text_table

SCHEMA = 1  # of the JSON; keys may be added within a schema, never changed
MOSTLY = 0.7  # of the lost time: the layers that make it up are named
MOST_NAMED = 4
LITTLE = 0.02  # of the CPU time: what is lost beyond needs a reason
NOTABLE = 0.1  # of the lost time
NOTHING = 1e-9  # of a time: the cost of a pair of threads that no count would show
BUSY = 0.5  # of a bandwidth: what is less does not explain a loss


def title(found: OverThreads | OverBatches) -> str:
    """What is scaled."""
    fixed = (
        f"batch {count(found.batch)}"
        if isinstance(found, OverThreads)
        else counted(found.threads, "thread")
    )
    device = "" if found.device == "cpu" else f" on {found.device}"
    return f"{printable(found.network)} {found.mode}, {fixed}, {printable(found.engine)}{device}"


def threads_table(scalings: Sequence[OverThreads]) -> Table:
    """A row per thread count, under what is scaled."""
    unit = column_unit(point.measured.value_s for one in scalings for point in one.points)
    table = text_table("threads")
    add_number_columns(table, f"measured\n{unit.symbol}", "\n±", "\nspeed-up", "\n90 % interval")
    add_number_columns(table, "predicted\nspeed-up", "\nefficiency", f"lost, CPU\n{unit.symbol}")
    for one in scalings:
        table.add_row(Text(title(one), style="bold"))
        for point in one.points:
            table.add_row(
                f"{point.threads:>7}",
                in_unit(point.measured.value_s, unit),
                magnitude(half_width(point.measured)),
                times(point.speedup.value),
                f"{times(point.speedup.low)} to {times(point.speedup.high)}",
                or_none(point.predicted_speedup, times),
                share(point.efficiency),
                in_unit(point.lost_s, unit),
            )
    return table


def batches_table(scalings: Sequence[OverBatches]) -> Table:
    """A row per batch, under what is scaled."""
    unit = column_unit(point.measured.value_s for one in scalings for point in one.points)
    table = text_table("batch")
    add_number_columns(table, f"measured\n{unit.symbol}", "\n±", "\nper sample", "\nsamples/s")
    add_number_columns(table, f"predicted\n{unit.symbol}", "\nerror")
    for one in scalings:
        table.add_row(Text(title(one), style="bold"))
        for point in one.points:
            measured_s = point.measured.value_s
            table.add_row(
                f"{count(point.batch):>7}",
                in_unit(measured_s, unit),
                magnitude(half_width(point.measured)),
                duration(measured_s / point.batch),
                significant(point.per_s),
                *_foretold(point, unit),
            )
    return table


def _foretold(point: BatchPoint, unit: TimeUnit) -> tuple[str, str]:
    """The predicted time, and how far it is off."""
    if point.predicted is None:
        return NONE, NONE
    predicted_s = point.predicted.value_s
    return in_unit(predicted_s, unit), percent(predicted_s / point.measured.value_s - 1)


def sentences(found: Scaling) -> Iterator[str]:
    """What stops networks from scaling, in words."""
    for threads in found.over_threads:
        yield f"{title(threads)}: " + " ".join([*_of_threads(threads), *_fits(threads)])
    for batches in found.over_batches:
        yield f"{title(batches)}: " + " ".join(_of_batches(batches))


def _of_threads(one: OverThreads) -> Iterator[str]:
    last = one.points[-1]
    faster = "faster" if last.speedup.value >= 1 else "as fast"
    foretold = or_none(last.predicted_speedup, times)
    yield (
        f"{times(last.speedup.value)} {faster} with {counted(last.threads, 'thread')} "
        f"(predicted {foretold}), an efficiency of {share(last.efficiency)}."
    )
    total_s = last.threads * last.measured.value_s
    if last.lost_s <= LITTLE * total_s:
        yield "Next to nothing is lost."
        return
    yield from _lost(last)


def _lost(point: ThreadPoint) -> Iterator[str]:
    """Who loses the time, and whose memory is busy."""
    named = main_losers(point)
    if named:
        part = point.share(sum(layer.lost_s for layer in named))
        yield (
            f"{_listed([layer.name for layer in named])} {'makes' if len(named) == 1 else 'make'} "
            f"up {share(part)} of the time lost at {counted(point.threads, 'thread')}."
        )
    for what, lost in (
        ("Calling", point.calling_lost_s),
        ("What kernels alone do not show", point.unexplained_lost_s),
    ):
        if point.share(lost) > NOTABLE:
            yield f"{what} makes up {share(point.share(lost))}."
    for layer in named:
        if layer.traffic is not None and (layer.traffic.share or 0.0) >= BUSY:
            yield (
                f"{printable(layer.name)} is at {share(min(layer.traffic.share or 0.0, 1.0))} of "
                f"the {layer.traffic.level} bandwidth ({bandwidth(layer.traffic.bytes_per_s)})"
                f"{', which more threads do not raise' if layer.saturates else ''}."
            )


def main_losers(point: ThreadPoint) -> list[LayerPoint]:
    """The few layers that lose most of what is lost, the worst first."""
    named: list[LayerPoint] = []
    for layer in sorted(point.layers, key=lambda one: -one.lost_s)[:MOST_NAMED]:
        enough = point.share(sum(one.lost_s for one in named)) >= MOSTLY
        if not enough and point.share(layer.lost_s) >= NOTABLE:
            named.append(layer)
    return named


def _fits(one: OverThreads) -> Iterator[str]:
    if one.amdahl is None or one.usl is None:
        yield (
            f"{counted(len(one.points), 'thread count')} measured: {_more(one.missing)} needed "
            "to tell the serial share."
        )
        return
    serial = one.amdahl["serial"]
    yield f"Serial share by Amdahl's law: {_range(serial)}"
    yield (
        f"({times(1 / serial.value)} at the most)." if serial.value > 0 else "(no limit in sight)."
    )
    contention, coherence = one.usl["contention"], one.usl["coherence"]
    yield f"By the Universal Scalability Law: contention {_range(contention)}, coherence"
    yield f"{_tiny(coherence.value)} ({_tiny(coherence.low)} to {_tiny(coherence.high)})."
    if coherence.low > 0:
        peak = most_useful_threads(contention.value, coherence.value)
        yield f"More than {math.floor(peak)} threads would be slower."


def _of_batches(one: OverBatches) -> Iterator[str]:
    best = max(one.points, key=lambda point: point.per_s)
    yield (
        f"up to {significant(best.per_s)} samples/s, at batch {count(best.batch)}; "
        f"the knee is at batch {count(one.knee)}: a larger one gains less than a tenth."
    )
    if one.hockney is None:
        yield (
            f"{len(one.points)} batches measured: {_more(one.missing)} needed to tell a call's "
            "fixed cost."
        )
    else:
        half = one.hockney["half_batch"]
        yield (
            f"A call costs as much as {significant(half.value)} samples "
            f"({significant(half.low)} to {significant(half.high)}), however large the batch."
        )


def _more(missing: int) -> str:
    return f"{missing} more {'is' if missing == 1 else 'are'}"


def _range(found: Range) -> str:
    return f"{share(found.value)} ({share(found.low)} to {share(found.high)})"


def _tiny(value: float) -> str:
    return f"{value:.1e}" if value > NOTHING else "0"


def _listed(names: Sequence[str]) -> str:
    printed = [printable(name) for name in names]
    return " and ".join([", ".join(printed[:-1]), printed[-1]] if len(printed) > 1 else printed)


def scaling_json(found: Scaling) -> dict[str, Any]:
    """All of it as an object of strict JSON."""
    return {
        "schema": SCHEMA,
        "threads": [_threads_json(one) for one in found.over_threads],
        "batches": [_batches_json(one) for one in found.over_batches],
    }


def _threads_json(one: OverThreads) -> dict[str, Any]:
    first = {layer.name: layer.seconds for layer in one.points[0].layers}
    return {
        **{key: getattr(one, key) for key in ("network", "engine", "device", "batch", "mode")},
        "points": [_point_json(point, first) for point in one.points],
        "amdahl": _fit_json(one.amdahl),
        "usl": _fit_json(one.usl),
        "points_missing": one.missing,
    }


def _point_json(point: ThreadPoint, first: dict[str, float]) -> dict[str, Any]:
    return {
        "threads": point.threads,
        **_times_json(point.measured, point.predicted),
        "speedup": point.speedup.value,
        "speedup_low": point.speedup.low,
        "speedup_high": point.speedup.high,
        "predicted_speedup": point.predicted_speedup,
        "efficiency": point.efficiency,
        "lost_s": point.lost_s,
        "calling_lost_s": point.calling_lost_s,
        "unexplained_lost_s": point.unexplained_lost_s,
        "layers": [
            {
                **asdict(layer),
                "speedup": first[layer.name] / layer.seconds if layer.seconds else None,
            }
            for layer in point.layers
        ],
    }


def _batches_json(one: OverBatches) -> dict[str, Any]:
    return {
        **{key: getattr(one, key) for key in ("network", "engine", "device", "threads", "mode")},
        "points": [
            {
                "batch": point.batch,
                **_times_json(point.measured, point.predicted),
                "samples_per_s": point.per_s,
            }
            for point in one.points
        ],
        "knee": one.knee,
        "hockney": _fit_json(one.hockney),
        "points_missing": one.missing,
    }


def _times_json(measured: Estimate, predicted: Estimate | None) -> dict[str, float | None]:
    return {
        "measured_s": measured.value_s,
        "measured_low_s": measured.low_s,
        "measured_high_s": measured.high_s,
        "predicted_s": predicted.value_s if predicted else None,
        "predicted_low_s": predicted.low_s if predicted else None,
        "predicted_high_s": predicted.high_s if predicted else None,
    }


def _fit_json(fit: Fit | None) -> dict[str, dict[str, float]] | None:
    return {name: asdict(found) for name, found in fit.parameters.items()} if fit else None
