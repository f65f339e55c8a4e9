"""The command line's ``bench``: primitives by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from kernelprof import cli_measure, runner
from kernelprof.bench import chosen
from kernelprof.console import err
from kernelprof.deepbench import PARTS, problem_set
from kernelprof.errors import UsageError
from kernelprof.plan import Options, alone
from kernelprof.probes.device import CPU
from kernelprof.probes.network import INFER
from kernelprof.probes.primitive import WARM, Primitive
from kernelprof.probes.primitives import PRIMITIVES
from kernelprof.sizes import example, known_kind, read_file, sorted_out
from kernelprof.units import counted


def bench(
    context: typer.Context,
    primitive: Annotated[
        str | None, typer.Argument(metavar="PRIMITIVE", help=f"{', '.join(PRIMITIVES)}")
    ] = None,
    size: Annotated[list[str] | None, typer.Argument(metavar="[SIZE]...", help="As above.")] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--size", help="One more SIZE: elements=4096,rate=0.1."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Sizes, one a line; what follows a # is a comment.")
    ] = None,
    set_: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="SET", help=f"{', '.join(PARTS)}; without PRIMITIVE all its kinds."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The run file; an unfinished one goes on.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="torch,numpy or all; default: all installed.")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="1,2; default: one, and all CPUs.")] = None,
    cpus: Annotated[str | None, typer.Option(help="CPU ids to pin to, in this order.")] = None,
    mode: Annotated[str, typer.Option(help="infer: forward; train: backward too.")] = INFER,
    device: Annotated[str, typer.Option(help="cpu, or a GPU: cuda:0.")] = CPU,
    env: Annotated[
        list[str] | None, typer.Option(help="A variable for one engine: ENGINE:NAME=VALUE.")
    ] = None,
    cache: Annotated[str, typer.Option(help="Of operands: warm, weights-cold or cold.")] = WARM,
    processes: Annotated[int, typer.Option(help="Fresh ones per engine and size.")] = 1,
    budget: Annotated[
        str | None,
        typer.Option(help="Time to spend: 90s, 5m, 1h. Sizes it has no room for are left out."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random data and the order of turns.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Measure even where `doctor` blocks; the run says so.")
    ] = False,
) -> None:
    """Time primitives by themselves: in engines, and in the reference kernels.

    A SIZE says, of gemm: MxNxK, then :NT, :TN or :TT where A or B are
    stored transposed, then :fp16, :bf16 or :tf32 for products in those.
    Of batched_gemm: BATCHxMxNxK, then :NT, :TN or :TT.

    Of conv2d: BATCHxCHANNELSxHEIGHTxWIDTH:FILTERS, then k KERNEL, s STRIDE,
    p PADDING, d DILATION, g GROUPS: 16x96x27x27:256k5s1p2.

    Of lstm_cell: BATCHxINPUTxHIDDENxSTEPS.  Of any: FIELD=VALUE,...

    Each number may be a range: 256..2048 doubles, '256..4096*4' quadruples,
    100..500+100 adds.

    The sets are DeepBench's problems in float32: of training, of inference
    on a server and on a device.  DeepBench stores by columns, so its M and N
    change places; it skips an LSTM's input product, so the input is 1 wide.

    Example: kernelprof bench gemm 256..1024x512x512 512x512x512:NT
    """
    options = None
    if not cli_measure.carries_on(context, output):
        asked = runner.choose(
            engines=engine,
            threads=threads,
            cpus=cpus,
            modes=mode,
            budget=budget,
            seed=seed,
            variables=env or [],
            cache=cache,
            processes=processes,
            device=device,
        )
        wanted = _wanted(primitive, [*(size or []), *(fields or [])], file, set_)
        asked = replace(asked, keeps_budget=budget is not None)
        options, left_out = chosen(asked, wanted, cli_measure.machine_ceilings(asked, force))
        _tell_left_out(left_out, options)
    cli_measure.measure(options, output, force)


def _wanted(
    kind: str | None, sizes: Iterable[str], file: Path | None, set_name: str | None
) -> list[Primitive]:
    """All primitives that were asked for, in one way or another."""
    found: list[Primitive] = []
    mistakes: list[UsageError] = []
    if kind is not None:
        known_kind(kind)
        texts = [("", text) for text in sizes]
        texts += read_file(kind, file) if file is not None else []
        found, mistakes = sorted_out(kind, texts)
    elif file is not None or set_name is None:
        raise UsageError(f"name a primitive; known: {', '.join(PRIMITIVES)}")
    if set_name is not None:
        problems = problem_set(set_name, kind)
        _tell_unknown(set_name, problems.left_out)
        found += problems.primitives
    if not found and not mistakes:
        raise UsageError(
            f"name a size of {kind}, such as {example(str(kind))}, a --file or a --set"
        )
    last = None if found else mistakes.pop()  # what is said last where nothing can be measured
    for mistake in mistakes:
        err.print(f"left out: {mistake}", markup=False, soft_wrap=True)
    if last is not None:
        raise last
    return found


def _tell_unknown(set_name: str, left_out: Mapping[str, int]) -> None:
    if left_out:
        listed = ", ".join(counted(count, f"{what} problem") for what, count in left_out.items())
        err.print(
            f"left out of {set_name}: {listed}, as kernelprof has no such primitive",
            soft_wrap=True,
        )


def _tell_left_out(left_out: list[Primitive], options: Options) -> None:
    if left_out:
        names = ", ".join(alone(primitive).name for primitive in left_out)
        everything = counted(len(left_out) + len(options.primitives), "size")
        err.print(
            f"the budget has room for {len(options.primitives)} of {everything}, "
            f"spread over the range of their work; left out: {names}",
            soft_wrap=True,
        )
