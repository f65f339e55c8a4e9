"""What the workers tell of their own processes, and what speaks against their times in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kernelprof.debian import TOOL_VARIABLE
from kernelprof.engines import Environment
from kernelprof.errors import WorkerError
from kernelprof.fitness import BLOCK, PASS, WARN, Check, Fitness, Started
from kernelprof.launch import POOL_VARIABLES, Worker, misplacement
from kernelprof.probes.device import CPU
from kernelprof.probes.placement import parse_cpus
from kernelprof.runfile import RunFile
from kernelprof.units import counted, share, times

PATIENCE_S = 120.0
FAR_SHARE = 0.1  # of a worker's memory that may lie on another node
COSTLY = 4.0  # times as long as normal numbers, from which denormal ones matter
FULL_PRECISION = ("float32", "float32, matrix products highest")
FLUSHED = "flushed to zero"
TOOL = "nvtx_tool"

Nodes = Mapping[str, tuple[int, ...]]  # the CPUs near to each memory node, by its number


def start(environment: Environment, cpus: tuple[int, ...], device: str = CPU) -> Started:
    """Start an engine, ask it for its facts, and end it."""
    decided = device != CPU or any(name in POOL_VARIABLES for name in environment.variables)
    pool = None if decided else len(cpus)
    try:
        worker = Worker(environment, cpus, device=device)
        try:
            facts = worker.ask("facts", PATIENCE_S)
        finally:
            worker.close()
    except WorkerError as error:
        return Started(environment.engine, cpus, {}, pool, error.reason)
    return Started(environment.engine, cpus, facts, pool)


def worker_fitness(run: RunFile) -> Fitness:
    """What the workers of a run tell."""
    workers = [Started(engine, cpus, facts) for engine, cpus, facts in run.workers()]
    return Fitness(tuple(worker_checks(workers, nodes_of(run.meta("machine")))))


def run_fitness(run: RunFile) -> Fitness | None:
    """What was checked before a run, and what its workers tell; None where nothing is known."""
    stored = run.meta("fitness")
    before = Fitness.from_json(stored) if stored else Fitness(())
    checks = (*before.checks, *worker_fitness(run).checks)
    return Fitness(checks, before.forced) if checks else None


def nodes_of(machine: Mapping[str, Any]) -> Nodes:
    """The memory nodes of a machine as JSON tells of it."""
    nodes = machine.get("nodes", {})
    return {name.removeprefix("node"): parse_cpus(node["cpus"]) for name, node in nodes.items()}


def worker_checks(workers: Iterable[Started], nodes: Nodes) -> Iterator[Check]:
    """Every check of the workers that run; those that none of them tells about are left out."""
    alive = [worker for worker in workers if worker.facts]
    if not alive:
        return
    yield placement(alive)
    checks = {
        "openmp": openmp(alive),
        "node_bytes": node_memory(alive, nodes),
        "denormals": denormals(alive),
        "precision": precision(alive),
    }
    if any(TOOL in worker.facts for worker in alive) and os.environ.get(TOOL_VARIABLE):
        yield nvtx_tool(alive)
    for fact, check in checks.items():
        if any(fact in worker.facts for worker in alive):
            yield check


def placement(workers: Iterable[Started]) -> Check:
    """Whether all threads are where they should be, and as many as they should be."""
    name = "threads"
    for worker in workers:
        wrong = misplacement(worker.facts, worker.cpus, worker.pool)
        if wrong:
            return Check(
                name,
                BLOCK,
                f"{_where(worker)}: {wrong}",
                "look for variables that move threads or size pools, in the shell or engines.toml",
            )
    return Check(name, PASS, "every worker's threads are where they should be")


def openmp(workers: Iterable[Started]) -> Check:
    """Whether each process has one OpenMP runtime: two have a pool each, on the same CPUs."""
    name = "OpenMP runtimes"
    for worker in workers:
        runtimes = worker.facts.get("openmp", ())
        if len(runtimes) > 1:
            return Check(
                name,
                WARN,
                f"{worker.engine} has {len(runtimes)}: {', '.join(runtimes)}",
                "use builds that share one: their pools take the same CPUs from each other",
            )
    return Check(name, PASS, "no engine has more than one")


def node_memory(workers: Iterable[Started], nodes: Nodes) -> Check:
    """Whether the memory of each process is near to its CPUs."""
    name = "memory nodes"
    for worker in workers:
        held = worker.facts.get("node_bytes", {})
        far = [node for node in held if node in nodes and not set(nodes[node]) & set(worker.cpus)]
        part = sum(held[node] for node in far) / max(sum(held.values()), 1)
        if part > FAR_SHARE:
            return Check(
                name,
                WARN,
                f"{_where(worker)}: {share(part)} of its memory is far from its CPUs, on node "
                + ", ".join(far),
                "start without numactl, and free memory on the node of the CPUs",
            )
    return Check(name, PASS, "each worker's memory is near to its CPUs")


def denormals(workers: Iterable[Started]) -> Check:
    """Whether all engines treat numbers near zero alike, and whether those cost more."""
    name = "denormals"
    told = [worker for worker in workers if "denormals" in worker.facts]
    treated = {worker.engine: str(worker.facts["denormals"]) for worker in told}
    cost = max((worker.facts.get("denormal_slowdown", 1.0) for worker in told), default=1.0)
    flushing = [engine for engine, how in treated.items() if how == FLUSHED]
    keeping = [engine for engine in treated if engine not in flushing]
    dear = cost >= COSTLY and bool(keeping)
    costs = f"they cost {times(cost)} as much as others" if dear else "they cost no more here"
    if flushing and keeping:
        why = f"flushed to zero by {', '.join(flushing)}, kept by {', '.join(keeping)}; {costs}"
        return Check(name, WARN, why, "compare these engines on values that stay above 1e-38")
    if dear:
        return Check(name, WARN, f"kept, and {costs}", "look at values that get near to zero")
    return Check(name, PASS, f"all engines treat them alike, {', '.join(set(treated.values()))}")


def precision(workers: Iterable[Started]) -> Check:
    """Whether products are computed in what they are stored in: no TF32, no bfloat16."""
    name = "precision"
    reduced = {}
    for worker in workers:
        told = str(worker.facts.get("precision", FULL_PRECISION[0]))
        variables = worker.facts.get("precision_variables", {})
        words = [] if told in FULL_PRECISION else [told]
        words += [f"{variable}={value}" for variable, value in variables.items()]
        if words:
            reduced[worker.engine] = ", ".join(words)
    if not reduced:
        return Check(name, PASS, "float32 throughout: neither TF32 nor bfloat16 in products")
    why = "; ".join(f"{engine}: {words}" for engine, words in reduced.items())
    return Check(name, WARN, why, "unset what reduces it, or compare with engines that do the same")


def nvtx_tool(workers: Iterable[Started]) -> Check:
    """Whether the tool that should take the ranges was loaded; NVTX passes over a wrong path."""
    name = "NVTX tool"
    without = [worker.engine for worker in workers if worker.facts.get(TOOL) == "none"]
    if not without:
        return Check(name, PASS, "it takes the ranges of every engine")
    return Check(
        name,
        WARN,
        f"{TOOL_VARIABLE} is set, but no tool takes the ranges of {', '.join(without)}",
        "let it name a library that exports InitializeInjectionNvtx2",
    )


def _where(worker: Started) -> str:
    return f"{worker.engine} at {counted(len(worker.cpus), 'thread')}"
