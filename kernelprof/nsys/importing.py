"""Take an export of nsys into a run: what its ranges took, and what GPUs did for them.

The export of a kernelprof run goes into that run: its ranges of the domain ``kernelprof`` are held
against the samples.  That of another program goes into a run file of its own, with all its ranges.
"""

from __future__ import annotations

import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kernelprof import __version__
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.nsys.attribution import launched, traced
from kernelprof.nsys.columns import Reader, Tell
from kernelprof.nsys.export_file import ExportFile
from kernelprof.nsys.recorded import by_path, recorded
from kernelprof.nsys.samples import holders
from kernelprof.nsys.summary import Told, summary
from kernelprof.nsys.timeline import Timeline
from kernelprof.plan import Options
from kernelprof.probes.ranges import DOMAIN
from kernelprof.runfile import RunFile
from kernelprof.trace import Trace
from kernelprof.trace_store import TraceStore

NOTHING_MEASURED = Options(
    networks=(),
    engines=(),
    placements=(),
    modes=(),
    batches=(),
    quick=False,
    budget_s=0.0,
)


def import_export(export: Path, run: Path, tell: Tell = lambda what, share: None) -> Trace:
    """Take an export into a run file, all of it or nothing.

    Args:
        export: what ``nsys export --type sqlite`` wrote.
        run: the file that was recorded, or for another program's export a new one, or one that
            holds nothing but imports.
        tell: is told what is being done, and how much of it is.

    Returns:
        What the run now holds of it.

    Raises:
        UsageError: either file cannot be used, or they do not belong together.
        KernelprofError: the run cannot be written to.
    """
    with ExportFile.open(export) as opened:
        if DOMAIN in opened.domains.values():
            return _into_its_run(opened, run, tell)
        return _into_a_run_of_imports(opened, run, tell)


def _into_its_run(export: ExportFile, path: Path, tell: Tell) -> Trace:
    source = export.database.path
    if not path.exists():
        raise UsageError(
            f"{path}: no such file; {source} is of a kernelprof run, so import it into the file "
            "that was recorded with it"
        )
    with closing(RunFile.open(path)) as run:
        reader = Reader(export, tell)
        own = recorded(export, reader, run)
        found = traced(export, own.ranges, all_told=True)
        held = holders(run, own.workers, by_path(reader, found))
        if not held:
            raise UsageError(
                f"no sample of {path} lies in a range of {source}: it is of another run; import "
                "it into the file that was recorded with it"
            )
        done = launched(reader)
        told = Told(held, own.range_cost_ns, own.left_out)
        trace = summary(export, reader, found, done, told)
        _add(run, trace, Timeline(export, reader, found, done, own.clocks, tell))
    return trace


def _into_a_run_of_imports(export: ExportFile, path: Path, tell: Tell) -> Trace:
    source = export.database.path
    if path.exists():
        with closing(RunFile.open(path)) as run:
            if run.cases() or run.workers():
                raise UsageError(
                    f"{source} holds no ranges of kernelprof, and {path} is a measured run; name "
                    "a new file to import it into"
                )
    reader = Reader(export, tell)
    found = traced(export, reader.ranges(lambda origin: True))
    if not len(found.nest):
        raise UsageError(
            f"{source} holds no NVTX ranges; record a program that emits some with "
            "`nsys profile --trace cuda,nvtx`"
        )
    done = launched(reader)
    trace = summary(export, reader, found, done, Told())
    with _opened_or_new(path) as run:
        _add(run, trace, Timeline(export, reader, found, done, {}, tell))
    return trace


@contextmanager
def _opened_or_new(path: Path) -> Iterator[RunFile]:
    """A run of imports; a new one is gone again if an error is raised."""
    is_new = not path.exists()
    meta = {
        "kernelprof": __version__,
        "command": shlex.join(["kernelprof", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {},
        "options": NOTHING_MEASURED.to_json(),
    }
    with closing(RunFile.create(path, meta) if is_new else RunFile.open(path)) as run:
        try:
            yield run
        except BaseException:
            if is_new:
                run.close()  # and with it go the files beside it
                path.unlink()
            raise


def _add(run: RunFile, trace: Trace, timeline: Timeline) -> None:
    """Write an import into a run.

    Raises:
        KernelprofError: that failed; the run is as it was.
    """
    try:
        TraceStore(run).add(trace, timeline.ranges(), timeline.operations())
    except sqlite3.Error as error:
        raise KernelprofError(
            f"cannot write {run.path}: {error}; nothing of the import is in it"
        ) from error
