"""Start a run in a new file, or carry on with one that is there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kernelprof import __version__
from kernelprof.bench import Pace
from kernelprof.engines import Environment, computing_on, environment, known
from kernelprof.errors import UsageError
from kernelprof.gpu import devices
from kernelprof.machine import machine_facts, placements, this_machine, usable_cpus
from kernelprof.measure import Measurement, Report
from kernelprof.measured import known_ceilings
from kernelprof.network_sources import network, networks
from kernelprof.plan import Options, StopRule, planned, reference
from kernelprof.probes.device import CPU
from kernelprof.probes.network import MODES, TRAIN, Network
from kernelprof.probes.networks import CANONICAL
from kernelprof.probes.primitive import CACHES, WARM
from kernelprof.probes.primitives import primitive_from_json
from kernelprof.runfile import RunFile

ALL = "all"  # said of engines: those that are installed
QUICK_BUDGET_S = 120.0  # per engine
FULL_BUDGET_S = 900.0
QUICK_PROCESSES = 1  # an engine takes seconds to start, in each of them for each network
FULL_PROCESSES = 3
MOST_GPU_THREADS = 4  # that hand work to a GPU, unless more are asked for


def choose(
    words: Iterable[str] = (),
    *,
    engines: str | None = None,
    threads: str | None = None,
    cpus: str | None = None,
    modes: str = ",".join(MODES),
    batches: str | None = None,
    budget: str | None = None,
    quick: bool = False,
    seed: int = 1,
    variables: Iterable[str] = (),
    cache: str = WARM,
    processes: int | None = None,
    dims: Iterable[str] = (),
    device: str = CPU,
) -> Options:
    """What to measure, from the words of the command line; what is not said is None.

    Raises:
        UsageError: a word that means nothing here; the message names those that do.
        KernelprofError: the device cannot be used.
    """
    card_of(device)
    counts = numbers(threads, "--threads") if threads else _thread_counts(device)
    some = engines if engines and engines.strip() != ALL else None
    named = _known_words("engine", some, known()) if some else tuple(computing_on(device))
    if cache not in CACHES:
        raise UsageError(f"--cache {cache}: unknown; known: {', '.join(CACHES)}")
    if processes is not None and processes < 1:
        raise UsageError(f"--processes {processes}: at least 1 is needed")
    if seed < 0:
        raise UsageError(f"--seed {seed}: a seed is 0 or more")
    chosen = networks([*words] or [*CANONICAL], dims)
    wanted = _known_words("mode", modes, MODES)
    require_losses(chosen, wanted)
    return Options(
        networks=chosen,
        engines=named,
        placements=tuple(placements(counts, numbers(cpus, "--cpus") if cpus else None)),
        modes=wanted,
        batches=_batches(batches) if batches else (),
        quick=quick,
        budget_s=seconds(budget) if budget else _budget_s(quick, len({*named, reference(device)})),
        seed=seed,
        variables=tuple(_variable(text, (*named, reference(device))) for text in variables),
        cache=cache,
        processes=processes or (QUICK_PROCESSES if quick else FULL_PROCESSES),
        device=device,
    )


def card_of(device: str) -> devices.GpuDevice | None:
    """The GPU that is called so; None of the CPU.

    Raises:
        UsageError: the word is no device.
        KernelprofError: the GPU cannot be used.
    """
    return None if device == CPU else devices.required(device)


def _thread_counts(device: str) -> list[int]:
    """On the CPU one thread and all of them; on a GPU what its engines need beside it."""
    usable = len(usable_cpus())
    return sorted({1, usable}) if device == CPU else [min(MOST_GPU_THREADS, usable)]


def _batches(text: str) -> tuple[int, ...]:
    found = tuple(numbers(text, "--batch"))
    if 0 in found:
        raise UsageError(f"--batch {text}: a batch has at least 1 sample")
    return found


def require_losses(chosen: Iterable[Network], modes: Iterable[str]) -> None:
    """Refuse to train what has nothing to train for.

    Raises:
        UsageError: a network has no loss.
    """
    for one in chosen:
        if TRAIN in modes and one.layers[-1].kind != "loss":
            raise UsageError(
                f"network {one.name!r} does not end with a loss, so it cannot be trained: end it "
                "with softmax_loss, or take --mode infer"
            )


def _budget_s(quick: bool, engines: int) -> float:
    return engines * (QUICK_BUDGET_S if quick else FULL_BUDGET_S)


def _words(text: str) -> list[str]:
    """The words between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _known_words(what: str, text: str, known_words: Iterable[str]) -> tuple[str, ...]:
    for word in (words := _words(text)) or [""]:
        if word not in known_words:
            raise UsageError(f"unknown {what} {word!r}; known: {', '.join(known_words)}")
    return tuple(words)


