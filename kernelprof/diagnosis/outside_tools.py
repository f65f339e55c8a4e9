"""Tools that look at a worker from outside: they are run, and what stops them is told in a line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from kernelprof.errors import KernelprofError

PREFIX = "Error:"


def run_tool(
    name: str, command: Sequence[str], timeout_s: float, pass_fds: Sequence[int] = ()
) -> str:
    """Run a tool to its end; what it wrote to stderr, in English.

    Raises:
        KernelprofError: it cannot be run, took too long, or failed.
    """
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            pass_fds=pass_fds,
            check=False,
        )
    except OSError as error:
        raise KernelprofError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise KernelprofError(f"{name} did not end within {timeout_s:.0f} s") from None
    if done.returncode:
        raise KernelprofError(f"{name}: {_reason(done.stderr) or f'status {done.returncode}'}")
    return done.stderr


def _reason(stderr: str) -> str:
    """The one line of an error that tells most: the first from where it is called one."""
    lines = [line.strip() for line in stderr.splitlines()]
    first = next((n for n, line in enumerate(lines) if line.startswith(PREFIX)), 0)
    told = (line.removeprefix(PREFIX).strip() for line in lines[first:])
    return next((line for line in told if line), "")
