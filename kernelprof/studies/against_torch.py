"""kernelprof's clock against torch.utils.benchmark's, on the same calls of PyTorch.

Fresh processes of either take turns.  A number is worth having if it comes out the same again
tomorrow, so what is compared is the spread from process to process: of torch's medians as they
are, and of kernelprof's relative to a calibration kernel that it times in the same rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kernelprof.console import err
from kernelprof.disturbance import quiet
from kernelprof.engines import Environment, environment
from kernelprof.errors import UsageError
from kernelprof.launch import Worker, worker_environment
from kernelprof.machine import usable_cpus
from kernelprof.measure import TURN_S, sole_measurement
from kernelprof.plan import alone
from kernelprof.probes import boot
from kernelprof.probes.primitive import Primitive
from kernelprof.sizes import primitives
from kernelprof.statistics import CONFIDENCE, ratio_interval
from kernelprof.studies.command import run
from kernelprof.studies.publish import publish, table
from kernelprof.studies.turns import Turn, build, turn
from kernelprof.units import duration, magnitude

SIZES = (
    ("gemm", "512x512x512"),
    ("gemm", "2048x2048x2048"),
    ("conv2d", "16x96x27x27:256k5s1p2"),  # the second one of AlexNet
    ("lstm_cell", "64x256x256x32"),
)
CALIBRATION = {  # of each kind another size, which uses the machine in the same way
    "gemm": "768x768x768",
    "conv2d": "16x3x224x224:96k11s4p2",  # the first one of AlexNet
    "lstm_cell": "64x512x512x8",
}
PROCESSES = 10
SECONDS = 1.0  # of samples that either tool takes in a process


@dataclass(frozen=True)
class Setting:
    """What both tools are given."""

    torch: Environment
    cpus: tuple[int, ...]
    seconds: float  # of samples, at least


@dataclass
class Series:
    """What the processes of both tools found for one kernel, in seconds."""

    what: str
    torch_s: list[float] = field(default_factory=list)
    own_s: list[float] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)  # to the calibration, paired by round
    torch_cost_s: list[float] = field(default_factory=list)  # beyond the samples, for each
    own_cost_s: list[float] = field(default_factory=list)


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
    processes: Annotated[int, typer.Option(help="Of either tool, for each kernel.")] = PROCESSES,
    seconds: Annotated[float, typer.Option(help="Of samples in each process.")] = SECONDS,
) -> None:
    """Let processes of both tools take turns, and compare what they find."""
    torch = environment("torch")
    if torch is None:
        raise UsageError("torch is not installed; run `kernelprof engines install torch`")
    setting = Setting(torch, usable_cpus()[:1], seconds)
    found = []
    with sole_measurement():
        for kind, text in SIZES:
            (primitive,) = primitives(kind, text)
            series = Series(f"{kind} {text}")
            for process in range(processes):
                err.print(f"{series.what}: process {process + 1} of {processes}")
                _with_torch_timer(series, primitive, setting)
                _with_kernelprof(series, primitive, setting)
            found.append(series)
    title = "kernelprof and torch.utils.benchmark"
    data = {"series": [asdict(series) for series in found]}
    publish(output, "kernelprof.studies.against_torch", title, _body(found, seconds), data)
    err.print(f"wrote {output}", soft_wrap=True)


def _with_torch_timer(series: Series, primitive: Primitive, setting: Setting) -> None:
    script = Path(boot.__file__).resolve().with_name("torch_timer.py")
    words = [str(script), json.dumps(primitive.to_json()), str(setting.seconds)]
    own_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, setting.cpus)  # inherited, as a worker's is
    try:
        ran = subprocess.run(
            [*setting.torch.interpreter(script.parent), *words],
            env=worker_environment(len(setting.cpus), setting.torch.variables),
            stdout=subprocess.PIPE,
            check=True,
        )
    finally:
        os.sched_setaffinity(0, own_cpus)
    told = json.loads(ran.stdout)
    series.torch_s.append(told["median_s"])
    series.torch_cost_s.append((told["spent_s"] - told["sampled_s"]) / told["samples"])


def _with_kernelprof(series: Series, primitive: Primitive, setting: Setting) -> None:
    """The kernel in one worker, the calibration kernel in another, in turns."""
    (calibration,) = primitives(primitive.kind, CALIBRATION[primitive.kind])
    start = partial(Worker, setting.torch, setting.cpus)
    with closing(start()) as case, closing(start()) as other:
        build(case, alone(primitive))
        build(other, alone(calibration))
        own, ratios = _in_turns(case, other, setting.seconds)
    found = quiet(own.times).rounds.values()
    series.own_s.append(float(np.median([sample[0] for sample in found])) * 1e-9)
    series.relative.append(float(np.median(ratios)))
    series.own_cost_s.append((own.turn_ns - own.sampled_ns) * 1e-9 / len(own.times))


def _in_turns(case: Worker, other: Worker, seconds: float) -> tuple[Turn, list[float]]:
    """Turns of the case, and how many times as long its calls took as those of turns around it.

    Both take as much time: what disturbs one then meets the other about as often.
    """
    own, ratios = Turn({}, 0, 0), []
    rounds, others = 1, 1
    before = turn(other, range(others))
    while own.sampled_ns < seconds * 1e9:
        begun = len(own.times)
        now = turn(case, range(begun, begun + rounds))
        after = turn(other, range(others))
        ratios.append(_call_ns(now) / ((_call_ns(before) + _call_ns(after)) / 2))
        own, before = own.and_then(now), after
        rounds = max(1, round(TURN_S * 1e9 * len(own.times) / own.sampled_ns))
        others = max(1, round(now.sampled_ns * others / after.sampled_ns))
    return own, ratios


def _call_ns(taken: Turn) -> float:
    return float(np.median([sample[0] for sample in quiet(taken.times).rounds.values()]))


def spread(values: Sequence[float]) -> float:
    """The coefficient of variation: standard deviation over mean."""
    return float(np.std(values, ddof=1) / np.mean(values))


def _body(found: list[Series], seconds: float) -> str:
    rows = []
    for series in found:
        pairs = zip(series.own_s, series.torch_s, strict=True)
        ratio = ratio_interval([own / theirs for own, theirs in pairs])
        rows.append(
            (
                series.what,
                duration(float(np.median(series.torch_s))),
                duration(float(np.median(series.own_s))),
                f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
                magnitude(spread(series.torch_s)),
                magnitude(spread(series.own_s)),
                magnitude(spread(series.relative)),
                f"{spread(series.relative) / spread(series.torch_s):.2f}",
                duration(float(np.median(series.torch_cost_s))),
                duration(float(np.median(series.own_cost_s))),
            )
        )
    header = (
        *("kernel", "torch's median", "kernelprof's", "ratio, paired"),
        *("spread of torch's", "of kernelprof's", "relative to calibration"),
        *("relative / torch's", "a sample costs, torch", "kernelprof"),
    )
    processes = len(found[0].torch_s)
    calibration = ", ".join(f"`{kind} {text}`" for kind, text in CALIBRATION.items())
    return f"""
The same calls of PyTorch, forward, on one pinned thread, in {processes} fresh processes of either
tool that took turns; `blocked_autorange` with at least {seconds:g} s, and as many seconds of
samples by kernelprof.  The spread is the coefficient of variation of what the {processes} processes
found; "relative to calibration" is that of the median ratio of the kernel to one of the same kind,
{calibration}, in turns of another worker just before and
after.  The ratio of the medians is paired by process, with a
{CONFIDENCE:.0%} bootstrap interval.  What a sample costs is the time spent beyond the samples
themselves (block sizes, counters, settling, waiting for threads to rest), for each sample.

{table(header, rows)}"""


if __name__ == "__main__":
    run(main)
