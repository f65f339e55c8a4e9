"""The command line's ``selfcheck``: all of it once on a device, and can it be trusted there?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kernelprof import __version__, cli_measure, runner
from kernelprof.analysis import case_results, results
from kernelprof.bench import chosen
from kernelprof.bench_results import primitive_results
from kernelprof.console import err, out
from kernelprof.deepbench import problem_set
from kernelprof.diagnosis.diagnose import Diagnosing
from kernelprof.diagnosis.examination import diagnosed
from kernelprof.enginecheck import check
from kernelprof.engines import Environment, environment
from kernelprof.errors import KernelprofError, UsageError, WorkerError
from kernelprof.machine import machine_facts
from kernelprof.measure import sole_measurement
from kernelprof.plan import Options, reference
from kernelprof.probes.device import CPU
from kernelprof.probes.network import TRAIN
from kernelprof.probes.primitive import Primitive
from kernelprof.reports.contract import to_json
from kernelprof.reports.selfcheck import goals_table
from kernelprof.results import CaseResult, EngineCheck
from kernelprof.runfile import RunFile
from kernelprof.selfcheck.clocks import compared
from kernelprof.selfcheck.goals import Goal, Seen, goals
from kernelprof.selfcheck.log import logged
from kernelprof.sizes import primitives
from kernelprof.units import duration

REPORT, LOG = "report.json", "selfcheck.log"
NETWORKS, PRODUCTS, DEEPBENCH = "networks.kprof", "products.kprof", "deepbench.kprof"
SHARES = {NETWORKS: 0.45, PRODUCTS: 0.1, DEEPBENCH: 0.15}  # of the budget; what is left, beside
ENGINES = ("torch", "jax")  # beside the reference
DEFAULT_BUDGET = "9m"
DTYPES = ("", ":tf32", ":fp16", ":bf16")
SIZES = ("4096x4096x4096", "8192x8192x8192")  # of products that leave no part of a GPU idle
SIZES_OF_CPU = ("1024x1024x1024",)
LOOKED_AT = "fcn-r", TRAIN  # by torch's own profiler


def selfcheck(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A folder for what comes of it; it goes on.")
    ],
    device: Annotated[str, typer.Option(help="cpu, or a GPU: cuda:0.")] = "cuda:0",
    engine: Annotated[
        str | None, typer.Option(help="Default: the reference, torch and jax if they are there.")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Default: the five of the deck.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller batches.")] = False,
    budget: Annotated[str, typer.Option(help="Time for all of it: 9m.")] = DEFAULT_BUDGET,
) -> None:
    """Check kernelprof on a device: results, ceilings, predictions and clocks.

    Every primitive is held against the oracle, the networks and primitives are
    measured, and goals are judged.  The folder then holds run files, report.json
    and a log.  Exit status 1 if a goal was missed or could not be judged.

    Example: kernelprof selfcheck --device cuda:0 -o selfcheck
    """
    facts = machine_facts(device)
    whole_s = runner.seconds(budget)
    environments = _environments(device, engine)
    _make_folder(output)
    with logged(output / LOG):
        asked = _Asked(device, output, environments, network or (), quick, whole_s)
        judged = _judged(asked, facts)
        out.print(goals_table(judged))
        err.print(f"wrote {output / REPORT}", soft_wrap=True)
    if not all(goal.met for goal in judged):
        raise SystemExit(1)


@dataclass
class _Asked:
    """What to check, and how long each step of it took."""

    device: str
    folder: Path
    environments: dict[str, Environment]
    networks: Sequence[str]
    quick: bool
    budget_s: float
    spent_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step that is announced, and whose time is kept."""
        err.print(f"selfcheck: {name}", markup=False)
        started = time.monotonic()
        yield
        self.spent_s[name] = time.monotonic() - started
        err.print(f"selfcheck: {name} took {duration(self.spent_s[name])}", markup=False)

    def options(self, file: str) -> Options:
        """What to measure into one of the run files."""
        wanted = runner.choose(
            self.networks,
            engines=",".join(self.environments),
            device=self.device,
            quick=self.quick,
            processes=1,
        )
        budget_s = SHARES[file] * self.budget_s
        return replace(wanted, budget_s=budget_s, keeps_budget=file != PRODUCTS)


