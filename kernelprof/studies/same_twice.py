"""The same case twice: how often does kernelprof call equal things different?

Each engine runs in pairs of fresh processes that take turns in rounds, as two things do that are
to be compared.  Nothing differs between the two, so whatever is found is a false alarm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from kernelprof.console import err
from kernelprof.disturbance import WHOLE, quiet
from kernelprof.engines import REFERENCE, environment, installed
from kernelprof.machine import this_machine, usable_cpus
from kernelprof.measure import Measurement, sole_measurement
from kernelprof.plan import Group, Options, StopRule, groups, primitive_groups
from kernelprof.probes.network import INFER
from kernelprof.probes.networks import NETWORKS
from kernelprof.runfile import RunFile
from kernelprof.sizes import primitives
from kernelprof.statistics import Comparison, compare
from kernelprof.studies.command import run
from kernelprof.studies.publish import publish, table
from kernelprof.units import magnitude

LEVEL = 0.01
PROCESSES = 5
ROUNDS = 12
SIZES = {
    "gemm": "512x512x512",
    "conv2d": "4x96x27x27:256k5s1p2",
    "lstm_cell": "64x256x256x32",
}
NETWORK, BATCH = "fcn-r", 32
AGAIN = "again"


@dataclass(frozen=True)
class Pair:
    """A case and itself: for each pair of processes the ratios of their rounds."""

    engine: str
    what: str
    threads: int
    ratios: list[list[float]]

    @property
    def comparison(self) -> Comparison:
        """What the paired test says of them."""
        return compare(self.ratios, LEVEL)


def main(
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the result.")],
    engine: Annotated[str | None, typer.Option(help="torch,caffe; default: all installed.")] = None,
    processes: Annotated[int, typer.Option(help="Pairs of processes of each case.")] = PROCESSES,
    seed: Annotated[int, typer.Option(help="Of the data and the order of turns.")] = 1,
) -> None:
    """Measure every case twice, and see what the paired test says."""
    names = engine.split(",") if engine else [name for name in installed() if name != REFERENCE]
    with sole_measurement():
        pairs = [pair for name in names for pair in _pairs(name, processes, seed)]
    found = [(pair, pair.comparison) for pair in pairs]
    data = {"level": LEVEL, "pairs": [asdict(p) | {"comparison": asdict(c)} for p, c in found]}
    publish(output, "kernelprof.studies.same_twice", "The same case twice", _body(found), data)
    err.print(f"wrote {output}", soft_wrap=True)


def _pairs(name: str, processes: int, seed: int) -> list[Pair]:
    ratios: dict[tuple[str, int], list[list[float]]] = {}
    for process in range(processes):
        err.print(f"{name}: process {process + 1} of {processes}")
        for what, threads, found in _measured(name, seed + process):
            ratios.setdefault((what, threads), []).append(found)
    return [Pair(name, what, threads, found) for (what, threads), found in ratios.items()]


def _measured(name: str, seed: int) -> Iterator[tuple[str, int, list[float]]]:
    """Ratios of the rounds of one pair of processes, by case."""
    twice = (name, f"{name} {AGAIN}")
    made = environment(name)
    cpus = usable_cpus()
    options = Options(
        networks=(),
        engines=twice,
        placements=tuple(dict.fromkeys((cpus[:1], cpus))),
        modes=(INFER,),
        batches=(),
        quick=False,
        budget_s=3600.0,
        seed=seed,
        stop=StopRule(half_width=0.0, least=ROUNDS, most=ROUNDS),
        primitives=tuple(one for kind, text in SIZES.items() for one in primitives(kind, text)),
    )
    planned = [*primitive_groups(options), *_network_groups(options)]
    with tempfile.TemporaryDirectory() as folder:
        meta = {"machine": this_machine().to_json(), "options": options.to_json()}
        run = RunFile.create(Path(folder) / "pair.kprof", meta)
        Measurement(run, options, {**dict.fromkeys(twice, made), REFERENCE: None}).measure(planned)
        for group in planned:
            yield group.network.name, len(group.cpus), _ratios(run, group)
        run.close()


def _network_groups(options: Options) -> list[Group]:
    asked = replace(options, networks=(NETWORKS[NETWORK](),), primitives=(), batches=(BATCH,))
    planned = groups(asked)
    return [group for group in planned if not group.calibration]


def _ratios(run: RunFile, group: Group) -> list[float]:
    """Of the first to the second, in the rounds that neither was disturbed in."""
    place = 0 if group.alone else WHOLE
    first, second = (
        quiet(run.times(stored.id)).rounds
        for stored in run.cases()
        if stored.case.network == group.network.name
        and stored.case.cpus == group.cpus
        and stored.case.engine != REFERENCE
    )
    both = [r for r in first if place in first[r] and place in second.get(r, ())]
    return [first[r][place] / second[r][place] for r in both]


def _body(found: list[tuple[Pair, Comparison]]) -> str:
    alarms = sum(comparison.differs(LEVEL) for _, comparison in found)
    processes = len(found[0][0].ratios)
    rows = [
        (
            pair.engine,
            pair.what,
            str(pair.threads),
            f"{comparison.ratio.value:.4f}",
            f"{comparison.ratio.low:.4f} to {comparison.ratio.high:.4f}",
            f"{comparison.p:.3f}",
            "**different**" if comparison.differs(LEVEL) else "same",
        )
        for pair, comparison in found
    ]
    widths = sorted((c.ratio.high - c.ratio.low) / 2 for _, c in found)
    return f"""
Every case was measured against itself, in {processes} pairs of fresh processes whose rounds were
interleaved.  **{alarms} of {len(found)} pairs were called different at the {LEVEL:.0%} level**
({LEVEL * len(found):.1f} are to be expected by chance).  The test takes the median ratio of each
pair of processes as one observation; half the width of its {1 - LEVEL:.0%} interval, the difference
that it could have seen, is {magnitude(widths[len(widths) // 2])} in the median and
{magnitude(widths[-1])} at worst.

{table(("engine", "case", "threads", "ratio", "99 % interval", "p", "called"), rows)}"""


if __name__ == "__main__":
    run(main)