def numbers(text: str, flag: str) -> list[int]:
    """The whole numbers between commas, each once.

    Raises:
        UsageError: there are none, or something else stands there.
    """
    words = _words(text)
    if not words or not all(word.isdecimal() for word in words):
        raise UsageError(f"{flag} {text}: whole numbers are needed, separated by commas")
    return list(dict.fromkeys(int(word) for word in words))


def seconds(text: str) -> float:
    """The seconds of a duration such as ``90s``, ``5m`` or ``1h``.

    >>> seconds("5m")
    300.0

    Raises:
        UsageError: it is no duration.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise UsageError(f"--budget {text}: a duration such as 90s, 5m or 1h is needed")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _variable(text: str, engines: tuple[str, ...]) -> tuple[str, str, str]:
    match = re.fullmatch(r"([\w-]+):(\w+)=(.*)", text)
    if not match:
        raise UsageError(f"--env {text}: ENGINE:NAME=VALUE is needed")
    if match[1] not in engines:
        raise UsageError(f"--env {text}: engine {match[1]!r} is not part of this run")
    return match[1], match[2], match[3]


def open_run(
    path: Path, options: Options | None, command: str, own: Collection[str] = ()
) -> tuple[RunFile, Options]:
    """The run file to measure into, and the options that hold for it.

    A file that is there is carried on with; ``options`` None means whatever it was started with.
    The engines in ``own`` need not be installed.

    Raises:
        UsageError: the file was started with other options, on another machine or another GPU, or
            no engine of the run is installed.
        KernelprofError: its GPU cannot be used.
    """
    machine = this_machine().to_json()
    if not path.exists():
        if options is None:
            raise UsageError(f"{path}: no such file")
        _require_an_engine(options, own)
        meta = {
            "kernelprof": __version__,
            "command": command,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine_facts(options.device),
            "options": options.to_json(),
        }
        return RunFile.create(path, meta), options
    run = RunFile.open(path)
    stored = _options(run.meta("options"))
    _require_an_engine(stored, own)
    if options is not None and options != stored:
        raise UsageError(
            f"{path} was started by `{run.meta('command')}`, which measures something else; "
            "repeat that to carry on, or name another file"
        )
    if run.meta("machine")["fingerprint"] != machine["fingerprint"]:
        raise UsageError(
            f"{path} was started on another machine ({run.meta('machine')['processor']}); "
            "name another file"
        )
    _require_its_card(run, stored)
    return run, stored


def _require_its_card(run: RunFile, options: Options) -> None:
    """Refuse to carry on with another GPU, or with another driver."""
    card = card_of(options.device)
    if card is None:
        return
    before = run.meta("machine")["gpus"][card.device]
    if card.fingerprint != before["fingerprint"]:
        raise UsageError(
            f"{run.path} was started on another GPU ({before['name']}, driver {before['driver']}); "
            f"here {options.device} is {card.name}, driver {card.driver}: name another file"
        )


def _require_an_engine(options: Options, own: Collection[str]) -> None:
    if not any(name in own or environment(name) for name in options.engines):
        names = options.engines
        raise UsageError(
            f"not installed: {', '.join(names)}; run `kernelprof engines install {' '.join(names)}`"
        )


def _options(data: dict[str, Any]) -> Options:
    fields = {key: _tuples(value) for key, value in data.items()}
    fields["stop"] = StopRule(**data["stop"])
    fields["networks"] = tuple(map(_network, data["networks"]))
    fields["primitives"] = tuple(map(primitive_from_json, data.get("primitives", ())))
    batch = fields.pop("batch", None)  # as versions wrote it that took one
    return Options(**{"batches": (batch,) if batch else (), **fields})


def _network(stored: dict[str, Any] | str) -> Network:
    """A definition; earlier versions stored the names of built-in ones."""
    return network(stored) if isinstance(stored, str) else Network.from_json(stored)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def measure(
    run: RunFile,
    options: Options,
    report: Report,
    own: Mapping[str, Environment] = MappingProxyType({}),
) -> None:
    """Measure what the file lacks; ``own`` environments stand in for those of kernelprof's."""
    environments: dict[str, Environment | None] = {
        name: own.get(name) or environment(name)
        for name in dict.fromkeys((*options.engines, reference(options.device)))
    }
    ceilings = known_ceilings(run)
    pace = Pace(options, ceilings) if options.primitives and ceilings else None
    Measurement(run, options, environments, report, pace=pace).measure(planned(options))
