"""What two runs must have in common to be compared, and what else differs between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kernelprof.compare.results import Difference, Side
from kernelprof.errors import UsageError
from kernelprof.runfile import RunFile

Facts = Mapping[str, Any]

SETTINGS = ("quick", "cache", "processes", "seed", "device")
OF_A_WORKER = {  # what differs from process to process
    "pid",
    "threads",
    "thread_cpus",
    "node_bytes",
    "denormal_slowdown",
    "clock_resolution_ns",
    "clock_block_ns",
    "clock_loop_ns",
    "nvtx_tool",
    "nvtx_ranges_ns",
}
GIB = 2**30


def side(run: RunFile) -> Side:
    """What a report says of a run.

    Raises:
        UsageError: the file lacks what every run has.
    """
    if any(not isinstance(run.meta(key), dict) for key in ("machine", "options")):
        raise UsageError(f"{run.path} does not tell its machine and options; measure it anew")
    versions = {engine: str(facts.get("version", "")) for engine, _, facts in run.workers()}
    started, version = (str(run.meta(key) or "unknown") for key in ("started", "kernelprof"))
    return Side(str(run.path), started, version, versions)


def machine_differences(before: RunFile, after: RunFile) -> tuple[Difference, ...]:
    """What of the machines differs; empty if their fingerprints agree."""
    machines = [run.meta("machine") for run in (before, after)]
    if machines[0].get("fingerprint") == machines[1].get("fingerprint"):
        return ()
    found = tuple(_differences("", *map(_of_fingerprint, machines)))
    prints = (machine.get("fingerprint") for machine in machines)
    return found or (Difference("fingerprint", *prints),)


def _of_fingerprint(machine: Facts) -> dict[str, Any]:
    """What a fingerprint is made of; see ``Machine.fingerprint``."""
    facts = {key: value for key, value in machine.items() if key not in ("cpuset", "fingerprint")}
    memory = facts.pop("memory_bytes", None)
    if memory is not None:
        facts["memory (GiB)"] = memory // GIB
    facts["frequency"] = {k: v for k, v in (facts.get("frequency") or {}).items() if k != "now_mhz"}
    facts["nodes"] = {n: node["cpus"] for n, node in (facts.get("nodes") or {}).items()}
    return facts


def setting_differences(before: RunFile, after: RunFile) -> tuple[Difference, ...]:
    """What differs of how the runs were taken, of versions and of variables."""
    runs = before, after
    facts = [_engine_facts(run) for run in runs]
    both = {engine: (engine, n) for engine, n in reversed(facts[0]) if (engine, n) in facts[1]}
    engines = ({engine: found[key] for engine, key in both.items()} for found in facts)
    versions = ({"kernelprof": run.meta("kernelprof")} for run in runs)
    options = (_options(run) for run in runs)
    return tuple(
        difference
        for pair in (versions, options, engines)
        for difference in _differences("", *pair)
    )


def unchanged_engines(before: RunFile, after: RunFile) -> set[str]:
    """Engines of which nothing differs that a run tells, in both runs."""
    first, second = (_engine_facts(run) for run in (before, after))
    return {
        engine
        for engine, _ in first
        if all(second.get(key, own) == own for key, own in first.items() if key[0] == engine)
    }


def _options(run: RunFile) -> dict[str, Any]:
    options = run.meta("options")
    variables = {f"{engine}:{name}": value for engine, name, value in options.get("variables", ())}
    return {**{key: options[key] for key in SETTINGS if key in options}, **variables}


def _engine_facts(run: RunFile) -> dict[tuple[str, int], Facts]:
    """Of each engine and thread count those of the first worker."""
    found: dict[tuple[str, int], Facts] = {}
    for engine, cpus, facts in run.workers():
        own = {key: value for key, value in facts.items() if key not in OF_A_WORKER}
        found.setdefault((engine, len(cpus)), own)
    return found


def _differences(above: str, before: Facts, after: Facts) -> Iterator[Difference]:
    for key in dict.fromkeys((*before, *after)):
        name = f"{above} {key}".strip().replace("_", " ")
        own, other = before.get(key), after.get(key)
        if isinstance(own, dict) and isinstance(other, dict):
            yield from _differences(name, own, other)
        elif own != other:
            yield Difference(name, own, other)
