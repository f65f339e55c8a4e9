"""The command line's ``compare``: what became slower from one run to another."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import traceback
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from kernelprof.compare.comparing import compare
from kernelprof.compare.results import RunComparison
from kernelprof.console import err, out
from kernelprof.errors import KernelprofError, UsageError
from kernelprof.reports.compare import COMPARISON_FORMATS, render
from kernelprof.runfile import RunFile

FAILED = 2


def compare_command(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A run file: the baseline.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="The run that is judged.")],
    threshold: Annotated[
        str | None, typer.Option(help="A slow-down up to this is none: 2%.")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Every layer, not only those that changed.")
    ] = False,
    format_: Annotated[str, typer.Option("--format", help="text, md, json or github.")] = "text",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: stdout.")] = None,
) -> None:
    """Tell what became slower from one run to another: layers, and whole networks.

    Any run file is a baseline.  Take both runs alike, and each with several
    --processes: these tell chance from change.  Exit status 0: same or faster,
    1: slower, 2: an error, 3: nothing comparable was measured.

    Example: kernelprof compare main.kprof branch.kprof --threshold 2%
    """
    if format_ not in COMPARISON_FORMATS:
        known = ", ".join(COMPARISON_FORMATS)
        raise UsageError(f"unknown format {format_!r}; known: {known}")
    allowed = _share(threshold) if threshold is not None else 0.0
    found = _compared(before, after, allowed)
    if format_ == "text" and output is None:
        render(found, out, layers)
    else:
        _write(COMPARISON_FORMATS[format_](found, layers), output)
    raise SystemExit(found.exit_status)


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if not match:
        raise UsageError(f"--threshold {text}: a percentage such as 2% is needed")
    return float(match[1]) / 100


def _compared(before: Path, after: Path, threshold: float) -> RunComparison:
    """Compare two files.  Whatever goes wrong must not look like a slow-down to a script.

    Raises:
        UsageError: one of them cannot be read.
    """
    try:
        with closing(RunFile.open(before)) as first, closing(RunFile.open(after)) as second:
            return compare(first, second, threshold)
    except UsageError:
        raise
    except KernelprofError as error:
        raise UsageError(str(error)) from error
    except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
        raise UsageError(f"{before} or {after} is damaged: {error}; take other files") from error
    except Exception:  # Python would end with 1, which says slower
        traceback.print_exc()
        raise SystemExit(FAILED) from None


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error
    err.print(f"wrote {output}", soft_wrap=True)
