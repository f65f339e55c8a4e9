"""The command line's ``nsys``: record a run under it, and take in what it saw."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import typer

from kernelprof.cli_measure import JUDGE_ONLY, progress
from kernelprof.console import err, out
from kernelprof.errors import UsageError
from kernelprof.nsys import tool
from kernelprof.nsys.record import EXPORT, REPORT, Recording, Wider, profile, profile_words
from kernelprof.runfile import RunFile
from kernelprof.units import counted, size

app = typer.Typer(help="Under NVIDIA's nsys: record a run, and read back what nsys saw.")
OF_RUN = {"ignore_unknown_options": True, "allow_extra_args": True}
METAVAR = "[OPTIONS] [WORDS OF run]..."
STOPPED = 130

Gpu = Annotated[bool, typer.Option("--gpu", help="Also CUDA, cuDNN and cuBLAS.")]
Osrt = Annotated[bool, typer.Option("--osrt", help="Also calls of the system's libraries.")]
Sampling = Annotated[bool, typer.Option("--sampling", help="Also sampled stacks.")]
Export = Annotated[Path, typer.Argument(metavar="EXPORT", help="An sqlite export of nsys.")]


class _Command(Protocol):
    """What typer makes of a function."""

    def make_context(self, name: str, args: list[str], **more: Any) -> typer.Context:
        """Parse words."""

    def invoke(self, context: typer.Context) -> Any:
        """Call it."""


@app.command("record", context_settings=OF_RUN, options_metavar=METAVAR)
def record(
    context: typer.Context, gpu: Gpu = False, osrt: Osrt = False, sampling: Sampling = False
) -> None:
    """Measure as `run` does, under nsys; all flags of `run` are taken.

    Only kernelprof's ranges are captured, which costs least; the flags below widen
    it, and cost time within what is measured.  nsys's report and an sqlite export
    of it lie beside the run file.  Ctrl-C stops the run, and keeps what was captured.

    Example: kernelprof nsys record --gpu alexnet-s --engine torch -o a.kprof
    """
    tool.require()
    words, path = _judged(context)
    _require_folder(path.parent)
    workers = _workers(path)
    base = base_of(path)
    try:
        recording = profile(_run(words), base, Wider(gpu, osrt, sampling))
    except KeyboardInterrupt:
        err.print("Stopped before nsys had written what it captured.")
        raise SystemExit(STOPPED) from None
    if not path.exists():  # the run has said why
        _forget(recording)
        raise SystemExit(recording.status or 1)
    _tell(recording, path, _workers(path)[len(workers) :])
    raise SystemExit(recording.status)


@app.command("command", context_settings=OF_RUN, options_metavar=METAVAR)
def command(
    context: typer.Context, gpu: Gpu = False, osrt: Osrt = False, sampling: Sampling = False
) -> None:
    """Print what `record` runs, for a cluster's launcher or a container.

    nsys need not be installed here.  Afterwards `kernelprof nsys import` reads the
    export.

    Example: kernelprof nsys command fcn-r --engine torch -o a.kprof >> job.sh
    """
    words, path = _parsed(context)
    nsys = tool.require() if tool.find() else None
    wider = Wider(gpu, osrt, sampling)
    line = [*profile_words(nsys, _without_ending(path), wider), *_run(words)]
    sys.stdout.write(shlex.join(line) + "\n")


@app.command("import")
def import_(
    export: Export,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Its run file; of another program a new one.")
    ],
) -> None:
    """Read an export back: what each layer's ranges took, and the GPU work in them.

    The export of a kernelprof run goes into that run.  That of any other program that
    emits NVTX ranges goes into a new file.  Environment and processes stay out.

    Example: kernelprof nsys import a.sqlite a.kprof
    """
    from kernelprof.analysis import results  # slow to import, as is what reads an export
    from kernelprof.nsys.importing import import_export
    from kernelprof.reports.nsys import trace_lines

    with progress() as step:
        trace = import_export(export, run, step)
    with closing(RunFile.open(run)) as file:
        processes = results(file).processes
    for line in trace_lines(trace, processes, out.width):
        out.print(line, soft_wrap=True)
    out.print(f"It is in {run}; `kernelprof report {run}` shows it again.", soft_wrap=True)


@app.command("scrub")
def scrub_(
    export: Export,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write.")],
) -> None:
    """Make an export fit to share: ranges, launches and GPU work, and nothing else.

    Left out are the environment, processes, files, host, user and serial numbers of
    the machine, and whatever text no range or kernel is named after.

    Example: kernelprof nsys scrub a.sqlite -o shared.sqlite
    """
    from kernelprof.nsys.scrub import scrub  # slow to import

    scrubbed = scrub(export, output)
    rows = counted(sum(scrubbed.kept.values()), "row")
    tables = counted(len(scrubbed.left_out), "table")
    err.print(f"wrote {output}: {rows}; nothing of {tables}", soft_wrap=True)


@app.command("install")
def install_() -> None:
    """Fetch nsys from Debian's component non-free, as any user, unless it is there.

    It goes into kernelprof's own folder and takes about 0.3 GB; nothing else changes.

    Example: kernelprof nsys install
    """
    from kernelprof.nsys.debian_package import install

    found = tool.find()
    if found is not None and found != tool.program_in(tool.folder()):
        nsys, how = tool.identify(found), "is there"
    else:
        with err.status("nsys") as status:
            nsys, how = install(tool.folder(), status.update), "installed"
    out.print(f"nsys {nsys.version}: {how}, {nsys.path}", soft_wrap=True)


def _parsed(context: typer.Context) -> tuple[list[str], Path]:
    """The words for ``run``, as its own parser takes them, and the run file that they name."""
    path = _context_of_run(context)[1].params["output"]
    if path is not None:
        return context.args, path
    path = Path(f"kernelprof-{datetime.now():%Y%m%d-%H%M%S}.kprof")
    return [*context.args, "-o", str(path)], path


def _judged(context: typer.Context) -> tuple[list[str], Path]:
    """The same of words that ``run`` would measure by: engines and networks are there.

    Raises:
        UsageError: they ask for what cannot be.
    """
    run, own = _context_of_run(context, obj=JUDGE_ONLY)
    run.invoke(own)
    return _parsed(context)


def _context_of_run(context: typer.Context, **more: Any) -> tuple[_Command, typer.Context]:
    root = context.find_root()
    run = cast(_Command, cast(Any, root.command).commands["run"])
    return run, run.make_context("run", [*context.args], parent=root, **more)


def _run(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "kernelprof", "run", *words]


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name a run file in one that is there")


def _workers(path: Path) -> list[tuple[str, Any]]:
    """Engines and facts of the workers that a run file holds so far."""
    if not path.exists():
        return []
    with closing(RunFile.open(path)) as file:
        return [(engine, facts) for engine, _, facts in file.workers()]


def _without_ending(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".kprof" else path


def base_of(path: Path) -> Path:
    """What nsys's files are called, without their endings; a run that goes on adds some."""
    base = _without_ending(path)
    if not path.exists():
        return base
    number = 1
    taken = base
    while any(Path(f"{taken}{ending}").exists() for ending in (REPORT, EXPORT)):
        number += 1
        taken = base.with_name(f"{base.name}-{number}")
    return taken


