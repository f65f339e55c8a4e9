"""The command line's ``engines``: list, install, check, remove."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress, TaskID, TextColumn

from kernelprof.console import err, out
from kernelprof.enginecheck import check
from kernelprof.engines import (
    ENGINES,
    GPU_ONLY,
    computing_on,
    configured,
    environment,
    installed,
    known,
)
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.gpu.devices import gpus
from kernelprof.install import install, remove
from kernelprof.machine import usable_cpus
from kernelprof.probes.device import CPU
from kernelprof.reports.checks import checks_table
from kernelprof.runner import card_of

app = typer.Typer(help="The engines: what is installed, and how to get the rest.")


@app.command("list")
def list_() -> None:
    """List the engines, and where each one's interpreter is.

    Example: kernelprof engines list
    """
    own = configured()
    for name in known():
        found = environment(name)
        where = found.where if found else f"not installed: `kernelprof engines install {name}`"
        title = ENGINES[name].title if name in ENGINES else "yours"
        note = " (engines.toml)" if name in own else ""
        out.print(f"{name:<12} {title:<36} {where}{note}", soft_wrap=True)


@app.command("install")
def install_(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="See `engines list`.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every engine that can run here.")] = False,
) -> None:
    """Make the environments of engines; what is there already stays.

    Example: kernelprof engines install --all
    """
    chosen = _of_this_machine() if every else list(dict.fromkeys(names or []))
    if not chosen:
        raise UsageError("name the engines to install, or say --all; known: " + ", ".join(known()))
    for name in chosen:
        environment(name)  # every name is checked before anything is made
    failed = [name for name, error in _install_together(chosen) if error is not None]
    if failed:
        raise KernelprofError(f"not installed: {', '.join(failed)}; the reasons stand above")


def _of_this_machine() -> list[str]:
    """The engines that kernelprof knows, without those for a GPU where there is none."""
    return [name for name in ENGINES if name not in GPU_ONLY or gpus()]


def _install_together(names: list[str]) -> Iterator[tuple[str, KernelprofError | None]]:
    """Make environments at the same time: most of the work is waiting for the network."""
    with (
        Progress(TextColumn("{task.description}"), console=err, transient=True) as progress,
        ThreadPoolExecutor(len(names)) as pool,
    ):
        started = {}
        for name in names:
            task = progress.add_task(f"{name}: waiting")
            tell = partial(_tell, progress, task, name)
            started[pool.submit(install, name, tell)] = name, task
        for done in as_completed(started):
            name, task = started[done]
            progress.remove_task(task)
            error = done.exception()
            if isinstance(error, KernelprofError):
                err.print(f"{name}: {error}", markup=False, soft_wrap=True)
                yield name, error
                continue
            found = environment(name)
            how = "installed" if done.result() else "is there"
            out.print(f"{name}: {how}, {found.where if found else ''}", soft_wrap=True)
            yield name, None


def _tell(progress: Progress, task: TaskID, name: str, what: str) -> None:
    progress.update(task, description=escape(f"{name}: {what}"))


@app.command("remove")
def remove_(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="See `engines list`.")],
) -> None:
    """Delete the environments of engines.

    Example: kernelprof engines remove tensorflow
    """
    for name in names:
        there = remove(name)
        out.print(f"{name}: {'removed' if there else 'was not installed'}")


@app.command("check")
def check_(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all installed.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or a GPU: cuda:0.")] = CPU,
) -> None:
    """Start each engine and run every primitive once against the oracle.

    Example: kernelprof engines check torch --device cuda:0
    """
    card_of(device)
    chosen = names or computing_on(device)
    environments = {name: environment(name) for name in chosen}
    for name, found in environments.items():
        if found is None:
            raise UsageError(f"not installed: {name}; run `kernelprof engines install {name}`")
    checks = []
    for name, found in environments.items():
        assert found is not None
        with err.status(f"{name}: checking"):
            checks.append(check(found, usable_cpus()[:1], device))
    out.print(checks_table(checks))
    for failed in checks:
        for what, why in failed.failures.items():
            err.print(f"{failed.engine}: {what}: {why}", markup=False, soft_wrap=True)
    if not names:
        tell_missing()
    if not all(one.works for one in checks):
        raise SystemExit(1)


def tell_missing() -> None:
    """Name the engines that are not installed, and how to get them."""
    missing = [name for name in _of_this_machine() if name not in installed()]
    if missing:
        err.print(
            f"not installed: {', '.join(missing)}; "
            f"`kernelprof engines install {' '.join(missing)}`",
            soft_wrap=True,
        )
