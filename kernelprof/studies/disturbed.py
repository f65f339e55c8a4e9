"""A measurement that is disturbed on purpose: are the samples marked, and is the result right?

A kernel of the reference engine is timed in turns that are disturbed, one after each that is not:
by a process that takes the pinned CPU for a third of the time, by a quota of the control group,
and by being stopped for a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from kernelprof.console import err
from kernelprof.disturbance import Quiet, Time, quiet
from kernelprof.engines import REFERENCE, environment
from kernelprof.launch import Worker
from kernelprof.machine import usable_cpus
from kernelprof.measure import sole_measurement
from kernelprof.plan import alone
from kernelprof.sizes import primitives
from kernelprof.studies.command import run
from kernelprof.studies.publish import publish, table
from kernelprof.studies.turns import build, turn
from kernelprof.units import duration, percent, share

SIZE = ("gemm", "512x512x512")
TURNS = 8
ROUNDS_PER_TURN = 200  # more than half a second: two periods of the competing process
BUSY_S, IDLE_S = 0.1, 0.2  # of the competing process
STOPPED_S = 1.0
QUOTA_SHARE, PERIOD_US = 0.5, 20_000
GROUPS = Path("/sys/fs/cgroup")

Disturbance = Callable[[Worker, int], AbstractContextManager[None]]


@dataclass(frozen=True)
class Outcome:
    """What came of one disturbance; times in seconds."""

    what: str
    undisturbed_s: float
    all_s: float  # the median of all samples of the disturbed turns
    kept_s: float  # that of those which were not marked
    marked: int
    taken: int
    unavoidable: bool  # too many were marked, and the measurement says so


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
    turns: Annotated[int, typer.Option(help="Disturbed ones, and as many that are not.")] = TURNS,
) -> None:
    """Disturb a measurement in several ways, and see what it says."""
    disturbances: dict[str, Disturbance] = {
        "a process on the same CPU for a third of the time": _competing,
        "stopped for a second": _stopped,
        f"a quota of {share(QUOTA_SHARE)} of a CPU": _throttled,
    }
    found, impossible = [], {}
    with sole_measurement():
        for what, disturbance in disturbances.items():
            err.print(what)
            try:
                found.append(measure(what, disturbance, turns))
            except OSError as error:
                impossible[what] = str(error)
    data = {"outcomes": [asdict(one) for one in found], "impossible": impossible}
    title = "Disturbed on purpose"
    publish(output, "kernelprof.studies.disturbed", title, _body(found, impossible), data)
    err.print(f"wrote {output}", soft_wrap=True)


def measure(what: str, disturbance: Disturbance, turns: int) -> Outcome:
    """Turns that are disturbed and turns that are not, one after the other.

    Raises:
        OSError: the machine does not let itself be disturbed in this way.
    """
    made = environment(REFERENCE)
    assert made is not None
    cpu = usable_cpus()[0]
    worker = Worker(made, (cpu,))
    undisturbed: dict[int, dict[int, Time]] = {}
    disturbed: dict[int, dict[int, Time]] = {}
    try:
        (primitive,) = primitives(*SIZE)
        build(worker, alone(primitive))
        for number in range(turns):
            rounds = range(number * ROUNDS_PER_TURN, (number + 1) * ROUNDS_PER_TURN)
            undisturbed.update(turn(worker, rounds).times)
            with disturbance(worker, cpu):
                disturbed.update(turn(worker, rounds).times)
    finally:
        worker.close()
    kept = quiet(disturbed)
    return Outcome(
        what,
        _median_s(quiet(undisturbed)),
        float(np.median([sample[0].ns for sample in disturbed.values()])) * 1e-9,
        _median_s(kept),
        kept.disturbed,
        kept.taken,
        kept.unavoidable,
    )


def _median_s(found: Quiet) -> float:
    return float(np.median([sample[0] for sample in found.rounds.values()])) * 1e-9


@contextmanager
def _competing(worker: Worker, cpu: int) -> Iterator[None]:
    """A process that computes on the CPU for a while, rests for two, and so on."""
    code = f"""
import time
while True:
    end = time.perf_counter() + {BUSY_S}
    while time.perf_counter() < end:
        pass
    time.sleep({IDLE_S})
"""
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        os.sched_setaffinity(other.pid, {cpu})
        time.sleep(IDLE_S)  # until it has started
        yield
    finally:
        other.kill()
        other.wait()


@contextmanager
def _stopped(worker: Worker, cpu: int) -> Iterator[None]:
    """The worker is stopped in the midst of its turn, and continues a second later."""

    def stop() -> None:
        time.sleep(0.02)
        os.kill(worker.pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        os.kill(worker.pid, signal.SIGCONT)

    stopping = threading.Thread(target=stop)
    stopping.start()
    yield
    stopping.join()


@contextmanager
def _throttled(worker: Worker, cpu: int) -> Iterator[None]:
    """The worker runs in a control group of its own with too small a quota."""
    version1 = (GROUPS / "cpu").is_dir()
    top = GROUPS / "cpu" if version1 else GROUPS
    own = top / f"kernelprof-{os.getpid()}"
    own.mkdir()
    try:
        quota_us = int(QUOTA_SHARE * PERIOD_US)
        if version1:
            (own / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (own / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (own / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        (own / "cgroup.procs").write_text(str(worker.pid))
        yield
    finally:
        with contextlib.suppress(OSError):
            (top / "cgroup.procs").write_text(str(worker.pid))
        own.rmdir()


def _body(found: list[Outcome], impossible: dict[str, str]) -> str:
    rows = [
        (
            one.what,
            duration(one.undisturbed_s),
            f"{duration(one.all_s)} ({percent(one.all_s / one.undisturbed_s - 1)})",
            f"{one.marked} of {one.taken}",
            f"{duration(one.kept_s)} ({percent(one.kept_s / one.undisturbed_s - 1)})",
            "says that it could not" if one.unavoidable else "result without them",
        )
        for one in found
    ]
    header = ("disturbance", "undisturbed", "all samples", "marked", "not marked", "outcome")
    missing = "".join(f"- {what}: not possible here ({why})\n" for what, why in impossible.items())
    return f"""
`{SIZE[0]} {SIZE[1]}` of the reference engine on one CPU: {ROUNDS_PER_TURN} samples undisturbed, as
many disturbed, and so on.  Times are medians; in brackets how far they are from the undisturbed
one.

{table(header, rows)}
{missing}"""


if __name__ == "__main__":
    run(main)
