"""What a bench found: under each primitive a line per engine and pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from kernelprof.probes.primitive import BACKWARD_DATA, BACKWARD_WEIGHTS
from kernelprof.results import FailureResult, PrimitiveResult, Results
from kernelprof.units import bandwidth, counted, duration, magnitude, rate, share, times

from .derived import half_width
from .lines import printable
from .sampling import sampling_json, sampling_verdict
from .text_table import NONE, or_none

INDENT = "  "
WIDTHS = {
    "mode": -5,  # negative: aligned left
    "pass": -16,
    "engine": -10,
    "threads": 7,
    "time": 8,
    "±": 6,
    "rate": 12,
    "x faster": 8,  # than the reference
    " ±": 6,
    "attained": 8,  # of what the machine could do
}
NAMES = {  # of passes that are not called by their own name
    (): "all",
    (BACKWARD_DATA, BACKWARD_WEIGHTS): "backward",  # both in one call
}


def bench_lines(results: Results) -> Iterator[Text]:
    """Everything that a bench found, and the sum of it."""
    yield bench_header()
    everything: list[PrimitiveResult | FailureResult] = [*results.primitives, *results.failures]
    for primitive in dict.fromkeys(map(_primitive, everything)):
        yield primitive_line(primitive)
        for one in everything:
            if _primitive(one) == primitive:
                yield finding_line(one)
    yield Text()
    yield Text(bench_verdict(results))


def bench_header() -> Text:
    """The heading of the lines."""
    return Text(INDENT + _aligned(list(WIDTHS)), style="bold")


def primitive_line(primitive: str) -> Text:
    """The primitive that the lines below it are of."""
    return Text(printable(primitive), style="bold")


def finding_line(one: PrimitiveResult | FailureResult) -> Text:
    """A pass in an engine: what one call takes, or why that is not known."""
    where = [one.mode, pass_name(one.passes), printable(one.engine), str(one.threads)]
    if isinstance(one, PrimitiveResult):
        return Text(INDENT + _aligned([*where, *_measured(one)]))
    line = Text(f"{INDENT}{_aligned(where)}  ").append("failed", style="bold red")
    return line.append(f" ({one.kind}): {printable(one.reason)}")


def bench_verdict(results: Results) -> str:
    """The outcome in a few sentences."""
    return " ".join(bench_sentences(results))


def bench_sentences(results: Results) -> list[str]:
    """The sentences of the outcome, the most important first."""
    sizes = len({one.primitive for one in results.primitives})
    outcome = f"{counted(len(results.primitives), 'kernel')} of {counted(sizes, 'size')} measured"
    first = f"{outcome}; {len(results.failures)} failed." if results.failures else f"{outcome}."
    lukewarm = sum(one.lukewarm for one in results.primitives)
    return [
        first,
        *sampling_verdict([one.sampling for one in results.primitives]),
        *([f"{counted(lukewarm, 'kernel')} too small to be made cold."] if lukewarm else []),
    ]


def to_json(one: PrimitiveResult) -> dict[str, Any]:
    """The object that stands for a pass in an engine in the JSON report."""
    ratio = one.speedup
    return {
        "primitive": one.primitive,
        "engine": one.engine,
        "device": one.device,
        "threads": one.threads,
        "cpus": one.cpus,
        "mode": one.mode,
        "passes": one.passes,
        "measured_s": one.seconds.value_s,
        "measured_low_s": one.seconds.low_s,
        "measured_high_s": one.seconds.high_s,
        "measured_mad_s": one.seconds.mad_s,
        "measured_least_s": one.seconds.least_s,
        "faster": ratio.value if ratio else None,
        "faster_low": ratio.low if ratio else None,
        "faster_high": ratio.high if ratio else None,
        "ceiling_s": one.ceiling_s,
        "flop": one.flop,
        "least_bytes": one.least_bytes,
        "compute_bound": one.compute_bound,
        "cold_bytes": one.cold_bytes,
        "lukewarm": one.lukewarm,
        **sampling_json(one.sampling),
    }


def _primitive(one: PrimitiveResult | FailureResult) -> str:
    return one.primitive if isinstance(one, PrimitiveResult) else one.network


def pass_name(passes: tuple[str, ...]) -> str:
    """What the passes of one call are called together."""
    return NAMES.get(passes, "+".join(passes))


def _measured(one: PrimitiveResult) -> list[str]:
    ratio = one.speedup
    return [
        duration(one.seconds.value_s),
        magnitude(half_width(one.seconds)),
        rate(one.flop_per_s) if one.compute_bound else bandwidth(one.bytes_per_s),
        times(ratio.value) if ratio else NONE,
        magnitude((ratio.high - ratio.low) / 2 / ratio.value) if ratio else NONE,
        or_none(one.attained, share),
    ]


def _aligned(cells: list[str]) -> str:
    return " ".join(
        cell.ljust(-width) if width < 0 else cell.rjust(width)
        for cell, width in zip(cells, WIDTHS.values(), strict=False)
    ).rstrip()
