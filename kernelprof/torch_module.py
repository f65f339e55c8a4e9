"""A module of PyTorch as a network, and its profile, from Python.

::

    import kernelprof

    results = kernelprof.profile(model, torch.randn(16, 3, 224, 224), engines=("torch", "numpy"))
    for case in results.cases:
        print(case.engine, case.mode, case.measured.value_s, case.predicted.value_s)
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from kernelprof import runner
from kernelprof.analysis import results
from kernelprof.doctor import examine
from kernelprof.engines import Environment
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.fitness import Fitness
from kernelprof.machine import this_machine
from kernelprof.measure import Report, sole_measurement
from kernelprof.network_sources import whole
from kernelprof.onnx_import import network_of
from kernelprof.probes.network import MODES, TRAIN, Network
from kernelprof.results import Results

TORCH = "torch"
MOST_ELEMENTS = 2**16  # of what is handed over; of larger tensors, weights, only the shape is
NEEDED = (
    "a torch module is read with the exporter of torch, which needs onnxscript: "
    "pip install 'kernelprof[torch]'"
)


def profile(
    module: Any,
    example_inputs: Any,
    engines: Sequence[str] = (TORCH,),
    *,
    modes: Sequence[str] = MODES,
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    budget_s: float | None = None,
    processes: int | None = None,
    output: Path | str | None = None,
    name: str | None = None,
    force: bool = False,
) -> Results:
    """Measure a torch module, predict it from its primitives, and compare.

    The engine ``torch`` runs in the interpreter that calls this, every other one in its own
    environment.  ``example_inputs`` is a batch, or a tuple with one; its values do not matter, nor
    do those of the weights.  ``batches`` and ``threads`` default to the example's batch, and to one
    thread and all CPUs.  With ``output`` the run is kept as a file, which `kernelprof report`
    shows, and which another call carries on with.

    Raises:
        UsageError: the module holds what kernelprof has no layers for, each operator named, or an
            option means nothing here.
        KernelprofError: this machine is not fit to measure, and not ``force``.
    """
    options = runner.choose(
        engines=",".join(engines),
        threads=",".join(map(str, threads)) or None,
        modes=",".join(modes),
        batches=",".join(map(str, batches)) or None,
        budget=None if budget_s is None else f"{budget_s}s",
        processes=processes,
    )
    network = read_module(module, example_inputs, name, training=TRAIN in options.modes)
    runner.require_losses([network], options.modes)
    options = replace(options, networks=(network,))
    own = {TORCH: Environment(TORCH, sys.executable, TORCH)}
    with sole_measurement(), _folder(output) as folder:
        path = Path(output) if output is not None else folder / "profile.kprof"
        fitness = Fitness(tuple(examine(options)))
        if fitness.blocks and not force:
            told = "; ".join(f"{check.name}: {check.reason}" for check in fitness.blocks)
            raise KernelprofError(f"{told}; mend that, or say force=True to go on and mark the run")
        file, options = runner.open_run(path, options, "kernelprof.profile", own)
        try:
            file.record("fitness", replace(fitness, forced=bool(fitness.blocks)).to_json())
            runner.measure(file, options, Report(), own)
            _record_ceilings(file, {len(cpus) for cpus in options.placements})
            return results(file)
        finally:
            file.close()


def read_module(
    module: Any, example_inputs: Any, name: str | None = None, training: bool = True
) -> Network:
    """The network of a torch module; its weights are neither read nor changed.

    Raises:
        UsageError: it cannot be exported, or holds what kernelprof has no layers for.
    """
    name = name or type(module).__name__
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    source = f"torch module {type(module).__name__}"
    return whole(network_of(_exported(module, inputs, training, source), name, source), source)


def _exported(module: Any, inputs: tuple[Any, ...], training: bool, source: str) -> Any:
    """The module as an ONNX model in memory, as it is: nothing folded, nothing fused."""
    try:
        import onnxscript  # noqa: F401  torch imports it
        import torch
    except ImportError as error:
        raise UsageError(f"{NEEDED} ({error})") from error
    modes = {each: each.training for each in module.modules()}
    module.train(training)
    try:
        with _quiet():
            program = torch.onnx.export(module, inputs, dynamo=True, optimize=False, verbose=False)
    except Exception as error:  # of every kind, from what the module itself does
        raise UsageError(f"{source}: torch cannot export it: {_first_line(error)}") from error
    finally:
        for each, was in modes.items():
            each.training = was
    if program is None:
        raise UsageError(f"{source}: torch exported nothing")
    _leave_weights(program.model)
    return program.model_proto


def _first_line(error: BaseException) -> str:
    """The reason at the root of an error, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip() if lines else 'without a word'}"


def _leave_weights(model: Any) -> None:
    """Keep the shapes of large tensors, and let go of their numbers, which may be gigabytes."""
    import onnx_ir

    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.size > MOST_ELEMENTS:
            value.const_value = onnx_ir.ExternalTensor(
                *("left-out", None, None, tensor.dtype), shape=tensor.shape, name=value.name
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _folder(output: Path | str | None) -> Iterator[Path]:
    """A folder for a run that is not kept."""
    with nullcontext("") if output is not None else tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _record_ceilings(file: Any, counts: Collection[int]) -> None:
    from kernelprof.saturation import ceilings  # loads a compiler

    if file.meta("ceilings") is None:
        file.record("ceilings", ceilings(this_machine(), sorted(counts)).to_json())
