"""Run a study from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from kernelprof.console import err
from kernelprof.errors import KernelprofError


def run(main: Callable[..., None]) -> None:
    """Run it with the arguments of the command line; what is wrong is said in one sentence."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except KernelprofError as error:
        err.print(f"{main.__module__}: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