def _environments(device: str, engine: str | None) -> dict[str, Environment]:
    """The engines to check, as they are started."""
    wanted = engine.split(",") if engine else [reference(device), *ENGINES]
    found = {name: environment(name) for name in dict.fromkeys(wanted)}
    missing = [name for name, one in found.items() if one is None]
    if engine and missing:
        raise UsageError(
            f"not installed: {', '.join(missing)}; run `kernelprof engines install "
            f"{' '.join(missing)}`"
        )
    there = {name: one for name, one in found.items() if one is not None}
    if not there:
        raise UsageError(
            f"none of {', '.join(found)} is installed; run `kernelprof engines install "
            f"{' '.join(found)}`"
        )
    return there


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write into {path}: {error.strerror}; name a folder") from error


def _judged(asked: _Asked, facts: dict[str, Any]) -> list[Goal]:
    """Take all steps; the report is there after the last one."""
    with asked.step("primitives against the oracle"):
        checks = _checks(asked)
    with asked.step("ceilings, and large products"):
        products = _bench(asked, PRODUCTS, _products(asked.device))
    with asked.step("networks"):
        networks = _measured(asked.options(NETWORKS), asked.folder / NETWORKS)
    with asked.step("DeepBench's sizes"):
        deepbench = _bench(asked, DEEPBENCH, problem_set("deepbench").primitives)
    with asked.step("clocks"):
        clocks = _clocks(asked)
    with asked.step("where the time goes"):
        cases = _looked_at(networks)
    seen = Seen(asked.device, checks, cases, list(primitive_results(products)), clocks)
    judged = goals(seen)
    report = {
        "schema": 1,
        "kernelprof": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": asked.device,
        "machine": facts,
        "goals": [goal.to_json() for goal in judged],
        "spent_s": asked.spent_s,
        "checks": [asdict(one) for one in checks],
        "clocks": clocks,
        "networks": to_json(results(networks)),
        "products": to_json(results(products)),
        "deepbench": to_json(results(deepbench)),
    }
    text = json.dumps(report, indent=1, allow_nan=False)
    (asked.folder / REPORT).write_text(text + "\n", encoding="utf-8")
    return judged


def _checks(asked: _Asked) -> list[EngineCheck]:
    cpus = asked.options(NETWORKS).placements[-1]
    with sole_measurement():
        return [check(one, cpus, asked.device) for one in asked.environments.values()]


def _products(device: str) -> list[Primitive]:
    sizes = [f"{size}{dtype}" for size in SIZES for dtype in DTYPES]
    return [
        product
        for size in (SIZES_OF_CPU if device == CPU else sizes)
        for product in primitives("gemm", size)
    ]


def _bench(asked: _Asked, file: str, wanted: Sequence[Primitive]) -> RunFile:
    options = asked.options(file)
    options, left_out = chosen(options, wanted, cli_measure.machine_ceilings(options, True))
    if left_out:
        err.print(f"the budget has room for {len(options.primitives)} sizes", soft_wrap=True)
    return _measured(options, asked.folder / file)


def _measured(options: Options, path: Path) -> RunFile:
    """Measure what the file lacks; nothing measured at all is for the goals to tell."""
    try:
        cli_measure.measure(options, path, force=True)
    except SystemExit as stopped:
        if stopped.code != 1:
            raise
    return RunFile.open(path)


def _clocks(asked: _Asked) -> dict[str, tuple[float, float]]:
    """Torch's products by both clocks; nothing on the CPU, where there is but one."""
    torch = asked.environments.get("torch")
    if torch is None or asked.device == CPU:
        return {}
    cpus = asked.options(PRODUCTS).placements[-1]
    try:
        with sole_measurement():
            return compared(torch, cpus, asked.device, _products(asked.device))
    except WorkerError as error:
        err.print(f"clocks: {error.reason}", markup=False, soft_wrap=True)
        return {}


def _looked_at(file: RunFile) -> list[CaseResult]:
    """All cases, of which one was looked at with torch's own profiler."""
    cases = list(case_results(file))
    wanted = [one for one in cases if (one.engine, one.network, one.mode) == ("torch", *LOOKED_AT)]
    try:
        with sole_measurement():
            Diagnosing(file, budget_s=0.0).diagnose(wanted[-1:], cases)
    except KernelprofError as error:
        err.print(f"not looked at: {error}", markup=False, soft_wrap=True)
    return list(diagnosed(file, cases))