def _forget(recording: Recording) -> None:
    for path in (recording.report, recording.export):
        path.unlink(missing_ok=True)


def _tell(recording: Recording, run: Path, workers: list[tuple[str, Any]]) -> None:
    """Say what was captured; where nothing was, end with a status that tells of it."""
    from kernelprof.nsys.captured import captured

    export = recording.export
    arrived = captured(export, workers)
    missing = [f"{engine}: {why}" for engine, why in sorted(arrived.missing.items())]
    if not arrived.ranges:
        if not workers:
            _forget(recording)
        why = "; ".join(missing) or "no worker was started"
        err.print(f"nsys captured no range of kernelprof in {export}: {why}", soft_wrap=True)
        raise SystemExit(recording.status or 1)
    sizes = [f"{path} ({size(path.stat().st_size)})" for path in (recording.report, export)]
    engines = ", ".join(f"{engine} {number:,}" for engine, number in arrived.by_engine.items())
    lines = [
        "",
        f"nsys {arrived.product} captured {counted(arrived.ranges, 'range')}: {engines}.",
        f"They are in {' and '.join(sizes)}.",
        "The export holds this machine's environment and processes; "
        f"`kernelprof nsys scrub {export} -o shared.sqlite` makes it fit to share.",
        f"Next: kernelprof nsys import {export} {run}",
    ]
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)
    for line in missing:
        err.print(f"no ranges of some workers of {line}", markup=False, soft_wrap=True)
